"""Class weights for long-tailed data, for every loss: how much an image of each class counts."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from lmsm_cli.errors import ArgumentError, LmsmError, did_you_mean

Scheme = Literal["none", "inverse", "effective"]


def loss_weights(class_counts: Tensor, scheme: Scheme, *, beta: float = 0.9999) -> Tensor:
    """Return the weight of each class, (C,) float32, summing to C.

    Args:
        class_counts: the training images n of each class, (C,).
        scheme: `none` gives 1 to all, `inverse` weights proportional to 1 / n, and `effective` to
            (1 - beta) / (1 - beta^n), the inverse effective number of images.
        beta: of `effective`, in [0, 1); 0 is `none`, towards 1 it is `inverse`, and 0.9999 is
            LDAM-DRW's.

    Raises ArgumentError for a class without images, a beta outside [0, 1) and an unknown scheme.
    Cui et al. 2019, "Class-Balanced Loss Based on Effective Number of Samples".
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
        # Weight 0 would hide until after the training that the class cannot be learned.
        c = int(enough.int().argmin())
        raise ArgumentError(
            f"class {c} has {counts[c]:g} training images, and no weight makes up for that; "
            f"leave the class out, or take reweight none"
        )
    if scheme == "inverse":
        effective = counts
    else:
        # 1 - beta^n without cancellation for beta near 1; log 0 = -inf gives 1, as it should.
        effective = -torch.expm1(counts * counts.new_tensor(beta).log())
    weights = 1 / effective
    return (weights * (len(counts) / weights.sum())).float()


def by_index(numbers: Mapping[str, float], classes: Sequence[str], what: str) -> dict[int, float]:
    """Return numbers by class name as numbers by the place of the class.

    Raises LmsmError, which begins with `what`, for names that no class has, with the nearest.
    """
    places = {name: place for place, name in enumerate(classes)}
    if unknown := [name for name in numbers if name not in places]:
        hint = did_you_mean(unknown[0], classes)
        raise LmsmError(f"{what}: there is no class {unknown[0]!r}{hint}")
    return {places[name]: number for name, number in numbers.items()}


def weights_by_name(numbers: Mapping[str, float], classes: Sequence[str]) -> Tensor:
    """Return the weights of all classes, (C,) float32, 1 where none is given.

    Raises LmsmError for names that no class has.
    """
    weights = torch.ones(len(classes))
    for place, number in by_index(numbers, classes, "class_weights").items():
        weights[place] = number
    return weights
