"""Data folders and the user's cache: no command writes into the data, or through a link."""

import os
import shutil
from pathlib import Path

import pytest

from lmsm_cli.commands.app import main
from tests.conftest import noise, save, write_class_folders
from tests.faults.test_strangers import link_out, state_of

pytestmark = pytest.mark.slow

TRAIN = "--dataset folder --image-size 8 --model paper-2d --epochs 1 --batch-size 8 --device cpu"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with data/ and other/, and an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LMSM_CACHE_DIR", "cache")
    write_class_folders(Path("data"), ("ant", "bee"), 20, size=8)
    write_class_folders(Path("other"), ("ant", "bee"), 4, size=8, seed=1)
    return tmp_path


def run_all() -> None:
    """Run each command that reads images or the cache, and see that it ends well."""
    assert main(["train", *TRAIN.split(), "--data-dir", "data", "--out", "runs"]) == 0
    (run,) = (str(path) for path in Path("runs").iterdir() if not path.name.startswith("."))
    for command in (
        ["eval", run],
        ["eval", run, "--images", "other"],
        ["predict", run, "other"],
        ["resume", run, "--epochs", "2"],
        ["train", *TRAIN.split(), "--data-dir", "data", "--out", "runs", "--dry-run"],
        ["doctor", "--data-dir", "data"],
    ):
        assert main(command) == 0, command
    shutil.rmtree("runs")


def test_no_command_writes_into_a_data_folder(here):
    """Files, times and names below the data stay as they were, and so do targets of its links."""
    elsewhere = here / "elsewhere"
    save(elsewhere / "9999.png", noise(0))
    (elsewhere / "thesis.txt").write_text("years of work")
    for suffix in ("pixels", "pixels.part", "pixels.lock", "npz"):
        Path("data", f".lmsm-images-8x8x3.{suffix}").symlink_to(elsewhere / "thesis.txt")
    Path("data", "ant", "9999.png").symlink_to(elsewhere / "9999.png")
    folders = [Path("data"), Path("other"), elsewhere]
    before = [(folder.stat().st_mtime_ns, state_of(folder)) for folder in folders]
    run_all()
    assert [(folder.stat().st_mtime_ns, state_of(folder)) for folder in folders] == before


def test_no_command_follows_a_link_in_the_cache(here):
    """With links in the place of the cache's files, their targets stay and all commands work."""
    run_all()
    folders = [path for path in Path("cache").iterdir() if path.is_dir()]
    assert {path.name for path in folders} == {"decoded"}
    for folder in folders:
        link_out(folder, here / f"elsewhere-{folder.name}")
    before = {path: state_of(path) for path in here.glob("elsewhere-*")}
    run_all()
    assert main(["doctor", "--data-dir", "data", "--clear-cache"]) == 0
    assert {path: state_of(path) for path in here.glob("elsewhere-*")} == before


def test_a_cache_folder_that_is_a_link_is_not_used(here, capsys):
    """Nothing is written where it leads, and the user is told."""
    Path("elsewhere").mkdir()
    Path("cache").mkdir()
    Path("cache", "decoded").symlink_to(here / "elsewhere")
    assert main(["train", *TRAIN.split(), "--data-dir", "data", "--out", "runs"]) == 0
    assert list(Path("elsewhere").iterdir()) == []
    assert "link" in capsys.readouterr().err


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
def test_data_that_can_only_be_read_needs_no_warning(here, capsys):
    """A folder that takes no files is as good as any."""
    for folder in [Path("data"), *Path("data").iterdir()]:
        folder.chmod(0o555)
    assert main(["train", *TRAIN.split(), "--data-dir", "data", "--out", "runs"]) == 0
    for folder in [Path("data"), *Path("data").iterdir()]:
        folder.chmod(0o755)
    assert "WARNING" not in capsys.readouterr().err
