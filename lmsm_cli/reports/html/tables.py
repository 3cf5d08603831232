"""The tables of the report page as plain data: what stands in each cell and what it is sorted by.

Which metrics there are, what they are called and how they are written is in metrics.py.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from lmsm_cli.comparison.conclusion import common_remarks, nothing_learned
from lmsm_cli.comparison.intervals import Difference, in_points, points
from lmsm_cli.comparison.records import ClassStatistic, Group, Statistic
from lmsm_cli.errors import few
from lmsm_cli.metrics import MAIN_DIFFERENCES, METRICS, ClassScore, Metric, Scores
from lmsm_cli.reports.comparison_tables import known_counts
from lmsm_cli.reports.html.svg import MINUS, style_of
from lmsm_cli.reports.tables import NOTHING
from lmsm_cli.reports.verdicts import in_words, need_text, reason_text, verdict_text
from lmsm_cli.scoring import mean_of
from lmsm_cli.shot_groups import shot_groups

# Of more classes in one of many, medium and few the rest are counted.
_MOST_NAMES = 8
CLASS_DETAILS = ("Test images", "Precision", "F1")
ACCURACY = METRICS["accuracy"]
_SIGNS = {"better": "✓", "worse": "✕"}


@dataclass(frozen=True)
class Cell:
    """What stands in a cell: text, the number it is sorted by, and what stands below it."""

    text: str
    order: float | None = None
    verdict: str = ""
    """The class of page.css: better, worse or open."""
    change: str = ""
    """The difference to the baseline in points, with its verdict in words."""
    interval: str = ""
    reason: str = ""
    """Why there is no verdict, where the whole row has not the same reason."""
    is_best: bool = False
    """Whether it is clearly better than every other group's."""
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
    verdict: str = ""
    """In words, with the reasons and what weakens it."""
    notes: tuple[str, ...] = ()
    """What the verdict rests on, and what it leaves out."""

    @property
    def style(self) -> str:
        """The classes of page.css."""
        return style_of(self.number)


@dataclass(frozen=True)
class ClassRow:
    """A class in the table of accuracies."""

    name: str
    train_counts: tuple[int, ...]  # those that are known
    cells: tuple[Cell, ...]
    details: tuple[Cell, ...] = ()  # CLASS_DETAILS, where there is but one group
    shots: str = ""
    """Whether it is one of many, medium or few; empty where the groups disagree on that."""


@dataclass(frozen=True)
class NeedRow:
    """What more seeds would tell of a group's differences, by metric."""

    row: GroupRow
    cells: tuple[tuple[str, str], ...]
    """The seeds that a difference of the asked size needs, and the floor of these test images."""


def metrics_shown(groups: Sequence[Group]) -> list[Metric]:
    """Return the metrics that any group has, first those of the verdicts, rare classes foremost.

    So the question is answered in the first column, which a phone shows too.
    """
    rest = [one for one in METRICS.values() if not one.difference_rank]
    return [
        one for one in (*MAIN_DIFFERENCES, *rest) if any(group.metrics[one.key] for group in groups)
    ]


def capitalised(text: str) -> str:
    """Return the text with a capital letter first; the others stay as they are."""
    return text[:1].upper() + text[1:]


def group_rows(numbered: Sequence[tuple[int, Group]], metrics: Sequence[Metric]) -> list[GroupRow]:
    """Return a row for each (number, group) of one test set.

    What hints of all groups that they were trained too briefly is said with the answer.
    """
    groups = [group for _, group in numbered]
    common = common_remarks(groups) if len(groups) > 1 else ()
    return [
        GroupRow(
            number,
            group.label,
            seeds_text(group.seeds),
            len(group.runs),
            group.is_baseline,
            _metric_cells(group, metrics),
            verdict_text(group, common) if group.verdict else "",
            _verdict_notes(group, common, learned=not nothing_learned(groups)),
        )
        for number, group in numbered
    ]


def _verdict_notes(group: Group, common: Sequence[str], *, learned: bool) -> tuple[str, ...]:
    """Return the seeds that a verdict rests on, and what is told beside what it is on.

    How sure a net is of itself is not told where none has learned the classes of the answer.
    """
    known = [one for one in group.differences.values() if one]
    if not known:
        return tuple(one for one in group.remarks if one not in common)
    n, paired = known[0].n, known[0].paired
    some = f"{n} of {len(group.seeds)}" if n < len(group.seeds) else f"{n}"
    plural = "" if some == "1" else "s"
    elsewhere = _told_elsewhere(group, learned=learned)
    return (f"{some} {'paired' if paired else 'unpaired'} seed{plural}", *elsewhere)


def _told_elsewhere(group: Group, *, learned: bool) -> list[str]:
    """Return what is better or worse where the verdict in words does not say that of anything."""
    told: dict[str, list[str]] = {}
    for key, one in group.differences.items():
        is_said = learned or METRICS[key].higher_is_better
        if one and one.verdict != "can't tell" and is_said:
            told.setdefault(one.verdict, []).append(METRICS[key].title)
    main = [group.differences.get(one.key) for one in MAIN_DIFFERENCES if one.verdict_on]
    said = {one.verdict for one in main if one}
    return [
        f"{verdict} in {', '.join(titles)}"
        for verdict, titles in told.items()
        if verdict not in said
    ]


def seeds_text(seeds: Iterable[object]) -> str:
    """Return seeds in words, `seeds 0 to 4` where they are a row."""
    known = sorted({seed for seed in seeds if isinstance(seed, int)})
    if not known:
        return "no seed"
    first, last = known[0], known[-1]
    if len(known) > 2 and known == list(range(first, last + 1)):
        return f"seeds {first} to {last}"
    return ("seed " if len(known) == 1 else "seeds ") + few(list(map(str, known)))


