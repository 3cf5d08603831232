"""How the ranks of one host add numbers: through memory that all of them map.

A step of a ResNet-18 has forty sums that every rank waits for, two for each BatchNorm. Over gloo's
sockets most of their time is waking up (benchmarks/LOG.md). Where the memory
can't be had, `opened` gives None, and gloo does it.
"""

import mmap
import os
import platform
import sys
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

if sys.platform == "linux":
    import fcntl

FOLDER = "/dev/shm"  # in memory; elsewhere the kernel would write the pages to a disk
SLOT = 4 * 2**20  # bytes a rank puts up at a time: what a core's cache holds beside the others'
_LINE = 8  # numbers of 8 bytes: ranks that wait for a turn must not share a cache line
_SPINS = 20_000  # about two milliseconds; a rank that sleeps wakes up too late
_NAP = 0.0002  # seconds, from then on
_LOOK = 0.5  # seconds between two looks whether the rank that is waited for is still there


class LostRankError(RuntimeError):
    """A rank that is waited for has ended, or does not come."""


class SharedMemory:
    """Memory of `size` ranks, in which every rank has two slots that it uses in turns.

    In each turn a rank fills its slot, says so, and waits for the others. It fills the same slot
    again two turns later: by then all have said that they were through with it. A rank holds a lock
    on its byte of the file, which the kernel opens when the rank ends, however it does.
    """

    def __init__(self, file: int, rank: int, size: int, timeout: timedelta) -> None:
        self._file, self._rank, self._timeout = file, rank, timeout
        self._others = [other for other in range(size) if other != rank]
        mapped = mmap.mmap(file, _num_bytes(size))
        head = 8 * _LINE * size
        self._turns = memoryview(mapped)[:head].cast("q")
        self._slots = torch.frombuffer(mapped, dtype=torch.uint8, offset=head).view(2, size, SLOT)
        self._turn = 0
        _lock(file, rank)

    def __del__(self) -> None:
        with suppress(OSError):
            os.close(self._file)

    def add_(self, values: Tensor) -> Tensor:
        """Replace a contiguous CPU tensor by its sum over the ranks, in their order; return it.

        So every rank has the same bits. Raises LostRankError.
        """
        for part in _parts(values):
            first, second, *others = self._exchanged(part)
            torch.add(first, second, out=part)
            for other in others:
                part.add_(other)
        return values

    def stack(self, values: Tensor) -> Tensor:
        """Return the tensors of all ranks (R, ...), which have the shape and type of this one.

        Raises LostRankError.
        """
        parts = [self._exchanged(part).clone() for part in _parts(values.contiguous())]
        return torch.cat(parts, dim=1).view(-1, *values.shape)

    def _exchanged(self, part: Tensor) -> Tensor:
        """Return the parts (R, n) of all ranks, there until the turn after the next."""
        self._turn += 1
        slots = self._slots[self._turn % 2].view(part.dtype)[:, : len(part)]
        slots[self._rank].copy_(part)
        # No other processor's stores are seen out of order on x86, so that who sees the turn sees
        # the slot.
        self._turns[self._rank * _LINE] = self._turn
        for other in self._others:
            self._wait_for(other)
        return slots

    def _wait_for(self, other: int) -> None:
        """Wait until another rank has filled its slot."""
        turns, place, turn = self._turns, other * _LINE, self._turn
        for _ in range(_SPINS):
            if turns[place] >= turn:
                return
        deadline = time.monotonic() + self._timeout.total_seconds()
        look = time.monotonic() + _LOOK
        while turns[place] < turn:
            time.sleep(_NAP)
            if (now := time.monotonic()) < look:
                continue
            if now > deadline or self._is_gone(other):
                raise LostRankError(f"rank {other} did not come")
            look = now + _LOOK

    def _is_gone(self, other: int) -> bool:
        """Return whether a rank has ended: then its lock can be had."""
        try:
            _lock(self._file, other)
        except OSError:
            return False
        return True


def opened(rank: int, size: int, timeout: timedelta) -> SharedMemory | None:
    """Open the memory that the ranks of this host share; None, on all of them, where one cannot.

    A collective. `timeout` is how long a rank waits for another.
    """
    path, file = [_created(size) if rank == 0 else None], None
    dist.broadcast_object_list(path)
    if path[0]:
        with suppress(OSError):  # a rank in a container of its own
            file = os.open(path[0], os.O_RDWR)
    all_have_it = torch.tensor([file is not None])
    dist.all_reduce(all_have_it.view(torch.uint8), dist.ReduceOp.MIN)
    if rank == 0 and path[0]:
        Path(path[0]).unlink()  # now, so that a rank that is killed leaves nothing behind
    memory = SharedMemory(file, rank, size, timeout) if all_have_it and file is not None else None
    dist.barrier()  # each lock is held before the first look at it
    return memory


def _created(size: int) -> str | None:
    """Make the file; None where there is no room for it, or where this module can't be relied on."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return None
    try:
        file, path = tempfile.mkstemp(prefix="lmsm-", dir=FOLDER)
    except OSError:
        return None
    try:
        # A write to a page that can't be had would end the process, and containers have 64 MB here.
        os.posix_fallocate(file, 0, _num_bytes(size))
    except OSError:
        Path(path).unlink()
        return None
    finally:
        os.close(file)
    return path


def _lock(file: int, rank: int) -> None:
    """Take the lock of a rank; raise OSError where it is held, which the rank does while it lives."""
    if sys.platform == "linux":
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, rank)


def _num_bytes(size: int) -> int:
    return size * (8 * _LINE + 2 * SLOT)


def _parts(values: Tensor) -> tuple[Tensor, ...]:
    """Return a contiguous tensor's numbers, in pieces that fit a slot."""
    return torch.split(values.view(-1), SLOT // values.element_size())
