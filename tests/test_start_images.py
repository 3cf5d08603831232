"""A run is not judged by images that the weights it starts from were trained on."""

import hashlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.data.identity import PARTS
from lmsm_cli.runs.record import find_runs
from tests.conftest import noise, save

NET = [
    "--model",
    "paper-mnist",
    "--image-size",
    "8",
    "--epochs",
    "1",
    "--batch-size",
    "8",
    "--threads",
    "1",
]
NET += ["--device", "cpu", "--precision", "fp32", "--layout", "channels-last", "--quiet"]


def fill(folder, count, *, start=0):
    """Write so many images of a class, and two thirds of that of another; no two are alike."""
    for label, name in enumerate(["ant", "bee"]):
        for number in range(start, start + (count if label == 0 else 2 * count // 3)):
            save(folder / name / f"{number:03}.png", noise(1000 * label + number, (8, 8, 3)))


def train(out, *more, code=0):
    """Train a small net; return its run folder, None where none is made."""
    assert main(["train", *NET, "--out", str(out), *more]) == code
    return next((config.parent for config in out.glob("*/config.yaml")), None)


def digests_on_disk(run, part):
    """Return the digests of the files that a run's images.npz names for a part, from the files."""
    with np.load(run / "images.npz") as images:
        names = images["name"][images["split"] == PARTS.index(part)].tolist()
    files = [Path("photos") / name.decode() for name in names]
    return {hashlib.blake2b(one.read_bytes(), digest_size=16).digest() for one in files}


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """Return a folder with photos, of which a fifth becomes the test, and a run on them."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        fill(Path("photos"), 30)
        train(folder / "first", "--dataset", "photos")
    return folder


@pytest.fixture
def first(trained_once, tmp_path, monkeypatch):
    """Return that run, beside its photos in a folder of the test's own."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    (run,) = find_runs([tmp_path / "first"])
    return run


def test_a_start_on_the_same_images_is_fine_and_known(first, tmp_path, capsys):
    """Its test images are new to the start; images.npz says what the start has seen."""
    run = train(tmp_path / "second", "--dataset", "photos", "--pretrained", str(first))
    assert "was trained on" not in capsys.readouterr().err
    with np.load(run / "images.npz") as images:
        seen = {row.tobytes() for row in images["seen_before"]}
    assert seen == digests_on_disk(first, "training")


def test_copies_in_the_data_are_no_fault_of_the_start(tmp_path, monkeypatch, capsys):
    """They are on both sides of the run itself, which is said of the data."""
    monkeypatch.chdir(tmp_path)
    fill(Path("photos"), 30)
    for number in range(15):
        shutil.copy(f"photos/ant/{number:03}.png", f"photos/bee/copy{number:03}.png")
    run = train(tmp_path / "first", "--dataset", "photos")
    assert digests_on_disk(run, "training") & digests_on_disk(run, "test")
    capsys.readouterr()
    given = ["--dataset", "photos", "--pretrained", str(run)]
    for name, more in (("second", []), ("third", ["--images-per-class", "5"])):
        later = train(tmp_path / name, *given, *more)
        told = " ".join(capsys.readouterr().err.split())
        assert not re.search(r"to judge this run: \d+ of \d+ test images", told)
        if name == "second":  # what it was trained on before are its own images
            given[-1] = str(later)


def test_images_added_since_mix_training_images_into_the_test(first, tmp_path, capsys):
    """The counts are those of the files, whatever is trained on the start; no run is made."""
    trained = digests_on_disk(first, "training")
    fill(Path("photos"), 9, start=30)
    plain = train(tmp_path / "plain", "--dataset", "photos")
    tested, held_out = (digests_on_disk(plain, part) for part in ("test", "validation"))
    assert tested & trained
    given = ["--dataset", "photos", "--pretrained", str(first)]
    frozen = ["--freeze", "features"]
    for more in ([], frozen, [*frozen, "--post-hoc", "adjust:1"]):
        capsys.readouterr()
        assert train(tmp_path / "second", *given, *more, code=3) is None
        told = " ".join(capsys.readouterr().err.split())
        assert f"{len(tested & trained)} of {len(tested)} test images" in told
        assert f"{len(held_out & trained)} of {len(held_out)} validation images" in told


def test_folds_test_each_image_that_the_start_knows(first, tmp_path, capsys):
    """They are refused, and said to be what is in the way."""
    folds = ["--folds", "3", "--fold", "0"]
    given = ["--dataset", "photos", "--pretrained", str(first), *folds]
    assert train(tmp_path / "second", *given, code=3) is None
    assert "folds test each image once: take none" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--trials", "1"]])
def test_no_run_of_a_sweep_trains_where_a_later_one_is_refused(first, more, tmp_path, capsys):
    """The second of two starts was trained on images that are test images since some were added."""
    fill(Path("photos"), 9, start=30)
    other = train(tmp_path / "other", "--dataset", "photos")
    assert digests_on_disk(first, "training") & digests_on_disk(other, "test")
    given = [*NET, "--dataset", "photos", "--grid", f"pretrained={other},{first}", *more]
    capsys.readouterr()
    assert main(["sweep", *given, "--out", str(tmp_path / "sweep")]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"{first} was trained on images that are to judge this run" in told
    assert not (tmp_path / "sweep").exists()


def test_other_last_layers_are_not_tested_on_images_of_the_net(first, tmp_path, capsys):
    """`retrain` on a folder that grew is refused, whatever the head."""
    fill(Path("photos"), 9, start=30)
    heads = ["--head", "softmax", "--head", "adjust:1", "--epochs", "1"]
    given = [*heads, "--out", str(tmp_path / "heads"), "--quiet"]
    assert main(["retrain", str(first), *given]) == 3
    assert "take away those that were added since" in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "heads").glob("*/config.yaml"))


def test_the_start_of_a_start_is_known_too(first, tmp_path, capsys):
    """What it was trained on is no test for the third run, and flatters `eval` of the second."""
    shutil.move("photos", "old")
    fill(Path("photos"), 30, start=500)
    second = train(tmp_path / "second", "--dataset", "photos", "--pretrained", str(first))
    shutil.move("photos", "new")
    shutil.move("old", "photos")
    given = ["--dataset", "photos", "--pretrained", str(second), "--folds", "3", "--fold", "0"]
    assert train(tmp_path / "third", *given, code=3) is None
    capsys.readouterr()
    assert main(["eval", str(second), "--images", "photos", "--quiet"]) == 0
    seen = len(digests_on_disk(first, "training"))
    told = " ".join(capsys.readouterr().err.split())
    assert f"{seen} images of 50 are of those that the run was trained on" in told


def test_an_image_that_judged_a_run_in_between_is_not_forgotten(tmp_path, monkeypatch, capsys):
    """The first of three was trained on it, the second validated by it, the third tests on it."""
    monkeypatch.chdir(tmp_path)
    for root, train_start, val_start, test_start in (
        ("one", 0, None, 100),
        ("two", 200, 0, 300),
        ("three", 400, 300, 0),
    ):
        fill(Path(root, "train"), 9, start=train_start)
        if val_start is not None:
            fill(Path(root, "val"), 6, start=val_start)
        fill(Path(root, "test"), 6, start=test_start)
    first = train(tmp_path / "first", "--dataset", "one", "--validation", "0")
    second = train(tmp_path / "second", "--dataset", "two", "--pretrained", str(first))
    assert "10 of 10 validation images" in " ".join(capsys.readouterr().err.split())
    given = ["--dataset", "three", "--pretrained", str(second)]
    assert train(tmp_path / "third", *given, code=3) is None
    assert "to judge this run: 10 of 10 test images" in " ".join(capsys.readouterr().err.split())


@pytest.fixture
def with_test(tmp_path, monkeypatch):
    """Return a run without validation on photos with a test of their own."""
    monkeypatch.chdir(tmp_path)
    fill(Path("photos/train"), 30)
    fill(Path("photos/test"), 5, start=100)
    return train(tmp_path / "first", "--dataset", "photos", "--validation", "0")


def test_validation_images_alone_are_a_warning(with_test, tmp_path, capsys):
    """Of a last layer too: its test is that of new images."""
    given = ["--dataset", "photos", "--pretrained", str(with_test)]
    for name, more in (("second", []), ("third", ["--freeze", "features"])):
        assert train(tmp_path / name, *given, *more)
        told = " ".join(capsys.readouterr().err.split())
        assert "5 of 5 validation images" in told
        assert "test images" not in told


def test_no_tau_is_chosen_by_images_that_the_net_knows(first, tmp_path, capsys):
    """A larger part is held out for it than the net was trained without; a given tau is fine."""
    given = ["--dataset", "photos", "--pretrained", str(first), "--validation", "0.3"]
    given += ["--freeze", "features", "--post-hoc"]
    assert train(tmp_path / "second", *given, "adjust", code=3) is None
    told = " ".join(capsys.readouterr().err.split())
    assert "tau is chosen by them" in told
    assert "or a tau, as in adjust:1" in told
    assert train(tmp_path / "third", *given, "adjust:1")


def test_a_damaged_record_of_the_start_is_told_with_the_way_out(first, tmp_path, capsys):
    """The weights can be had without it."""
    (first / "images.npz").write_bytes(b"junk")
    given = ["--dataset", "photos", "--pretrained", str(first)]
    assert train(tmp_path / "second", *given, code=4) is None
    assert "without that file the weights alone are" in " ".join(capsys.readouterr().err.split())
    (first / "images.npz").unlink()
    assert train(tmp_path / "second", *given)


UNKNOWN = "was trained on images that are tested here is not known"


def alone(run, path):
    """Return a copy of a run's checkpoint that lies alone."""
    return shutil.copy(run / "checkpoint.pt", path)


def log_of(run):
    """Return the warnings in a run's train.log."""
    lines = (run / "train.log").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.startswith("WARNING") and "is not known" in line]


