"""The angular margins as pure functions of the cosine: no arccos, finite slopes everywhere.

psi(theta) = (-1)^k cos(m theta) - 2k for theta in [k pi/m, (k+1) pi/m] falls from 1 at 0 to 1 - 2m
at pi. With c = cos(theta), cos(m theta) is the Chebyshev polynomial T_m(c), and k only needs c
compared with the borders cos(j pi/m), so the angle itself is never formed.
"""

import math

import torch
from torch import Tensor

from lmsm_cli.errors import LmsmError


def psi(cos: Tensor, margin: int) -> Tensor:
    """Return psi of the angle whose cosine is `cos`, the L-Softmax target function.

    `cos` has any shape, with values in [-1, 1]; `margin` is an integer >= 1. Differentiable, with
    |d psi / d cos| <= margin^2. Liu et al. 2016, "Large-Margin Softmax Loss for Convolutional
    Neural Networks", eq. 6 and 7.
    """
    check_margin(margin)
    return psi_and_slope(cos, margin)[0]


def check_margin(margin: int) -> None:
    """Raise LmsmError where `margin` is not an integer >= 1."""
    if isinstance(margin, bool) or not isinstance(margin, int) or margin < 1:
        raise LmsmError(f"margin is {margin}: give an integer of at least 1 (1 is plain softmax)")


def psi_and_slope(cos: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """Return psi and d psi / d cos = (-1)^k m U_{m-1}(cos), both of the shape of `cos`."""
    # psi is smooth in theta at the borders (sin(m theta) = 0 there), so rounding of k is harmless.
    borders = [math.cos(j * math.pi / margin) for j in range(1, margin)]
    k = torch.zeros_like(cos)
    for border in borders:
        k = k + (cos < border)
    sign = 1 - 2 * (k % 2)
    first, second = _chebyshev(cos, margin)
    return sign * first - 2 * k, sign * margin * second


def _chebyshev(cos: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Return T_degree(cos) = cos(degree theta) and U_{degree-1}(cos) = sin(degree theta)/sin(theta)."""
    first, next_first = torch.ones_like(cos), cos
    second, next_second = torch.zeros_like(cos), torch.ones_like(cos)
    for _ in range(degree):
        first, next_first = next_first, 2 * cos * next_first - first
        second, next_second = next_second, 2 * cos * next_second - second
    return first, second
