"""The run folder as a run writes it; runs/record.py reads it back.

Whole files are replaced atomically, so a reader finds the old text or the new one. The folder may
come from anybody: what is written is a file of lmsm's own, never reached through a link. To add a
file, add a writer or a path to `RunFolder` and, where reports need it, to `read_run`.
"""

import contextlib
import itertools
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from lmsm_cli.errors import DiskError, LmsmError, visible, writing
from lmsm_cli.runs.documents import (
    Environment,
    ScoresDocument,
    State,
    Status,
    build,
    pretty_text,
    row_text,
)
from lmsm_cli.runtime.files import (
    check_own_file,
    check_own_folder,
    lock_of,
    opened_to_add,
    read_text,
    replacing,
    sync_file,
)


def run_name(dataset: str, model: str, loss_name: str, seed: int, now: datetime) -> str:
    """Return `<YYYYmmdd-HHMMSS>-<dataset>-<model>-<loss>-s<seed>`, safe as a file name.

    What is "", since another program's run does not tell it, is left out.
    """
    parts = (f"{now:%Y%m%d-%H%M%S}", dataset, model, loss_name, f"s{seed}")
    name = "-".join(filter(None, parts))
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


class _Place:
    """The path of a file or folder of a run, by its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, run: "RunFolder", owner: type) -> Path:
        return run.path / self._name


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, to write to; every writer raises DiskError where the disk refuses."""

    path: Path

    @classmethod
    def create(
        cls, out: Path, name: str, way_out: str = "choose another with --out"
    ) -> "RunFolder":
        """Make the folder `out/name`, or `name-2`, `name-3`, ... where that name is taken.

        Making it is atomic: two runs started in the same second get two folders.
        Raises DiskError where it cannot be made.
        """
        try:
            out.mkdir(parents=True, exist_ok=True)
            for number in itertools.count(1):
                path = out / (name if number == 1 else f"{name}-{number}")
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    return cls(path)
        except OSError as error:
            raise DiskError(
                f"cannot make a run folder in {out}: {reason_of(error)}; {way_out}"
            ) from None
        raise AssertionError("count() has no end")

    checkpoint = _Place("checkpoint.pt")
    previous_checkpoint = _Place("checkpoint-previous.pt")
    best_checkpoint = _Place("best.pt")
    metrics = _Place("metrics.jsonl")
    log = _Place("train.log")
    plots = _Place("plots")
    tensorboard = _Place("tensorboard")

    def write_config(self, text: str) -> None:
        """Write config.yaml."""
        write_whole(self.path / "config.yaml", text)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write environment.json."""
        write_whole(self.path / "environment.json", pretty_text(build(Environment, environment)))

    def write_status(self, state: State, reason: str = "", exit_code: int | None = None) -> None:
        """Write status.json, with the process and the host; `exit_code` is None while it runs."""
        status = {
            "state": state,
            "reason": reason,
            "exit_code": exit_code,
            "pid": os.getpid(),
            "host": platform.node(),
        }
        write_whole(self.path / "status.json", pretty_text(build(Status, status)))

    def write_scores(self, scores: ScoresDocument) -> None:
        """Write scores.json."""
        write_whole(self.path / "scores.json", pretty_text(scores))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one epoch to metrics.jsonl; infinite and undefined numbers become null.

        Half a line that a killed run left at the end is cut off first.
        """
        with writing(self.metrics), opened_to_add(self.metrics) as file:
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
            file.write(_encode(row_text(row)))

    def sync_metrics(self) -> None:
        """Put metrics.jsonl on the disk: its rows outlast a power cut.

        Call it before a checkpoint is saved that has the rows in its digest.
        """
        with writing(self.metrics), contextlib.suppress(FileNotFoundError):
            sync_file(self.metrics)

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write metrics.jsonl anew."""
        write_whole(self.metrics, "".join(map(row_text, rows)))

    @contextlib.contextmanager
    def locked(self, patience: float = 1.0) -> Iterator[None]:
        """Keep other processes from writing to this run; raise LmsmError where one does.

        Raises DiskError where the run's files would be written through links. The system opens the
        lock when the process ends, however it does. A process that only looks whether a run is in
        use holds the lock for a moment: `patience`, in seconds, is longer.
        """
        self._check_own()
        with writing(self.path / ".lock"):
            lock = lock_of(self.path / ".lock", timeout=patience)
        try:
            lock.acquire()
        except Timeout:
            raise LmsmError(f"{self.path} is in use{self._owner()}") from None
        except OSError as error:
            raise DiskError(f"cannot write in {self.path}: {reason_of(error)}") from None
        try:
            yield
        finally:
            lock.release()

    def _check_own(self) -> None:
        """Raise DiskError for links in place of what is added to; all else is replaced whole."""
        with writing(self.log):
            check_own_file(self.log)
        for folder in (self.plots, self.tensorboard):
            with writing(folder):
                check_own_folder(folder)

    def remove_left_over(self) -> None:
        """Remove the temporary files of processes that were killed; call it with the lock."""
        for file in (*self.path.glob(".*.tmp"), *self.plots.glob(".*.tmp")):
            file.unlink(missing_ok=True)

    def _owner(self) -> str:
        """Return who writes to this run, as far as status.json says."""
        try:
            status = json.loads(read_text(self.path / "status.json"))
            return f" by process {status['pid']} on {status['host']}"
        except (OSError, ValueError, LookupError, TypeError):
            return " by another process"

    def log_line(self, text: str) -> None:
        """Append one line to train.log, with control characters and line ends spelled out."""
        with writing(self.log), opened_to_add(self.log) as file:
            file.write(_encode(visible(text) + "\n"))


def _encode(text: str) -> bytes:
    # a lone surrogate (an odd file name) becomes \udcxx, which is also JSON's way to write it
    return text.encode("utf-8", "backslashreplace")


_OWN_FILES = (
    "config.yaml",
    "environment.json",
    "status.json",
    "metrics.jsonl",
    "scores.json",
    "images.npz",
    "predictions.npz",
    "checkpoint.pt",
    "checkpoint-previous.pt",
    "best.pt",
    "train.log",
)
"""From which a run goes on, is judged or is compared: no other command makes them again."""

# What files of a kind usually end in. A name that tells of no kind may be that of any output.
TABLES, PAGES, CHECKPOINTS = (".csv",), (".html", ".htm"), (".pt", ".pth")
_KINDS = {
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".svg"),
    *(".pdf", ".md", ".rst", ".doc", ".docx", ".odt", ".xls", ".xlsx", ".ods", ".tex"),
    *(".py", ".ipynb", ".sh", ".yaml", ".yml", ".toml", ".json", ".jsonl", ".npz", ".npy", ".zip"),
    *(*TABLES, *PAGES, *CHECKPOINTS, ".onnx", ".pt2", ".safetensors"),
}
# How files of images and documents begin, whatever they are called.
_BEGINNINGS = (
    *(b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF", b"P5", b"P6"),
    b"%PDF",
)


def check_place(path: Path, endings: Sequence[str] = (), reads: Iterable[Path] = ()) -> None:
    """Check where a flag has a file written; call it before slow work.

    Args:
        path: The file.
        endings: What a file of the flag's kind ends in; one of another kind is not replaced. Any is
            where there are none.
        reads: The files that the command reads.

    Raises:
        LmsmError: The file is one of a run, is read by the command, or is of another kind, and
            would be lost.
        DiskError: No file can be written there.
    """
    folder = path.parent
    if path.is_dir():
        raise DiskError(f"cannot write {path}: it is a folder; give the name of a file")
    if path.exists() and not path.is_file():  # root could put a file in the place of /dev/stdout
        raise DiskError(f"cannot write {path}: it is a device or a pipe; give the name of a file")
    if not folder.is_dir():
        raise DiskError(f"cannot write {path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise DiskError(f"cannot write {path}: no permission to write in {folder}")
    if path.name in _OWN_FILES and is_run(folder):
        raise LmsmError(
            f"cannot write {path}: a run goes on from this file of its own, or is judged by it; "
            "give another name"
        )
    if path.exists() and any(read.exists() and path.samefile(read) for read in reads):
        raise LmsmError(f"cannot write {path}: this command reads it; give another name")
    if endings and path.exists() and _is_of_another_kind(path, endings):
        raise LmsmError(
            f"cannot write {path}: a file of another kind is there; give a name that ends in "
            f"{' or '.join(endings)}"
        )


def _is_of_another_kind(path: Path, endings: Sequence[str]) -> bool:
    """Return whether the name or the first bytes of a file tell of what the endings do not.

    An earlier output may have any other name, and is replaced.
    """
    if path.suffix.lower() in _KINDS:
        return path.suffix.lower() not in endings
    with writing(path), path.open("rb") as file:
        return file.read(8).startswith(_BEGINNINGS)


def is_run(path: Path) -> bool:
    """Return whether the path is a run folder: one with a config.yaml or a status.json."""
    try:
        return any((path / name).is_file() for name in ("config.yaml", "status.json"))
    except OSError:  # a folder that cannot be looked into is none
        return False


def write_whole(path: Path, content: str | bytes) -> None:
    """Write the file beside its place and move it there, so that it is never half written.

    A link in its place is itself replaced. Raises DiskError where that fails; what stood there is
    then untouched.
    """
    with writing(path), replacing(path) as file:
        file.write(_encode(content) if isinstance(content, str) else content)


def check_folder(folder: Path, flag: str) -> None:
    """Raise DiskError where nothing can be written in `folder`, given by `flag`; make none yet."""
    there = folder_above(folder)
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise DiskError(
            f"cannot write in {folder}: {there} is no folder that can be written to; "
            f"choose another with {flag}"
        )


def reason_of(error: OSError) -> str:
    """Return the system's own words for an error."""
    return error.strerror or str(error)


def folder_above(folder: Path) -> Path:
    """Return the folder itself, or the nearest place above it where something is.

    That may be no folder: a file, or a link to nothing, below which none can be made.
    """
    places = (folder.absolute(), *folder.absolute().parents)
    return next(place for place in places if os.path.lexists(place))
