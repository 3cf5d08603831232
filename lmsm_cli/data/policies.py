"""The learned augmentation policies, as torchvision has them, drawn for every image by itself.

torchvision.transforms.v2 draws an operation once for a whole batch; here its tables of operations,
strengths and probabilities are read, and each image gets draws of its own. To add a policy, add a
function to `_TABLES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Operation(NamedTuple):
    """A change to an image: torchvision's name of it, and its signed strength."""

    name: str
    magnitude: float


@dataclass(frozen=True)
class Policy:
    """Operations, and how they are drawn for an image."""

    operations: tuple[Operation, ...]
    """All that occur; the first changes nothing."""
    rows: NDArray[np.int64]
    """(R, W, 2): rows of W operations in turn, by their place, with either sign of the strength."""
    shares: NDArray[np.float64]
    """(R, W): how often an operation of a row is applied."""
    rounds: int
    """How many rows an image gets, each as likely as the others."""

    def draw(self, num_images: int, generator: np.random.Generator) -> Tensor:
        """Return the operations of each image in turn, (N, rounds * W), by their place."""
        rows = generator.integers(len(self.rows), size=(num_images, self.rounds))
        shares = self.shares[rows]
        signs = generator.integers(2, size=shares.shape)
        chosen = np.take_along_axis(self.rows[rows], signs[..., None], axis=-1)[..., 0]
        applied = generator.random(shares.shape) < shares
        return torch.from_numpy(np.where(applied, chosen, 0).reshape(num_images, -1))


_Row = list[tuple[str, int | None, float]]  # name, bin of the strength, share
_Space = Mapping[str, tuple[Callable[[int, int, int], Tensor | None], bool]]


@cache
def policy_of(augment: str, height: int, width: int) -> Policy:
    """Return the policy of an augmentation, for images of one size."""
    # torchvision.transforms.v2 takes a second to import, which only these runs should wait for.
    from torchvision.transforms import v2

    space, bins, rows, rounds = _TABLES[augment](v2)
    places = {Operation("Identity", 0.0): 0}

    def place(name: str, number: int | None, sign: int) -> int:
        strengths, is_signed = space[name]
        values = strengths(bins, height, width)
        strength = 0.0 if values is None else float(values[number])
        operation = Operation(name, sign * strength if is_signed else strength)
        return places.setdefault(operation, len(places))

    table = [
        [[place(name, number, sign) for sign in (1, -1)] for name, number, _ in row] for row in rows
    ]
    shares = [[share for *_, share in row] for row in rows]
    return Policy(tuple(places), np.array(table), np.array(shares, np.float64), rounds)


def _autoaugment(v2: Any) -> tuple[_Space, int, list[_Row], int]:
    """CIFAR-10's sub-policies: of one in 25, two operations, each with a share of its own."""
    rows = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)._policies
    known = [[(name, number, share) for name, share, number in row] for row in rows]
    return v2.AutoAugment._AUGMENTATION_SPACE, 10, known, 1


def _randaugment(v2: Any) -> tuple[_Space, int, list[_Row], int]:
    """Two operations in turn, both at one strength."""
    usual, space = v2.RandAugment(), v2.RandAugment._AUGMENTATION_SPACE
    rows: list[_Row] = [[(name, usual.magnitude, 1.0)] for name in space]
    return space, usual.num_magnitude_bins, rows, usual.num_ops


def _trivial(v2: Any) -> tuple[_Space, int, list[_Row], int]:
    """One operation, at any strength."""
    bins, space = (
        v2.TrivialAugmentWide().num_magnitude_bins,
        v2.TrivialAugmentWide._AUGMENTATION_SPACE,
    )
    rows: list[_Row] = [[(name, number, 1.0)] for name in space for number in range(bins)]
    return space, bins, rows, 1


_TABLES: dict[str, Callable[[Any], tuple[_Space, int, list[_Row], int]]] = {
    "autoaugment-cutout": _autoaugment,
    "randaugment": _randaugment,
    "trivial": _trivial,
}
LEARNED = tuple(_TABLES)
