"""Which runs belong together, and what they give on average: pure data, no drawing.

Runs that differ in nothing but the seed (and where they ran) make one group, scored as mean and
standard deviation. To compare one more score, add its way into scores.json to `METRICS`.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from lmsm_cli.runs.record import RunRecord

# What a run is allowed to differ in from the other runs of its group: nothing that moves a result
# beyond rounding.
FREE_KEYS = ("seed", "out", "data_dir", "device", "layout", "threads", "cuda_graph", "compile")

METRICS: Mapping[str, tuple[str, ...]] = {
    "accuracy": ("accuracy",),
    "balanced_accuracy": ("balanced_accuracy",),
    "macro_f1": ("macro_f1",),
    "many": ("groups", "many"),
    "medium": ("groups", "medium"),
    "few": ("groups", "few"),
    "effective_margin": ("effective_margin",),
}


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (None for one run) over n runs."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class ClassStatistic:
    """The accuracy of one class in a group of runs."""

    name: str
    train_count: int
    accuracy: Statistic | None


@dataclass(frozen=True)
class Group:
    """Runs of one configuration; `test_set` numbers the distinct sets of test images."""

    label: str
    differs: dict[str, Any]
    test_set: int
    seeds: tuple[int | None, ...]
    runs: tuple[str, ...]
    metrics: dict[str, Statistic | None]
    per_class: tuple[ClassStatistic, ...]


@dataclass(frozen=True)
class Unscored:
    """A run that is left out, and why."""

    run: str
    reason: str


@dataclass(frozen=True)
class Comparison:
    """Groups of runs in the order of their test sets, and the runs that are in no group."""

    differing: tuple[str, ...]
    groups: tuple[Group, ...]
    unscored: tuple[Unscored, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain lists, dicts and numbers."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document


def compare_runs(records: Sequence[RunRecord]) -> Comparison:
    """Return the runs grouped over seeds, with mean, standard deviation and number of each score.

    Of runs that repeat one configuration with one seed only the newest counts (the last by folder
    name, which starts with the time): a repetition is no further sample. Runs without scores or
    config, and those repetitions, are listed as unscored.
    """
    unscored = [
        Unscored(str(record.path), record.problem or "no scores")
        for record in records
        if record.scores is None or record.config is None
    ]
    scored = [
        record for record in records if record.scores is not None and record.config is not None
    ]
    members: dict[str, dict[Any, RunRecord]] = {}
    for record in sorted(scored, key=lambda record: record.path.name):
        images = _images(record, "train_count", "test_count")
        seeds = members.setdefault(_key([_setting(record), images]), {})
        seed = _config(record).get("seed")
        if seed in seeds:
            reason = f"its configuration and seed are repeated by the newer {record.path.name}"
            unscored.append(Unscored(str(seeds[seed].path), reason))
        seeds[seed] = record
    differing, groups = _groups([list(seeds.values()) for seeds in members.values()])
    return Comparison(differing, groups, tuple(unscored))


def _groups(members: Sequence[Sequence[RunRecord]]) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """Return the keys that tell the groups apart, and the groups."""
    firsts = [runs[0] for runs in members]
    test_sets = list(dict.fromkeys(_key(_images(record, "test_count")) for record in firsts))
    settings = [_setting(record) for record in firsts]
    differing = _differing(settings)
    if len({_key([setting.get(key) for key in differing]) for setting in settings}) < len(settings):
        settings = [_setting(record) | _num_images(record) for record in firsts]
        differing = _differing(settings)
    groups = []
    for runs, setting in zip(members, settings, strict=True):
        differs = {key: setting.get(key) for key in differing}
        groups.append(
            Group(
                label=_label(differs),
                differs=differs,
                test_set=test_sets.index(_key(_images(runs[0], "test_count"))),
                seeds=tuple(_config(run).get("seed") for run in runs),
                runs=tuple(str(run.path) for run in runs),
                metrics={name: _metric(runs, road) for name, road in METRICS.items()},
                per_class=_per_class(runs),
            )
        )
    return differing, tuple(sorted(groups, key=lambda group: group.test_set))


def _setting(record: RunRecord) -> dict[str, Any]:
    """Return what a run has in common with every run of its group.

    A run that did not complete, or whose scores are of another checkpoint, is no sample of the
    others.
    """
    setting = {key: value for key, value in _config(record).items() if key not in FREE_KEYS}
    checkpoint = _scores(record).get("checkpoint")
    setting["checkpoint"] = PurePath(checkpoint).name if isinstance(checkpoint, str) else None
    setting["state"] = record.state
    return setting


def _images(record: RunRecord, *counts: str) -> list[list[Any]]:
    """Return name and counts of each class: `folder` data can change under one config."""
    return [[row["name"], *(row[key] for key in counts)] for row in _scores(record)["per_class"]]


def _num_images(record: RunRecord) -> dict[str, int]:
    rows = _scores(record)["per_class"]
    return {f"{use}_images": sum(row[f"{use}_count"] for row in rows) for use in ("train", "test")}


def _differing(settings: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the loss and every other key in which the settings are not all equal."""
    keys = dict.fromkeys(["loss", *(key for setting in settings for key in setting)])
    return tuple(
        key
        for key in keys
        if key == "loss" or len({_key(setting.get(key)) for setting in settings}) > 1
    )


def _label(differs: Mapping[str, Any]) -> str:
    """Return what tells a group apart: `lsoftmax:margin=4 neck=bn`."""
    others = (f"{key}={value}" for key, value in differs.items() if key != "loss")
    return " ".join([str(differs["loss"]), *others])


def _metric(runs: Sequence[RunRecord], road: Iterable[str]) -> Statistic | None:
    values = []
    for run in runs:
        value: Any = _scores(run)
        for key in road:
            value = value.get(key)
        values.append(value)
    return _statistic(values)


def _per_class(runs: Sequence[RunRecord]) -> tuple[ClassStatistic, ...]:
    columns = zip(*(_scores(run)["per_class"] for run in runs), strict=True)
    return tuple(
        ClassStatistic(
            rows[0]["name"], rows[0]["train_count"], _statistic(row["accuracy"] for row in rows)
        )
        for rows in columns
    )


def _statistic(values: Iterable[Any]) -> Statistic | None:
    known = [float(value) for value in values if isinstance(value, int | float)]
    if not known:
        return None
    sd = statistics.stdev(known) if len(known) > 1 else None
    return Statistic(statistics.fmean(known), sd, len(known))


def _key(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _config(record: RunRecord) -> dict[str, Any]:
    return record.config or {}


def _scores(record: RunRecord) -> dict[str, Any]:
    return record.scores or {}
