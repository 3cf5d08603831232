"""Search by Optuna for the choices with the best validation score: ranges, pruning, shared studies.

A study lives in a database, its runs in run folders, and each trial is done as a sweep does its runs.
So a search goes on after anything, and several processes, here or on other hosts, share one study.
"""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from lmsm_cli import journal
from lmsm_cli.config import Config
from lmsm_cli.display import Display
from lmsm_cli.engine.train import Epoch, Step
from lmsm_cli.errors import (
    DataError,
    DiskError,
    LmsmError,
    PrunedError,
    RunError,
    StoppedError,
    first_line,
)
from lmsm_cli.grid import Axis, Choices, Range, label, samples
from lmsm_cli.layers import Layer
from lmsm_cli.sweep import PlannedRun, Shelf, check_alone, claimed, complete, make_plan, planned

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

# Seconds between two signs of life of a process, and after how many of them a trial is given up:
# a laptop may sleep a little, and a killed trial's place is only taken at the very end.
_HEARTBEAT, _GRACE = 10, 6
# Seconds that a process waits for its turn at an SQLite file.
_PATIENCE = 60


@dataclass(frozen=True)
class Search:
    """What is searched, and where the study of it is."""

    layers: Sequence[Layer]
    axes: Sequence[Axis]
    seeds: tuple[int, ...] | None
    """A trial's value is the mean over these; None for the config's own seed."""
    num_trials: int
    """Of the whole study."""
    study: str | None = None
    storage: str | None = None
    """A database's URL; None for a file in the runs' folder."""
    prune: bool = False
    heartbeat: int = _HEARTBEAT


@dataclass(frozen=True)
class Found:
    """A finished trial: its value is the mean of the last epoch's validation score, if it came there."""

    number: int
    value: float | None
    state: str
    reason: str
    choices: dict[str, str]
    runs: tuple[str, ...]

    @property
    def label(self) -> str:
        """Its choices in a line."""
        return label(self.choices)


class _SurplusError(Exception):
    """This trial is one too many: others have begun enough in the meantime."""


def check_search(search: Search) -> PlannedRun:
    """Return a run of the search; raise LmsmError for whatever can't work, before anything starts.

    Every listed value and both ends of every range are tried once in a config.
    """
    _optuna()
    check_alone()
    runs = make_plan(search.layers, list(samples(search.axes)), search.seeds and search.seeds[:1])
    if any(run.config.validation == 0 for run in runs):
        raise LmsmError("validation is 0: a search needs validation images to choose by, since it must not see the test's; give --validation")  # fmt: skip
    if all(isinstance(axis, Choices) for axis in search.axes):
        size = int(np.prod([len(axis.ends()) for axis in search.axes]))
        if size <= search.num_trials:
            raise LmsmError(f"there are only {size} combinations: leave --trials {search.num_trials} out, and all are run")  # fmt: skip
    return runs[0]


def run_search(search: Search, display: Display) -> list[Found]:
    """Do trials until the study has enough; return them all, the best first.

    What other processes are doing is waited for, and done here where they have died. Raises
    StoppedError after a signal, and DataError and DiskError at once.
    """
    optuna = _optuna()
    first = check_search(search)
    study = _open(search, first)
    worker = _Worker(search, study, Shelf(first.config.out), display, first.config.seed)
    said = False
    try:
        while (num_done := worker.num(_counted())) < search.num_trials:
            if num_done + worker.num(["RUNNING"]) < search.num_trials:
                study.optimize(worker.value, n_trials=1, catch=(_SurplusError,))
                continue
            if not said:
                display.say("waiting for the trials that other processes are doing")
                said = True
            time.sleep(min(1.0, search.heartbeat))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)
    except optuna.exceptions.StorageInternalError as error:
        raise DiskError(f"the study's database fails: {first_line(error)}") from None
    found = [_found(trial) for trial in study.get_trials(states=_states(_counted()))]
    return sorted(found, key=lambda one: (one.value is None, -(one.value or 0), one.number))


@dataclass
class _Worker:
    """This process among those that work on a study."""

    search: Search
    study: "Study"
    shelf: Shelf
    display: Display
    seed: int

    def num(self, names: Sequence[str], before: int | None = None) -> int:
        """Return how many trials are in one of these states, of those with a smaller number."""
        trials = self.study.get_trials(deepcopy=False, states=_states(names))
        return sum(before is None or trial.number < before for trial in trials)

    def value(self, trial: "Trial") -> float:
        """Return what a trial is worth: the mean of its runs' last validation scores."""
        optuna = _optuna()
        if self.num([*_counted(), "RUNNING", "WAITING"], before=trial.number) >= self.search.num_trials:  # fmt: skip
            raise _SurplusError
        # Of the seed and the number alone: one process repeats itself, and two never draw the same.
        state = np.random.SeedSequence((self.seed, trial.number)).generate_state(1)
        self.study.sampler = optuna.samplers.TPESampler(seed=int(state[0]), multivariate=False)
        choices = _drawn(trial, self.search.axes)
        trial.set_user_attr("choices", choices)
        self.display.say(f"trial {trial.number}, {self.num(_counted())} of {self.search.num_trials} done: {label(choices)}")  # fmt: skip
        try:
            return self._mean(trial, choices)
        except (StoppedError, KeyboardInterrupt) as stopped:
            self.study.enqueue_trial(trial.params)  # for whoever goes on
            if isinstance(stopped, StoppedError):
                raise StoppedError(f"{stopped} with that run; the same command again goes on with the search", stopped.exit_code - 128) from None  # fmt: skip
            raise
        except (DataError, DiskError):
            raise
        except LmsmError as error:
            # Not Optuna's failed trials: its sampler would learn nothing from them.
            trial.set_user_attr("ended", "pruned" if isinstance(error, PrunedError) else "failed")
            trial.set_user_attr("reason", str(error))
            if not isinstance(error, PrunedError):
                self.display.warn(f"{label(choices)}: {error}")
            raise optuna.TrialPruned(str(error)) from None

    def _mean(self, trial: "Trial", choices: dict[str, str]) -> float:
        values: list[float] = []
        runs: list[str] = []
        for number, seed in enumerate(self.search.seeds or (None,)):
            run = planned(self.search.layers, choices, seed)
            reporting = _Reporting(self.display, trial, number * run.config.epochs)
            with claimed(run, wait=True):
                record = complete(run, self.shelf, reporting, with_plots=False)
            trial.set_user_attr("runs", runs := [*runs, str(record.path)])
            values.append(_last_score(record.path, record.metrics))
        return fmean(values)


