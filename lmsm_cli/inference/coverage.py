"""Answers only where the classifier is sure: the confidence that it takes, and what is then right.

A confidence is the probability of the likeliest class.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.scoring import balanced_accuracy


def confidence_for(probabilities: NDArray[np.floating[Any]], share: float) -> float:
    """Return the largest confidence that at least a share, above 0, of these images reaches.

    `probabilities` are (N, C), of images that are not judged by it, if there are such.
    """
    ordered = np.sort(probabilities.max(axis=1))[::-1]
    # a tenth of ten images is one, also where rounding makes it 1.0000000000000002
    return float(ordered[max(1, math.ceil(share * len(ordered) - 1e-9)) - 1])


def answered_above(
    confidence: float,
    predictions: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
) -> dict[str, float | None]:
    """Return the share of the images that reach a confidence, and what is right of them.

    Args:
        confidence: The least probability of the likeliest class.
        predictions: (N,).
        probabilities: (N, C).
        labels: (N,).

    Returns:
        `answered`, and `accuracy` and `balanced_accuracy` of those, None where there are none.
    """
    sure = probabilities.max(axis=1) >= confidence
    found: dict[str, float | None] = {"answered": float(sure.mean())}
    if not sure.any():
        return found | {"accuracy": None, "balanced_accuracy": None}
    right = predictions[sure] == labels[sure]
    balanced = balanced_accuracy(labels[sure], predictions[sure])
    return found | {"accuracy": float(right.mean()), "balanced_accuracy": balanced}
