"""Whose images they are is decided by content: whatever happens to names, places and neighbours."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.identity import digest
from lmsm_cli.errors import CheckpointError, DataError
from lmsm_cli.inference.predict import predict_files
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import read_images_record, read_predictions
from lmsm_cli.sweeps.plan import RunIndex, build_plan
from lmsm_cli.sweeps.sweep import run_plan
from lmsm_cli.training.run import resume_run, start_run
from tests.conftest import SilentDisplay, evaluation, noise, plain_state, save

SIZE = 8
FLAGS = {
    "dataset": "folder",
    "image_size": SIZE,
    "model": "paper-mnist",
    "epochs": 2,
    "batch_size": 16,
    "threads": 1,
    "device": "cpu",
    "precision": "fp32",
    "layout": "channels-last",
}


COUNTS = (24, 20, 16)


def fill(root: Path, counts=COUNTS, seed=0) -> Path:
    """Write noise images, so that nothing but memory tells a class."""
    for number, (name, count) in enumerate(zip("abc", counts, strict=True)):
        for i in range(count):
            save(
                root / name / f"{i:03}.png", noise(1000 * seed + 100 * number + i, (SIZE, SIZE, 3))
            )
    return root


def trained(data: Path, out: Path, **changes) -> Path:
    """Return the folder of a short run."""
    flags = {**FLAGS, "data_dir": data, "out": out, **changes}
    config = resolve([Layer.of_flags(flags)], check_loss).config
    return start_run(config, SilentDisplay(), with_plots=False).path


def images_of(run: Path, part: str) -> list[str]:
    """Return the file names of a part of the run's images."""
    record = read_images_record(run).of(part)
    return [record.name_of(row) for row in range(len(record))]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, its data, and what it says; neither is to be changed."""
    home = tmp_path_factory.mktemp("finished")
    data = fill(home / "data")
    return data, trained(data, home / "runs")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the run and of its data, free to be changed; the run names the copied data."""
    data, run = finished
    shutil.copytree(data, tmp_path / "data")
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "data", tmp_path / "run"


def everything(run: Path, data: Path) -> dict:
    """Return what eval says of the test and validation images, and with a tau that it chooses."""
    found = {}
    for name, options in {
        "test": {},
        "validation": {"split": "validation"},
        "adjusted": {"adjust": "auto"},
    }.items():
        scores = evaluation(run, SilentDisplay(), data_dir=data, **options).scores.to_json()
        del scores["checkpoint"]
        found[name] = scores
    return found


def add_images(data, run):
    """Add a new image to each class."""
    fill(data, (1, 1, 1), seed=9)  # in the place of 000.png
    for name in "abc":
        shutil.move(data / name / "000.png", data / name / "zzz.png")
        save(data / name / "000.png", noise(100 * "abc".index(name), (SIZE, SIZE, 3)))
    save(data / "extra" / "0.png", noise(77))  # a class that the run does not know


def rename_files(data, run):
    """Give every file a name that sorts otherwise."""
    for file in sorted(data.glob("*/*.png")):
        file.rename(file.with_name(f"{digest(file.read_bytes()).hex()}.png"))


def into_splits(data, run):
    """Sort the files into train/ and test/, half and half, below deeper names."""
    for number, file in enumerate(sorted(data.glob("*/*.png"))):
        target = data / ("train", "test")[number % 2] / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    for name in "abc":
        (data / name).rmdir()


def replace_training_image(data, run):
    """Put another image in the place of one that was trained on."""
    save(data / images_of(run, "training")[0], noise(4711, (SIZE, SIZE, 3)))


@pytest.mark.parametrize("change", [add_images, rename_files, into_splits])
def test_a_run_keeps_its_images_whatever_happens_around_them(copied, change):
    """Scores of test and validation, and tau with them, are the same to the last digit."""
    data, run = copied
    before = everything(run, data)
    change(data, run)
    assert everything(run, data) == before


def test_a_moved_folder_is_still_the_same(copied, tmp_path):
    """A moved or copied data folder gives the same scores."""
    data, run = copied
    before = everything(run, data)
    shutil.copytree(data, tmp_path / "again")
    assert everything(run, tmp_path / "again") == before
    data.rename(tmp_path / "elsewhere")
    assert everything(run, tmp_path / "elsewhere") == before


