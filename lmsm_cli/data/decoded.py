"""Decoded images that stay on disk, and give a tensor of those that an index selects.

`Images` are what a data set holds: a tensor, or one of the two kinds here. To add a kind, write a
final subclass of StoredImages.
"""

import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from math import prod
from typing import Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsm_cli.data.image_files import middle_of
from lmsm_cli.data.prefetch import ahead

Pixels = NDArray[np.uint8]  # (N, H, W, C)
Cut = TypeVar("Cut", Tensor, Pixels)
LevelSums = NDArray[np.int64]  # (N, 2, C): of each image's levels, and of their squares

# Bytes of images that are summed at once, so that they stay in the processor's cache.
_SUMMED = 1 << 18
# Bytes copied before the mapped pages are given back. For an image of 150 KB, Linux was seen to map
# 1.7 MB around it: a whole batch of 128 held 220 MB.
_GATHERED = 1 << 22
# Bytes that are sent to a device at once, and the share of its free memory that a set may take.
_SENT, _SHARE = 1 << 26, 0.5


class StoredImages(ABC):
    """Images (N, H, W, C) that stay on disk, where a uint8 tensor would not fit in memory.

    Indexed as a tensor, with a slice, a number or an index tensor on the host, they give a tensor
    in memory. They have no `to`: a batch is moved, never the whole.
    """

    def __init__(self, rows: Tensor, image_shape: tuple[int, ...]) -> None:
        self._rows = rows  # int64 (N,): the places of these images among those on disk
        self._image_shape = image_shape
        self._middle: int | None = None  # the side of the square that is taken of each

    @property
    def shape(self) -> torch.Size:
        """The shape (N, H, W, C)."""
        *sides, channels = self._image_shape
        if self._middle is not None:
            sides = [self._middle, self._middle]
        return torch.Size((len(self._rows), *sides, channels))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        """Return the images at the index, copied into memory."""
        rows = self._rows[index].numpy()
        images = np.empty((*rows.shape, *self._image_shape), np.uint8)
        self.gather(rows.reshape(-1), images.reshape(-1, *self._image_shape))
        if self._middle is not None:  # by NumPy: a thread of one call is no place for torch's own
            images = np.ascontiguousarray(_cut(images, self._middle))
        return torch.from_numpy(images)

    @abstractmethod
    def gather(self, places: NDArray[np.int64], out: Pixels) -> None:
        """Write the images at these places on disk (M,) into `out` (M, H, W, C)."""

    def select(self, index: Tensor) -> Self:
        """Return the images at the index (M,), in its order, without reading any."""
        chosen = copy(self)
        chosen._rows = self._rows[index]
        return chosen

    def middle(self, side: int) -> Self:
        """Return the middle of each image, as a square of a side, without reading any."""
        chosen = copy(self)
        chosen._middle = side
        return chosen


class MappedImages(StoredImages):
    """Images in a file of pixels that is mapped into memory."""

    def __init__(self, memory: mmap.mmap, pixels: Pixels) -> None:
        super().__init__(torch.arange(len(pixels)), pixels.shape[1:])
        self._memory = memory
        self._pixels = pixels  # all images of the file, backed by _memory

    def gather(self, places: NDArray[np.int64], out: Pixels) -> None:
        """Copy the images out of the file."""
        step = max(1, _GATHERED // max(1, self._pixels[:1].nbytes))
        for start in range(0, len(places), step):
            out[start : start + step] = self._pixels[places[start : start + step]]
            # Mapped pages count as this process's memory until they are given back. They stay in
            # the kernel's page cache as long as there is room, so the disk is not read again.
            if hasattr(mmap, "MADV_DONTNEED"):
                self._memory.madvise(mmap.MADV_DONTNEED)


class UndecodedImages(StoredImages):
    """Images that are decoded each time they are needed: there is no room for their pixels."""

    def __init__(
        self,
        count: int,
        image_shape: tuple[int, ...],
        decode: Callable[[int], Pixels],
        threads: int,
    ) -> None:
        super().__init__(torch.arange(count), image_shape)
        self._decode = decode  # gives one image, (H, W, C)
        self._threads = threads

    def gather(self, places: NDArray[np.int64], out: Pixels) -> None:
        """Decode the images, a few at once. Raises DataError for a file that has changed."""
        with ThreadPoolExecutor(self._threads) as threads:
            for row, image in enumerate(threads.map(self._decode, places.tolist())):
                out[row] = image


Images = Tensor | StoredImages  # uint8 (N, H, W, C)


def select(images: Images, index: Tensor) -> Images:
    """Return the images at the index (M,), in its order: copied if they are in memory."""
    return images.select(index) if isinstance(images, StoredImages) else images[index]


def to_device(images: Images, device: torch.device) -> Images:
    """Return the images on the device; those on disk are left there, unless a GPU has the room.

    There they take at most half of the memory that is free: the rest is for the net.
    """
    if not isinstance(images, StoredImages):
        return images.to(device)
    if device.type == "cpu" or prod(images.shape) > _free_bytes(device) * _SHARE:
        return images
    return copied_to(images, device)


def copied_to(images: StoredImages, device: torch.device) -> Tensor:
    """Return images on disk as a tensor on a device, sent piece by piece."""
    resident = torch.empty(images.shape, dtype=torch.uint8, device=device)
    step = max(1, _SENT // prod(images.shape[1:]))
    parts = [slice(start, start + step) for start in range(0, len(images), step)]
    for part, pixels in zip(parts, ahead(images.__getitem__, parts), strict=True):
        resident[part] = pixels.to(device)
    return resident


def _free_bytes(device: torch.device) -> int:
    free: int = torch.cuda.mem_get_info(device)[0]
    return free


def middle(images: Images, side: int) -> Images:
    """Return the middle of each image, (N, side, side, C), as torchvision's center_crop takes it.

    Images that have that size are returned as they are.
    """
    if images.shape[1:3] == (side, side):
        return images
    if isinstance(images, StoredImages):
        return images.middle(side)
    return _cut(images, side).contiguous()


def _cut(images: Cut, side: int) -> Cut:
    """Return the middle of images (..., H, W, C) as a view."""
    height, width, _ = images.shape[-3:]
    rows, columns = middle_of(height, width, side)
    return images[..., rows, columns, :]


def level_sums(images: Pixels) -> LevelSums:
    """Return the sums of the levels of each image (N, H, W, C), and of their squares."""
    count, height, _, channels = images.shape
    sums = np.empty((count, 2, channels), np.int64)
    step = max(1, _SUMMED // images[:1].nbytes)
    for start in range(0, count, step):
        block = (
            images[start : start + step].reshape(-1, height, images[0, 0].size).astype(np.uint16)
        )
        for place, levels in enumerate((block, block * block)):
            columns = np.add.reduce(levels, 1, dtype=np.uint32)
            sums[start : start + step, place] = columns.reshape(len(block), -1, channels).sum(1)
    return sums
