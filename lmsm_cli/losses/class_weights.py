"""Class weights for long-tailed data, for every loss: how much an image of each class counts."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lmsm_cli.errors import ArgumentError, did_you_mean

Scheme = Literal["none", "inverse", "effective"]


def loss_weights(class_counts: Tensor, scheme: Scheme, *, beta: float = 0.9999) -> Tensor:
    """Return the weight of each class, (C,) float32, summing to C, for `class_counts` (C,).

    `none`: all 1. `inverse`: proportional to 1 / n. `effective`: to (1 - beta) / (1 - beta^n), the
    inverse effective number of images; beta 0 is `none`, beta towards 1 `inverse`. Cui et al. 2019,
    "Class-Balanced Loss Based on Effective Number of Samples"; beta 0.9999 is LDAM-DRW's.
    Raises ArgumentError for a class without images, a beta outside [0, 1) and an unknown scheme.
    """
    if scheme not in get_args(Scheme):
        raise ArgumentError(
            f"no scheme of weights {scheme!r}{did_you_mean(scheme, get_args(Scheme))}"
        )
    if not 0 <= beta < 1:
        raise ArgumentError(f"beta is {beta}: give a number of at least 0 and below 1")
    if scheme == "none":
        return torch.ones_like(class_counts, dtype=torch.float32)
    counts = class_counts.double()
    enough = (counts >= 1) & counts.isfinite()
    if not enough.all():
        # Not weight 0: a class that can never be learned should be known before the training.
        c = int(enough.int().argmin())
        raise ArgumentError(
            f"class {c} has {counts[c]:g} training images, and no weight makes up for that; leave the class out, or take reweight none"
        )
    if scheme == "inverse":
        effective = counts
    else:
        # 1 - beta^n without cancellation, however near beta is to 1; log 0 = -inf is right too.
        effective = -torch.expm1(counts * counts.new_tensor(beta).log())
    weights = 1 / effective
    return (weights * (len(counts) / weights.sum())).float()


def weighted_mean(losses: Tensor, labels: Tensor, class_weights: Tensor) -> Tensor:
    """Return sum(w_y loss) / sum(w_y) of losses (N,) for labels (N,) and class weights (C,).

    The mean of `torch.nn.functional.cross_entropy(weight=...)`, and LDAM-DRW's: dividing by the batch's
    own weights keeps the size of the loss, and so the meaning of the learning rate. Cui et al.'s code
    divides by the number of images: its gradient is 5 to 6 times smaller on a long tail's batch, which
    has mostly images of small weight.
    """
    weights = class_weights[labels]
    return (weights * losses).sum() / weights.sum()
