"""Mixup and CutMix: images of a batch mixed with others of it, and so are their losses.

What is drawn for an epoch, and how a batch is mixed. A mixed image has two labels with a share
each; the loss of an image is the sum of the losses under both, weighted by their shares.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Mixing:
    """How batches are mixed; an alpha of 0 leaves a way out, and both ways get half of them."""

    mixup: float
    """Alpha of the Beta distribution of an image's share, where two images are blended."""
    cutmix: float
    """Alpha where a rectangle of one image is replaced by another's."""
    batch_size: int
    size: tuple[int, int] | None = None
    """(H, W) of the images that are mixed, where they are crops of larger ones."""


@dataclass(frozen=True)
class MixingPlan:
    """What was drawn for the B batches of an epoch of N images."""

    batch_size: int
    partners: Tensor
    """(N,): of each image, the place in the epoch of the one it is mixed with; on the host."""
    boxes: NDArray[np.int64]
    """(B, 4): top, bottom, left and right of a CutMix rectangle; an empty one stands for mixup."""
    own: NDArray[np.float64]
    """(B,): the share of the image itself in a batch, and of its label in the loss."""
    shares: Tensor
    """(B,): the same in float32, or its rest to 1 where that is more."""

    def to(self, device: torch.device) -> "MixingPlan":
        """Return the plan with what a step reads on a device."""
        return replace(self, shares=self.shares.to(device))


class Mixed(NamedTuple):
    """The second labels of a batch of mixed images; the first ones have the larger share."""

    labels: Tensor  # (B,)
    all_labels: Tensor  # of the whole batch, in order of rank
    share: Tensor  # (), of the first labels


def draw_mixing(
    mixing: Mixing, num_images: int, size: tuple[int, int], generator: np.random.Generator
) -> MixingPlan:
    """Draw how the batches of an epoch are mixed; `size` is (H, W) of the images.

    A share is drawn for each batch, and a partner in its batch for each image. A CutMix rectangle
    has the shape of the image and its middle anywhere in it; what reaches over the edge is lost, so
    the share of the label is that of the pixels that are left (Yun et al. 2019).
    """
    count = -(-num_images // mixing.batch_size)
    is_cutmix = generator.random(count) < _share_of_cutmix(mixing)
    alphas = np.where(is_cutmix, mixing.cutmix, mixing.mixup)
    own = generator.beta(alphas, alphas)
    middle = generator.integers(size, size=(count, 2))
    half = (0.5 * np.sqrt(1 - own)[:, None] * size).astype(np.int64)
    low = np.maximum(middle - half, 0)
    high = np.minimum(middle + half, size)
    boxes = np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1)
    boxes[~is_cutmix] = 0
    own = np.where(is_cutmix, 1 - (high - low).prod(axis=1) / np.prod(size), own)
    # A shuffle of the images of each batch: random numbers, sorted batch by batch.
    batch = np.arange(num_images) // mixing.batch_size
    partners = np.lexsort((generator.random(num_images), batch))
    shares = torch.from_numpy(np.maximum(own, 1 - own)).float()
    return MixingPlan(mixing.batch_size, torch.from_numpy(partners), boxes, own, shares)


def _share_of_cutmix(mixing: Mixing) -> float:
    return 0.5 if mixing.mixup and mixing.cutmix else float(mixing.cutmix > 0)


def mixed_images(plan: MixingPlan, batch: int, images: Tensor, others: Tensor) -> Tensor:
    """Return images (M, C, H, W) of a batch, by its number, mixed with others; all uint8.

    Mixup rounds to whole values.
    """
    top, bottom, left, right = plan.boxes[batch].tolist()
    if bottom > top:
        images = images.clone()
        images[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
        return images
    own = float(plan.own[batch])
    return others.float().lerp_(images.float(), own).round_().to(torch.uint8)


def in_order(plan: MixingPlan, batch: int, labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Return the labels and those of the partners, those with the larger share first."""
    return (labels, others) if plan.own[batch] >= 0.5 else (others, labels)
