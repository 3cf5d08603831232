"""Many runs from one plan: what is done is found in the run folders, only the rest is computed.

Nothing else is kept: a run folder says what it was asked for, and a lock who computes it. So the
same plan may be worked on again, after anything, and by several processes at once.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout

from lmsm_cli import experiment, journal
from lmsm_cli.config import Config
from lmsm_cli.display import Display
from lmsm_cli.errors import CheckpointError, DataError, DiskError, LmsmError, StoppedError
from lmsm_cli.grid import label
from lmsm_cli.layers import Layer, resolve
from lmsm_cli.losses import check_loss
from lmsm_cli.runs.folder import RunFolder, reason_of
from lmsm_cli.runs.record import RunRecord, asked_of, read_run

State = Literal["completed", "interrupted", "running", "failed", "missing"]

# Seconds between two looks whether another process has done a run.
_LOOK_EVERY = 0.5


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan, and in words what tells it from the others."""

    config: Config
    label: str

    @cached_property
    def asked(self) -> str:
        """What its run folder is known by."""
        return journal.asked(self.config)


@dataclass(frozen=True)
class Failure:
    """A run of the plan that failed, and why."""

    run: PlannedRun
    reason: str


@dataclass(frozen=True)
class Progress:
    """Where a run of the plan stands, and in which folder, if in any."""

    run: PlannedRun
    state: State
    record: RunRecord | None

    @property
    def seconds(self) -> float | None:
        """What its training took; None while it is not completed."""
        training = ((self.record and self.record.scores) or {}).get("training")
        seconds = training.get("seconds") if isinstance(training, Mapping) else None
        return float(seconds) if self.state == "completed" and isinstance(seconds, int | float) else None  # fmt: skip


def make_plan(layers: Sequence[Layer], combinations: Sequence[Mapping[str, str]], seeds: Sequence[int] | None) -> list[PlannedRun]:  # fmt: skip
    """Return the runs of every combination of choices, with every seed (None: the config's own).

    Raises LmsmError that lists every mistake with the combinations that have it, and names two runs
    that would be the same; DiskError where nothing can be written in the folder for the runs.
    """
    plan: list[PlannedRun] = []
    problems: dict[str, list[str]] = {}
    for choices in combinations:
        name = label(choices)
        try:
            runs = [planned(layers, choices, seed) for seed in seeds or (None,)]
            experiment.check(runs[0].config)
        except DiskError:
            raise
        except LmsmError as error:
            for line in str(error).split("\n"):
                problems.setdefault(line, []).append(name)
        else:
            plan += runs
    if problems:
        raise LmsmError("\n".join(_with_places(line, names, len(combinations)) for line, names in problems.items()))  # fmt: skip
    _check_distinct(plan)
    return plan


def planned(layers: Sequence[Layer], choices: Mapping[str, str], seed: int | None) -> PlannedRun:
    """Return one run of given choices, with a seed or the config's own. Raises LmsmError."""
    varied = Layer(choices, {key: f"{key} of the sweep" for key in choices})
    given = Layer.of_flags({"seed": seed})
    config = resolve([*layers, varied, given], check_loss).config
    return PlannedRun(config, label(choices if seed is None else {**choices, "seed": str(seed)}))


def _with_places(line: str, names: Sequence[str], num_combinations: int) -> str:
    """Return a mistake with the combinations that have it, unless all do."""
    if len(names) == num_combinations:
        return line
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{'; '.join(names[:3])}{more}: {line}"


def _check_distinct(plan: Sequence[PlannedRun]) -> None:
    first: dict[str, PlannedRun] = {}
    for run in plan:
        same = first.setdefault(run.asked, run)
        if same is not run:
            raise LmsmError(f"{same.label!r} and {run.label!r} are the same run: take one of them out")  # fmt: skip


@dataclass(frozen=True)
class Shelf:
    """The run folders of a folder, by what they were asked for. Reads each environment.json once."""

    out: Path
    _asked: dict[str, str] = field(default_factory=dict)

    def runs(self, run: PlannedRun) -> list[RunRecord]:
        """Return the folders of a planned run, oldest first.

        A run that was made longer since, or whose config cannot be read, is no longer that run.
        """
        if not self.out.is_dir():
            return []
        for name in sorted(path.name for path in self.out.iterdir()):
            if name not in self._asked and (asked := asked_of(self.out / name)):
                self._asked[name] = asked
        records = [read_run(self.out / name) for name, asked in sorted(self._asked.items()) if asked == run.asked]  # fmt: skip
        return [record for record in records if (record.config or {}).get("epochs") == run.config.epochs]  # fmt: skip

    def progress(self, run: PlannedRun) -> Progress:
        """Return where a planned run stands: as far as its best folder has come."""
        best = max(self.runs(run), key=_rank, default=None)
        return Progress(run, _state(best) if best else "missing", best)


def _rank(record: RunRecord) -> tuple[int, str]:
    return ("failed", "interrupted", "running", "completed").index(_state(record)), record.path.name


