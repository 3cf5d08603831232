"""The folds of a repeat, pooled into one run: one prediction for each image of the whole.

A run knows itself for a fold by its config, and its scores.json has a digest of all images that
the folds test among them: only folds that make up just these images are pooled. A repeat that lacks
one is left out, for half of the images would be silently another test set. The repeats, each with a
seed and a division of its own, are then the seeds of all intervals.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.data_sets import IMAGE_KEYS
from lmsm_cli.comparison.records import Unscored
from lmsm_cli.comparison.samples import key_of, recipe_of, setting_of, spelled_alike
from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.metrics import Training
from lmsm_cli.runs.documents import Images, ScoresDocument
from lmsm_cli.runs.images import Predictions
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.scoring import score

# What tells the folds of a repeat, and the repeats, apart.
_DRAWN = ("fold", "split_seed")
_OWN = "each seed's own"


class _Repeat(NamedTuple):
    """What the folds of one repeat have in common."""

    setting: str
    seed: Any
    split_seed: Any


@dataclass(frozen=True)
class _Whole:
    """The folds of a repeat, complete and of the images that they should be."""

    repeat: _Repeat
    records: tuple[RunRecord, ...]
    """By their folds."""
    parts: tuple[tuple[ImagesRecord, Predictions], ...]
    """The test images of each, and what it said of them."""


def pooled(
    records: Sequence[RunRecord],
) -> tuple[list[RunRecord], list[Unscored], list[str]]:
    """Return the runs, the folds of each repeat as one; those left out; and notes on that.

    Where all folds that are there have one number, they were asked for alone: each is then a run
    like any other.
    """
    folds = [record for record in records if _is_fold(record)]
    if len({(record.config or {})["fold"] for record in folds}) < 2:
        return list(records), [], []
    rest = [record for record in records if not _is_fold(record)]
    repeats: dict[_Repeat, dict[int, RunRecord]] = {}
    left_out = []
    of_record = _repeats_of(folds)
    for record in sorted(folds, key=lambda record: record.name):
        config, own = record.config or {}, of_record[record.path]
        runs = repeats.setdefault(own, {})
        if older := runs.get(config["fold"]):
            reason = f"its configuration, seed and fold are repeated by the newer {record.name}"
            left_out.append(Unscored(str(older.path), reason))
        runs[config["fold"]] = record
    whole = []
    for repeat, runs in repeats.items():
        found = _whole(repeat, runs)
        if isinstance(found, str):
            left_out += [
                Unscored(str(record.path), f"fold {fold} of {_num_folds(record)}: {found}")
                for fold, record in sorted(runs.items())
            ]
        else:
            whole.append(found)
    made = [_pooled(one, counts) for one, counts in zip(whole, _train_counts(whole), strict=True)]
    return rest + _by_design(made, whole), left_out, _notes(made)


def _is_fold(record: RunRecord) -> bool:
    """Return whether a scored run says that its test images are one of some folds."""
    config = record.config or {}
    named = all(type(config.get(key)) is int for key in ("folds", "fold"))
    return named and record.scores is not None and not record.is_outside


def _num_folds(record: RunRecord) -> int:
    number: int = (record.config or {})["folds"]
    return number


def _repeat_of(record: RunRecord) -> _Repeat:
    assert record.scores
    setting = setting_of(recipe_of(record, record.scores))
    shared = {key: value for key, value in setting.items() if key not in _DRAWN}
    config = record.config or {}
    return _Repeat(key_of(spelled_alike(shared)), config.get("seed"), config.get("split_seed"))


def _repeats_of(folds: Sequence[RunRecord]) -> dict[Path, _Repeat]:
    """Return the repeat of each run.

    The folds of one division make a repeat, whatever their seeds, which is then that of the first
    fold. Where a fold is there with several seeds, each seed has a repeat of its own.
    """
    divisions: dict[tuple[str, Any], dict[Path, tuple[int, _Repeat]]] = {}
    for record in folds:
        own, fold = _repeat_of(record), (record.config or {})["fold"]
        divisions.setdefault((own.setting, own.split_seed), {})[record.path] = fold, own
    found = {}
    for runs in divisions.values():
        seeds = sorted({(fold, own.seed) for fold, own in runs.values()})
        is_one = len(dict(seeds)) == len(seeds)
        for path, (_, own) in runs.items():
            found[path] = own._replace(seed=seeds[0][1]) if is_one else own
    return found


def _whole(repeat: _Repeat, runs: Mapping[int, RunRecord]) -> _Whole | str:
    """Return the folds of a repeat, or why they cannot be pooled."""
    number = _num_folds(next(iter(runs.values())))
    missing = [str(fold) for fold in range(number) if fold not in runs]
    if missing:
        named = ", ".join(missing[:5]) + ("" if len(missing) <= 5 else ", ...")
        return f"its repeat, seed {repeat.seed}, lacks fold {named}"
    records = tuple(runs[fold] for fold in range(number))
    parts = []
    for record in records:
        images, found = record.images, record.predictions
        if images is None or found is None:
            return f"images.npz or predictions.npz of {record.name} is missing or damaged"
        parts.append((images.of("test"), found))
    known = [record.scores.images for record in records if record.scores]
    wanted = {one.divided if one else None for one in known}
    if wanted != {_together([part for part, _ in parts]).split_digests["test"]}:
        return f"the folds of its repeat, seed {repeat.seed}, are not of the same images"
    return _Whole(repeat, records, tuple(parts))


def _together(parts: Sequence[ImagesRecord]) -> ImagesRecord:
    """Return the test images of several runs as those of one."""
    return replace(
        parts[0],
        split=np.concatenate([part.split for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        digests=np.concatenate([part.digests for part in parts]),
        places=np.concatenate([part.places for part in parts]),
    )


def _train_counts(whole: Sequence[_Whole]) -> list[list[int]]:
    """Return the training images of each class for each repeat: means over all folds, rounded.

    They are over the folds of every repeat on these images with these choices of images, so that
    the same classes are many, medium and few in all of them.
    """
    known: dict[str, dict[tuple[Any, ...], list[int]]] = {}
    keys = []
    for one in whole:
        config = one.records[0].config or {}
        chosen = [config.get(key) for key in IMAGE_KEYS if key not in _DRAWN]
        scores = one.records[0].scores
        images = scores.images if scores else None
        keys.append(key_of([chosen, images and images.divided]))
        folds = known.setdefault(keys[-1], {})
        for record in one.records:
            rows = record.scores.per_class if record.scores else ()
            number = (record.config or {})["fold"]
            folds[one.repeat.split_seed, number] = [row.train_count or 0 for row in rows]
    means = {key: mean_counts(list(folds.values())) for key, folds in known.items()}
    return [means[key] for key in keys]


def mean_counts(folds: Sequence[Sequence[int]]) -> list[int]:
    """Return the training images of each class of a whole, from those of its folds."""
    return [round(fmean(counts)) for counts in zip(*folds, strict=True)]


def _pooled(whole: _Whole, train_counts: Sequence[int]) -> RunRecord:
    """Return the folds of a repeat as one run, in the place of the first."""
    first = whole.records[0]
    images = _together([part for part, _ in whole.parts])
    # the same in every repeat; equal images, which are one, stand as their folds do
    order = np.lexsort((*images.digests.T[::-1], images.labels))
    labels, predicted = (
        np.concatenate([getattr(found, name) for _, found in whole.parts])[order]
        for name in ("labels", "predicted")
    )
    images = replace(
        images,
        split=images.split[order],
        labels=images.labels[order],
        digests=images.digests[order],
        places=images.places[order],
        divided=None,
    )
    logits = _logits([found for _, found in whole.parts], order)
    scores = score(images.classes, labels, predicted, train_counts, logits)
    config = {key: value for key, value in (first.config or {}).items() if key not in _DRAWN}
    return RunRecord(
        path=first.path,
        config=config,
        status=first.status,
        metrics=_mean_rows([record.metrics for record in whole.records]),
        scores=_document(scores.parts(), whole, images),
        problem=None,
        held_predictions=Predictions(labels, predicted, None, None),
        held_images=images,
        late_problems=[text for record in whole.records for text in record.late_problems],
        folds=tuple(record.path for record in whole.records),
    )


def _logits(found: Sequence[Predictions], order: NDArray[np.int64]) -> NDArray[np.float32] | None:
    """Return the logits (N, C) of all folds; None where one kept none."""
    logits = [one.logits for one in found if one.logits is not None]
    if len(logits) < len(found):
        return None
    return np.concatenate(logits)[order]


def _document(parts: Mapping[str, Any], whole: _Whole, images: ImagesRecord) -> ScoresDocument:
    """Return the scores of a repeat with what its folds tell beside scores."""
    scores = [record.scores for record in whole.records if record.scores]
    seconds = [one.training.seconds for one in scores if one.training]
    speeds = [one.training.images_per_second for one in scores if one.training]
    margins = [one.effective_margin for one in scores if one.effective_margin is not None]
    values: dict[str, Any] = {
        "checkpoint": scores[0].checkpoint,
        "epoch": min((one.epoch for one in scores if one.epoch is not None), default=None),
        "stopped_before": max(one.stopped_before or 0 for one in scores) or None,
        "lengthened_from": scores[0].lengthened_from,
        "lambda": scores[0].lam,
        "effective_margin": fmean(margins) if len(margins) == len(scores) else None,
        "test_images_per_class": scores[0].test_images_per_class,
        "images": Images.model_validate(images.scored | {"training": None, "validation": None}),
    }
    if len(seconds) == len(scores):
        values["training"] = Training(
            seconds=None if None in seconds else sum(filter(None, seconds)),
            images_per_second=None if None in speeds else fmean(filter(None, speeds)),
        )
    return ScoresDocument(**parts, **values)


def _mean_rows(metrics: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl as means over the folds, of the epochs that all have."""
    rows = []
    for some in zip(*metrics, strict=False):
        keys = [key for key in some[0] if all(_is_number(row.get(key)) for row in some)]
        rows.append({key: fmean(row[key] for row in some) for key in keys})
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _by_design(made: Sequence[RunRecord], whole: Sequence[_Whole]) -> list[RunRecord]:
    """Return pooled runs with the `split_seed` that their seeds share, if they share one.

    Usually each seed has its own division. The two are never averaged with each other.
    """
    divisions: dict[str, set[tuple[Any, Any]]] = {}
    for one in whole:
        divisions.setdefault(one.repeat.setting, set()).add(one.repeat[1:])
    found = []
    for record, one in zip(made, whole, strict=True):
        _, seed, split_seed = one.repeat
        pairs = divisions[one.repeat.setting]
        numbers = {number for _, number in pairs}
        is_shared = len(pairs) > 1 and len(numbers) == 1
        has_own = split_seed == seed or len(numbers) == len(pairs) > 1
        design = _OWN if has_own and not is_shared else split_seed
        found.append(replace(record, config={**(record.config or {}), "split_seed": design}))
    return found


def _notes(made: Iterable[RunRecord]) -> list[str]:
    """Say once what pooled scores are, and what their intervals do not allow for."""
    numbers = sorted({len(record.folds) for record in made})
    if not numbers:
        return []
    folds = " or ".join(map(str, numbers))
    return [
        f"scores are pooled over {folds} folds: each image is told once, by the net that was not "
        "trained on it, and n counts such repeats. The folds of a repeat share training images, "
        "and all repeats have the same ones: intervals are over repeats and test images, not over "
        "other training images. Training images of a class are the mean over folds"
    ]
