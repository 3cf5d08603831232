"""Checkpoints that are written while the training goes on: exact, in order, none lost, no error."""

import os
import threading
import time

import pytest
import torch

from lmsm_cli.errors import DiskError, DivergedError, StoppedError
from lmsm_cli.runs import checkpoint, writer
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.writer import Snapshot, checkpoint_writer
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, digits_config, plain_state
from tests.test_resume import Stopping, assert_same_bits

CPU = torch.device("cpu")
PATIENCE = 60  # seconds, until a thread that never comes is a failure


@pytest.fixture
def folder(tmp_path):
    """An empty run folder."""
    return RunFolder.create(tmp_path, "run")


@pytest.fixture(autouse=True)
def no_thread_is_left():
    """Whatever happened, the thread that writes is gone."""
    yield
    assert "checkpoints" not in [thread.name for thread in threading.enumerate()]


class Disk:
    """A disk that notes the epochs of the checkpoints, and takes them only while it is open."""

    def __init__(self, monkeypatch):
        self.began, self.epochs = threading.Semaphore(0), []
        self.opened = threading.Event()
        self.opened.set()
        self._save = checkpoint.save
        monkeypatch.setattr(checkpoint, "save", self.save)

    def save(self, state, path):
        """Save as usual, once the disk is open."""
        self.began.release()
        assert self.opened.wait(PATIENCE)
        self._save(state, path)
        self.epochs.append(state["epoch"])


@pytest.fixture
def disk(monkeypatch):
    """The disk under all checkpoints."""
    return Disk(monkeypatch)


def snapshot(epoch, *, is_best=False):
    """Return the snapshot of an epoch."""
    return Snapshot.of({"epoch": epoch}, is_best=is_best, device=CPU)


def epoch_in(file):
    """Return the epoch of a file that holds one."""
    return torch.load(file)["epoch"]


def test_a_snapshot_is_apart_from_the_training():
    """Tensors, of any layout, lists and dicts may change afterwards: the snapshot does not."""
    weight = torch.arange(24.0).reshape(2, 3, 2, 2).permute(0, 2, 3, 1)
    rows, best = [{"epoch": 1}], {"epoch": 1}
    state = {"model": {"weight": weight}, "journal": {"rows": rows, "best": best}, "none": None}
    before = weight.clone()
    kept = Snapshot.of(state, is_best=False, device=CPU).state
    weight += 1
    rows.append({"epoch": 2})
    rows[0]["epoch"] = best["epoch"] = 7
    assert torch.equal(kept["model"]["weight"], before)
    assert kept["journal"] == {"rows": [{"epoch": 1}], "best": {"epoch": 1}}
    assert kept["none"] is None


def test_a_newer_epoch_replaces_one_that_waits_but_never_the_best(folder, disk):
    """While the disk is busy two wait at most; best.pt is the last best, checkpoint.pt the end."""
    disk.opened.clear()
    with checkpoint_writer(folder) as written:
        for epoch in range(1, 8):
            written.put(snapshot(epoch, is_best=epoch in (2, 4)))
            if epoch == 1:
                assert disk.began.acquire(timeout=PATIENCE)
        disk.opened.set()
    assert disk.epochs == [1, 4, 7]
    assert epoch_in(folder.checkpoint) == 7
    assert epoch_in(folder.previous_checkpoint) == 4
    assert epoch_in(folder.best_checkpoint) == 4


def test_a_best_epoch_replaces_all_that_wait(folder, disk):
    """Those before it are neither the newest nor the best any more."""
    disk.opened.clear()
    with checkpoint_writer(folder) as written:
        for epoch, is_best in ((1, False), (2, True), (3, False), (4, True)):
            written.put(snapshot(epoch, is_best=is_best))
            if epoch == 1:
                assert disk.began.acquire(timeout=PATIENCE)
        disk.opened.set()
    assert disk.epochs == [1, 4]
    assert epoch_in(folder.best_checkpoint) == 4


def test_epochs_are_written_every_few_seconds_and_the_best_at_once(folder, disk, monkeypatch):
    """The first is written at once, the next only when it is time, but for the best."""
    monkeypatch.setattr(writer, "INTERVAL", 0.5)
    begun = time.monotonic()
    with checkpoint_writer(folder) as written:
        for epoch in (1, 2):
            written.put(snapshot(epoch))
            assert disk.began.acquire(timeout=PATIENCE)
        assert time.monotonic() - begun >= 0.5
        monkeypatch.setattr(writer, "INTERVAL", 2 * PATIENCE)
        for epoch in (3, 4):
            written.put(snapshot(epoch, is_best=True))
            assert disk.began.acquire(timeout=PATIENCE)
        written.put(snapshot(5))
        assert not disk.began.acquire(timeout=0.1)
    assert disk.epochs == [1, 2, 3, 4, 5]


def full(*_):
    """Fail as a full disk does."""
    raise DiskError("checkpoint.pt could not be saved: No space left on device")


