"""Verdicts and conclusions in words, as the terminal and the page show them."""

from collections.abc import Sequence

from rich.text import Text

from lmsm_cli.comparison.intervals import ALPHA, NOT_AFTER_HOLM, NOTHING_VARIES, Difference
from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.errors import visible
from lmsm_cli.metrics import MAIN_DIFFERENCES, Metric

OPEN = "no clear difference"
STYLES = {"better": "bold green", "worse": "bold red", "open": ""}


def in_words(verdict: str) -> str:
    """Return a verdict as people read it; JSON and CSV keep `can't tell`."""
    return verdict.replace("can't tell", OPEN)


def verdict_text(group: Group, common: Sequence[str] = ()) -> str:
    """Return a group's verdict, why there is none, and what weakens it but for what is common."""
    changes = [
        (metric, one)
        for metric in MAIN_DIFFERENCES
        if metric.verdict_on and (one := group.differences.get(metric.key))
    ]
    is_one_reason = len({one.reason for _, one in changes}) == 1
    reasons = dict.fromkeys(
        reason_text(one, metric, says_where=not is_one_reason)
        for metric, one in changes
        if one.reason and not (group.same_as and one.reason == NOTHING_VARIES)
    )
    same = [same_text(group)] if group.same_as else []
    notes = [*reasons, *same, *(remark for remark in group.remarks if remark not in common)]
    return in_words(group.verdict) + (f" ({'; '.join(notes)})" if notes else "")


def reason_text(one: Difference, metric: Metric, *, says_where: bool = False) -> str:
    """Return why there is no verdict on a score; JSON and CSV keep `not after Holm`."""
    if one.reason != NOT_AFTER_HOLM:
        return one.reason
    verdict = "better" if (one.mean > 0) == metric.higher_is_better else "worse"
    where = f" {metric.verdict_on}" if says_where and metric.verdict_on else ""
    return f"{verdict}{where} by itself, but not as one of {one.family} comparisons"


def same_text(group: Group) -> str:
    """Return which other group gave the same answers; they are one comparison."""
    every = " in every seed" if len(group.seeds) > 1 else ""
    return f"the same answers as {group.same_as}{every}"


def several_at_once(groups: Sequence[Group]) -> str:
    """Return why an interval without 0 is no verdict, where one is none for that; else ""."""
    families = [
        one.family or 0
        for group in groups
        for metric in MAIN_DIFFERENCES
        if metric.verdict_on
        and (one := group.differences.get(metric.key))
        and one.reason == NOT_AFTER_HOLM
    ]
    if not families:
        return ""
    several = max(families)
    chance = (
        f"one excludes 0 by chance in up to {100 * ALPHA * several:.0f} % of all studies"
        if ALPHA * several < 1
        else "one or more can be expected to exclude 0 by chance"
    )
    return (
        f"better or worse by itself, but not as one of {several} comparisons: the interval "
        f"excludes 0, but of {several} intervals {chance}; Holm's correction keeps that at "
        f"{100 * ALPHA:.0f} %, and this difference is not large enough for it"
    )


def verdict_style(group: Group) -> str:
    """Return the terminal's style of a verdict: that of the first score it is on."""
    for metric in MAIN_DIFFERENCES:
        one = group.differences.get(metric.key)
        if metric.verdict_on and one is not None:
            return STYLES.get(one.verdict, "")
    return ""


def need_text(group: Group, key: str) -> str:
    """Return what would show a difference of the size asked for, in short; empty if unknown.

    The seeds are those that are there and those to come together.
    """
    one = group.differences.get(key)
    if one is None or one.seeds_needed is None:
        return ""
    fewest, most = one.seeds_needed
    if one.at_chance:
        return "longer training"
    if fewest is None:
        return "more test images"
    if most is None:
        return f"{fewest} or many more seeds in all"
    if most <= one.n:
        return "no more seeds"
    return f"{fewest} seeds in all" if fewest == most else f"{fewest} to {most} seeds in all"


def conclusion_text(comparison: Comparison) -> Text:
    """Return the answers, a line for each set of test images."""
    lines = []
    for number, one in enumerate(comparison.conclusions, 1):
        where = f"Test images {number}: " if len(comparison.conclusions) > 1 else ""
        lines.append(Text(visible(where + one.text), STYLES[one.finding] or "bold"))
    return Text("\n").join(lines)
