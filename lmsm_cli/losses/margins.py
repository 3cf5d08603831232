"""The margins as pure functions of the cosine between a feature and its class weight.

A `MarginFunction` maps cosines (N,) to g(cos), which replaces cos in the target logit |w||x| cos,
and to its slope d g / d cos, which is finite everywhere. `ByDifficulty` has two of them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.annealing import Annealing
from lmsm_cli.losses.checks import check_margin, readable, refuse_transforms, wrong_shape

MarginFunction = Callable[[Tensor], tuple[Tensor, Tensor]]


class ByDifficulty(ABC):
    """One margin for images that are classified wrongly without any, another for the rest."""

    @abstractmethod
    def where(self, is_wrong: Tensor) -> MarginFunction:
        """Return the margin function of a batch whose images are wrong or right, (N,)."""


@final
# Margins are told apart by identity: torch.compile asks for the hash of one that is half made.
@dataclass(frozen=True, eq=False)
class OnHardImages(ByDifficulty):
    """A margin for images that are classified wrongly without any, and none for the rest."""

    margin: MarginFunction

    def where(self, is_wrong: Tensor) -> MarginFunction:
        """Return the margin function of a batch whose images are wrong or right, (N,)."""

        def by_image(cos: Tensor) -> tuple[Tensor, Tensor]:
            values, slopes = zip(self.margin(cos), no_margin(cos), strict=True)
            return torch.where(is_wrong, *values), torch.where(is_wrong, *slopes)

        return by_image


Margin = MarginFunction | ByDifficulty

# Nearer to the poles than this, in radians, a slope with 1 / sin(theta) is taken as at this
# distance: the gradient multiplies it by sin(theta), so the slope itself must be finite.
_POLE = 1e-3


def psi(cos: Tensor, margin: float | Tensor) -> Tensor:
    """Return psi of the angle whose cosine is `cos`, the L-Softmax target function.

    psi(theta) = (-1)^k cos(m theta) - 2k for theta in [k pi/m, (k+1) pi/m]: it falls from 1 at 0 to
    1 - 2m at pi (integer m). It can be differentiated once by `cos`. The slope is at most m^2 for
    an integer m, and at most 1000 m for any other, where the true one is unbounded as theta -> pi.

    Args:
        cos: cosines in [-1, 1], of any shape.
        margin: a number from 1 to 1000, or a tensor of them that broadcasts to `cos`.

    Raises ArgumentError, a ValueError, for a margin outside 1 to 1000 and for what is no cosine.
    Liu et al. 2016, "Large-Margin Softmax Loss for Convolutional Neural Networks", eq. 6 and 7.

    >>> psi(torch.tensor([1.0, 0.0, -1.0]), 2)
    tensor([ 1., -1., -3.])
    """
    _check_cosines(cos)
    refuse_transforms("psi", cos)
    margin = check_margin(margin)
    if isinstance(margin, Tensor):
        _check_broadcast(margin, cos)
    result: Tensor = _Psi.apply(cos, margin)
    return result


def _check_cosines(cos: Any) -> None:
    if not isinstance(cos, Tensor) or not cos.is_floating_point():
        kind = cos.dtype if isinstance(cos, Tensor) else type(cos).__name__
        raise ArgumentError(f"psi: cos is of type {kind}: give a torch tensor of cosines")
    # Computed cosines may be above 1 by rounding.
    if readable(cos) and bool((cos.abs() > 1 + 8 * torch.finfo(cos.dtype).eps).any()):
        raise ArgumentError(
            f"psi: cos holds {float(cos.detach().abs().max()):g}: give cosines, from -1 to 1"
        )


def _check_broadcast(margin: Tensor, cos: Tensor) -> None:
    known = zip(reversed(margin.shape), reversed(cos.shape), strict=False)
    if margin.ndim > cos.ndim or any(size not in (1, wanted) for size, wanted in known):
        wanted = f"expected one that broadcasts to that of cos, {tuple(cos.shape)}"
        raise wrong_shape("psi: margin has", margin, wanted)


def psi_and_slope(cos: Tensor, margin: int | float | Tensor) -> tuple[Tensor, Tensor]:
    """Return psi and d psi / d cos = (-1)^k m sin(m theta) / sin(theta), of the shape of `cos`.

    An int takes the polynomials of the cosine, without an angle; any other margin takes arccos.
    """
    return _by_polynomial(cos, margin) if isinstance(margin, int) else _by_angle(cos, margin)


def _by_polynomial(cos: Tensor, margin: int) -> tuple[Tensor, Tensor]:
    """With c = cos(theta), cos(m theta) is T_m(c), and k follows from the borders cos(j pi/m)."""
    if margin == 1:
        return cos, torch.ones_like(cos)
    # psi is smooth in theta at the borders (sin(m theta) = 0 there), so rounding of k is harmless.
    k = (cos < math.cos(math.pi / margin)).to(cos.dtype)
    for j in range(2, margin):
        k += cos < math.cos(j * math.pi / margin)
    sign = 1 - 2 * (k % 2 if margin > 2 else k)
    first, second = _chebyshev(cos, margin)
    return sign * first - 2 * k, margin * sign * second


def _chebyshev(cos: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Return T_d(cos) = cos(d theta) and U_{d-1}(cos) = sin(d theta) / sin(theta), for d >= 2."""
    twice = 2 * cos
    first_before, first = cos, twice * cos - 1
    second_before, second = torch.ones_like(cos), twice
    for _ in range(degree - 2):
        first_before, first = first, twice * first - first_before
        second_before, second = second, twice * second - second_before
    return first, second


