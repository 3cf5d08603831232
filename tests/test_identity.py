"""What identity.py promises: an image is known by its content."""

import hashlib

import numpy as np

from lmsm_cli.data.identity import pixel_digests


def test_digest_is_of_the_pixels_alone():
    """A digest is blake2b of the image's own bytes, wherever the image lies in memory."""
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3, 2), np.uint8)
    digests = pixel_digests(images)
    assert digests.shape == (5, 16)
    for image, digest in zip(images, digests, strict=True):
        assert digest.tobytes() == hashlib.blake2b(image.tobytes(), digest_size=16).digest()
    assert np.array_equal(pixel_digests(images[::-2]), digests[::-2])
    assert pixel_digests(images[:0]).shape == (0, 16)
