"""What the nets of a study said of held-out images: right or wrong, image by image, arm by arm."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.answers import of_known_spread, rare_to_ask, weights_of
from lmsm_cli.comparison.crossed import Strata, paired
from lmsm_cli.comparison.sequential import Standing
from lmsm_cli.comparison.two_way import Over, components, two_way
from lmsm_cli.errors import RunError
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.shot_groups import shot_groups


@dataclass(frozen=True, eq=False)
class Answered:
    """What the nets of one round said of all held-out images, in an order that all rounds share."""

    labels: NDArray[np.int64]  # (N,)
    right: NDArray[np.bool_]  # (N,)
    digests: NDArray[np.uint8]  # (N, 16)


def answered(records: Sequence[RunRecord]) -> Answered:
    """Return the answers of the nets of a round, one for each fold.

    Raises RunError where a run folder lacks what that takes.
    """
    parts = []
    for record in records:
        images, found = record.images, record.predictions
        if images is None or found is None:
            raise RunError(f"images.npz or predictions.npz of {record.name} is missing or damaged")
        tested = images.of("test")
        parts.append((tested.labels, found.predicted == found.labels, tested.digests))
    labels, right, digests = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((right, *digests.T[::-1], labels))
    return Answered(labels[order], right[order], digests[order])


def classes_of(key: str, train_counts: Sequence[int]) -> list[int]:
    """Return the classes that a score is a mean over: of `few` the rare ones, if there are such."""
    if key == "few":
        return shot_groups(train_counts).get("few", [])
    return list(range(len(train_counts)))


@dataclass(frozen=True, eq=False)
class Question:
    """The score that a study asks about, on some images."""

    key: str
    """`few`, where there are rare classes with images enough, else `balanced_accuracy`."""
    strata: Strata
    weights: NDArray[np.float64]  # (C,)

    @classmethod
    def of(
        cls, labels: NDArray[np.int64], train_counts: Sequence[int], key: str | None = None
    ) -> "Question":
        """Return the question on images with these labels (N,).

        Args:
            labels: Class numbers.
            train_counts: The training images of each class, which say which are rare.
            key: The score, where it is known already.
        """
        strata = Strata.of(labels, len(train_counts))
        weights = weights_of(strata, train_counts)
        if key is None:
            rare = rare_to_ask(strata.counts.tolist(), train_counts)
            key = "few" if rare else "balanced_accuracy"
        return cls(key, strata, of_known_spread(weights[key], strata.counts))

    def score(self, answers: Answered) -> float:
        """Return the score of one round."""
        sums = np.bincount(answers.labels, answers.right, len(self.weights))
        return float(self.weights @ (sums / np.maximum(self.strata.counts, 1)))

    def standing(
        self, own: Sequence[Answered], baseline: Sequence[Answered], *, over: Over
    ) -> Standing:
        """Return how much better an arm is than the baseline over some rounds, paired.

        Raises RunError where the rounds are not of the same images.
        """
        check_same([*own, *baseline])
        both = paired(_matrix(own), _matrix(baseline), self.strata)
        if len(own) < 2:
            return Standing(two_way(both, self.weights).mean or 0.0, ())
        parts = components(both, self.weights)
        mean = float((both.class_means[0] @ self.weights).mean())
        shares = tuple(parts.shares(over))
        # differences that are all alike say nothing of chance
        return Standing(mean, shares if any(one.variance > 0 for one in shares) else ())


def _matrix(rounds: Sequence[Answered]) -> NDArray[np.bool_]:
    return np.stack([one.right for one in rounds])


def check_same(rounds: Sequence[Answered]) -> None:
    """Raise RunError where answers are not of the same images."""
    first = rounds[0]
    for other in rounds[1:]:
        if not (
            np.array_equal(first.labels, other.labels)
            and np.array_equal(first.digests, other.digests)
        ):
            raise RunError("the nets of the study did not answer the same images")