def _state(record: RunRecord) -> State:
    """Return the state of a folder; what is completed but has lost its scores is to be resumed."""
    if record.state == "completed" and record.scores is not None:
        return "completed"
    if record.state == "failed":
        return "failed"
    return "running" if _is_locked(record.path) else "interrupted"


def _is_locked(path: Path) -> bool:
    """Say whether a process writes to a run folder now."""
    try:
        with RunFolder(path).locked():
            return False
    except DiskError:
        raise
    except LmsmError:
        return True


def run_plan(plan: Sequence[PlannedRun], display: Display, *, with_plots: bool = True) -> list[Failure]:  # fmt: skip
    """Complete the runs of a plan, one after the other; return those that failed.

    What other processes are doing is left to them and waited for. What failed in an earlier call is
    tried again. Raises StoppedError after a signal, and DataError and DiskError at once: the next
    run would fail of them as well.
    """
    check_alone()
    worker = _Worker.new(plan, display, with_plots=with_plots)
    passed_over = [run for run in plan if not worker.attempt(run)]
    if passed_over:
        display.say(f"waiting for {len(passed_over)} runs that other processes are doing")
    for run in passed_over:
        worker.attempt(run, wait=True)
    return worker.failures


def check_alone() -> None:
    """Raise LmsmError for torchrun's processes, which are one run's."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise LmsmError("torchrun shares one run among processes; to share the runs of a sweep, start `lmsm sweep` several times, with the same --out")  # fmt: skip


@dataclass
class _Worker:
    """This process among those that work on a plan."""

    plan: Sequence[PlannedRun]
    shelf: Shelf
    display: Display
    with_plots: bool
    failed_before: set[Path]
    """Folders of earlier calls, whose runs are tried again."""
    failures: list[Failure] = field(default_factory=list)
    num_seen: int = 0

    @classmethod
    def new(cls, plan: Sequence[PlannedRun], display: Display, *, with_plots: bool) -> "_Worker":
        """Look at what is there."""
        shelf = Shelf(plan[0].config.out)
        found = [shelf.progress(run) for run in plan]
        failed = {one.record.path for one in found if one.record and one.state == "failed"}
        num_done = sum(one.state == "completed" for one in found)
        if num_done:
            display.say(f"{num_done} of {len(plan)} runs are there already")
        return cls(plan, shelf, display, with_plots, failed)

    def attempt(self, run: PlannedRun, *, wait: bool = False) -> bool:
        """Complete a run; return False where another process is at it, unless told to `wait`."""
        with claimed(run, wait=wait) as is_ours:
            if not is_ours:
                return False
            there = self.shelf.progress(run)
            if there.state == "failed" and there.record and there.record.path not in self.failed_before:  # fmt: skip
                self.failures.append(Failure(run, _reason(there.record)))
            elif there.state != "completed":
                self.display.say(f"run {1 + self.plan.index(run)} of {len(self.plan)}: {run.label}")
                self._complete(run)
            return True

    def _complete(self, run: PlannedRun) -> None:
        try:
            complete(run, self.shelf, self.display, with_plots=self.with_plots)
        except StoppedError as stopped:
            raise StoppedError(f"{stopped} with that run; the same command again goes on with all", stopped.exit_code - 128) from None  # fmt: skip
        except (DataError, DiskError):
            raise
        except LmsmError as error:
            self.display.warn(f"{run.label}: {error}")
            self.failures.append(Failure(run, str(error)))


def complete(run: PlannedRun, shelf: Shelf, display: Display, *, with_plots: bool) -> RunRecord:
    """Return a run completed: as it is there, gone on with, or new; call it with the claim.

    Raises LmsmError where it fails, StoppedError after a signal.
    """
    there = shelf.progress(run)
    if there.state == "completed" and there.record:
        return there.record
    if there.state in ("interrupted", "running") and there.record:
        path = there.record.path
        changes = {"device": run.config.device, "data_dir": run.config.data_dir}
        try:
            experiment.resume(path, display, changes, with_plots=with_plots)
            return read_run(path)
        except CheckpointError as error:
            display.warn(f"{error}; the run is begun anew")
    folder = experiment.run(run.config, display, with_plots=with_plots)
    assert folder is not None  # only other ranks have none
    return read_run(folder.path)


@contextmanager
def claimed(run: PlannedRun, *, wait: bool) -> Iterator[bool]:
    """Keep other processes from a planned run; give whether it is ours, surely so after a `wait`.

    The system opens the lock when the process ends, however it does. Raises DiskError.
    """
    folder = run.config.out / ".sweep"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / f"{run.asked[:32]}.lock", timeout=-1 if wait else 0)
        lock.acquire(poll_interval=_LOOK_EVERY)
    except Timeout:
        yield False
        return
    except OSError as error:
        raise DiskError(f"cannot write in {folder}: {reason_of(error)}") from None
    try:
        yield True
    finally:
        lock.release()


def _reason(record: RunRecord) -> str:
    return str((record.status or {}).get("reason") or "no reason is known")
