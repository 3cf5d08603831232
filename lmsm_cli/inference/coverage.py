"""Answers only where the classifier is sure: how sure that must be, and what is then right.

A confidence is the probability of the likeliest class. Images are told apart by its log odds, since
the probability itself rounds to 1 for most images of a net with large logits.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.scoring import balanced_accuracy


def sureness_for(sureness: NDArray[np.floating[Any]], share: float) -> float:
    """Return the largest sureness that at least a share, above 0, of these images reaches.

    `sureness` is (N,), of images that are not judged by it, if there are such.
    """
    ordered = np.sort(sureness)[::-1]
    # a tenth of ten images is one, also where rounding makes it 1.0000000000000002
    return float(ordered[max(1, math.ceil(share * len(ordered) - 1e-9)) - 1])


def answered_above(
    least: float,
    predictions: NDArray[np.int64],
    sureness: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
) -> dict[str, float | None]:
    """Return the share of the images that are sure enough, and what is right of them.

    Args:
        least: The least sureness at which there is an answer.
        predictions: (N,).
        sureness: (N,).
        labels: (N,).

    Returns:
        `answered`, and `accuracy` and `balanced_accuracy` of those, None where there are none.
    """
    sure = sureness >= least
    found: dict[str, float | None] = {"answered": float(sure.mean())}
    if not sure.any():
        return found | {"accuracy": None, "balanced_accuracy": None}
    right = predictions[sure] == labels[sure]
    balanced = balanced_accuracy(labels[sure], predictions[sure])
    return found | {"accuracy": float(right.mean()), "balanced_accuracy": balanced}
