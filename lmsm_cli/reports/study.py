"""What a study found, in a sentence and a table, and what its plan is able to show."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lmsm_cli.errors import counted, listed
from lmsm_cli.reports.tables import NOTHING, new_table, shown
from lmsm_cli.reports.tables_checks import disk_line

_PLACE = {"few": "on the rare classes", "balanced_accuracy": "over all classes"}


def study_sentence(result: Mapping[str, Any]) -> str:
    """Return the answer of a study."""
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
        f"Use softmax: no loss shows a clear difference from it. {arm}, the best on held-out "
        f"images, is {distance} ahead {images}{why}."
    )


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
    is_apart = verdict["low"] is not None and verdict["low"] > 0
    return "the level of 5% is for all looks and losses together" if is_apart else ""


def _distance(mean: float, low: float | None, high: float | None) -> str:
    size = f"{100 * abs(mean):.1f} points"
    if low is None or high is None:
        return size
    bounds = (low, high) if mean > 0 else (-high, -low)
    return f"{size} [{100 * bounds[0]:.1f}, {100 * bounds[1]:.1f}]"


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
            NOTHING if difference is None else f"{100 * difference:+.1f}{around}",
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


def plan_lines(
    plan: Mapping[str, Any], counts: Sequence[int], measured: Mapping[str, Any], heads: int
) -> list[str]:
    """Return what a study will do, what it takes and what it can show, a line each."""
    folds, rounds, pairs = plan["folds"], plan["rounds"], plan["pairs"]
    held = (
        f"each round holds every training image out once, in {folds} folds"
        if folds
        else "each round is judged on a fifth of the training images, held out of it"
    )
    trainings = rounds * (folds or 1) * (plan["arms"] + 1)
    seconds = plan["expected_seconds"] or (trainings + 2 * pairs) * measured.get("seconds", 0)
    takes = f"about {counted(math.ceil(seconds / 60), 'minute')} in all" if seconds else ""
    losses = "1 loss" if plan["arms"] == 1 else f"{plan['arms']} losses"
    lines = [
        f"{counted(rounds, 'round')}; {held}",
        f"{heads} last layers race, then {losses} and softmax are trained whole: "
        f"{counted(trainings, 'training')}",
        *([_line_of_pairs(plan)] if pairs else _lines_of_looks(plan, counts)),
        *([takes] if takes else []),
        *([line] if (line := line_of_epochs(plan)) else []),
    ]
    if "bytes" in measured:
        room = measured["bytes"] * (trainings + 2 * pairs)
        lines.append(disk_line(room, measured["free_bytes"]))
    return lines


def line_of_epochs(plan: Mapping[str, Any]) -> str:
    """Return that a budget took epochs away; nothing where it did not."""
    if not plan["epochs"]:
        return ""
    return (
        f"each training has {plan['epochs']} epochs, not {plan['usual_epochs']}, so that a round "
        "fits into the budget"
    )


def _line_of_pairs(plan: Mapping[str, Any]) -> str:
    more = "" if plan["run_seconds"] is None else ", and with more while time is left"
    return (
        "then the loss that is ahead and softmax are trained on all training images, with "
        f"{counted(plan['pairs'], 'seed')} each{more}; the test images decide"
    )


def _lines_of_looks(plan: Mapping[str, Any], counts: Sequence[int]) -> list[str]:
    """Return when a study without test images may end, and how small a difference it can show."""
    folds, rounds = plan["folds"], plan["rounds"]
    rare = sum(sorted(counts)[: max(1, len(counts) // 3)]) * (1 if folds else 0.2)
    # as if one image in four were told differently by two nets of a round
    width = 100 * 2 * math.sqrt(0.25 / max(rare, 1) / max(rounds, 1))
    return [
        f"it looks after rounds {', '.join(map(str, plan['looks']))}"
        if plan["looks"]
        else "too few rounds to stop before the end: give a larger --budget for three at least",
        f"about {rare:,.0f} held-out images of the rarest third of the classes: differences below "
        f"about {width:.0f} points will not be clear",
    ]
