"""The collapse watch: what an epoch looked like from inside, and what is wrong with it.

A margin that comes too early is answered by features or class weights that shrink to nothing
(benchmarks/LOG.md): accuracy falls to chance while the loss rests at ln C. Statistics stay tensors
on the device until the epoch ends, so that watching costs no synchronisation.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# ReLU and dropout make up to 3/4 of a healthy layer's features exactly 0; nearly all is a death.
_DEAD_SHARE = 0.95
# Distance of the loss from ln C, in nats, below which nothing has been learned.
_STUCK = 0.01
# A class weight below this share of the median norm no longer competes.
_SHRUNK_SHARE = 0.05
# Means are over the end of an epoch: its beginning is still the epoch before.
_LAST_SHARE = 0.5
# Share of the training after which a class must have been predicted: rare ones are found late.
_FAIR_START = 0.5


@dataclass(frozen=True)
class Vitals:
    """The watched statistics of an epoch, means over its second half."""

    zero_features: float
    """Share of feature values that are exactly 0."""
    feature_norm: float
    weight_norm_min: float
    weight_norm_median: float
    objective: float
    """Mean of the optimised loss, margin and class weights included."""
    never_predicted: tuple[int, ...]
    """Classes that no training image of the whole epoch was taken for, margin-free."""


class Watch:
    """Collects the vitals of one epoch of `num_steps` steps."""

    def __init__(self, num_classes: int, num_steps: int, device: torch.device) -> None:
        self._first = int(num_steps * (1 - _LAST_SHARE))
        self._steps = 0
        self._sums = torch.zeros(3, device=device)
        self._predicted = torch.zeros(num_classes, dtype=torch.bool, device=device)

    @torch.no_grad()
    def see(self, step: int, features: Tensor, objective: Tensor, predicted: Tensor) -> None:
        """Take one step's features (N, D), objective () and predicted classes (N,)."""
        self._predicted[predicted] = True
        if step < self._first:
            return
        self._steps += 1
        zeros = (features == 0).float().mean()
        norm = features.float().norm(dim=1).mean()
        self._sums += torch.stack([zeros, norm, objective.float()])

    def vitals(self, weight: Tensor) -> Vitals:
        """Return the epoch's vitals, given the class weights (C, D) at its end."""
        zeros, norm, objective = (self._sums / max(1, self._steps)).tolist()
        norms = weight.detach().float().norm(dim=1)
        missing = (~self._predicted).nonzero()[:, 0].tolist()
        return Vitals(
            zeros, norm, norms.min().item(), norms.median().item(), objective, tuple(missing)
        )


def collapse_signs(vitals: Vitals, classes: tuple[str, ...], *, progress: float) -> dict[str, str]:
    """Return what looks collapsed, sign -> words; empty for a healthy epoch.

    `progress` is the share of the training that is done.
    """
    signs = {}
    if vitals.zero_features > _DEAD_SHARE:
        signs["dead features"] = f"{vitals.zero_features:.1%} of the features are exactly 0 and pass no gradient"  # fmt: skip
    floor = math.log(len(classes))
    if abs(vitals.objective - floor) < _STUCK:
        signs["stuck loss"] = f"the loss rests at ln {len(classes)} = {floor:.3f}: every class gets the same score"  # fmt: skip
    if vitals.weight_norm_min < _SHRUNK_SHARE * vitals.weight_norm_median:
        signs["shrunken class weight"] = f"a class weight has norm {vitals.weight_norm_min:.2g}, the median is {vitals.weight_norm_median:.2g}"  # fmt: skip
    if progress >= _FAIR_START and vitals.never_predicted:
        names = ", ".join(classes[c] for c in vitals.never_predicted[:5])
        signs["missing classes"] = f"{len(vitals.never_predicted)} of {len(classes)} classes are never predicted: {names}"  # fmt: skip
    return signs


def as_row(vitals: Vitals) -> dict[str, Any]:
    """Return the vitals that go into metrics.jsonl."""
    return {
        "objective": vitals.objective,
        "zero_features": vitals.zero_features,
        "feature_norm": vitals.feature_norm,
        "weight_norm_min": vitals.weight_norm_min,
        "weight_norm_median": vitals.weight_norm_median,
    }
