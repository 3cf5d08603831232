"""Does a difference hold for other seeds and other test images: its two-way interval and p-value.

With d[s, i] how much more right one method is than the other on image i with seed s, w_c the share
of class c in the score and n_c its test images, the variance of the mean difference has the parts

    V_seed  = variance over seeds of the weighted mean / S
    V_image = sum of w_c^2 (variance over images of the mean over seeds) / n_c
    V_both  = sum of w_c^2 (mean square of d - row - column + mean) / (S n_c)

V_seed and V_image both hold the part V_both of the single answers, so that
V_seed + V_image - V_both is the variance: that of readers and cases both drawn at random (Dorfman,
Berbaum, Metz 1992; Obuchowski, Rockette 1995), of Owen's crossed random effects (2007), and of
errors clustered in two ways (Cameron, Gelbach, Miller 2011). The interval adds two shares in
quadrature, each with Student's t of its own degrees of freedom:

    half width^2 = t(S - 1)^2 V_seed + t(N - C)^2 max(V_image - V_both, 0)

Where seeds don't match, V_seed and its degrees of freedom are Welch's (1947), and V_image and
V_both are of the differences of the means over seeds (`crossed.unpaired`). A single seed on either
side has no V_seed: the interval then holds for the nets at hand on other images, which is McNemar's
question (1947), as V_image with N - C degrees of freedom is the variance given the nets.
"""

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.crossed import Crossed
from lmsm_cli.comparison.intervals import ALPHA, FEWEST_SEEDS
from lmsm_cli.errors import ArgumentError

FEWEST_IMAGES = 20
"""Of a score, for a verdict."""
# Equal values differ by rounding.
_NOTHING = 1e-12
# Quantiles beyond it overflow or lose their digits; no study needs to tell it from 0.
_LEAST_P = 1e-15


class Over(StrEnum):
    """What another study would draw anew, which the interval allows for."""

    BOTH = "seeds and test images"
    SEEDS = "seeds"
    IMAGES = "test images"


class Why(StrEnum):
    """What forbids a verdict. The first three leave no interval either."""

    NO_IMAGE = "a class without test images"
    ONE_IMAGE = "a class with one test image"
    NOTHING_VARIES = "nothing varies"
    TWO_SEEDS = "two seeds"
    FEW_IMAGES = "few test images"
    CHANCE = "no arm above chance"


@dataclass(frozen=True)
class NoVerdict:
    """A reason for no verdict, with the classes or the number of test images that it is about."""

    why: Why
    classes: tuple[int, ...] = ()
    images: int | None = None


class Share(NamedTuple):
    """A part of the variance of a mean, and the degrees of freedom that it is known with."""

    variance: float
    degrees: float


@dataclass(frozen=True)
class Components:
    """The variance of a mean difference, or of a mean, by its sources."""

    seed: tuple[float, ...] | None
    """Of each sample of seeds, its variance / S; None where one side has a single seed."""
    seeds: tuple[int, ...]
    image: float
    both: float
    """0 where one side has a single seed."""
    image_degrees: int

    def seed_share(self, seeds: int | None = None) -> Share:
        """Return V_seed with its degrees of freedom: S - 1, or Welch's of two samples.

        `seeds` tells what it would be with that many seeds a side. Raises ArgumentError for one.
        """
        now = self.seeds
        then = now if seeds is None else (seeds,) * len(now)
        if self.seed is None or min(then) < 2:
            raise ArgumentError("a single seed on a side has no variance over seeds")
        parts = [v * a / b for v, a, b in zip(self.seed, now, then, strict=True)]
        below = sum(part**2 / (s - 1) for part, s in zip(parts, then, strict=True))
        # no variation at all: as few as there can be
        degrees = sum(parts) ** 2 / below if below > 0 else min(then) - 1
        return Share(sum(parts), degrees)

    def image_share(self) -> Share:
        """Return what is left of V_image without the part that V_seed holds too."""
        return Share(max(self.image - self.both, 0.0), self.image_degrees)

    def shares(self, over: Over) -> list[Share]:
        """Return what the interval adds in quadrature."""
        if over is Over.IMAGES:
            return [Share(self.image, self.image_degrees)]
        return [self.seed_share()] + ([self.image_share()] if over is Over.BOTH else [])


@dataclass(frozen=True)
class Estimate:
    """A mean difference, or a mean, with its 95% interval and two-sided p-value.

    p is below 0.05 where the interval excludes 0, and only there.
    """

    mean: float | None
    """None where no class of the score has a test image."""
    low: float | None
    high: float | None
    p_value: float | None
    over: Over
    seeds: tuple[int, ...]
    images: int
    """The test images that the score counts."""
    components: Components | None
    no_verdict: tuple[NoVerdict, ...] = ()
    """What forbids a verdict, as far as one comparison tells; empty where nothing does."""


