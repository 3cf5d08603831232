"""When a training stops before its last epoch: `--patience` epochs without a better score."""

import math
from enum import StrEnum

from lmsm_cli.config import Config
from lmsm_cli.losses.head import Head
from lmsm_cli.training.resume import History

# Shares of the margin that scores do not show: the power law nears its end, and never gets there.
_NEARLY = 0.01


class Awaited(StrEnum):
    """What is not there from the first epoch on."""

    MARGIN = "the margin is fully there"
    WARMUP = "the warm-up is over"
    REBALANCING = "the classes are rebalanced"


def is_out_of_patience(config: Config, history: History, head: Head) -> bool:
    """Say whether a training stops after the last epoch of its history.

    Better is what replaces best.pt. Epochs count from where the training is what it was to be: the
    margin is there, to a hundredth, since until then scores fall and rise with lambda; the rate is
    warm; the classes are rebalanced. They count anew where the run was made longer.
    """
    if config.patience is None or history.best is None:
        return False
    done = len(history.rows)
    best: int = history.best["epoch"]
    settled, _ = _settled(config, head)
    return done - max(best, settled, history.patient_from) >= config.patience


def hopeless_patience(config: Config, head: Head) -> str:
    """Return why the patience of a config can end no training with this head; "" if it can."""
    settled, awaited = _settled(config, head)
    if config.patience is None or settled + config.patience < config.epochs:
        return ""
    earlier = ", or an anneal_end in the loss" if awaited is Awaited.MARGIN else ""
    return (
        f"patience {config.patience} has no effect: epochs count from where {awaited}, after epoch "
        f"{settled} of {config.epochs}; take less{earlier}"
    )


def _settled(config: Config, head: Head) -> tuple[int, Awaited]:
    """Return after how many epochs the training is what it was to be, and what that awaits."""
    found = {
        Awaited.MARGIN: _full_margin(config.epochs, head),
        Awaited.WARMUP: config.warmup,
        Awaited.REBALANCING: config.rebalance_from - 1,
    }
    awaited = max(found, key=lambda one: found[one])
    return found[awaited], awaited


def _full_margin(epochs: int, head: Head) -> int:
    """Return the first epoch, counted from 1, at whose end the margin is nearly the last one's."""
    final = head.effective_margin_at(1.0)
    if head.lambda_at(1.0) is None or final is None:
        return 0
    for epoch in range(1, epochs):
        margin = head.effective_margin_at(epoch / epochs)
        if margin is not None and math.isclose(margin, final, rel_tol=_NEARLY):
            return epoch
    return epochs
