"""Several processes of one training, as torchrun starts them, through the real command."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest
import torch

from lmsm_cli import load_checkpoint
from tests.conftest import plain_state

pytestmark = pytest.mark.slow

TORCHRUN = [
    sys.executable,
    "-m",
    "torch.distributed.run",
    "--nproc-per-node",
    "2",
    "--rdzv-backend",
    "c10d",
    "--rdzv-endpoint",
    "localhost:0",
]
DIGITS = ["train", "--preset", "digits", "--device", "cpu"]


def run(command, **options):
    """Run a command to its end; return it with its output."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240, check=False, **options
    )


def finished(out):
    """Return the one run folder's scores and rows."""
    (folder,) = out.iterdir()
    assert json.loads((folder / "status.json").read_text())["state"] == "completed"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return json.loads((folder / "scores.json").read_text()), rows


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Digits on one process and on two, one thread each: (scores, rows), and what two printed."""
    root = tmp_path_factory.mktemp("ranks")
    flags = [*DIGITS, "--precision", "fp32", "--lr", "0.001"]  # the preset's blows rounding up
    one = run(
        [sys.executable, "-m", "lmsm_cli", *flags, "--threads", "1", "--out", str(root / "1")]
    )
    flags += ["--verbose"]
    two = run([*TORCHRUN, "-m", "lmsm_cli", *flags, "--threads", "2", "--out", str(root / "2")])
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    return finished(root / "1"), finished(root / "2"), two


def test_two_ranks_give_the_scores_of_one_process(both):
    """The first epoch's mean loss agrees to 0.2%, and the test accuracy after ten to two points.

    Sums are rounded in another order, which grows from step to step (with float64 two ranks equal
    one to 1e-10, tests/test_distributed.py).
    """
    (scores, rows), (others, other_rows), _ = both
    assert other_rows[0]["train_loss"] == pytest.approx(rows[0]["train_loss"], rel=0.002)
    assert other_rows[0]["objective"] == pytest.approx(rows[0]["objective"], rel=0.005)
    for name in ("accuracy", "balanced_accuracy"):
        assert others[name] == pytest.approx(scores[name], abs=0.02)
    assert others["per_class"][0]["train_count"] == scores["per_class"][0]["train_count"]


def test_the_first_rank_alone_prints_and_writes(both):
    """There is one table, one line an epoch, and one line that names the processes."""
    two = both[2]
    assert two.stdout.count("Per class, in percent") == 1
    assert two.stderr.count("epoch  1/10") == 1
    assert "2 processes" in two.stderr


def test_a_small_learning_rate_shows_that_the_rest_is_rounding(tmp_path):
    """With lr 0.0003 an epoch's losses agree to 1e-4, weights, last batch and validation included.

    From 0.001 on the steps blow rounding up, by how much depends on the processor: one process with
    two threads differs as much from itself with one (benchmarks/LOG.md).
    """
    flags = [
        *DIGITS,
        "--precision",
        "fp32",
        "--epochs",
        "1",
        "--lr",
        "0.0003",
        # a user's loss, which each process imports, and two labels for an image
        "--loss",
        "torch.nn:CrossEntropyLoss:reduction=none",
        "--mixup",
        "0.4",
        "--reweight",
        "inverse",
    ]
    one = run(
        [sys.executable, "-m", "lmsm_cli", *flags, "--threads", "1", "--out", str(tmp_path / "1")]
    )
    two = run([*TORCHRUN, "-m", "lmsm_cli", *flags, "--threads", "2", "--out", str(tmp_path / "2")])
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    (_, rows), (_, others) = finished(tmp_path / "1"), finished(tmp_path / "2")
    for own, other in zip(rows, others, strict=True):
        for name in ("train_loss", "val_loss", "objective", "feature_norm"):
            assert other[name] == pytest.approx(own[name], rel=1e-4), name


def ranks_environment(rank):
    """Return what torchrun sets for one of two processes, on a free port."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "localhost",
    }