def _by_angle(cos: Tensor, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    theta = cos.acos()
    k = (margin * theta / math.pi).floor()
    sign = 1 - 2 * (k % 2)
    # At 0 the ratio of the sines is 0 / 0 with the limit m. At pi it has none unless m is whole.
    ratio = (margin * theta).sin() / _sine(cos).clamp_min(_POLE)
    at_zero = cos > math.cos(_POLE)
    # A number is passed to the kernel as it is: torch.where would copy it to the device, which a
    # CUDA graph cannot capture.
    ratio = (
        torch.where(at_zero, margin.to(ratio), ratio)
        if isinstance(margin, Tensor)
        else ratio.masked_fill(at_zero, margin)
    )
    return sign * (margin * theta).cos() - 2 * k, margin * sign * ratio


def _sine(cos: Tensor) -> Tensor:
    return ((1 - cos) * (1 + cos)).sqrt()


class _Psi(torch.autograd.Function):
    """psi, differentiated by its closed-form slope: through arccos it would be infinite at +-1."""

    @staticmethod
    def forward(ctx: Any, cos: Tensor, margin: int | float | Tensor) -> Tensor:
        value, slope = psi_and_slope(cos, margin)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.saved_tensors[0], None


def annealed_margin(
    cos: Tensor, margin: int | float | Tensor, lam: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Return L-Softmax's (lam cos + psi) / (1 + lam), and its slope.

    Args:
        cos: each image's cosine with the class of its label, (N,).
        margin: one for all, or one for each image (N,).
        lam: the annealing lambda, >= 0.
    """
    # A margin of a wider type than the cosines would widen the loss.
    margin = margin.to(cos) if isinstance(margin, Tensor) else margin
    value, slope = psi_and_slope(cos, margin)
    plain = lam / (1 + lam)
    plain = plain.to(cos) if isinstance(plain, Tensor) else plain
    return torch.lerp(value, cos, plain), slope * (1 - plain) + plain


@dataclass(frozen=True, eq=False)
class LSoftmaxMargin:
    """L-Softmax's margin on the targets of a batch, a `MarginFunction`."""

    margin: int | float | Tensor
    """One for all, or one for each class (C,)."""
    labels: Tensor
    """The class of each image in the batch, (N,)."""
    lam: float | Tensor
    """The annealing lambda, >= 0; with a law, the progress that it is a function of."""
    law: Annealing | None = None

    def __call__(self, cos: Tensor) -> tuple[Tensor, Tensor]:
        """Return what becomes of each image's cosine (N,), and its slope."""
        lam = self.lam if self.law is None else self.law(self.lam)
        return annealed_margin(cos, of_images(self.margin, self.labels), lam)


def of_images(margin: float | Tensor, labels: Tensor) -> float | Tensor:
    """Return the margin of each image (N,) where it is one for each class (C,), else as it is."""
    return margin.index_select(0, labels) if isinstance(margin, Tensor) and margin.ndim else margin


def no_margin(cos: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cosine as it is, softmax's, and its slope."""
    return cos, torch.ones_like(cos)


def cosface_margin(cos: Tensor, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return cos - m and its slope; m is a number (CosFace), or one per image (LDAM)."""
    return cos - margin, torch.ones_like(cos)


def arcface_margin(cos: Tensor, margin: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return ArcFace's cos(theta + m) and its slope; m, in radians, is a number or one per image.

    Where theta + m is above pi the cosine would rise again: there it is cos - m sin(m), as in the
    authors' code. The slope is bounded by 1000 at theta -> 0, where the true one is infinite.
    """
    turn_cos: Any
    turn_sin: Any
    if isinstance(margin, Tensor):
        turn_cos, turn_sin = margin.cos(), margin.sin()
    else:
        turn_cos, turn_sin = math.cos(margin), math.sin(margin)
    sine = _sine(cos)
    value = cos * turn_cos - sine * turn_sin
    slope = turn_cos + cos * turn_sin / sine.clamp_min(_POLE)
    past = cos < -turn_cos
    return (
        torch.where(past, cos - margin * turn_sin, value),
        torch.where(past, torch.ones_like(cos), slope),
    )


def dbm_margin(cos: Tensor, margin: Tensor, difficulty: Tensor) -> tuple[Tensor, Tensor]:
    """Return DBM's cos(theta + m) with m = margin (1 + difficulty (1 - cos) / 2), and its slope.

    Where theta + m is above pi the cosine would rise again, and in the authors' code it does: here
    the value goes on to fall, as cos + cos(m) - 1. The slope is bounded by 1000 at theta -> 0, as
    in `arcface_margin`.

    Args:
        cos: each image's cosine with the class of its label, (N,).
        margin: the class margin of each image in radians, (N,).
        difficulty: the share of the margin that is added at 180 degrees, (N,).
    """
    turn = margin * (1 + difficulty * (1 - cos) / 2)
    faster = difficulty * margin / 2  # -d turn / d cos
    sine, turn_cos, turn_sin = _sine(cos), turn.cos(), turn.sin()
    ahead = sine * turn_cos + cos * turn_sin  # sin(theta + turn)
    past = cos < -turn_cos
    return (
        torch.where(past, cos + turn_cos - 1, cos * turn_cos - sine * turn_sin),
        torch.where(past, 1 + faster * turn_sin, ahead / sine.clamp_min(_POLE) + faster * ahead),
    )


@dataclass(frozen=True, eq=False)
class FixedMargin:
    """CosFace's or ArcFace's margin on the targets of a batch, a `MarginFunction`."""

    form: Literal["cosface", "arcface"]
    margin: float | Tensor
    """One for all, or one for each class (C,)."""
    labels: Tensor
    """The class of each image in the batch, (N,)."""

    def __call__(self, cos: Tensor) -> tuple[Tensor, Tensor]:
        """Return what becomes of each image's cosine (N,), and its slope."""
        bend = cosface_margin if self.form == "cosface" else arcface_margin
        return bend(cos, of_images(self.margin, self.labels))


@final
@dataclass(frozen=True, eq=False)
class DBMMargin(ByDifficulty):
    """DBM's margin on the targets of a batch: up to twice as large for an image that is wrong."""

    form: ClassVar[Literal["dbm"]] = "dbm"

    margin: Tensor
    """One for each class, in radians, (C,)."""
    labels: Tensor
    """The class of each image in the batch, (N,)."""

    def where(self, is_wrong: Tensor) -> MarginFunction:
        """Return the margin function of a batch whose images are wrong or right, (N,)."""
        margin = self.margin.index_select(0, self.labels)
        return lambda cos: dbm_margin(cos, margin, is_wrong.to(cos.dtype))


def largest(margin: int | float | Tensor) -> float:
    """Return the margin, of several the largest."""
    return float(margin.max()) if isinstance(margin, Tensor) else float(margin)
