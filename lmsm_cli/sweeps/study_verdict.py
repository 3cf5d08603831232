"""What a study says in the end: whether one arm is told from softmax, by what, and how surely."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.crossed import paired
from lmsm_cli.comparison.intervals import ALPHA, FEWEST_SEEDS
from lmsm_cli.comparison.sequential import Standing
from lmsm_cli.comparison.two_way import two_way
from lmsm_cli.errors import few
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.runtime.display import Display
from lmsm_cli.sweeps.held_out import Question, answered, check_same, classes_of
from lmsm_cli.sweeps.study_plan import TEST_IMAGES


@dataclass(frozen=True)
class Verdict:
    """Whether an arm is told from softmax."""

    arm: str
    """The one that was ahead on held-out images."""
    is_told: bool
    decided_on: str
    """`test images` or `held-out images`."""
    mean: float
    low: float | None
    high: float | None
    p_value: float | None
    nets: int = 0
    """How many nets of either side answered the test images."""
    reason: str = ""
    """Why nothing is told, where that has another reason than chance."""

    @classmethod
    def unasked(cls, arm: str, standing: Standing, reason: str) -> "Verdict":
        """Return that nothing is told, for a reason that the test images need not be asked."""
        return cls(arm, False, "held-out images", *_bounds(standing), reason=reason)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain types."""
        return asdict(self)


def _bounds(standing: Standing) -> tuple[float, float | None, float | None, float | None]:
    half = standing.half_width()
    if half is None:
        return standing.mean, None, None, None
    return standing.mean, standing.mean - half, standing.mean + half, standing.p_value


def verdict_on_held_out(leader: str, standing: Standing, settled: Mapping[str, str]) -> Verdict:
    """Return the verdict where the held-out images decide: what the looks have told.

    Args:
        leader: The arm that is furthest ahead.
        standing: How far.
        settled: What the looks told.
    """
    bounds = _bounds(standing)
    return Verdict(leader, settled.get(leader) == "better", "held-out images", *bounds)


@dataclass(frozen=True)
class Pairs:
    """The nets of an arm and the baseline's on all training images, paired by seed."""

    arm: str
    own: list[RunRecord]
    baseline: list[RunRecord]


def verdict_on_test(
    pairs: Pairs, key: str, train_counts: Sequence[int], display: Display
) -> Verdict:
    """Return the verdict of the test images on one arm, which is asked of them alone.

    Args:
        pairs: The nets, which were tested on them.
        key: The score that is asked about.
        train_counts: The training images of each class.
        display: Shows what the test images lack.

    Raises RunError where the nets were tested on other images, or a run folder lacks its answers.
    """
    own, theirs = ([answered([one]) for one in some] for some in (pairs.own, pairs.baseline))
    check_same([*own, *theirs])
    labels = theirs[0].labels
    counts = np.bincount(labels, minlength=len(train_counts))
    asked = classes_of(key, train_counts)
    few_images = [_class_name(pairs.baseline[0], one) for one in asked if counts[one] < 2]
    if len(few_images) == len(asked):  # of one image a class nothing is known of chance
        why = f"no two test images of {few(few_images)}"
        return Verdict(pairs.arm, False, TEST_IMAGES, 0.0, None, None, None, reason=why)
    if few_images:
        display.warning(f"the test images decide without {few(few_images)}: no two images of each")
    mine, others = (np.stack([one.right for one in some]) for some in (own, theirs))
    return judged(pairs.arm, mine, others, Question.of(labels, train_counts, key))


def _class_name(record: RunRecord, number: int) -> str:
    assert record.images is not None
    return record.images.classes[number]


def judged(
    arm: str,
    own: NDArray[np.bool_],
    baseline: NDArray[np.bool_],
    question: Question,
) -> Verdict:
    """Return the verdict of test images: the two-way interval of one arm, at the 5% level.

    Args:
        arm: Its name.
        own, baseline: Which images each net has right, (nets, images), paired.
        question: The score.
    """
    found = two_way(paired(own, baseline, question.strata), question.weights)
    bounds = (found.mean or 0.0, found.low, found.high, found.p_value)
    reasons: list[str] = [one.why for one in found.no_verdict]
    if len(own) < FEWEST_SEEDS:  # as few say nothing of other seeds
        reasons = ["fewer than three nets a side"]
    p = found.p_value
    is_told = p is not None and p <= ALPHA and not reasons and bounds[0] > 0
    return Verdict(arm, is_told, TEST_IMAGES, *bounds, len(own), "; ".join(reasons))
