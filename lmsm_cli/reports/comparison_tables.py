"""The tables of a comparison, for the terminal.

The best of what is compared is bold and has a `*`, so that it shows without colour. To show one more
score, add its title to `_TITLES`.
"""

from collections.abc import Sequence
from pathlib import PurePath

from rich.table import Table
from rich.text import Text

from lmsm_cli.comparison.intervals import HIGHER_IS_BETTER, Difference, in_points
from lmsm_cli.comparison.records import Comparison, Group, Statistic, Unscored
from lmsm_cli.comparison.samples import PLAIN_FORMATS
from lmsm_cli.reports.tables import (
    NOTHING,
    OF_THE_RAREST,
    new_table,
    parts_by_columns,
    percent,
    shown,
    whole_width,
)

_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro F1",
    "many": "many",
    "medium": "medium",
    "few": "few",
}
_BESIDES = {
    "calibration_error": "calibration error",
    "effective_margin": "margin",
    "minutes": "minutes",
    "images_per_second": "images/s",
}
# The scores whose differences to the baseline are shown: the rare classes first, they are the question.
_HELD = ("few", "balanced_accuracy", "accuracy")
# Of more groups, the accuracies per class are no table that anyone reads.
_MOST_GROUPS = 20
_VERDICT_WIDTH = 22


