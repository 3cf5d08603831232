"""A comparison for other programs: CSV for a spreadsheet, Markdown for a page of text."""

import csv
import io
from typing import Any

from rich.table import Table

from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.errors import visible

# What a formula begins with, also as East Asian keyboards write it.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_csv(comparison: Comparison) -> str:
    """Return a row for each group: its choices, scores, differences, and accuracies per class.

    Shares are fractions; what a group does not have is empty. Runs without scores are left out.
    """
    rows = [
        {str(cell(key)): cell(value) for key, value in _row(group, comparison).items()}
        for group in comparison.groups
    ]
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


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


def _row(group: Group, comparison: Comparison) -> dict[str, Any]:
    row: dict[str, Any] = {
        "group": group.label,
        "n": len(group.runs),
        "seeds": " ".join(map(str, group.seeds)),
        "test_set": group.test_set,
    }
    row |= {key: group.differs[key] for key in comparison.differing}
    for name, value in group.metrics.items():
        row |= {name: value and value.mean, f"{name} sd": value and value.sd}
    row |= {"is_baseline": group.is_baseline, "verdict": group.verdict}
    for name in next((one.differences for one in comparison.groups if one.differences), {}):
        change = group.differences.get(name)
        row |= {
            f"{name} difference": change and change.mean,
            f"{name} low": change and change.low,
            f"{name} high": change and change.high,
        }
    for one in group.per_class:
        name = f"class {visible(one.name)}"
        row |= {
            f"{name} training images": one.train_count,
            f"{name} test images": one.test_count,
            name: one.accuracy and one.accuracy.mean,
            f"{name} sd": one.accuracy and one.accuracy.sd,
        }
    return row


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
