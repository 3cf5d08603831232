"""A training recipe in words, phrase by phrase, so that two recipes can be compared by the phrase.

To tell of one more choice, add a phrase: the first of its keys is the one that a recipe has to have
for the phrase to be known of it.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lmsm_cli.config.in_words import augmentation_text
from lmsm_cli.errors import counted

Choices = Mapping[str, Any]


def _optimizer(choices: Choices) -> str:
    name, rate = choices["optimizer"], f"{choices['lr']:g}"
    if name != "sgd":
        return f"{ {'adam': 'Adam', 'adamw': 'AdamW'}[name] } {rate}"
    momentum = choices.get("momentum")
    return f"SGD {rate}" if momentum is None else f"SGD {rate}, momentum {momentum:g}"


def _schedule(choices: Choices) -> str:
    kind = choices["schedule"]
    if kind == "step":
        return f"rate x {choices['gamma']:g} every {counted(choices['step_size'], 'epoch')}"
    if kind == "multistep":
        shares = [f"{100 * one / choices['epochs']:.0f}" for one in choices["milestones"]]
        return f"rate x {choices['gamma']:g} after {' and '.join(shares)}% of the epochs"
    return f"{kind} rate"


def _warmup(choices: Choices) -> str:
    return (
        f"{counted(choices['warmup'], 'epoch')} of warm-up" if choices["warmup"] else "no warm-up"
    )


def _augment(choices: Choices) -> str:
    text = augmentation_text(choices)
    return "no augmentation" if text == "none" else text


def _head(choices: Choices) -> str:
    return f"{'a' if choices['head_bias'] else 'no'} bias in the last layer"


def _start(choices: Choices) -> str:
    weights = choices["pretrained"]
    if not weights:
        return "from scratch"
    return "from ImageNet weights" if weights == "imagenet" else "from other weights"


def _images(choices: Choices) -> str:
    most = choices["images_per_class"]
    return f"at most {most} images a class" if most else "all images of a class"


def _held_out(choices: Choices) -> str:
    share = choices["validation"]
    return f"{100 * share:g}% held out" if share else "none held out"


_PHRASES: dict[str, Callable[[Choices], str]] = {
    "epochs": lambda choices: counted(choices["epochs"], "epoch"),
    "optimizer": _optimizer,
    "weight_decay": lambda choices: f"weight decay {choices['weight_decay']:g}",
    "batch_size": lambda choices: f"batches of {choices['batch_size']}",
    "schedule": _schedule,
    "warmup": _warmup,
    "augment": _augment,
    "neck": lambda choices: f"neck {choices['neck']}",
    "head_bias": _head,
    "head_init": lambda choices: f"{choices['head_init']} start of the last layer",
    "pretrained": _start,
    "images_per_class": _images,
    "validation": _held_out,
    "precision": lambda choices: str(choices["precision"]).replace("auto", "precision by device"),
}


def in_words(settings: Iterable[Choices], *, without: Iterable[str] = ()) -> str:
    """Return what some runs were trained with; where they differ, each of it.

    Args:
        settings: Whole configs, of at least one run.
        without: The first keys of phrases that are left out.

    >>> in_words([{"epochs": 30, "batch_size": 8}, {"epochs": 90, "batch_size": 8}])
    '30 epochs or 90 epochs; batches of 8'
    """
    told = []
    for key, tell in _PHRASES.items():
        found = dict.fromkeys(tell(one) for one in settings if key in one and key not in without)
        if found:
            told.append(" or ".join(found))
    return "; ".join(told)


def differences(there: Choices, here: Choices) -> list[str]:
    """Return what is known of a recipe and is otherwise in another, with both.

    >>> differences({"epochs": 200, "neck": "bn"}, {"epochs": 30, "neck": "bn", "lr": 1})
    ['200 epochs (ours: 30 epochs)']
    """
    both = [(tell(there), tell(here)) for key, tell in _PHRASES.items() if key in there]
    return [f"{one} (ours: {other})" for one, other in both if one != other]
