"""Levels of looks and what they tell, against draws of other streams and numbers worked by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from lmsm_cli.comparison.sequential import (
    ALPHA,
    Standing,
    chance_to_tell,
    levels_of,
    looks_at,
    told_at,
)
from lmsm_cli.comparison.two_way import Share


def test_one_look_has_the_whole_level():
    """As a plain t-test."""
    assert levels_of((4,)) == pytest.approx((0.05,), rel=0.02)


@pytest.mark.parametrize("looks", [(3, 4), (3, 5, 8, 10, 12)])
@pytest.mark.parametrize("alpha", [0.05, 0.025])
def test_no_more_than_the_level_is_spent_under_no_effect(looks, alpha):
    """Fresh t-tests of scipy cross at any look in that share of studies, in parts by rounds."""
    rounds = np.random.default_rng(5).standard_normal((100_000, looks[-1]))
    levels, is_open = levels_of(looks, alpha), np.ones(len(rounds), bool)
    for look, (done, level) in enumerate(zip(looks, levels, strict=True)):
        is_open &= stats.ttest_1samp(rounds[:, :done], 0, axis=1).pvalue > level
        spent = alpha * looks[look] / looks[-1]
        assert 1 - is_open.mean() == pytest.approx(spent, abs=4 * math.sqrt(spent / len(rounds)))


def test_looks_begin_at_three_rounds_and_end_at_the_last():
    """They are five at most."""
    assert [looks_at(number) for number in (1, 2, 3)] == [(), (), (3,)]
    assert all(looks_at(number)[-1] == number for number in range(3, 21))
    assert max(len(looks_at(number)) for number in range(3, 21)) == 5


def standing(mean, sd, rounds):
    """Return the standing of an arm whose rounds have that sd."""
    return Standing(mean, (Share(sd**2 / rounds, rounds - 1),))


def test_a_standing_is_a_t_test():
    """Of the differences of the rounds."""
    values = [0.02, 0.05, 0.03, 0.06]
    own = standing(np.mean(values), np.std(values, ddof=1), 4)
    assert own.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert 2 * own.half_width() == pytest.approx(high - low)


def test_arms_share_the_level_until_one_is_told():
    """With levels a and b for two and one: p = a is told, then p between a and b is told too."""
    looks = (4,)
    quantile = stats.t(3).isf
    first = standing(quantile(0.024 / 2) * 0.5, 1, 4)
    second = standing(-quantile(0.045 / 2) * 0.5, 1, 4)
    third = standing(quantile(0.2 / 2) * 0.5, 1, 4)
    arms = {"a": first, "b": second, "c": third}
    assert told_at({"a": first, "b": second}, {}, looks, 0, 2) == {"a": "better", "b": "worse"}
    assert told_at({"b": second}, {}, looks, 0, 2) == {}
    assert told_at({"b": second}, {"a": "better"}, looks, 0, 2) == {"b": "worse"}
    assert told_at(arms, {}, looks, 0, 3) == {}


def test_the_chance_to_tell_is_that_of_drawn_rounds():
    """Going on from three rounds of a known mean and sd, by draws; the sd stays what it is."""
    looks, sd = (3, 6), 0.04
    own = standing(0.05, sd, 3)
    draws = np.random.default_rng(1).normal(0.05, sd, (200_000, 3)).mean(axis=1)
    whole = (0.05 + draws) / 2
    level = levels_of(looks)[-1]
    needed = stats.t(5).isf(level / 2) * sd / math.sqrt(6)
    assert chance_to_tell(own, looks, 0, 1) == pytest.approx((whole > needed).mean(), abs=0.01)
    assert chance_to_tell(own, looks, 1, 1) == 0
    assert chance_to_tell(standing(0.0, sd, 3), looks, 0, 1) < ALPHA
