"""When a training stops before its last epoch: `--patience` epochs without a better score."""

import math

from lmsm_cli.config import Config
from lmsm_cli.losses.head import Head
from lmsm_cli.training.resume import History


def is_out_of_patience(config: Config, history: History, head: Head) -> bool:
    """Say whether a training stops after the last epoch of its history.

    Better is what replaces best.pt. Epochs count from the one at whose end the margin is fully
    there: until then scores fall and rise with lambda.
    """
    if config.patience is None or history.best is None:
        return False
    done = len(history.rows)
    best: int = history.best["epoch"]
    return done - max(best, _settled(config.epochs, head)) >= config.patience


def _settled(epochs: int, head: Head) -> int:
    """Return the first epoch, counted from 1, at whose end lambda is what it is at the last's."""
    final = head.lambda_at(1.0)
    if final is None:
        return 0
    for epoch in range(1, epochs):
        lam = head.lambda_at(epoch / epochs)
        if lam is not None and math.isclose(lam, final, rel_tol=1e-9):
            return epoch
    return epochs
