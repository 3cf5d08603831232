"""Shuffled, augmented batches, on the device that holds the labels.

Everything random in an epoch is drawn before it, from a generator that depends only on (seed,
epoch): an epoch can be repeated exactly, and entered at any batch. The draws are made on the CPU,
so they are the same on every device.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsm_cli.data.augment import Changes, augmented, draw_changes
from lmsm_cli.data.decoded import Images, StoredImages
from lmsm_cli.data.mixing import Mixed, Mixing, MixingPlan, draw_mixing, in_order, mixed_images
from lmsm_cli.data.prefetch import ahead
from lmsm_cli.runtime.device import sent


@dataclass(frozen=True)
class EpochPlan:
    """All random choices of one epoch."""

    order: Tensor  # (N,)
    changes: Changes  # of the images in that order
    mixing: MixingPlan | None = None

    def to(self, device: torch.device) -> "EpochPlan":
        """Return the plan on a device: one transfer an epoch."""
        mixing = self.mixing and self.mixing.to(device)
        return EpochPlan(self.order.to(device), self.changes.to(device), mixing)


class Batch(NamedTuple):
    """A rank's part of a batch, ready for the model; without ranks, all of it."""

    images: Tensor  # uint8 (B, C, H, W), channels-last in memory
    labels: Tensor  # (B,)
    all_labels: Tensor  # of the whole batch, in order of rank
    mixed: Mixed | None = None  # what mixup and CutMix add


def plan_epoch(
    num_images: int,
    augment: str,
    *,
    seed: int,
    epoch: int,
    balanced_over: Tensor | None = None,
    size: tuple[int, int] | None = None,
    mixing: Mixing | None = None,
) -> EpochPlan:
    """Draw the choices of an epoch.

    Args:
        num_images: the length N of the order, which is a shuffle.
        augment: one of AUGMENTATIONS.
        seed, epoch: the same two numbers give the same choices.
        balanced_over: the images' labels (N,). With them the order is N draws with replacement: a
            class, each as likely as the others, then one of its images. (LDAM-DRW's Resample draws
            classes by their effective numbers: of ten from 5,000 to 50 images, 11.9% to 9.4%.)
        size: (H, W) of the images; only none, flip and crop-flip do without.
        mixing: how batches are mixed by mixup and CutMix, None for not at all.
    """
    # NumPy mixes both numbers; torch's CPU generator would keep only 32 bits of a joint seed.
    generator = np.random.default_rng((seed, epoch))
    if balanced_over is None:
        order = torch.from_numpy(generator.permutation(num_images))
    else:
        order = torch.from_numpy(_balanced_draws(balanced_over.numpy(force=True), generator))
    # Mixing comes last: with and without it, an epoch has the same order and the same changes.
    changes = draw_changes(augment, num_images, size, generator)
    drawn = None
    if mixing is not None:
        assert size is not None
        drawn = draw_mixing(mixing, num_images, mixing.size or size, generator)
    return EpochPlan(order, changes, drawn)


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
    crop_to: tuple[int, int] | None = None,
) -> Generator[Batch, None, None]:
    """Yield the batches of an epoch; close it where it is left early.

    Args:
        images, labels: uint8 (N, H, W, C) and (N,), on the same device, or images that stay in
            their file and are gathered batch by batch, one ahead.
        plan: the choices of the epoch, for N images.
        batch_size: the images of a batch, over all ranks.
        start: the first batch to yield, counted from 0.
        share: gives the part of a batch of so many images that is wanted, by default all of it.
        crop_to: (H, W) of a crop of `photo`, by default that of the images.
    """
    host_order, device = plan.order.cpu(), labels.device
    plan = plan.to(device)
    numbers = range(start, num_batches(len(labels), batch_size))
    wholes = [range(len(labels))[i * batch_size : (i + 1) * batch_size] for i in numbers]
    parts = [
        _Part(i, whole, whole[share(len(whole))]) for i, whole in zip(numbers, wholes, strict=True)
    ]
    with closing(_gathered(images, host_order, parts, plan.mixing)) as gathered:
        for part, pixels in zip(parts, gathered, strict=True):
            on_host = part.places(plan.mixing)
            where = on_host if isinstance(on_host, slice) else sent(on_host, device)
            if pixels is None:
                assert isinstance(images, Tensor)
                pixels = images[plan.order[where]]
            else:
                pixels = sent(pixels, device)
            changes = plan.changes.of(on_host, where)
            pixels = augmented(pixels, changes, crop_to)
            all_labels = labels[plan.order[part.whole.start : part.whole.stop]]
            if plan.mixing is None:
                yield Batch(pixels, all_labels[part.own_rows], all_labels)
            else:
                yield _mixed_batch(plan.mixing, part, all_labels, pixels)


class _Part(NamedTuple):
    """A batch by its number: its places in the epoch, and this rank's of them."""

    number: int
    whole: range
    own: range

    @property
    def own_rows(self) -> slice:
        """This rank's rows of the batch."""
        return slice(self.own.start - self.whole.start, self.own.stop - self.whole.start)

    def partners(self, plan: MixingPlan) -> Tensor:
        """Return the rows of the batch that its images are mixed with; on the host."""
        return plan.partners[self.whole.start : self.whole.stop] - self.whole.start

    def places(self, plan: MixingPlan | None) -> slice | Tensor:
        """Return the places in the epoch of the images that this rank needs.

        Those of its own rows; where their partners may be another rank's, then those of these.
        """
        if plan is None or len(self.own) == len(self.whole):
            return slice(self.own.start, self.own.stop)
        partners = self.partners(plan)[self.own_rows] + self.whole.start
        return torch.cat([torch.arange(self.own.start, self.own.stop), partners])


def _gathered(
    images: Images, order: Tensor, parts: Sequence[_Part], mixing: MixingPlan | None
) -> Generator[Tensor | None, None, None]:
    """Yield the images of each part where they lie on disk, read one part ahead; else None."""
    if not isinstance(images, StoredImages):
        yield from (None for _ in parts)
        return
    yield from ahead(lambda part: images[order[part.places(mixing)]], parts)


def _mixed_batch(plan: MixingPlan, part: _Part, all_labels: Tensor, pixels: Tensor) -> Batch:
    """Return a batch of the augmented images of `part.places`.

    An image is augmented alike wherever it goes.
    """
    i, rows, all_partners = part.number, part.own_rows, part.partners(plan)
    if len(part.own) == len(part.whole):
        others = pixels[sent(all_partners, pixels.device)]
    else:
        pixels, others = pixels.tensor_split(2)
    others_labels = all_labels[sent(all_partners, all_labels.device)]
    first, second = in_order(plan, i, all_labels, others_labels)
    mixed = Mixed(second[rows], second, plan.shares[i])
    return Batch(mixed_images(plan, i, pixels, others), first[rows], first, mixed)
