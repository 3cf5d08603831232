"""What the net of a run was trained with, and whether the nets of several runs make one group."""

import hashlib
import json
from typing import Any, NamedTuple

from lmsm_cli.config import RUNTIME_KEYS, Config, dump
from lmsm_cli.config.defaults import updates_an_epoch
from lmsm_cli.config.keys import NONE
from lmsm_cli.losses.registry import normal_spec
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.start import checkpoint_of

# In what the first stages of one group may differ: they are its seeds, or folds of a repeat.
_DRAWN = ("seed", "fold", "split_seed", *RUNTIME_KEYS)


class FirstStage(NamedTuple):
    """What the net of a run was trained with, where the last layer alone is trained on it."""

    name: str
    """The loss and the beginning of a hash of all other choices, without seed and fold, as in
    `softmax@0b5c8fd21a34`."""
    steps: int
    """The optimisation steps of that training."""


def first_stage_of(config: Config) -> FirstStage | None:
    """Return the first stage of a run; None for one whose net is trained, or no run's."""
    state = checkpoint_of(config.pretrained) if config.freeze == "features" else None
    if state is None:
        return None
    told = _told(state)
    digest = hashlib.sha256(json.dumps(list(told.values()), sort_keys=True).encode())
    choices = state.config
    updates = updates_an_epoch(sum(state.train_counts), choices.batch_size, choices.accumulate)
    steps = state.epoch * updates
    return FirstStage(f"{told['choices']['loss']}@{digest.hexdigest()[:12]}", steps)


def unlike(one: CheckpointState, other: CheckpointState) -> list[str]:
    """Return in what the runs of two checkpoints differ, beside the seed and where they ran.

    Folds differ in the fold, and the repeats of a division into folds in how it was drawn.
    """
    told, others = _told(one), _told(other)
    choices, other_choices = told.pop("choices"), others.pop("choices")
    code, other_code = told.pop("own_code"), others.pop("own_code")
    pairs = [
        (key, own, of_other[key])
        for mine, of_other in ((choices, other_choices), (told, others))
        for key, own in mine.items()
    ]
    found = [f"{key} ({_shown(own)} and {_shown(its)})" for key, own, its in pairs if own != its]
    found += ["the code of their loss or net"] if code != other_code else []
    found += ["classes"] if one.classes != other.classes else []
    return found + _unlike_images(one, other)


def _shown(value: Any) -> str:
    return NONE if value is None else str(value)


def _unlike_images(one: CheckpointState, other: CheckpointState) -> list[str]:
    """Return which parts of the images of two runs are others; none where that is not known."""
    if one.images is None or other.images is None:
        return []
    known = one.images, other.images
    if one.config.folds and other.config.folds:  # each tests other ones of the same images
        return ["images"] if len({images.get("divided") for images in known}) > 1 else []
    parts = ("training", "validation", "test")
    return [f"{part} images" for part in parts if len({images.get(part) for images in known}) > 1]


def _told(state: CheckpointState) -> dict[str, Any]:
    """Return what tells the net of a run from those of other groups; its values are hashed in this
    order, and the hash is kept with the runs on the net."""
    choices = {key: value for key, value in dump(state.config).items() if key not in _DRAWN}
    return {
        "choices": choices | {"loss": normal_spec(state.config.loss)},
        # with patience each seed ends after an epoch of its own
        "epoch": None if state.config.patience else state.epoch,
        "lengthened_from": list(state.history.lengthened_from) if state.history else [],
        "own_code": {kind: one["sha256"] for kind, one in (state.own_code or {}).items()},
    }
