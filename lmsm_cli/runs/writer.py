"""Checkpoints are written by a thread of their own, so that a training does not wait for the disk.

Each epoch leaves a snapshot in memory. The best on validation is written at once, the newest every
few seconds, and all that wait when the training ends, however it does, or is stopped: only a kill
or a power cut loses epochs, those of the last seconds.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Any

import torch
from torch import Tensor

from lmsm_cli.errors import LmsmError
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import RunFolder

# Seconds from the beginning of one write to that of the next. Less loses less in a power cut, and
# takes more of the processor and the disk.
INTERVAL = 5.0


@dataclass(frozen=True)
class Snapshot:
    """The state of a checkpoint, apart from all that the training goes on to change."""

    state: dict[str, Any]
    is_best: bool
    """Whether its epoch is the best on validation so far."""

    @classmethod
    def of(cls, state: dict[str, Any], *, is_best: bool, device: torch.device) -> "Snapshot":
        """Copy a state from the `device` into the host's memory; call it between two steps."""
        copied = _copied(state)
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # once, for all copies
        return cls(copied, is_best)

    def write(self, folder: RunFolder) -> None:
        """Save the checkpoint, keep the one before, and bring best.pt up to date.

        Raises DiskError.
        """
        folder.sync_metrics()
        if folder.checkpoint.exists():
            checkpoint.duplicate(folder.checkpoint, folder.previous_checkpoint)
        checkpoint.save(self.state, folder.checkpoint)
        if self.is_best:
            checkpoint.duplicate(folder.checkpoint, folder.best_checkpoint)


def _copied(value: Any) -> Any:
    """Copy tensors, dicts and lists; of a tensor on a GPU the copy is only begun."""
    if isinstance(value, Tensor):
        # From a GPU this is only begun, into pinned memory that torch takes for it.
        return value.to("cpu", non_blocking=True, copy=True)
    if isinstance(value, dict):
        return {key: _copied(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_copied(one) for one in value]
    return value


@contextmanager
def checkpoint_writer(folder: RunFolder) -> Iterator["CheckpointWriter"]:
    """Write the snapshots that the body gives; afterwards all are written, and the thread is gone.

    Raises DiskError where one could not be saved, in place of an LmsmError that came after it.
    """
    writer = CheckpointWriter(folder)
    thread = Thread(target=writer.run, name="checkpoints")
    thread.start()
    try:
        try:
            yield writer
        except LmsmError:
            writer.flush()
            raise
        writer.flush()
        folder.sync_metrics()  # the last row came after its snapshot
    finally:
        writer.close()
        thread.join()


class CheckpointWriter:
    """What the thread of a training and the one that writes its checkpoints share.

    At most two snapshots wait: the newest, and before it the best, where it isn't the newest.
    """

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._changed = Condition()
        self._waiting: list[Snapshot] = []
        self._is_writing = self._is_hurried = self._is_closed = False
        self._due = time.monotonic()
        self._error: BaseException | None = None

    def put(self, snapshot: Snapshot) -> None:
        """Have a snapshot written, in place of older ones that wait. Raises what a write raised."""
        with self._changed:
            self._raise()
            kept = [one for one in self._waiting if one.is_best and not snapshot.is_best]
            self._waiting = [*kept, snapshot]
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all snapshots are written. Raises what a write raised."""
        with self._changed:
            self._is_hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting and not self._is_writing)
            self._is_hurried = False
            self._raise()

    def close(self) -> None:
        """Let `run` end, once what waits is written."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def run(self) -> None:
        """Write what is put, as long as the disk takes it; in a thread of its own."""
        while self._write_next():
            pass

    def _write_next(self) -> bool:
        """Write a snapshot as soon as one is due; return False where nothing more can come."""
        with self._changed:
            while not self._is_next_due():
                if self._is_closed and not self._waiting:
                    return False
                self._changed.wait(self._due - time.monotonic() if self._waiting else None)
            snapshot = self._waiting.pop(0)
            self._is_writing, self._due = True, time.monotonic() + INTERVAL
        try:
            snapshot.write(self._folder)
        except BaseException as error:  # whatever it is, the training's thread raises it
            self._error = error
        with self._changed:
            self._is_writing = False
            if self._error:
                self._waiting.clear()
            self._changed.notify_all()
            return self._error is None

    def _is_next_due(self) -> bool:
        if not self._waiting:
            return False
        at_once = self._is_hurried or self._is_closed or self._waiting[0].is_best
        return at_once or time.monotonic() >= self._due

    def _raise(self) -> None:
        """Raise what a write raised, once."""
        error, self._error = self._error, None
        if error:
            try:
                raise error
            finally:
                del error  # its traceback has this frame, which would keep the training alive
