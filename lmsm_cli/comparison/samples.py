"""What a scored run is to a comparison: what it was made with, and its scores by name.

To compare one more score, add it to `METRICS`.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from statistics import fmean
from typing import Any

from lmsm_cli.comparison.data_sets import images_of
from lmsm_cli.config import RUNTIME_KEYS, Config, dump
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.runs.record import RunRecord

# What a run is allowed to differ in from the other runs of its group.
FREE_KEYS = ("seed", *RUNTIME_KEYS)

# What decides which images a score is of, and of which training: never averaged over.
SPLIT_KEYS = (
    "dataset",
    "imbalance",
    "factor",
    "images_per_class",
    "validation",
    "split_seed",
    "image_size",
    "checkpoint",
    "state",
)


def _at(*road: str) -> Callable[[Mapping[str, Any]], Any]:
    """Return what looks a value up in scores.json, None where there is none."""

    def look_up(scores: Mapping[str, Any]) -> Any:
        value: Any = scores
        for key in road:
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    return look_up


def _minutes(scores: Mapping[str, Any]) -> float | None:
    seconds = _at("training", "seconds")(scores)
    return None if seconds is None else seconds / 60


METRICS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "accuracy": _at("accuracy"),
    "balanced_accuracy": _at("balanced_accuracy"),
    "macro_f1": _at("macro_f1"),
    "many": _at("groups", "many"),
    "medium": _at("groups", "medium"),
    "few": _at("groups", "few"),
    "calibration_error": _at("calibration_error"),
    "effective_margin": _at("effective_margin"),
    "minutes": _minutes,
    "images_per_second": _at("training", "images_per_second"),
}


# How the metrics that are no shares are written.
PLAIN_FORMATS = {"effective_margin": ".2f", "minutes": ",.2f", "images_per_second": ",.0f"}


@dataclass(frozen=True)
class Sample:
    """A scored run as the grouping sees it."""

    record: RunRecord
    setting: dict[str, Any]
    """What decides its result, but for the seed."""
    key: str
    """Equal for the runs of one group."""
    rest: str
    """Equal for runs that share the choices that `by` leaves open."""

    @property
    def place(self) -> Hashable:
        """Its place in the group, which no two runs share."""
        return self.seed, self.rest

    @property
    def scores(self) -> dict[str, Any]:
        """Its scores.json."""
        return self.record.scores or {}

    @property
    def seed(self) -> Any:
        """Its seed."""
        return (self.record.config or {}).get("seed")


def samples_of(records: Sequence[RunRecord], by: Sequence[str]) -> Iterable[Sample]:
    """Yield the scored runs, oldest first; with `by` those keys, SPLIT_KEYS and images make the groups."""
    for record in sorted(records, key=lambda record: record.name):
        if record.scores is None or record.config is None:
            continue
        setting = _setting(record)
        shared = shared_setting(record, setting, by)
        rest = {key: value for key, value in setting.items() if key not in shared}
        images = [images_of(record), _images(record, "train_count", "test_count")]
        yield Sample(
            record, setting, key_of([_spelled_alike(shared), images]), key_of(_spelled_alike(rest))
        )


def _spelled_alike(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting whose loss is its name and options: equal in whatever order, 4 or 4.0."""
    return {key: _parts(value) if key == "loss" else value for key, value in setting.items()}


def _parts(loss: Any) -> Any:
    try:
        name, options = parse_spec(loss)
    except (LmsmError, AttributeError):  # damaged, or no text
        return loss
    return [name, {key: _number(value) for key, value in options.items()}]


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def shared_setting(
    record: RunRecord, setting: Mapping[str, Any], by: Sequence[str]
) -> Mapping[str, Any]:
    """Return what a run has in common with every run of its group."""
    if not by:
        return setting
    given = usual_setting() | (record.config or {})
    own = {key: given.get(key) for key in by}
    return own | {key: setting.get(key) for key in SPLIT_KEYS}


def _setting(record: RunRecord) -> dict[str, Any]:
    """Return what decides a run's result.

    A run that did not complete, that was made longer, or whose scores are of another checkpoint, is
    no sample of the others. A choice that an older lmsm did not have is at its default.
    """
    given = usual_setting() | (record.config or {})
    setting = {key: value for key, value in given.items() if key not in FREE_KEYS}
    checkpoint = (record.scores or {}).get("checkpoint")
    setting["checkpoint"] = PurePath(checkpoint).name if isinstance(checkpoint, str) else None
    setting["state"] = record.state
    if setting.get("pretrained"):  # a file's name is no proof of what it held
        setting["weights"] = (record.environment or {}).get("pretrained")
    setting["lengthened_from"] = (record.scores or {}).get("lengthened_from") or []
    return setting


@cache
def usual_setting() -> dict[str, Any]:
    """Return the setting of a completed run with every choice at its default."""
    return dump(Config.model_validate({})) | {
        "checkpoint": "checkpoint.pt",
        "state": "completed",
        "lengthened_from": [],
    }


def _images(record: RunRecord, *counts: str) -> list[list[Any]]:
    """Return name and counts of each class: all that is known of the images of older runs."""
    return [
        [row["name"], *(row[key] for key in counts)] for row in (record.scores or {})["per_class"]
    ]


def test_images(sample: Sample) -> str:
    """Return a key of the test images: equal keys, scores that can be compared."""
    images = images_of(sample.record)
    return key_of([images and images[-1], _images(sample.record, "test_count")])


def num_images(record: RunRecord) -> dict[str, int]:
    """Return how many training and test images a run had."""
    rows = (record.scores or {})["per_class"]
    return {f"{use}_images": sum(row[f"{use}_count"] for row in rows) for use in ("train", "test")}


def values(samples: Iterable[Sample], metric: str) -> dict[Hashable, float]:
    """Return the values of a metric that are known, by the samples' places in the group."""
    found = {sample.place: METRICS[metric](sample.scores) for sample in samples}
    return {place: float(value) for place, value in found.items() if isinstance(value, int | float)}


def by_seed(
    own: Sequence[Sample], other: Sequence[Sample], metric: str
) -> tuple[dict[Hashable, float], dict[Hashable, float]]:
    """Return a metric of two groups by seed: means over the open choices that both have.

    A seed that lacks one of these choices is left out, for its mean would be of something else.
    """
    shared = {one.rest for one in own} & {one.rest for one in other}
    return _seed_means(own, shared, metric), _seed_means(other, shared, metric)


def _seed_means(samples: Sequence[Sample], rests: set[str], metric: str) -> dict[Hashable, float]:
    known = values((sample for sample in samples if sample.rest in rests), metric)
    seeds = {
        seed: [known[seed, rest] for rest in rests if (seed, rest) in known]
        for seed in {sample.seed for sample in samples}
    }
    return {
        seed: fmean(found) for seed, found in seeds.items() if found and len(found) == len(rests)
    }


def key_of(value: object) -> str:
    """Return a text that is equal for equal values."""
    return json.dumps(value, sort_keys=True)
