"""Shuffled, augmented batches, on the device that holds the labels.

Everything random in an epoch is drawn before it, from a generator that depends only on (seed,
epoch): an epoch can be repeated exactly, and entered at any batch. The draws are made on the CPU,
so they are the same on every device.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lmsm_cli.data.decoded import Images, StoredImages

# Pixels of zeros around an image before the random crop: the field's recipe for CIFAR.
_PADDING = 4


@dataclass(frozen=True)
class EpochPlan:
    """All random choices of one epoch."""

    order: Tensor  # (N,)
    flips: Tensor | None  # (N,)
    corners: Tensor | None  # (N, 2), of the crops

    def to(self, device: torch.device) -> "EpochPlan":
        """Return the plan on a device: one transfer an epoch, none in a step."""
        flips = None if self.flips is None else self.flips.to(device)
        corners = None if self.corners is None else self.corners.to(device)
        return EpochPlan(self.order.to(device), flips, corners)


class Batch(NamedTuple):
    """A rank's part of a batch, ready for the model; without ranks, all of it."""

    images: Tensor  # uint8 (B, C, H, W), channels-last in memory
    labels: Tensor  # (B,)
    all_labels: Tensor  # of the whole batch, in order of rank


def plan_epoch(
    num_images: int, augment: str, *, seed: int, epoch: int, balanced_over: Tensor | None = None
) -> EpochPlan:
    """Draw the choices of an epoch.

    Args:
        num_images: the length N of the order, which is a shuffle.
        augment: none, flip or crop-flip.
        seed, epoch: the same two numbers give the same choices.
        balanced_over: the images' labels (N,). With them the order is N draws with replacement: a
            class, each as likely as the others, then one of its images. (LDAM-DRW's Resample draws
            classes by their effective numbers: of ten from 5,000 to 50 images, 11.9% to 9.4%.)
    """
    # NumPy mixes both numbers; torch's CPU generator would keep only 32 bits of a joint seed.
    generator = np.random.default_rng((seed, epoch))
    if balanced_over is None:
        order = torch.from_numpy(generator.permutation(num_images))
    else:
        order = torch.from_numpy(_balanced_draws(balanced_over.numpy(force=True), generator))
    flips = corners = None
    if augment != "none":
        flips = torch.from_numpy(generator.random(num_images) < 0.5)
    if augment == "crop-flip":
        corners = torch.from_numpy(generator.integers(2 * _PADDING + 1, size=(num_images, 2)))
    return EpochPlan(order, flips, corners)


def _balanced_draws(labels: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return as many indices as there are labels; classes without images are never drawn."""
    by_class = np.argsort(labels, kind="stable")
    _, starts, counts = np.unique(labels[by_class], return_index=True, return_counts=True)
    drawn = generator.integers(len(counts), size=len(labels))
    indices: NDArray[np.int64] = by_class[starts[drawn] + generator.integers(counts[drawn])]
    return indices


def num_batches(num_images: int, batch_size: int) -> int:
    """Return the batches of an epoch; a last batch of one image is left out.

    BatchNorm has no variance over a single image.
    """
    full, rest = divmod(num_images, batch_size)
    return full + (rest > 1)


def batches(
    images: Images,
    labels: Tensor,
    plan: EpochPlan,
    batch_size: int,
    *,
    start: int = 0,
    share: Callable[[int], slice] = slice,
) -> Iterator[Batch]:
    """Yield the batches of an epoch.

    Args:
        images, labels: uint8 (N, H, W, C) and (N,), on the same device, or images that stay in
            their file and are gathered batch by batch.
        plan: the choices of the epoch, for N images.
        batch_size: the images of a batch, over all ranks.
        start: the first batch to yield, counted from 0.
        share: gives the part of a batch of so many images that is wanted, by default all of it.
    """
    host_order = plan.order.cpu()
    plan = plan.to(labels.device)
    for i in range(start, num_batches(len(labels), batch_size)):
        whole = slice(i * batch_size, (i + 1) * batch_size)
        all_labels = labels[plan.order[whole]]
        part = share(len(all_labels))
        flips = None if plan.flips is None else plan.flips[whole][part]
        corners = None if plan.corners is None else plan.corners[whole][part]
        if isinstance(images, StoredImages):
            gathered = _sent(images[host_order[whole][part]], labels.device)
        else:
            gathered = images[plan.order[whole][part]]
        pixels = augmented(gathered, flips, corners).permute(0, 3, 1, 2)
        yield Batch(pixels, all_labels[part], all_labels)


def _sent(batch: Tensor, device: torch.device) -> Tensor:
    """Return a batch of the host on the device; CUDA takes it while the host goes on."""
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch


def augmented(images: Tensor, flips: Tensor | None, corners: Tensor | None) -> Tensor:
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
