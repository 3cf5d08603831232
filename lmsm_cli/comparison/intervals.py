"""Is one group of runs better than another: mean difference, its 95% interval, a plain verdict.

The interval of `difference` is Student's t over seeds. Runs of the same seed start from the same
weights and see the same batches, so that where seeds match the differences within the pairs are
taken (paired), and elsewhere those between the means, with unequal variances (Welch 1947). It tells
how sure the difference is over repeated trainings on these data, not over other test images, which
`two_way` adds.
"""

import math
import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

Verdict = Literal["better", "worse", "can't tell"]
CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
FEWEST_SEEDS = 3
"""For a verdict: Student's t of two seeds is 12.7, and their variance is luck."""
NOT_AFTER_HOLM = "not after Holm"
NOTHING_VARIES = "the same in every seed"
# Means of shares that are equal are so far apart by rounding, and others further: with a million
# images in a thousand classes and ten seeds, by 1e-10.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Difference:
    """Mean of a group minus that of the baseline, with the bounds of its 95% interval.

    `n` counts the pairs, or else the runs of the smaller side. There are no bounds, hence no
    verdict, where n is below 3 (over seeds alone) or nothing varies.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    paired: bool
    verdict: Verdict
    over: str = "seeds"
    """What the interval allows for: seeds, test images, or both."""
    p_value: float | None = None
    """Two-sided, for this score and group alone."""
    p_holm: float | None = None
    """Holm's, over the groups that are held against a baseline on this score."""
    family: int | None = None
    """Over how many differences that is: groups with the same answers count once."""
    reason: str = ""
    """Why there is no verdict, where that is not because the interval holds 0."""
    seeds_needed: tuple[int | None, int | None] | None = None
    """From and to how many seeds a side would tell the size that was asked for; None: no number."""
    floor: float | None = None
    """The smallest difference that these test images let any number of seeds tell."""
    at_chance: bool = False
    """Whether no group is clearly better than guessing on this score: more seeds tell nothing."""

    @property
    def interval(self) -> str:
        """The bounds in points, `[+0.5, +5.7]`; empty where there are none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{in_points(self.low)}, {in_points(self.high)}]"


def in_points(value: float) -> str:
    """Return a difference of shares in points with its sign; one near 0 has more digits.

    What only rounding leaves of means that are equal is 0.
    """
    text = f"{100 * value:+.1f}"
    if text not in ("+0.0", "-0.0"):
        return text
    return f"{100 * value:+.1g}" if abs(value) > _ROUNDING else "+0.0"


def points(value: float) -> str:
    """Return a size in points, as `in_points` does without a plus."""
    return in_points(value).removeprefix("+")


def difference(
    own: Mapping[Hashable, float], baseline: Mapping[Hashable, float], *, higher_is_better: bool
) -> Difference | None:
    """Return how a group's values differ from the baseline's; None where one side has none.

    Args:
        own: The group's values by what makes a pair, such as the seed.
        baseline: Those of the baseline; paired where every key of the smaller side has its match.
        higher_is_better: Whether a larger value gets the verdict `better`.
    """
    shared = [key for key in own if key in baseline]
    n = min(len(own), len(baseline))
    if n == 0:
        return None
    paired = len(shared) == n
    if paired:
        changes = [own[key] - baseline[key] for key in shared]
        mean, error = statistics.fmean(changes), _paired_error(changes)
    else:
        sides = list(own.values()), list(baseline.values())
        mean = statistics.fmean(sides[0]) - statistics.fmean(sides[1])
        error = _welch_error(*sides)
    bare = Difference(mean, None, None, n, paired, "can't tell")
    if error is None:
        seeds = ("one seed", "two seeds")[n - 1] if n < FEWEST_SEEDS else ""
        return replace(bare, reason=seeds or NOTHING_VARIES)
    from scipy.special import stdtr, stdtrit  # a third of the time that scipy.stats takes to import

    size, degrees = error
    half = size * float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
    p_value = 2 * float(stdtr(degrees, -abs(mean) / size))
    known = replace(bare, low=mean - half, high=mean + half, p_value=p_value)
    return verdict_of(known, p_value, higher_is_better=higher_is_better)


def verdict_of(one: Difference, p_holm: float | None, *, higher_is_better: bool) -> Difference:
    """Return a difference with its verdict, by its interval and by Holm's p-value of its family."""
    verdict: Verdict = "can't tell"
    reason = one.reason
    excludes = one.low is not None and one.high is not None and not one.low <= 0 <= one.high
    if not reason and excludes:
        if p_holm is None or p_holm <= ALPHA:
            verdict = "better" if (one.mean > 0) == higher_is_better else "worse"
        else:
            reason = NOT_AFTER_HOLM
    return replace(one, verdict=verdict, reason=reason, p_holm=p_holm)


def _paired_error(changes: list[float]) -> tuple[float, float] | None:
    """Return the standard error of a mean of paired changes, and its degrees of freedom."""
    n = len(changes)
    if n < FEWEST_SEEDS:
        return None
    return _varying(statistics.stdev(changes) / math.sqrt(n), n - 1)


def _welch_error(a: list[float], b: list[float]) -> tuple[float, float] | None:
    """Return the standard error of a difference of two means, and its degrees of freedom."""
    if min(len(a), len(b)) < FEWEST_SEEDS:
        return None
    shares = [statistics.variance(side) / len(side) for side in (a, b)]
    if sum(shares) == 0:
        return None
    degrees = sum(shares) ** 2 / sum(
        share**2 / (len(side) - 1) for share, side in zip(shares, (a, b), strict=True)
    )
    return _varying(math.sqrt(sum(shares)), degrees)


def _varying(standard_error: float, degrees: float) -> tuple[float, float] | None:
    """Return both; None where nothing varies."""
    if standard_error < 1e-12:  # equal changes differ by rounding
        return None
    return standard_error, degrees
