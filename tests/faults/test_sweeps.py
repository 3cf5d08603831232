"""Sweeps and searches by several processes, one of them killed: nothing twice, nothing lost."""

import json
import re
import subprocess
import sys
import time

import pytest

from tests.conftest import words
from tests.test_search import CHOICES, OTHER_FLAGS, finished
from tests.test_sweep import FLAGS, folders, status, swept

pytestmark = pytest.mark.slow

LMSM = [sys.executable, "-m", "lmsm_cli"]
SECONDS = 200

pytest.importorskip("optuna")


def test_a_killed_sweep_goes_on(tmp_path, capsys):
    """kill -9 in the second run: the first is left as it is, the second resumed, the third done."""
    flags = ["--epochs", "6", "--grid", "lr=0.05,0.1"]
    process = subprocess.Popen(
        [*LMSM, "sweep", *FLAGS, *flags, "--out", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + SECONDS
    while len(list(tmp_path.glob("*/checkpoint.pt"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    first, second = folders(tmp_path)
    assert [status(path)["state"] for path in (first, second)] == ["completed", "running"]
    before = (first / "scores.json").stat().st_mtime_ns
    document, said = swept(capsys, tmp_path, *flags)
    assert folders(tmp_path) == [first, second]
    assert (first / "scores.json").stat().st_mtime_ns == before
    assert "continues after" in (second / "train.log").read_text()
    assert [status(path)["state"] for path in (first, second)] == ["completed", "completed"]
    assert "1 of 2 runs are there already" in said
    assert len(document["groups"]) == 2


def swept_by_two(out, *flags):
    """Run one sweep in two processes at once; return its document, and what each has said."""
    command = [*LMSM, "sweep", *flags, "--out", str(out), "--json"]
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    results = [process.communicate(timeout=SECONDS) for process in both]
    assert [process.returncode for process in both] == [0, 0], results
    one, other = (json.loads(printed) for printed, _ in results)
    assert one == other
    return one, [said for _, said in results]


def test_processes_share_a_sweep(tmp_path):
    """Two at once do every run once, and both end with the whole comparison."""
    document, said = swept_by_two(tmp_path, *FLAGS, *words("--grid lr=0.05,0.1 --seeds 2"))
    assert len(folders(tmp_path)) == 4
    assert [len(group["seeds"]) for group in document["groups"]] == [2, 2]
    ran = [len(re.findall(r"^run \d", text, flags=re.MULTILINE)) for text in said]
    assert sum(ran) == 4
    assert min(ran) > 0


def test_processes_share_a_study(tmp_path):
    """Two at once do together as many trials as were asked for, none of them twice."""
    document, _ = swept_by_two(tmp_path, *OTHER_FLAGS, *CHOICES, "--trials", "5")
    assert len(document["trials"]) == 5
    assert len({row["label"] for row in document["trials"]}) == 5
    assert len(folders(tmp_path)) == 5
    assert len(finished(tmp_path)) == 5


def test_a_killed_search_goes_on(tmp_path):
    """kill -9 in a trial: it is not counted, and its run is gone on with under the same choices."""
    code = (
        "import sys; from tests.test_search import searched; from pathlib import Path; "
        "searched(Path(sys.argv[1]), 3, epochs=6)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + SECONDS
    while len(list(tmp_path.glob("*/checkpoint.pt"))) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert [status(path)["state"] for path in folders(tmp_path)] == ["completed", "running"]
    killed = folders(tmp_path)[1]
    subprocess.run(command, check=True, timeout=SECONDS)
    assert len(finished(tmp_path)) == 3
    assert [status(path)["state"] for path in folders(tmp_path)] == ["completed"] * 3
    assert "continues after" in (killed / "train.log").read_text()
    states = [trial.state.name for trial in finished(tmp_path, all_states=True)]
    assert sorted(states) == ["COMPLETE", "COMPLETE", "COMPLETE", "FAIL"]
