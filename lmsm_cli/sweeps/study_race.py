"""The time of a study's race: when it is over, and the budget in which all could race."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lmsm_cli.sweeps.study_plan import NO_TIME, RESERVE, TEST_IMAGES, Cost, StudyState

RACE = 0.45
"""The share of a budget after which no more candidate joins the race."""
# Seconds of one machine vary by so much from one hour to the next.
_MARGIN = 1.1


def is_over(state: StudyState, budget: float) -> bool:
    """Return whether the race has had its share of the budget, in seconds."""
    return state.race_begun + state.race_seconds > RACE * budget


def unraced(state: StudyState) -> list[str]:
    """Return the candidates that the race had no time for."""
    return [name for name, why in state.dropped.items() if why == NO_TIME]


def short_of_time(
    state: StudyState, result: Mapping[str, Any], candidates: int
) -> dict[str, Any] | None:
    """Return what was not compared for want of time, and what would do; None where all was.

    Args:
        state: Of the study, after its race.
        result: Its rounds, and what decided.
        candidates: How many there are in all.
    """
    names = unraced(state)
    if not names:
        return None
    return {
        "losses": names,
        "of": candidates,
        "budget": budget_for_all(state, len(names)),
        "continues": _can_race_again(state, result),
    }


def budget_for_all(state: StudyState, missing: int) -> float:
    """Return the seconds, in whole minutes, in which `missing` more candidates can race.

    They race as fast as the others did, and one more round is trained of those that win.
    """
    raced = max(1, len(state.race or ()) - 1)  # softmax is there without a race
    more = missing * state.race_seconds / raced
    race = (state.race_begun + state.race_seconds + more) / RACE
    plan = replace(state.plan, rounds=1)
    trainings = Cost(0, plan.run_seconds or 0, 0).of(plan)
    whole = (state.spent + more + trainings) / (1 - RESERVE)
    return 60.0 * math.ceil(_MARGIN * max(race, whole) / 60)


def race_again(state: StudyState) -> None:
    """Let the candidates race that had no time, if nothing was looked at yet."""
    if state.result is not None and unraced(state) and _can_race_again(state, state.result):
        state.arms, state.race, state.dropped = None, None, {}


def _can_race_again(state: StudyState, result: Mapping[str, Any]) -> bool:
    """Return whether other arms may be chosen: not after a look, or a question to test images."""
    looks: Sequence[int] = state.plan.looks
    asked = result["verdict"]["decided_on"] == TEST_IMAGES
    return not asked and all(look > result["rounds"] for look in looks)
