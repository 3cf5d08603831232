"""Users' folders through the command line: each image is used, refused or reported."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from lmsm_cli.commands.app import main
from lmsm_cli.data.image_files import fit
from tests.conftest import noise, plain_state, save

FLAGS = (
    "--dataset folder --image-size 8 --model paper-mnist --epochs 1 --batch-size 8 "
    "--threads 1 --device cpu --precision fp32 --quiet"
)


def fill(folder, classes, count, *, seed=0):
    """Write so many noise images for each class; no two are alike."""
    for label, name in enumerate(classes):
        for number in range(count):
            save(folder / name / f"{number:03}.png", noise(10_000 * seed + 1000 * label + number))


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Return a function that trains on a folder; it gives exit code, document and messages."""
    monkeypatch.chdir(tmp_path)

    def run(*flags, command="train"):
        words = ["train", *FLAGS.split(), "--out", "runs"] if command == "train" else [command]
        code = main([*words, *map(str, flags), "--json"])
        printed = capsys.readouterr()
        return code, json.loads(printed.out or "null"), " ".join(printed.err.split())

    return run


def counts(path):
    """Return the training images per class that a run folder's checkpoint tells."""
    return plain_state(path / "checkpoint.pt")["train_counts"]


def run_folder(tmp_path):
    """Return the run folder that is there."""
    (path,) = (tmp_path / "runs").iterdir()
    return path


def test_train_and_predict_read_the_same_images(train, tmp_path):
    """Nested folders count for both; a foreign file is reported by both, also in train.log."""
    fill(tmp_path / "nest", ["ant", "bee"], 10)
    fill(tmp_path / "nest" / "ant", ["day", "night"], 20, seed=1)
    (tmp_path / "nest" / "bee" / "scan.raw").touch()
    code, _, said = train("--validation", "0", "--data-dir", "nest")
    warning = "nest: skipped 1 file not named as an image: 1 .raw (bee/scan.raw)"
    assert (code, said.count(warning)) == (0, 1)
    path = run_folder(tmp_path)
    assert counts(path) == [40, 8]
    assert f"WARNING {warning}\n" in (path / "train.log").read_text()
    _, document, said = train(path, "nest", "--quiet", command="predict")
    assert len(document["images"]) == 60
    assert warning in said


def test_all_three_parts_are_used_and_found_again(train, tmp_path):
    """val/ is what a run validates on, at evaluation and after the folder was renamed too."""
    for number, part in enumerate(("train", "val", "test")):
        fill(tmp_path / "v" / part, ["ant", "bee"], 20, seed=number)
    code, _, said = train("--data-dir", "v", "--validation", "0.2")
    assert code == 0
    assert "validation: the 40 images that v has for it, none of the training's" in said
    assert "(--validation 0.2 is not used)" in said
    path = run_folder(tmp_path)
    assert counts(path) == [20, 20]
    first = train(path, "--split", "validation", command="eval")[1]
    assert sum(one["test_count"] for one in first["per_class"]) == 40
    (tmp_path / "v" / "val").rename(tmp_path / "v" / "Validation")
    assert train(path, "--split", "validation", command="eval")[1] == first


def test_a_test_without_a_class_is_scored_over_the_others(train, tmp_path):
    """Training goes on, the class has no score, and the warning says what the means are over."""
    fill(tmp_path / "m" / "train", ["ant", "bee", "cat"], 10)
    fill(tmp_path / "m" / "test", ["ant", "cat"], 5, seed=1)
    (tmp_path / "m" / "test" / "bee").mkdir()
    code, _, said = train("--data-dir", "m")
    assert code == 0
    assert "there is no test image of 1 of 3 classes (bee): means over classes are over" in said
    path = run_folder(tmp_path)
    for flags in ([], ["--images", tmp_path / "m" / "test"]):
        code, scores, said = train(path, *flags, command="eval")
        assert code == 0
        assert "trained on" not in said
        assert [one["test_count"] for one in scores["per_class"]] == [5, 0, 5]
        assert scores["per_class"][1]["accuracy"] is None


def test_broken_files_are_refused_together_or_skipped(train, tmp_path):
    """One start names all; with --skip-unreadable the margins and scores are of the others."""
    fill(tmp_path / "k", ["ant", "bee", "cat"], 10)
    broken = ("ant/001", "ant/005", "bee/001")
    for name in broken:
        (tmp_path / "k" / f"{name}.png").write_text("x")
    code, _, said = train("--data-dir", "k", "--validation", "0")
    assert code == 3
    assert all(f"k/{name}.png is not an image that can be read" in said for name in broken)
    code, _, said = train("--data-dir", "k", "--validation", "0", "--skip-unreadable")
    assert code == 0
    assert "skipped, to be replaced or removed: 3 of the 30 images of k cannot be read" in said
    path = run_folder(tmp_path)
    assert counts(path) == [6, 7, 8]
    assert train(path, command="eval")[0] == 0


