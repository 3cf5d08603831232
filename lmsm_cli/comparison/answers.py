"""Which test images the runs of a comparison had right, image by image, from their predictions."""

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.crossed import Crossed, Strata, crossed, paired, unpaired
from lmsm_cli.comparison.samples import Sample
from lmsm_cli.comparison.two_way import FEWEST_IMAGES
from lmsm_cli.shot_groups import shot_groups

Rows = Mapping[Hashable, NDArray[np.integer[Any]]]
"""By seed: how many of the runs that are taken together had each image right, (N,)."""


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers of runs on one set of test images."""

    strata: Strata
    right: Mapping[Path, NDArray[np.bool_]]
    """(N,) of each run whose predictions are known, by its folder."""
    said: Mapping[Path, bytes]
    """A digest of the classes that it predicted, by its folder."""

    def said_by(self, own: Sequence[Sample]) -> Hashable:
        """Return a key of all that a group said: equal keys, the same classes in every seed.

        None where some of its runs have no predictions.
        """
        found = {sample.place: self.said.get(sample.record.path) for sample in own}
        return None if None in found.values() else frozenset(found.items())

    def alone(self, own: Sequence[Sample]) -> Crossed | None:
        """Reduce the answers of one group; None where some of its runs have no predictions."""
        rests = {sample.rest for sample in own}
        rows = self._by_seed(own, rests)
        return crossed(_matrix(rows), self.strata, out_of=len(rests)) if rows else None

    def between(self, own: Sequence[Sample], other: Sequence[Sample]) -> Crossed | None:
        """Reduce the differences of two groups, paired by seed where the seeds match.

        They run over the open choices that both groups have, as means over seeds do. None where
        some of the runs have no predictions, or no choice is shared.
        """
        rests = {one.rest for one in own} & {one.rest for one in other}
        first, second = self._by_seed(own, rests), self._by_seed(other, rests)
        if not first or not second:
            return None
        out_of = len(rests)
        shared = [seed for seed in first if seed in second]
        if len(shared) == min(len(first), len(second)):
            mine, theirs = (
                _matrix({seed: one[seed] for seed in shared}) for one in (first, second)
            )
            return paired(mine, theirs, self.strata, out_of=out_of)
        return unpaired(_matrix(first), _matrix(second), self.strata, out_of=out_of)

    def _by_seed(self, samples: Sequence[Sample], rests: set[str]) -> Rows:
        """Return the rows of the seeds that have all these choices; {} where one is not known."""
        found: dict[Hashable, list[NDArray[np.bool_]]] = {}
        for sample in samples:
            if sample.rest in rests:
                right = self.right.get(sample.record.path)
                if right is None:
                    return {}
                found.setdefault(sample.seed, []).append(right)
        kind = np.min_scalar_type(len(rests))
        return {
            seed: np.sum(some, axis=0, dtype=kind)
            for seed, some in found.items()
            if len(some) == len(rests)
        }


def answers_of(samples: Iterable[Sample]) -> Answers | None:
    """Return the answers of runs on the same test images; None where no run has predictions.

    Predictions for other labels than those of the first run are left out: they are not of the test
    images that scores.json tells of.
    """
    labels: NDArray[np.int64] | None = None
    right: dict[Path, NDArray[np.bool_]] = {}
    said: dict[Path, bytes] = {}
    num_classes = 0
    for sample in samples:
        found = sample.record.predictions
        if found is None:
            continue
        if labels is None:
            labels, num_classes = found.labels, len(sample.scores.per_class)
        if np.array_equal(found.labels, labels):
            right[sample.record.path] = found.predicted == found.labels
            said[sample.record.path] = _digest(found.predicted)
    if labels is None:
        return None
    return Answers(Strata.of(labels, num_classes), right, said)


def _digest(predicted: NDArray[np.integer[Any]]) -> bytes:
    whole = np.ascontiguousarray(predicted, np.int64)  # of whatever type a run holds them
    return hashlib.blake2b(whole.tobytes(), digest_size=16).digest()


def weights_of(
    strata: Strata, train_counts: Sequence[int | None]
) -> dict[str, NDArray[np.float64]]:
    """Return each class's share (C,) in the scores that are means of right answers, by metric.

    Classes without a test image have no part in balanced accuracy and in groups of classes.
    """
    present = np.flatnonzero(strata.counts)
    weights = {
        "accuracy": strata.image_weights(),
        "balanced_accuracy": strata.class_weights(present),
    }
    for name, members in shot_groups(train_counts).items():
        known = np.intersect1d(members, present)
        if len(known):
            weights[name] = strata.class_weights(known)
    return weights


def of_known_spread(
    weights: NDArray[np.float64], test_counts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return shares (C,) without the classes of one test image, of whose chance nobody knows.

    They are as they were where no class has more.
    """
    kept = weights * (test_counts > 1)
    return kept / kept.sum() if kept.any() else weights


def rare_to_ask(test_counts: Sequence[int], train_counts: Sequence[int | None]) -> list[int]:
    """Return the rare classes, where they have test images enough for a verdict; else []."""
    rare = shot_groups(train_counts).get("few", [])
    images = [test_counts[number] for number in rare]
    # of a class with one image nothing is known of chance
    return rare if sum(images) >= FEWEST_IMAGES and min(images) > 1 else []


def _matrix(rows: Rows) -> NDArray[np.integer[Any]]:
    return np.stack(list(rows.values()))
