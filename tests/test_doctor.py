"""`lmsm doctor`: says what is there and what mends what is not, and survives whatever is broken."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.data.published import PUBLISHED
from lmsm_cli.data.sources import OWN, SOURCES
from tests.conftest import CIFAR10_CLASSES, printed_json, write_class_folders

ROOT = Path(__file__).parent.parent


def examined(capsys, *flags, code=0):
    """Run `lmsm doctor --json`; return its checks by name."""
    document = printed_json(capsys, "doctor", *flags, code=code)
    assert document["healthy"] == (code == 0)
    assert all(check["status"] in ("ok", "note", "problem") for check in document["checks"])
    return {check["name"]: check for check in document["checks"]}


def test_a_sound_machine_passes(tiny_cifar, tmp_path, monkeypatch, capsys):
    """Versions, device, arithmetic, disk, data and cache are told; exit 0; nothing is written."""
    monkeypatch.chdir(tmp_path)
    checks = examined(capsys, "--data-dir", tiny_cifar)
    assert checks["torch"]["found"].startswith(torch.__version__)
    assert checks["cifar10"] == {
        "status": "ok",
        "name": "cifar10",
        "found": f"in {tiny_cifar / 'cifar10'}",
        "fix": "",
    }
    assert checks["arithmetic"]["found"].startswith("resnet18 trains on ")
    assert {source.name for source in SOURCES.values()} - {*OWN} <= checks.keys()
    assert {"GPU", "GPU 0"} & checks.keys()
    assert {"CPU", "run folders", "cache", "extra export"} <= checks.keys()
    assert list(tmp_path.iterdir()) == []


def test_missing_data_is_a_note_with_the_command(tmp_path, monkeypatch, capsys):
    """A missing data set is no problem: the command that brings it, and the place for one's own."""
    monkeypatch.chdir(tmp_path)
    checks = examined(capsys, "--data-dir", "my data")
    assert checks["mnist"]["status"] == "note"
    assert "lmsm train --dataset mnist --data-dir 'my data'" in checks["mnist"]["fix"]
    assert checks["digits"]["status"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_half_a_data_set_is_told(tmp_path, capsys):
    """Some of the published files, or class folders for training alone, are not taken for all."""
    file = PUBLISHED["mnist"].files(tmp_path)[0]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    write_class_folders(tmp_path / "cifar10" / "train", CIFAR10_CLASSES[:2], 1)
    checks = examined(capsys, "--data-dir", tmp_path)
    assert "incomplete" in checks["mnist"]["found"]
    assert str(file) in checks["mnist"]["found"]
    assert "without test/" in checks["cifar10"]["found"]
    assert checks["cifar10"]["fix"].endswith(str(tmp_path / "cifar10" / "test"))


def test_own_class_folders_are_found(tmp_path, capsys):
    """Class folders below train/ and test/ of the data folder itself are `folder`."""
    for split in ("train", "test"):
        write_class_folders(tmp_path / split, ("a", "b"), 1)
    assert "train and test" in examined(capsys, "--data-dir", tmp_path)["folder"]["found"]


def test_missing_extras_are_notes(tmp_path, monkeypatch, capsys):
    """An optional package that is missing is a note with the pip command."""
    monkeypatch.setitem(sys.modules, "optuna", None)
    check = examined(capsys, "--data-dir", tmp_path)["extra search"]
    assert check["status"] == "note"
    assert check["fix"] == "pip install 'optuna<6,>=5'  (for lmsm sweep --trials)"


def test_torchvision_that_does_not_fit_is_a_problem(tmp_path, monkeypatch, capsys):
    """torchvision that cannot be imported fails the check, and the rest is still looked at."""
    for name in [name for name in sys.modules if name.startswith("torchvision")]:
        monkeypatch.delitem(sys.modules, name)
    broken = tmp_path / "site" / "torchvision"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    checks = examined(capsys, "--data-dir", tmp_path, code=1)
    assert checks["torchvision"]["status"] == "problem"
    assert "nms does not exist" in checks["torchvision"]["found"]
    assert "pip install" in checks["torchvision"]["fix"]
    assert checks["cifar10"]["status"] == "note"
    assert checks["digits"]["status"] == "ok"


@pytest.mark.slow
def test_torch_that_is_broken_is_a_problem(tmp_path):
    """Where torch cannot be loaded there is a table, not a traceback, and exit code 1."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text(
        "raise OSError('libcudart.so.13: cannot open shared object file')"
    )
    path = os.pathsep.join(
        [str(tmp_path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    done = subprocess.run(
        [sys.executable, "-m", "lmsm_cli", "doctor"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == ""
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("problem  torch ")]
    assert "libcudart.so.13" in line
    assert "-> pip install --upgrade torch torchvision" in done.stdout


def test_a_place_for_runs_that_is_no_folder_is_a_problem(tmp_path, capsys):
    """Where no run folder can be made, no run can start."""
    (tmp_path / "file").write_text("")
    check = examined(capsys, "--out", tmp_path / "file", "--data-dir", tmp_path, code=1)[
        "run folders"
    ]
    assert check["status"] == "problem"
    assert "--out" in check["fix"]


def test_a_check_that_fails_is_a_problem(tmp_path, monkeypatch, capsys):
    """An error inside a check becomes its row; the others are still there."""

    def fail():
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr("lmsm_cli.commands.checks._arithmetic", fail)
    checks = examined(capsys, "--data-dir", tmp_path, code=1)
    assert checks["arithmetic"]["found"] == "cannot be checked: could not create a primitive"
    assert checks["cache"]["status"] == "ok"


def test_the_rows_are_for_people(tmp_path, capsys):
    """Each row opens with its status; a remedy stands below what it mends."""
    assert main(["doctor", "--data-dir", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines} == {"ok", "note", "->"}
    place = next(n for n, line in enumerate(lines) if line.startswith("note  svhn"))
    assert "lmsm train --dataset svhn" in lines[place + 1]
