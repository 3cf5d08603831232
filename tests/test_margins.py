"""psi against its definition through arccos, and its slope."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmsm_cli import psi
from lmsm_cli.losses import margins
from lmsm_cli.losses.margins import psi_and_slope

MARGINS = range(1, 11)
REAL_MARGINS = [1.0001, 1.5, 2.7, math.pi, 7.3]


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
    [
        *[(2, 90, -1), (3, 90, -2), (4, 90, -3), (2, 60, -0.5), (2, 120, -1.5), (3, 30, 0)],
        *[(4, 45, -1), (1.5, 90, -(0.5**0.5)), (1.5, 120, -1), (1.5, 180, -2), (2.5, 144, -3)],
    ],
)
def test_psi_by_hand(margin, degrees, wanted):
    """Values worked by hand, among them psi(90 degrees) = 1 - m for whole m.

    For real margins: cos 135 = -1/sqrt 2; 1 - 2 at the border 120; -cos 270 - 2 at 180; 1 - 4 at
    144.
    """
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


def psi_in_numpy(cos, margin):
    """Liu et al. 2016, eq. 6, for any real margin: k is the interval of pi / m that theta is in."""
    theta = np.arccos(cos)
    k = np.floor(theta * margin / np.pi)
    return (-1) ** k * np.cos(margin * theta) - 2 * k


@pytest.mark.parametrize("margin", REAL_MARGINS)
def test_psi_of_real_margins_equals_its_definition(margin):
    """For a margin that is no integer, psi is the same formula, 1e-12 near in float64."""
    cos = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    assert np.abs(psi(cos, margin).numpy() - psi_in_numpy(cos.numpy(), margin)).max() < 1e-12


@pytest.mark.parametrize("margin", REAL_MARGINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_psi_of_real_margins_falls_and_its_slope_is_bounded(margin, dtype):
    """It falls with the angle, and its slope is finite: at most 1000 m, and m^2 at theta = 0."""
    # to the poles in steps that get smaller: there the true slope is unbounded
    near = torch.logspace(-8, 0, 400, dtype=torch.float64)
    cos = torch.cat([torch.ones(1), 1 - near, near.flip(0) - 1, -torch.ones(1)]).to(dtype)
    value, slope = psi_and_slope(cos, margin)
    assert (value.diff() <= torch.finfo(dtype).eps * 8 * margin).all()
    assert slope.isfinite().all()
    assert slope.abs().max() <= 1000 * margin
    assert slope[0].item() == pytest.approx(margin**2)


@pytest.mark.parametrize("margin", REAL_MARGINS)
def test_slope_of_real_margins_agrees_with_differences(margin):
    """Away from pi the slope is the difference quotient of the definition, by autograd too."""
    cos = torch.cos(torch.linspace(0.02, 3.1, 997, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(psi(cos, margin).sum(), cos)
    assert torch.equal(slope, psi_and_slope(cos.detach(), margin)[1])
    step, at = 1e-7, cos.detach().numpy()
    wanted = (psi_in_numpy(at + step, margin) - psi_in_numpy(at - step, margin)) / (2 * step)
    np.testing.assert_allclose(slope.numpy(), wanted, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize(
    "beside", [1 + 1e-7, *(m + d for m in (2, 3, 4, 7) for d in (-1e-7, 1e-7))]
)
def test_psi_is_continuous_in_the_margin(beside):
    """A margin 1e-7 beside an integer, by way of the angle, is at the integer's polynomial."""
    margin = round(beside)
    cos = torch.linspace(-1, 1, 4001, dtype=torch.float64)
    value, slope = psi_and_slope(cos, beside)
    wanted, wanted_slope = psi_and_slope(cos, margin)
    assert (value - wanted).abs().max() < 1e-6
    inside = cos.abs() < 0.999
    assert (slope - wanted_slope)[inside].abs().max() < 1e-4


@pytest.mark.parametrize("margins", [[1.5, 2.0, 3.7], [1, 2, 3]])
def test_margins_broadcast(margins):
    """A tensor of margins bends each column by its own, whole ones as their polynomials."""
    cos = torch.linspace(-0.99, 0.99, 60, dtype=torch.float64).reshape(20, 3).requires_grad_()
    bent = psi(cos, torch.tensor(margins))
    (slope,) = torch.autograd.grad(bent.sum(), cos)
    for column, margin in enumerate(margins):
        alone = cos.detach()[:, column].requires_grad_()
        wanted = psi(alone, margin)
        (wanted_slope,) = torch.autograd.grad(wanted.sum(), alone)
        # 3.7 as a float32 tensor is 1e-8 from 3.7
        torch.testing.assert_close(bent[:, column], wanted, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(slope[:, column], wanted_slope, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("margin", [1.5, 2.0, 3])
def test_a_number_is_not_copied_to_the_device(margin):
    """On the meta device only meta tensors take part: a copy from the CPU breaks a CUDA graph."""

    class OneDevice(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            tensors = [one for one in (*args, *(kwargs or {}).values()) if isinstance(one, Tensor)]
            assert {one.device.type for one in tensors} <= {"meta"}, function
            return function(*args, **(kwargs or {}))

    with OneDevice():
        value, slope = margins._by_angle(torch.empty(3, device="meta"), margin)
    assert value.device.type == slope.device.type == "meta"