@pytest.mark.parametrize("how", ["put", "flush", "end"])
def test_what_the_disk_refused_reaches_the_training(folder, monkeypatch, how):
    """At the next epoch, where one is waited for, or at the end."""
    failed, came = threading.Event(), []

    def fail(*_):
        failed.set()
        full()

    def train():
        with checkpoint_writer(folder) as written:
            written.put(snapshot(1))
            assert failed.wait(PATIENCE)
            for _ in range(500 if how == "put" else 0):
                written.put(snapshot(2))
                time.sleep(0.01)
            if how == "flush":
                written.flush()
            came.append("the end")

    monkeypatch.setattr(checkpoint, "save", fail)
    with pytest.raises(DiskError, match="No space left"):
        train()
    assert came == (["the end"] if how == "end" else [])


def train_until(error, folder):
    """Give three epochs to be written, then raise an error."""
    with checkpoint_writer(folder) as written:
        for epoch in (1, 2, 3):
            written.put(snapshot(epoch))
        raise error


ERRORS = {DivergedError("NaN"): DiskError, KeyboardInterrupt(): KeyboardInterrupt}


@pytest.mark.parametrize(("error", "told"), ERRORS.items(), ids=["diverged", "twice Ctrl-C"])
def test_an_error_of_the_disk_came_before_that_of_the_training(folder, monkeypatch, error, told):
    """It is told in place of an error in words: that would let one think that all was saved."""
    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(told):
        train_until(error, folder)


@pytest.mark.parametrize("error", [*ERRORS, ValueError("a bug")])
def test_however_a_training_ends_its_last_epoch_is_saved(folder, disk, error):
    """Nothing that was finished is lost but by a kill."""
    with pytest.raises(type(error)):
        train_until(error, folder)
    assert disk.epochs[-1] == epoch_in(folder.checkpoint) == 3


def test_rows_are_on_the_disk_before_the_checkpoint_that_counts_on_them(folder, monkeypatch):
    """A power cut between the two leaves a row too many, which a resume cuts off."""
    flushed = []
    folder.append_metrics({"epoch": 1})
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.fstat(file).st_ino))
    snapshot(2).write(folder)
    assert flushed[0] == folder.metrics.stat().st_ino
    assert folder.checkpoint.stat().st_ino in flushed[1:]


class Watching(SilentDisplay):
    """Opens the disk in the third epoch, and stops in its fifth step where that is asked for."""

    def __init__(self, disk, stopping=None):
        super().__init__()
        self.disk, self.stopping = disk, stopping

    def step(self, step):
        """Count."""
        if step.epoch == 3:
            self.disk.opened.set()
        if self.stopping:
            self.stopping.step(step)


def test_a_training_does_not_wait_and_ends_with_the_same_bits(digits_run, disk, tmp_path):
    """The disk takes nothing until the third of three epochs; the files are as ever."""
    disk.opened.clear()
    path = start_run(digits_config(tmp_path), Watching(disk), with_plots=False).path
    assert_same_bits(path, digits_run)
    assert disk.epochs[-1] == 3
    assert len(disk.epochs) == len(set(disk.epochs)) <= 3
    best = plain_state(path / "checkpoint.pt")["journal"]["best"]["epoch"]
    assert plain_state(path / "best.pt")["epoch"] == best
    assert_same_bits(path, digits_run, "best.pt")


def test_a_signal_waits_for_its_own_checkpoint(disk, tmp_path):
    """What says `and saved` is true: the step at which the training stood is on the disk."""
    disk.opened.clear()
    display = Watching(disk, Stopping(2 * 7 + 2))
    with pytest.raises(StoppedError, match="and saved"):
        start_run(digits_config(tmp_path), display, with_plots=False)
    (path,) = tmp_path.iterdir()
    position = plain_state(path / "checkpoint.pt")["position"]
    assert (position["epoch"], position["step"]) == (2, 2)
    assert not list(path.glob(".*.tmp"))


def test_a_full_disk_ends_a_training_with_its_code(disk, tmp_path, monkeypatch):
    """Code 6 and the message of today, in the epoch after; the checkpoint before is good."""
    before = checkpoint.torch.save
    left = [1]

    def fills_up(state, file):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        before(state, file)

    monkeypatch.setattr(writer, "INTERVAL", 0)
    monkeypatch.setattr(checkpoint.torch, "save", fills_up)
    with pytest.raises(DiskError, match=r"checkpoint\.pt could not be saved: No space left"):
        start_run(digits_config(tmp_path, epochs=30), SilentDisplay(), with_plots=False)
    (path,) = tmp_path.iterdir()
    assert len((path / "metrics.jsonl").read_text().splitlines()) < 30
    assert '"exit_code": 6' in (path / "status.json").read_text()
    assert plain_state(path / "checkpoint.pt")["epoch"] == disk.epochs[-1]
