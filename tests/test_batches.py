"""Batches: repeatable epochs, each image once, augmentation against a pixel-by-pixel reading."""

import numpy as np
import pytest
import torch

from lmsm_cli.data.batches import augmented, batches, num_batches, plan_epoch


def collect(images, labels, augment, **kwargs):
    """Return the epoch's batches as one (images, labels)."""
    plan = plan_epoch(len(labels), augment, seed=1, epoch=kwargs.pop("epoch", 0))
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


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip"])
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
    plans = {(s, e): tuple(plan_epoch(50, "none", seed=s, epoch=e).order.tolist()) for s in range(4) for e in range(4)}  # fmt: skip
    assert len(set(plans.values())) == 16


def test_crop_and_flip_pixel_by_pixel():
    """Each output pixel is the padded input's at the corner's offset, mirrored where flipped."""
    images = torch.randint(1, 256, (5, 8, 6, 3), dtype=torch.uint8)
    corners = torch.tensor([[0, 0], [4, 4], [8, 8], [1, 7], [4, 0]])
    flips = torch.tensor([False, False, True, True, True])
    out = augmented(images, flips, corners)
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
    out = augmented(images, torch.tensor([True, False]), None)
    assert torch.equal(out[0], images[0].flip(1))
    assert torch.equal(out[1], images[1])


def test_batches_are_uint8_channels_last(numbered):
    """The model gets (B, C, H, W) with channels innermost in memory, still uint8."""
    plan = plan_epoch(12, "crop-flip", seed=0, epoch=0)
    images, _ = next(batches(*numbered, plan, 4))
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
    assert plan.flips.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert plan.corners.min() == 0
    assert plan.corners.max() == 8
    assert torch.bincount(plan.corners[:, 0], minlength=9).min() > 1900
