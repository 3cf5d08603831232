"""Trainings of the last layer alone, on features that are worked out once."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from lmsm_cli import build_head
from lmsm_cli.commands.app import main
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.start import new_classifier
from lmsm_cli.runtime.device import choose_runtime
from lmsm_cli.training import features
from tests.conftest import image_set

DIGITS = ["--dataset", "digits", "--imbalance", "exp", "--factor", "0.1", "--threads", "1"]
DIGITS += ["--device", "cpu", "--precision", "fp32", "--layout", "channels-last", "--quiet"]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """Return a run of two epochs, its net's start for others."""
    out = tmp_path_factory.mktemp("first")
    assert main(["train", *DIGITS, "--epochs", "2", "--out", str(out)]) == 0
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Give each test a cache of its own."""
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))


def retrained(first, out, *more):
    """Return the folder of a run that trains the last layer on the net of `first`."""
    words = ["train", *DIGITS, "--epochs", "3", "--pretrained", str(first), "--freeze", "features"]
    loss = [] if "--loss" in more else ["--loss", "lsoftmax:margin=2"]
    assert main([*words, *loss, "--out", str(out), *more]) == 0
    (folder,) = out.iterdir()
    return folder


def state(folder):
    """Return the weights of a run by name."""
    return checkpoint.load(folder / "checkpoint.pt").model


def kept(folder):
    """Return the scores of a run, less how long it took."""
    return json.loads((folder / "scores.json").read_text()) | {"training": None}


def test_the_last_layer_learns_and_all_else_stays(first, tmp_path):
    """Only the head's tensors differ, and a second run takes the features from the cache."""
    run = retrained(first, tmp_path / "a")
    before, after = state(first), state(run)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in after if not name.startswith("head.")}
    files = sorted((tmp_path / "cache" / "features").glob("*.npz"))
    assert len(files) == 3  # of the training, validation and test images
    times = [file.stat().st_mtime_ns for file in files]
    again = retrained(first, tmp_path / "b")
    assert kept(again) == kept(run)
    assert sorted((tmp_path / "cache" / "features").glob("*.npz")) == files
    assert [file.stat().st_mtime_ns for file in files] > times


def test_features_give_the_bits_of_a_training_on_images(first, tmp_path, monkeypatch):
    """The net looks at each batch again: the same weights but for rounding, the same classes."""
    quick = retrained(first, tmp_path / "quick")
    for module in ("loop", "finish"):
        monkeypatch.setattr(f"lmsm_cli.training.{module}.stay_the_same", lambda config: False)
    slow = retrained(first, tmp_path / "slow")
    for name, value in state(slow).items():
        assert torch.allclose(value, state(quick)[name], rtol=1e-4, atol=1e-5), name
    assert kept(slow)["accuracy"] == pytest.approx(kept(quick)["accuracy"], abs=0.004)


def test_a_damaged_file_of_the_cache_is_worked_out_anew(first, tmp_path):
    """One flipped bit fails the checksum: the scores are the same, and the file is whole again."""
    run = retrained(first, tmp_path / "a")
    files = sorted((tmp_path / "cache" / "features").glob("*.npz"))
    assert len(files) == 3
    whole = [file.read_bytes() for file in files]
    for file, content in zip(files, whole, strict=True):
        place = len(content) // 2
        file.write_bytes(content[:place] + bytes([content[place] ^ 64]) + content[place + 1 :])
    assert kept(retrained(first, tmp_path / "b")) == kept(run)
    for file, content in zip(files, whole, strict=True):
        with np.load(file) as found, np.load(tmp_path / "cache" / "features" / file.name) as same:
            assert np.array_equal(found["features"], same["features"])
        assert file.read_bytes()[:4] == content[:4]


def test_changed_images_take_no_kept_features(first, tmp_path):
    """Augmented images differ in each epoch: they go through the net, and nothing is kept."""
    retrained(first, tmp_path / "a", "--augment", "flip")
    assert not (tmp_path / "cache" / "features").exists()


def test_the_oldest_features_make_room(first, tmp_path, monkeypatch):
    """Where the cache is full, what was used last stays."""
    retrained(first, tmp_path / "a")
    folder = tmp_path / "cache" / "features"
    sizes = sum(file.stat().st_size for file in folder.glob("*.npz"))
    monkeypatch.setenv("LMSM_CACHE_SIZE", str(int(sizes / features._SHARE * 1.2)))
    other = retrained(first, tmp_path / "b", "--seed", "1", "--validation", "0")
    assert sum(file.stat().st_size for file in folder.glob("*.npz")) <= sizes * 1.2
    assert kept(other)["accuracy"] > 0.1


