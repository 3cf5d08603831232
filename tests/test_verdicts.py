"""Which verdicts may be given: Holm's adjustment by hand and in simulation, chance, short runs."""

import numpy as np
import pytest

from lmsm_cli.comparison.crossed import Strata, crossed, paired
from lmsm_cli.comparison.two_way import NoVerdict, Why, two_way
from lmsm_cli.comparison.verdicts import Remark, chance_forbids, holm, holm_once, undertrained


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([0.04], [0.04]),
        # sorted 0.005, 0.01, 0.03, 0.04 by 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04 -> 0.06
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.6, 0.5], [1.0, 1.0]),
        ([0.03, 0.03, 0.03], [0.09, 0.09, 0.09]),
        # what is not tested is no part of the family
        ([None, 0.02, None, 0.03], [None, 0.04, None, 0.04]),
        ([None], [None]),
        ([], []),
    ],
)
def test_holms_adjustment_is_that_by_hand(given, wanted):
    """The k-th smallest of m is multiplied by m - k + 1, and none is below one before it."""
    assert holm(given) == [None if one is None else pytest.approx(one) for one in wanted]


@pytest.mark.parametrize(
    ("given", "hypotheses", "wanted", "number"),
    [
        # three tests of two hypotheses: 0.02 by 2, 0.03 by 1, where three would give 0.06
        ([0.02, 0.03, 0.02], "aba", [0.04, 0.04, 0.04], 2),
        # of one hypothesis the largest p counts: 0.03 by 2, 0.04 by 1
        ([0.01, 0.04, 0.03], "aba", [0.06, 0.06, 0.06], 2),
        ([0.01, 0.04], "ab", [0.02, 0.04], 2),
        ([0.01, None, 0.04], "abb", [0.02, None, 0.04], 2),
        ([0.01, 0.01, 0.01], "aaa", [0.01, 0.01, 0.01], 1),
        ([None], "a", [None], 0),
    ],
)
def test_a_hypothesis_counts_once_in_holms_step(given, hypotheses, wanted, number):
    """Worked by hand: as many p-values as hypotheses, each of which stands or falls as one."""
    found, counted = holm_once(given, hypotheses)
    assert found == [None if one is None else pytest.approx(one) for one in wanted]
    assert counted == number


def test_five_arms_without_an_effect_seldom_get_a_verdict():
    """Any of five arms against one baseline is told in at most 6.4% of 1,000 studies."""
    rng = np.random.default_rng(0)
    strata = Strata.of(np.repeat([0, 1], 60), 2)
    weights = strata.class_weights([0, 1])
    wrong = unadjusted = 0
    for _ in range(1000):
        image = rng.normal(0, 1, 120)
        logits = image + rng.normal(0, 1, (6, 1, 120)) + rng.normal(0, 1, (6, 5, 1))
        baseline, *arms = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
        p_values = [two_way(paired(own, baseline, strata), weights).p_value for own in arms]
        wrong += min(holm(p_values)) < 0.05
        unadjusted += min(p_values) < 0.05
    assert wrong <= 64
    assert unadjusted > 100


def arm(rates, images=40, seeds=3):
    """Return the own score of an arm that is right in a share of each seed's images."""
    strata = Strata.of(np.zeros(images, int), 1)
    own = np.arange(images) < np.round(np.array(rates)[:, None] * images)
    return two_way(crossed(own, strata), strata.image_weights())


def test_no_arm_above_chance_forbids_a_verdict():
    """Of 10 classes, an interval above 0.1 is needed, not a mean; one such arm is enough."""
    near, above = arm([0.1, 0.2, 0.3]), arm([0.5, 0.6, 0.55])
    assert near.mean > 0.1 > near.low
    assert chance_forbids([near], 10) == NoVerdict(Why.CHANCE)
    assert chance_forbids([near, above], 10) is None
    assert chance_forbids([near, above], 2) == NoVerdict(Why.CHANCE)
    assert chance_forbids([], 10) == NoVerdict(Why.CHANCE)


@pytest.mark.parametrize(("rate", "is_forbidden"), [(1.0, False), (0.0, True)])
def test_an_arm_in_which_nothing_varies_is_at_its_mean(rate, is_forbidden):
    """Nets that are all right are above chance, and those that never are, are not."""
    assert (chance_forbids([arm([rate] * 3)], 10) is not None) == is_forbidden


@pytest.mark.parametrize(
    ("losses", "steps", "remarks"),
    [
        ([2.3, 1.0, 0.5, 0.3, 0.29], 500, ()),
        ([2.3, 1.0, 0.5, 0.3, 0.29], 499, (Remark.FEW_STEPS,)),
        # 0.3 of a fall of 1.8
        ([2.3, 1.9, 1.4, 0.8, 0.5], 5000, (Remark.STILL_FALLING,)),
        ([2.3, 1.8], 80, (Remark.FEW_STEPS, Remark.STILL_FALLING)),
        # of 40 epochs the last 4 count: a step of the learning rate before them does not
        ([2.0] * 20 + [1.0] * 15 + [0.2] * 5, 5000, ()),
        ([2.0] * 20 + [1.0] * 17 + [0.8] * 3, 5000, (Remark.STILL_FALLING,)),
        ([2.3, 2.4, 2.5], 5000, ()),
        ([0.5, 0.5], 5000, ()),
        ([1.0], 5000, ()),
        ([], 5000, ()),
    ],
)
def test_short_trainings_are_remarked_on(losses, steps, remarks):
    """Few steps, or more than a twentieth of the whole fall in the last tenth of the epochs."""
    assert undertrained(losses, steps) == remarks
