"""What prepare.py refuses before any image is read, and what it warns of."""

import os
import shlex

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.distributed.process_group import SINGLE_PROCESS
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.training.prepare import prepare
from tests.conftest import SilentDisplay, noise, save
from tests.test_layout import fill


def refused(words, capsys):
    """Run a command that must be refused; return what it says."""
    assert main(shlex.split(words)) == 2
    return capsys.readouterr().err


def files(folder):
    """Return all names below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("data", "out", "elsewhere"),
    [(".", "", "runs"), (".", "--out a/b", "b"), ("../photos", "--out .", "runs")],
)
@pytest.mark.parametrize("command", ["train", "train --dry-run", "sweep --grid lr=0.1,0.2"])
def test_runs_are_not_written_among_the_images(
    command, data, out, elsewhere, tmp_path, monkeypatch, capsys
):
    """The next run would take them for a class: by default where somebody is among the images."""
    fill(tmp_path / "photos", {"ant": 6, "bee": 6})
    monkeypatch.chdir(tmp_path / "photos")
    before = files(tmp_path)
    quick = "--image-size 8 --batch-size 4 --epochs 1 --model paper-2d"
    said = refused(f"{command} --dataset {data} {quick} {out}", capsys)
    assert "lies in the folder of the images" in said
    if command != "sweep --grid lr=0.1,0.2" or out:
        assert f"--out {tmp_path / elsewhere}" in said
    assert files(tmp_path) == before


def test_beside_train_and_test_runs_are_none_of_the_images(tmp_path, monkeypatch, capsys):
    """There they are left out by name; in one of the two they are refused."""
    for part in ("train", "test"):
        fill(tmp_path / part, {"ant": 6, "bee": 6}, seed=len(part))
    monkeypatch.chdir(tmp_path)
    words = "train --dataset . --image-size 8 --batch-size 4 --epochs 1 --model paper-2d"
    said = refused(f"{words} --out train/runs", capsys)
    assert "lies in the folder of the images" in said
    assert main([*shlex.split(words), "--dry-run"]) == 0


@pytest.mark.parametrize("part", ["val", "testing", "Validation", "TRAIN"])
def test_runs_do_not_become_a_part_of_the_images(part, tmp_path, monkeypatch, capsys):
    """A folder beside train/ and test/ whose name is a part's would be one in the next run."""
    for there in ("train", "test"):
        fill(tmp_path / there, {"ant": 6, "bee": 6}, seed=len(there))
    monkeypatch.chdir(tmp_path)
    words = "train --dataset . --image-size 8 --batch-size 4 --epochs 1 --model paper-2d"
    for command in (words, "study . --budget 1h"):
        said = refused(f"{command} --out {part}/runs", capsys)
        assert "lies in the folder of the images" in said
        assert not (tmp_path / part / "runs").exists()


def listed(folder, at="all.csv"):
    """Write a list of the images in and below a folder, at a place from there on."""
    rows = [
        f"{os.path.relpath(file, (folder / at).parent)},{file.parent.name}{number % 2}"
        for number, file in enumerate(sorted(folder.rglob("*.png")))
    ]
    (folder / at).write_text("path,label\n" + "\n".join(rows))


QUICK = "--image-size 8 --batch-size 4 --epochs 1 --model paper-2d --follow-links"


@pytest.mark.parametrize(
    "command",
    [
        "train --dataset all.csv",
        "train --dry-run --dataset all.csv",
        "train --dataset all.csv --seeds 2",
        "sweep --dataset all.csv",
        "sweep --dataset all.csv --dry-run",
        "sweep --dataset all.csv --grid lr=0.001..0.1:log --trials 1",
        "study all.csv --budget 1h",
    ],
)
def test_runs_are_not_written_among_the_images_of_a_list(command, tmp_path, monkeypatch, capsys):
    """They may lie in class folders, where the pictures of a run would be taken for images."""
    fill(tmp_path / "photos", {"ant": 12, "bee": 12})
    listed(tmp_path)
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    for place in ("photos/ant", "photos/bee/../ant/runs"):
        said = " ".join(refused(f"{command} {QUICK} --out {place}", capsys).split())
        assert "lies in a folder of the list's images, photos/ant" in said
        assert files(tmp_path) == before


