"""The tables of the report page as plain data: what stands in each cell and what it is sorted by.

Shares are shown in percent with one decimal. To show a further metric of a comparison, give it a
title here; without one its key is shown.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from lmsm_cli.comparison.intervals import HIGHER_IS_BETTER, Difference, in_points
from lmsm_cli.comparison.records import ClassStatistic, Group, Statistic
from lmsm_cli.comparison.samples import PLAIN_FORMATS
from lmsm_cli.reports.html.svg import MINUS, style_of
from lmsm_cli.reports.tables import NOTHING

CLASS_DETAILS = ("Test images", "Precision", "F1")
TITLES = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "macro_f1": "Macro F1",
    "many": "Many",
    "medium": "Medium",
    "few": "Few",
    "calibration_error": "Calibration error",
    "effective_margin": "Effective margin",
    "minutes": "Minutes",
    "images_per_second": "Images/s",
}
_HIGHLIGHTS = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "few": "accuracy on the rarest classes",
    "calibration_error": "calibration error",
}
_SIGNS = {"better": "✓", "worse": "✕"}


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: text, the number it is sorted by, and what is said below it."""

    text: str
    order: float | None = None
    verdict: str = ""
    change: str = ""
    interval: str = ""
    is_best: bool = False
    mean: str = ""  # in percent, for the bar behind the text
    sd: str = ""


@dataclass(frozen=True)
class GroupRow:
    """A group of runs in the main table."""

    number: int
    label: str
    seeds: str
    num_runs: int
    is_baseline: bool
    cells: tuple[Cell, ...] = ()
    verdict: str = ""  # in words, and what it rests on

    @property
    def style(self) -> str:
        """The classes of page.css."""
        return style_of(self.number)


@dataclass(frozen=True)
class Highlight:
    """A score that is shown large: the only one, or the best one of all groups."""

    title: str
    cell: Cell
    row: GroupRow


@dataclass(frozen=True)
class ClassRow:
    """A class in the table of accuracies."""

    name: str
    train_counts: tuple[int, ...]
    cells: tuple[Cell, ...]
    details: tuple[Cell, ...] = ()  # CLASS_DETAILS, where there is but one group


def metrics_shown(groups: Sequence[Group]) -> list[str]:
    """Return the metrics that any of the groups has, in the order of the comparison."""
    keys = dict.fromkeys(key for group in groups for key in group.metrics)
    return [key for key in keys if any(group.metrics.get(key) for group in groups)]


def title_of(metric: str) -> str:
    """Return what a metric is called on the page."""
    return TITLES.get(metric, metric.replace("_", " ").capitalize())


def is_share(metric: str) -> bool:
    """Return whether a metric is a fraction that is shown in percent."""
    return metric not in PLAIN_FORMATS


def group_rows(numbered: Sequence[tuple[int, Group]], metrics: Sequence[str]) -> list[GroupRow]:
    """Return a row for each (number, group) of one test set; the best of each metric is marked."""
    best = {key: _best([group.metrics.get(key) for _, group in numbered], key) for key in metrics}
    return [
        GroupRow(
            number,
            group.label,
            seeds_of(group),
            len(group.runs),
            group.is_baseline,
            tuple(_metric_cell(group, key, best[key]) for key in metrics),
            _verdict(group),
        )
        for number, group in numbered
    ]


def _verdict(group: Group) -> str:
    """Return the verdict on a group with the number of seeds that it rests on."""
    known = [one for one in group.differences.values() if one]
    if not known:
        return ""
    n, paired = known[0].n, known[0].paired
    return f"{group.verdict} ({n} {'paired' if paired else 'unpaired'} seed{'s' if n > 1 else ''})"


def highlights(rows: Sequence[GroupRow], metrics: Sequence[str]) -> list[Highlight]:
    """Return the scores that matter most on long-tailed data, each of the group that is best."""
    found, lead = [], "Best " if len(rows) > 1 else ""
    for column, key in enumerate(metrics):
        known = [row for row in rows if row.cells[column].order is not None]
        if key in _HIGHLIGHTS and known:
            choose = max if HIGHER_IS_BETTER[key] else min
            row = choose(known, key=lambda row: row.cells[column].order or 0.0)
            title = lead + _HIGHLIGHTS[key]
            found.append(Highlight(title[0].upper() + title[1:], row.cells[column], row))
    return found