def test_a_replaced_training_image_does_not_touch_the_scores(copied):
    """Scores of test and validation need no training image; going on does, and names it."""
    data, run = copied
    before = everything(run, data)
    name = images_of(run, "training")[0]
    replace_training_image(data, run)
    assert everything(run, data) == before
    with pytest.raises(DataError, match=f"1 training image of the run: 1 gone or changed .{name}"):
        resume_run(run, SilentDisplay(), {"epochs": 3, "data_dir": data}, with_plots=False)


@pytest.mark.parametrize(
    ("part", "option"),
    [("test", []), ("validation", ["--split", "validation"]), ("validation", ["--adjust", "auto"])],
)
def test_a_replaced_image_is_refused_by_name(copied, capsys, part, option):
    """Exit 3 names the image that is gone, and the way to score other data."""
    data, run = copied
    gone, moved = images_of(run, part)[:2]
    save(data / gone, noise(4711, (SIZE, SIZE, 3)))
    other = "abc".replace(moved[0], "")[0]
    (data / moved).rename(data / other / "moved.png")
    assert main(["eval", str(run), "--data-dir", str(data), "--quiet", *option]) == 3
    told = " ".join(capsys.readouterr().err.split())
    assert f"2 {part} images of the run" in told
    assert f"1 gone or changed ({gone})" in told
    assert f"1 of another class now ({moved}, now in {other})" in told
    assert "--images FOLDER" in told


@pytest.mark.parametrize("change", [add_images, rename_files, into_splits])
def test_resume_goes_on_with_the_same_bits(finished, copied, tmp_path, change):
    """A longer training on data that was touched ends with the bits of one on data that was not."""
    (untouched, original), (data, run) = finished, copied
    shutil.copytree(original, tmp_path / "other")
    expected = resume_run(
        tmp_path / "other", SilentDisplay(), {"epochs": 3, "data_dir": untouched}, with_plots=False
    ).path
    change(data, run)
    resume_run(run, SilentDisplay(), {"epochs": 3, "data_dir": data}, with_plots=False)
    one, two = (plain_state(path / "checkpoint.pt")["model"] for path in (run, expected))
    assert all(torch.equal(value, two[key]) for key, value in one.items())
    scores = [json.loads((path / "scores.json").read_text()) for path in (run, expected)]
    assert scores[0]["confusion"] == scores[1]["confusion"]
    assert scores[0]["images"] == scores[1]["images"]


def test_extra_images_are_counted(copied):
    """What the run did not have is left out, and its number said."""
    data, run = copied
    add_images(data, run)
    display = SilentDisplay()
    evaluation(run, display, data_dir=data)
    assert any("4 images in " in text and "none of the run's" in text for text in display.said)


def test_the_record_is_what_lies_on_disk(finished):
    """images.npz has each file once, in its part, by its bytes' digest; it needs no pickle."""
    data, run = finished
    arrays = np.load(run / "images.npz", allow_pickle=False)
    assert len(arrays["split"]) == len(list(data.glob("*/*.png"))) == 60
    for name, own, label in zip(arrays["name"], arrays["digest"], arrays["class"], strict=True):
        file = data / name.decode()
        assert own.tobytes() == digest(file.read_bytes())
        assert arrays["classes"][label].decode() == file.parent.name
    counts = np.bincount(arrays["split"]).tolist()
    assert counts == [43, 5, 12]


def test_predictions_give_the_scores(finished):
    """predictions.npz, in the order of images.npz, holds the confusion and the logits of eval."""
    data, run = finished
    found, record = read_predictions(run), read_images_record(run).of("test")
    scores = json.loads((run / "scores.json").read_text())
    assert np.array_equal(found.labels, record.labels)
    confusion = np.zeros((3, 3), int)
    np.add.at(confusion, (found.labels, found.predicted), 1)
    assert confusion.tolist() == scores["confusion"]
    exact = np.exp(found.logits.astype(float))
    shares = exact / exact.sum(axis=1, keepdims=True)
    assert np.allclose(found.probabilities, shares[np.arange(12), found.labels], atol=1e-6)
    assert np.array_equal(found.logits.argmax(axis=1), found.predicted)
    again = evaluation(run, SilentDisplay(), data_dir=data)
    assert np.array_equal(again.predictions, found.predicted)
    assert scores["images"] == read_images_record(run).scored


