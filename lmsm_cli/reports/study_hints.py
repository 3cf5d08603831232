"""What a study says beside its answer: what helps with few photos, what its model learned from."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from lmsm_cli.config import Config
from lmsm_cli.data.sources import OWN
from lmsm_cli.errors import LmsmError, listed
from lmsm_cli.losses.head import is_long_tail
from lmsm_cli.models.pretrained import IMAGENET, check_pretrained

# Of a class with fewer images a study can tell little: a fifth of them are ten.
_FEW = 50
_MOST_NAMES = 3


def hints_of(
    document: Mapping[str, Any],
    config: Config,
    counts: Mapping[str, int],
    parts: Mapping[str, int],
) -> list[str]:
    """Return what helps where a study of a few photos has told nothing; nothing elsewhere.

    Args:
        document: The result of the study.
        config: Of its trainings.
        counts: The images of each class, by name.
        parts: How many images the model was trained, validated and tested on.
    """
    rare = sorted((count, name) for name, count in counts.items() if count < _FEW)
    if document["verdict"]["is_told"] or config.dataset not in OWN or not rare:
        return []
    names = [f"{name} ({count})" for count, name in rare]
    helps = f"few photos tell little: more of {listed(names, _MOST_NAMES)} would help"
    if _may_start_from_weights(config):
        helps += ", and so would --pretrained imagenet, weights that know photos"
    return [helps, *_adjusting(document, counts, parts)]


def _may_start_from_weights(config: Config) -> bool:
    if config.pretrained is None:
        with suppress(LmsmError):
            check_pretrained(config.model, IMAGENET)
            return True
    return False


def _adjusting(
    document: Mapping[str, Any], counts: Mapping[str, int], parts: Mapping[str, int]
) -> list[str]:
    """Return the command that corrects a model of softmax for rare classes, where it has any."""
    most, fewest = max(counts.values()), min(counts.values())
    if document["model"]["name"] != "softmax" or not is_long_tail(most, max(fewest, 1)):
        return []
    tau = "auto" if parts.get("validation") else "1"
    run = shlex.quote(document["model"]["run"])
    return [f"to try for the rare classes, in seconds: lmsm adjust {run} --adjust {tau}"]


def model_line(parts: Mapping[str, int], *, has_test: bool) -> str:
    """Return how many of the images the model was trained on, and what the others were for.

    Args:
        parts: How many images each part has.
        has_test: Whether the test images are the data's own, which no training may have.
    """
    others = {"test": parts["test"], "validation": parts["validation"]}
    if has_test:
        del others["test"]
    held = [f"{number:,} for {name}" for name, number in others.items() if number]
    trained, number = parts["training"], parts["training"] + sum(others.values())
    if not held:
        return f"the model was trained on all {number:,} training images"
    return (
        f"the model was trained on {trained:,} of {number:,} images ({trained / number:.0%}); held "
        f"out were {' and '.join(held)}"
    )
