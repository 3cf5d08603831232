"""psi against its definition through arccos, and its slope."""

import math

import pytest
import torch

from lmsm_cli import psi
from lmsm_cli.losses.margins import psi_and_slope

MARGINS = range(1, 11)


def psi_by_definition(cos: float, margin: int) -> float:
    """Liu et al. 2016, eq. 6, read aloud: find theta, find its interval, apply the formula."""
    theta = math.acos(cos)
    k = min(int(theta * margin / math.pi), margin - 1)
    return (-1) ** k * math.cos(margin * theta) - 2 * k


@pytest.mark.parametrize("margin", MARGINS)
def test_psi_equals_its_definition(margin):
    """The closed form agrees with the arccos definition to 1e-12 in float64."""
    cos = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    wanted = torch.tensor([psi_by_definition(c, margin) for c in cos.tolist()], dtype=torch.float64)
    assert (psi(cos, margin) - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("margin", MARGINS)
def test_psi_at_the_borders(margin):
    """At theta = k pi / m both neighbouring formulas give (-1)^k cos(k pi) - 2k = 1 - 2k."""
    angles = [k * math.pi / margin for k in range(margin + 1)]
    cos = torch.tensor([math.cos(angle) for angle in angles], dtype=torch.float64)
    wanted = torch.tensor([1.0 - 2 * k for k in range(margin + 1)], dtype=torch.float64)
    assert (psi(cos, margin) - wanted).abs().max() < 1e-12


@pytest.mark.parametrize("margin", MARGINS)
def test_psi_falls_with_the_angle(margin):
    """Psi never rises from 0 to 180 degrees: a larger angle never costs less."""
    cos = torch.cos(torch.linspace(0, math.pi, 2001, dtype=torch.float64))
    assert (psi(cos, margin).diff() <= 1e-12).all()


@pytest.mark.parametrize(
    ("margin", "degrees", "wanted"),
    [(2, 90, -1), (3, 90, -2), (4, 90, -3), (2, 60, -0.5), (2, 120, -1.5), (3, 30, 0), (4, 45, -1)],
)
def test_psi_by_hand(margin, degrees, wanted):
    """Values worked by hand, among them psi(90 degrees) = 1 - m."""
    cos = torch.tensor([math.cos(math.radians(degrees))], dtype=torch.float64)
    assert psi(cos, margin).item() == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("margin", MARGINS)
def test_slope_is_autograds_and_finite(margin):
    """The slope is what autograd finds, at most m^2, also at cos = +-1."""
    cos = torch.linspace(-1, 1, 999, dtype=torch.float64, requires_grad=True)
    value, slope = psi_and_slope(cos, margin)
    (wanted,) = torch.autograd.grad(value.sum(), cos)
    assert torch.allclose(slope, wanted, atol=1e-10)
    assert slope.isfinite().all()
    assert slope.abs().max() <= margin**2 + 1e-9


def test_margin_one_is_the_cosine():
    """Margin 1 bends nothing."""
    cos = torch.linspace(-1, 1, 101)
    assert torch.equal(psi(cos, 1), cos)
