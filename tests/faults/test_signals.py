"""Signals, full disks and missing terminals, on the real command; every exit code once."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import plain_state, words
from tests.test_resume import assert_same_bits

pytestmark = pytest.mark.slow

LMSM = [sys.executable, "-m", "lmsm_cli"]
FIXED = words("--preset digits --device cpu --precision fp32 --layout channels-last --threads 1")
SECONDS = 120


def started(out, *flags, epochs=200, **options):
    """Start a training."""
    command = [*LMSM, "train", *FIXED, "--epochs", str(epochs), "--out", str(out), *flags]
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, **given)


def run_of(process, out, num_epochs=1):
    """Wait until a run has done so many epochs; return its folder."""
    deadline = time.monotonic() + SECONDS
    while True:
        for rows in out.glob("*/metrics.jsonl"):
            if rows.read_text().count("\n") >= num_epochs:
                return rows.parent
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def resumed(path, *flags):
    """Go on with a run by the real command; return what it printed."""
    done = subprocess.run(
        [*LMSM, "resume", str(path), *flags],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def status(path):
    """Return where a run stands."""
    found = json.loads((path / "status.json").read_text())
    return found["state"], found["exit_code"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_signal_stops_after_the_step_and_saves(tmp_path, number, code):
    """The command to resume is printed, the status says interrupted, and there is no traceback."""
    with started(tmp_path) as process:
        path = run_of(process, tmp_path)
        process.send_signal(number)
        out, said = process.communicate(timeout=SECONDS)
    assert process.returncode == code
    assert re.search(f"stopped by {number.name} (in|after) epoch", said)
    assert f"`lmsm resume {path}` continues it" in said
    assert "Traceback" not in said
    assert out == ""
    assert status(path) == ("interrupted", code)
    plain_state(path / "checkpoint.pt")
    assert not list(path.glob(".*.tmp"))


def test_two_signals_stop_at_once(tmp_path):
    """Whatever the second one interrupts, code and status tell, and the checkpoint is good."""
    with started(tmp_path) as process:
        path = run_of(process, tmp_path)
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert status(path) == ("interrupted", 130)
    plain_state(path / "checkpoint.pt")
    assert not list(path.glob(".*.tmp"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("seconds", [0.7, 1.5, 2.5])
def test_a_signal_before_the_training_ends_it(tmp_path, number, code, seconds):
    """While torch is imported or the data is read there is nothing to save, and no traceback."""
    with started(tmp_path) as process:
        time.sleep(seconds)
        process.send_signal(number)
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == code, said
    assert "Traceback" not in said


def test_a_terminal_that_goes_away_does_not_hurt(tmp_path):
    """With SIGHUP, and nobody reading stdout and stderr, the run goes on to its end."""
    process = started(tmp_path, epochs=60)
    path = run_of(process, tmp_path)
    process.send_signal(signal.SIGHUP)
    process.stdout.close()
    process.stderr.close()
    process.wait(SECONDS)
    assert process.returncode == 0
    assert status(path) == ("completed", 0)


def test_closed_streams_do_not_hurt(tmp_path):
    """Started with stdout and stderr closed, a run is made all the same."""
    command = " ".join(
        [*LMSM, "train", *FIXED, "--epochs", "1", "--out", str(tmp_path), ">&-", "2>&-"]
    )
    subprocess.run(["sh", "-c", command], timeout=SECONDS, check=False)
    (path,) = tmp_path.iterdir()
    assert status(path) == ("completed", 0)


def test_a_disk_that_fills_up_keeps_the_last_checkpoint(tmp_path):
    """Exit code 6 names the file and the room; the checkpoint before can be resumed later."""
    with started(tmp_path / "full", epochs=40) as process:
        path = run_of(process, tmp_path / "full", 2)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 6
    assert "checkpoint.pt could not be saved" in said
    assert "MB are free there" in said
    assert "Traceback" not in said
    assert status(path) == ("failed", 6)
    assert not list(path.glob(".*.tmp"))
    plain_state(path / "checkpoint.pt")
    resumed(path)
    assert status(path) == ("completed", 0)


def test_a_deleted_run_folder_ends_the_run(tmp_path):
    """Exit code 6, by name, without a traceback."""
    with started(tmp_path) as process:
        path = run_of(process, tmp_path)
        path.rename(tmp_path / "gone")
        _, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 6
    assert str(path) in said
    assert "Traceback" not in said


def test_two_processes_on_one_run_and_a_killed_one(tmp_path):
    """The second is refused with the first's number; once that one is killed, the lock is open.

    The end has the bits of a run that nobody disturbed.
    """
    with started(tmp_path / "killed", epochs=12) as process:
        path = run_of(process, tmp_path / "killed")
        while not (path / "checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGSTOP)  # it must not end before the second has begun
        second = subprocess.run(
            [*LMSM, "resume", str(path)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        process.kill()
        process.communicate()
    assert second.returncode == 2
    assert f"is in use by process {process.pid} on {socket.gethostname()}" in second.stderr
    assert f"{path}: continues after epoch" in resumed(path).stderr
    assert "nothing to do" in resumed(path).stderr
    whole = started(tmp_path / "whole", epochs=12)
    assert whole.communicate(timeout=SECONDS)
    assert_same_bits(path, next((tmp_path / "whole").iterdir()))


def test_runs_of_the_same_second_get_a_folder_each(tmp_path):
    """Four at once, one name: four run folders."""
    processes = [started(tmp_path, epochs=1) for _ in range(4)]
    for process in processes:
        process.communicate(timeout=SECONDS)
    assert [process.returncode for process in processes] == [0] * 4
    assert len(list(tmp_path.iterdir())) == 4


def test_train_resumes_too(tmp_path):
    """`lmsm train --resume RUN` goes on; a changed flag is exit code 2, with the difference."""
    with started(tmp_path, epochs=3) as process:
        path = run_of(process, tmp_path)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=SECONDS)
    command = [*LMSM, "train", "--resume", str(path)]
    refused = subprocess.run(
        [*command, "--lr", "0.5"], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert refused.returncode == 2
    assert "lr was 0.05, and 0.5 is asked for" in refused.stderr
    done = subprocess.run(
        [*command, "--epochs", "4", "--json"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epoch"] == 4


CODES = {
    0: ["train", *FIXED, "--epochs", "1"],
    2: ["train", "--epochs", "0"],
    3: ["train", "--dataset", "folder", "--data-dir", "nothing"],
    4: ["eval", "broken.pt"],
    5: [
        "train",
        *FIXED,
        "--lr",
        "1e18",
        "--optimizer",
        "sgd",
        "--schedule",
        "constant",
        "--neck",
        "linear",
        "--batch-size",
        "64",
    ],
    6: ["train", *FIXED, "--out", "broken.pt/runs"],
}


@pytest.mark.parametrize("code", CODES)
def test_exit_codes(tmp_path, code):
    """The real command ends with each code, without a traceback.

    1 is in test_torchrun.py, 7 in test_memory.py, 130 and 143 are above.
    """
    (tmp_path / "broken.pt").write_text("<html>")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [*LMSM, *CODES[code]],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(
    os.geteuid() == 0 and not shutil.which("setpriv"), reason="root may write everywhere"
)
def test_a_run_folder_that_is_read_only_is_refused(tmp_path):
    """Exit code 6 before any training, named by the folder."""
    with started(tmp_path, epochs=100) as process:
        path = run_of(process, tmp_path)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)
    for file in (path, *path.iterdir(), tmp_path, *tmp_path.parents[:3]):
        file.chmod(0o555 if file in (path, *path.iterdir()) else 0o755)
    (path / ".lock").chmod(0o444)
    user = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*user, *LMSM, "resume", str(path)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    path.chmod(0o755)
    assert done.returncode == 6, done.stderr
    assert str(path) in done.stderr
