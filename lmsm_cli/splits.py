"""The images of a run: made long-tailed, and divided into training, validation and test."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lmsm_cli.config import Config
from lmsm_cli.data import sources
from lmsm_cli.data.imbalance import kept_counts, kept_indices, split, validation_counts
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.display import Display
from lmsm_cli.errors import LmsmError


@dataclass(frozen=True)
class Data:
    """The images of a run; `train_counts` are the training images per class."""

    training: ImageSet
    validation: ImageSet | None
    test: ImageSet

    @property
    def train_counts(self) -> list[int]:
        """Training images per class, validation excluded."""
        return self.training.counts()


def planned_counts(config: Config) -> list[int] | None:
    """Return the training images per class that a run will have, by the published counts.

    Nothing is read; None where only the data itself knows. Raises LmsmError where
    they are too few.
    """
    published = sources.source_of(config.dataset).train_counts
    return None if published is None else counts_left(config, published)


def counts_left(config: Config, available: Sequence[int]) -> list[int]:
    """Return what the profile and the validation leave of each class; raise where that is too few."""
    kept = _kept(config, available)
    held_out = [max(0, count) for count in validation_counts(kept, config.validation)]
    if config.validation > 0 and sum(held_out) == 0:
        raise LmsmError(f"validation is {config.validation}: no class is large enough to hold out an image; use --validation 0 or more")  # fmt: skip
    left = [count - held for count, held in zip(kept, held_out, strict=True)]
    if config.batch_size > sum(left):
        raise LmsmError(f"batch_size is {config.batch_size}: only {sum(left)} training images are left; use at most {sum(left)}")  # fmt: skip
    return left


def _kept(config: Config, available: Sequence[int]) -> list[int]:
    return kept_counts(available, config.imbalance, config.factor, config.images_per_class)


def load_training(config: Config, display: Display) -> tuple[ImageSet, ImageSet | None]:
    """Return the long-tailed training images and the validation images split off them."""
    full = sources.load(config.dataset, config.data_dir, "train", image_size=config.image_size, display=display)  # fmt: skip
    counts_left(config, full.counts())
    if config.imbalance != "none" or config.images_per_class:
        counts = _kept(config, full.counts())
        full = full.subset(torch.from_numpy(kept_indices(full.labels.numpy(), counts)))
    if config.validation == 0:
        return full, None
    train_part, held_out = split(full.labels.numpy(), len(full.classes), config.validation, config.split_seed)  # fmt: skip
    return full.subset(torch.from_numpy(train_part)), full.subset(torch.from_numpy(held_out))


def load_test(config: Config, display: Display) -> ImageSet:
    """Return the test images."""
    return sources.load(config.dataset, config.data_dir, "test", image_size=config.image_size, display=display)  # fmt: skip
