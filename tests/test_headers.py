"""What headers.py promises: sizes as they are shown, kinds as they lie on the disk."""

import numpy as np
from PIL import Image

from lmsm_cli.data.headers import Header, Spread, read_headers, shapes_of
from tests.conftest import noise


def test_a_header_has_the_sides_of_the_picture_as_it_is_shown(tmp_path):
    """A JPEG and a WebP that EXIF turns by a quarter are told upright, others as they lie."""
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.fromarray(noise(0, (20, 50, 3)))
    wide.save(tmp_path / "turned.jpg", exif=exif)
    wide.save(tmp_path / "turned.webp", exif=exif)
    wide.save(tmp_path / "plain.png")
    files = ["turned.jpg", "turned.webp", "plain.png"]
    found = read_headers(tmp_path, files)
    assert found == [
        Header(20, 50, "RGB", "JPEG"),
        Header(20, 50, "RGB", "WEBP"),
        Header(50, 20, "RGB", "PNG"),
    ]


def test_every_kind_is_told_and_what_has_no_header_is_left_out(tmp_path):
    """16 bits, CMYK, palettes: the mode is the file's; a cut file has a header, an empty none."""
    Image.fromarray(np.full((9, 9), 60_000, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(noise(1)).convert("CMYK").save(tmp_path / "ink.jpg")
    Image.fromarray(noise(2)).convert("P").save(tmp_path / "few.gif")
    for name in ("a.webp", "b.bmp"):
        Image.fromarray(noise(3)).save(tmp_path / name)
    Image.fromarray(noise(4, (200, 200, 3))).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:5000])
    (tmp_path / "empty.png").touch()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert [(one.mode, one.format) for one in read_headers(tmp_path, files)] == [
        ("RGB", "WEBP"),
        ("RGB", "BMP"),
        ("RGB", "JPEG"),
        ("I;16", "PNG"),
        ("P", "GIF"),
        ("CMYK", "JPEG"),
    ]


def test_shapes_are_counted_by_hand():
    """The median of an even number lies between; a picture is small by its shorter side."""
    headers = [Header(*sides, "RGB", "PNG") for sides in ((10, 40), (20, 20), (30, 8), (60, 90))]
    shapes = shapes_of(headers, 20)
    assert shapes.width == Spread(10, 25, 60)
    assert shapes.height == Spread(8, 30, 90)
    assert shapes.shorter_side == Spread(8, 15, 60)
    assert (shapes.smaller, shapes.not_square) == (2, 3)
    assert shapes_of([], 20) is None
