"""Lambda over a run, against the authors' own numbers."""

import pytest
import torch

from lmsm_cli.losses.annealing import effective_margin, lambda_for, power_law

CIFAR10 = {"start": 1000.0, "gamma": 2e-5 * 18_000, "power": 45.0}


@pytest.mark.parametrize(
    ("iteration", "wanted"), [(1_000, 410), (5_000, 13.7), (8_000, 1.26), (10_000, 0.273), (12_000, 0.0625)]
)  # fmt: skip
def test_power_law_is_the_authors_schedule(iteration, wanted):
    """Scaled to 18,000 iterations it gives the lambdas of the authors' CIFAR-10 example."""
    lam = power_law(iteration / 18_000, **CIFAR10, minimum=0.0)
    assert lam == pytest.approx(wanted, rel=0.01)


def test_lambda_never_goes_below_its_minimum():
    """Beyond the point where the law would go on falling, lambda rests at the minimum."""
    assert power_law(1.0, **CIFAR10, minimum=5.0) == 5.0


def test_tensor_progress_gives_the_same_lambda():
    """A progress on the device, as in a captured step, anneals as a number does."""
    lam = power_law(torch.tensor(0.25, dtype=torch.float64), **CIFAR10, minimum=0.0)
    assert lam.item() == pytest.approx(power_law(0.25, **CIFAR10, minimum=0.0))


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