def warnings_in(capsys):
    """Return how often the screen says that something is not known, and all words on it."""
    told = " ".join(capsys.readouterr().err.split())
    return told.count("is not known"), told


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_start_without_its_images_is_a_warning(first, is_alone, tmp_path, capsys):
    """A checkpoint that lies alone, or whose images.npz is gone, does not tell what it saw.

    That is said with --quiet too, once, and stands in train.log.
    """
    start = alone(first, tmp_path / "alone.pt") if is_alone else first
    (first / "images.npz").unlink()
    given = ["--dataset", "photos", "--pretrained", str(start), "--epochs", "2"]
    run = train(tmp_path / "second", *given)
    number, told = warnings_in(capsys)
    assert (number, len(log_of(run))) == (1, 1)
    assert f"whether {start} {UNKNOWN}: images.npz is not beside" in told


def test_what_a_start_itself_began_with_may_be_unknown_too(first, tmp_path, capsys):
    """The second run's own images are known, and not those of the checkpoint that it began with."""
    lone = alone(first, tmp_path / "alone.pt")
    second = train(tmp_path / "second", "--dataset", "photos", "--pretrained", str(lone))
    capsys.readouterr()
    third = train(tmp_path / "third", "--dataset", "photos", "--pretrained", str(second))
    number, told = warnings_in(capsys)
    assert (number, len(log_of(third))) == (2, 1)
    assert f"whether {second} {UNKNOWN}: it started from {lone}" in told