def _metric_cells(group: Group, metrics: Sequence[Metric]) -> tuple[Cell, ...]:
    reasons = {one.reason for one in group.differences.values() if one}
    return tuple(_metric_cell(group, metric, says_why=len(reasons) > 1) for metric in metrics)


def _metric_cell(group: Group, metric: Metric, *, says_why: bool) -> Cell:
    value, one = group.metrics[metric.key], group.differences.get(metric.key)
    if value is None:
        return Cell(NOTHING)
    cell = Cell(with_sd(value, metric), value.mean, is_best=metric.key in group.best)
    if one is None:
        return cell
    return replace(
        cell,
        verdict=css_class(one),
        change=change_text(one),
        interval=interval_text(one),
        reason=reason_text(one, metric) if says_why else "",
    )


def css_class(one: Difference) -> str:
    """Return the class of page.css of a verdict: better, worse or open."""
    return one.verdict if one.verdict in _SIGNS else "open"


def change_text(one: Difference) -> str:
    """Return a difference in points with its verdict: `✓ +9.6 better`."""
    sign = _SIGNS.get(one.verdict, "≈")
    return f"{sign} {in_points(one.mean)} {in_words(one.verdict)}".replace("-", MINUS)


def interval_text(one: Difference) -> str:
    """Return the bounds of a difference in points, empty where there are none."""
    return one.interval.replace("-", MINUS)


def intervals_over(groups: Sequence[Group], metrics: Sequence[Metric]) -> str:
    """Return what the intervals of the differences allow for; empty where there are none."""
    titles: dict[str, list[str]] = {}
    for metric in metrics:
        found = (group.differences.get(metric.key) for group in groups)
        over = dict.fromkeys(one.over for one in found if one and one.interval)
        if over:
            titles.setdefault(" or ".join(over), []).append(metric.title)
    (first, _), *others = titles.items() or [("", [])]
    rest = "; ".join(f"{', '.join(names)}: over {over_text(over)}" for over, names in others)
    return over_text(first) + (f" ({rest})" if rest else "")


def over_text(over: str) -> str:
    """Return what an interval allows for, and that it is nothing else where it is one thing."""
    return f"{over} alone" if over in ("seeds", "test images") else over


def metrics_planned(groups: Sequence[Group]) -> list[Metric]:
    """Return the main metrics of which it is known how many seeds would tell a difference."""
    return [
        metric
        for metric in MAIN_DIFFERENCES
        if any((one := g.differences.get(metric.key)) and one.seeds_needed for g in groups)
    ]


def need_rows(
    rows: Sequence[GroupRow], groups: Sequence[Group], metrics: Sequence[Metric]
) -> list[NeedRow]:
    """Return how many seeds would tell the asked size, and the floors, where they are known."""
    found = []
    for row, group in zip(rows, groups, strict=True):
        cells = tuple(_need(group, metric.key) for metric in metrics)
        if any(need for need, _ in cells):
            found.append(NeedRow(row, cells))
    return found


def _need(group: Group, key: str) -> tuple[str, str]:
    one = group.differences.get(key)
    if one is None or one.seeds_needed is None:
        return "", ""
    if one.at_chance:
        return need_text(group, key), ""
    floor = f"at least {points(one.floor)} points" if one.floor else ""
    return need_text(group, key), floor


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
    for shots, numbers in _members(groups).items():
        for number in numbers:
            rows[number] = replace(rows[number], shots=shots)
    if len(groups) == 1:
        classes = zip(*(one.per_class for one in scores), strict=True)
        rows = [
            replace(row, details=_details(same)) for row, same in zip(rows, classes, strict=True)
        ]
    return sorted(rows, key=lambda row: -max(row.train_counts, default=0))


def _members(groups: Sequence[Group]) -> dict[str, list[int]]:
    """Return the class numbers of many, medium and few; {} where the groups' counts differ."""
    return shot_groups(known_counts(groups))


def shots_text(rows: Sequence[ClassRow]) -> list[str]:
    """Return which classes are many, medium and few, a sentence each; [] where nobody knows."""
    texts = []
    for shots in dict.fromkeys(row.shots for row in rows if row.shots):
        own = [row for row in rows if row.shots == shots]
        counts = sorted(row.train_counts[0] for row in own)
        images = f"{counts[0]:,}" + (f" to {counts[-1]:,}" if counts[0] < counts[-1] else "")
        names = few([row.name for row in own], _MOST_NAMES)
        texts.append(f"{capitalised(shots)}: {names} ({images} training images).")
    return texts


def _details(runs: Sequence[ClassScore]) -> tuple[Cell, ...]:
    images = runs[0].test_count
    means = (mean_of(run.precision for run in runs), mean_of(run.f1 for run in runs))
    cells = (Cell(NOTHING) if one is None else Cell(written(one), one) for one in means)
    return (Cell(f"{images:,}", images), *cells)


def _class_row(columns: Sequence[ClassStatistic]) -> ClassRow:
    counts = dict.fromkeys(one.train_count for one in columns if one.train_count is not None)
    return ClassRow(columns[0].name, tuple(counts), tuple(map(_class_cell, columns)))


def _class_cell(one: ClassStatistic) -> Cell:
    if one.accuracy is None:
        return Cell(NOTHING)
    mean, sd = one.accuracy.mean, one.accuracy.sd
    spread = "" if sd is None else f"{100 * sd:.1f}"
    return Cell(with_sd(one.accuracy), mean, mean=f"{100 * mean:.1f}", sd=spread)
