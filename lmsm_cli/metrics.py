"""Scores: everything that is computed from labels and predictions, and the table of metrics.

Every score is scikit-learn's; what is decided here is only which classes a mean runs over.
`METRICS` drives every table, page, sorting and export. To add a metric, add a line there: where its
value follows from other scores, with a function and `derived=True`; where it needs the predictions,
with a field of `Scores` that `score` fills.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lmsm_cli.errors import DataError
from lmsm_cli.shot_groups import shot_groups

if TYPE_CHECKING:
    from numpy import floating, integer
    from numpy.typing import NDArray

# Guo et al. 2017 (arXiv 1706.04599): 15 bins of equal width
RELIABILITY_BINS = 15
TOP_K = (2, 3, 5)
# A matrix of more classes is nearly all zeros, and of 10,000 classes no memory holds it: there the
# cells with images are kept alone.
DENSE_CLASSES = 1000

# Out of range is what no run could have written, and sums of it could overflow.
Share = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
_Amount = Annotated[float, Field(strict=True, ge=0, le=1e15, allow_inf_nan=False)]
_Margin = Annotated[float, Field(strict=True, ge=1, le=1e9, allow_inf_nan=False)]


class _Part(BaseModel):
    """A part of scores.json. Keys that it does not know are ignored."""

    model_config = ConfigDict(frozen=True, defer_build=True)


class ClassScore(_Part):
    """The scores of one class; None where it has no test image."""

    name: str
    train_count: Count | None
    """None where nobody said, as of a run of another program."""
    test_count: Count
    accuracy: Share | None
    """Share of the class's own images that are right, that is recall."""
    precision: Share | None
    f1: Share | None


class ReliabilityBin(_Part):
    """The images whose confidence lies between two bounds: how sure, and how often right."""

    count: Count
    confidence: Share
    """Mean probability of the predicted class."""
    accuracy: Share


class SparseConfusion(_Part):
    """The cells of a confusion matrix that hold images, row by row: for more than DENSE_CLASSES."""

    num_classes: Count
    rows: tuple[Count, ...]
    """The true classes."""
    columns: tuple[Count, ...]
    """The predicted classes."""
    counts: tuple[Count, ...]

    @model_validator(mode="after")
    def _check_cells(self) -> "SparseConfusion":
        if not len(self.rows) == len(self.columns) == len(self.counts):
            raise ValueError("rows, columns and counts are not equally many")
        if max((*self.rows, *self.columns), default=-1) >= self.num_classes:
            raise ValueError("a cell lies beyond the classes")
        return self


class Training(_Part):
    """How long the training took, and how fast it was."""

    seconds: _Amount | None = None
    images_per_second: _Amount | None = None


