"""A user's own images as training, validation and test, divided where none are for the test."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lmsm_cli.data.folds import Division, Folds, fold_of_each, notes_on
from lmsm_cli.data.image_set import ImageSet, Labelled
from lmsm_cli.errors import DataError
from lmsm_cli.runtime.display import Display


class OwnFolder(NamedTuple):
    """A user's own images; `validation` only where there are images for it alone."""

    training: ImageSet
    validation: ImageSet | None
    test: ImageSet
    folds: Folds | None = None
    """Where the images are divided into folds, all of them."""


class Sides(NamedTuple):
    """Rows of images that are divided into some to train on and some to test on."""

    training: Tensor
    test: Tensor
    folds: Folds | None
    """Where there are folds, all of them."""


def sides_of(images: ImageSet | Labelled, division: Division, display: Display) -> Sides:
    """Return the rows on each side of a division; warn of what is not tested.

    Raises DataError where the images cannot be divided so.
    """
    labels = images.labels.numpy()
    numbers = fold_of_each(division, labels, images.classes, images.groups)
    for text in notes_on(numbers, labels, images.classes, division.folds):
        display.warning(text)
    is_test = numbers == (division.fold if division.folds else 0)
    training, test = (torch.from_numpy(np.flatnonzero(some)) for some in (~is_test, is_test))
    folds = Folds(images.classes, labels, images.digests, numbers) if division.folds else None
    return Sides(training, test, folds)


def divided(whole: Labelled, division: Division, display: Display) -> OwnFolder:
    """Return images that have no test set of their own, divided as `sides_of` does."""
    training, test, folds = sides_of(whole, division, display)
    images = whole.normalised(whole.own_normalisation(training))
    return OwnFolder(images.subset(training), None, images.subset(test), folds)


def check_undivided(data_dir: Path, division: Division) -> None:
    """Raise DataError where images that have a test folder are to be divided all the same."""
    asked = None
    if division.folds:
        asked = f"--folds {division.folds}"
    elif division.test_share != Division.test_share:
        asked = f"--test-share {division.test_share:g}"
    if asked:
        raise DataError(
            f"{asked} divides images that have no test images of their own, and {data_dir} has "
            "some: leave it out, give a folder with all images in class folders, or divide the "
            "training images with --test-from training"
        )
