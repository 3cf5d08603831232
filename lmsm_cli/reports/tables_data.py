"""Tables of a data check: images by class, files, what cannot be read, copies, the training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lmsm_cli.data.check import ClassImages, DataCheck
from lmsm_cli.data.fold_check import FoldCounts
from lmsm_cli.data.headers import Shapes
from lmsm_cli.data.identity import PARTS
from lmsm_cli.errors import counted
from lmsm_cli.reports.data_findings import Finding, copies_by_kind
from lmsm_cli.reports.tables import NOTHING, new_table, shown

# Of more classes, the commonest and the rarest are shown.
_MOST_CLASSES = 40
_MOST_COPIES = 20
# Of more folds, the fewest and the most test images in one are shown.
_MOST_FOLDS = 10
_STYLES = {"mend": "bold red", "weak": "yellow", "note": ""}
_KINDS = {"two_classes": "two classes", "alike": "nearly the same", "same_class": "one class"}


def data_tables(check: DataCheck) -> Iterator[RenderableType]:
    """Yield the tables of what is known of a data set."""
    yield _class_table(check)
    if check.groups:
        yield _group_table(check)
    if check.folds:
        yield _folds_table(check, check.folds)
    folder = check.folder
    if folder and folder.shapes:
        yield _shapes_table(folder.shapes)
        yield _kinds_grid(folder.shapes)
    if folder and folder.unreadable:
        yield _unreadable_table(folder.unreadable)
    if check.copies or check.alike:
        yield _copies_table(check)


def training_table(plan: Mapping[str, Any], origins: Mapping[str, str]) -> Table:
    """Return the values that a training would have, and where each comes from."""
    table = new_table("A training with these choices", "key", "value", "from")
    for key, value in plan.items():
        table.add_row(key, shown(value), shown(origins[key]))
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return a row for each finding: whether to mend it first, and the sentence."""
    table = Table.grid(padding=(0, 2))
    for _ in range(2):
        table.add_column(overflow="fold")
    for one in findings:
        table.add_row(Text(one.level, _STYLES[one.level]), shown(one.text))
    return table


def _class_table(check: DataCheck) -> Table:
    grouped = check.images_of
    columns = ("groups", *PARTS) if grouped else PARTS
    table = new_table("Images by class, the commonest first", "class", "group", numbers=columns)
    half = _MOST_CLASSES // 2
    if len(check.classes) > _MOST_CLASSES:
        table.title = f"Images by class: the {half} commonest and {half} rarest, --json has all"
    for one, last in _classes_shown(check):
        numbers = [f"{one.parts[part]:,}" for part in PARTS]
        if grouped:
            numbers.insert(0, f"{grouped.by_class[one.name]:,}")
        table.add_row(shown(one.name), one.group or NOTHING, *numbers, end_section=last)
    total = [f"{check.count(part):,}" for part in PARTS]
    if grouped:
        total.insert(0, f"{grouped.count:,}")
    table.add_row(Text("all", "bold"), "", *total)
    return table


def _classes_shown(check: DataCheck) -> Iterator[tuple[ClassImages, bool]]:
    """Yield the classes of a table, and whether a line is drawn below; of many, both ends."""
    rows, half = list(check.classes), _MOST_CLASSES // 2
    if len(rows) > _MOST_CLASSES:
        rows = rows[:half] + rows[-half:]
    for number, one in enumerate(rows, 1):
        yield one, number == len(rows) or (len(rows) < len(check.classes) and number == half)


def _folds_table(check: DataCheck, folds: FoldCounts) -> Table:
    """Return the test images of each fold by class; of many folds, the fewest and the most."""
    each = folds.number <= _MOST_FOLDS
    names = [f"fold {number}" for number in range(folds.number)] if each else ["fewest", "most"]
    table = new_table(
        f"Test images of each of {folds.number} folds",
        "class",
        numbers=(*names, "tested", "never tested"),
    )

    def row(counts: Sequence[int]) -> list[str]:
        shown_ones = counts if each else (min(counts), max(counts))
        return [f"{count:,}" for count in (*shown_ones, sum(counts))]

    for one, last in _classes_shown(check):
        numbers = (*row(folds.tested[one.name]), f"{folds.never[one.name]:,}")
        table.add_row(shown(one.name), *numbers, end_section=last)
    table.add_row(Text("all", "bold"), *row(folds.totals), f"{sum(folds.never.values()):,}")
    return table


def _group_table(check: DataCheck) -> Table:
    table = new_table("Images by group", "group", numbers=("classes", *PARTS))
    for name, members in check.groups.items():
        numbers = (f"{check.count(part, name):,}" for part in PARTS)
        table.add_row(name, f"{len(members):,}", *numbers)
    return table


def _shapes_table(shapes: Shapes) -> Table:
    table = new_table("Pictures", "", numbers=("least", "median", "greatest"))
    for name, side in (("width", shapes.width), ("height", shapes.height)):
        table.add_row(name, *(f"{number:,}" for number in side))
    return table


def _kinds_grid(shapes: Shapes) -> Table:
    """Return how many pictures are of which format and colour mode."""
    table = Table.grid(padding=(0, 0, 1, 2))
    for _ in range(2):
        table.add_column(overflow="fold")
    for name, found in (("formats", shapes.formats), ("colour modes", shapes.modes)):
        table.add_row(name, ", ".join(f"{count:,} {kind}" for kind, count in found.items()))
    return table


def _unreadable_table(unreadable: Mapping[str, str]) -> Table:
    files = counted(len(unreadable), "file")
    table = new_table(f"{files} that cannot be read", "file", "reason")
    for file, reason in unreadable.items():
        table.add_row(shown(file), shown(reason))
    return table


def _copies_table(check: DataCheck) -> Table:
    table = new_table("Pictures that stand more than once", "where", "files")
    for kind, found in copies_by_kind(check).items():
        for one in found[:_MOST_COPIES]:
            parts = " and ".join(dict.fromkeys(one.parts))
            names = list(one.names)
            if one.is_in_two_parts:
                names = [f"{name} ({part})" for name, part in zip(names, one.parts, strict=True)]
            table.add_row(_KINDS.get(kind, parts), shown(" = ".join(names)))
        if len(found) > _MOST_COPIES:
            table.add_row("", f"and {len(found) - _MOST_COPIES:,} more; --json has all")
    return table