@pytest.mark.parametrize("empty", ["val", "test", "train"])
def test_a_part_without_any_image_is_refused(train, tmp_path, empty):
    """Class folders that are all empty are told, as a fault of the data, whatever they are for."""
    for seed, part in enumerate(("train", "val", "test")):
        fill(tmp_path / "d" / part, ["ant", "bee"], 0 if part == empty else 10, seed=seed)
        for name in ("ant", "bee"):
            (tmp_path / "d" / part / name).mkdir(parents=True, exist_ok=True)
    code, _, said = train("--data-dir", "d")
    assert code == 3
    assert f"d/{empty}" in said
    assert "no images" in said
    assert not list(Path("runs").glob("*/checkpoint.pt"))


def test_fewer_copies_of_a_picture_are_gone_and_not_moved(train, tmp_path):
    """Where one of three equal files was removed, the others are not called another class's."""
    fill(tmp_path / "d", ["ant", "bee"], 10)
    for copy in ("copy1", "copy2"):
        picture = (tmp_path / "d" / "ant" / "000.png").read_bytes()
        (tmp_path / "d" / "ant" / f"{copy}.png").write_bytes(picture)
    assert train("--data-dir", "d")[0] == 0
    (tmp_path / "d" / "ant" / "copy2.png").unlink()
    code, _, said = train("runs", "--epochs", "2", command="resume")
    assert code == 3
    assert "1 gone or changed (ant/" in said
    assert "another class" not in said


def test_links_out_of_the_folder_are_read_on_request_alone(train, tmp_path):
    """Without the flag they are counted and it is named; with it the run has them, also later."""
    fill(tmp_path / "d", ["ant", "bee"], 10)
    fill(tmp_path / "else", ["more"], 10, seed=1)
    (tmp_path / "d" / "ant" / "more").symlink_to(tmp_path / "else" / "more")
    code, _, said = train("--data-dir", "d", "--validation", "0")
    assert code == 0
    assert "skipped 1 link out of the folder: ant/more; --follow-links reads what they" in said
    assert counts(run_folder(tmp_path)) == [8, 8]
    code, _, said = train("--data-dir", "d", "--validation", "0", "--follow-links", "--out", "with")
    (path,) = (tmp_path / "with").iterdir()
    assert counts(path) == [16, 8]
    assert "link" not in said
    assert train(path, command="eval")[0] == 0
    said = train(path, "--images", "d", command="eval")[2]
    assert "24 images of 30 are of those that the run was trained on, which flatters" in said
    assert len(train(path, "d", command="predict")[1]["images"]) == 20
    assert len(train(path, "d", "--follow-links", command="predict")[1]["images"]) == 30


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_the_way_of_resizing_is_the_runs(train, tmp_path, resize):
    """Wide pictures are read in evaluation and prediction as in training; config.yaml tells how."""
    for number in range(20):
        save(tmp_path / "w" / "ab"[number % 2] / f"{number}.png", noise(number, (8, 20, 3)))
    assert train("--data-dir", "w", "--validation", "0", "--resize", resize)[0] == 0
    path = run_folder(tmp_path)
    assert yaml.safe_load((path / "config.yaml").read_text())["resize"] == resize
    whole = train(path, "w", command="predict")[1]["images"]
    for one in whole:  # a picture of the right size is not resized: this is what the net sees
        pixels = fit(Image.open(one["file"]).convert("RGB"), 8, resize)
        save(tmp_path / "fitted" / Path(one["file"]).name, pixels)
    fitted = train(path, "fitted", command="predict")[1]["images"]
    shares = {Path(one["file"]).name: one["predictions"] for one in fitted}
    assert [shares[Path(one["file"]).name] for one in whole] == [
        one["predictions"] for one in whole
    ]
    scores = train(path, "--images", "w", command="eval")[1]
    right = sum(one["predictions"][0]["class"] == Path(one["file"]).parts[1] for one in whole)
    assert right == round(20 * scores["accuracy"])


def test_a_small_folder_is_told_each_flag_that_mends_it(train, tmp_path):
    """The validation and the batch that a few images cannot fill are reported together."""
    fill(tmp_path / "s", ["ant", "bee"], 5)
    code, _, said = train("--data-dir", "s", "--batch-size", "128")
    assert code == 2
    assert "use --validation 0, or a larger share" in said
    assert "batch_size is 128: only 8 training images are left" in said
    assert "take --batch-size 8 or less" in said