# The command line with a rank 1 that comes to the check when rank 0 has long failed there.
LATE = """
import time
from lmsm_cli.commands.app import script
from lmsm_cli.distributed.process_group import ProcessGroup

check = ProcessGroup.check_batch_size
ProcessGroup.check_batch_size = lambda ranks, size: (time.sleep(3 * ranks.rank), check(ranks, size))
script()
"""


@pytest.mark.parametrize("program", [["-m", "lmsm_cli"], ["-c", LATE]], ids=["alike", "late"])
def test_a_batch_that_two_ranks_cannot_share_is_refused_once(tmp_path, program):
    """Both processes end with code 2, and one of them says which batch sizes work."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = {"MASTER_PORT": str(free.getsockname()[1])}
    command = [
        sys.executable,
        *program,
        *DIGITS,
        "--batch-size",
        "33",
        "--out",
        str(tmp_path / "runs"),
    ]
    processes = [
        subprocess.Popen(
            command, env=ranks_environment(r) | port, stderr=subprocess.PIPE, text=True
        )
        for r in (0, 1)
    ]
    said = "".join(process.communicate(timeout=60)[1] for process in processes)
    assert [process.returncode for process in processes] == [2, 2]
    assert said.count("batch_size is 33: 2 processes cannot share it equally; use 32 or 34") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_others_and_the_checkpoint_stays(tmp_path, victim):
    """Within 30 s of a SIGKILL nothing runs, the exit code tells, and checkpoint.pt loads."""
    command = [*TORCHRUN, "-m", "lmsm_cli", *DIGITS, "--epochs", "500", "--out", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as agent:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*/checkpoint.pt")):
            assert time.monotonic() < deadline
            assert agent.poll() is None
            time.sleep(0.2)
        ranks = psutil.Process(agent.pid).children()
        numbered = {int(rank.environ()["RANK"]): rank for rank in ranks}
        numbered[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        assert agent.wait(timeout=60) != 0
        _, alive = psutil.wait_procs(ranks, timeout=10)
        assert not alive
        assert time.monotonic() - killed < 30
    (folder,) = tmp_path.iterdir()
    assert load_checkpoint(folder).classes == tuple("0123456789")


def test_ranks_that_are_stopped_go_on_together(tmp_path):
    """SIGTERM to torchrun stops all ranks after one step, saved; resumed, they end as ever."""
    flags = [*DIGITS, "--precision", "fp32", "--epochs", "8"]
    with subprocess.Popen(
        [*TORCHRUN, "-m", "lmsm_cli", *flags, "--out", str(tmp_path / "left")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as agent:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("left/*/checkpoint.pt")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        agent.send_signal(signal.SIGTERM)
        _, said = agent.communicate(timeout=60)
    (path,) = (tmp_path / "left").iterdir()
    status = json.loads((path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", 143), said
    assert said.count("stopped by SIGTERM in epoch") == 1
    done = run([*TORCHRUN, "-m", "lmsm_cli", "resume", str(path)])
    assert done.returncode == 0, done.stderr
    whole = run([*TORCHRUN, "-m", "lmsm_cli", *flags, "--out", str(tmp_path / "whole")])
    assert whole.returncode == 0, whole.stderr
    (other,) = (tmp_path / "whole").iterdir()
    one, two = plain_state(path / "checkpoint.pt"), plain_state(other / "checkpoint.pt")
    assert one["model"].keys() == load_checkpoint(path).state_dict().keys()  # no `module.` before
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key


def test_a_lost_rank_is_exit_code_1(tmp_path):
    """Without torchrun to end it, rank 0 ends by itself, with code 1 and the name of the other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = {"MASTER_PORT": str(free.getsockname()[1])}
    command = [sys.executable, "-m", "lmsm_cli", *DIGITS, "--epochs", "500", "--out", str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command,
            env=ranks_environment(r) | port,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for r in (0, 1)
    ]
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("*/checkpoint.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks[1].kill()
    _, said = ranks[0].communicate(timeout=40)
    ranks[1].communicate()
    assert ranks[0].returncode == 1
    assert "error: rank 1 was lost" in said
    assert "Traceback" not in said
