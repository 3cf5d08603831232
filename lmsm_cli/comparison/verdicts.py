"""Whether a verdict may be given: Holm's step-down over several, what forbids or weakens one."""

from collections.abc import Hashable, Iterable, Sequence
from enum import StrEnum

import numpy as np

from lmsm_cli.comparison.two_way import Estimate, NoVerdict, Why

# Ten epochs of 6,400 images in batches of 128.
FEWEST_STEPS = 500
# A loss that falls in a straight line has a tenth of its fall in the last tenth of the epochs; a
# twentieth is still half as steep.
_LAST_PART, _STEEP = 10, 20


class Remark(StrEnum):
    """What is said beside a verdict, and forbids none."""

    FEW_STEPS = "few steps"
    STILL_FALLING = "training loss still falling"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return the adjusted p-values of Holm's step-down (1979), in the order of those given.

    Verdicts at an adjusted p of at most 0.05 are wrong anywhere in the family in at most 5% of
    studies, however the tests depend on each other. None stands for what is not tested, and is no
    part of the family.
    """
    tested = [number for number, p in enumerate(p_values) if p is not None]
    found = np.array([p_values[number] for number in tested], float)
    order = np.argsort(found, kind="stable")
    stepped = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    adjusted: list[float | None] = [None] * len(p_values)
    for place, p in zip(order, np.minimum(stepped, 1).tolist(), strict=True):
        adjusted[tested[place]] = p
    return adjusted


def holm_once(
    p_values: Sequence[float | None], hypotheses: Sequence[Hashable]
) -> tuple[list[float | None], int]:
    """Return Holm's adjusted p-values where a hypothesis counts once, and how many counted.

    Tests of one hypothesis stand and fall together: its largest p-value is the one that counts.

    Args:
        p_values: As for `holm`.
        hypotheses: What each of them tests; equal ones are one hypothesis.
    """
    largest: dict[Hashable, float] = {}
    for p, tested in zip(p_values, hypotheses, strict=True):
        if p is not None:
            largest[tested] = max(p, largest.get(tested, 0.0))
    adjusted = dict(zip(largest, holm(list(largest.values())), strict=True))
    found = [
        None if p is None else adjusted[tested]
        for p, tested in zip(p_values, hypotheses, strict=True)
    ]
    return found, len(largest)


def chance_forbids(arms: Iterable[Estimate], num_classes: int) -> NoVerdict | None:
    """Return the reason where no arm has learned the classes of a score, else None.

    Of an arm without an interval nobody can tell that.

    Args:
        arms: Each arm's own score, as `two_way` of `crossed` gives it.
        num_classes: All classes of the data, of which a guess finds one in so many.
    """
    lows = [_lower_bound(arm) for arm in arms]
    if any(low is None or low > 1 / num_classes for low in lows):
        return None
    return NoVerdict(Why.CHANCE)


def _lower_bound(arm: Estimate) -> float | None:
    """Return where an arm's interval begins: at its mean where nothing varies."""
    constant = any(reason.why is Why.NOTHING_VARIES for reason in arm.no_verdict)
    return arm.mean if constant else arm.low


def undertrained(train_losses: Sequence[float], steps: int) -> tuple[Remark, ...]:
    """Return what hints that a training was too short.

    Args:
        train_losses: The mean training loss of each epoch, in order.
        steps: The optimisation steps of the whole training.
    """
    remarks = []
    if steps < FEWEST_STEPS:
        remarks.append(Remark.FEW_STEPS)
    if _still_falls(train_losses):
        remarks.append(Remark.STILL_FALLING)
    return tuple(remarks)


def _still_falls(losses: Sequence[float]) -> bool:
    """Return whether the last tenth of the epochs has more than a twentieth of the whole fall."""
    if len(losses) < 2:
        return False
    last = max(1, len(losses) // _LAST_PART)
    fall, whole = losses[-1 - last] - losses[-1], losses[0] - losses[-1]
    return whole > 0 and fall > whole / _STEEP
