"""The learning rate as a pure function of the epoch, so that it survives a resume."""

import math

from lmsm_cli.config import Config


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
