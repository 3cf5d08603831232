"""Augmentation: crops against torchvision's kernels and its draws, holes pixel by pixel."""

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as kernels

from lmsm_cli.config import Config
from lmsm_cli.data.augment import AUGMENTATIONS, Changes, augmented, draw_changes
from tests.test_operations import pictures


def test_the_config_knows_every_augmentation():
    """The choices of --augment are those that can be drawn."""
    choices = get_args(Config.model_fields["augment"].annotation)
    assert sorted(choices) == sorted(AUGMENTATIONS)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (12, 20)])
def test_photo_is_torchvisions_resized_crop(size, channels):
    """Each image is its own crop, enlarged as by resized_crop; flipped ones are its mirror."""
    images = pictures(40, channels, size)
    changes = draw_changes("photo", 40, size, np.random.default_rng(0))
    found = augmented(images.permute(0, 2, 3, 1).contiguous(), changes)
    for image, crop, flip, out in zip(images, changes.crops, changes.flips, found, strict=True):
        wanted = kernels.resized_crop(image.float(), *crop.tolist(), size=list(size))
        wanted = wanted.flip(2) if flip else wanted
        assert (out - wanted).abs().max() < 0.501  # rounded to whole values
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_photo_draws_crops_as_torchvision_does():
    """Areas, shapes and places have the distribution of RandomResizedCrop's."""
    size, count = (32, 24), 4000
    torch.manual_seed(0)
    image, transform = torch.zeros(1, *size), v2.RandomResizedCrop(8)
    theirs = [transform.make_params([image]) for _ in range(count)]
    keys = ("top", "left", "height", "width")
    wanted = np.array([[drawn[key] for key in keys] for drawn in theirs])
    found = draw_changes("photo", count, size, np.random.default_rng(0)).crops.numpy()
    assert (found[:, :2] >= 0).all()
    assert (found[:, 2:] >= 1).all()
    assert (found[:, :2] + found[:, 2:] <= size).all()
    for of in (lambda c: c[:, 2] * c[:, 3], lambda c: c[:, 3] / c[:, 2], lambda c: c[:, 0]):
        assert ks_2samp(of(wanted), of(found)).pvalue > 0.001


@pytest.mark.parametrize("size", [(8, 400), (400, 8)])
def test_where_no_crop_fits_it_is_torchvisions_too(size):
    """Of a very long image hardly a draw fits: the middle part with an allowed ratio is taken."""
    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(8), torch.zeros(1, *size)
    theirs = {tuple(transform.make_params([image]).values()) for _ in range(50)}
    crops = draw_changes("photo", 50, size, np.random.default_rng(0)).crops.tolist()
    usual = max(set(map(tuple, crops)), key=[tuple(crop) for crop in crops].count)
    assert usual in theirs


def test_cutout_blackens_a_square_of_half_the_side():
    """The square reaches half/2 pixels from its middle and is cut off at the edge."""
    images = torch.full((3, 32, 28, 3), 9, dtype=torch.uint8)
    middles = torch.tensor([[16, 14], [0, 27], [31, 3]])
    out = augmented(images, Changes("none", holes=middles)).numpy()
    for n, (row, column) in enumerate(middles.tolist()):
        wanted = np.full((3, 32, 28), 9)
        wanted[:, max(row - 7, 0) : row + 7, max(column - 7, 0) : column + 7] = 0
        assert np.array_equal(out[n], wanted), n
    assert (32 // 4) * 2 == 16  # the published one, of images of 32 x 32


@pytest.mark.parametrize("augment", [name for name in AUGMENTATIONS if name != "none"])
def test_two_images_of_a_batch_are_treated_differently(augment):
    """The same picture many times over comes out in several ways."""
    one = pictures(4, 3, (16, 16))[3:].permute(0, 2, 3, 1)
    changes = draw_changes(augment, 64, (16, 16), np.random.default_rng(0))
    out = augmented(one.repeat(64, 1, 1, 1), changes)
    assert len({image.numpy().tobytes() for image in out}) > (1 if augment == "flip" else 20)


def test_learned_policies_come_after_crop_and_flip():
    """With operations that change nothing, the batch is that of crop-flip with the same draws."""
    images = pictures(8, 3, (16, 16)).permute(0, 2, 3, 1).contiguous()
    plain = draw_changes("crop-flip", 8, (16, 16), np.random.default_rng(5))
    for augment in ("randaugment", "trivial"):
        changes = draw_changes(augment, 8, (16, 16), np.random.default_rng(5))
        assert torch.equal(changes.flips, plain.flips)
        assert torch.equal(changes.corners, plain.corners)
        changes.choices.zero_()
        assert torch.equal(augmented(images, changes), augmented(images, plain))
