"""The two halves of the test images of a study: one to choose settings on, one to judge them on.

Within each class the images are sorted by the digest of their content, and taken in turns. So a
half depends on the images alone: neither on their order, nor on their files, nor on any draw; and
the classes keep their shares.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Half = Literal["choice", "verdict"]
HALVES: tuple[Half, ...] = ("choice", "verdict")


def half_of(labels: NDArray[np.integer], digests: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the half of each image, (N,), as its place in HALVES.

    The first digest of each class is of the half `choice`. Images of one content fall into one
    half: those of a class have one turn, and one that stands in several classes has that of the
    least class number.

    Args:
        labels: The class numbers (N,).
        digests: Of the contents, (N, DIGEST_BYTES).
    """
    contents = [row.tobytes() for row in digests]
    places: dict[bytes, int] = {}
    for number in np.unique(labels):
        own = {contents[row] for row in np.flatnonzero(labels == number)}
        turns = enumerate(sorted(own - places.keys()))
        places |= {content: turn % len(HALVES) for turn, content in turns}
    return np.array([places[content] for content in contents], np.uint8)
