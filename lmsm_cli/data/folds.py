"""Divide images that have no test set of their own: a fixed share for the test, or folds in turn.

Images of one group, such as the pictures of one subject, always stay on one side. A class of one
image is trained on and never tested, since without it nothing would be known of the class.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.data.identity import Digests, rows_of_smallest_digests, split_digest
from lmsm_cli.errors import DataError, counted, few

NEVER = -1
"""The fold of an image that is in no test."""
# Draws of grouped folds until each fold has test images, and each class training images, in all.
_MOST_DRAWS = 50

_Groups = NDArray[np.int64]  # (N,): numbers of the groups


@dataclass(frozen=True)
class Division:
    """How images without a test set of their own are divided into training and test images."""

    test_share: float = 0.2
    """Of each class, for the test; without folds."""
    folds: int | None = None
    fold: int = 0
    """The fold that is tested on."""
    seed: int = 0
    """Decides the folds."""
    group_pattern: str | None = None
    """Finds an image's group in its file's name (see `groups_of`)."""


A_FIFTH = Division()


@dataclass(frozen=True, eq=False)
class Folds:
    """All images that some folds divide among them."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]  # (N,)
    digests: Digests  # (N, 16)
    numbers: NDArray[np.int64]  # (N,): the fold that each image is tested in, or NEVER

    @property
    def counts(self) -> list[int]:
        """The images of each class."""
        counts: list[int] = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return counts

    @property
    def count(self) -> int:
        """The number of folds."""
        return int(self.numbers.max()) + 1

    def tested_rows(self, most: int | None = None) -> list[NDArray[np.intp]]:
        """Return the rows of the images that each fold tests, at most so many of a class."""
        parts = [np.flatnonzero(self.numbers == number) for number in range(self.count)]
        if most is None:
            return parts
        return [
            part[rows_of_smallest_digests(self.labels[part], self.digests[part], most)]
            for part in parts
        ]

    def tested_digest(self, most: int | None = None) -> str:
        """Return the digest of the images that the folds test among them.

        `most` is the number of test images that a class has at most in one fold.
        """
        rows = np.concatenate(self.tested_rows(most))
        return split_digest(self.classes, self.labels[rows], self.digests[rows])


def groups_of(names: Sequence[str], pattern: str) -> NDArray[np.str_]:
    """Return the group (N,) of each file: what the first group of a regular expression matches.

    Args:
        names: Of the files, below the data folder, with `/` between folders.
        pattern: Is searched for in each name.

    Raises DataError that names files in which the pattern finds no group.
    """
    found = [re.search(pattern, name) for name in names]
    groups = [match.group(1) if match else None for match in found]
    lacking = [repr(name) for name, group in zip(names, groups, strict=True) if not group]
    if lacking:
        raise DataError(
            f"group_pattern {pattern!r} finds no group in {counted(len(lacking), 'file name')} of "
            f"{len(names):,}: {few(lacking, 5)}; it is searched for in the names below the data "
            "folder, and its first group in parentheses must match"
        )
    return np.array(groups, np.str_)


def fold_of_each(
    division: Division,
    labels: NDArray[np.int64],
    classes: Sequence[str],
    groups: NDArray[np.str_] | None = None,
) -> NDArray[np.int64]:
    """Return the fold (N,) that each image is tested in, or NEVER; without folds the test is 0.

    Args:
        division: What is asked for.
        labels: Class numbers (N,).
        classes: The names of all classes.
        groups: The group of each image (N,), where images of one are to stay together.

    Raises DataError where the images cannot be divided so, naming the classes.
    """
    numbers = None
    if groups is not None:
        numbers = np.unique(groups, return_inverse=True)[1].astype(np.int64)
        _check_groups(labels, classes, groups, numbers)
    counts = np.bincount(labels, minlength=len(classes))
    if counts.max() < 2:
        raise DataError(
            "no class has two images, so that none can be trained on and tested too: add images"
        )
    if division.folds is None:
        if numbers is None:
            is_test = fixed_share(labels, len(classes), division.test_share)
        else:
            wanted = [share_of(int(n), division.test_share) for n in counts]
            draws = np.random.RandomState(0)  # as in fixed_share
            is_test = grouped_share(labels, numbers, wanted, draws)
        return np.where(is_test, 0, NEVER)
    return _fold_numbers(labels, classes, division.folds, division.seed, numbers)


