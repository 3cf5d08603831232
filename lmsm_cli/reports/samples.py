"""What a scored run is to a comparison: what it was made with, and its scores by name.

To compare one more score, add it to `METRICS`.
"""

import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from typing import Any

from lmsm_cli.config import Config, dump
from lmsm_cli.runs.record import RunRecord

# What a run is allowed to differ in from the other runs of its group: nothing that moves a result
# beyond rounding.
FREE_KEYS = ("seed", "out", "data_dir", "device", "layout", "threads", "cuda_graph", "compile", "tensorboard")  # fmt: skip

# What decides which images a score is of, and of which training: never averaged over.
SPLIT_KEYS = ("dataset", "imbalance", "factor", "validation", "split_seed", "image_size", "checkpoint", "state")  # fmt: skip


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


@dataclass(frozen=True)
class Sample:
    """A scored run as the grouping sees it."""

    record: RunRecord
    setting: dict[str, Any]
    """What decides its result, but for the seed."""
    key: str
    """Equal for the runs of one group."""
    pair: Hashable
    """Its place in the group; the run at the same place of another group makes a pair with it."""

    @property
    def scores(self) -> dict[str, Any]:
        """Its scores.json."""
        return self.record.scores or {}

    @property
    def seed(self) -> Any:
        """Its seed."""
        return (self.record.config or {}).get("seed")


def samples_of(records: Sequence[RunRecord], by: Sequence[str]) -> Iterable[Sample]:
    """Yield the scored runs, oldest first; with `by` those keys and SPLIT_KEYS make the groups."""
    for record in sorted(records, key=lambda record: record.path.name):
        if record.scores is None or record.config is None:
            continue
        setting = _setting(record)
        shared = shared_setting(record, setting, by)
        rest = {key: value for key, value in setting.items() if key not in shared}
        images = _images(record, "train_count", "test_count")
        pair = (record.config.get("seed"), key_of(rest) if rest else "")
        yield Sample(record, setting, key_of([shared, images]), pair)


def shared_setting(record: RunRecord, setting: Mapping[str, Any], by: Sequence[str]) -> Mapping[str, Any]:  # fmt: skip
    """Return what a run has in common with every run of its group."""
    if not by:
        return setting
    own = {key: (record.config or {}).get(key) for key in by}
    return own | {key: setting.get(key) for key in SPLIT_KEYS}


def _setting(record: RunRecord) -> dict[str, Any]:
    """Return what decides a run's result.

    A run that did not complete, or whose scores are of another checkpoint, is no sample of the
    others. A choice that an older lmsm did not have is at its default.
    """
    given = usual_setting() | (record.config or {})
    setting = {key: value for key, value in given.items() if key not in FREE_KEYS}
    checkpoint = (record.scores or {}).get("checkpoint")
    setting["checkpoint"] = PurePath(checkpoint).name if isinstance(checkpoint, str) else None
    setting["state"] = record.state
    return setting


@cache
def usual_setting() -> dict[str, Any]:
    """Return the setting of a completed run with every choice at its default."""
    return dump(Config.model_validate({})) | {"checkpoint": "checkpoint.pt", "state": "completed"}


def _images(record: RunRecord, *counts: str) -> list[list[Any]]:
    """Return name and counts of each class: `folder` data can change under one config."""
    return [[row["name"], *(row[key] for key in counts)] for row in (record.scores or {})["per_class"]]  # fmt: skip


def test_images(sample: Sample) -> str:
    """Return a key of the test images: equal keys, scores that can be compared."""
    return key_of(_images(sample.record, "test_count"))


def num_images(record: RunRecord) -> dict[str, int]:
    """Return how many training and test images a run had."""
    rows = (record.scores or {})["per_class"]
    return {f"{use}_images": sum(row[f"{use}_count"] for row in rows) for use in ("train", "test")}


def values(pairs: Mapping[Hashable, Sample], metric: str) -> dict[Hashable, float]:
    """Return the values of a metric that are known, by the samples' places in the group."""
    found = {pair: METRICS[metric](sample.scores) for pair, sample in pairs.items()}
    return {pair: float(value) for pair, value in found.items() if isinstance(value, int | float)}


def key_of(value: object) -> str:
    """Return a text that is equal for equal values."""
    return json.dumps(value, sort_keys=True)
