"""Defaults by the data: what to train with where nobody said, from what is known of the images.

One pure function of a few facts. A preset or a config file is a whole recipe, so nothing here
changes it; a flag wins over each value alone, and the others follow it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lmsm_cli.errors import counted

Kind = Literal["digits", "grey", "objects", "numbers", "own"]
"""What the images show: `own` are a user's, `numbers` are coloured photos of digits."""

LEAST_BATCH, USUAL_BATCH = 8, 128
LEAST_STEPS = 20
"""Steps that an epoch has at least, where a batch of LEAST_BATCH allows it."""
STEPS = 1500
"""Steps that a training has at least, within the bounds of EPOCHS."""
EPOCHS = (10, 200)
SIDES = (32, 64, 96, 128, 224)
LARGEST_FROM_SCRATCH = 96
"""More pixels cost more than a net without pretrained weights makes of them."""
_LARGE = 64
"""Images from this size on are photos for a net that reduces them early."""
PHOTO_NET = "torchvision:resnet18"
"""The net for photos: its stem reduces them to a quarter of the pixels that `resnet18` keeps."""
_KEPT = 8 / 7
"""By this images are kept larger than the crops of them: the field takes 256 for 224."""
_OWN_PRESET = "the data set's own preset"
_FINE_TUNING = 0.3
"""By this the learning rate is lower for weights that have learned something already."""
_LONG = 2
"""Photos are said to be shrunk where their shorter side is this many times as long."""

# The rate of each optimiser at a batch of 128, and how it goes with the batch: Adam's with the
# square root (Malladi et al. 2022), SGD's in proportion (Goyal et al. 2017).
_RATES = {"adam": (0.001, 0.5), "adamw": (0.001, 0.5), "sgd": (0.05, 1.0)}
# Without BatchNorm VGG-16 takes no more (benchmarks/LOG.md).
_RATES_OF_VGG16 = _RATES | {"sgd": (0.04, 1.0)}


@dataclass(frozen=True)
class Facts:
    """What is known of the images of a training before any is decoded.

    They are of the whole data set: the same for every fold and every seed.
    """

    kind: Kind
    train_images: int
    """After profile and validation."""
    side: int
    """Of a published image in pixels; of a user's the median of the shorter sides."""
    shape: tuple[int, int] = (0, 0)
    """The medians of width and height of a user's images."""
    cached_weights: frozenset[str] = frozenset()
    """The nets whose ImageNet weights lie on this disk."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """The values of the data set's own preset; empty without one."""
    start: Mapping[str, Any] = field(default_factory=dict)
    """Model, neck, image size and kept size of the run whose weights the training starts from."""


@dataclass(frozen=True)
class Defaults:
    """Defaults with the reason of each, and what a user should know of them."""

    values: Mapping[str, Any] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def defaults_by_data(facts: Facts, given: Mapping[str, Any]) -> Defaults:
    """Return the defaults that follow from the images and from what was given.

    Args:
        facts: of the images.
        given: the values that were chosen; none of their keys is in the result.
    """
    chosen = _Chosen(given)
    _take_start(facts, chosen)
    for key in ("model", "neck", "optimizer", "batch_size", "epochs", "schedule"):
        if key in facts.recipe:
            chosen.take(key, facts.recipe[key], _OWN_PRESET)
    _choose_images(facts, chosen)
    _choose_net(facts, chosen)
    _choose_training(facts, chosen)
    return Defaults(chosen.values, chosen.reasons, (*_in_words(chosen.values), *chosen.notes))


