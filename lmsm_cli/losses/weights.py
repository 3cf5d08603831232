"""Class weights: how they start, and their directions."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.checks import whole

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


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) at length 1; a zero vector stays zero and gets no gradient.

    A vector with NaN, infinity or a norm beyond the range of its type becomes NaN.
    """
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # A norm of NaN, for which no comparison holds, must not count as zero.
    is_zero = norms <= 1e-12
    norms = norms.masked_fill(is_zero, 1.0)
    norms = norms.masked_fill(norms == math.inf, math.nan)
    directions: Tensor = vectors / norms
    return directions.masked_fill(is_zero, 0.0)
