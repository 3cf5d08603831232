"""Sheets of images: every pixel is there, words are never wider than their image."""

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.errors import DiskError
from lmsm_cli.reports.sheets import Mistake, draw_mistakes
from tests.conftest import noise


def drawn(path, *images, names=("cat", "dog")):
    """Draw a sheet of these images (H, W, C); return its pixels."""
    draw_mistakes([Mistake(image, *names, 0.9) for image in images], path)
    with Image.open(path) as sheet:
        return np.array(sheet)


def places_of(pattern, sheet):
    """Return the (row, column) of each place in the sheet that holds the pattern's pixels."""
    height, width, _ = pattern.shape
    corners = np.argwhere((sheet == pattern[0, 0]).all(axis=2))
    return [
        (y, x)
        for y, x in corners.tolist()
        if np.array_equal(sheet[y : y + height, x : x + width], pattern)
    ]


@pytest.mark.parametrize("shape", [(8, 8, 1), (28, 28, 1), (32, 32, 3), (144, 144, 3)])
def test_small_images_are_enlarged_without_smoothing(tmp_path, shape):
    """Each pixel is a square of one colour; the whole is at most 144 pixels wide."""
    image = noise(0, shape)
    sheet = drawn(tmp_path / "x.png", image)
    times = 144 // shape[0]
    enlarged = np.kron(image, np.ones((times, times, 1), np.uint8))
    assert len(places_of(np.repeat(enlarged, 3, axis=2) if shape[2] == 1 else enlarged, sheet)) == 1


def test_large_images_are_made_smaller_in_their_proportions(tmp_path):
    """A picture of 600 x 300 becomes 144 x 72, all of it shown."""
    image = np.zeros((300, 600, 3), np.uint8)
    image[:, 300:] = 200
    sheet = drawn(tmp_path / "x.png", image)
    assert len(places_of(np.full((72, 60, 3), 200, np.uint8), sheet)) > 0
    assert (sheet[10 + 72 : 10 + 144, 10 : 10 + 60] == 0).all()


def test_the_images_stand_row_by_row_in_their_order(tmp_path):
    """Five images make rows of three and two, first to last."""
    shades = [np.full((8, 8, 1), shade, np.uint8) for shade in (10, 60, 110, 160, 210)]
    sheet = drawn(tmp_path / "x.png", *shades)
    corners = [
        places_of(np.full((144, 144, 3), shade, np.uint8), sheet)
        for shade in (10, 60, 110, 160, 210)
    ]
    assert all(len(corner) == 1 for corner in corners)
    assert [corner[0] for corner in corners] == sorted(corner[0] for corner in corners)
    assert len({row for ((row, _),) in corners}) == 2


@pytest.mark.parametrize("shape", [(32, 32, 3), (300, 600, 3), (600, 300, 3), (28, 28, 1)])
def test_words_stand_nearer_to_their_own_image_than_to_the_one_below(tmp_path, shape):
    """Whatever the image's form, its words follow at once, and the next image after a gap."""
    sheet = drawn(tmp_path / "x.png", *[np.full(shape, 90, np.uint8)] * 4)
    column = sheet[:, 10:60].reshape(len(sheet), -1)
    grey, white = (column == 90).all(axis=1), (column == 255).all(axis=1)
    bottom = np.flatnonzero(grey[:-1] & ~grey[1:])[0]
    words = np.flatnonzero(~white & ~grey)
    first_words = words[(words > bottom) & (words < 190)]
    next_image = np.flatnonzero(grey)[np.flatnonzero(grey) > first_words.max()][0]
    above, below = first_words.min() - bottom, next_image - first_words.max()
    assert 0 < above <= 8
    assert below > 2 * above


def test_names_are_cut_to_the_width_of_their_image(tmp_path):
    """However long and odd the names, they stay in their cell; what stands beside is untouched."""
    names = ("w" * 500, "日本\x1b[31m\n" + "x" * 500)
    black = np.zeros((8, 8, 1), np.uint8)
    sheet = drawn(tmp_path / "x.png", black, black, names=names)
    assert (sheet[:, 155:163] == 255).all()  # the gap between two cells
    assert (sheet[:, -9:] == 255).all()
    assert (sheet[156:184, 10:154] < 128).any()


def test_no_mistakes_are_said_so(tmp_path):
    """A classifier without mistakes gets a sheet that says so, not an error or an old picture."""
    assert (drawn(tmp_path / "x.png") < 128).any()


def test_many_mistakes_fit_on_a_sheet(tmp_path):
    """1000 images stand in ten columns."""
    sheet = drawn(tmp_path / "x.png", *[noise(0, (8, 8, 1))] * 1000)
    assert sheet.shape == (100 * 196 + 10, 10 * 154 + 10, 3)


def test_a_sheet_that_cannot_be_written_is_a_disk_error(tmp_path):
    """Below a file there is no folder to be made: exit code 6 by name, and nothing is left."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError, match=r"cannot write .*worst\.png"):
        drawn(tmp_path / "file" / "worst.png")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
