"""What folds and groups make of a user's images, as plain data: for `lmsm data`."""

from dataclasses import dataclass

import numpy as np

from lmsm_cli.data.folds import NEVER, Folds, tested_seldom
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.data.own_folder import OwnFolder

# What stands for the fold of an image that no fold tests.
_NEVER_TESTED = "never tested"


@dataclass(frozen=True)
class FoldCounts:
    """How many images each fold tests."""

    number: int
    seed: int
    """Decides the division."""
    tested: dict[str, list[int]]
    """By class: the test images of each fold."""
    never: dict[str, int]
    """By class: the images that are trained on in every fold, and tested in none."""
    seldom: str | None
    """Which classes are tested in some folds alone, in words."""

    @property
    def totals(self) -> list[int]:
        """The test images of each fold."""
        return [sum(counts) for counts in zip(*self.tested.values(), strict=True)]


@dataclass(frozen=True)
class GroupFacts:
    """The groups of images that stay together."""

    count: int
    by_class: dict[str, int]
    """The groups that each class has images of."""
    largest: str
    largest_images: int


def fold_counts(folds: Folds, seed: int, most: int | None) -> FoldCounts:
    """Return how many images each fold tests; no more than `most` of a class in one."""
    classes, number = folds.classes, folds.count
    table = np.zeros((number, len(classes)), np.int64)
    for row, tested in zip(table, folds.tested_rows(most), strict=True):
        row += np.bincount(folds.labels[tested], minlength=len(classes))
    never = np.bincount(folds.labels[folds.numbers == NEVER], minlength=len(classes))
    return FoldCounts(
        number,
        seed,
        dict(zip(classes, table.T.tolist(), strict=True)),
        dict(zip(classes, never.tolist(), strict=True)),
        tested_seldom(folds.numbers, folds.labels, classes, number),
    )


def group_facts(own: OwnFolder) -> GroupFacts | None:
    """Return what groups the images are of; None where they have none."""
    sets = [one for one in (own.training, own.validation, own.test) if one]
    if any(one.groups is None for one in sets):
        return None
    groups = np.concatenate([one.groups for one in sets if one.groups is not None])
    labels = np.concatenate([one.labels.numpy() for one in sets])
    names, counts = np.unique(groups, return_counts=True)
    at = int(counts.argmax())
    by_class = {
        name: len(np.unique(groups[labels == label]))
        for label, name in enumerate(own.training.classes)
    }
    return GroupFacts(len(names), by_class, str(names[at]), int(counts[at]))


def sides_of_folds(own: OwnFolder, folds: Folds, fold: int) -> dict[str, ImageSet]:
    """Return all images by the fold that tests them: two of different folds are on two sides.

    Args:
        own: The images, those of one fold for the test.
        folds: Their folds.
        fold: Which one the test has.
    """
    others = folds.numbers[folds.numbers != fold]
    sides = {
        _name_of(number): own.training.subset(np.flatnonzero(others == number).tolist())
        for number in np.unique(others).tolist()
    }
    return {**sides, _name_of(fold): own.test}


def _name_of(fold: int) -> str:
    return _NEVER_TESTED if fold == NEVER else f"fold {fold}"
