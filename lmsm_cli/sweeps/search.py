"""Search by Optuna for the choices with the best validation score: ranges, pruning, shared studies.

A study lives in a database, its runs in run folders, and each trial does its runs as a sweep does.
So a search can always go on, and several processes, here or on other hosts, share one study.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from lmsm_cli.data.splits import identity_of
from lmsm_cli.errors import (
    DataError,
    DiskError,
    LmsmError,
    PrunedError,
    RunError,
    StoppedError,
    first_line,
)
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.display import Display, Epoch, ForwardingDisplay, OncePerPlan
from lmsm_cli.runtime.signals import ignore_sighup
from lmsm_cli.sweeps.grid import Choices, Range, label, num_combinations, samples
from lmsm_cli.sweeps.optuna_store import (
    COUNTED,
    Search,
    begun_trial,
    give_up_dead_trials,
    imported_optuna,
    open_study,
    states_of,
)
from lmsm_cli.sweeps.plan import PlannedRun, RunIndex, build_plan, plan_run
from lmsm_cli.sweeps.sweep import check_alone, claimed, complete, stopped_by

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial


@dataclass(frozen=True)
class Found:
    """A finished trial; its value is the mean validation score of the last epoch, if reached."""

    number: int
    value: float | None
    state: str
    reason: str
    choices: dict[str, str]
    runs: list[str]


def check_search(search: Search) -> list[PlannedRun]:
    """Return runs of the search; raise LmsmError for what can't work, before an image is read.

    Every listed value and both ends of every range are in one of them.
    """
    imported_optuna()
    check_alone()
    tried = list(samples(search.axes))
    runs = build_plan(search.layers, tried, search.seeds and search.seeds[:1])
    if (folds := runs[0].config.folds) and plan_run(
        search.layers, tried[0], None
    ).config.fold is None:
        raise LmsmError(
            f"folds is {folds}: a search tries its choices on one of them; give --fold too, "
            f"0 to {folds - 1}, or leave --folds out"
        )
    if any(run.config.validation == 0 for run in runs):
        raise LmsmError(
            "validation is 0: a search needs validation images to choose by, since it must not see "
            "the test's; give --validation"
        )
    if all(isinstance(axis, Choices) for axis in search.axes):
        size = num_combinations(search.axes)
        if size <= search.num_trials:
            raise LmsmError(
                f"there are only {size} combinations: "
                f"leave --trials {search.num_trials} out, and all are run"
            )
    return runs


def run_search(search: Search, display: Display) -> list[Found]:
    """Do trials until the study has enough; return them all, the best first.

    What other processes are doing is waited for, and done here where they have died. Raises
    StoppedError after a signal, and DataError and DiskError at once.
    """
    optuna = imported_optuna()
    tried = check_search(search)
    first = tried[0]
    index = RunIndex(first.config.out, display)
    index.check_new(run.config for run in tried)
    images = identity_of(first.config, OncePerPlan(display, index.said))
    worker = _Worker(search, open_study(search, first, images), index, display, first.config.seed)
    study = worker.study
    try:
        with ignore_sighup():  # between the trials too
            worker.work()
    except optuna.exceptions.StorageInternalError as error:
        raise DiskError(f"the study's database fails: {first_line(error)}") from None
    found = [_found(trial) for trial in study.get_trials(states=states_of(COUNTED))]
    return sorted(found, key=lambda one: (one.value is None, -(one.value or 0), one.number))


@dataclass
class _Worker:
    """This process among those that work on a study."""

    search: Search
    study: "Study"
    index: RunIndex
    display: Display
    seed: int

    def num(self, names: Sequence[str], before: int | None = None) -> int:
        """Return how many trials are in one of these states, of those with a smaller number."""
        trials = self.study.get_trials(deepcopy=False, states=states_of(names))
        return sum(before is None or trial.number < before for trial in trials)

    def work(self) -> None:
        """Do trials until the study has enough."""
        said = False
        while (num_done := self.num(COUNTED)) < self.search.num_trials:
            self.display.overall(num_done, self.search.num_trials)
            give_up_dead_trials(self.study)
            if num_done + self.num(["RUNNING"]) < self.search.num_trials:
                self._do_one()
                continue
            if not said:
                self.display.info("waiting for the trials that other processes are doing")
                said = True
            time.sleep(min(1.0, self.search.heartbeat))
        self.display.overall(num_done, self.search.num_trials)

    def _do_one(self) -> None:
        with begun_trial(self.study) as trial:
            value, state = None, "FAIL"
            try:
                value, state = self._outcome(trial)
            except imported_optuna().exceptions.UpdateFinishedTrialError:
                self.display.info(
                    f"trial {trial.number} was taken for dead while this process slept; "
                    "others do it"
                )
            finally:
                self.study.tell(trial, value, states_of([state])[0], skip_if_finished=True)

    def _outcome(self, trial: "Trial") -> tuple[float | None, str]:
        """Return what a trial is worth, and the state that it ends in.

        Raises StoppedError, after which its choices come again.
        """
        begun = self.num([*COUNTED, "RUNNING", "WAITING"], before=trial.number)
        if begun >= self.search.num_trials:
            return None, "FAIL"  # others have begun enough in the meantime
        choices = self._draw(trial)
        done = f"{self.num(COUNTED)} of {self.search.num_trials} done"
        self.display.info(f"trial {trial.number}, {done}: {label(choices)}")
        try:
            return self._mean(trial, choices), "COMPLETE"
        except (StoppedError, KeyboardInterrupt) as stopped:
            self.study.enqueue_trial(trial.params)
            known = stopped if isinstance(stopped, StoppedError) else stopped_by(stopped)
            raise known.among(self.num(COUNTED), self.search.num_trials, "trials") from None
        except (DataError, DiskError):
            raise
        except LmsmError as error:
            is_pruned = isinstance(error, PrunedError)
            trial.set_user_attr("ended", "pruned" if is_pruned else "failed")
            trial.set_user_attr("reason", str(error))
            if not is_pruned:
                self.display.warning(f"{label(choices)}: {error}")
            return None, "PRUNED"  # the sampler learns nothing from what has failed for Optuna

    def _draw(self, trial: "Trial") -> dict[str, str]:
        # Of the seed and the number alone: one process repeats itself, and two never draw the same.
        state = np.random.SeedSequence((self.seed, trial.number)).generate_state(1)
        samplers = imported_optuna().samplers
        self.study.sampler = samplers.TPESampler(seed=int(state[0]), multivariate=False)
        choices: dict[str, str] = {}
        for axis in self.search.axes:
            if isinstance(axis, Range):
                suggest: Any = trial.suggest_int if axis.whole else trial.suggest_float
                drawn = suggest(axis.name, axis.low, axis.high, log=axis.log)
                choices[axis.name] = axis.text(drawn)
            else:
                options = {label(option): option for option in axis.options}
                choices |= options[trial.suggest_categorical(axis.name, list(options))]
        trial.set_user_attr("choices", choices)
        return choices

    def _mean(self, trial: "Trial", choices: dict[str, str]) -> float:
        values: list[float] = []
        runs: list[str] = []
        for number, seed in enumerate(self.search.seeds or (None,)):
            run = plan_run(self.search.layers, choices, seed)
            reporting = _Reporting(self.display, trial, number * run.config.epochs)
            with claimed(run, wait=True):
                try:
                    record = complete(run, self.index, reporting, with_plots=False)
                finally:  # a pruned or failed run has a folder too
                    if there := self.index.status_of(run).record:
                        trial.set_user_attr("runs", runs := [*runs, str(there.path)])
            values.append(_last_score(record.path))
        return fmean(values)


class _Reporting(ForwardingDisplay):
    """Shows what a display shows, and reports each epoch to a trial; ends it if the pruner does."""

    def __init__(self, shown: Display, trial: "Trial", steps_before: int) -> None:
        super().__init__(shown)
        self.trial, self.steps_before = trial, steps_before

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Show a finished epoch. Raises PrunedError."""
        self.shown.epoch(epoch, num_epochs)
        assert epoch.val_balanced_accuracy is not None
        try:
            self.trial.report(epoch.val_balanced_accuracy, self.steps_before + epoch.epoch)
        except imported_optuna().exceptions.UpdateFinishedTrialError:
            raise PrunedError(f"left after epoch {epoch.epoch}: others do the trial") from None
        if epoch.epoch < num_epochs and self.trial.should_prune():
            text = f"pruned after epoch {epoch.epoch} of {num_epochs}: the median trial was better"
            self.shown.info(text)
            raise PrunedError(text)


def _last_score(path: Path) -> float:
    rows = read_run(path).metrics
    value = rows[-1].get("val_balanced_accuracy") if rows else None
    if not isinstance(value, int | float):
        raise RunError(f"{path} has no validation score in the last row of metrics.jsonl")
    return float(value)


def _found(trial: "FrozenTrial") -> Found:
    notes = trial.user_attrs
    value = trial.value if trial.state.name == "COMPLETE" else None  # else of some epoch
    return Found(
        trial.number,
        value,
        notes.get("ended", "completed"),
        notes.get("reason", ""),
        notes.get("choices", {}),
        notes.get("runs", []),
    )