def test_a_checkpoint_apart_from_its_folder_needs_the_data_as_it_was(copied, tmp_path):
    """Without images.npz the split is made again, and refused where it is not the run's."""
    data, run = copied
    before = everything(run, data)
    shutil.copy(run / "checkpoint.pt", tmp_path / "alone.pt")
    assert everything(tmp_path / "alone.pt", data) == before
    save(data / "a" / "new.png", noise(4711))
    save(data / "a" / "000.png", noise(4712))
    with pytest.raises(DataError, match=r"images\.npz, which tells them, is not beside"):
        evaluation(tmp_path / "alone.pt", SilentDisplay(), data_dir=data)


@pytest.mark.parametrize("moved", [["split"], ["split", "class", "digest", "name"]])
def test_the_images_of_another_run_are_refused(copied, moved):
    """An images.npz that is not the checkpoint's would let training images pass for test images.

    In another order it would give other batches, and predictions that are not of these images.
    """
    data, run = copied
    record = dict(np.load(run / "images.npz"))
    np.savez(run / "images.npz", **(record | {name: record[name][::-1].copy() for name in moved}))
    with pytest.raises(CheckpointError, match="tells of other images than those"):
        evaluation(run, SilentDisplay(), data_dir=data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("digest"),
        lambda arrays: arrays.update(digest=arrays["digest"][:, :8]),
        lambda arrays: arrays.update(split=arrays["split"] + 3),
        lambda arrays: arrays.update({"class": arrays["class"] - 1}),
        lambda arrays: arrays.update(mean=np.array([np.nan] * 3)),
        lambda arrays: arrays.update(name=arrays["name"][1:]),
        lambda arrays: arrays.update(classes=np.array([1, 2, 3])),
        lambda arrays: arrays.update(split=arrays["split"][:0]),
    ],
)
def test_a_damaged_record_is_refused(copied, damage):
    """Exit 4, never a traceback, and nothing is scored."""
    data, run = copied
    arrays = dict(np.load(run / "images.npz"))
    damage(arrays)
    np.savez(run / "images.npz", **arrays)
    with pytest.raises(CheckpointError, match=r"images\.npz"):
        evaluation(run, SilentDisplay(), data_dir=data)


def test_pickles_and_bombs_are_no_records(copied):
    """Objects are not loaded, and what is packed is not unpacked; prediction needs no record."""
    data, run = copied
    for write in (
        lambda file: np.savez(file, split=np.array([print], dtype=object)),
        lambda file: np.savez_compressed(file, split=np.zeros(1 << 20, np.uint8)),
        lambda file: file.write_text("no archive"),
    ):
        write(run / "images.npz")
        with pytest.raises(CheckpointError, match=r"images\.npz"):
            evaluation(run, SilentDisplay(), data_dir=data)
    (one,) = predict_files(read_trained(run), [data / "a" / "000.png"], SilentDisplay()).images
    assert one.error is None


def test_a_run_of_before_is_read_and_told_of(copied):
    """Without any record the data is taken as it is, and that is said."""
    data, run = copied
    before = everything(run, data)
    (run / "images.npz").unlink()
    state = plain_state(run / "checkpoint.pt")
    del state["images"]
    checkpoint.save(state, run / "checkpoint.pt")
    display = SilentDisplay()
    scores = evaluation(run, display, data_dir=data).scores.to_json()
    assert scores["accuracy"] == before["test"]["accuracy"]
    assert any("did not record its images" in text for text in display.said)


def test_published_images_are_known_by_their_pixels(tmp_path):
    """The digits have no files: their places are numbers, and their test images are found again."""
    flags = {"dataset": "digits", "model": "paper-mnist", "epochs": 1, "images_per_class": 20}
    config = resolve(
        [Layer.of_flags({**FLAGS, **flags, "image_size": 32, "out": tmp_path})], check_loss
    ).config
    run = start_run(config, SilentDisplay(), with_plots=False).path
    record = read_images_record(run)
    assert record.places.dtype.kind == "i"
    assert [len(record.of(part)) for part in ("training", "validation", "test")] == [180, 20, 599]
    scores = json.loads((run / "scores.json").read_text())
    assert evaluation(run, SilentDisplay()).scores.accuracy == scores["accuracy"]


def test_names_that_look_alike_are_one_class(tmp_path):
    """A test folder that spells a class otherwise gives the same images, and so does a rename."""
    data = fill(tmp_path / "data" / "train", (12, 10, 8)).parent
    fill(data / "test", (4, 4, 4), seed=1)
    (data / "test" / "a").rename(data / "test" / "A ")
    run = trained(data, tmp_path / "runs", batch_size=8)
    before = everything(run, data)
    (data / "train" / "b").rename(data / "train" / "B")
    assert everything(run, data) == before


