"""The tables of a comparison, for the terminal.

A best score that is clearly better than all others is bold and has a `*`, so that it shows without
colour.
Which metrics there are, and what they are called, is in metrics.py.
"""

from collections.abc import Sequence
from pathlib import PurePath

from rich.table import Table
from rich.text import Text

from lmsm_cli.comparison.conclusion import common_remarks
from lmsm_cli.comparison.intervals import Difference, in_points
from lmsm_cli.comparison.records import Comparison, Group, Statistic, Unscored
from lmsm_cli.losses.registry import margin_by_rarity
from lmsm_cli.metrics import MAIN_DIFFERENCES, METRICS, Metric
from lmsm_cli.reports.tables import (
    NOTHING,
    OF_THE_RAREST,
    count_text,
    new_table,
    parts_by_columns,
    shown,
    whole_width,
)
from lmsm_cli.reports.verdicts import need_text, several_at_once, verdict_style, verdict_text
from lmsm_cli.shot_groups import shot_groups

# Of more groups, the accuracies per class are no table that anyone reads.
_MOST_GROUPS = 20
# Of more nets, the sizes of the others are in --json.
_MOST_NETS = 6
_VERDICT_WIDTH = 22
_SCORES = "Test scores in percent: mean±sd over n runs"
_STAR = ", * clearly better than all others"
_CLASSES = "Accuracy per class in percent, with the training and test images"
_COSTS = "Margin and cost: means"


def comparison_tables(
    comparison: Comparison, *, width: int | None = None, only_changed: bool = False
) -> list[Table]:
    """Return the scores of every group, the runs that are in none, accuracies and differences.

    A best is marked where it is clearly better than all others on the same test images.

    Args:
        comparison: What is shown.
        width: Characters of a line; where tables are wider, one table names the groups, the others
            have their numbers, and are parted by columns, so that no number is broken.
        only_changed: Whether to leave out scores and classes in which all groups are alike.
    """
    shown_metrics = _shown_metrics(comparison, only_changed=only_changed)
    scores = [metric for metric in shown_metrics if metric.is_share]
    main = [metric for metric in scores if metric.is_main]
    others = [metric for metric in scores if not metric.is_main]
    costs = [metric for metric in shown_metrics if not metric.is_share]
    is_held = any(group.differences for group in comparison.groups)
    classes = _classes_tables(comparison, only_changed=only_changed)
    left_out = [_left_out_table(comparison.unscored)] if comparison.unscored else []
    if not comparison.groups:
        return left_out

    def tables(*columns: Sequence[Metric], named: bool) -> list[Table]:
        scored = [_scores_table(comparison, metrics, named=named) for metrics in columns]
        held = [_differences_table(comparison, named=named)] if is_held else []
        cost = [_scores_table(comparison, costs, named=named, title=_COSTS)] if costs else []
        return scored + classes + cost + held

    whole = tables([*main, *others], named=True)
    if width is None or all(whole_width(table) <= width for table in whole):
        return [whole[0], *left_out, *whole[1:]]
    numbered = tables(main, *([others] if others else []), named=False)
    return [
        _named_groups(comparison),
        *left_out,
        *(part for table in numbered for part in parts_by_columns(table, width)),
    ]


def comparison_notes(comparison: Comparison) -> list[str]:
    """Return what a reader of the tables must know, a sentence each."""
    notes = list(comparison.notes)
    if comparison.nets:
        shown_nets = list(comparison.nets[:_MOST_NETS])
        if more := len(comparison.nets) - _MOST_NETS:
            shown_nets += [f"and {more} more"] if more > 0 else []
        notes.append(f"net{'s' if len(comparison.nets) > 1 else ''}: {'; '.join(shown_nets)}")
    if any(margin_by_rarity(str(group.differs.get("loss"))) for group in comparison.groups):
        notes.append(OF_THE_RAREST)
    if any(group.differences for group in comparison.groups):
        notes.append(
            "better and worse: the 95% interval excludes 0, and the p-value after Holm's "
            "correction over the rows is at most 0.05; the intervals are for each row alone"
        )
    notes += filter(None, [several_at_once(comparison.groups)])
    if len(comparison.groups) > _MOST_GROUPS:
        notes.append(
            f"accuracies per class of {len(comparison.groups)} groups: with --html, --csv or --json"
        )
    return notes


