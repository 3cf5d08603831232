"""Pictures that look nearly the same: one picture at another size or in another encoding, mostly.

Each image is reduced to 8 x 8 grey levels. Of copies of CIFAR-10 images at 0.75 to 2 times the
size, as JPEG of quality 70, 99 in 100 correlate there with the image by more than 0.995, and differ
by less than 2.2 grey levels (root mean square); of 3,000 images no two others came above 0.99.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lmsm_cli.data.decoded import Images
from lmsm_cli.data.identity import Copies, Pictures, copies_at

MOST_IMAGES = 20_000
"""Of more, all pairs would take long: 200 million are compared in seconds."""
_SIDE = 8
_ALIKE, _MOST_APART = 0.995, 3.0  # correlation and root mean square of grey levels
# Fewer levels (standard deviation) are an empty page or sky, which all look the same.
_FLAT = 4.0
_AT_ONCE = 512


def near_copies(
    parts: Mapping[str, Pictures], images: Mapping[str, Images], known: Sequence[Copies]
) -> list[Copies]:
    """Return pictures that look nearly the same and are in two classes or in two parts.

    Args:
        parts: names and labels of the images of each part, no more than MOST_IMAGES in all.
        images: their pixels, uint8 (N, H, W, C).
        known: copies that were found already, which are left out.
    """
    names = [name for one in parts.values() for name in one.names]
    labels = np.concatenate([one.labels for one in parts.values()])
    sides = np.repeat(np.arange(len(parts)), [len(one.names) for one in parts.values()])
    first, second = _alike(torch.cat([_reduced(images[part]) for part in parts]))
    copy_of = {name: number for number, one in enumerate(known) for name in one.names}
    numbers = np.array([copy_of.get(name, -1 - row) for row, name in enumerate(names)])
    wanted = (labels[first] != labels[second]) | (sides[first] != sides[second])
    wanted &= numbers[first] != numbers[second]
    return copies_at(_connected(first[wanted], second[wanted], len(names)), parts)


def _reduced(images: Images) -> Tensor:
    """Return the images as 8 x 8 grey levels, float32 (N, 64)."""
    found = []
    for start in range(0, len(images), _AT_ONCE):
        levels = images[start : start + _AT_ONCE].permute(0, 3, 1, 2).float().mean(1, keepdim=True)
        found.append(adaptive_avg_pool2d(levels, _SIDE).flatten(1))
    return torch.cat(found)


def _alike(levels: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of pairs that look nearly the same, the smaller row of each first."""
    centred = levels - levels.mean(1, keepdim=True)
    lengths = centred.norm(dim=1, keepdim=True)
    unit = centred / lengths.clamp_min(_FLAT * _SIDE)  # that of a flat image is shorter than 1
    pairs = []
    for start in range(0, len(unit), _AT_ONCE):
        found = (unit[start : start + _AT_ONCE] @ unit[start:].T >= _ALIKE).nonzero() + start
        pairs.append(found[found[:, 0] < found[:, 1]])
    first, second = torch.cat(pairs).T
    apart = (levels[first] - levels[second]).square().mean(1).sqrt()
    close = apart <= _MOST_APART
    return first[close].numpy(), second[close].numpy()


def _connected(first: NDArray[np.int64], second: NDArray[np.int64], count: int) -> list[list[int]]:
    """Return the groups of rows that pairs connect, each in ascending order."""
    graph = coo_array((np.ones(len(first), np.int8), (first, second)), shape=(count, count))
    _, group_of = connected_components(graph, directed=False)
    groups: dict[int, list[int]] = {}
    for row in np.union1d(first, second).tolist():
        groups.setdefault(int(group_of[row]), []).append(row)
    return list(groups.values())