def fixed_share(labels: NDArray[np.int64], num_classes: int, share: float) -> NDArray[np.bool_]:
    """Return which images (N,) are for the test: the same share of each class, the same always.

    It is one image at least, but of a class of one image, which is never tested.
    """
    draws = np.random.RandomState(0)  # its stream is frozen for good, default_rng's is not
    is_test = np.zeros(len(labels), dtype=bool)
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        is_test[draws.permutation(own)[: share_of(len(own), share)]] = True
    return is_test


def share_of(count: int, share: float) -> int:
    """Return how many of a class's images are that share of it: one at least, of one none."""
    return max(0, min(count - 1, max(1, round(share * count))))


def grouped_share(
    labels: NDArray[np.int64],
    groups: _Groups,
    wanted: Sequence[int],
    draws: np.random.RandomState | np.random.Generator,
) -> NDArray[np.bool_]:
    """Return a choice (N,) of whole groups, by class about as many images as wanted.

    In random order, a group is taken where it brings the counts nearer to the wanted ones (in the
    sum of squares), and leaves an image of every class; then a small one of each class that has
    got none, where one is wanted. scikit-learn's GroupShuffleSplit would not
    look at the classes, and its StratifiedGroupKFold takes no share but 1/K.

    Args:
        labels, groups: Of each image (N,).
        wanted: The number of images by class (C,).
        draws: Decides the order.
    """
    members = _members(groups)
    goal = np.array(wanted)
    left = np.bincount(labels, minlength=len(goal))
    have = np.zeros(len(goal), np.int64)
    chosen = np.zeros(len(labels), dtype=bool)

    def take(number: int, *, whatever: bool = False) -> None:
        some, counts = np.unique(labels[members[number]], return_counts=True)
        nearer = (counts * (counts + 2 * (have[some] - goal[some]))).sum() < 0
        if (nearer or whatever) and (left[some] > counts).all():
            left[some] -= counts
            have[some] += counts
            chosen[members[number]] = True

    for number in draws.permutation(len(members)).tolist():
        take(number)
    for label in np.flatnonzero((have == 0) & (goal > 0)).tolist():
        own = np.unique(groups[labels == label]).tolist()
        for number in sorted(own, key=lambda number: len(members[number])):
            if have[label] == 0:
                take(number, whatever=True)
    return chosen


def _members(groups: _Groups) -> list[NDArray[np.intp]]:
    """Return the rows of each group."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _fold_numbers(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    folds: int,
    seed: int,
    groups: _Groups | None,
) -> NDArray[np.int64]:
    """Return the fold (N,) that each image is tested in, or NEVER."""
    alone = np.bincount(labels, minlength=len(classes))[labels] == 1
    if groups is not None:  # or its group would stand on both sides
        alone = np.isin(groups, groups[alone])
    rows = np.flatnonzero(~alone)
    _check_folds(labels[rows], classes, folds, None if groups is None else groups[rows])
    numbers = np.full(len(labels), NEVER)
    if groups is None:
        numbers[rows] = _drawn(labels[rows], folds, np.random.RandomState(seed))
        return numbers
    draws = np.random.RandomState(seed)
    for _ in range(_MOST_DRAWS):
        numbers[rows] = _drawn(labels[rows], folds, draws, groups[rows])
        untrained = _untrained(labels, numbers, folds)
        if not untrained and len(np.unique(numbers[rows])) == folds:
            return numbers
    named = ", ".join(repr(classes[label]) for label in untrained) or "its groups"
    raise DataError(
        f"no division into {folds} folds was found that leaves test images to each fold and "
        f"training images to each class beside it: {named} cannot be spread; take fewer --folds"
    )


def _drawn(
    labels: NDArray[np.int64],
    folds: int,
    draws: np.random.RandomState,
    groups: _Groups | None = None,
) -> NDArray[np.int64]:
    """Return stratified folds (N,) as scikit-learn draws them."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = kind(n_splits=folds, shuffle=True, random_state=draws)
    numbers = np.empty(len(labels), np.int64)
    with warnings.catch_warnings():  # a class with fewer images than folds: `notes_on` tells it
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        for number, (_, tested) in enumerate(splitter.split(labels, labels, groups)):
            numbers[tested] = number
    return numbers