def _shown_metrics(comparison: Comparison, *, only_changed: bool) -> list[Metric]:
    """Return the metrics that any group has."""
    fewest = 2 if only_changed and len(comparison.groups) > 1 else 1
    cells = {
        key: {_cell(metric, group.metrics[key]) for group in comparison.groups}
        for key, metric in METRICS.items()
    }
    return [
        METRICS[key] for key, found in cells.items() if found != {NOTHING} and len(found) >= fewest
    ]


def _named_groups(comparison: Comparison) -> Table:
    table = new_table("Runs", "#", "run", "n")
    for i, group in enumerate(comparison.groups, 1):
        table.add_row(str(i), shown(group.label), str(len(group.runs)))
    return table


def _left_out_table(runs: Sequence[Unscored]) -> Table:
    """Return a row for each run that is in no group, saying why.

    It stands apart: reasons are long, and would make the scores as wide. One column breaks no name.
    """
    table = new_table("Left out", "run and reason")
    for run in runs:
        table.add_row(shown(f"{PurePath(run.run).name}: {run.reason}"))
    return table


def _scores_table(
    comparison: Comparison, metrics: Sequence[Metric], *, named: bool, title: str = _SCORES
) -> Table:
    """Return one row a group, with its name or by its number alone."""
    groups = comparison.groups
    has_star = any(metric.key in group.best for group in groups for metric in metrics)
    title += _STAR if has_star else ""
    table = new_table(title, "#", *(["run"] if named else []))
    for title in (*(["n"] if named else []), *(metric.column for metric in metrics)):
        table.add_column(title, justify="right", no_wrap=True)
    columns = [_cells(groups, metric) for metric in metrics]
    for i, group in enumerate(groups):
        who = (shown(group.label), str(len(group.runs))) if named else ()
        last_of_its_tests = groups[i + 1 : i + 2] and groups[i + 1].test_set != group.test_set
        cells = (column[i] for column in columns)
        table.add_row(str(i + 1), *who, *cells, end_section=bool(last_of_its_tests))
    return table


def _cells(groups: Sequence[Group], metric: Metric) -> list[Text]:
    """Return `64.9±1.2` for each group; one clearly better than all others bold with a `*`."""
    texts = [_cell(metric, group.metrics[metric.key]) for group in groups]
    if not metric.is_share:
        return [Text(text) for text in texts]
    best = [metric.key in group.best for group in groups]
    return [
        Text(text + "*", style="bold") if is_best else Text(text + (" " if any(best) else ""))
        for text, is_best in zip(texts, best, strict=True)
    ]


def _cell(metric: Metric, value: Statistic | None) -> str:
    if value is None:
        return NOTHING
    if value.sd is None or not metric.is_share:
        return metric.text(value.mean)
    return f"{metric.text(value.mean)}±{metric.text(value.sd)}"


def _differences_table(comparison: Comparison, *, named: bool) -> Table:
    """Return a row for each group that is held against a baseline, with the verdict."""
    groups = comparison.groups
    held = _distinct_differences(groups)
    table = new_table(_title_of_differences(groups), "#", *(["run"] if named else []))
    for key in held:
        table.add_column(METRICS[key].column, justify="right", no_wrap=True)
    table.add_column("seeds", no_wrap=True)
    needs = [need_text(group, held[0]) for group in groups]
    if any(needs):
        table.add_column(f"{100 * comparison.size:g} points need", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=_VERDICT_WIDTH)
    common = {
        peers[0][1].test_set: common_remarks([group for _, group in peers])
        for peers in comparison.by_test_set()
    }
    for i, (group, need) in enumerate(zip(groups, needs, strict=True), 1):
        if not group.differences:
            continue
        cells = [_change(group.differences.get(key)) for key in held]
        who = [shown(group.label)] if named else []
        verdict = shown(verdict_text(group, common[group.test_set]))
        verdict.stylize(verdict_style(group))
        more = [need or NOTHING] if any(needs) else []
        table.add_row(str(i), *who, *cells, _pairs(group, held), *more, verdict)
    return table


