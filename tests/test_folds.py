"""What folds.py promises: which images are tested when, and that groups stay on one side."""

import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lmsm_cli.data.folds import (
    NEVER,
    Division,
    check_sides,
    fixed_share,
    fold_of_each,
    grouped_share,
    groups_of,
    notes_on,
)
from lmsm_cli.errors import DataError

NAMES = ("ant", "bee", "cat")


def labels_of(*counts):
    """Return so many labels of each class, class by class."""
    return np.repeat(np.arange(len(counts)), counts)


def folds_of(labels, folds, seed=0, groups=None):
    """Return the fold of each image."""
    names = [f"class {number}" for number in range(labels.max() + 1)]
    return fold_of_each(Division(folds=folds, seed=seed), labels, names, groups)


def test_the_fixed_fifth_is_for_good():
    """The images of a class of 2, of 20 and of 7 that an lmsm from before --test-share tested."""
    wanted = [1, 3, 10, 14, 15, 27]
    labels = labels_of(2, 20, 7)
    assert np.flatnonzero(fixed_share(labels, 3, 0.2)).tolist() == wanted
    assert np.flatnonzero(fold_of_each(Division(), labels, NAMES) == 0).tolist() == wanted


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.2, [0, 1, 4]), (0.5, [0, 1, 10]), (0.99, [0, 1, 19])]
)
def test_a_share_leaves_an_image_of_each_class_to_either_side(share, wanted):
    """Of a class of one image it is none, of two it is one, and never all."""
    labels = labels_of(1, 2, 20)
    assert np.bincount(labels[fixed_share(labels, 3, share)], minlength=3).tolist() == wanted


@pytest.mark.parametrize("folds", [2, 3, 7])
def test_each_image_is_tested_once_in_folds_of_equal_shares(folds):
    """The folds of a class differ by one image at most, so also those of a class of few images."""
    labels = labels_of(2, 20, 33)
    numbers = folds_of(labels, folds)
    assert set(numbers) == set(range(folds))
    for label, count in enumerate((2, 20, 33)):
        found = np.bincount(numbers[labels == label], minlength=folds)
        assert found.sum() == count
        assert found.max() - found.min() <= 1


def test_seeds_draw_folds_of_their_own_and_draw_them_again():
    """The division follows from the seed alone."""
    labels = labels_of(10, 15)
    assert np.array_equal(folds_of(labels, 5, seed=3), folds_of(labels, 5, seed=3))
    assert not np.array_equal(folds_of(labels, 5, seed=3), folds_of(labels, 5, seed=4))


def test_a_class_of_one_image_is_never_tested_and_a_small_one_now_and_then():
    """Both are told by name, with the numbers."""
    labels = labels_of(1, 3, 12)
    numbers = folds_of(labels, 4)
    assert numbers[0] == NEVER
    assert sorted(set(numbers[1:4])) == sorted(numbers[1:4])
    assert notes_on(numbers, labels, NAMES, 4) == [
        "trained on and never tested: 'ant' (1 image)",
        "not tested in each of the 4 folds: 'bee' in 3 (of 3 images)",
    ]
    share = fold_of_each(Division(), labels, NAMES)
    assert notes_on(share, labels, NAMES, None) == ["trained on and never tested: 'ant' (1 image)"]


def test_a_lonely_image_keeps_its_group_in_the_training():
    """Or the group would stand on both sides; the others of it are never tested either."""
    labels = labels_of(1, 6, 6)
    groups = np.array(["x", "x", "a", "a", "b", "b", "c", "c", "c", "d", "d", "e", "e"])
    for numbers in (folds_of(labels, 3, groups=groups), share_of(labels, groups, 0.3)):
        assert set(numbers[groups == "x"]) == {NEVER}
        assert (numbers[groups != "x"] != NEVER).any()


def share_of(labels, groups, share):
    """Return the test images by a share as `fold_of_each` gives them."""
    names = [f"class {number}" for number in range(labels.max() + 1)]
    return fold_of_each(Division(share), labels, names, groups)


@st.composite
def grouped_images(draw):
    """Draw labels and groups of images, in any order."""
    num_classes = draw(st.integers(2, 4))
    rows = draw(
        st.lists(
            st.tuples(st.integers(0, num_classes - 1), st.integers(0, 7)), min_size=8, max_size=50
        )
    )
    labels, groups = (np.array(column) for column in zip(*rows, strict=True))
    return labels, groups.astype(str)


