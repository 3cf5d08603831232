"""What identity.py promises: an image is known by its content, as are duplicates."""

import hashlib
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data import splits
from lmsm_cli.data.identity import (
    Finder,
    ImagesRecord,
    Pictures,
    are_same_images,
    as_digests,
    digest,
    duplicate_pictures,
    pixel_digests,
    split_digest,
)
from tests.conftest import SilentDisplay, noise, save


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


def record_of(*rows):
    """Return a record of rows of part, class, content and name."""
    parts, labels, contents, names = zip(*rows, strict=True)
    digests = as_digests([digest(content) for content in contents])
    columns = (np.array(parts, np.uint8), np.array([("ant", "bee").index(one) for one in labels]))
    return ImagesRecord(("ant", "bee"), *columns, digests, np.array(names), (0.5,), (0.5,))


def test_images_divided_anew_are_the_same_and_others_are_not():
    """Names, order and parts make no others; a class, a content or a copy more do."""
    rows = [(0, "ant", b"1", b"1.png"), (2, "ant", b"2", b"2.png"), (2, "bee", b"3", b"3.png")]
    before = record_of(*rows)
    renamed = [(0, "bee", b"3", b"x.png"), (0, "ant", b"2", b"1.png"), (2, "ant", b"1", b"z.png")]
    assert are_same_images(before, record_of(*renamed))
    others = (
        [*rows[:2], (2, "ant", b"3", b"3.png")],
        [*rows[:2], (2, "bee", b"4", b"3.png")],
        [*rows, (0, "ant", b"1", b"copy.png")],
        rows[:2],
    )
    assert not any(are_same_images(before, record_of(*one)) for one in others)


def pictures(*rows):
    """Return images from (label, file, pixels, name)."""
    labels, files, pixels, names = zip(*rows, strict=True)
    return Pictures(
        np.array(labels),
        *(as_digests([digest(text.encode()) for text in texts]) for texts in (files, pixels)),
        names,
    )


def test_pictures_in_two_classes_and_in_two_parts_are_counted_and_named():
    """Equal files or pixels are the same picture; twice in one class of one part is no news."""
    parts = {
        "training": pictures(
            (0, "a", "A", "t/a1"), (0, "a", "A", "t/a2"), (1, "b", "B", "t/b"), (1, "c", "C", "t/c")
        ),
        "test": pictures((0, "b", "B", "e/b"), (1, "c2", "C", "e/c"), (1, "d", "D", "e/d")),
    }
    assert duplicate_pictures(parts) == [
        "1 picture is in more than one class: t/b = e/b",
        "2 pictures are among the training and the test images, which flatters test scores: "
        "t/b = e/b; t/c = e/c",
    ]
    assert duplicate_pictures({"training": parts["training"]}) == []


def test_many_are_counted_and_the_first_named():
    """A message names five."""
    rows = [(0, str(number), str(number), f"{number}") for number in range(8)]
    (text,) = duplicate_pictures({"validation": pictures(*rows), "test": pictures(*rows)})
    assert text.startswith("8 pictures are among the validation and the test images")
    assert text.endswith("4 = 4 and 3 more")


@pytest.mark.parametrize("kind", ["copy", "resaved"])
def test_a_run_is_warned_of_them(tmp_path, kind):
    """A copied file and one of the same pixels in another format are found in a folder."""
    for number in range(40):
        save(tmp_path / "train" / "ab"[number % 2] / f"{number}.png", noise(number))
        save(tmp_path / "test" / "ab"[number % 2] / f"{number}.png", noise(100 + number))
    source = tmp_path / "train" / "a" / "4.png"
    if kind == "copy":
        shutil.copy(source, tmp_path / "test" / "a" / "again.png")
    else:
        Image.open(source).save(tmp_path / "test" / "a" / "again.bmp")
    flags = {"dataset": "folder", "data_dir": tmp_path, "image_size": 8, "batch_size": 8}
    flags |= {"validation": 0}
    display = SilentDisplay()
    splits.load_data(resolve([Layer.of_flags(flags)]).config, display)
    (text,) = display.warned
    assert "1 picture is among the training and the test images" in text
    assert "train/a/4.png = test/a/again." in text
