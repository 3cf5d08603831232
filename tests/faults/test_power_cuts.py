"""A power cut at any moment of a save loses what was not flushed to the disk, and no good state.

The calls of one save that change files, names and what is on the disk are recorded, and replayed to
each of their moments without what was not yet flushed: a file has the bytes of its last fsync,
and of the renames since the folder's last fsync any first ones have happened.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lmsm_cli.config import Config
from lmsm_cli.data.splits import Data
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runs.contents import Position
from lmsm_cli.runs.folder import RunFolder, write_whole
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.training.loop import Trainer
from lmsm_cli.training.resume import History, _newest, snapshot_of
from tests.conftest import image_set, plain_state

Contents = dict[str, bytes]  # of a folder, by name

CONFIG = Config(dataset="digits", model="paper-2d", epochs=3, optimizer="sgd", validation=0.5)


class Recorder:
    """The moments of a folder: what is surely on its disk, and under which names that may be."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, ignored: str = "") -> None:
        self.folder = folder
        self.flushed = {os.stat(file).st_ino: file.read_bytes() for file in folder.iterdir()}  # noqa: PTH116
        self.namings = [self._names()]  # since the folder's last fsync
        self.moments: list[list[Contents]] = []
        for name in ("open", "replace", "link", "unlink"):
            monkeypatch.setattr(os, name, self._recorded(getattr(os, name)))
        monkeypatch.setattr(os, "fsync", lambda file: self._fsync(file, ignored))

    def _names(self) -> dict[str, int]:
        return {entry.name: entry.inode() for entry in os.scandir(self.folder)}

    def _recorded(self, call: Callable[..., object]) -> Callable[..., object]:
        def recorded(*given: object, **more: object) -> object:
            before = self._names()
            result = call(*given, **more)
            after = self._names()
            for number in set(after.values()) - set(before.values()):
                self.flushed[number] = b""  # perhaps the number of a file that is gone
            if after != before:
                self.namings.append(after)
                self._note()
            return result

        return recorded

    def _fsync(self, file: int, ignored: str) -> None:
        info = os.fstat(file)
        if stat.S_ISDIR(info.st_mode):
            if ignored != "folder":
                self.namings = [self._names()]
        elif ignored != "data":
            self.flushed[info.st_ino] = os.pread(file, info.st_size, 0)
        self._note()

    def _note(self) -> None:
        """Note what a power cut now could leave."""
        self.moments.append(
            [
                {name: self.flushed[number] for name, number in names.items()}
                for names in self.namings
            ]
        )


def folders_after(moments: list[list[Contents]], root: Path) -> Iterator[Path]:
    """Write down each different folder that a cut could leave at one of these moments."""
    seen: list[Contents] = []
    for contents in (one for moment in moments for one in moment):
        if contents not in seen:
            seen.append(contents)
            folder = root / str(len(seen))
            folder.mkdir(parents=True)
            for name, content in contents.items():
                (folder / name).write_bytes(content)
            yield folder


class Saving:
    """A run that saves epoch after epoch, each the best so far."""

    def __init__(self, path: Path) -> None:
        torch.manual_seed(0)
        self.folder, self.history = RunFolder(path), History()
        model = build_classifier(
            ModelSpec("paper-2d", "linear", "softmax"), classes=("a", "b"), mean=(0.5,), std=(0.2,)
        )
        pixels, labels = torch.zeros(8, 8, 8, 1, dtype=torch.uint8), torch.arange(8) % 2
        images = image_set(pixels, labels, "ab")
        cpu = Runtime(torch.device("cpu"))
        self.trainer = Trainer.create(model, CONFIG, Data(images, None, images), cpu)

    def save(self, epoch: int) -> None:
        """Save an epoch."""
        self.history.rows.append({"epoch": epoch, "seconds": 1.0, "images_per_second": 1.0})
        self.history.best = {"epoch": epoch, "val_balanced_accuracy": 0.5}
        snapshot_of(self.trainer, self.history, Position(epoch=epoch)).write(self.folder)


def epochs_of(folder: Path) -> tuple[int, int]:
    """Return the epoch that a run would go on from, and that of its best.pt."""
    state, _ = _newest(RunFolder(folder), lambda text: None, strict=False)
    return state.epoch if state else 0, plain_state(folder / "best.pt")["epoch"]


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Return a function that records the save of a third epoch, with a kind of fsync left out."""

    def record(ignored: str = "") -> Recorder:
        (tmp_path / "run").mkdir()
        saving = Saving(tmp_path / "run")
        for epoch in (1, 2):
            saving.save(epoch)
        with monkeypatch.context() as patched:
            recorder = Recorder(tmp_path / "run", patched, ignored)
            saving.save(3)
        return recorder

    return record


def test_a_power_cut_at_any_moment_leaves_a_good_checkpoint(recorded, tmp_path):
    """The run goes on from the epoch before or from the new one; once saved, from the new one."""
    recorder = recorded()
    assert len(recorder.moments) > 10
    for folder in folders_after(recorder.moments, tmp_path / "during"):
        newest, best = epochs_of(folder)
        assert newest in (2, 3)
        assert best in (2, 3)
    after = list(folders_after(recorder.moments[-1:], tmp_path / "after"))
    assert [epochs_of(folder) for folder in after] == [(3, 3)]


@pytest.mark.parametrize("ignored", ["data", "folder"])
def test_without_one_of_the_flushes_the_save_could_be_lost(recorded, tmp_path, ignored):
    """Without the fsync of the data or of the folder an old epoch is left, or no good file."""
    recorder = recorded(ignored)
    after = [
        path / "checkpoint.pt" for path in folders_after(recorder.moments[-1:], tmp_path / "after")
    ]
    assert not all(path.stat().st_size and plain_state(path)["epoch"] == 3 for path in after)


def test_a_power_cut_leaves_a_text_old_or_new(tmp_path, monkeypatch):
    """scores.json and the like are whole at any moment, and the new ones once they are written."""
    (tmp_path / "run").mkdir()
    write_whole(tmp_path / "run" / "x", "old")
    with monkeypatch.context() as patched:
        recorder = Recorder(tmp_path / "run", patched)
        write_whole(tmp_path / "run" / "x", "new")
    texts = {contents["x"] for moment in recorder.moments for contents in moment}
    assert texts == {b"old", b"new"}
    # the temporary file is gone, though perhaps not yet on the disk
    assert {contents["x"] for contents in recorder.moments[-1]} == {b"new"}
