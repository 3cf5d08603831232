"""The study of a search: its choices and ranges, and the database that processes share."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError, first_line, missing_extra, writing
from lmsm_cli.runtime.files import check_own_file, lock_of, own_folder
from lmsm_cli.sweeps.grid import Axis
from lmsm_cli.sweeps.plan import PlannedRun
from lmsm_cli.training.resume import fingerprint

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

# Seconds between two signs of life of a process, and after how many of them a trial is given up:
# a laptop may sleep a little, and a killed trial's place is only taken at the very end.
_HEARTBEAT, _GRACE = 10, 6
# Seconds that a process waits for its turn at an SQLite file.
_PATIENCE = 60
# The states of trials that came to an end of their own; a stopped or surplus one has failed.
COUNTED = ("COMPLETE", "PRUNED")


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


def open_study(search: Search, first: PlannedRun, images: Mapping[str, str | None]) -> "Study":
    """Return the study, new or as it is there; on other `images` (digests by part) it is another.

    Raises LmsmError where it cannot be opened.
    """
    optuna = imported_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    axes = [asdict(axis) for axis in search.axes]
    what = fingerprint(
        {"run": first.config_hash, "images": dict(images), "axes": axes, "seeds": search.seeds}
    )
    name = search.study or f"lmsm-{what[:8]}"
    config = first.config
    pruner = optuna.pruners.NopPruner()
    if search.prune:
        pruner = optuna.pruners.MedianPruner(n_warmup_steps=1 + max(1, config.epochs // 4))
    how = {"study_name": name, "direction": "maximize", "load_if_exists": True}
    try:
        with _alone_in(config.out):
            storage = _storage(search, config)
            study: Study = optuna.create_study(storage=storage, pruner=pruner, **how)
    except (ImportError, ValueError, SQLAlchemyError, optuna.exceptions.OptunaError) as error:
        raise LmsmError(f"the study's database cannot be opened: {first_line(error)}") from None
    if not study.user_attrs and not study.get_trials(deepcopy=False):
        study.set_user_attr("lmsm", what)
    if study.user_attrs.get("lmsm") != what:
        raise LmsmError(
            f"study {name!r} is of another search: it has other choices, ranges, seeds or images; "
            "give another name with --study"
        )
    return study


def _storage(search: Search, config: Config) -> Any:
    optuna = imported_optuna()
    url = search.storage or f"sqlite:///{quote(str(_files_of(config.out)[0].absolute()))}"
    patience = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.storages.RDBStorage(
            url,
            engine_kwargs=patience,
            heartbeat_interval=search.heartbeat,
            grace_period=search.heartbeat * _GRACE,
            heartbeat_stale_trial_callback=_try_again,
        )


def _try_again(study: "Study", trial: "FrozenTrial") -> None:
    """Let somebody go on with the trial of a process that was killed."""
    if params := trial.params or trial.system_attrs.get("fixed_params"):
        study.enqueue_trial(params)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keep other processes from making the same tables at the same time."""
    folder = out / ".sweep"
    with writing(folder):
        out.mkdir(parents=True, exist_ok=True)
        lock = lock_of(own_folder(folder) / "study.lock")
        for file in _files_of(out):
            check_own_file(file)
        with lock:
            yield


def _files_of(out: Path) -> list[Path]:
    return [out / f"study.db{more}" for more in ("", "-journal", "-wal", "-shm")]


def give_up_dead_trials(study: "Study") -> None:
    """Fail the trials of processes that have given no sign of life; their choices come again."""
    optuna = imported_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


@contextmanager
def begun_trial(study: "Study") -> Iterator["Trial"]:
    """Give a new trial, or one that was stopped, which gives signs of life in the body.

    As Study.optimize does; but that stumbles where a trial was given up in the meantime.
    """
    from optuna.storages._heartbeat import get_heartbeat_thread

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage is supposed to be used with")
        trial = study.ask()
    with get_heartbeat_thread(trial._trial_id, study._storage):
        yield trial


def states_of(names: Sequence[str]) -> Any:
    """Return Optuna's states of these names."""
    return tuple(imported_optuna().trial.TrialState[name] for name in names)


def imported_optuna() -> Any:
    """Return the optional library. Raises LmsmError where it is missing."""
    try:
        import optuna
    except ImportError as error:
        raise missing_extra("--trials", error, "search") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