@pytest.mark.parametrize("out", ["runs", "ant/runs", "."])
@pytest.mark.parametrize("at", ["all.csv", "lists/all.csv"])
def test_runs_lie_beside_a_list(at, out, tmp_path, monkeypatch):
    """Also where the images do, or where the list is further down: somebody works there."""
    for number in range(12):
        save(tmp_path / f"{number}.png", noise(number))
    for folder in ("lists", "ant"):
        (tmp_path / folder).mkdir()
    listed(tmp_path, at)
    monkeypatch.chdir(tmp_path)
    words = f"train --dry-run --dataset {at} {QUICK} --out {out}"
    assert main(shlex.split(words)) == 0


def test_runs_lie_beside_the_images_of_a_list_from_elsewhere(tmp_path, monkeypatch):
    """Images that lie in the data folder itself are of no class by their folder."""
    for number in range(12):
        save(tmp_path / "flat" / f"{number}.png", noise(number))
    rows = "".join(f"{number}.png,{number % 2}\n" for number in range(12))
    (tmp_path / "all.csv").write_text(f"path,label\n{rows}")
    monkeypatch.chdir(tmp_path / "flat")
    words = f"train --dry-run --dataset ../all.csv --data-dir . {QUICK} --out runs"
    assert main(shlex.split(words)) == 0


def test_a_picture_is_not_drawn_among_the_images_of_a_list(tmp_path, monkeypatch, capsys):
    """It would be taken for an image of the folder that it lies in."""
    fill(tmp_path / "photos", {"ant": 12, "bee": 12})
    listed(tmp_path)
    monkeypatch.chdir(tmp_path)
    words = "data all.csv --image-size 8 --plot"
    assert "list's images" in refused(f"{words} photos/ant/new.png", capsys)
    assert not (tmp_path / "photos" / "ant" / "new.png").exists()
    for place in ("photos/new.png", "new.png"):
        main(shlex.split(f"{words} {place}"))
        assert (tmp_path / place).exists()


@pytest.mark.parametrize("target", ["loop", "nothing"])
def test_below_a_link_to_nothing_are_no_runs(target, tmp_path, monkeypatch, capsys):
    """It is told before an image is read, and not by a traceback."""
    fill(tmp_path / "photos", {"ant": 6, "bee": 6})
    (tmp_path / "loop").symlink_to(target)
    monkeypatch.chdir(tmp_path)
    words = "train --dataset photos --image-size 8 --batch-size 4 --epochs 1 --model paper-2d"
    assert main(shlex.split(f"{words} --out loop/runs")) == 6
    said = capsys.readouterr().err
    assert "cannot write in loop/runs" in said
    assert "decoding" not in said


def test_a_picture_of_the_classes_is_not_drawn_among_them(tmp_path, monkeypatch, capsys):
    """It would be an image of a class, or one in none."""
    fill(tmp_path / "photos", {"ant": 6, "bee": 6})
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "photos" / "ant" / "new.png", noise(77))
    said = refused("data photos --plot photos/ant/classes.png", capsys)
    assert f"such as --plot {tmp_path / 'classes.png'}" in said
    assert not (tmp_path / "photos" / "ant" / "classes.png").exists()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            {"loss": "lsoftmax", "sampling": "balanced"},
            "leave sampling balanced out, or take tau=0",
        ),
        ({"loss": "balanced-softmax", "reweight": "effective"}, "leave reweight effective out"),
        ({"loss": "lsoftmax:tau=0", "sampling": "balanced"}, ""),
        ({"loss": "lsoftmax:margin=auto", "reweight": "inverse"}, ""),
        ({"loss": "lsoftmax"}, ""),
        ({"loss": "vs", "reweight": "effective", "reweight_beta": 0}, ""),
    ],
)
def test_rare_classes_that_are_favoured_twice_are_told(tmp_path, flags, told):
    """The log prior is exact for images drawn as they come: for balanced ones it is too much."""
    display = SilentDisplay()
    tail = {"imbalance": "exp", "factor": "0.05", "model": "paper-2d", "out": tmp_path}
    config = resolve([Layer.of_preset("digits"), Layer.of_flags(tail | flags)], check_loss).config
    prepare(config, display, SINGLE_PROCESS)
    warned = [text for text in display.warned if "favour rare classes too much" in text]
    assert len(warned) == bool(told)
    assert told in "".join(warned)
