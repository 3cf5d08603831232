"""The halves of the test images of a study, from their definition."""

import hashlib

import numpy as np
import pytest

from tests.conftest import BENCHMARKS

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")


def digests_of(contents):
    """Return the digests (N, 16) of contents."""
    found = [hashlib.blake2b(str(one).encode(), digest_size=16).digest() for one in contents]
    return np.array([list(one) for one in found], np.uint8)


def test_the_images_of_a_class_are_taken_in_turns_by_digest(module):
    """Worked by hand: class 0 in the order 3, 7, 9 of its digests, class 1 in the order 1, 2."""
    first = np.array([9, 2, 3, 1, 7], np.uint8)
    digests = np.zeros((5, 16), np.uint8)
    digests[:, 0] = first
    digests[:, 15] = [0, 200, 100, 255, 50]  # the first byte decides
    halves = module("halves")
    found = [halves.HALVES[half] for half in halves.half_of(np.array([0, 1, 0, 1, 0]), digests)]
    assert found == ["choice", "verdict", "choice", "choice", "verdict"]


def test_the_halves_have_every_class_and_do_not_depend_on_the_order(module):
    """Of an even class half are in each; a permutation of the images permutes their halves."""
    labels = np.repeat([0, 1, 2], [40, 30, 7])
    digests = digests_of(range(77))
    half_of = module("halves").half_of
    found = half_of(labels, digests)
    for number, sizes in enumerate(([20, 20], [15, 15], [4, 3])):
        assert np.bincount(found[labels == number]).tolist() == sizes
    order = np.random.default_rng(0).permutation(77)
    assert np.array_equal(half_of(labels[order], digests[order]), found[order])
    # more images of another class change nothing for those that were there
    more = half_of(np.append(labels, [3, 3, 3]), digests_of(range(80)))
    assert np.array_equal(more[:77], found)


def test_an_image_that_occurs_twice_is_in_one_half(module):
    """In one class and in two; the others take their turns as if it stood there once."""
    labels = np.array([0] * 6 + [1] * 5)
    contents = ["a", "b", "b", "b", "c", "d", "b", "d", "e", "f", "g"]
    half_of = module("halves").half_of
    found = dict(zip(contents, half_of(labels, digests_of(contents)).tolist(), strict=True))
    assert half_of(labels, digests_of(contents)).tolist() == [found[one] for one in contents]
    assert sorted(found[one] for one in "abcd") == [0, 0, 1, 1]
    assert sorted(found[one] for one in "efg") == [0, 0, 1]
