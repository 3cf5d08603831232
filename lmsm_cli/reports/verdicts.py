"""Verdicts and conclusions in words, as the terminal and the page show them."""

from collections.abc import Sequence

from rich.text import Text

from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.errors import visible
from lmsm_cli.metrics import MAIN_DIFFERENCES

OPEN = "no clear difference"
STYLES = {"better": "bold green", "worse": "bold red", "open": ""}


def in_words(verdict: str) -> str:
    """Return a verdict as people read it; JSON and CSV keep `can't tell`."""
    return verdict.replace("can't tell", OPEN)


def verdict_text(group: Group, common: Sequence[str] = ()) -> str:
    """Return a group's verdict, why there is none, and what weakens it but for what is common."""
    changes = [
        one
        for metric in MAIN_DIFFERENCES
        if metric.verdict_on and (one := group.differences.get(metric.key))
    ]
    reasons = dict.fromkeys(one.reason for one in changes if one.reason)
    notes = [*reasons, *(remark for remark in group.remarks if remark not in common)]
    return in_words(group.verdict) + (f" ({'; '.join(notes)})" if notes else "")


def verdict_style(group: Group) -> str:
    """Return the terminal's style of a verdict: that of the first score it is on."""
    for metric in MAIN_DIFFERENCES:
        one = group.differences.get(metric.key)
        if metric.verdict_on and one is not None:
            return STYLES.get(one.verdict, "")
    return ""


def need_text(group: Group, key: str) -> str:
    """Return how many seeds would show the size asked for, in short; empty if unknown."""
    one = group.differences.get(key)
    if one is None or one.seeds_needed is None:
        return ""
    fewest, most = one.seeds_needed
    if fewest is None:
        return "more test images"
    if most is None:
        return f"{fewest} seeds or many more"
    return f"{fewest} seeds" if fewest == most else f"{fewest} to {most} seeds"


def conclusion_text(comparison: Comparison) -> Text:
    """Return the answers, a line for each set of test images."""
    lines = []
    for number, one in enumerate(comparison.conclusions, 1):
        where = f"Test images {number}: " if len(comparison.conclusions) > 1 else ""
        lines.append(Text(visible(where + one.text), STYLES[one.finding] or "bold"))
    return Text("\n").join(lines)
