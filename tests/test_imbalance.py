"""Which images are kept, against a straight reading of LDAM-DRW's imbalance_cifar.py."""

import hashlib

import numpy as np
import pytest

from lmsm_cli.data.imbalance import (
    kept_indices,
    long_tail_counts,
    stratified_split,
    validation_counts,
)
from lmsm_cli.errors import LmsmError


def ldam_selection(targets, cls_num, imb_type, imb_factor):
    """Do what IMBALANCECIFAR10/100 do with rand_number=0, NumPy's global generator included."""
    saved = np.random.get_state()
    np.random.seed(0)
    img_max = len(targets) / cls_num
    if imb_type == "exp":
        img_num_per_cls = [
            int(img_max * (imb_factor ** (c / (cls_num - 1.0)))) for c in range(cls_num)
        ]
    else:
        img_num_per_cls = [int(img_max)] * (cls_num // 2) + [int(img_max * imb_factor)] * (
            cls_num // 2
        )
    chosen = []
    for the_class, the_img_num in zip(np.unique(targets), img_num_per_cls, strict=True):
        idx = np.where(targets == the_class)[0]
        np.random.shuffle(idx)
        chosen.append(idx[:the_img_num])
    np.random.set_state(saved)
    return img_num_per_cls, np.concatenate(chosen)


def cifar_labels(num_classes):
    """50,000 labels, equally many of each class, mixed as in the archives' batches."""
    labels = np.repeat(np.arange(num_classes), 50_000 // num_classes)
    return np.random.RandomState(1).permutation(labels)


# First 16 digits of the sha256 of the kept indices (int64, little-endian) that `ldam_selection`
# gives for `cifar_labels`.
GOLDEN = {
    (10, "exp", 0.1): "111f52e80c7c62ad",
    (10, "exp", 0.02): "7e65cce4f6c985f2",
    (10, "exp", 0.01): "44f1fa378a4299a1",
    (10, "step", 0.1): "90032533734ce2ba",
    (10, "step", 0.02): "2437ddd3b1e5aa3a",
    (10, "step", 0.01): "e390d47f1ce56846",
    (100, "exp", 0.1): "c586c859697aeb24",
    (100, "exp", 0.02): "37499b339735076f",
    (100, "exp", 0.01): "b1d2f358e79c6a9a",
    (100, "step", 0.1): "dda14e728e87df95",
    (100, "step", 0.02): "ead5526700518e7b",
    (100, "step", 0.01): "3357f625ba9c434c",
}


@pytest.mark.parametrize(("num_classes", "profile", "factor"), GOLDEN)
def test_kept_images_are_ldam_drws(num_classes, profile, factor):
    """Counts, indices and their order equal LDAM-DRW's, and its recorded hash."""
    labels = cifar_labels(num_classes)
    wanted_counts, wanted = ldam_selection(labels, num_classes, profile, factor)
    counts = long_tail_counts(np.bincount(labels).tolist(), profile, factor)
    kept = kept_indices(labels, counts)
    assert counts == wanted_counts
    assert np.array_equal(kept, wanted)
    digest = hashlib.sha256(kept.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == GOLDEN[num_classes, profile, factor]


@pytest.mark.parametrize(
    ("num_classes", "profile", "factor", "total"),
    [
        (10, "exp", 0.01, 12406),
        (10, "exp", 0.02, 13996),
        (10, "exp", 0.1, 20431),
        (100, "exp", 0.01, 10847),
        (100, "exp", 0.02, 12608),
        (100, "exp", 0.1, 19573),
        (10, "step", 0.01, 25250),
        (100, "step", 0.1, 27500),
    ],
)
def test_sizes_are_the_published_ones(num_classes, profile, factor, total):
    """The long-tailed CIFARs have the sizes that the field prints."""
    assert sum(long_tail_counts([50_000 // num_classes] * num_classes, profile, factor)) == total


def test_the_global_generator_is_not_touched():
    """Selecting images leaves NumPy's global state as it was."""
    before = np.random.get_state()[1].copy()
    kept_indices(cifar_labels(10), long_tail_counts([5000] * 10, "exp", 0.01))
    assert np.array_equal(before, np.random.get_state()[1])


def test_uneven_classes_never_keep_more_than_they_have():
    """On MNIST-like counts the profile starts at the mean and stops at what there is."""
    counts = long_tail_counts([100, 60, 80], "exp", 0.25)
    assert counts == [80, 40, 20]
    assert long_tail_counts([100, 10, 130], "exp", 0.25) == [80, 10, 20]


def test_an_odd_number_of_classes_keeps_its_middle_class():
    """Step over three classes: two large, one small; LDAM-DRW's code would lose the third."""
    assert long_tail_counts([100] * 3, "step", 0.1) == [100, 100, 10]


def test_no_profile_keeps_all():
    """`none` keeps every image, uneven or not."""
    assert long_tail_counts([3, 5], "none", 1.0) == [3, 5]


def test_a_cap_comes_before_the_profile():
    """No class is taken to have more than the cap; the first images of LDAM-DRW's order stay."""
    assert long_tail_counts([100, 60, 80], "none", 1.0, 70) == [70, 60, 70]
    assert long_tail_counts([100, 60, 80], "exp", 0.25, 40) == [40, 20, 10]
    assert long_tail_counts([100, 60, 80], "exp", 0.25, 1000) == long_tail_counts(
        [100, 60, 80], "exp", 0.25
    )
    labels = np.repeat([0, 1, 2], [100, 60, 80])
    few, many = (
        kept_indices(labels, long_tail_counts([100, 60, 80], "exp", 0.25, most))
        for most in (40, None)
    )
    assert set(few) < set(many)


def test_a_class_without_an_image_is_an_error():
    """A factor that empties a class says which, and the smallest factor that does not."""
    with pytest.raises(
        LmsmError, match=r"class 9 would keep 0 of 5000 images; use at least 0.0002"
    ):
        long_tail_counts([5000] * 10, "exp", 0.0001)


@pytest.mark.parametrize("available", [[119, 121, 118], [7] * 10, [333] * 3])
def test_the_factor_that_is_advised_works(available):
    """Following the message's advice leaves no class empty."""
    with pytest.raises(LmsmError) as error:
        long_tail_counts(available, "exp", 1e-6)
    advised = float(str(error.value).rsplit(" ", 1)[1])
    assert min(long_tail_counts(available, "exp", advised)) >= 1


def test_the_split_is_stratified_disjoint_and_repeatable():
    """Each class gives its rounded share; the parts cover all; the seed alone decides."""
    labels = np.random.RandomState(0).permutation(np.repeat([0, 1, 2], [100, 37, 5]))
    training, validation = stratified_split(labels, 3, 0.1, seed=3)
    assert np.bincount(labels[validation], minlength=3).tolist() == [10, 4, 1]
    assert sorted([*training, *validation]) == list(range(142))
    again = stratified_split(labels, 3, 0.1, seed=3)[1]
    assert np.array_equal(validation, again)
    assert not np.array_equal(validation, stratified_split(labels, 3, 0.1, seed=4)[1])


def test_the_last_image_of_a_class_stays_in_training():
    """A class of one image is never emptied by the split."""
    assert validation_counts([1, 2, 10], 0.9) == [0, 1, 9]
