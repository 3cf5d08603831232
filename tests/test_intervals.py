"""Differences to a baseline: their intervals are scipy's, and the verdict follows from them."""

import numpy as np
import pytest
from scipy import stats

from lmsm_cli.comparison.intervals import difference, in_points, points

OWN = {0: 0.71, 1: 0.74, 2: 0.70, 3: 0.76, 4: 0.73}
BASE = {0: 0.68, 1: 0.73, 2: 0.66, 3: 0.70, 4: 0.70}


def test_paired_interval_is_that_of_the_paired_t_test():
    """Where seeds match, whatever their order, mean and interval are scipy's ttest_rel's."""
    shuffled = {seed: BASE[seed] for seed in (3, 1, 4, 0, 2)}
    found = difference(OWN, shuffled, higher_is_better=True)
    wanted = stats.ttest_rel(list(OWN.values()), list(BASE.values())).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert found.mean == pytest.approx(np.mean(list(OWN.values())) - np.mean(list(BASE.values())))
    assert (found.paired, found.n, found.verdict) == (True, 5, "better")


def test_unpaired_interval_is_welchs():
    """Where seeds don't match, the interval is scipy's for unequal variances."""
    other = {seed + 3: value for seed, value in BASE.items()}
    found = difference(OWN, other, higher_is_better=True)
    wanted = stats.ttest_ind(
        list(OWN.values()), list(BASE.values()), equal_var=False
    ).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high))
    assert (found.paired, found.n) == (False, 5)


def test_the_smaller_side_is_paired_where_all_its_seeds_match():
    """Three seeds against five give three pairs, and nothing of the other two."""
    few = {seed: OWN[seed] for seed in (0, 1, 2)}
    found = difference(few, BASE, higher_is_better=True)
    assert found.mean == pytest.approx(np.mean([0.03, 0.01, 0.04]))
    assert (found.paired, found.n) == (True, 3)


@pytest.mark.parametrize(
    ("changes", "higher_is_better", "verdict"),
    [
        ((0.04, 0.05, 0.06), True, "better"),
        ((-0.04, -0.05, -0.06), True, "worse"),
        ((0.04, 0.05, 0.06), False, "worse"),
        ((-0.04, -0.05, -0.06), False, "better"),
        ((0.04, -0.05, 0.06), True, "can't tell"),
        ((0.04,), True, "can't tell"),
        ((0.04, 0.04), True, "can't tell"),
        ((0.0, 0.0, 0.0), True, "can't tell"),
    ],
)
def test_verdict_needs_an_interval_without_zero(changes, higher_is_better, verdict):
    """One seed, no variation, or an interval that holds zero cannot tell."""
    base = {seed: 0.3 + 0.1 * seed for seed in range(len(changes))}
    own = {seed: base[seed] + change for seed, change in enumerate(changes)}
    assert difference(own, base, higher_is_better=higher_is_better).verdict == verdict


def test_no_values_no_difference():
    """A score that one side doesn't have is not compared."""
    assert difference({}, BASE, higher_is_better=True) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "+0.0"),
        (0.0004, "+0.04"),
        (-0.00042, "-0.04"),
        (0.0006, "+0.1"),
        (0.076, "+7.6"),
        (-1e-9, "-1e-07"),
        (4e-6, "+0.0004"),
        (sum([0.1] * 10) / 10 - 0.1, "+0.0"),  # 0 but for rounding
        (0.3 - 0.1 - 0.2, "+0.0"),
        (-0.012, "-1.2"),
    ],
)
def test_a_bound_near_0_shows_on_which_side_it_lies(value, text):
    """`[+0.0, +7.6]` beside "better" would say nothing: what is not 0 is not written as 0."""
    assert in_points(value) == text
    assert points(value) == text.removeprefix("+")
