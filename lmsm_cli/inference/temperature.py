"""Temperature scaling: logits divided by one number, so that probabilities are what they claim.

Guo et al. 2017, arXiv 1706.04599. It changes no class decision.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.errors import DivergedError, LmsmError

# Beyond these no probability changes any more that a float32 could tell.
_LEAST, _MOST = 1e-3, 1e3
_AT_THE_END = 1.01


@dataclass(frozen=True)
class Fit:
    """A fitted temperature and the cross-entropy of the images that it was fitted on."""

    temperature: float
    cross_entropy: float
    cross_entropy_at_1: float


def fit_temperature(logits: Tensor, labels: Tensor, class_weights: Tensor | None = None) -> Fit:
    """Return the temperature T with the least cross-entropy of logits / T.

    Args:
        logits: (N, C), of validation images.
        labels: (N,).
        class_weights: (C,), how much an image of each class counts; None for all alike.

    Raises:
        LmsmError: The more extreme the better, as where every image is right.
        DivergedError: The logits are infinite or not a number.
    """
    from scipy.optimize import minimize_scalar

    logits, labels = logits.double().cpu(), labels.cpu()
    if not logits.isfinite().all():
        raise DivergedError("the classifier's logits are infinite or not a number")
    if torch.equal(logits.argmax(dim=1), labels):
        raise _without_fit(len(labels), "every one of them is right, and surer is always better")
    weights = None if class_weights is None else class_weights.double()

    def entropy(log_temperature: float) -> float:
        tempered = logits / math.exp(log_temperature)
        return functional.cross_entropy(tempered, labels, weights).item()

    # the cross-entropy is convex in 1/T, so that it has one least value over T
    bounds = math.log(_LEAST), math.log(_MOST)
    found = minimize_scalar(entropy, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    temperature = math.exp(found.x)
    if temperature > _MOST / _AT_THE_END:
        raise _without_fit(len(labels), "the logits tell nothing of their classes")
    return Fit(temperature, float(found.fun), entropy(0.0))


def _without_fit(number: int, why: str) -> LmsmError:
    return LmsmError(
        f"no temperature fits the {number:,} validation images: {why}; give a number instead of "
        "auto, or train with a larger --validation"
    )
