"""Learning rate and annealing as functions of the epoch, so that they survive a resume."""

import math
from typing import TYPE_CHECKING, Any

from lmsm_cli.config import Config

if TYPE_CHECKING:
    from lmsm_cli.losses.head import Head


def learning_rate(config: Config, epoch: int) -> float:
    """Return the learning rate of an epoch, counted from 0.

    Warm-up epoch e (from 1) has lr e / warmup, as in LDAM-DRW; `cosine` falls to 0 over the epochs
    after the warm-up.
    """
    if epoch < config.warmup:
        return config.lr * (epoch + 1) / config.warmup
    match config.schedule:
        case "step":
            return config.lr * config.gamma ** (epoch // config.step_size)
        case "multistep":
            return config.lr * config.gamma ** sum(epoch >= end for end in config.milestones)
        case "cosine":
            done = (epoch - config.warmup) / max(1, config.epochs - config.warmup)
            return config.lr * (1 + math.cos(math.pi * done)) / 2
        case "constant":
            return config.lr


def planned_epochs(config: Config, head: "Head") -> list[dict[str, Any]]:
    """Return epoch, lr, lambda and effective margin of every epoch, as in metrics.jsonl.

    Epochs count from 1; lambda and margin are those at the epoch's end, None for a loss without.
    """
    return [
        {
            "epoch": n + 1,
            "lr": learning_rate(config, n),
            **_annealing(head, (n + 1) / config.epochs),
        }
        for n in range(config.epochs)
    ]


def annealing_curve(config: Config, head: "Head", points: int = 400) -> list[dict[str, Any]]:
    """Return lambda and effective margin between the epochs' ends too, at equal distances.

    `epoch` is the number of epochs done: a fraction, from 0 to the end of the training.
    """
    return [
        {"epoch": config.epochs * n / points, **_annealing(head, n / points)}
        for n in range(points + 1)
    ]


def _annealing(head: "Head", progress: float) -> dict[str, float | None]:
    return {
        "lambda": head.lambda_at(progress),
        "effective_margin": head.effective_margin_at(progress),
    }
