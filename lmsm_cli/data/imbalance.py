"""Long-tailed profiles: how many images each class keeps, and which; the validation split.

Counts and choice are those of LDAM-DRW's `imbalance_cifar.py` with `rand_number=0` (Cao et al.
2019, "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss"), so a subset here is
the one in which published CIFAR-LT numbers were measured.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.errors import LmsmError

_LDAM_SEED = 0


def long_tail_counts(
    available: Sequence[int], profile: str, factor: float, most: int | None = None
) -> list[int]:
    """Return the images that each class keeps, rounded down and never more than there are.

    Args:
        available: the images of each class (C,).
        profile: none keeps all. Otherwise the largest class is the mean of `available`, as in
            LDAM-DRW: exp falls geometrically from it, step cuts the second half of the classes.
        factor: the smallest class as a share of the largest, in (0, 1].
        most: no class has more than that to begin with.

    Raises LmsmError where a class would keep no image.
    """
    num_classes = len(available)
    available = [min(have, most or have) for have in available]
    largest = sum(available) / num_classes
    if profile == "none":
        return available
    if profile == "exp":
        wanted = [
            int(largest * factor ** (c / max(1, num_classes - 1))) for c in range(num_classes)
        ]
    else:
        # An odd number of classes: the middle one is large (LDAM-DRW's code would lose a class).
        half = num_classes - num_classes // 2
        wanted = [int(largest) if c < half else int(largest * factor) for c in range(num_classes)]
    kept = [min(want, have) for want, have in zip(wanted, available, strict=True)]
    if min(kept) < 1:
        c = kept.index(min(kept))
        raise LmsmError(
            f"factor is {factor}: class {c} would keep 0 of {available[c]} images; "
            f"use at least {math.ceil(1e6 / largest) / 1e6}"
        )
    return kept


def kept_indices(labels: NDArray[np.int64], counts: Sequence[int]) -> NDArray[np.int64]:
    """Return the indices of the kept images, class by class, in LDAM-DRW's order.

    One NumPy generator seeded with 0 shuffles each class's indices in turn, and the first
    `counts[c]` stay. NumPy's global generator is not touched.
    """
    generator = np.random.RandomState(_LDAM_SEED)
    kept = []
    for c, count in enumerate(counts):
        indices = np.flatnonzero(labels == c)
        generator.shuffle(indices)
        kept.append(indices[:count])
    return np.concatenate(kept)


def validation_counts(counts: Sequence[int], fraction: float) -> list[int]:
    """Return the images of each class that go to validation: the rounded share, never the last."""
    return [min(count - 1, int(count * fraction + 0.5)) for count in counts]


def stratified_split(
    labels: NDArray[np.int64], num_classes: int, fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training, validation) indices, class by class the same fraction; both ascending.

    Args:
        labels, num_classes: class numbers (N,), each from 0 to num_classes - 1.
        fraction: of each class's images for validation, in [0, 1), as `validation_counts` rounds.
        seed: decides which images these are.
    """
    generator = np.random.default_rng(seed)
    counts = np.bincount(labels, minlength=num_classes)
    held = np.zeros(len(labels), dtype=bool)
    for c, count in enumerate(validation_counts(counts.tolist(), fraction)):
        held[generator.permutation(np.flatnonzero(labels == c))[: max(0, count)]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)
