"""What a config says of a training, in words: for pages, plots and tables."""

from collections.abc import Mapping
from typing import Any


def augmentation_text(config: Mapping[str, Any]) -> str:
    """Return how the training images of a run are changed; `none` where they are not.

    >>> augmentation_text({"augment": "crop-flip", "mixup": 0.2, "cutmix": 0.0})
    'crop-flip, mixup 0.2'
    """
    changes = [str(config["augment"])] if config.get("augment", "none") != "none" else []
    mixed = [f"{way} {config[way]:g}" for way in ("mixup", "cutmix") if config.get(way)]
    return ", ".join([*changes, *mixed]) or "none"


def history_title(config: Mapping[str, Any]) -> str:
    """Return what must be known of the training images to read a run's curves; mostly nothing."""
    text = augmentation_text(config)
    if text == "none":
        return ""
    counted = ""
    if config.get("mixup") or config.get("cutmix"):
        counted = "; of two labels, that of the larger share counts"
    return f"training images: {text}{counted}"
