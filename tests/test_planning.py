"""What could be told: the formula with other seeds, limits of chi-square, simulated power."""

import math

import numpy as np
import pytest
from scipy import stats

from lmsm_cli.comparison.crossed import Strata, paired
from lmsm_cli.comparison.planning import (
    MOST_SEEDS,
    SeedRange,
    floor_of,
    half_width_with,
    power,
    seeds_needed,
)
from lmsm_cli.comparison.two_way import Components, Over, half_width, two_way

# 5 seeds: V_seed 4 squared points, the images' share 1.2
FIVE = Components((0.0004,), (5,), 0.00015, 0.00003, 57)


def test_the_half_width_follows_from_the_formula():
    """With 10 seeds V_seed is 2 squared points and t that of 9 degrees of freedom."""
    wanted = math.sqrt(2.262157**2 * 0.0002 + 2.002465**2 * 0.00012)
    assert half_width_with(FIVE, 10) == pytest.approx(wanted, rel=1e-6)
    assert half_width_with(FIVE, 5) == pytest.approx(half_width(FIVE.shares(Over.BOTH)))


def test_no_seeds_come_below_the_floor():
    """With ever more seeds the half width falls to t(57) times the root of the images' share."""
    floor = floor_of(FIVE)
    assert floor == pytest.approx(2.002465 * math.sqrt(0.00012), rel=1e-6)
    assert floor < half_width_with(FIVE, 10**6) < floor * 1.001
    assert seeds_needed(FIVE, 0.99 * floor) == SeedRange(None, None)
    assert floor_of(Components((0.1,), (5,), 0.1, 0.2, 57)) == 0


def test_the_range_of_seeds_runs_over_the_limits_of_chi_square():
    """With 4 degrees of freedom 80% of V / sigma^2 x 4 lie above 1.648777, 80% below 5.988617."""
    found = seeds_needed(FIVE, 0.04)
    assert 3 < found.fewest < found.most < MOST_SEEDS
    for seeds, limit in ((found.fewest, 5.988617), (found.most, 1.648777)):
        other = Components((0.0004 * 4 / limit,), (5,), 0.00015, 0.00003, 57)
        assert half_width_with(other, seeds) <= 0.04 < half_width_with(other, seeds - 1)


def test_the_range_begins_with_the_fewest_seeds_of_a_verdict():
    """A difference that 3 seeds show needs 3; what 10,000 don't show has no number."""
    assert seeds_needed(FIVE, 0.9) == SeedRange(3, 3)
    wild = Components((25.0,), (3,), 0.00015, 0.00003, 57)
    assert seeds_needed(wild, 0.04) == SeedRange(None, None)


def test_the_range_holds_the_seeds_in_truth_needed_in_three_of_five_pilots():
    """Either limit is on the wrong side in one of five studies of 5 seeds, for normal effects."""
    truth, rng = 0.0004, np.random.default_rng(0)

    def of(variance):
        return Components((variance,), (5,), 0.00015, 0.00003, 57)

    found = [seeds_needed(of(truth * one), 0.04) for one in rng.chisquare(4, 1000) / 4]
    needed = next(n for n in range(3, 99) if half_width_with(of(truth), n) <= 0.04)
    below = np.mean([one.most < needed for one in found])
    above = np.mean([one.fewest > needed for one in found])
    # one seed more or less is a step of 6%
    assert 0.14 < below < 0.22
    assert 0.14 < above < 0.22


def test_unmatched_seeds_are_planned_side_by_side():
    """V of 3 and 6 seeds a side becomes that of 12 each, with Welch's degrees of freedom."""
    parts = Components((0.0004, 0.0001), (3, 6), 0.00015, 0.00003, 57)
    degrees = 1.5**2 / (1 / 11 + 0.25 / 11)
    wanted = stats.t.ppf(0.975, degrees) ** 2 * 0.00015 + stats.t.ppf(0.975, 57) ** 2 * 0.00012
    assert half_width_with(parts, 12) == pytest.approx(math.sqrt(wanted))


def test_a_single_seed_tells_nothing_of_others():
    """Without a variance over seeds nothing is planned."""
    one = Components(None, (1,), 0.00015, 0.0, 57)
    assert half_width_with(one, 5) is floor_of(one) is seeds_needed(one, 0.04) is None
    assert power(one, 0.04, 5) is None


def test_power_of_seeds_alone_is_that_of_the_t_test():
    """Without a part of the images it is the noncentral t's, at no difference 5%."""
    alone = Components((0.0004,), (5,), 0.0, 0.0, 57)
    assert power(alone, 0.0, 5) == pytest.approx(0.05, abs=0.002)
    for change, seeds in ((0.03, 3), (0.05, 5), (-0.05, 12)):
        shift = change / math.sqrt(0.0004 * 5 / seeds)
        point = stats.t.ppf(0.975, seeds - 1)
        wanted = stats.nct.sf(point, seeds - 1, shift) + stats.nct.cdf(-point, seeds - 1, shift)
        assert power(alone, change, seeds) == pytest.approx(wanted, abs=0.002)


@pytest.mark.parametrize(
    ("seeds", "images", "change"), [(3, 20, 0.3), (5, 60, 0.12), (10, 10, 0.2)]
)
def test_predicted_power_is_simulated_power(seeds, images, change):
    """Of normal effects with known components it is within 5 points of 1,000 studies.

    An answer is one of -1, 0 and 1, drawn about the sum of the effects of its seed and its image.
    """
    rng = np.random.default_rng(0)
    of_seed, of_image = 0.05, 0.3
    strata = Strata.of(np.repeat([0, 1], images), 2)
    number, weights = 2 * images, strata.class_weights([0, 1])
    told = 0
    for _ in range(1000):
        rate = change + rng.normal(0, of_seed, (seeds, 1)) + rng.normal(0, of_image, number)
        # P(1) = 0.3 + rate / 2 and P(-1) = 0.3 - rate / 2: the mean is the rate
        uniform, half = rng.random(rate.shape), np.clip(rate / 2, -0.3, 0.3)
        own, baseline = uniform < 0.3 + half, uniform > 0.7 + half
        found = two_way(paired(own, baseline, strata), weights)
        told += found.p_value < 0.05
    # E(d^2) = 0.6, less the squares of all effects
    residual = 0.6 - change**2 - of_image**2 - of_seed**2
    truth = Components(
        seed=((of_seed**2 + residual / number) / seeds,),
        seeds=(seeds,),
        image=(of_image**2 + residual / seeds) / number,
        both=residual / seeds / number,
        image_degrees=number - 2,
    )
    predicted = power(truth, change, seeds)
    assert 0.2 < predicted < 0.9
    assert told / 1000 == pytest.approx(predicted, abs=0.05)
