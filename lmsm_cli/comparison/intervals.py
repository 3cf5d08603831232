"""Is one group of runs better than another: mean difference, its 95% interval, a plain verdict.

The interval is Student's t over seeds. Runs of the same seed start from the same weights and see
the same batches, so that where seeds match the differences within the pairs are taken (paired),
and elsewhere those between the means, with unequal variances (Welch 1947). It tells how sure the
difference is over repeated trainings on these data, not over other test images.
"""

import math
import statistics
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["better", "worse", "can't tell"]
CONFIDENCE = 0.95
# Two values give an interval as wide as the scale, and a verdict by luck.
_FEWEST = 3


@dataclass(frozen=True)
class Difference:
    """Mean of a group minus that of the baseline, with the bounds of its 95% interval.

    `n` counts the pairs, or else the runs of the smaller side. There are no bounds, hence no
    verdict, where n is below 3 or nothing varies.
    """

    mean: float
    low: float | None
    high: float | None
    n: int
    paired: bool
    verdict: Verdict

    @property
    def interval(self) -> str:
        """The bounds in points, `[+0.5, +5.7]`; empty where there are none."""
        if self.low is None or self.high is None:
            return ""
        return f"[{in_points(self.low)}, {in_points(self.high)}]"


def in_points(value: float) -> str:
    """Return a difference in points with its sign; one near 0 has more digits."""
    text = f"{100 * value:+.1f}"
    if text not in ("+0.0", "-0.0"):
        return text
    return f"{100 * value:+.1g}" if value else "+0.0"


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
        mean, half = statistics.fmean(changes), _paired_half_width(changes)
    else:
        sides = list(own.values()), list(baseline.values())
        mean, half = (
            statistics.fmean(sides[0]) - statistics.fmean(sides[1]),
            _welch_half_width(*sides),
        )
    if half is None:
        return Difference(mean, None, None, n, paired, "can't tell")
    low, high = mean - half, mean + half
    verdict = _verdict(low, high, higher_is_better=higher_is_better)
    return Difference(mean, low, high, n, paired, verdict)


def _verdict(low: float, high: float, *, higher_is_better: bool) -> Verdict:
    if low <= 0 <= high:
        return "can't tell"
    return "better" if (low > 0) == higher_is_better else "worse"


def _paired_half_width(changes: list[float]) -> float | None:
    """Return half the width of the interval of a mean of paired changes."""
    n = len(changes)
    if n < _FEWEST:
        return None
    return _half_width(statistics.stdev(changes) / math.sqrt(n), n - 1)


def _welch_half_width(a: list[float], b: list[float]) -> float | None:
    """Return half the width of the interval of a difference of two means."""
    if min(len(a), len(b)) < _FEWEST:
        return None
    shares = [statistics.variance(side) / len(side) for side in (a, b)]
    if sum(shares) == 0:
        return None
    degrees = sum(shares) ** 2 / sum(
        share**2 / (len(side) - 1) for share, side in zip(shares, (a, b), strict=True)
    )
    return _half_width(math.sqrt(sum(shares)), degrees)


def _half_width(standard_error: float, degrees: float) -> float | None:
    """Return standard error times Student's t; None where nothing varies."""
    if standard_error < 1e-12:  # equal changes differ by rounding
        return None
    from scipy.special import stdtrit  # a third of the time that scipy.stats takes to import

    return standard_error * float(stdtrit(degrees, (1 + CONFIDENCE) / 2))
