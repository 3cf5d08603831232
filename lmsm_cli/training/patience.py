"""When a training stops before its last epoch: `--patience` epochs without a better score."""

import math

from lmsm_cli.config import Config
from lmsm_cli.losses.head import Head
from lmsm_cli.training.resume import History

# Shares of the margin that scores do not show: the power law nears its end, and never gets there.
_NEARLY = 0.01


def is_out_of_patience(config: Config, history: History, head: Head) -> bool:
    """Say whether a training stops after the last epoch of its history.

    Better is what replaces best.pt. Epochs count from the one at whose end the margin is fully
    there, to a hundredth: until then scores fall and rise with lambda.
    """
    if config.patience is None or history.best is None:
        return False
    done = len(history.rows)
    best: int = history.best["epoch"]
    return done - max(best, _settled(config.epochs, head)) >= config.patience


def hopeless_patience(config: Config, head: Head) -> str:
    """Return why the patience of a config can end no training with this head; "" if it can."""
    settled = _settled(config.epochs, head)
    if config.patience is None or settled + config.patience < config.epochs:
        return ""
    return (
        f"patience {config.patience} has no effect: epochs count from where the margin is fully "
        f"there, after epoch {settled} of {config.epochs}; take less, or an anneal_end in the loss"
    )


def _settled(epochs: int, head: Head) -> int:
    """Return the first epoch, counted from 1, at whose end the margin is nearly the last one's."""
    final = head.effective_margin_at(1.0)
    if head.lambda_at(1.0) is None or final is None:
        return 0
    for epoch in range(1, epochs):
        margin = head.effective_margin_at(epoch / epochs)
        if margin is not None and math.isclose(margin, final, rel_tol=_NEARLY):
            return epoch
    return epochs
