"""What identity.py promises of duplicates: the same picture is found where it should not be."""

import shutil

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data import splits
from lmsm_cli.data.identity import Pictures, as_digests, digest, duplicate_pictures
from tests.conftest import SilentDisplay, noise, save


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
