"""The same picture where it should not be: in two classes, or in two parts of the data."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.data.identity import Digests, Part
from lmsm_cli.errors import visible

_NAMED = 5


class Pictures(NamedTuple):
    """What is known of some images: label, digests of file and of pixels, name of the file."""

    labels: NDArray[np.int64]  # (N,)
    files: Digests  # (N, 16)
    pixels: Digests  # (N, 16)
    names: Sequence[str]


def duplicates_told(parts: Mapping[Part, Pictures]) -> list[str]:
    """Return a sentence for each way in which a picture stands where it should not, with the first files.

    Two images are the same picture where their files or their pixels at full size are the same.
    """
    split = np.concatenate(
        [np.full(len(one.labels), number) for number, one in enumerate(parts.values())]
    )
    labels = np.concatenate([one.labels for one in parts.values()])
    names = [name for one in parts.values() for name in one.names]
    groups = _same(
        np.concatenate([one.files for one in parts.values()]),
        np.concatenate([one.pixels for one in parts.values()]),
    )
    order = list(parts)
    between_classes: list[str] = []
    between_parts: dict[tuple[Part, Part], list[str]] = {}
    for group in groups:
        of_labels = {int(labels[row]): row for row in reversed(group)}
        if len(of_labels) > 1:
            between_classes.append(" = ".join(names[row] for row in sorted(of_labels.values())))
        first = {order[split[row]]: row for row in reversed(group)}
        for here in first:
            for other in first:
                if order.index(here) < order.index(other):
                    pair = f"{names[first[here]]} = {names[first[other]]}"
                    between_parts.setdefault((here, other), []).append(pair)
    told = []
    if between_classes:
        told.append(
            f"{_pictures(between_classes)} in more than one class: {_first(between_classes)}"
        )
    for (here, other), pairs in between_parts.items():
        told.append(
            f"{_pictures(pairs)} among the {here} and the {other} images, which flatters {other} scores: {_first(pairs)}"
        )
    return told


def _same(*digests: Digests) -> list[list[int]]:
    """Return the groups of rows that share one of their digests, each in ascending order."""
    above = list(range(len(digests[0])))
    for kind in digests:
        first: dict[bytes, int] = {}
        for row, one in enumerate(kind):
            above[row] = min(above[row], above[first.setdefault(one.tobytes(), row)])
    groups: dict[int, list[int]] = {}
    for row, top in enumerate(above):
        groups.setdefault(top, []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _pictures(found: Sequence[str]) -> str:
    return "1 picture is" if len(found) == 1 else f"{len(found):,} pictures are"


def _first(found: Sequence[str]) -> str:
    more = f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else ""
    return visible("; ".join(found[:_NAMED])) + more
