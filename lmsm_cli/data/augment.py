"""Random changes to training images: what is drawn for each image, and how a batch is changed.

Everything is drawn on the host before the epoch, for each image by itself, and a batch is changed
on its device by a few kernels, without a wait. To add an augmentation, add its name to
`AUGMENTATIONS` and what it draws to `draw_changes`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lmsm_cli.data.operations import operations_of
from lmsm_cli.data.policies import LEARNED, policy_of

# Pixels of zeros around an image before the random crop: the field's recipe for CIFAR.
_PADDING = 4
# The share of an image's area that a crop of `photo` keeps, and its width / height, as in
# torchvision's RandomResizedCrop, which draws at most ten times for a crop that fits.
_AREA, _RATIO, _TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10

AUGMENTATIONS = ("none", "flip", "crop-flip", "photo", *LEARNED)


@dataclass(frozen=True)
class Changes:
    """What was drawn for N images; None where an augmentation has no such change."""

    augment: str = "none"
    flips: Tensor | None = None
    """(N,): mirrored from left to right."""
    corners: Tensor | None = None
    """(N, 2): first row and column, of the padded image, that are kept."""
    crops: Tensor | None = None
    """(N, 4): top, left, height and width of a part that becomes the whole."""
    choices: Tensor | None = None
    """(N, S): the operations of a learned policy, in turn; always on the host."""
    holes: Tensor | None = None
    """(N, 2): row and column of the middle of a black square."""

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> "Changes":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        new: dict[str, Any] = {
            name: change(name, value) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        return Changes(**new)

    def to(self, device: torch.device) -> "Changes":
        """Return the changes on a device, but for the choices."""
        return self._each(lambda name, value: value if name == "choices" else value.to(device))

    def of(self, on_host: slice | Tensor, on_device: slice | Tensor) -> "Changes":
        """Return the changes of some images, which are given as an index here and there."""
        return self._each(lambda name, value: value[on_host if name == "choices" else on_device])


def draw_changes(
    augment: str, num_images: int, size: tuple[int, int] | None, generator: np.random.Generator
) -> Changes:
    """Draw the changes of so many images, each by itself.

    `size` is (H, W) of all images; only none, flip and crop-flip do without.
    """
    flips = corners = crops = choices = holes = None
    if augment != "none":
        flips = torch.from_numpy(generator.random(num_images) < 0.5)
    if augment == "crop-flip" or augment in LEARNED:
        corners = torch.from_numpy(generator.integers(2 * _PADDING + 1, size=(num_images, 2)))
    if augment != "photo" and augment not in LEARNED:
        return Changes(augment, flips, corners)
    assert size is not None
    if augment == "photo":
        crops = torch.from_numpy(_crops(num_images, size, generator))
    if augment in LEARNED:
        choices = policy_of(augment, *size).draw(num_images, generator)
    if augment == "autoaugment-cutout":
        holes = torch.from_numpy(generator.integers(size, size=(num_images, 2)))
    return Changes(augment, flips, corners, crops, choices, holes)


def _crops(
    num_images: int, size: tuple[int, int], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return top, left, height and width (N, 4), as torchvision's RandomResizedCrop draws them.

    Of ten draws the first that fits; where none does, the largest part in the middle whose ratio
    is allowed.
    """
    height, width = size
    draws = (num_images, _TRIES)
    areas = height * width * generator.uniform(*_AREA, draws)
    ratios = np.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1]), draws))
    widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    fits: NDArray[np.bool_] = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = np.arange(num_images), fits.argmax(axis=1)
    found = fits[first][:, None]
    ratio = min(max(width / height, _RATIO[0]), _RATIO[1])
    largest = (min(height, round(width / ratio)), min(width, round(height * ratio)))
    shape = np.where(found, np.stack([heights[first], widths[first]], axis=1), largest)
    spare = np.array(size) - shape
    corners = np.where(found, generator.integers(spare + 1), spare // 2)
    return np.concatenate([corners, shape], axis=1)


def augmented(images: Tensor, changes: Changes, crop_to: tuple[int, int] | None = None) -> Tensor:
    """Return changed images, uint8 (B, C, H, W) and channels-last, of uint8 (B, H, W, C).

    Crops of `photo` get the size `crop_to`, by default that of the images.
    """
    if changes.crops is not None:
        crop_to = crop_to or (images.shape[1], images.shape[2])
        pixels = _resized(images.permute(0, 3, 1, 2), changes.crops, changes.flips, crop_to)
    else:
        pixels = cropped(images, changes.flips, changes.corners).permute(0, 3, 1, 2)
    if changes.choices is not None:
        operations = operations_of(changes.augment, *pixels.shape[-2:], pixels.device)
        pixels = operations(pixels, changes.choices)
    if changes.holes is not None:
        pixels = _with_holes(pixels, changes.holes)
    return pixels.contiguous(memory_format=torch.channels_last)


def cropped(images: Tensor, flips: Tensor | None, corners: Tensor | None) -> Tensor:
    """Return the batch (B, H, W, C) cropped at `corners` of its padded self, then flipped."""
    count, height, width, _ = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(count, height)
    columns = torch.arange(width, device=device).expand(count, width)
    if flips is not None:
        columns = torch.where(flips[:, None], width - 1 - columns, columns)
    if corners is not None:
        images = functional.pad(images, (0, 0, _PADDING, _PADDING, _PADDING, _PADDING))
        rows, columns = rows + corners[:, :1], columns + corners[:, 1:]
    elif flips is None:
        return images
    batch = torch.arange(count, device=device)[:, None, None]
    return images[batch, rows[:, :, None], columns[:, None, :]]


def _resized(
    images: Tensor, crops: Tensor, flips: Tensor | None, wanted: tuple[int, int]
) -> Tensor:
    """Return the crops (B, 4) of a batch (B, C, H, W), brought to the wanted size, then flipped.

    Bilinear between the pixels of the crop, as torchvision's resized_crop. Of a crop up to twice
    as large as the wanted size each pixel still has its part.
    """
    places = []
    for axis in (1, 0):  # grid_sample wants x first
        size, device = images.shape[2 + axis], images.device
        corner, extent = crops[:, axis, None], crops[:, 2 + axis, None]
        place = (torch.arange(wanted[axis], device=device) + 0.5) * (extent / wanted[axis]) - 0.5
        # No pixel outside the crop has a part in it.
        place = place.clamp_min(0).minimum(extent - 1) + corner
        if axis == 1 and flips is not None:
            place = torch.where(flips[:, None], place.flip(1), place)
        places.append((2 * place + 1) / size - 1)
    shape = (len(images), *wanted)
    columns, rows = places[0][:, None, :].expand(shape), places[1][:, :, None].expand(shape)
    grid = torch.stack([columns, rows], dim=-1)
    taken = functional.grid_sample(
        images.float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return taken.round_().to(torch.uint8)


def _with_holes(images: Tensor, holes: Tensor) -> Tensor:
    """Black out a square of half the shorter side of each image (B, C, H, W): Cutout.

    16 pixels of CIFAR's 32, as published (DeVries & Taylor 2017); it may reach over the edge.
    """
    height, width = images.shape[-2:]
    half = min(height, width) // 4
    device = images.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    near = [
        (places >= middle[:, None] - half) & (places < middle[:, None] + half)
        for places, middle in ((rows, holes[:, 0]), (columns, holes[:, 1]))
    ]
    return images.masked_fill((near[0][:, :, None] & near[1][:, None, :])[:, None], 0)
