"""What a scored run is to a comparison: what it was made with, and its scores."""

import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePath
from statistics import fmean
from typing import Any

from lmsm_cli.comparison.data_sets import IMAGE_KEYS, images_of
from lmsm_cli.config import RUNTIME_KEYS, Config, dump
from lmsm_cli.config.defaults import updates_an_epoch
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import parts_of
from lmsm_cli.metrics import METRICS, Scores
from lmsm_cli.runs.documents import ScoresDocument
from lmsm_cli.runs.record import RunRecord

# What a run is allowed to differ in from the other runs of its group.
FREE_KEYS = ("seed", *RUNTIME_KEYS)

# What decides the result of a last layer that was corrected without a training.
_POST_HOC_KEYS = (
    *(*IMAGE_KEYS, "image_size", "resize", "crop_from", "precision"),
    *("model", "neck", "loss", "head_bias", "class_margins", "pretrained", "freeze", "post_hoc"),
)

# What decides which images a score is of, and of which training: never averaged over.
SPLIT_KEYS = (*IMAGE_KEYS, "image_size", "checkpoint", "state", "source")


@dataclass(frozen=True)
class Sample:
    """A scored run as the grouping sees it."""

    record: RunRecord
    scores: ScoresDocument
    recipe: dict[str, Any]
    """Its choices, but for the seed, with where it stands."""
    setting: dict[str, Any]
    """Those that decide its result: a correction without a training is as it is whatever the rate.
    """
    key: str
    """Equal for the runs of one group."""
    rest: str
    """Equal for runs that share the choices that `by` leaves open."""

    @property
    def place(self) -> Hashable:
        """Its place in the group, which no two runs share."""
        return self.seed, self.rest

    @property
    def seed(self) -> Any:
        """Its seed."""
        return (self.record.config or {}).get("seed")

    @property
    def steps(self) -> int | None:
        """The optimisation steps of the whole training, that of a first stage included.

        None where the config does not say, or nobody recorded those of the first stage.
        """
        config = self.record.config or {}
        if _first_stage(self.record) is None:
            return self._own_steps(config)
        assert self.record.environment is not None
        below = self.record.environment.first_stage_steps
        own = 0 if config.get("post_hoc") else self._own_steps(config)
        return None if below is None or own is None else below + own

    def _own_steps(self, config: Mapping[str, Any]) -> int | None:
        done, batch = self.record.epochs_of_scores, config.get("batch_size")
        images = num_images(self.scores)["train_images"]
        if done is None or images is None or not isinstance(batch, int) or batch < 1:
            return None
        together = config.get("accumulate", 1)
        if not isinstance(together, int) or together < 1:
            return None
        return done[0] * updates_an_epoch(images, batch, together)


def samples_of(records: Sequence[RunRecord], by: Sequence[str]) -> Iterable[Sample]:
    """Yield the scored runs, oldest first.

    With `by`, runs that share those keys, SPLIT_KEYS and the images are of one group.
    """
    for record in sorted(records, key=lambda record: record.name):
        scores = record.scores
        if scores is None or record.config is None:
            continue
        recipe = recipe_of(record, scores)
        setting = setting_of(recipe)
        shared = shared_setting(record, setting, by)
        rest = {key: value for key, value in setting.items() if key not in shared}
        classes = [[row.name, row.train_count, row.test_count] for row in scores.per_class]
        key = key_of([spelled_alike(shared), [images_of(record), classes]])
        yield Sample(record, scores, recipe, setting, key, key_of(spelled_alike(rest)))


def spelled_alike(setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return a setting whose loss is its name and options: equal in whatever order, 4 or 4.0, and
    whether or not a default is written."""
    return {key: _parts(value) if key == "loss" else value for key, value in setting.items()}


def _parts(loss: Any) -> Any:
    try:
        return list(parts_of(loss))
    except LmsmError:  # damaged, or not a text
        return loss


def shared_setting(
    record: RunRecord, setting: Mapping[str, Any], by: Sequence[str]
) -> Mapping[str, Any]:
    """Return what a run has in common with every run of its group."""
    if not by:
        return setting
    given = _given(record)
    own = {key: given[key] for key in by if key in given}
    return own | {key: setting[key] for key in SPLIT_KEYS if key in setting}


def _given(record: RunRecord) -> dict[str, Any]:
    """Return the choices of a run; those of another program's are unknown, not lmsm's defaults."""
    return ({} if record.is_outside else usual_setting()) | (record.config or {})


def recipe_of(record: RunRecord, scores: ScoresDocument) -> dict[str, Any]:
    """Return the choices of a run but for the seed, and where it stands.

    A run that did not complete, that was made longer, or whose scores are of another checkpoint, is
    no sample of the others. A choice that an older lmsm did not have is at its default.
    """
    recipe = {key: value for key, value in _given(record).items() if key not in FREE_KEYS}
    if record.is_outside:
        return recipe
    recipe["checkpoint"] = scores.checkpoint and PurePath(scores.checkpoint).name
    recipe["state"] = record.state
    if first_stage := _first_stage(record):  # the nets of several seeds, as their own runs are
        recipe["pretrained"] = first_stage
    elif recipe.get("pretrained"):  # a file's name is no proof of what it held
        recipe["weights"] = record.environment and record.environment.pretrained
    if code := record.environment and record.environment.own_code:
        recipe["own_code"] = {kind: one.sha256 for kind, one in code.items()}
    recipe["lengthened_from"] = list(scores.lengthened_from)
    return recipe


def setting_of(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a recipe decides the result."""
    idle = Config.model_fields.keys() - _POST_HOC_KEYS if recipe.get("post_hoc") else ()
    return {key: value for key, value in recipe.items() if key not in idle}


def _first_stage(record: RunRecord) -> str | None:
    """Return what the net was trained with, of a run that trained the last layer alone on it."""
    if (record.config or {}).get("freeze") != "features" or record.environment is None:
        return None
    return record.environment.first_stage


@cache
def usual_setting() -> dict[str, Any]:
    """Return the setting of a completed run with every choice at its default."""
    return dump(Config.model_validate({})) | {
        "checkpoint": "checkpoint.pt",
        "state": "completed",
        "source": "lmsm",
        "lengthened_from": [],
    }


def test_images(sample: Sample) -> str:
    """Return a key of the test images: equal keys, scores that can be compared."""
    images = images_of(sample.record)
    classes = [[row.name, row.test_count] for row in sample.scores.per_class]
    return key_of([images and images[-1], classes])


def num_images(scores: Scores) -> dict[str, int | None]:
    """Return how many training and test images a run had; None for what is not known."""
    rows = scores.per_class
    trained = [row.train_count for row in rows if row.train_count is not None]
    return {
        "train_images": sum(trained) if len(trained) == len(rows) else None,
        "test_images": sum(row.test_count for row in rows),
    }


def values(samples: Iterable[Sample], metric: str) -> dict[Hashable, float]:
    """Return the values of a metric that are known, by the samples' places in the group."""
    found = {sample.place: METRICS[metric].get(sample.scores) for sample in samples}
    return {place: float(value) for place, value in found.items() if value is not None}


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
