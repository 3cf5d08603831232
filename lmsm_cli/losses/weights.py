"""Class weights: how they start, their directions and their norms."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.checks import whole
from lmsm_cli.losses.directions import directions_by_kernel

# How class weights start: as nn.Linear's, as LDAM-DRW's linear layer (He et al. 2015), or at length
# 1 in a random direction, as LDAM-DRW's normalised layer.
Init = Literal["default", "kaiming", "unit"]


def new_weight(num_classes: int, num_features: int) -> nn.Parameter:
    """Return class weights as nn.Linear starts them: uniform within 1 / sqrt(num_features).

    Rows of norm about 0.6 whatever the width. N(0, 1) rows, as some margin losses have them, start
    at losses of hundreds.
    """
    whole("num_features", num_features, 1)
    if whole("num_classes", num_classes, 1) < 2:
        raise ArgumentError("a classifier needs two classes at least, and there is one")
    return nn.Parameter(drawn(num_features, num_classes, num_features))


def drawn(num_features: int, *shape: int) -> Tensor:
    """Return what nn.Linear draws for so many features: uniform within 1 / sqrt(num_features)."""
    bound = 1 / math.sqrt(num_features)
    return torch.empty(*shape).uniform_(-bound, bound)


def draw_again(weight: nn.Parameter, init: Init) -> None:
    """Draw class weights (C, D) again. Raises ArgumentError for an unknown init."""
    if init not in get_args(Init):
        raise ArgumentError(f"init is {init!r}: give {', '.join(get_args(Init))}")
    num_classes, num_features = weight.shape
    with torch.no_grad():
        if init == "default":
            weight.copy_(new_weight(num_classes, num_features))
        elif init == "kaiming":
            nn.init.kaiming_normal_(weight)
        else:
            weight.copy_(unit(weight.uniform_(-1, 1)))


def isotonic(values: Tensor) -> Tensor:
    """Return the values (K,) brought into ascending order by least squares: isotonic regression.

    Its i-th value is the largest, over j <= i, of the smallest, over k >= i, of the means of
    values j to k. A gradient is the mean of those of its block, the values that became equal.
    Nothing is read from the device, as pooling neighbours one after another would.
    Barlow et al. 1972, "Statistical Inference under Order Restrictions", section 1.2.
    """
    result: Tensor = _Isotonic.apply(values)
    return result


class _Isotonic(torch.autograd.Function):
    """The min-max form of isotonic regression, whose Jacobian averages within each block."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        sums = functional.pad(values.double().cumsum(0), (1, 0))
        places = torch.arange(len(values), device=values.device)
        first, last = places[:, None], places
        means = (sums[1:] - sums[:-1, None]) / (last - first + 1)
        ahead = means.masked_fill(last < first, math.inf)
        smallest = ahead.flip(1).cummin(dim=1).values.flip(1)
        fitted = smallest.masked_fill(last < first, -math.inf).amax(dim=0)
        ctx.save_for_backward(fitted)
        return fitted.to(values.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (fitted,) = ctx.saved_tensors
        blocks = (fitted[:, None] == fitted).to(grad.dtype)
        means: Tensor = blocks @ grad / blocks.sum(dim=1)
        return means


class RisingNorms(nn.Module):
    """One learned norm for each class size, which never falls as classes get rarer.

    A small norm flattens the density that a class weight stands for, so that a class underfits: the
    norms start in SAMN's proportions exp(1 / softplus(u)), u = (n - n_min) / (n_max - n_min), which
    give the rarest class 1.98 times the norm of the commonest (arXiv 2606.02526). Classes of one
    size share a norm, those of balanced data one for all.

    Args:
        class_counts: the training images of each class, (C,).
    """

    rank: Tensor

    def __init__(self, class_counts: Tensor) -> None:
        super().__init__()
        sizes, place = torch.unique(class_counts, return_inverse=True)
        self.register_buffer("rank", len(sizes) - 1 - place, persistent=False)
        spread = sizes[-1] - sizes[0]
        share = (sizes - sizes[0]) / torch.where(spread > 0, spread, 1)
        self._proportions = (1 / functional.softplus(share)).exp().flip(0)
        self.norms = nn.Parameter(torch.ones(len(sizes)))

    def start_at(self, mean: Tensor) -> None:
        """Set the norms in SAMN's proportions, with this mean () over the classes."""
        with torch.no_grad():
            proportions = self._proportions.to(self.norms)
            self.norms.copy_(mean * proportions / proportions[self.rank].mean())

    def forward(self) -> Tensor:
        """Return the norms in force, (C, 1)."""
        return isotonic(self.norms).index_select(0, self.rank)[:, None]


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) at length 1; a zero vector stays zero and gets no gradient.

    A vector with NaN, infinity or a norm beyond the range of its type becomes NaN.
    """
    by_kernel = directions_by_kernel(vectors)
    if by_kernel is not None:
        return by_kernel
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # A norm of NaN, for which no comparison holds, must not count as zero.
    is_zero = norms <= 1e-12
    norms = norms.masked_fill(is_zero, 1.0)
    norms = norms.masked_fill(norms == math.inf, math.nan)
    directions: Tensor = vectors / norms
    return directions.masked_fill(is_zero, 0.0)