def comparison_tables(
    comparison: Comparison, *, width: int | None = None, only_changed: bool = False
) -> list[Table]:
    """Return the scores of every group, the differences to the baseline, and class accuracies.

    The best is marked among groups with the same test images; elsewhere there is no better.
    Where the tables would be wider than `width`, groups are named in a table of their own and by
    number elsewhere, and tables are parted by columns, so that no number is broken.
    `only_changed` leaves out scores and classes in which all groups are alike.
    """
    scores, besides = (
        _shown_columns(comparison, titles, only_changed=only_changed)
        for titles in (_TITLES, _BESIDES)
    )
    is_held = any(group.differences for group in comparison.groups)
    classes = (
        _classes_tables(comparison, only_changed=only_changed)
        if len(comparison.groups) <= _MOST_GROUPS
        else []
    )

    def tables(*columns: dict[str, str], named: bool) -> list[Table]:
        scored = [_scores_table(comparison, titles, named=named) for titles in columns]
        held = [_differences_table(comparison.groups, named=named)] if is_held else []
        return scored + held + classes

    whole = tables(scores | besides, named=True)
    if width is None or all(whole_width(table) <= width for table in whole):
        return whole
    numbered = tables(scores, *([besides] if besides else []), named=False)
    return [
        _named_groups(comparison),
        *(part for table in numbered for part in parts_by_columns(table, width)),
    ]


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return what a reader of the tables must know, a sentence each."""
    notes = list(comparison.notes)
    if any("margin=auto" in str(group.differs.get("loss")) for group in comparison.groups):
        notes.append(OF_THE_RAREST)
    if any(group.differences for group in comparison.groups):
        notes.append(
            "a 95% interval that excludes 0 is called better or worse; it is over repeated trainings, not over other test images (how many there are stands beside each class); with many rows one in twenty excludes 0 by chance"
        )
    if len(comparison.groups) > _MOST_GROUPS:
        notes.append(
            f"accuracies per class of {len(comparison.groups)} groups: with --html, --csv or --json"
        )
    return notes


def _shown_columns(
    comparison: Comparison, titles: dict[str, str], *, only_changed: bool
) -> dict[str, str]:
    """Return the scores that any group has, with their titles."""
    cells = {
        key: {_plain(key, group.metrics[key]) for group in comparison.groups} for key in titles
    }
    fewest = 2 if only_changed and len(comparison.groups) > 1 else 1
    return {
        key: titles[key]
        for key, found in cells.items()
        if found != {NOTHING} and len(found) >= fewest
    }


def _named_groups(comparison: Comparison) -> Table:
    table = new_table("Runs", "#", "run", "n")
    for i, group in enumerate(comparison.groups, 1):
        table.add_row(str(i), shown(group.label), str(len(group.runs)))
    for run in comparison.unscored:
        table.add_row(NOTHING, _why(run), NOTHING)
    return table


def _why(run: Unscored) -> Text:
    return shown(f"{PurePath(run.run).name}: {run.reason}")


def _scores_table(comparison: Comparison, columns: dict[str, str], *, named: bool) -> Table:
    """Return one row a group; with names also one for each run that is in no group, saying why."""
    groups = comparison.groups
    table = new_table("In percent: mean±sd over n runs, * best", "#", *(["run"] if named else []))
    for title in ("n", *columns.values()) if named else columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    marked = {key: _marked_by_test_set(groups, key) for key in columns}
    for i, group in enumerate(groups):
        who = (shown(group.label), str(len(group.runs))) if named else ()
        last_of_its_tests = groups[i + 1 : i + 2] and groups[i + 1].test_set != group.test_set
        cells = (marked[key][i] for key in columns)
        table.add_row(str(i + 1), *who, *cells, end_section=bool(last_of_its_tests))
    if named:
        table.add_section()
        for run in comparison.unscored:
            table.add_row(NOTHING, _why(run), *[NOTHING] * (1 + len(columns)))
    return table


def _marked_by_test_set(groups: Sequence[Group], metric: str) -> list[Text]:
    """Return the cells of one metric; the best of each test set is marked."""
    cells: list[Text] = []
    for test_set in dict.fromkeys(group.test_set for group in groups):
        values = [group.metrics[metric] for group in groups if group.test_set == test_set]
        if metric in HIGHER_IS_BETTER:
            cells += _marked(values, higher_is_better=HIGHER_IS_BETTER[metric])
        else:
            cells += [Text(_plain(metric, value)) for value in values]
    return cells


def _plain(metric: str, value: Statistic | None) -> str:
    if value is None:
        return NOTHING
    if metric in HIGHER_IS_BETTER:
        return _mean_and_sd(value)
    return format(value.mean, PLAIN_FORMATS[metric])


def _differences_table(groups: Sequence[Group], *, named: bool) -> Table:
    """Return a row for each group that is held against a baseline, with the verdict."""
    baselines = dict.fromkeys(group.label for group in groups if group.is_baseline)
    name = (
        shown(next(iter(baselines))).plain
        if len(baselines) == 1
        else "the baseline of the same other choices"
    )
    table = new_table(
        f"Against {name}, in points: difference [95% interval over seeds]",
        "#",
        *(["run"] if named else []),
    )
    held = _told_differences(groups)
    for key in held:
        table.add_column(_TITLES[key], justify="right", no_wrap=True)
    table.add_column("seeds", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=_VERDICT_WIDTH)
    for i, group in enumerate(groups, 1):
        if not group.differences:
            continue
        known = next((one for key in held if (one := group.differences.get(key))), None)
        pairs = (
            NOTHING
            if known is None
            else f"{known.n} paired"
            if known.paired
            else f"{known.n} unpaired"
        )
        cells = (interval(group.differences.get(key)) for key in held)
        table.add_row(
            str(i), *([shown(group.label)] if named else []), *cells, pairs, group.verdict
        )
    return table


def _told_differences(groups: Sequence[Group]) -> list[str]:
    """Return the scores whose differences are shown; one that only repeats another is not."""
    columns: dict[tuple[object, ...], str] = {}
    for key in _HELD:
        columns.setdefault(tuple(_rounded(group.differences.get(key)) for group in groups), key)
    return [key for cells, key in columns.items() if set(cells) != {None}]


def _rounded(change: Difference | None) -> object:
    """Return a difference as it is seen, without the further digits near 0."""
    if change is None:
        return None
    bounds = (change.mean, change.low, change.high)
    return tuple(None if one is None else f"{100 * one:+.1f}" for one in bounds)


def interval(change: Difference | None) -> str:
    """Return a difference in points with its interval: `+3.1 [+0.5, +5.7]`."""
    if change is None:
        return NOTHING
    if change.low is None or change.high is None:
        return in_points(change.mean)
    return f"{in_points(change.mean)} [{in_points(change.low)}, {in_points(change.high)}]"


def _classes_tables(comparison: Comparison, *, only_changed: bool) -> list[Table]:
    """Return the class accuracies of each test set."""
    numbered = list(enumerate(comparison.groups, 1))
    sets = dict.fromkeys(group.test_set for group in comparison.groups)
    return [
        _classes_table(
            [(i, group) for i, group in numbered if group.test_set == test_set],
            only_changed=only_changed,
        )
        for test_set in sets
    ]


def _classes_table(peers: Sequence[tuple[int, Group]], *, only_changed: bool) -> Table:
    """Return the accuracies of each class side by side for (number, group) of one test set.

    Groups go by their numbers: their names are longer than what stands below.
    """
    table = new_table("Accuracy per class, in percent (* best)", "class")
    shared = len({tuple(one.train_count for one in group.per_class) for _, group in peers}) == 1
    for title in ("training images", "test images") if shared else ("test images",):
        table.add_column(title, justify="right")
    for number, _ in peers:
        table.add_column(str(number), justify="right", no_wrap=True)
    for rows in zip(*(group.per_class for _, group in peers), strict=True):
        cells = _marked([row.accuracy for row in rows])
        if only_changed and len(cells) > 1 and len({cell.plain.strip("* ") for cell in cells}) == 1:
            continue
        counts = [Text(str(row.train_count)) for row in rows]
        if not shared:
            cells = [count + ": " + cell for count, cell in zip(counts, cells, strict=True)]
        table.add_row(
            shown(rows[0].name), *(counts[:1] if shared else []), str(rows[0].test_count), *cells
        )
    return table


def _marked(values: Sequence[Statistic | None], *, higher_is_better: bool = True) -> list[Text]:
    """Return `64.9±1.2` for each value, the best in bold with a `*` unless all are equal.

    Values that are shown as equal are equal: means over the same images differ by rounding.
    """
    means = [value.mean for value in values if value]
    differ = len({percent(mean) for mean in means}) > 1
    best = percent((max if higher_is_better else min)(means)) if differ else None
    return [
        Text(_mean_and_sd(value) + "*", style="bold")
        if value and percent(value.mean) == best
        else Text(_mean_and_sd(value) + " ")
        for value in values
    ]


def _mean_and_sd(value: Statistic | None) -> str:
    if value is None:
        return NOTHING
    return percent(value.mean) + ("" if value.sd is None else f"±{percent(value.sd)}")
