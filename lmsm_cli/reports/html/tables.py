"""The tables of the report page as plain data: what stands in each cell and what it is sorted by.

Which metrics there are, what they are called and how they are written is in metrics.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmsm_cli.comparison.intervals import Difference, in_points
from lmsm_cli.comparison.records import ClassStatistic, Group, Statistic, best_text
from lmsm_cli.metrics import METRICS, ClassScore, Metric, Scores, mean_of
from lmsm_cli.reports.html.svg import MINUS, style_of
from lmsm_cli.reports.tables import NOTHING

CLASS_DETAILS = ("Test images", "Precision", "F1")
ACCURACY = METRICS["accuracy"]
_SIGNS = {"better": "✓", "worse": "✕"}


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: text, the number it is sorted by, and what stands below it."""

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
    train_counts: tuple[int, ...]  # those that are known
    cells: tuple[Cell, ...]
    details: tuple[Cell, ...] = ()  # CLASS_DETAILS, where there is but one group


def metrics_shown(groups: Sequence[Group]) -> list[Metric]:
    """Return the metrics that any of the groups has."""
    return [one for key, one in METRICS.items() if any(group.metrics[key] for group in groups)]


def capitalised(text: str) -> str:
    """Return the text with a capital letter first; the others stay as they are."""
    return text[0].upper() + text[1:]


def group_rows(numbered: Sequence[tuple[int, Group]], metrics: Sequence[Metric]) -> list[GroupRow]:
    """Return a row for each (number, group) of one test set; the best of each metric is marked."""
    best = [best_text([group.metrics[one.key] for _, group in numbered], one) for one in metrics]
    return [
        GroupRow(
            number,
            group.label,
            seeds_of(group),
            len(group.runs),
            group.is_baseline,
            tuple(_metric_cell(group, *pair) for pair in zip(metrics, best, strict=True)),
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


def highlights(rows: Sequence[GroupRow], metrics: Sequence[Metric]) -> list[Highlight]:
    """Return the scores that matter most on long-tailed data, each of the group that is best."""
    found, lead = [], "Best " if len(rows) > 1 else ""
    for column, metric in enumerate(metrics):
        known = [row for row in rows if row.cells[column].order is not None]
        if metric.highlight and known:
            choose = max if metric.higher_is_better else min
            row = choose(known, key=lambda row: row.cells[column].order or 0.0)
            title = capitalised(lead + metric.highlight)
            found.append(Highlight(title, row.cells[column], row))
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


def _metric_cell(group: Group, metric: Metric, best: str | None) -> Cell:
    value, difference = group.metrics[metric.key], group.differences.get(metric.key)
    if value is None:
        return Cell(NOTHING)
    is_best = metric.text(value.mean) == best
    return Cell(with_sd(value, metric), value.mean, *_difference_texts(difference), is_best)


def _difference_texts(difference: Difference | None) -> tuple[str, str, str]:
    """Return a difference to the baseline as (verdict, mean, interval), empty for None."""
    if difference is None:
        return "", "", ""
    change = in_points(difference.mean).replace("-", MINUS)
    sign, interval = _SIGNS.get(difference.verdict, "≈"), difference.interval.replace("-", MINUS)
    return difference.verdict, f"{sign} {change}", interval


def written(value: float, metric: Metric = ACCURACY) -> str:
    """Return a value of a metric as the page shows it."""
    return metric.text(value).replace("-", MINUS)


def with_sd(value: Statistic | None, metric: Metric = ACCURACY) -> str:
    """Return `64.9 ± 1.2`, the mean alone for one run."""
    if value is None:
        return NOTHING
    is_fixed = not metric.is_share and value.sd == 0  # as the margin of all runs of a group
    if value.sd is None or is_fixed:
        return written(value.mean, metric)
    return f"{written(value.mean, metric)} ± {written(value.sd, metric)}"


def class_rows(groups: Sequence[Group], scores: Sequence[Scores]) -> list[ClassRow]:
    """Return a row for each class of one test set, most training images first.

    `scores` are those of the runs, whose means add detail where there is one group.
    """
    rows = [_class_row(columns) for columns in zip(*(g.per_class for g in groups), strict=True)]
    if len(groups) == 1:
        classes = zip(*(one.per_class for one in scores), strict=True)
        rows = [
            replace(row, details=_details(same)) for row, same in zip(rows, classes, strict=True)
        ]
    return sorted(rows, key=lambda row: -max(row.train_counts, default=0))


def _details(runs: Sequence[ClassScore]) -> tuple[Cell, ...]:
    images = runs[0].test_count
    means = (mean_of(run.precision for run in runs), mean_of(run.f1 for run in runs))
    cells = (Cell(NOTHING) if one is None else Cell(written(one), one) for one in means)
    return (Cell(f"{images:,}", images), *cells)


def _class_row(columns: Sequence[ClassStatistic]) -> ClassRow:
    best = best_text([one.accuracy for one in columns], ACCURACY)
    counts = dict.fromkeys(one.train_count for one in columns if one.train_count is not None)
    cells = tuple(_class_cell(one, best) for one in columns)
    return ClassRow(columns[0].name, tuple(counts), cells)


def _class_cell(one: ClassStatistic, best: str | None) -> Cell:
    if one.accuracy is None:
        return Cell(NOTHING)
    mean, sd = one.accuracy.mean, one.accuracy.sd
    is_best = ACCURACY.text(mean) == best
    ends = {"mean": f"{100 * mean:.1f}", "sd": "" if sd is None else f"{100 * sd:.1f}"}
    return Cell(with_sd(one.accuracy), mean, is_best=is_best, **ends)
