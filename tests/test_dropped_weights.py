"""Weights of runs that a command removes: which go, which stay, what a run says without them."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.errors import CheckpointError
from lmsm_cli.runs.record import read_run
from lmsm_cli.runs.weights import drop_weights
from tests.conftest import printed_json
from tests.synthetic_runs import write_run

BY = "lmsm sweep --keep winner"
WEIGHTS = ("checkpoint.pt", "checkpoint-previous.pt", "best.pt")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(out, name, **config):
    """Return a made-up run with weights of 5,000 bytes: two names of 2,000, and 3,000 alone."""
    run = write_run(out, name, **config)
    (run / "checkpoint.pt").write_bytes(bytes(2000))
    os.link(run / "checkpoint.pt", run / "best.pt")
    (run / "checkpoint-previous.pt").write_bytes(bytes(3000))
    return run


def weights_of(run):
    """Return the names of the files of weights that a run has."""
    return [name for name in WEIGHTS if (run / name).exists()]


def test_the_weights_alone_go_and_the_run_notes_by_what(here):
    """All else keeps its bytes; what is free counts each file once; again, nothing is touched."""
    run, other = made(here / "sweep", "one"), made(here / "sweep", "two")
    before = {path: path.read_bytes() for path in run.iterdir() if path.name not in WEIGHTS}
    done = drop_weights([run], BY)
    assert (done.num_runs, done.num_bytes, done.left) == (1, 5000, {})
    status = before.pop(run / "status.json")
    after = {path: path.read_bytes() for path in run.iterdir() if path.name != ".lock"}
    noted = after.pop(run / "status.json")
    assert after == before
    assert noted != status
    assert read_run(run).status.model_dump() == read_run(other).status.model_dump() | {
        "dropped_by": BY
    }
    assert weights_of(other) == list(WEIGHTS)
    at = run.stat().st_mtime_ns
    again = drop_weights([run], BY)
    assert (again.num_runs, again.num_bytes, again.left) == (0, 0, {})
    assert run.stat().st_mtime_ns == at


def test_bytes_that_have_another_name_elsewhere_are_not_free(here):
    """A copy by hard links keeps them."""
    run = made(here, "one")
    os.link(run / "checkpoint.pt", here / "copy.pt")
    assert drop_weights([run], BY).num_bytes == 3000


# How a run may name big/sweep/one as what it starts from, in a folder that holds big/.
WAYS = {
    "its folder": "big/sweep/one",
    "its file": "big/sweep/one/best.pt",
    "its path, from elsewhere": "../elsewhere/one/checkpoint.pt",
    "the folder above, where it was alone": "big/sweep",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("place", ["big/sweep", "big", "big/retrain", "runs", "runs/retrain"])
def test_weights_stay_that_another_run_starts_from(here, way, place):
    """However it names the run, and whether it lies beside it, beside its folder, or in runs/."""
    run, other = made(here / "big" / "sweep", "one"), made(here / "big" / "sweep", "two")
    user = write_run(here / place, "head", pretrained=WAYS[way])
    done = drop_weights([run, user], BY)
    assert done.left == {run: f"{user} starts from them"}
    assert weights_of(run) == list(WEIGHTS)
    assert read_run(run).status.dropped_by == ""
    drop_weights([other], BY)
    assert (weights_of(other) == []) == (way != "the folder above, where it was alone")


def test_weights_of_a_run_in_use_stay(here):
    """Another process may be about to read or write them."""
    run = made(here, "one")
    code = (
        "import sys; from pathlib import Path; from lmsm_cli.runs.folder import RunFolder\n"
        f"with RunFolder(Path({str(run)!r})).locked(): print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout.readline() == "held\n"
        done = drop_weights([run], BY)
        other.communicate("")
    assert done.num_runs == 0
    assert "is in use" in done.left[run]
    assert weights_of(run) == list(WEIGHTS)
    assert drop_weights([run], BY).num_runs == 1


@pytest.fixture
def dropped(here, digits_run):
    """A trained run without its weights."""
    run = Path(shutil.copytree(digits_run, here / "a sweep" / digits_run.name))
    assert drop_weights([run], BY).num_runs == 1
    return run


def test_every_command_says_what_has_become_of_the_weights(dropped, here, capsys):
    """It names the command that has dropped them, and one that trains them again; exit 4."""
    (here / "image.png").write_bytes(b"")
    file, run = str(dropped / "checkpoint.pt"), str(dropped)
    before = {path: path.read_bytes() for path in dropped.rglob("*") if path.is_file()}
    for words in (
        ["eval", run],
        ["eval", file],
        ["eval", run, "--best"],
        ["predict", run, "image.png"],
        ["export", run],
        ["adjust", run, "--adjust", "1"],
        ["resume", run],
        ["resume", run, "--epochs", "5"],
        ["retrain", run],
        ["train", "--preset", "digits", "--pretrained", run],
        ["train", "--preset", "digits", "--pretrained", file],
    ):
        assert main(words) == 4, words
        said = " ".join(capsys.readouterr().err.split())
        assert f"`{BY}` has dropped them" in said, words
        assert f"`lmsm train --config '{run}/config.yaml'` trains them again" in said, words
    assert before == {path: path.read_bytes() for path in dropped.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="has no weights any more"):
        load_checkpoint(run)


def test_the_command_that_is_named_makes_the_same_choices(dropped, capsys):
    """`train --config` repeats a run by them, to the bit on a CPU, as a test of it has it."""
    with pytest.raises(CheckpointError) as told:
        load_checkpoint(dropped)
    words = shlex.split(str(told.value).split("`")[3])
    shown = printed_json(capsys, *words[1:], "--show-config")
    written = json.loads(json.dumps(read_run(dropped).config))
    assert {key: row["value"] for key, row in shown.items()} == written