def _title_of_differences(groups: Sequence[Group]) -> str:
    """Return what the differences are to, and what their intervals allow for."""
    baselines = dict.fromkeys(group.label for group in groups if group.is_baseline)
    name = "the baseline of the same other choices"
    if len(baselines) == 1:
        name = shown(*baselines).plain
    shown_ones = [
        group.differences.get(metric.key) for group in groups for metric in MAIN_DIFFERENCES
    ]
    over = list(dict.fromkeys(one.over for one in shown_ones if one))
    return f"Against {name}, in points: difference [95% interval over {' or '.join(over)}]"


def _change(one: Difference | None) -> str:
    return f"{in_points(one.mean)} {one.interval}".rstrip() if one else NOTHING


def _pairs(group: Group, held: Sequence[str]) -> str:
    """Return `3 paired`, or `2 of 3 paired` where the difference is over fewer runs than shown."""
    known = next((one for key in held if (one := group.differences.get(key))), None)
    if known is None:
        return NOTHING
    part = f" of {len(group.seeds)}" if known.n < len(group.seeds) else ""
    return f"{known.n}{part} {'un' * (not known.paired)}paired"


def _distinct_differences(groups: Sequence[Group]) -> list[str]:
    """Return the metrics whose differences are shown; one that only repeats another is not."""
    columns: dict[tuple[object, ...], str] = {}
    for metric in MAIN_DIFFERENCES:
        changes = (group.differences.get(metric.key) for group in groups)
        columns.setdefault(tuple(map(_rounded, changes)), metric.key)
    return [key for cells, key in columns.items() if set(cells) != {None}]


def _rounded(change: Difference | None) -> object:
    """Return a difference as it is seen, with its side of 0 but without the further digits."""
    if change is None:
        return None
    bounds = [one for one in (change.mean, change.low, change.high) if one is not None]
    return tuple((in_points(one)[0], f"{abs(100 * one):.1f}") for one in bounds)


def _classes_tables(comparison: Comparison, *, only_changed: bool) -> list[Table]:
    if len(comparison.groups) > _MOST_GROUPS:
        return []
    sets = comparison.by_test_set()
    return [_classes_table(peers, only_changed=only_changed) for peers in sets]


def _classes_table(peers: Sequence[tuple[int, Group]], *, only_changed: bool) -> Table:
    """Return the accuracies of each class side by side for (number, group) of one test set.

    Groups go by their numbers: their names are longer than what stands below.
    """
    counts = known_counts([group for _, group in peers])
    members = {n: name for name, some in shot_groups(counts or []).items() for n in some}
    table = new_table(_CLASSES, "class", *(["group"] if members else []))
    for title in ("training", "test") if counts else ("test",):
        table.add_column(title, justify="right", no_wrap=True)
    for number, _ in peers:
        table.add_column(str(number), justify="right", no_wrap=True)
    for i, rows in enumerate(zip(*(group.per_class for _, group in peers), strict=True)):
        cells = [_cell(METRICS["accuracy"], row.accuracy) for row in rows]
        if only_changed and len(cells) > 1 and len(set(cells)) == 1:
            continue
        if not counts:
            own = (count_text(row.train_count) for row in rows)
            cells = [f"{count}: {cell}" for count, cell in zip(own, cells, strict=True)]
        known = [members[i]] if members else []
        known += [count_text(counts[i])] if counts else []
        table.add_row(shown(rows[0].name), *known, str(rows[0].test_count), *cells)
    return table


def known_counts(groups: Sequence[Group]) -> tuple[int | None, ...]:
    """Return the training images of each class that all groups share that know theirs, else ()."""
    told = dict.fromkeys(tuple(one.train_count for one in group.per_class) for group in groups)
    known = [counts for counts in told if set(counts) != {None}] or list(told)
    return known[0] if len(known) == 1 else ()