def test_own_validation_images_are_found_again(tmp_path):
    """The images of val/ are the run's validation images, also when they lie in train/ later."""
    data = fill(tmp_path / "data" / "train", (12, 10, 8)).parent
    fill(data / "test", (4, 4, 4), seed=1)
    fill(data / "val", (3, 3, 3), seed=2)
    run = trained(data, tmp_path / "runs", batch_size=8)
    assert len(read_images_record(run).of("validation")) == 9
    before = everything(run, data)
    for file in sorted((data / "val").glob("*/*.png")):
        file.rename(data / "train" / file.parent.name / f"val-{file.name}")
    shutil.rmtree(data / "val")
    assert everything(run, data) == before


def planned(data: Path, out: Path, seeds=(0,), **changes):
    """Return a plan of short runs with these seeds."""
    flags = {key: str(value) for key, value in {**FLAGS, "epochs": 1, **changes}.items()}
    return build_plan([Layer.of_flags({**flags, "data_dir": data, "out": out})], [{}], seeds)


def swept(runs) -> tuple[int, SilentDisplay]:
    """Complete a plan; return how many runs were made for it, and what was told."""
    out, display = runs[0].config.out, SilentDisplay()
    before = len(list(out.glob("*/config.yaml")))
    assert run_plan(runs, RunIndex(out, display), with_plots=False) == []
    return len(list(out.glob("*/config.yaml"))) - before, display


def test_a_sweep_takes_up_only_runs_on_the_same_images(tmp_path):
    """Other pictures under the same names are another data set; a moved one is the same."""
    data, out = fill(tmp_path / "data"), tmp_path / "out"
    assert swept(planned(data, out))[0] == 1
    data.rename(tmp_path / "moved")
    assert swept(planned(tmp_path / "moved", out))[0] == 0
    fill(data, seed=1)
    made, display = swept(planned(data, out, seeds=(0, 1)))
    assert made == 2
    assert any("1 run with these choices left out" in text for text in display.warned)
    index = RunIndex(out, SilentDisplay())
    records = [one.record for one in index.status(planned(data, out, seeds=(0, 1)))]
    assert {len(read_images_record(record.path)) for record in records} == {60}
    digests = {read_images_record(record.path).split_digests["test"] for record in records}
    assert len(digests) == 1


def test_runs_on_the_same_images_divided_otherwise_are_told_as_that(tmp_path):
    """Renamed files change a division by names; nothing says that the images are others."""
    data, out = fill(tmp_path / "data"), tmp_path / "out"
    assert swept(planned(data, out))[0] == 1
    files = sorted((data / "a").iterdir())
    for file in files[: len(files) // 2]:
        file.rename(file.with_name(f"z{file.name}"))
    made, display = swept(planned(data, out))
    assert made == 1
    (told,) = (text for text in display.warned if "left out" in text)
    assert "the files are the same as now, but some were renamed" in told
    assert "other images" not in told


def test_an_interrupted_run_on_other_images_is_not_gone_on_with(tmp_path):
    """Not a finished run alone: one that would be resumed is looked at as well."""
    data, out = fill(tmp_path / "data"), tmp_path / "out"
    (run,) = planned(data, out)
    swept([run])
    (path,) = (file.parent for file in out.glob("*/status.json"))
    (path / "scores.json").unlink()
    RunFolder(path).write_status("interrupted")
    assert RunIndex(out).status_of(run).state == "interrupted"
    save(data / "a" / "000.png", noise(4711, (SIZE, SIZE, 3)))
    assert RunIndex(out).status_of(run).state == "missing"


def test_an_older_sweep_is_found_by_its_choices(tmp_path):
    """Runs without images.npz count where the folder is where it was, as they did before."""
    data, out = fill(tmp_path / "data"), tmp_path / "out"
    (run,) = planned(data, out)
    swept([run])
    (path,) = (file.parent for file in out.glob("*/status.json"))
    (path / "images.npz").unlink()
    environment = json.loads((path / "environment.json").read_text())
    RunFolder(path).write_environment({**environment, "asked": run.other_hashes[-1]})
    assert RunIndex(out).status_of(run).state == "completed"
    data.rename(tmp_path / "moved")
    (elsewhere,) = planned(tmp_path / "moved", out)
    assert RunIndex(out).status_of(elsewhere).state == "missing"
