"""A run folder read back, for reports.

Reading is tolerant: a run that was killed, is still going or was damaged is described, never a
crash.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lmsm_cli.config import MOST_EPOCHS
from lmsm_cli.config.yaml import read_mapping
from lmsm_cli.errors import CheckpointError, LmsmError, listed
from lmsm_cli.runs.documents import D, Environment, ScoresDocument, Status, read_document, read_row
from lmsm_cli.runs.folder import is_run, reason_of
from lmsm_cli.runtime.files import read_text
from lmsm_cli.scoring import group_accuracies

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from lmsm_cli.data.identity import ImagesRecord
    from lmsm_cli.runs.images import Predictions

T = TypeVar("T")
# A million rows of 500 bytes.
_LARGEST_METRICS = 1 << 30
# As far as `lmsm demo` has its runs below the folder of all runs.
_LEVELS = 2
OUTSIDE = "outside"
"""The `source` of a run that another program made: lmsm has its results, and no net."""


@dataclass(frozen=True)
class RunRecord:
    """What a run folder says, for reports; None and [] stand for what is missing or damaged."""

    path: Path
    config: dict[str, Any] | None
    status: Status | None
    metrics: list[dict[str, Any]]
    scores: ScoresDocument | None
    problem: str | None  # what is missing or damaged, and why the run has no scores
    held_predictions: "Predictions | None" = field(default=None, repr=False, compare=False)
    """Those of a run that is no folder."""
    held_images: "ImagesRecord | None" = field(default=None, repr=False, compare=False)
    """Those of a run that is no folder."""
    order: "NDArray[np.int64] | None" = field(default=None, repr=False, compare=False)
    """The places of its test images in the order in which `predictions` gives them; None: its own.
    """
    has_known_order: bool = True
    """Whether it is known of which image each of its predictions is; else they are None."""
    late_problems: list[str] = field(default_factory=list, repr=False, compare=False)
    """What turned out damaged after `read_run`, in `predictions`."""
    folds: tuple[Path, ...] = ()
    """The run folders of all folds, where this is one run made of them; `path` is the first."""

    @property
    def name(self) -> str:
        """The folder's name, which `.` has too."""
        return self.path.absolute().name

    @property
    def has_folder(self) -> bool:
        """Whether it is one run folder: not folds as one run, nor a file of results."""
        return self.held_predictions is None

    @property
    def state(self) -> str:
        """Where the run stands, `unknown` where status.json does not say."""
        return self.status.state if self.status else "unknown"

    @property
    def is_outside(self) -> bool:
        """Whether another program made the run."""
        return (self.config or {}).get("source") == OUTSIDE

    @property
    def epochs_of_scores(self) -> tuple[int, int] | None:
        """After how many epochs its scores are, and how many it is to have in the end.

        None where it has no scores, or nobody says. They are fewer than all where the run was made
        longer since, and where it stopped early.
        """
        planned = (self.config or {}).get("epochs")
        if self.scores is None or type(planned) is not int:
            return None
        done = self.scores.epoch
        return (planned if done is None else done, planned)

    @property
    def is_stopped_early(self) -> bool:
        """Whether it has its last epoch, for want of a better score, before all of them."""
        before = self.scores and self.scores.stopped_before
        return before is not None and before == (self.config or {}).get("epochs")

    def check_apart(self, flag: str, path: Path) -> None:
        """Raise LmsmError where what a flag has written would lie among the run's images."""
        from lmsm_cli.runs.own_images import check_apart_from_run  # what reads images takes a while

        classes = [one.name for one in self.scores.per_class] if self.scores else []
        check_apart_from_run(flag, path, self.config or {}, classes)

    @cached_property
    def environment(self) -> Environment | None:
        """What environment.json says, read on first use; None where it is missing or damaged."""
        return _environment(self.path, [])

    @property
    def predictions(self) -> "Predictions | None":
        """What the run said of its test images; read anew on each use, since they can be large.

        None where they are not known, as for older runs, and where they are damaged or are not
        those of the scores, which becomes one of `late_problems`.
        """
        if not self.has_known_order:
            return None
        found = self.held_predictions
        if found is None:
            from lmsm_cli.runs.images import check_scored, read_predictions  # NumPy takes a while

            try:
                found = read_predictions(self.path)
                if found is not None and self.scores is not None:
                    check_scored(found, self.scores, self.path)
            except CheckpointError as error:
                self._note(error)
                return None
        return found if found is None or self.order is None else found.in_order(self.order)

    @property
    def images(self) -> "ImagesRecord | None":
        """Which images the run had, read anew on each use; None as for `predictions`."""
        if self.held_images is not None:
            return self.held_images
        from lmsm_cli.runs.images import read_images_record

        try:
            return read_images_record(self.path)
        except CheckpointError as error:
            self._note(error)
            return None

    def _note(self, error: CheckpointError) -> None:
        if str(error) not in self.late_problems:
            self.late_problems.append(str(error))


