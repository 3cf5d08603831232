"""What the runs of a plan will still take: by those that are done, else by trying some out."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean

from lmsm_cli.config import DATA_KEYS, Config
from lmsm_cli.data import sources
from lmsm_cli.data.splits import folder_options
from lmsm_cli.errors import LmsmError
from lmsm_cli.models.pretrained import has_cached_weights
from lmsm_cli.runtime.display import Display
from lmsm_cli.sweeps.plan import RunStatus
from lmsm_cli.training.dry_run import dry_run

# What decides the time of a step, and how many an epoch has. A loss costs less than the net does.
_KIND = (
    *(key for key in DATA_KEYS if key not in ("fold", "split_seed")),
    *("augment", "mixup", "cutmix", "model", "neck", "freeze", "batch_size", "accumulate", "ema"),
    *("sam", "device", "precision", "layout", "threads", "cuda_graph", "compile"),
)
# Kinds of runs of which one is tried out: each takes seconds, and a grid may have hundreds.
_MOST_TRIED = 3


@dataclass(frozen=True)
class Tried:
    """A run that was tried out, and the seconds that the whole of it will take."""

    label: str
    seconds: float


@dataclass(frozen=True)
class TimeLeft:
    """The seconds of all trainings that are still to do, and what they are guessed by."""

    seconds: float
    num_runs: int
    tried: tuple[Tried, ...]
    """Empty where runs that are done tell it."""


@dataclass(frozen=True)
class _Pace:
    """What runs of a kind take: seconds of an epoch, and those that come once."""

    epoch: float
    once: float = 0.0

    def of(self, config: Config) -> float:
        return self.once + config.epochs * self.epoch


@dataclass
class _Paces:
    """The paces of the kinds of runs that are known."""

    known: dict[str, _Pace] = field(default_factory=dict)

    def of(self, config: Config) -> float:
        """Return the seconds of a run; of an unknown kind at the mean pace of the others."""
        if pace := self.known.get(_kind(config)):
            return pace.of(config)
        return fmean(pace.of(config) for pace in self.known.values())


def time_left(found: Sequence[RunStatus], display: Display, *, with_plots: bool) -> TimeLeft | None:
    """Return what the trainings of a plan that are not completed will take; None where none is.

    Of a kind of which no run is done, one is tried out, of the first kinds alone: the others are
    taken to be as fast. A correction of a last layer is no training. Raises what the run that is
    tried would raise, and LmsmError where it would download something.
    """
    todo = [one.run for one in found if one.state != "completed" and not one.run.config.post_hoc]
    if not todo:
        return None
    paces, tried = _Paces(_finished(found)), []
    unknown = {_kind(run.config): run for run in reversed(todo)}  # the first run of each
    for kind, run in list(reversed(unknown.items()))[:_MOST_TRIED]:
        if kind not in paces.known:
            paces.known[kind] = _try_out(run.config, display, with_plots=with_plots)
            tried.append(Tried(run.label, paces.of(run.config)))
    return TimeLeft(sum(paces.of(run.config) for run in todo), len(todo), tuple(tried))


def _kind(config: Config) -> str:
    return config.model_dump_json(include=set(_KIND))


def _finished(found: Sequence[RunStatus]) -> dict[str, _Pace]:
    """Return the mean pace of the finished runs of each kind."""
    seconds: dict[str, list[float]] = defaultdict(list)
    for one in found:
        if one.seconds is not None and not one.run.config.post_hoc:
            seconds[_kind(one.run.config)].append(one.seconds / one.run.config.epochs)
    return {kind: _Pace(fmean(own)) for kind, own in seconds.items()}


def _try_out(config: Config, display: Display, *, with_plots: bool) -> _Pace:
    """Return the pace of a run, by its first batches. Raises LmsmError rather than download."""
    if sources.find_dataset(config.dataset, config.data_dir, folder_options(config)) is None:
        raise LmsmError(f"{config.dataset} is not below {config.data_dir} yet")
    if config.pretrained == "imagenet" and not has_cached_weights(config.model):
        raise LmsmError(f"the weights of {config.model} are not on this disk yet")
    measured = dry_run(config, display)
    assert measured is not None  # a sweep is one process
    phases = measured["phases"]
    an_epoch = phases["training"] + phases["validation"] + phases["checkpoints"]
    # what it takes to prepare is nearly all decoding, which is done once for all runs
    once = phases["testing"] + (phases["plots"] if with_plots else 0.0)
    return _Pace(an_epoch / config.epochs, once)