@dataclass(frozen=True)
class _Reporting:
    """Shows what a display shows, and tells a trial of each epoch; ends it where the pruner says so."""

    shown: Display
    trial: "Trial"
    steps_before: int

    def report(self, what: str, done: int, total: int) -> None:
        """Show progress before the training."""
        self.shown.report(what, done, total)

    def say(self, text: str) -> None:
        """Show a message."""
        self.shown.say(text)

    def warn(self, text: str) -> None:
        """Show a message that must not be overlooked."""
        self.shown.warn(text)

    def step(self, step: Step) -> None:
        """Show a finished step."""
        self.shown.step(step)

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Show a finished epoch. Raises PrunedError."""
        self.shown.epoch(epoch, num_epochs)
        assert epoch.val_balanced_accuracy is not None
        self.trial.report(epoch.val_balanced_accuracy, self.steps_before + epoch.epoch)
        if epoch.epoch < num_epochs and self.trial.should_prune():
            text = f"pruned after epoch {epoch.epoch} of {num_epochs}: the median trial was better"
            self.shown.say(text)
            raise PrunedError(text)


def _last_score(path: Path, rows: Sequence[dict[str, Any]]) -> float:
    value = rows[-1].get("val_balanced_accuracy") if rows else None
    if not isinstance(value, int | float):
        raise RunError(f"{path} has no validation score in the last row of metrics.jsonl")
    return float(value)


def _drawn(trial: "Trial", axes: Sequence[Axis]) -> dict[str, str]:
    """Return the choices that the sampler draws for a trial."""
    choices: dict[str, str] = {}
    for axis in axes:
        if isinstance(axis, Range):
            draw: Callable[..., float] = trial.suggest_int if axis.whole else trial.suggest_float
            choices[axis.name] = axis.text(draw(axis.name, axis.low, axis.high, log=axis.log))
        else:
            options = {label(option): option for option in axis.options}
            choices |= options[trial.suggest_categorical(axis.name, list(options))]
    return choices


def _open(search: Search, first: PlannedRun) -> "Study":
    """Return the study, new or as it is there. Raises LmsmError where it cannot be opened."""
    optuna = _optuna()
    from sqlalchemy.exc import SQLAlchemyError

    what = journal.fingerprint({"run": first.asked, "axes": [asdict(axis) for axis in search.axes], "seeds": search.seeds})  # fmt: skip
    name = search.study or f"lmsm-{what[:8]}"
    config = first.config
    pruner = optuna.pruners.MedianPruner(n_warmup_steps=config.epochs // 4) if search.prune else optuna.pruners.NopPruner()  # fmt: skip
    try:
        with _alone_in(config.out):
            storage = _storage(search, config)
            study: Study = optuna.create_study(storage=storage, study_name=name, pruner=pruner, direction="maximize", load_if_exists=True)  # fmt: skip
    except (ImportError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise LmsmError(f"the study's database cannot be opened: {first_line(error)}") from None
    if not study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr("lmsm", what)
    if study.user_attrs.get("lmsm") != what:
        raise LmsmError(f"study {name!r} is of another search: it has other choices, ranges or seeds; give another name with --study")  # fmt: skip
    return study


def _storage(search: Search, config: Config) -> Any:
    optuna = _optuna()
    url = search.storage or f"sqlite:///{(config.out / 'study.db').absolute()}"
    patience = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url, engine_kwargs=patience, heartbeat_interval=search.heartbeat,
            grace_period=search.heartbeat * _GRACE, heartbeat_stale_trial_callback=_try_again,
        )  # fmt: skip


def _try_again(study: "Study", trial: "FrozenTrial") -> None:
    """Let somebody go on with the trial of a process that was killed."""
    if params := trial.params or trial.system_attrs.get("fixed_params"):
        study.enqueue_trial(params)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other processes from making the same tables at the same time."""
    folder = out / ".sweep"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "study.lock"):
            yield
    except OSError as error:
        raise DiskError(f"cannot write in {folder}: {error.strerror or error}") from None


def _found(trial: "FrozenTrial") -> Found:
    notes = trial.user_attrs
    value = trial.value if trial.state.name == "COMPLETE" else None  # else of some epoch
    return Found(trial.number, value, notes.get("ended", "completed"), notes.get("reason", ""), notes.get("choices", {}), tuple(notes.get("runs", ())))  # fmt: skip


def _counted() -> list[str]:
    """Return the states of trials that came to an end of their own."""
    return ["COMPLETE", "PRUNED"]


def _states(names: Sequence[str]) -> Any:
    return tuple(_optuna().trial.TrialState[name] for name in names)


def _optuna() -> Any:
    """Return the optional library. Raises LmsmError where it is missing."""
    try:
        import optuna
    except ModuleNotFoundError:
        raise LmsmError("--trials needs optuna: pip install 'lmsm-cli[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