def test_features_are_kept_although_another_process_drops_some_meanwhile(tmp_path, monkeypatch):
    """Files that were listed are gone before their size is asked for, or before they make room."""
    folder, listed, lstat = tmp_path / "features", Path.glob, Path.lstat
    folder.mkdir(mode=0o700)
    for age, name in enumerate(("here", "gone later", "gone at once")):
        (folder / f"{name}.npz").write_bytes(bytes(1000))
        os.utime(folder / f"{name}.npz", (1000 - age, 1000 - age))

    def and_one_goes(place, pattern):
        found = list(listed(place, pattern))
        (folder / "gone at once.npz").unlink()
        return found

    def and_is_gone(path):
        info = lstat(path)
        if path.name == "gone later.npz":
            path.unlink()
        return info

    monkeypatch.setattr(Path, "glob", and_one_goes)
    monkeypatch.setattr(Path, "lstat", and_is_gone)
    monkeypatch.setenv("LMSM_CACHE_SIZE", str(int(1900 / features._SHARE)))
    features._write(folder / "new.npz", torch.ones(4, 8))
    assert sorted(path.name for path in folder.iterdir()) == ["here.npz", "new.npz"]


def started(first, freeze):
    """Return the classifier of a run that would start from `first`."""
    start = checkpoint.load(first / "checkpoint.pt")
    model, _ = new_classifier(
        start.config.model_copy(update={"pretrained": str(first), "freeze": freeze}),
        classes=start.classes,
        train_counts=start.train_counts,
        normalisation=(start.mean, start.std),
        image_size=start.image_shape[0],
    )
    return model


def test_a_last_layer_alone_starts_anew(first):
    """With its old class weights it would begin where the run had ended."""
    old = state(first)["head.weight"]
    assert torch.equal(started(first, "backbone").head.weight, old)
    assert not torch.equal(started(first, "features").head.weight, old)


def test_another_net_has_other_features(first):
    """One changed weight below the last layer is another file of the cache; one of that is not."""
    model, config = started(first, "features"), checkpoint.load(first / "checkpoint.pt").config
    images = image_set(torch.zeros(2, 8, 8, 1, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    runtime = choose_runtime("cpu", "fp32")

    def place():
        return features._path(images, model, config, runtime)

    with torch.no_grad():
        before = place()
        model.head.weight += 1
        assert place() == before
        next(model.backbone.parameters()).view(-1)[0] += 1
        assert place() != before


@pytest.mark.parametrize("loss", ["lws", "marc", "samn"])
def test_a_second_stage_goes_on_from_the_scores_of_the_run(first, tmp_path, loss):
    """The class weights stay, the few numbers move, and the run is restored and goes on."""
    extra = ["--head-weight-decay", "0", "--lr", "0.02"]
    run = retrained(first, tmp_path / "a", "--loss", loss, *extra)
    before, after = state(first), state(run)
    assert torch.equal(before["head.weight"], after["head.weight"])
    learned = {name for name in after if name not in before}
    assert learned
    assert len(learned) <= 2
    fresh = build_head(
        loss, 256, 10, torch.tensor(checkpoint.load(run / "checkpoint.pt").train_counts)
    )
    assert all(
        not torch.equal(fresh.state_dict()[name.removeprefix("head.")], after[name])
        for name in learned
    )
    assert main(["resume", str(run), "--epochs", "4", "--quiet"]) == 0
    assert kept(run)["epoch"] == 4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--loss", "lws"], "give --pretrained RUN --freeze features too"),
        (["--loss", "lws", "--pretrained", "RUN"], "give --pretrained RUN --freeze features too"),
        (
            ["--loss", "lws", "--pretrained", "RUN", "--freeze", "features", "--head-bias"],
            "take false",
        ),
    ],
)
def test_a_second_stage_needs_a_run(first, tmp_path, capsys, words, message):
    """Refused before there is a folder, with what to give."""
    words = [str(first) if word == "RUN" else word for word in words]
    assert main(["train", *DIGITS, *words, "--out", str(tmp_path / "none")]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "none").exists()


def test_scores_on_cosines_are_refused(tmp_path, capsys):
    """LDAM's scores are cosines times 30: no w.x that a second stage could go on from."""
    words = ["train", *DIGITS, "--epochs", "1"]
    assert main([*words, "--loss", "ldam", "--out", str(tmp_path / "cosines")]) == 0
    (run,) = (tmp_path / "cosines").iterdir()
    more = ["--loss", "lws", "--pretrained", str(run), "--freeze", "features"]
    assert main([*words, *more, "--out", str(tmp_path / "none")]) == 2
    assert "are on cosines (ldam)" in " ".join(capsys.readouterr().err.split())