@given(grouped_images(), st.integers(2, 4), st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_a_group_is_never_on_both_sides_of_a_fold(images, folds, seed):
    """Nor is a class without training images beside a fold, nor a fold without test images."""
    labels, groups = images
    try:
        numbers = folds_of(labels, folds, seed, groups)
    except DataError:
        assume(False)
    for group in set(groups):
        assert len(set(numbers[groups == group])) == 1
    for fold in range(folds):
        assert (numbers == fold).any()
        assert set(labels[numbers != fold]) == set(labels)


@given(grouped_images(), st.floats(0.05, 0.95))
@settings(deadline=None, max_examples=150)
def test_a_group_is_never_on_both_sides_of_a_share(images, share):
    """Nor is a class without training images; some image is tested."""
    labels, groups = images
    try:
        numbers = share_of(labels, groups, share)
    except DataError:
        assume(False)
    for group in set(groups):
        assert len(set(numbers[groups == group])) == 1
    assert set(labels[numbers == NEVER]) == set(labels)


@given(grouped_images(), st.floats(0.05, 0.5), st.integers(0, 5))
@settings(deadline=None, max_examples=150)
def test_whole_groups_are_held_out(images, share, seed):
    """The validation images of a division by groups are whole groups, and leave every class."""
    labels, groups = images
    numbers = np.unique(groups, return_inverse=True)[1]
    wanted = [int(share * count + 0.5) for count in np.bincount(labels)]
    draws = np.random.default_rng(seed)
    held = grouped_share(labels, numbers, wanted, draws)
    assert all(len(set(held[groups == group])) == 1 for group in set(groups))
    assert set(labels[~held]) == set(labels)


def test_a_share_of_groups_is_near_the_share_of_images():
    """Of 40 subjects with 5 images of a class each, a fifth is tested to within a subject."""
    labels = labels_of(100, 100)
    groups = np.arange(200) // 5
    is_test = share_of(labels, groups.astype(str), 0.2) != NEVER
    assert np.abs(np.bincount(labels[is_test]) - 20).max() <= 5


def test_the_group_is_what_the_parentheses_match():
    """The pattern is searched for below the data folder, with folders before it."""
    names = ["ant/p1_0.png", "ant/p2/p1_1.png", "bee/p2_0.png"]
    assert groups_of(names, r"(p\d+)_").tolist() == ["p1", "p1", "p2"]
    assert groups_of(names, r"^([^/]+)/").tolist() == ["ant", "ant", "bee"]


@pytest.mark.parametrize("pattern", [r"(p\d+)_", r"p\d*(_0)?"])
def test_names_without_a_group_are_told(pattern):
    """Where nothing matches, or the parentheses match nothing, the file is named."""
    names = ["ant/p1_0.png", "ant/scan.png", "bee/p2_0.png"]
    with pytest.raises(DataError, match=r"no group in 1 file name of 3: 'ant/scan\.png'"):
        groups_of(names, pattern)


@pytest.mark.parametrize(
    ("counts", "groups", "division", "said"),
    [
        ((1, 1), None, Division(), "no class has two images"),
        ((3, 4), None, Division(folds=5), "the largest, 'bee', has 4; take --folds 4 or less"),
        ((3, 4), "aaabbcc", Division(), "'ant' (3 images of 'a')"),
        ((3, 4), "aaabbbb", Division(folds=2), "'ant' (3 images of 'a'), 'bee' (4 images of 'b')"),
        ((3, 4), "aaaaaaa", Division(), "all 7 images are of one group, 'a'"),
        ((3, 4), "aabaabb", Division(folds=3), "there are only 2 groups"),
        ((2, 6), "abaabbcc", Division(folds=4), "there are only 3 groups"),
    ],
)
def test_what_cannot_be_divided_is_named(counts, groups, division, said):
    """Before anything is trained, with the class or the group."""
    with pytest.raises(DataError, match=re.escape(said)):
        fold_of_each(division, labels_of(*counts), NAMES, groups and np.array(list(groups)))


def test_a_group_of_two_given_parts_is_named():
    """A test/ of the user's own may hold no picture of a subject of train/."""
    sides = {"train": np.array(["a", "b"]), "test": np.array(["b", "c"])}
    with pytest.raises(DataError, match="1 group with images for train and for test: 'b'"):
        check_sides(sides)
    check_sides({"train": np.array(["a", "b"]), "test": np.array(["c"])})