def test_weights_of_no_run_tell_nothing_of_images(first, tmp_path, capsys):
    """A file of weights alone, as others publish them, was no run: of it nothing is said."""
    lone = alone(first, tmp_path / "alone.pt")
    second = train(tmp_path / "second", "--dataset", "photos", "--pretrained", str(lone))
    torch.save(torch.load(lone, weights_only=True)["model"], lone)
    capsys.readouterr()
    train(tmp_path / "third", "--dataset", "photos", "--pretrained", str(second))
    assert warnings_in(capsys)[0] == 0


def test_a_sweep_says_once_what_is_not_known_of_its_starts(first, tmp_path, capsys):
    """Four runs on two starts are one sentence; each run has that of its start in its log."""
    other = train(tmp_path / "other", "--dataset", "photos", "--seed", "1")
    starts = [alone(first, tmp_path / "a.pt"), alone(other, tmp_path / "b.pt")]
    grid = ["--grid", f"pretrained={starts[0]},{starts[1]}", "--seeds", "2"]
    given = ["sweep", *NET, "--dataset", "photos", *grid, "--out", str(tmp_path / "sweep")]
    for more in (["--dry-run"], []):
        assert main([*given, *more]) == 0
        number, told = warnings_in(capsys)
        assert number == 1
        assert f"whether {starts[0]}, {starts[1]} were trained on images" in told
    logs = [log_of(run) for run in find_runs([tmp_path / "sweep"])]
    assert [len(lines) for lines in logs] == [1] * 4
    assert sum(f"whether {starts[0]} {UNKNOWN}" in lines[0] for lines in logs) == 2


def test_other_last_layers_say_once_that_their_net_is_not_known(first, tmp_path, capsys):
    """Of two heads, one of which takes no training."""
    (first / "images.npz").unlink()
    heads = ["--head", "softmax", "--head", "adjust:1", "--epochs", "1", "--quiet"]
    assert main(["retrain", str(first), *heads, "--out", str(tmp_path / "heads")]) == 0
    number, told = warnings_in(capsys)
    assert number == 1
    assert f"whether {first} {UNKNOWN}" in told
    assert [len(log_of(run)) for run in find_runs([tmp_path / "heads"])] == [1, 1]
