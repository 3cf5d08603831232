"""A comparison for other programs: CSV for a spreadsheet, Markdown for a page of text."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Literal

from rich.table import Table

from lmsm_cli.comparison.intervals import Difference
from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.errors import visible

# What a formula begins with, also as East Asian keyboards write it.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


# What columns of a class end with, after its name.
_OF_A_CLASS = (" training images", " test images", "", " sd")


@dataclass(frozen=True)
class _Column:
    """A column of the CSV; others give a column its name, as choices and classes do."""

    name: str
    of: Literal["lmsm", "choice", "class"] = "lmsm"
    part: str = ""
    """Of the columns of a class which, of _OF_A_CLASS."""


def to_csv(comparison: Comparison) -> str:
    """Return a row for each group: its choices, scores, differences, and accuracies per class.

    Shares are fractions; what a group does not have is empty. Runs without scores are left out. Of
    a score's difference to the baseline there are, each under the score's name: `low` and `high`,
    the bounds of its 95% interval; `over`, what the interval allows for; `p`, and `p after Holm`,
    over so many `comparisons`; its `verdict`, and the `reason` where there is none; `seeds needed
    from` and `to`, of either side, to tell a difference of the size asked for (the second is empty
    for more than 10,000, both are where test images forbid it); and `floor`, the smallest
    difference that these test images let any number of seeds tell.

    No two columns have one name, whatever choices and classes are called: `setting n` is the choice
    n of the runs beside their number, and `class a sd (2)` the class a sd beside the deviation of
    class a.
    """
    rows = [_row(group, comparison) for group in comparison.groups]
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_titles(columns))
    writer.writerows([cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _titles(columns: Sequence[_Column]) -> list[str]:
    """Return a title for each column, those of lmsm's own as they are, all unlike."""
    taken = {column.name for column in columns if column.of == "lmsm"}
    choices, classes = (
        dict.fromkeys(column.name for column in columns if column.of == of)
        for of in ("choice", "class")
    )
    # the shorter first, so that of class a and class a sd the first keeps its name
    plain = {name: f"class {visible(name)}" for name in sorted(classes, key=len)}
    of_class = _unlike(plain, plain, _OF_A_CLASS, taken)
    plain = {name: str(cell(name)) for name in choices}
    others = {name: f"setting {title}" for name, title in plain.items()}
    of_choice = _unlike(plain, others, ("",), taken)
    by_kind = {"class": of_class, "choice": of_choice}
    return [by_kind.get(one.of, {}).get(one.name, one.name) + one.part for one in columns]


def _unlike(
    plain: Mapping[str, str], others: Mapping[str, str], parts: Sequence[str], taken: set[str]
) -> dict[str, str]:
    """Return a title for each name: the plain one, or where that is taken the other, or numbered.

    Args:
        plain: A title for each name.
        others: Another for each.
        parts: What is put behind a title for each of its columns.
        taken: The titles of columns that there are already; those of these are added.
    """
    wanted = {title + part for title in plain.values() for part in parts}
    found = {}
    for name, title in plain.items():
        numbered = (f"{others[name]} ({number})" for number in count(2))
        for one in chain([title], [others[name]], numbered):
            columns = {one + part for part in parts}
            if columns.isdisjoint(taken if one == title else taken | wanted):
                break
        found[name] = one
        taken |= columns
    return found


def cell(value: object) -> object:
    """Return a value for a cell of CSV: a number as it is, text spelled out and never a formula.

    A spreadsheet runs what begins as one, whoever named the class or the file; `'` before it says
    that it is text.
    """
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) and not _is_number(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _row(group: Group, comparison: Comparison) -> dict[_Column, Any]:
    before: dict[str, Any] = {
        "group": group.label,
        "n": len(group.runs),
        "seeds": " ".join(map(str, group.seeds)),
        "test_set": group.test_set,
    }
    choices = {_Column(key, "choice"): group.differs[key] for key in comparison.differing}
    after: dict[str, Any] = {}
    for name, value in group.metrics.items():
        after |= {name: value and value.mean, f"{name} sd": value and value.sd}
    after |= {"is_baseline": group.is_baseline, "verdict": group.verdict, "same_as": group.same_as}
    for name in next((one.differences for one in comparison.groups if one.differences), {}):
        change = group.differences.get(name)
        after |= {f"{name} {title}": value for title, value in _of_difference(change).items()}
    known = [{_Column(name): value for name, value in part.items()} for part in (before, after)]
    return known[0] | choices | known[1] | _of_classes(group)


def _of_classes(group: Group) -> dict[_Column, Any]:
    return {
        _Column(one.name, "class", part): value
        for one in group.per_class
        for part, value in zip(
            _OF_A_CLASS,
            (
                one.train_count,
                one.test_count,
                one.accuracy and one.accuracy.mean,
                one.accuracy and one.accuracy.sd,
            ),
            strict=True,
        )
    }


def _of_difference(one: Difference | None) -> dict[str, Any]:
    fewest, most = (one and one.seeds_needed) or (None, None)
    return {
        "difference": one and one.mean,
        "low": one and one.low,
        "high": one and one.high,
        "over": one and one.over,
        "p": one and one.p_value,
        "p after Holm": one and one.p_holm,
        "comparisons": one and one.family,
        "verdict": one and one.verdict,
        "reason": one and one.reason,
        "seeds needed from": fewest,
        "seeds needed to": most,
        "floor": one and one.floor,
    }


def to_markdown(table: Table) -> str:
    """Return a table with its title as Markdown; `*` and `|` of its texts stay what they are."""
    columns = [[_escaped(column.header), *map(_escaped, column.cells)] for column in table.columns]
    header, *rows = zip(*columns, strict=True)
    rule = ["---:" if column.justify == "right" else "---" for column in table.columns]
    lines = ["| " + " | ".join(row) + " |" for row in (header, rule, *rows)]
    return "\n".join([f"**{_escaped(table.title or '')}**", "", *lines, ""])


def _escaped(cell: object) -> str:
    text = str(cell).strip()
    for sign in "\\`*_|<[":
        text = text.replace(sign, f"\\{sign}")
    return text
