"""Sums through shared memory: exact, bounded by no slot, and ended when a rank is."""

import os
import platform
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from lmsm_cli.distributed import shared_memory
from lmsm_cli.distributed.shared_memory import LostRankError, SharedMemory, opened

HAS_MEMORY = sys.platform == "linux" and platform.machine() == "x86_64"
pytestmark = pytest.mark.skipif(not HAS_MEMORY, reason="needs Linux on x86")

ROOT = Path(__file__).parent.parent
NUM = 3_000_001  # float32: twelve megabytes, three slots, the last of them not full


def as_rank(work):
    """Run a function of this file as the rank, of the number and folder, that the command line says."""
    rank, size, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size
    )
    memory = opened(rank, size, timedelta(seconds=float(sys.argv[4])))
    assert memory is not None
    work(memory, rank, size, folder)
    # No clean end: the others may be gone.
    sys.stdout.flush()
    os._exit(0)


def start(work, folder, size, seconds=60):
    """Start the ranks that run a function of this file."""
    code = f"from tests.test_shared_memory import *; as_rank({work.__name__})"
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(size), str(folder), str(seconds)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


def numbers(rank, dtype):
    """Return a rank's numbers: integers, so that their sums are exact."""
    generator = torch.Generator().manual_seed(rank)
    return torch.randint(-100, 100, (NUM,), generator=generator).to(dtype)


def sums(memory, rank, size, folder):
    """Save what a rank got: sums of several sizes and types, and many small turns."""
    found = {dtype: memory.add_(numbers(rank, dtype)) for dtype in (torch.float32, torch.int64)}
    found["stack"] = memory.stack(torch.arange(6.0).view(2, 3).t() + rank)
    found["scalar"] = memory.add_(torch.tensor(rank + 1.5))
    found["none"] = memory.add_(torch.zeros(0))
    found["turns"] = [memory.add_(torch.tensor([turn * (rank + 1)])).item() for turn in range(2000)]
    torch.save(found, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_sums_are_those_of_all_ranks(tmp_path, size):
    """Tensors larger than a slot, 0-dimensional, empty and transposed ones are added exactly."""
    processes = start(sums, tmp_path, size)
    said = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * size, said
    for rank in range(size):
        found = torch.load(tmp_path / f"{rank}.pt")
        for dtype in (torch.float32, torch.int64):
            assert torch.equal(found[dtype], sum(numbers(r, dtype) for r in range(size)))
        assert found["stack"].tolist() == [
            [[r, r + 3], [r + 1, r + 4], [r + 2, r + 5]] for r in range(size)
        ]
        assert found["scalar"].item() == sum(r + 1.5 for r in range(size))
        assert found["none"].shape == (0,)
        assert found["turns"] == [turn * sum(range(1, size + 1)) for turn in range(2000)]


@pytest.mark.slow
def test_nothing_stays_in_the_shared_folder(tmp_path):
    """The file has no name any more while the ranks use it."""
    processes = start(wait_for_the_others, tmp_path, 2)
    while not (tmp_path / "ready").exists():
        assert processes[0].poll() is None
        time.sleep(0.05)
    for process in processes:
        files = [str(link.readlink()) for link in Path(f"/proc/{process.pid}/fd").iterdir()]
        own = {name for name in files if name.startswith(f"{shared_memory.FOLDER}/lmsm-")}
        assert [name.endswith(" (deleted)") for name in own] == [True]
    for process in processes:
        process.kill()
        process.communicate()


def wait_for_the_others(memory, rank, size, folder):
    """Add, on rank 0, what no other rank adds; say what came of it."""
    if rank:
        (folder / "ready").touch()
        time.sleep(60)
    try:
        memory.add_(torch.ones(3))
    except LostRankError as error:
        print(error)


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "is_killed"), [(60, True), (2, False)])
def test_a_rank_that_does_not_come_is_given_up(tmp_path, seconds, is_killed):
    """A killed rank is noticed at once, though nobody has waited for it; a silent one by timeout."""
    waiting, silent = start(wait_for_the_others, tmp_path, 2, seconds)
    while not (tmp_path / "ready").exists():
        assert silent.poll() is None
        time.sleep(0.05)
    if is_killed:
        silent.send_signal(signal.SIGKILL)  # a zombie until the test ends
    began = time.monotonic()
    assert waiting.communicate(timeout=30)[0] == "rank 1 did not come\n"
    assert time.monotonic() - began < 10
    silent.kill()
    silent.communicate()


def test_without_room_there_is_none(monkeypatch, tmp_path):
    """Where the system has no memory for it, there is no file, and none is left behind."""

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(shared_memory, "FOLDER", str(tmp_path))
    assert shared_memory._created(2) is None
    assert not list(tmp_path.iterdir())


def test_other_processors_use_sockets(monkeypatch):
    """The order of stores is relied on, which ARM does not promise."""
    monkeypatch.setattr(shared_memory.platform, "machine", lambda: "aarch64")
    assert shared_memory._created(2) is None


def test_a_lock_of_its_own_is_needed(tmp_path):
    """The memory is of one rank: its lock is taken when it is made."""
    path = tmp_path / "memory"
    path.write_bytes(bytes(shared_memory._num_bytes(1)))
    memory = SharedMemory(os.open(path, os.O_RDWR), 0, 1, timedelta(seconds=1))
    code = f"import os, fcntl; fcntl.lockf(os.open({str(path)!r}, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0)"
    held = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "BlockingIOError" in held.stderr
    del memory