def read_run(path: Path, *, with_metrics: bool = True) -> RunRecord:
    """Return what the run folder says; whatever is missing or damaged becomes its `problem`.

    Without metrics a run that has scores is read in a fraction of the time.
    """
    problems: list[str] = []
    config = _attempt(_read_config, path / "config.yaml", problems)
    status = _attempt(_read(Status), path / "status.json", problems)
    scores = _attempt(_read_scores, path / "scores.json", problems)
    metrics = None
    if with_metrics or scores is None:
        metrics = _attempt(_read_metrics, path / "metrics.jsonl", problems)
    if scores is None and status is not None:
        problems.append(f"status {ending_of(status)}")
    return RunRecord(path, config, status, metrics or [], scores, "; ".join(problems) or None)


def ending_of(status: Status) -> str:
    """Return where a run stands, and why: `failed: the loss is no longer finite`."""
    return f"{status.state}: {status.reason}" if status.reason else status.state


def config_hash_of(path: Path) -> str | None:
    """Return the hash of the config that a run was started with; None where it is unknown."""
    environment = _environment(path, [])
    return environment.asked if environment else None


def damage_of_environment(path: Path) -> str | None:
    """Return why what a run was started with cannot be read; None where it can, or never stood."""
    problems: list[str] = []
    _environment(path, problems)
    return problems[0] if problems and (path / "environment.json").exists() else None


def _environment(path: Path, problems: list[str]) -> Environment | None:
    return _attempt(_read(Environment), path / "environment.json", problems)


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders that the paths are or directly hold, each once, in order of name.

    A run folder has a config.yaml or a status.json. Raises LmsmError where a path does not exist
    or holds no run.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        runs = _runs_in(path)
        if not runs:
            raise LmsmError(
                f"{path} holds no run (a folder with config.yaml or status.json){_below(path)}"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def only_run(path: Path, of_several: str = "") -> Path:
    """Return the run folder that the folder is or directly holds; itself where it holds none.

    Raises LmsmError where it holds several, with what goes with them, where only folders below it
    do, and for what is no folder.
    """
    runs = _runs_in(path)
    if not runs and (below := _below(path)):
        raise LmsmError(f"{path} holds no run{below}")
    if len(runs) > 1:
        raise LmsmError(
            f"{path} holds {len(runs)} runs: give one of them, such as {runs[-1]}{of_several}"
        )
    return runs[0] if runs else path


def _runs_in(path: Path) -> list[Path]:
    """Return the run folders that a folder is or directly holds, in order of name."""
    try:
        if not path.is_dir():
            raise LmsmError(f"{path} is not a folder" if path.exists() else f"there is no {path}")
        return [path] if is_run(path) else sorted(filter(is_run, path.iterdir()))
    except OSError as error:
        raise LmsmError(f"cannot read {path}: {reason_of(error)}") from None


def runs_below(paths: Sequence[Path], levels: int = 1) -> dict[Path, int]:
    """Return the folders of runs below those that `find_runs` looks into, which it leaves out.

    Args:
        paths: What it looks into.
        levels: How far down to look; 2 finds `runs/demo-.../comparison` from `runs`.

    Returns:
        The number of runs that each folder holds itself.
    """
    looked_into = {path.resolve() for path in paths}
    found: dict[Path, int] = {}
    for path in paths:
        for folder in [] if is_run(path) else _folders_in(path):
            if is_run(folder) or folder.resolve() in looked_into:
                continue
            if number := sum(map(is_run, _folders_in(folder))):
                found[folder] = number
            if levels > 1:
                below = runs_below([folder], levels - 1)
                found |= {one: n for one, n in below.items() if one.resolve() not in looked_into}
    return found


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError:  # somebody else's
        return []


def _below(path: Path) -> str:
    """Return which folders below one hold runs, as a way out; "" where none does."""
    below = [str(folder) for folder in runs_below([path], _LEVELS)]
    return f"; give a folder below it that does: {listed(below)}" if below else ""


def _attempt(read: Callable[[Path], T], path: Path, problems: list[str]) -> T | None:
    try:
        return read(path)
    except FileNotFoundError:
        problems.append(f"no {path.name}")
    except OSError as error:
        problems.append(f"{path.name} cannot be read: {reason_of(error)}")
    except (ValueError, RecursionError):
        problems.append(f"{path.name} is damaged")
    except LmsmError as error:
        problems.append(str(error))
    return None


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(path)
    values = {key: entry.value for key, entry in read_mapping(path).items()}
    json.dumps(values, allow_nan=False)  # ValueError for infinities, which no choice can be
    return values


def _read(model: type[D]) -> Callable[[Path], D]:
    """Return what reads a file as a document of that model."""
    return lambda path: read_document(model, read_text(path))


def _read_scores(path: Path) -> ScoresDocument:
    """Return the scores, with groups of classes by today's rule.

    What else is known of a group, such as its test images, follows from that rule too; an older
    lmsm, whose groups the file has, may have called other classes rare.
    """
    found = _read(ScoresDocument)(path)
    return found.model_copy(update={"groups": group_accuracies(found.per_class)})


def _read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows; what stands after the last line end is half a line, and ignored."""
    text = read_text(path, _LARGEST_METRICS)
    if text.count("\n") > MOST_EPOCHS:
        raise ValueError("more rows than a run can have epochs")
    *lines, _ = text.split("\n")
    return [read_row(line) for line in lines]