def _untrained(labels: NDArray[np.int64], numbers: NDArray[np.int64], folds: int) -> list[int]:
    """Return the classes that have no training image beside one of the folds."""
    in_fold = np.zeros((labels.max() + 1, folds), np.int64)
    is_tested = numbers != NEVER
    np.add.at(in_fold, (labels[is_tested], numbers[is_tested]), 1)
    whole = np.bincount(labels)
    missing: list[int] = np.flatnonzero((whole > 0) & (in_fold.max(axis=1) == whole)).tolist()
    return missing


def _check_folds(
    labels: NDArray[np.int64], classes: Sequence[str], folds: int, groups: _Groups | None
) -> None:
    """Raise DataError where a fold would have no test image."""
    counts = np.bincount(labels, minlength=len(classes))
    largest = int(counts.max(initial=0))
    if folds > largest:
        raise DataError(
            f"folds is {folds}: no class has so many images to test, the largest, "
            f"{classes[int(counts.argmax())]!r}, has {largest}; take --folds {max(2, largest)} "
            "or less"
        )
    if groups is not None and folds > (found := len(np.unique(groups))):
        raise DataError(f"folds is {folds}: there are only {found} groups; take fewer --folds")


def _check_groups(
    labels: NDArray[np.int64],
    classes: Sequence[str],
    groups: NDArray[np.str_],
    numbers: _Groups,
) -> None:
    """Raise DataError where one group holds everything, or all of the images of a class."""
    if numbers.max() == 0:
        raise DataError(
            f"all {len(labels):,} images are of one group, {str(groups[0])!r}: training and test "
            "need one each; see what the group is taken from"
        )
    problems = []
    for label, name in enumerate(classes):
        own = np.flatnonzero(labels == label)
        if len(own) > 1 and (numbers[own] == numbers[own[0]]).all():
            problems.append(f"{name!r} ({len(own)} images of {str(groups[own[0]])!r})")
    if problems:
        raise DataError(
            f"all images of a class are of one group, so that it cannot be trained on and tested "
            f"too: {few(problems, 5)}; add images of other groups, or leave the class out"
        )


def notes_on(
    numbers: NDArray[np.int64],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    folds: int | None,
) -> list[str]:
    """Return which classes are never tested, and which not in every fold, a sentence each.

    Args:
        numbers: As `fold_of_each` gives them.
        labels, classes: Class numbers (N,), and the names of the classes.
        folds: How many there are.
    """
    notes = []
    never = [
        f"{name!r} ({counted(count, 'image')})"
        for name, count, found in _found_in(numbers, labels, classes)
        if count and not found
    ]
    if never:
        notes.append(f"trained on and never tested: {few(never, 5)}")
    seldom = None if folds is None else tested_seldom(numbers, labels, classes, folds)
    return notes + ([seldom] if seldom else [])


def tested_seldom(
    numbers: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str], folds: int
) -> str | None:
    """Return which classes are tested in some of the folds alone, in words; None where none is.

    The arguments are those of `notes_on`.
    """
    seldom = [
        f"{name!r} in {found} (of {count} images)"
        for name, count, found in _found_in(numbers, labels, classes)
        if 0 < found < folds
    ]
    return f"not tested in each of the {folds} folds: {few(seldom, 5)}" if seldom else None


def _found_in(
    numbers: NDArray[np.int64], labels: NDArray[np.int64], classes: Sequence[str]
) -> Iterator[tuple[str, int, int]]:
    """Yield each class with its images and the number of folds that test some of them."""
    counts = np.bincount(labels, minlength=len(classes)).tolist()
    for label, (name, count) in enumerate(zip(classes, counts, strict=True)):
        own = (labels == label) & (numbers != NEVER)
        yield name, count, len(np.unique(numbers[own]))


def check_sides(sides: Mapping[str, NDArray[np.str_] | None]) -> None:
    """Raise DataError where a group has images in two parts that have folders of their own."""
    grouped = {name: groups for name, groups in sides.items() if groups is not None}
    for one, other in combinations(grouped, 2):
        both = np.intersect1d(grouped[one], grouped[other]).tolist()
        if both:
            raise DataError(
                f"{counted(len(both), 'group')} with images for {one} and for {other}: "
                f"{few(list(map(repr, both)), 5)}; move each to one of them"
            )
