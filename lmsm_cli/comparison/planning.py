"""What could be told at all: how many seeds show a difference, and what the test images forbid.

From the variance components of a comparison follows the interval that other numbers of seeds would
give on the same test images: V_seed S / S' with t(S' - 1), beside the images' share, which no seed
makes smaller.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from lmsm_cli.comparison.intervals import ALPHA, FEWEST_SEEDS
from lmsm_cli.comparison.two_way import Components, half_width

# A pilot's variance is itself uncertain: Browne (1995) and Kieser and Wassmer (1996) plan with its
# one-sided upper 80% limit. Here either end of a range of seeds is such a limit.
PLANNING_CONFIDENCE = 0.8
MOST_SEEDS = 10_000
# Points of the sums over chi-square quantiles: power within 0.001.
_POINTS = 200


@dataclass(frozen=True)
class SeedRange:
    """The seeds that a difference needs; None for more than MOST_SEEDS, however many."""

    fewest: int | None
    """If V_seed is as small as it may be: its lower 80% limit."""
    most: int | None
    """If it is as large as it may be: its upper 80% limit."""


def half_width_with(components: Components, seeds: int) -> float | None:
    """Return half the width of the two-way interval with that many seeds a side, 2 or more.

    It is None where one side has a single seed, which tells nothing of other seeds.
    """
    if components.seed is None:
        return None
    return half_width([components.seed_share(seeds), components.image_share()])


def floor_of(components: Components) -> float | None:
    """Return what half the width tends to with more and more seeds on these test images.

    No measured difference below it excludes 0. It is None where one side has a single seed: its
    variance over images can't be told from that of the single answers.
    """
    return None if components.seed is None else half_width([components.image_share()])


def seeds_needed(
    components: Components, difference: float, *, confidence: float = PLANNING_CONFIDENCE
) -> SeedRange | None:
    """Return the seeds a side with which half the width is at most that difference.

    A difference measured at that size then excludes 0. A true one does so in about half of all
    studies: `power` says how often. The range runs over the chi-square limits of V_seed.

    Args:
        components: Those of a comparison; None is returned where one side has a single seed.
        difference: Its size, above 0.
        confidence: That of either limit, one-sided.
    """
    if components.seed is None:
        return None
    from scipy.special import chdtri  # the x that chi-square exceeds with a probability

    degrees = components.seed_share().degrees
    ends = []
    for exceeded in (1 - confidence, confidence):
        factor = degrees / float(chdtri(degrees, exceeded))
        scaled = replace(components, seed=tuple(factor * part for part in components.seed))
        ends.append(_fewest(scaled, difference))
    return SeedRange(*ends)


def _fewest(components: Components, difference: float) -> int | None:
    """Return the fewest seeds, from FEWEST_SEEDS on, with which half the width is small enough."""

    def is_enough(seeds: int) -> bool:
        half = half_width_with(components, seeds)
        return half is not None and half <= difference

    if is_enough(FEWEST_SEEDS):
        return FEWEST_SEEDS
    if not is_enough(MOST_SEEDS):
        return None
    short, enough = FEWEST_SEEDS, MOST_SEEDS
    while enough - short > 1:  # the width falls with the seeds
        middle = (short + enough) // 2
        short, enough = (short, middle) if is_enough(middle) else (middle, enough)
    return enough


def power(components: Components, difference: float, seeds: int) -> float | None:
    """Return the probability that the two-way interval excludes 0, on either side.

    The mean is normal about the true difference, and independent of what the components are found
    to be: chi-square over its degrees of freedom for V_seed and for V_image, less V_both.

    Args:
        components: The true ones, or estimates in their place; None where a side has one seed.
        difference: The true difference.
        seeds: Of each side, 2 or more.
    """
    if components.seed is None:
        return None
    from scipy.special import chdtri, ndtr, stdtrit

    seed, image = components.seed_share(seeds), components.image_share()
    # each sample's residual over its seeds: exact for pairs, and for sides alike in number
    both = components.both * min(components.seeds) / seeds
    quantiles = (np.arange(_POINTS) + 0.5) / _POINTS
    found_seed = seed.variance * chdtri(seed.degrees, quantiles) / seed.degrees
    spread = chdtri(image.degrees, quantiles) / image.degrees
    found_image = np.maximum((image.variance + both) * spread - both, 0)
    tail = ALPHA / 2
    width = np.sqrt(
        stdtrit(seed.degrees, tail) ** 2 * found_seed[:, None]
        + stdtrit(image.degrees, tail) ** 2 * found_image
    )
    error = math.sqrt(seed.variance + image.variance)
    if error == 0:
        return float(difference != 0)
    excludes = ndtr((difference - width) / error) + ndtr((-difference - width) / error)
    return float(excludes.mean())