class Scores(_Part):
    """All scores of one set of predictions, as fractions; macro means are over classes present.

    Those that follow from probabilities are empty where only predictions were given. What is known
    of the training belongs to a run's scores.json.
    """

    accuracy: Share
    balanced_accuracy: Share
    macro_f1: Share
    macro_precision: Share
    macro_recall: Share
    per_class: tuple[ClassScore, ...]
    confusion: tuple[tuple[Count, ...], ...] | SparseConfusion
    """Rows are true classes. `confusion_of` of reports/confusion.py reads both forms."""
    groups: dict[str, Share | None]
    top_k: dict[str, Share] = {}
    """k -> share of images; k below the number of classes only."""
    calibration_error: Share | None = None
    """Expected, over RELIABILITY_BINS bins."""
    reliability: tuple[ReliabilityBin, ...] = ()
    """The bins that hold images, by rising confidence."""
    effective_margin: _Margin | None = None
    """The margin in force when the training ended; None where the loss has none."""
    training: Training | None = None

    def parts(self) -> dict[str, Any]:
        """Return what is set by its name, to build a document that holds more."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    def to_json(self) -> dict[str, Any]:
        """Return what is set as plain lists and dicts, with the keys of scores.json."""
        document = self.model_dump(mode="json", by_alias=True, exclude_unset=True)
        derived = (metric for metric in METRICS.values() if metric.derived)
        return document | {metric.key: metric.get(self) for metric in derived}


@dataclass(frozen=True)
class Metric:
    """A number that runs are compared by, and how it is shown.

    A share, which has no `format`, is shown in percent; its best is marked, and its differences to
    a baseline have verdicts. Other numbers are listed, and sorted by.
    """

    key: str
    """In JSON and CSV, and for --sort."""
    title: str
    get: Callable[[Scores], float | None]
    higher_is_better: bool = True
    format: str | None = None
    derived: bool = False
    """Whether to_json adds it: `get` computes it from other scores, of older runs too."""
    heading: str = ""
    """Over a column of a terminal, where the title is too long."""
    is_main: bool = False
    """Whether it stands in the first of the tables of a narrow terminal."""
    is_cost: bool = False
    """Whether it is the cost of the training, which `eval` does not list."""
    highlight: str = ""
    """What the page calls it among the large numbers, if it stands there."""
    verdict_on: str = ""
    """What a verdict in words says that it is on, if it speaks of it."""
    difference_rank: int = 0
    """Where a terminal shows its difference, from 1; 0 where only other forms do."""

    @property
    def is_share(self) -> bool:
        """Whether it is a fraction, shown in percent."""
        return self.format is None

    @property
    def column(self) -> str:
        """What stands over its column in a terminal."""
        return self.heading or self.title

    def text(self, value: float) -> str:
        """Return a value as every table shows it."""
        return f"{100 * value:.1f}" if self.format is None else format(value, self.format)


def _worst_class_accuracy(scores: Scores) -> float | None:
    known = [one.accuracy for one in scores.per_class if one.accuracy is not None]
    return min(known, default=None)


def _minutes(scores: Scores) -> float | None:
    seconds = scores.training.seconds if scores.training else None
    return None if seconds is None else seconds / 60


def _images_per_second(scores: Scores) -> float | None:
    return scores.training.images_per_second if scores.training else None


_TABLE = (
    Metric(
        "accuracy",
        "accuracy",
        lambda s: s.accuracy,
        is_main=True,
        highlight="accuracy",
        difference_rank=3,
    ),
    Metric(
        "balanced_accuracy",
        "balanced accuracy",
        lambda s: s.balanced_accuracy,
        heading="balanced",
        is_main=True,
        highlight="balanced accuracy",
        verdict_on="overall",
        difference_rank=2,
    ),
    Metric("macro_f1", "macro F1", lambda s: s.macro_f1, is_main=True),
    Metric("many", "many", lambda s: s.groups.get("many"), is_main=True),
    Metric("medium", "medium", lambda s: s.groups.get("medium"), is_main=True),
    # the rare classes are what a long tail is about: their difference stands first
    Metric(
        "few",
        "few",
        lambda s: s.groups.get("few"),
        is_main=True,
        highlight="accuracy on the rarest classes",
        verdict_on="on rare classes",
        difference_rank=1,
    ),
    Metric(
        "worst_class_accuracy",
        "worst-class accuracy",
        _worst_class_accuracy,
        derived=True,
        heading="worst class",
    ),
    Metric(
        "calibration_error",
        "calibration error",
        lambda s: s.calibration_error,
        higher_is_better=False,
        highlight="calibration error",
    ),
    Metric(
        "effective_margin",
        "effective margin",
        lambda s: s.effective_margin,
        format=".2f",
        heading="margin",
    ),
    Metric("minutes", "minutes", _minutes, higher_is_better=False, format=",.2f", is_cost=True),
    Metric("images_per_second", "images/s", _images_per_second, format=",.0f", is_cost=True),
)
METRICS: Mapping[str, Metric] = {metric.key: metric for metric in _TABLE}
# Those whose differences to a baseline a terminal has room for, in that order.
MAIN_DIFFERENCES = sorted(
    (metric for metric in _TABLE if metric.difference_rank), key=lambda one: one.difference_rank
)


def score(
    classes: Sequence[str],
    labels: "NDArray[integer[Any]]",
    predictions: "NDArray[integer[Any]]",
    train_counts: Sequence[int | None],
    probabilities: "NDArray[floating[Any]] | None" = None,
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
        probabilities: (N, C), of which top-k accuracy and calibration follow.

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
        groups=_group_accuracies(per_class),
        **_of_probabilities(labels, predictions, probabilities),
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


def _of_probabilities(
    labels: "NDArray[integer[Any]]",
    predictions: "NDArray[integer[Any]]",
    probabilities: "NDArray[floating[Any]] | None",
) -> dict[str, Any]:
    if probabilities is None:
        return {"top_k": {}, "calibration_error": None, "reliability": ()}
    from numpy import arange
    from sklearn.metrics import top_k_accuracy_score

    numbers = range(probabilities.shape[1])
    bins = _reliability(labels == predictions, probabilities[arange(len(labels)), predictions])
    gaps = (one.count * abs(one.confidence - one.accuracy) for one in bins)
    top_k = {
        str(k): float(top_k_accuracy_score(labels, probabilities, k=k, labels=numbers))
        for k in TOP_K
        if k < len(numbers)
    }
    return {"top_k": top_k, "calibration_error": sum(gaps) / len(labels), "reliability": bins}


def _reliability(
    right: "NDArray[Any]", confidence: "NDArray[floating[Any]]"
) -> tuple[ReliabilityBin, ...]:
    """Return the bins that hold images; `right` and `confidence` are (N,)."""
    from numpy import bincount, linspace, searchsorted
    from sklearn.calibration import calibration_curve

    confidence = confidence.astype("float64").clip(0, 1)
    accuracies, means = calibration_curve(
        right, confidence, pos_label=True, n_bins=RELIABILITY_BINS
    )
    counts = bincount(searchsorted(linspace(0, 1, RELIABILITY_BINS + 1)[1:-1], confidence))
    columns = zip(counts[counts > 0].tolist(), means.tolist(), accuracies.tolist(), strict=True)
    return tuple(
        ReliabilityBin(count=count, confidence=min(1.0, mean), accuracy=rate)
        for count, mean, rate in columns
    )


def reliability_bounds(confidence: float) -> tuple[float, float]:
    """Return the bin, above the first and up to the second, that a mean confidence lies in."""
    number = min(max(1, math.ceil(confidence * RELIABILITY_BINS)), RELIABILITY_BINS)
    return (number - 1) / RELIABILITY_BINS, number / RELIABILITY_BINS


def balanced_accuracy(
    labels: "NDArray[integer[Any]]", predictions: "NDArray[integer[Any]]"
) -> float:
    """Return the mean recall over the classes that `labels` (N,) hold."""
    from numpy import unique
    from sklearn.metrics import recall_score

    return float(recall_score(labels, predictions, labels=unique(labels), average="macro"))


def _group_accuracies(per_class: Sequence[ClassScore]) -> dict[str, float | None]:
    members = shot_groups([one.train_count for one in per_class])
    return {
        name: mean_of(per_class[i].accuracy for i in numbers) for name, numbers in members.items()
    }


def mean_of(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
