"""Scores: what scores.json holds of predictions, and the table of metrics that are shown of it.

`METRICS` drives every table, page, sorting and export. To add a metric, add a line there: where its
value follows from other scores, with a function and `derived=True`; where it needs the predictions,
with a field of `Scores` that `score` of scoring.py fills.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

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
    """Expected, over the bins of `reliability`."""
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
    place: str = ""
    """Which classes it is a mean over, in a sentence, if it is one of right answers."""
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
        place="over all classes",
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
        place="over all classes",
        difference_rank=2,
    ),
    Metric("macro_f1", "macro F1", lambda s: s.macro_f1, is_main=True),
    Metric(
        "many",
        "many",
        lambda s: s.groups.get("many"),
        is_main=True,
        place="on the common classes",
    ),
    Metric(
        "medium",
        "medium",
        lambda s: s.groups.get("medium"),
        is_main=True,
        place="on the medium classes",
    ),
    # the rare classes are what a long tail is about: their difference stands first
    Metric(
        "few",
        "few",
        lambda s: s.groups.get("few"),
        is_main=True,
        highlight="accuracy on the rarest classes",
        verdict_on="on rare classes",
        place="on the rare classes",
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