def seeds_of(group: Group) -> str:
    """Return the seeds of a group in words, `0 to 4` where they are a row."""
    known = [seed for seed in group.seeds if isinstance(seed, int)]
    if not known:
        return "no seed"
    first, last = min(known), max(known)
    if len(known) > 2 and sorted(known) == list(range(first, last + 1)):
        return f"seeds {first} to {last}"
    return ("seed " if len(known) == 1 else "seeds ") + ", ".join(map(str, sorted(known)))


def _metric_cell(group: Group, key: str, best: str | None) -> Cell:
    value, difference = group.metrics.get(key), group.differences.get(key)
    if value is None:
        return Cell(NOTHING)
    verdict, change, interval = difference_texts(difference, key)
    is_best = best is not None and written(value.mean, key) == best
    return Cell(with_sd(value, key), value.mean, verdict, change, interval, is_best)


def _best(values: Sequence[Statistic | None], key: str) -> str | None:
    """Return how the best mean is written; None where all are written alike, or none is better."""
    means = {written(value.mean, key): value.mean for value in values if value}
    if len(means) < 2 or key not in HIGHER_IS_BETTER:
        return None
    choose = max if HIGHER_IS_BETTER[key] else min
    return choose(means, key=lambda text: means[text])


def difference_texts(difference: Difference | None, key: str) -> tuple[str, str, str]:
    """Return a difference to the baseline as (verdict, mean, interval); empty where there is none."""
    if difference is None:
        return "", "", ""
    low, high = difference.low, difference.high
    interval = "" if low is None or high is None else f"[{_signed(low, key)}, {_signed(high, key)}]"
    verdict = difference.verdict
    return verdict, f"{_SIGNS.get(verdict, '≈')} {_signed(difference.mean, key)}", interval


def _signed(value: float, key: str) -> str:
    if key not in PLAIN_FORMATS:
        return in_points(value).replace("-", MINUS)
    text = written(value, key)
    return text if text.startswith(MINUS) else f"+{text}"


def written(value: float, key: str = "") -> str:
    """Return a value of a metric as it is shown: percent for shares."""
    text = f"{value:{PLAIN_FORMATS[key]}}" if key in PLAIN_FORMATS else f"{100 * value:.1f}"
    return text.replace("-", MINUS)


def with_sd(value: Statistic | None, key: str = "") -> str:
    """Return `64.9 ± 1.2`, the mean alone for one run."""
    if value is None:
        return NOTHING
    if value.sd is None or key == "effective_margin":  # which no run of a group differs in
        return written(value.mean, key)
    return f"{written(value.mean, key)} ± {written(value.sd, key)}"


def class_rows(groups: Sequence[Group], scores: Sequence[Mapping[str, Any]]) -> list[ClassRow]:
    """Return a row for each class of one test set, most training images first.

    `scores` are the scores.json of the runs, whose means add detail where there is one group.
    """
    rows = [_class_row(columns) for columns in zip(*(g.per_class for g in groups), strict=True)]
    if len(groups) == 1:
        classes = zip(*(one["per_class"] for one in scores), strict=True)
        rows = [
            replace(row, details=_details(same)) for row, same in zip(rows, classes, strict=True)
        ]
    return sorted(rows, key=lambda row: -max(row.train_counts))


def _details(runs: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
    images = runs[0]["test_count"]
    means = (_mean(run[key] for run in runs) for key in ("precision", "f1"))
    cells = (Cell(NOTHING) if one is None else Cell(written(one), one) for one in means)
    return (Cell(f"{images:,}", images), *cells)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _class_row(columns: Sequence[ClassStatistic]) -> ClassRow:
    best = _best([one.accuracy for one in columns], "accuracy")
    counts = dict.fromkeys(one.train_count for one in columns)
    return ClassRow(
        columns[0].name, tuple(counts), tuple(_class_cell(one, best) for one in columns)
    )


def _class_cell(one: ClassStatistic, best: str | None) -> Cell:
    if one.accuracy is None:
        return Cell(NOTHING)
    mean, sd = one.accuracy.mean, one.accuracy.sd
    is_best = written(mean) == best
    ends = {"mean": f"{100 * mean:.1f}", "sd": "" if sd is None else f"{100 * sd:.1f}"}
    return Cell(with_sd(one.accuracy), mean, is_best=is_best, **ends)
