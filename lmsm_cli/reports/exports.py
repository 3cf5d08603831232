"""A comparison for other programs: CSV for a spreadsheet, Markdown for a page of text."""

import csv
import io
from typing import Any

from rich.table import Table

from lmsm_cli.comparison.intervals import Difference
from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.errors import visible

# What a formula begins with, also as East Asian keyboards write it.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_csv(comparison: Comparison) -> str:
    """Return a row for each group: its choices, scores, differences, and accuracies per class.

    Shares are fractions; what a group does not have is empty. Runs without scores are left out. Of
    a score's difference to the baseline there are, each under the score's name: `low` and `high`,
    the bounds of its 95% interval; `over`, what the interval allows for; `p`, and `p after Holm`,
    over so many `comparisons`; its `verdict`, and the `reason` where there is none; `seeds needed
    from` and `to`, of either side, to tell a difference of the size asked for (the second is empty
    for more than 10,000, both are where test images forbid it); and `floor`, the smallest
    difference that these test images let any number of seeds tell.
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
    row |= {"is_baseline": group.is_baseline, "verdict": group.verdict, "same_as": group.same_as}
    for name in next((one.differences for one in comparison.groups if one.differences), {}):
        change = group.differences.get(name)
        row |= {f"{name} {title}": value for title, value in _of_difference(change).items()}
    for one in group.per_class:
        name = f"class {visible(one.name)}"
        row |= {
            f"{name} training images": one.train_count,
            f"{name} test images": one.test_count,
            name: one.accuracy and one.accuracy.mean,
            f"{name} sd": one.accuracy and one.accuracy.sd,
        }
    return row


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
