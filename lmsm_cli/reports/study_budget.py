"""What a budget that is too short for a study says: the smallest study, and all ways out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lmsm_cli.config import Config
from lmsm_cli.config.defaults import SIDES
from lmsm_cli.errors import counted
from lmsm_cli.reports.tables_checks import duration

# Fewer of a class tell nothing, and of a tenth of the epochs nets learn little.
_FEWEST_IMAGES, _FEWEST_EPOCHS = 10, 0.1


def smallest_lines(plan: Mapping[str, Any], parts: Mapping[str, float], heads: int) -> list[str]:
    """Return what the smallest study trains, and how long each part takes.

    Args:
        plan: Of one round.
        parts: The seconds of `rounds`, `race` and `whole`, trainings on all images.
        heads: How many last layers race.
    """
    folds, whole = plan["folds"] or 1, max(2 * plan["pairs"], 1)
    losses = "1 loss" if plan["arms"] == 1 else f"{plan['arms']} losses"
    trainings = counted(folds * (plan["arms"] + 1), "training")
    total = duration(sum(parts.values()))
    return [
        f"the smallest study of these images takes about {total}:",
        f"  {trainings} of softmax and {losses}: {duration(parts['rounds'])}",
        f"  {heads} last layers that race: {duration(parts['race'])}",
        f"  {counted(whole, 'training')} on all training images: {duration(parts['whole'])}",
    ]


def ways_out(share: float, minutes: int, config: Config, counts: Sequence[int]) -> list[str]:
    """Return the flags that make a study fit, each alone.

    Args:
        share: Of its training time that the budget allows, at the epochs of the config.
        minutes: A budget that allows it as it is.
        config: Of its trainings.
        counts: The images of each class.
    """
    found = [f"--budget {minutes}m"]
    epochs = math.floor(share * config.epochs)
    if epochs >= _FEWEST_EPOCHS * config.epochs:
        found.append(f"--epochs {epochs}, of {config.epochs} (too few may teach little)")
    sides = [one for one in SIDES if (one / config.image_size) ** 2 <= share]
    if sides:  # published images are smaller than all of these
        found.append(f"--image-size {max(sides)} --model {config.model}, of {config.image_size}")
    most = _images_of_a_class(share, counts)
    if most >= _FEWEST_IMAGES:
        what = f"--images-per-class {most} --epochs {config.epochs}"
        found.append(f"{what}, of {max(counts):,} images in the largest class")
    if len(found) == 1:
        return [f"what would do: {found[0]}"]
    return ["each of these would do, by an estimate:", *(f"  {one}" for one in found)]


def _images_of_a_class(share: float, counts: Sequence[int]) -> int:
    """Return the most images of a class that leave that share of all images."""
    room = share * sum(counts)
    return next((n for n in range(max(counts), 0, -1) if sum(min(n, c) for c in counts) <= room), 0)
