"""What a study found, in a sentence and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lmsm_cli.comparison.intervals import in_points, points
from lmsm_cli.errors import counted, listed
from lmsm_cli.reports.tables import NOTHING, new_table, shown

_PLACE = {"few": "on the rare classes", "balanced_accuracy": "over all classes"}
# After so few rounds a study never looks whether a loss is told.
_TOO_FEW = {1: "one round", 2: "two rounds"}


def study_sentence(result: Mapping[str, Any]) -> str:
    """Return the answer of a study, and what of it time was too short for."""
    return _answer(result) + _short_of_time(result)


def _answer(result: Mapping[str, Any]) -> str:
    verdict, place = result["verdict"], _PLACE[result["question"]]
    arm, distance = verdict["arm"], _distance(verdict["mean"], verdict["low"], verdict["high"])
    images = f"{place} of the {verdict['decided_on']}"
    if verdict["is_told"]:
        return f"Use {arm}: {images} it beats softmax by {distance}.{_further_ahead(result)}"
    if verdict["reason"] and verdict["low"] is None and verdict["decided_on"] == "test images":
        why = verdict["reason"]
        return f"Use softmax: the test images cannot decide whether {arm} beats it ({why})."
    if verdict["mean"] <= 0:
        return f"Use softmax: {images} nothing is ahead of it; {arm} is {distance} behind."
    why = f" ({reason})" if (reason := verdict["reason"] or _why_untold(result)) else ""
    return (
        f"Use softmax: {_nothing(result)} a clear difference from it. {arm}, the best on held-out "
        f"images, is {distance} ahead {images}{why}."
    )


def _nothing(result: Mapping[str, Any]) -> str:
    """Return what shows no clear difference: no loss, or none of those that were compared."""
    short = result.get("short_of_time")
    if not short:
        return "no loss shows"
    compared = short["of"] - len(short["losses"])
    if compared == 1:
        return "the one loss that was compared does not show"
    return f"none of the {compared} losses that were compared shows"


def _short_of_time(result: Mapping[str, Any]) -> str:
    """Return how many losses were compared, and in which budget all are; nothing where all were."""
    short = result.get("short_of_time")
    if not short:
        return ""
    compared, minutes = short["of"] - len(short["losses"]), f"{short['budget'] / 60:.0f}m"
    way_out = (
        f"the same command with --budget {minutes} compares all"
        if short["continues"]
        else f"a new study, with --budget {minutes} and another --out, compares all"
    )
    verb = "was" if compared == 1 else "were"
    return f" Only {compared} of {short['of']} losses {verb} compared, for want of time: {way_out}."


def _further_ahead(result: Mapping[str, Any]) -> str:
    """Return which losses look better than the one that is told; nothing where none does."""
    ahead = {row["name"]: row.get("difference", 0.0) for row in result["held_out"]}
    own = ahead[result["verdict"]["arm"]]
    names = [name for name, one in ahead.items() if one > own]
    if not names:
        return ""
    verb = "is" if len(names) == 1 else "are"
    return f" {listed(names)} {verb} further ahead on held-out images, without a clear difference."


def _why_untold(result: Mapping[str, Any]) -> str:
    """Return why nothing is told although something looks so; nothing where nothing does."""
    verdict = result["verdict"]
    if verdict["decided_on"] == "test images":
        is_clear = result["settled"].get(verdict["arm"]) == "better"
        why = "the difference is clear on held-out images alone, and the test images decide"
        return why if is_clear else ""
    if result.get("rounds") in _TOO_FEW:
        return f"{_TOO_FEW[result['rounds']]} cannot tell that from chance"
    is_apart = verdict["low"] is not None and verdict["low"] > 0
    return "the level of 5% is for all looks and losses together" if is_apart else ""


def _distance(mean: float, low: float | None, high: float | None) -> str:
    size = f"{points(abs(mean))} points"
    if low is None or high is None:
        return size
    bounds = (low, high) if mean > 0 else (-high, -low)
    return f"{size} [{points(bounds[0])}, {points(bounds[1])}]"


def study_table(result: Mapping[str, Any]) -> Table:
    """Return a row for softmax and each arm that was trained with it."""
    place = _PLACE[result["question"]]
    table = new_table(
        f"Held-out images, {place}: means over {counted(result['rounds'], 'round')}, "
        "± the 95% interval of one loss alone",
        "loss",
    )
    for name in ("rounds", "score", "less softmax", "over the rounds"):
        table.add_column(name, justify="right")
    for row in result["held_out"]:
        difference = row.get("difference")
        half = row.get("half_width")
        around = "" if half is None else f" ± {100 * half:.1f}"
        table.add_row(
            shown(row["name"]),
            str(row["rounds"]),
            f"{100 * row['score']:.1f}",
            NOTHING if difference is None else f"{in_points(difference)}{around}",
            result["settled"].get(row["name"], NOTHING),
        )
    return table


def race_table(race: Mapping[str, float], arms: Sequence[str]) -> Table:
    """Return a row for each last layer that raced, the best first."""
    table = new_table("The race of last layers on the nets of the first round", "loss")
    table.add_column("score", justify="right")
    table.add_column("trained whole")
    for name in sorted(race, key=lambda name: -race[name]):
        table.add_row(shown(name), f"{100 * race[name]:.1f}", "yes" if name in arms else NOTHING)
    return table
