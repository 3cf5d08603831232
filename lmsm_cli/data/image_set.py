"""Images in memory or in their file, with their labels, class names and normalisation: ImageSet."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsm_cli.data.decoded import Images, LevelSums, select, to_device
from lmsm_cli.data.decoding import ReadImages
from lmsm_cli.data.folds import groups_of
from lmsm_cli.data.identity import Digests, image_keys, split_digest

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel, in units of [0, 1]."""


@dataclass(frozen=True)
class ImageSet:
    """Labelled images in host memory, or, if they are large, in their file."""

    images: Images  # uint8 (N, H, W, C), contiguous: a gathered batch is channels-last
    labels: Tensor  # int64 (N,)
    classes: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, in units of [0, 1]
    std: tuple[float, ...]
    digests: Digests  # (N, 16): of the file's bytes for class folders, of the published pixels else
    places: NDArray[Any]
    """(N,): the image's file below the data folder, as bytes, or its number as published."""
    pictures: Digests | None = None
    """(N, 16): of the pixels at full size, to find the same picture twice; None as published."""
    groups: NDArray[np.str_] | None = None
    """(N,): images of one group, such as one subject's, stay on one side of every split."""

    def __len__(self) -> int:
        return len(self.labels)

    def counts(self) -> list[int]:
        """Return the number of images of each class."""
        counts: list[int] = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return counts

    def digest(self) -> str:
        """Return 32 hexadecimal digits, equal for the same images in whatever order."""
        return split_digest(self.classes, self.labels.numpy(), self.digests)

    def subset(self, indices: Tensor | Sequence[int]) -> "ImageSet":
        """Return the images at the indices, in their order; those in memory are copied."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        rows = index.numpy()
        return replace(
            self,
            images=select(self.images, index),
            labels=self.labels[index],
            digests=self.digests[rows],
            places=self.places[rows],
            pictures=None if self.pictures is None else self.pictures[rows],
            groups=None if self.groups is None else self.groups[rows],
        )

    def to(self, device: torch.device) -> "ImageSet":
        """Return the images and labels on a device; large images that do not fit stay on disk."""
        return replace(self, images=to_device(self.images, device), labels=self.labels.to(device))


class Labelled(NamedTuple):
    """Images (N, H, W, C) with what else an ImageSet has of them, as read."""

    images: Images
    labels: Tensor
    classes: tuple[str, ...]
    digests: Digests
    places: NDArray[Any]
    sums: LevelSums | None = None
    """None where the normalisation is not that of the images."""
    pictures: Digests | None = None
    groups: NDArray[np.str_] | None = None

    def identities(self) -> list[bytes]:
        """Return what each image is, by class name and content."""
        return image_keys(self.classes, self.labels.numpy(), self.digests)

    def own_normalisation(self, rows: Tensor | None = None) -> Normalisation:
        """Return mean and deviation of the images, or of those in some rows."""
        assert self.sums is not None
        sums = self.sums if rows is None else self.sums[rows.numpy()]
        return _normalisation(sums, self.images.shape[1:])

    def normalised(self, normalisation: Normalisation) -> ImageSet:
        """Return the images with a normalisation."""
        return ImageSet(
            *self[:3], *normalisation, self.digests, self.places, self.pictures, self.groups
        )

    def grouped(self, pattern: str | None) -> "Labelled":
        """Return the images with the groups that a pattern finds in the names of their files."""
        if pattern is None:
            return self
        names = [os.fsdecode(place) for place in self.places.tolist()]
        return self._replace(groups=groups_of(names, pattern))


def _normalisation(sums: LevelSums, image_shape: Sequence[int]) -> Normalisation:
    """Return mean and deviation of each channel, computed from whole numbers."""
    height, width, _ = image_shape
    count = len(sums) * height * width
    means, deviations = [], []
    for total, squares in sums.sum(axis=0).T.tolist():
        means.append(total / (255 * count))
        # one grey level at least: images of one colour must not divide by zero
        deviation = math.sqrt(count * squares - total**2) / (255 * count)
        deviations.append(max(deviation, 1 / 255))
    return tuple(means), tuple(deviations)


def labelled(read: ReadImages, data_dir: Path) -> Labelled:
    """Return images as read with their labels, and their places from the data folder on."""
    listing = read.listing
    above = "".join(f"{part}/" for part in listing.root.relative_to(data_dir).parts)
    places = np.array([os.fsencode(above + file) for file in listing.files])
    labels = torch.tensor(listing.labels)
    groups = np.array(listing.groups) if listing.groups else None
    known = (read.digests, places, read.sums, read.pictures, groups)
    return Labelled(read.images, labels, listing.classes, *known)
