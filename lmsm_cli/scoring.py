"""The scores of predictions, computed from labels, predictions and logits.

Every score is scikit-learn's; what is decided here is only which classes a mean runs over.
"""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lmsm_cli.errors import DataError
from lmsm_cli.metrics import DENSE_CLASSES, ClassScore, ReliabilityBin, Scores, SparseConfusion
from lmsm_cli.shot_groups import shot_groups

if TYPE_CHECKING:
    from numpy import float64, floating, integer
    from numpy.typing import NDArray

# Guo et al. 2017 (arXiv 1706.04599): 15 bins of equal width
_RELIABILITY_BINS = 15
_TOP_K = (2, 3, 5)
# Logits in float64 at once, 32 MB: all of ImageNet's are 400.
_BLOCK = 1 << 22


def score(
    classes: Sequence[str],
    labels: "NDArray[integer[Any]]",
    predictions: "NDArray[integer[Any]]",
    train_counts: Sequence[int | None],
    logits: "NDArray[floating[Any]] | None" = None,
) -> Scores:
    """Return the scores of predictions.

    A class without a test image has no scores and no part in any mean; a class that is never
    predicted has precision 0.

    Args:
        classes: The names of the classes.
        labels: The true class numbers (N,).
        predictions: The predicted class numbers (N,).
        train_counts: The training images of each class (C,); where any is None, not known, there
            are no groups.
        logits: (N, C), finite, of which top-k accuracy and calibration follow. Classes whose
            probability rounds to 0 are still told apart by them.

    Raises:
        DataError: There is no image, or a label beyond the classes.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    if len(labels) == 0:
        raise DataError("there are no images to score")
    if min(labels) < 0 or max(labels) >= len(classes):
        raise DataError(
            f"labels run from {min(labels)} to {max(labels)} for {len(classes)} classes"
        )
    numbers = range(len(classes))
    columns = precision_recall_fscore_support(
        labels, predictions, labels=numbers, average=None, zero_division=0
    )
    precision, recall, f1 = (column.tolist() for column in columns[:3])
    support = [int(n) for n in columns[3]]  # floats where no prediction at all is right
    present = [number for number in numbers if support[number]]
    macro_precision, macro_recall, macro_f1, _ = precision_recall_fscore_support(
        labels, predictions, labels=present, average="macro", zero_division=0
    )
    per_class = tuple(
        ClassScore(
            name=name,
            train_count=None if (trained := train_counts[i]) is None else int(trained),
            test_count=support[i],
            accuracy=recall[i] if support[i] else None,
            precision=precision[i] if support[i] else None,
            f1=f1[i] if support[i] else None,
        )
        for i, name in enumerate(classes)
    )
    return Scores(
        accuracy=float(accuracy_score(labels, predictions)),
        balanced_accuracy=float(macro_recall),
        macro_f1=float(macro_f1),
        macro_precision=float(macro_precision),
        macro_recall=float(macro_recall),
        per_class=per_class,
        confusion=_confusion(labels, predictions, len(classes)),
        groups=group_accuracies(per_class),
        **_of_logits(labels, predictions, logits),
    )


def _confusion(
    labels: "NDArray[integer[Any]]", predictions: "NDArray[integer[Any]]", num_classes: int
) -> tuple[tuple[int, ...], ...] | SparseConfusion:
    # counted here: scikit-learn's is dense, and warns where all images are of one class
    from numpy import int64, unique, zeros

    places, counts = unique(labels.astype(int64) * num_classes + predictions, return_counts=True)
    rows, columns = (part.tolist() for part in divmod(places, num_classes))
    if num_classes > DENSE_CLASSES:
        return SparseConfusion(
            num_classes=num_classes,
            rows=tuple(rows),
            columns=tuple(columns),
            counts=tuple(counts.tolist()),
        )
    matrix = zeros((num_classes, num_classes), dtype=int64)
    matrix[rows, columns] = counts
    return tuple(map(tuple, matrix.tolist()))


def _of_logits(
    labels: "NDArray[integer[Any]]",
    predictions: "NDArray[integer[Any]]",
    logits: "NDArray[floating[Any]] | None",
) -> dict[str, Any]:
    if logits is None:
        return {"top_k": {}, "calibration_error": None, "reliability": ()}
    from numpy import errstate
    from sklearn.metrics import top_k_accuracy_score

    numbers = range(logits.shape[1])
    bins = _reliability(labels == predictions, probabilities(logits, predictions))
    gaps = (one.count * abs(one.confidence - one.accuracy) for one in bins)
    with errstate(over="ignore", invalid="ignore"):  # it adds them all up, to see if one is NaN
        top_k = {
            str(k): float(top_k_accuracy_score(labels, logits, k=k, labels=numbers))
            for k in _TOP_K
            if k < len(numbers)
        }
    return {"top_k": top_k, "calibration_error": sum(gaps) / len(labels), "reliability": bins}


def log_odds(
    logits: "NDArray[floating[Any]]", classes: "NDArray[integer[Any]]"
) -> "NDArray[float64]":
    """Return ln(p / (1 - p)) of the probability p (N,) that logits (N, C) give a class each.

    They tell apart what p cannot: in float64 it is 1 where the logit is 37 above the others, and 0
    where it is 746 below.
    """
    from numpy import arange, empty, errstate, inf
    from scipy.special import logsumexp

    found = empty(len(logits))
    step = max(1, _BLOCK // logits.shape[1])
    for part in (slice(start, start + step) for start in range(0, len(logits), step)):
        others = logits[part].astype("float64")
        own = (arange(len(others)), classes[part])
        logit = others[own][:, None]
        others[own] = -inf
        with errstate(over="ignore"):  # what is further off than float64 reaches is infinitely far
            found[part] = -logsumexp(others - logit, axis=1)
    return found


def probabilities(
    logits: "NDArray[floating[Any]]", classes: "NDArray[integer[Any]]"
) -> "NDArray[float64]":
    """Return the probability (N,) that logits (N, C) give a class each."""
    from scipy.special import expit

    found: NDArray[float64] = expit(log_odds(logits, classes))
    return found


def _reliability(
    right: "NDArray[Any]", confidence: "NDArray[float64]"
) -> tuple[ReliabilityBin, ...]:
    """Return the bins that hold images; `right` and `confidence` are (N,)."""
    from numpy import bincount, linspace, searchsorted
    from sklearn.calibration import calibration_curve

    # in float32, whose sums in float64 are the same in whatever order the images come
    confidence = confidence.astype("float32").astype("float64")
    accuracies, means = calibration_curve(
        right, confidence, pos_label=True, n_bins=_RELIABILITY_BINS
    )
    counts = bincount(searchsorted(linspace(0, 1, _RELIABILITY_BINS + 1)[1:-1], confidence))
    columns = zip(counts[counts > 0].tolist(), means.tolist(), accuracies.tolist(), strict=True)
    return tuple(
        ReliabilityBin(count=count, confidence=min(1.0, mean), accuracy=rate)
        for count, mean, rate in columns
    )


def reliability_bounds(confidence: float) -> tuple[float, float]:
    """Return the bin, above the first and up to the second, that a mean confidence lies in."""
    number = min(max(1, math.ceil(confidence * _RELIABILITY_BINS)), _RELIABILITY_BINS)
    return (number - 1) / _RELIABILITY_BINS, number / _RELIABILITY_BINS


def balanced_accuracy(
    labels: "NDArray[integer[Any]]", predictions: "NDArray[integer[Any]]"
) -> float:
    """Return the mean recall over the classes that `labels` (N,) hold."""
    from numpy import unique
    from sklearn.metrics import recall_score

    return float(recall_score(labels, predictions, labels=unique(labels), average="macro"))


def group_accuracies(per_class: Sequence[ClassScore]) -> dict[str, float | None]:
    """Return the mean accuracy of the classes that are many, medium and few; {} without groups."""
    members = shot_groups([one.train_count for one in per_class])
    return {
        name: mean_of(per_class[i].accuracy for i in numbers) for name, numbers in members.items()
    }


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
