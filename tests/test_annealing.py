"""Lambda over a run, against the authors' own numbers."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from lmsm_cli.losses.annealing import Annealing, effective_margin, lambda_for

CIFAR10 = Annealing("power", start=1000.0, gamma=2e-5 * 18_000, power=45.0)


@pytest.mark.parametrize(
    ("iteration", "wanted"),
    [(1_000, 410), (5_000, 13.7), (8_000, 1.26), (10_000, 0.273), (12_000, 0.0625)],
)
def test_power_law_is_the_authors_schedule(iteration, wanted):
    """Scaled to 18,000 iterations it gives the lambdas of the authors' CIFAR-10 example."""
    assert CIFAR10(iteration / 18_000) == pytest.approx(wanted, rel=0.01)
    assert CIFAR10.at_step(iteration, 18_000) == pytest.approx(wanted, rel=0.01)


def test_lambda_never_goes_below_its_minimum():
    """Beyond the point where the law would go on falling, lambda rests at the minimum."""
    assert replace(CIFAR10, minimum=5.0)(1.0) == 5.0


FORMS = [
    # form, lambda at progress 0, 1/4, 1/2, 1 for start 15, minimum 3, worked by hand
    ("linear", (15, 12, 9, 3)),
    ("cosine", (15, 3 + 12 * (1 + 0.5**0.5) / 2, 9, 3)),
    ("exponential", (15, 16 * 0.25**0.25 - 1, 7, 3)),  # 1 + lambda: 16 -> 4
    ("constant", (3, 3, 3, 3)),
]


@pytest.mark.parametrize(("form", "wanted"), FORMS)
def test_forms_by_hand(form, wanted):
    """Linear, cosine and exponential fall from the start to the minimum; constant rests there."""
    lam = Annealing(form, start=15, minimum=3)
    assert [lam(progress) for progress in (0, 0.25, 0.5, 1)] == pytest.approx(wanted)
    # twice as fast, then at rest
    halved = Annealing(form, start=15, minimum=3, end=0.5)
    assert [halved(progress) for progress in (0, 0.125, 0.25, 0.5, 0.75)] == pytest.approx(
        [*wanted, 3]
    )


@pytest.mark.parametrize("form", ["power", "exponential", "cosine", "linear"])
def test_a_large_minimum_raises_the_start(form):
    """Lambda falls to its minimum from above it, however large the minimum is."""
    lam = Annealing(form, minimum=2000)
    assert lam(0.0) >= 4 * lam(1.0) == pytest.approx(8000, rel=1e-6)


def test_exponential_lets_the_margin_grow_geometrically():
    """Equal steps of progress multiply effective margin - 1 by one factor, down to lambda 0."""
    lam = Annealing("exponential", start=255, minimum=0)
    excess = [effective_margin(3, lam(step / 8)) - 1 for step in range(9)]
    ratios = [after / before for before, after in pairwise(excess)]
    assert ratios == pytest.approx([2.0] * 8)
    assert excess[-1] == pytest.approx(2)


def test_none_is_the_full_margin_from_the_first_step():
    """Without annealing lambda is 0 throughout, whatever the other options say."""
    assert [Annealing("none", start=7, minimum=2)(progress) for progress in (0, 0.5, 1)] == [
        0,
        0,
        0,
    ]


@pytest.mark.parametrize("form", ["power", "exponential", "cosine", "linear"])
@pytest.mark.parametrize("end", [1.0, 0.3])
def test_lambda_only_falls_and_is_the_same_for_tensors(form, end):
    """Lambda never rises, and a progress on the device anneals as a number does."""
    lam = Annealing(form, start=50, minimum=0.5, end=end)
    progress = torch.linspace(0, 1, 101, dtype=torch.float64)
    values = lam(progress)
    assert (values.diff() <= 1e-12).all()
    assert values.tolist() == pytest.approx([lam(p) for p in progress.tolist()])


@pytest.mark.parametrize("form", ["power", "exponential", "cosine", "linear", "constant"])
def test_steps_are_resumable(form):
    """Lambda at a step depends on the step alone, and rests after the last one."""
    lam = Annealing(form, start=50, minimum=0.5)
    assert lam.at_step(30, 120) == lam(0.25)
    assert lam.at_step(500, 120) == lam.at_step(120, 120) == lam(1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"start": -1}, "lambda_start is -1"),
        ({"start": float("nan")}, "lambda_start is nan"),
        ({"minimum": float("inf")}, "lambda_min is inf"),
        ({"gamma": -0.1}, "gamma is -0.1"),
        ({"end": 0}, "anneal_end is 0"),
        ({"end": 1.5}, "anneal_end is 1.5"),
        ({"start": 1, "minimum": 2}, "lambda_min 2 is above lambda_start 1"),
    ],
)
def test_bad_annealings_are_refused(values, message):
    """Values out of range are a ValueError that names the option of the loss."""
    with pytest.raises(ValueError, match=message):
        Annealing(**values)


@pytest.mark.parametrize(
    ("margin", "lam", "wanted"), [(4, 0, 4), (4, 5, 1.5), (2, 1, 1.5), (1, 7, 1)]
)
def test_effective_margin(margin, lam, wanted):
    """Lambda 5 leaves 1.5 of margin 4, as the SphereFace authors' own setting is read."""
    assert effective_margin(margin, lam) == pytest.approx(wanted)


@pytest.mark.parametrize("margin", [2, 3, 4, 7])
def test_lambda_for_leaves_the_margin_that_was_asked_for(margin):
    """2 m - 3 leaves an effective margin of 1.5: 1 for margin 2, the authors' 5 for margin 4."""
    assert lambda_for(margin, 1.5) == pytest.approx(2 * margin - 3)
    assert effective_margin(margin, lambda_for(margin, 1.2)) == pytest.approx(1.2)


def test_lambda_for_is_zero_where_the_margin_is_small_already():
    """Margin 1.2 never has an effective margin of 1.5: nothing is to be annealed away."""
    assert lambda_for(1.2, 1.5) == 0
