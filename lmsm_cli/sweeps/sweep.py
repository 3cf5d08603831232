"""Many runs from one plan: finished ones are found in their run folders, the rest is computed.

Nothing else is kept: a run folder records its requested config, and a lock shows who computes it.
So the same plan may be worked on again, after anything, and by several processes at once.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import Timeout

from lmsm_cli.errors import (
    CheckpointError,
    DataError,
    DiskError,
    LmsmError,
    RunError,
    StoppedError,
    counted,
)
from lmsm_cli.inference.post_hoc import begin
from lmsm_cli.runs.folder import reason_of
from lmsm_cli.runs.record import RunRecord, read_run
from lmsm_cli.runtime.display import Display, OncePerPlan
from lmsm_cli.runtime.files import lock_of, own_folder
from lmsm_cli.runtime.signals import ignore_sighup, number_of
from lmsm_cli.sweeps.plan import PlannedRun, RunIndex, RunStatus, unbegun
from lmsm_cli.training.run import resume_run

# Seconds between two looks whether another process has done a run.
_LOOK_EVERY = 0.5


@dataclass(frozen=True)
class Failure:
    """A run of the plan that failed, and why."""

    run: PlannedRun
    reason: str


def run_plan(
    plan: Sequence[PlannedRun], index: RunIndex, *, with_plots: bool = True
) -> list[Failure]:
    """Complete the runs of a plan, one after the other; return those that failed.

    What other processes are doing is left to them and waited for. What failed in an earlier call is
    tried again. Raises StoppedError after a signal, with how many runs are done, and DataError and
    DiskError at once: the next run would fail of them as well.
    """
    check_alone()
    with ignore_sighup():  # between the runs too
        worker = _Worker.new(plan, index, with_plots=with_plots)
        try:
            worker.work()
        except StoppedError as stopped:
            raise stopped.among(len(worker.done), len(plan), "runs") from None
        except KeyboardInterrupt as error:  # before a run's first step, or after its last
            raise stopped_by(error).among(len(worker.done), len(plan), "runs") from None
    return worker.failures


def stopped_by(error: KeyboardInterrupt) -> StoppedError:
    """Return the error of a signal that came while no step was taken."""
    number = number_of(error)
    return StoppedError(f"stopped by {number.name}", number)


def check_alone() -> None:
    """Raise LmsmError for torchrun's processes, which are one run's."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise LmsmError(
            "torchrun shares one run among processes; to share the runs of a sweep, "
            "start `lmsm sweep` several times, with the same --out"
        )


@dataclass
class _Worker:
    """This process among those that work on a plan."""

    plan: Sequence[PlannedRun]
    index: RunIndex
    display: Display
    with_plots: bool
    failed_before: set[Path]
    """Folders of earlier calls, whose runs are tried again."""
    done: set[tuple[str, ...]]
    """The identities of the runs that need no more work."""
    failures: list[Failure] = field(default_factory=list)

    @classmethod
    def new(cls, plan: Sequence[PlannedRun], index: RunIndex, *, with_plots: bool) -> "_Worker":
        """Return a worker that knows which runs are there already."""
        looking = "looking for runs that are there"
        index.display.progress(looking, 0, 0)
        found = index.status(plan)
        index.display.progress(looking, 1, 1)
        index.check_new(unbegun(found))
        failed = {one.record.path for one in found if one.record and one.state == "failed"}
        done = {one.run.identity for one in found if one.state == "completed"}
        if done:
            index.display.info(f"{len(done)} of {len(plan)} runs are there already")
        index.display.overall(len(done), len(plan))
        return cls(plan, index, index.display, with_plots, failed, done)

    def work(self) -> None:
        """Complete all runs of the plan, those of other processes last."""
        passed_over = [run for run in self.plan if not self.attempt(run)]
        if passed_over:
            self.display.info(
                f"waiting for {counted(len(passed_over), 'run')} that other processes are doing"
            )
        for run in passed_over:
            self.attempt(run, wait=True)

    def attempt(self, run: PlannedRun, *, wait: bool = False) -> bool:
        """Complete a run; return False where another process is at it, unless `wait` is set."""
        with claimed(run, wait=wait) as is_ours:
            if not is_ours:
                return False
            there = self.index.status_of(run)
            if (
                there.state == "failed"
                and there.record
                and there.record.path not in self.failed_before
            ):
                self.failures.append(Failure(run, _reason(there.record)))
            elif there.state != "completed":
                self.display.info(
                    f"run {1 + self.plan.index(run)} of {len(self.plan)}: {run.label}"
                )
                self._complete(run)
            self.done.add(run.identity)
            self.display.overall(len(self.done), len(self.plan))
            return True

    def _complete(self, run: PlannedRun) -> None:
        try:
            complete(run, self.index, self.display, with_plots=self.with_plots)
        except (StoppedError, DataError, DiskError):
            raise
        except LmsmError as error:
            self.display.warning(f"{run.label}: {error}")
            self.failures.append(Failure(run, str(error)))


def complete(run: PlannedRun, index: RunIndex, display: Display, *, with_plots: bool) -> RunRecord:
    """Return a run completed: as it is there, gone on with, or new; call it with the claim.

    Raises LmsmError where it fails, StoppedError after a signal.
    """
    there, display = index.status_of(run), OncePerPlan(display, index.said)
    if there.state == "completed" and there.record:
        return there.record
    goes_on = run.config.post_hoc is None
    if goes_on and there.state in ("interrupted", "running") and there.record:
        path = there.record.path
        changes = {"device": run.config.device, "data_dir": run.config.data_dir}
        try:
            resume_run(path, display, changes, with_plots=with_plots)
            return _scored(path)
        except CheckpointError as error:
            display.warning(f"{error}; the run is begun anew")
    folder = begin(run.config, display, with_plots=with_plots)
    assert folder is not None  # only other ranks have none
    return _scored(folder.path)


def _scored(path: Path) -> RunRecord:
    record = read_run(path, with_metrics=False)
    if record.scores is None or record.config is None:
        raise RunError(f"{path} cannot be read back: {record.problem}")
    return record


@contextmanager
def claimed(run: PlannedRun, *, wait: bool) -> Iterator[bool]:
    """Keep other processes from a planned run; give whether it is ours, surely so after a `wait`.

    The system opens the lock when the process ends, however it does. Raises DiskError.
    """
    folder = run.config.out / ".sweep"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        name = f"{run.config_hash[:32]}.lock"
        lock = lock_of(own_folder(folder) / name, timeout=-1 if wait else 0)
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


def unreadable(found: Sequence[RunStatus], failures: Sequence[Failure]) -> list[Failure]:
    """Return as failures the other runs that a finished sweep cannot read."""
    known = {failure.run.identity for failure in failures}
    return [
        Failure(
            one.run,
            (one.record and one.record.problem) or "its run folder is gone or cannot be read",
        )
        for one in found
        if one.state != "completed" and one.run.identity not in known
    ]


def _reason(record: RunRecord) -> str:
    return (record.status and record.status.reason) or "no reason is known"
