"""Many, medium and few: which classes are common and which are rare."""

import pytest

from lmsm_cli.shot_groups import by_train_count, shot_groups


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        ([50, 30, 20, 15, 9, 8, 7, 6, 5, 4], ([0, 1, 2], [3, 4, 5, 6], [7, 8, 9])),
        ([500] * 5 + [50] * 5, ([0, 1, 2, 3, 4], [], [5, 6, 7, 8, 9])),
        ([9, 5, 5, 5, 5, 5], ([0], [], [1, 2, 3, 4, 5])),
        ([9, 9, 9, 9, 9, 5], ([0, 1, 2, 3, 4], [], [5])),
        ([9, 5, 5, 5, 5, 1], ([0], [1, 2, 3, 4], [5])),
        ([9, 9, 9, 5, 3, 1, 1, 1], ([0, 1, 2], [3, 4], [5, 6, 7])),
        ([1, 9], ([1], [], [0])),
        (
            [101] * 40 + [100] * 20 + [20] * 20 + [19] * 20,
            (list(range(40)), list(range(40, 80)), list(range(80, 100))),
        ),
    ],
    ids=["thirds", "step", "tied-few", "tied-many", "tied-middle", "tied-borders", "two", "field"],
)
def test_groups_are_thirds_or_the_fields_bounds_and_ties_stay_together(counts, groups):
    """10 classes split 3/4/3 by count, 100 at > 100 and < 20 images; equal counts share a group."""
    assert tuple(shot_groups(counts).values()) == groups


def test_equal_counts_make_no_groups():
    """A balanced set has no many, medium and few classes, however many classes it has."""
    assert shot_groups([500] * 10) == shot_groups([500] * 100) == {}


@pytest.mark.parametrize(
    ("counts", "any_is_rare"),
    [
        ([6742, 6265, 5421], False),
        ([123, 122, 121, 120, 119, 117], False),
        ([149, 100], False),
        ([150, 100], True),
        ([1, 2], True),
        ([40, 0], True),
        ([0, 0], False),
        ([19] * 60 + [14] * 60, False),
        ([150] * 60 + [15] * 60, True),
        ([40, None], False),
        ([], False),
    ],
    ids=str,
)
def test_no_class_is_rare_where_counts_differ_a_little(counts, any_is_rare):
    """The commonest of MNIST's classes has 1.24 times the images of the rarest: too little."""
    assert bool(shot_groups(counts)) is any_is_rare


def test_the_commonest_classes_come_first():
    """Equal ones in their order, and those of unknown counts last."""
    assert by_train_count([4, 90, None, 30, 90]) == [1, 4, 3, 0, 2]
