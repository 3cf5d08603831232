"""The run folder: how it is made, written while a run goes on, and read back.

Whole files are replaced atomically, so a reader finds the old text or the new one. Reading is
tolerant: a run that was killed, is still going or was damaged is described, never a crash.
To add a file, add a writer or a path to `RunFolder` and, where reports need it, to `read_run`.
"""

import contextlib
import itertools
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from lmsm_cli.errors import DiskError, LmsmError
from lmsm_cli.scores import Scores
from lmsm_cli.strict_yaml import read_mapping

T = TypeVar("T")
State = Literal["running", "interrupted", "failed", "completed"]


def run_name(dataset: str, model: str, loss_name: str, seed: int, now: datetime) -> str:
    """Return `<YYYYmmdd-HHMMSS>-<dataset>-<model>-<loss>-s<seed>`, safe as a file name."""
    name = f"{now:%Y%m%d-%H%M%S}-{dataset}-{model}-{loss_name}-s{seed}"
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, to write to; every writer raises DiskError where the disk refuses."""

    path: Path

    @classmethod
    def create(cls, out: Path, name: str) -> "RunFolder":
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
                f"cannot make a run folder in {out}: {_reason(error)}; choose another with --out"
            ) from None
        raise AssertionError("count() has no end")

    @property
    def checkpoint(self) -> Path:
        """The last state of the training."""
        return self.path / "checkpoint.pt"

    @property
    def previous_checkpoint(self) -> Path:
        """The state before the last."""
        return self.path / "checkpoint-previous.pt"

    @property
    def best_checkpoint(self) -> Path:
        """The state with the best validation score."""
        return self.path / "best.pt"

    @property
    def plots(self) -> Path:
        """The folder of the plots."""
        return self.path / "plots"

    @property
    def log(self) -> Path:
        """The log, as text."""
        return self.path / "train.log"

    def write_config(self, text: str) -> None:
        """Write config.yaml."""
        _replace(self.path / "config.yaml", text)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write environment.json."""
        _replace(self.path / "environment.json", _pretty(environment))

    def write_status(self, state: State, reason: str = "", exit_code: int | None = None) -> None:
        """Write status.json: where the run stands, why, and the exit code once there is one."""
        status = {"state": state, "reason": reason, "exit_code": exit_code}
        _replace(self.path / "status.json", _pretty(status))

    def write_scores(self, scores: Mapping[str, Any]) -> None:
        """Write scores.json."""
        _replace(self.path / "scores.json", _pretty(scores))

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Append one epoch to metrics.jsonl; infinite and undefined numbers become null.

        Half a line that a killed run left at the end is cut off first.
        """
        line = json.dumps(_finite(row), allow_nan=False) + "\n"
        path = self.path / "metrics.jsonl"
        try:
            with path.open("ab+") as file:
                file.seek(0)
                file.truncate(file.read().rfind(b"\n") + 1)
                file.write(line.encode("ascii"))
        except OSError as error:
            raise DiskError(f"cannot write {path}: {_reason(error)}") from None

    def log_line(self, text: str) -> None:
        """Append one line to train.log."""
        try:
            with self.log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError as error:
            raise DiskError(f"cannot write {self.log}: {_reason(error)}") from None


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says, for reports; None and [] stand for what is missing or damaged."""

    path: Path
    config: dict[str, Any] | None
    status: dict[str, Any] | None
    metrics: list[dict[str, Any]]
    scores: dict[str, Any] | None
    problem: str | None  # what is missing or damaged, and why the run has no scores

    @property
    def state(self) -> str:
        """Where the run stands, `unknown` where status.json does not say."""
        return str((self.status or {}).get("state", "unknown"))


def read_run(path: Path) -> RunRecord:
    """Return what the run folder says; whatever is missing or damaged becomes its `problem`."""
    problems: list[str] = []
    config = _attempt(_read_config, path / "config.yaml", problems)
    status = _attempt(_read_json, path / "status.json", problems)
    metrics = _attempt(_read_metrics, path / "metrics.jsonl", problems)
    scores = _attempt(_read_scores, path / "scores.json", problems)
    if scores is None and status is not None:
        reason = f": {status['reason']}" if status.get("reason") else ""
        problems.append(f"status {status.get('state', 'unknown')}{reason}")
    return RunRecord(path, config, status, metrics or [], scores, "; ".join(problems) or None)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that the paths are or directly hold, each once, in order of name.

    A run folder has a config.yaml or a status.json. Raises LmsmError where a path does not exist
    or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise LmsmError(f"{path} is not a folder" if path.exists() else f"there is no {path}")
        try:
            runs = [path] if _is_run(path) else sorted(filter(_is_run, path.iterdir()))
        except OSError as error:
            raise LmsmError(f"cannot read {path}: {_reason(error)}") from None
        if not runs:
            raise LmsmError(f"{path} holds no run (a folder with config.yaml or status.json)")
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _is_run(path: Path) -> bool:
    return (path / "config.yaml").is_file() or (path / "status.json").is_file()


def _attempt(read: Callable[[Path], T], path: Path, problems: list[str]) -> T | None:
    try:
        return read(path)
    except FileNotFoundError:
        problems.append(f"no {path.name}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {_reason(error)}")
    except (ValueError, RecursionError):
        problems.append(f"{path.name} is damaged")
    except LmsmError as error:
        problems.append(str(error))
    return None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(path)
    return {key: entry.value for key, entry in read_mapping(path).items()}


def _read_json(path: Path) -> dict[str, Any]:
    return _mapping(path.read_text(encoding="utf-8"))


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows; what stands after the last line end is half a line, and ignored."""
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [_mapping(line) for line in lines]


def _read_scores(path: Path) -> dict[str, Any]:
    """Return scores.json, checked against the fields of Scores; further keys are kept."""
    from pydantic import TypeAdapter

    document = _read_json(path)
    TypeAdapter(Scores).validate_python(document)
    return document


def _mapping(text: str) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for other JSON, NaN and infinities included."""
    document = json.loads(text, parse_constant=_refuse)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite(value: Any) -> Any:
    """Return the value with infinite and undefined numbers, at any depth, replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _pretty(document: Mapping[str, Any]) -> str:
    return json.dumps(_finite(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def _replace(path: Path, text: str) -> None:
    """Write the file beside its place and move it there, so that it is never half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        # a lone surrogate (an odd file name) becomes \udcxx, which is also JSON's way to write it
        with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DiskError(f"cannot write {path}: {_reason(error)}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
