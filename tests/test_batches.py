"""Batches: repeatable epochs, each image once, augmentation against a pixel-by-pixel reading."""

import numpy as np
import pytest
import torch

from lmsm_cli.data.augment import AUGMENTATIONS, cropped
from lmsm_cli.data.batches import batches, num_batches, plan_epoch


def collect(images, labels, augment, **kwargs):
    """Return the epoch's batches as one (images, labels)."""
    epoch, size = kwargs.pop("epoch", 0), tuple(images.shape[1:3])
    plan = plan_epoch(len(labels), augment, seed=1, epoch=epoch, size=size)
    parts = list(batches(images, labels, plan, 4, **kwargs))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


@pytest.fixture
def numbered():
    """Twelve images whose every pixel is their own number, labelled with it."""
    labels = torch.arange(12)
    return labels.to(torch.uint8)[:, None, None, None].expand(12, 8, 8, 3).contiguous(), labels


def test_each_image_comes_once_with_its_label(numbered):
    """An epoch is a shuffle: every image once, labels along."""
    images, labels = collect(*numbered, "none")
    assert sorted(labels.tolist()) == list(range(12))
    assert labels.tolist() != list(range(12))
    assert torch.equal(images[:, 0, 0, 0].long(), labels)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_an_epoch_can_be_repeated_and_entered_anywhere(augment):
    """(seed, epoch) alone decide; starting at batch 2 gives exactly the rest of the epoch."""
    images = torch.randint(256, (13, 8, 8, 3), dtype=torch.uint8)
    labels = torch.arange(13)
    first, _ = collect(images, labels, augment)
    torch.rand(5), np.random.rand(5)
    again, _ = collect(images, labels, augment)
    rest, _ = collect(images, labels, augment, start=2)
    assert torch.equal(first, again)
    assert torch.equal(first[8:], rest)
    assert not torch.equal(first, collect(images, labels, augment, epoch=1)[0])


def test_seeds_and_epochs_have_streams_of_their_own():
    """Epoch e of seed s is not epoch e' of seed s', near numbers included."""
    plans = {
        (s, e): tuple(plan_epoch(50, "none", seed=s, epoch=e).order.tolist())
        for s in range(4)
        for e in range(4)
    }
    assert len(set(plans.values())) == 16


def test_crop_and_flip_pixel_by_pixel():
    """Each output pixel is the padded input's at the corner's offset, mirrored where flipped."""
    images = torch.randint(1, 256, (5, 8, 6, 3), dtype=torch.uint8)
    corners = torch.tensor([[0, 0], [4, 4], [8, 8], [1, 7], [4, 0]])
    flips = torch.tensor([False, False, True, True, True])
    out = cropped(images, flips, corners)
    for n in range(5):
        padded = np.zeros((16, 14, 3), dtype=np.uint8)
        padded[4:12, 4:10] = images[n].numpy()
        top, left = corners[n].tolist()
        wanted = padded[top : top + 8, left : left + 6]
        if flips[n]:
            wanted = wanted[:, ::-1]
        assert np.array_equal(out[n].numpy(), wanted), n


def test_flip_alone_mirrors_the_columns():
    """Without a crop, a flipped image is its mirror image and the others are untouched."""
    images = torch.randint(256, (2, 4, 4, 1), dtype=torch.uint8)
    out = cropped(images, torch.tensor([True, False]), None)
    assert torch.equal(out[0], images[0].flip(1))
    assert torch.equal(out[1], images[1])


def test_batches_are_uint8_channels_last(numbered):
    """The model gets (B, C, H, W) with channels innermost in memory, still uint8."""
    plan = plan_epoch(12, "crop-flip", seed=0, epoch=0)
    images = next(batches(*numbered, plan, 4)).images
    assert images.shape == (4, 3, 8, 8)
    assert images.dtype == torch.uint8
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("num_images", "wanted"), [(12, 3), (13, 3), (14, 4), (15, 4)])
def test_a_last_batch_of_one_is_left_out(num_images, wanted):
    """BatchNorm cannot train on a single image."""
    assert num_batches(num_images, 4) == wanted


def test_augmentation_is_about_fair():
    """Half the images are flipped; every corner of the crop occurs."""
    plan = plan_epoch(20_000, "crop-flip", seed=0, epoch=0)
    assert plan.changes.flips.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert plan.changes.corners.min() == 0
    assert plan.changes.corners.max() == 8
    assert torch.bincount(plan.changes.corners[:, 0], minlength=9).min() > 1900


def test_a_shuffle_is_the_one_it_always_was():
    """Runs repeat across versions: the draws of an epoch are those once written down."""
    plan = plan_epoch(8, "crop-flip", seed=42, epoch=3)
    assert plan.order.tolist() == [3, 1, 2, 7, 0, 5, 4, 6]
    assert plan.changes.flips.int().tolist() == [0, 1, 1, 0, 1, 0, 0, 1]
    assert plan.changes.corners.tolist() == [
        [5, 6],
        [6, 6],
        [7, 7],
        [4, 2],
        [7, 7],
        [6, 4],
        [5, 5],
        [6, 6],
    ]


# Classes of 9,000, 900 and 100 images in a mixed order; class 2 has none.
UNEVEN = torch.tensor([0] * 9000 + [1] * 900 + [3] * 100)[
    torch.randperm(10_000, generator=torch.Generator().manual_seed(0))
]


def balanced_order(seed, epoch, augment="none"):
    """Return the order of a class-balanced epoch over UNEVEN."""
    return plan_epoch(len(UNEVEN), augment, seed=seed, epoch=epoch, balanced_over=UNEVEN).order


def test_balanced_draws_take_classes_alike_and_images_of_a_class_alike():
    """As many draws as images, a third to each class that has any, evenly within a class."""
    order = balanced_order(0, 0)
    assert len(order) == len(UNEVEN)
    draws = torch.bincount(UNEVEN[order], minlength=4)
    assert draws[2] == 0
    # three standard deviations of a binomial of 10,000 draws at a third: 141
    assert draws[[0, 1, 3]].tolist() == pytest.approx([10_000 / 3] * 3, abs=141)
    times = torch.bincount(order, minlength=len(UNEVEN))
    for label in (1, 3):
        each = times[UNEVEN.eq(label)].double()
        assert each.var().item() == pytest.approx(each.mean().item(), rel=0.3)  # Poisson's


def test_balanced_draws_depend_on_seed_and_epoch_alone():
    """The same pair gives the same order, whatever the augmentation; every other pair another."""
    torch.rand(5), np.random.rand(5)
    assert torch.equal(balanced_order(1, 2), balanced_order(1, 2, "crop-flip"))
    orders = {tuple(balanced_order(s, e).tolist()) for s in range(3) for e in range(3)}
    assert len(orders) == 9
