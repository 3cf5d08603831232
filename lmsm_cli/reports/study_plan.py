"""What a study will do, take and be able to show, before any training: its plan in lines."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmsm_cli.comparison.answers import rare_to_ask
from lmsm_cli.errors import counted
from lmsm_cli.reports.tables_checks import disk_line


def plan_lines(
    plan: Mapping[str, Any],
    counts: Sequence[int],
    trained_counts: Sequence[int],
    measured: Mapping[str, Any],
    heads: int,
) -> list[str]:
    """Return what a study will do, what it takes and what it can show, a line each.

    Args:
        plan: Of study.json.
        counts: The images of each class that trainings and held-out images share.
        trained_counts: The training images of each class, which say which are rare.
        measured: What the first training takes; {} where nothing was measured.
        heads: How many last layers race.
    """
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
        *([_line_of_pairs(plan)] if pairs else _lines_of_looks(plan, counts, trained_counts)),
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


def _lines_of_looks(
    plan: Mapping[str, Any], counts: Sequence[int], trained_counts: Sequence[int]
) -> list[str]:
    """Return when a study without test images may end, and how small a difference it can show."""
    held = [count if plan["folds"] else round(0.2 * count) for count in counts]
    rare = rare_to_ask(held, trained_counts)
    place = "of the rare classes" if rare else "over all classes"
    images = sum(held[number] for number in rare) if rare else sum(held)
    # as if one image in four were told differently by two nets of a round
    width = 100 * 2 * math.sqrt(0.25 / max(images, 1) / max(plan["rounds"], 1))
    return [
        _line_of_looks(plan),
        f"about {images:,} held-out images {place}: on these, differences below about "
        f"{width:.0f} points cannot be told from chance",
    ]


def _line_of_looks(plan: Mapping[str, Any]) -> str:
    """Return after which rounds a study may end."""
    if not plan["looks"]:
        way_out = "a larger --budget for three" if plan["run_seconds"] else "--rounds 3"
        return f"too few rounds to tell a loss from chance: give {way_out} at least"
    *before, last = map(str, plan["looks"])
    rounds = f"rounds {', '.join(before)} and {last}" if before else f"round {last}"
    return f"after {rounds} it asks whether a loss is clearly better than softmax; if so, it ends"