def usual_batch(count: int) -> int:
    """Return the batch size for so many training images: a power of two, but for the fewest."""
    most = min(USUAL_BATCH, max(LEAST_BATCH, count // LEAST_STEPS))
    return min(1 << int(math.log2(most)), max(2, count))


def updates_an_epoch(images: int, batch_size: int, accumulate: int = 1) -> int:
    """Return how often an epoch changes the weights: once for `accumulate` batches or the rest."""
    return math.ceil(math.ceil(images / batch_size) / accumulate)


def usual_epochs(steps: int) -> int:
    """Return the epochs of so many steps each: STEPS in all at least, within EPOCHS."""
    fewest, largest = EPOCHS
    return min(max(-(-STEPS // steps), fewest), largest)


def _take_start(facts: Facts, chosen: "_Chosen") -> None:
    """Take what goes with the weights of the run to start from."""
    reason, start = "the run of --pretrained has it", facts.start
    for key in ("model", "neck", "loss", "head_bias", "epochs"):
        if key in start:
            chosen.take(key, start[key], reason)
    if facts.kind != "own" or "image_size" not in start:
        return
    chosen.take("image_size", start["image_size"], reason)
    same_size = chosen.number("image_size", 0) == start["image_size"]
    is_frozen = chosen.text("freeze") == "features"
    if (
        "crop_from" in start
        and is_frozen
        and same_size
        and chosen.text("resize") in ("crop", "None")
    ):
        chosen.take("crop_from", start["crop_from"], f"{reason}: a frozen net sees what it knows")


def _in_words(values: Mapping[str, Any]) -> list[str]:
    """Return the sentence on what was chosen; none where nothing was left to choose."""
    shown = (f"{key.replace('_', ' ')} {value}" for key, value in values.items())
    return [f"chosen by the data: {', '.join(shown)} (--show-config says why)"] if values else []


@dataclass
class _Chosen:
    """The defaults so far, beside the values that were given."""

    given: Mapping[str, Any]
    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, key: str, value: Any, reason: str) -> None:
        """Take a default, unless the key was given or has one already."""
        if key not in self.given and key not in self.values:
            self.values[key], self.reasons[key] = value, reason

    def text(self, key: str) -> str:
        """Return the value in force as text."""
        return str(self.given.get(key, self.values.get(key)))

    def number(self, key: str, fallback: int) -> int:
        """Return the number in force; the fallback where there is none, or none that can be."""
        try:
            return max(1, int(self.text(key)))
        except ValueError:  # Config says what is wrong with it
            return fallback


def _choose_images(facts: Facts, chosen: _Chosen) -> None:
    """Choose the size of a user's images, and whether to start from weights on this disk."""
    if facts.kind != "own":
        return
    width, height = facts.shape
    shown = f"photos of {width} x {height}"
    weights = _weights(facts, chosen)
    most = SIDES[-1] if weights else LARGEST_FROM_SCRATCH
    side = max((one for one in SIDES if one <= min(facts.side, most)), default=SIDES[0])
    chosen.take("image_size", side, shown)
    size = chosen.number("image_size", side)
    larger = next((one for one in SIDES if size < one <= facts.side), None)
    if larger is not None and facts.side >= _LONG * size:
        more = max(one for one in SIDES if one <= facts.side)
        chosen.notes.append(f"{shown} are brought to {size} x {size}; --image-size {more} for more")
    if weights:
        chosen.take("pretrained", "imagenet", f"the ImageNet weights of {weights} are on this disk")
    elif size >= _LARGE and "pretrained" not in chosen.given:
        chosen.notes.append(
            "training starts from scratch; --pretrained imagenet downloads weights that know "
            "photos, which few images gain most by"
        )


def _weights(facts: Facts, chosen: _Chosen) -> str | None:
    """Return the net whose weights a run starts from: those that were named, or are on the disk."""
    if "pretrained" in chosen.given:
        return chosen.text("model") if chosen.given["pretrained"] else None
    wanted = chosen.text("model") if "model" in chosen.given else PHOTO_NET
    large = facts.side >= _LARGE and chosen.number("image_size", _LARGE) >= _LARGE
    return wanted if large and wanted in facts.cached_weights else None


def _choose_net(facts: Facts, chosen: _Chosen) -> None:
    size = chosen.number("image_size", facts.side)
    if facts.kind == "grey":
        chosen.take("model", "paper-mnist", f"grey images of {size} x {size}")
    elif size >= _LARGE:
        chosen.take("model", PHOTO_NET, f"images of {size} x {size}")
    else:
        chosen.take("model", "resnet18", f"images of {size} x {size}")
    if facts.kind == "objects":
        chosen.take("augment", "crop-flip", "photos of objects")
    elif facts.kind == "own":
        augment = "photo" if size >= _LARGE else "crop-flip"
        chosen.take("augment", augment, f"images of {size} x {size}")
        _choose_crops(facts, chosen, size)


def _choose_crops(facts: Facts, chosen: _Chosen, size: int) -> None:
    """Choose at which size images are kept for `photo`; none is enlarged only to be cut again."""
    is_cut = chosen.text("augment") == "photo" and chosen.given.get("resize", "crop") == "crop"
    kept = min(round(size * _KEPT), facts.side)
    if is_cut and kept > size:
        chosen.take("crop_from", kept, f"crops of {size} x {size} come from larger images")


def _choose_training(facts: Facts, chosen: _Chosen) -> None:
    """Choose batch, epochs, learning rate and schedule."""
    count = facts.train_images
    batch = usual_batch(count)
    steps = -(-count // batch)
    chosen.take(
        "batch_size", batch, f"{count:,} training images make {counted(steps, 'step')} an epoch"
    )
    batch = chosen.number("batch_size", batch)
    steps = max(1, -(-count // batch))
    epochs = usual_epochs(steps)
    chosen.take("epochs", epochs, f"{counted(epochs * steps, 'step')} in all")
    chosen.take("schedule", "cosine", "it fits any number of epochs")
    if facts.kind == "grey":
        chosen.take("optimizer", "sgd", "paper-mnist trains best with it")
    chosen.take("optimizer", "adam", "it needs the least care")
    optimizer = chosen.text("optimizer")
    if facts.recipe.get("optimizer") == optimizer and batch == facts.recipe.get("batch_size"):
        chosen.take("lr", facts.recipe["lr"], _OWN_PRESET)
    rates = _RATES_OF_VGG16 if chosen.text("model") == "vgg16" else _RATES
    if optimizer in rates:
        rate, power = rates[optimizer]
        rate *= (batch / USUAL_BATCH) ** power
        start = chosen.given.get("pretrained") or chosen.values.get("pretrained")
        fine = _FINE_TUNING if start else 1.0
        reason = f"{optimizer} with batches of {batch}" + (" on trained weights" if start else "")
        chosen.take("lr", float(f"{rate * fine:.2g}"), reason)