def two_way(crossed: Crossed, weights: NDArray[Any], *, over: Over = Over.BOTH) -> Estimate:
    """Return a score's mean difference with its interval over seeds and test images.

    Of a class without test images the mean is over the others, as in all tables, and there is no
    interval; nor is there where a class has one test image, whose variance nobody knows.

    Args:
        crossed: The answers, reduced.
        weights: The share of each class in the score (C,), as `Strata` gives them; their sum is 1.
        over: What the interval allows for. A single seed on either side leaves the images alone.

    Raises:
        ArgumentError: The interval is to be over seeds, of which one side has a single one.
    """
    counted = (weights > 0) & (crossed.counts > 0)
    images = int(crossed.counts[counted].sum())
    if min(crossed.seeds) == 1 and over is Over.BOTH:
        over = Over.IMAGES
    mean = None
    if images:
        shares = np.where(counted, weights, 0) / weights[counted].sum()
        mean = float(sum((means @ shares).mean() for means in crossed.class_means))
    bare = Estimate(mean, None, None, None, over, crossed.seeds, images, None)
    for why, number in ((Why.NO_IMAGE, 0), (Why.ONE_IMAGE, 1)):
        classes = np.flatnonzero((weights > 0) & (crossed.counts == number))
        if len(classes):
            return replace(bare, no_verdict=(NoVerdict(why, tuple(classes.tolist())),))
    return _with_interval(bare, components(crossed, weights))


def components(crossed: Crossed, weights: NDArray[Any]) -> Components:
    """Return the variance of a score's mean by its sources; its classes have 2 images or more."""
    classes = np.flatnonzero(weights > 0)
    n, w = crossed.counts[classes], weights[classes]
    seed = None
    if min(crossed.seeds) > 1:
        means = [one[:, classes] @ w for one in crossed.class_means]
        seed = tuple(float(one.var(ddof=1) / len(one)) for one in means)
    both = 0.0 if crossed.both is None else float(w**2 @ (crossed.both[classes] / n))
    image = float(w**2 @ (crossed.image[classes] / n))
    return Components(seed, crossed.seeds, image, both, int((n - 1).sum()))


def _with_interval(bare: Estimate, parts: Components) -> Estimate:
    """Return an estimate with its interval, and with what forbids a verdict all the same."""
    assert bare.mean is not None
    shares = parts.shares(bare.over)
    half = half_width(shares)
    if half < _NOTHING:
        return replace(bare, components=parts, no_verdict=(NoVerdict(Why.NOTHING_VARIES),))
    reasons = []
    if bare.over is not Over.IMAGES and min(bare.seeds) < FEWEST_SEEDS:
        reasons.append(NoVerdict(Why.TWO_SEEDS))
    if bare.images < FEWEST_IMAGES:
        reasons.append(NoVerdict(Why.FEW_IMAGES, images=bare.images))
    return replace(
        bare,
        low=bare.mean - half,
        high=bare.mean + half,
        p_value=p_value(bare.mean, shares),
        components=parts,
        no_verdict=tuple(reasons),
    )


def half_width(shares: list[Share], level: float = ALPHA) -> float:
    """Return half the width of the interval that leaves out `level`: its shares in quadrature."""
    from scipy.special import stdtrit  # a third of the time that scipy.stats takes to import

    return math.sqrt(sum(v * float(stdtrit(df, level / 2)) ** 2 for v, df in shares))


def p_value(mean: float, shares: list[Share]) -> float:
    """Return the two-sided p-value: the level at which the interval just touches 0.

    With one share it is that of Student's t. With two it lies between those that all of the
    variance would have with either's degrees of freedom, since the interval's width does; there it
    is found as a root. Below 1e-15 it is told as an upper bound.
    """
    from scipy.optimize import brentq
    from scipy.special import stdtr

    shares = [share for share in shares if share.variance > 0]
    if not shares:
        return 1.0 if mean == 0 else 0.0
    ratio = abs(mean) / math.sqrt(sum(share.variance for share in shares))
    ends = [2 * float(stdtr(share.degrees, -ratio)) for share in shares]
    low, high = max(min(ends), _LEAST_P), max(ends)
    if high - low <= 1e-12 * high:
        return high

    def excess(log_level: float) -> float:
        return half_width(shares, math.exp(log_level)) - abs(mean)

    low, high = math.log(low), math.log(high)
    if excess(low) <= 0:  # by rounding, or below the least
        return math.exp(low)
    if excess(high) >= 0:
        return math.exp(high)
    return math.exp(brentq(excess, low, high, xtol=1e-12))
