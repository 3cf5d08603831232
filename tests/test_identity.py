"""What identity.py promises: an image is known by its content."""

import hashlib
import re

import numpy as np

from lmsm_cli.data.identity import Finder, as_digests, digest, pixel_digests, split_digest


def test_digest_is_of_the_pixels_alone():
    """A digest is blake2b of the image's own bytes, wherever the image lies in memory."""
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), np.uint8)
    digests = pixel_digests(images)
    assert digests.shape == (5, 16)
    for image, own in zip(images, digests, strict=True):
        assert own.tobytes() == hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    assert np.array_equal(pixel_digests(images[::-2]), digests[::-2])
    assert pixel_digests(images[:0]).shape == (0, 16)


def test_a_split_is_its_images_in_whatever_order():
    """The digest of a split ignores order and class numbers, not class names and multiplicity."""
    digests = as_digests([digest(bytes([n])) for n in (1, 2, 3)])
    labels = np.array([0, 1, 1])
    whole = split_digest(("a", "b"), labels, digests)
    assert re.fullmatch("[0-9a-f]{32}", whole)
    assert split_digest(("a", "b"), labels[::-1], digests[::-1]) == whole
    assert split_digest(("b", "a"), 1 - labels, digests) == whole
    others = [
        split_digest(("a", "c"), labels, digests),
        split_digest(("a", "b"), np.array([0, 0, 1]), digests),
        split_digest(("a", "b"), labels[:2], digests[:2]),
        split_digest(("a", "b"), labels[[0, 1, 1]], digests[[0, 1, 1]]),
        split_digest(("a", "b"), labels[[0, 1, 2, 2]], digests[[0, 1, 2, 2]]),
    ]
    assert len({whole, *others}) == 6


def test_images_are_found_once_each_wherever_they_are():
    """What is wanted twice must be there twice; pools are taken in turn, strangers passed over."""
    finder = Finder([b"x", b"y", b"x", b"z"])
    finder.look_in([b"n", b"x", b"y"])
    assert finder.missing == [2, 3]
    finder.look_in([b"x", b"x", b"z"])
    assert finder.missing == []
    assert finder.pool_of.tolist() == [0, 0, 1, 1]
    assert finder.place_of.tolist() == [1, 2, 0, 2]
