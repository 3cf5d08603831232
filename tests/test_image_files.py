"""What image_files.py promises: any image file in one form, or its name and why not."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.data.image_files import (
    DeepLevels,
    ImageFileError,
    find_images,
    notes_on_levels,
    pillow_warnings,
    read_image,
)
from lmsm_cli.errors import DataError, LmsmError
from tests.conftest import SilentDisplay, noise, save


def test_shorter_side_is_resized_and_the_middle_kept(tmp_path):
    """Of a wide picture of three stripes, the middle stripe is what is left."""
    stripes = np.zeros((20, 60, 3), np.uint8)
    for stripe in range(3):
        stripes[:, 20 * stripe : 20 * stripe + 20, stripe] = 255
    image = read_image(save(tmp_path / "x.png", stripes), size=10, channels=3)
    assert image.shape == (10, 10, 3)
    assert np.array_equal(image[:, 1:-1], np.full((10, 8, 3), (0, 255, 0)))


def test_shrinking_averages_instead_of_skipping(tmp_path):
    """A fine chess-board shrinks to grey: the filter is antialiased."""
    board = np.indices((64, 64)).sum(0) % 2 * 255
    image = read_image(save(tmp_path / "x.png", board.astype(np.uint8)), size=8, channels=1)
    assert np.abs(image.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(
    ("image", "suffix", "rgb"),
    [
        (Image.new("L", (8, 8), 100), "png", (100, 100, 100)),
        (Image.new("1", (8, 8), 1), "png", (255, 255, 255)),
        (Image.fromarray(np.full((8, 8), 0x8012, np.uint16)), "png", (128, 128, 128)),
        (Image.fromarray(np.full((8, 8), 0x8012, np.uint16)), "tiff", (128, 128, 128)),
        (Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "tiff", (255, 0, 0)),
        (Image.new("RGB", (8, 8), (9, 8, 7)).quantize(4), "png", (9, 8, 7)),
        (Image.new("RGBA", (8, 8), (0, 0, 255, 255)), "png", (0, 0, 255)),
        (Image.new("RGBA", (8, 8), (0, 0, 255, 0)), "png", (255, 255, 255)),
        (Image.new("LA", (8, 8), (50, 255)), "png", (50, 50, 50)),
        (Image.new("RGB", (8, 8), (1, 2, 3)), "bmp", (1, 2, 3)),
        (Image.new("RGB", (8, 8), (255, 0, 0)), "gif", (255, 0, 0)),
    ],
    ids=["L", "1", "I;16", "I;16 tiff", "CMYK", "P", "opaque", "clear", "LA", "bmp", "gif"],
)
def test_every_mode_becomes_rgb(tmp_path, image, suffix, rgb):
    """Grey is spread, 16 bits are scaled, see-through becomes white, palettes are looked up."""
    path = tmp_path / f"x.{suffix}"
    image.save(path)
    assert np.array_equal(read_image(path, size=8, channels=3), np.full((8, 8, 3), rgb))


def test_one_channel_is_grey(tmp_path):
    """A colour image read with one channel becomes its luma, 0.299 R + 0.587 G + 0.114 B."""
    pixels = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    grey = read_image(save(tmp_path / "x.png", pixels), size=8, channels=1)
    assert grey.shape == (8, 8, 1)
    assert set(grey.flatten()) == {124}  # 59.8 + 58.7 + 5.7 = 124.2


def test_photographs_are_turned_upright(tmp_path):
    """EXIF orientation 3 means upside down: the stored top row comes out at the bottom."""
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    assert read_image(tmp_path / "x.png", size=8, channels=3)[-1].min() == 255


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's own, on what it skips
def test_random_damage_never_escapes_as_another_error(tmp_path):
    """Bytes flipped anywhere in an image give an image or a DataError."""
    draws = np.random.default_rng(1)
    for suffix in ("png", "jpg", "gif", "tiff", "webp"):
        path = save(tmp_path / f"x.{suffix}", noise(0, (16, 16, 3)))
        whole = path.read_bytes()
        for _ in range(25):
            bent = bytearray(whole)
            for position in draws.integers(0, len(whole), 3):
                bent[position] = draws.integers(256)
            path.write_bytes(bent)
            with suppress(DataError):
                assert read_image(path, size=16, channels=3).shape == (16, 16, 3)


@pytest.mark.skipif(
    ".avif" not in Image.registered_extensions(), reason="this Pillow reads no AVIF"
)
def test_damaged_avif_is_told_by_its_name(tmp_path):
    """Bits flipped in its pictures and in its index: its decoder has an error of another class."""
    path = save(tmp_path / "x.avif", noise(0, (16, 16, 3)))
    whole, told = path.read_bytes(), set()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        try:
            read_image(path, size=8, channels=3)
        except ImageFileError as error:
            told.add(error.reason)
    assert any(reason.startswith("cannot be read: Failed to decode") for reason in told)


class BrokenDecoderError(Exception):
    """What a plugin raises that has a class of its own."""


def break_decoder(monkeypatch, error: Exception, when: str) -> None:
    """Let Pillow's decoder of PNG raise the error, when it opens a file or decodes it."""
    Image.init()
    factory, accept = Image.OPEN["PNG"]

    def raising(*args: object) -> None:
        raise error

    def broken(file, name):
        if when == "opened":
            raising()
        image = factory(file, name)
        image.load = raising
        return image

    monkeypatch.setitem(Image.OPEN, "PNG", (broken, accept))


@pytest.mark.parametrize("when", ["opened", "decoded"])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("no frame\nat line 7"), "no frame"),
        (ZeroDivisionError("division by zero"), "division by zero"),
        (AttributeError("no such field"), "no such field"),
        (AssertionError(), "AssertionError"),
        (BrokenDecoderError("broken"), "broken"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_whatever_a_decoder_raises_is_told_by_the_name(tmp_path, monkeypatch, when, error, said):
    """The error of a decoder is a reason that follows the file's name, whatever its class."""
    path = save(tmp_path / "x.png", noise(0))
    break_decoder(monkeypatch, error, when)
    with pytest.raises(ImageFileError) as told:
        read_image(path, size=8, channels=3)
    assert str(told.value) == f"{path} cannot be read: {said}; replace or remove it"


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()])
def test_what_no_file_is_to_blame_for_is_no_reason(tmp_path, monkeypatch, error):
    """Too little memory and a Ctrl-C while a file is decoded end the command."""
    path = save(tmp_path / "x.png", noise(0))
    break_decoder(monkeypatch, error, "decoded")
    with pytest.raises(type(error)):
        read_image(path, size=8, channels=3)


def test_float_pixels_are_refused(tmp_path):
    """Floating-point pixels have no known range, so guessing one is refused."""
    path = tmp_path / "x.tiff"
    Image.fromarray(np.zeros((8, 8), np.float32)).save(path)
    with pytest.raises(DataError, match="floating-point"):
        read_image(path, size=8, channels=3)


def test_of_an_animation_the_first_picture_is_read(tmp_path):
    """A GIF that moves is its first frame."""
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "x.gif", save_all=True, append_images=[blue])
    assert np.array_equal(
        read_image(tmp_path / "x.gif", size=8, channels=3), np.full((8, 8, 3), (255, 0, 0))
    )


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (1, 999)])
def test_any_size_becomes_the_one_that_is_wanted(tmp_path, size, resize):
    """A side of one pixel is read too, whatever the other side and the way of resizing."""
    Image.new("RGB", size, "red").save(tmp_path / "x.png")
    image = read_image(tmp_path / "x.png", size=8, channels=3, resize=resize)
    assert image.shape == (8, 8, 3)
    assert (image == (255, 0, 0)).all(axis=2).any()


def test_padding_keeps_the_shape_and_squashing_the_edges(tmp_path):
    """Of a picture twice as wide as high, pad leaves black above and below, squash shows all."""
    pixels = np.full((20, 40, 3), 200, np.uint8)
    pixels[:, :16] = 50
    path = save(tmp_path / "x.png", pixels)
    padded = read_image(path, size=8, channels=1, resize="pad")[:, :, 0]
    assert (padded[[0, 1, 6, 7]] == 0).all()
    assert (padded[2:6, 5:] == 200).all()
    assert (padded[2:6, 0] == 50).all()
    squashed = read_image(path, size=8, channels=1, resize="squash")[:, :, 0]
    assert (squashed[:, 0] == 50).all()
    assert (squashed[:, 5:] == 200).all()
    cropped = read_image(path, size=8, channels=1)[:, :, 0]
    assert (cropped[:, 5:] == 200).all()


PIXELS = Image.fromarray(noise(5, (8, 8, 3)))


RGB = "JPG jfif mpo png apng bmp dib gif tif webp avif jp2 j2k ppm pnm qoi pcx sgi tga icns dds"


@pytest.mark.parametrize(
    ("suffix", "picture"),
    [
        *((f".{suffix}", PIXELS) for suffix in RGB.split()),
        *((suffix, PIXELS.convert("L")) for suffix in (".pgm", ".bw")),
        *((suffix, PIXELS.convert("1")) for suffix in (".pbm", ".xbm", ".msp")),
        (".ico", PIXELS.resize((16, 16))),
    ],
)
def test_every_raster_format_is_read(tmp_path, suffix, picture):
    """What Pillow can write and read by itself is an image, found by its ending and read."""
    path = tmp_path / "a" / f"x{suffix}"
    path.parent.mkdir()
    form = {".mpo": "MPO", ".dib": "DIB"}.get(suffix)
    try:
        (picture.resize((16, 16)) if suffix == ".icns" else picture).save(path, form)
    except (KeyError, OSError, ValueError) as error:
        pytest.skip(f"this Pillow writes none: {error}")
    assert find_images([tmp_path]).images == [path]
    assert read_image(path, size=8, channels=3).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "suffix", ["eps", "pdf", "wmf", "emf", "ps", "svg", "heic", "mpg", "h5", "grib", "txt"]
)
def test_what_others_would_decode_is_no_image(tmp_path, suffix):
    """No file is handed to another program: such endings are left out, and told."""
    save(tmp_path / "x.png", noise(0))
    (tmp_path / f"x.{suffix}").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n")
    found = find_images([tmp_path])
    assert found.images == [tmp_path / "x.png"]
    assert found.left_out == [
        f"{tmp_path}: skipped 1 file not named as an image: 1 .{suffix} (x.{suffix})"
    ]
    with pytest.raises(ImageFileError, match="is not an image that can be read"):
        read_image(tmp_path / f"x.{suffix}", size=8, channels=3)


def test_an_image_that_could_fill_the_memory_is_read_on_request(tmp_path, monkeypatch):
    """Above the limit the file is refused with its pixels and the way to allow it, which works."""
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", before)
    path = save(tmp_path / "x.png", np.zeros((1500, 1000), np.uint8))
    monkeypatch.setenv("LMSM_MAX_MEGAPIXELS", "1")
    with pytest.raises(
        ImageFileError,
        match=r"has 1,500,000 pixels, and more than 1,000,000 .*: LMSM_MAX_MEGAPIXELS=3 in",
    ):
        read_image(path, size=8, channels=3)
    monkeypatch.setenv("LMSM_MAX_MEGAPIXELS", "3")
    display = SilentDisplay()
    with pillow_warnings(display, tmp_path):
        assert read_image(path, size=8, channels=3).shape == (8, 8, 3)
    assert display.warned == []
    monkeypatch.setenv("LMSM_MAX_MEGAPIXELS", "lots")
    with pytest.raises(LmsmError, match="LMSM_MAX_MEGAPIXELS is 'lots': give the megapixels"):
        read_image(path, size=8, channels=3)


def test_what_pillow_warns_of_is_told_once_for_each_kind(tmp_path, monkeypatch):
    """Warnings in decoding threads come as ours, with counts and the names of the files."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 70)
    for number in range(12):
        save(tmp_path / f"{number:02}.png", noise(number, (9, 9 + number % 2, 3)))
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"  # five entries announced, none there
    Image.fromarray(noise(0)).save(tmp_path / "exif.jpg", exif=exif)
    display = SilentDisplay()
    with ThreadPoolExecutor(4) as threads, pillow_warnings(display, tmp_path):
        paths = sorted(tmp_path.iterdir())
        list(threads.map(lambda path: read_image(path, size=8, channels=3), paths))
    large, broken = sorted(display.warned, key=len, reverse=True)
    assert large.startswith("12 images: more than 0 megapixels, which are decoded whole: 00.png, ")
    assert large.endswith("09.png and 2 more")
    assert re.fullmatch(r"1 image: Pillow says '.*[Ee][Xx][Ii][Ff].*': exif\.jpg", broken)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe that nobody writes to is refused at once, and so are a folder and a broken link."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    for name, reason in (
        ("pipe", "it is no regular file"),
        ("folder", "it is a folder"),
        ("gone", "No such file"),
    ):
        with pytest.raises(ImageFileError, match=rf"{name}\.png cannot be read: {reason}") as error:
            read_image(tmp_path / f"{name}.png", size=8, channels=3)
        assert error.value.reason.startswith(f"cannot be read: {reason}")


@pytest.mark.parametrize(
    ("pixels", "suffix", "span"),
    [
        (np.full((8, 8), 255, np.uint16), "png", "from 255 to 255"),
        (np.arange(64, dtype=np.int32).reshape(8, 8), "tiff", "from 0 to 63"),
        (np.full((8, 8), 70_000, np.int32), "tiff", "from 70000 to 70000"),
        (np.full((8, 8), -1, np.int32), "tiff", "from -1 to -1"),
    ],
)
def test_deep_pixels_of_another_range_are_not_taken_for_dark_ones(tmp_path, pixels, suffix, span):
    """8-bit values in a 16-bit file would come out black, larger ones than 16 bits white."""
    Image.fromarray(pixels).save(tmp_path / f"x.{suffix}")
    with pytest.raises(ImageFileError, match=f"pixels of more than 8 bits go {span}, not to 65535"):
        read_image(tmp_path / f"x.{suffix}", size=8, channels=1)


@pytest.mark.parametrize("value", [0, 256, 65535])
def test_deep_pixels_that_fill_their_range_are_scaled(tmp_path, value):
    """Black, the darkest that 8 bits can show, and white."""
    Image.fromarray(np.full((8, 8), value, np.uint16)).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", size=8, channels=1) == value >> 8).all()


@pytest.mark.parametrize(
    ("highest", "bits", "factor"),
    [(300, 9, 128), (1023, 10, 64), (4095, 12, 16), (16_383, 14, 4), (32_767, 15, 2)],
)
def test_sixteen_bits_that_fill_half_at_most_are_told_with_their_factor(highest, bits, factor):
    """The way out brings white to the highest level of 16 bits, but for what the rest leaves."""
    (text,) = notes_on_levels(DeepLevels(3, highest))
    assert text.startswith(f"no level of 3 16-bit images is above {highest:,} of 65,535, so")
    assert f"if they are of {bits} bits, multiply their levels by {factor} and" in text
    assert (2**bits - 1) * factor == 65_536 - factor


@pytest.mark.parametrize("levels", [DeepLevels(), DeepLevels(2, 0), DeepLevels(1, 32_768)])
def test_nothing_is_said_without_levels_or_with_bright_ones(levels):
    """No picture of 16 bits, black ones alone, and one that needs all 16 bits."""
    assert notes_on_levels(levels) == []


def test_images_are_found_at_any_depth_in_sorted_order(tmp_path):
    """Files with an image's suffix are found, sorted by folder and name; hidden ones are not."""
    images = "b/2.png b/10.JPG b/c/1.tiff a.webp z.gif"
    others = ".hidden.png .git/x.png b/.x.png notes.txt b/labels.json"
    for name in f"{images} {others}".split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images([tmp_path]).images]
    assert found == ["a.webp", "b/10.JPG", "b/2.png", "b/c/1.tiff", "z.gif"]
    assert find_images([tmp_path, tmp_path / "a.webp"]).left_out == [
        f"{tmp_path}: skipped 2 files not named as images: "
        "1 .json (b/labels.json), 1 .txt (notes.txt)"
    ]


def test_named_files_are_taken_whatever_their_names(tmp_path):
    """A file that is named is tried, in the order given, also one that bears no image's name."""
    for name in ("notes.txt", ".hidden", "b/1.png", "b/skipped.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    given = [tmp_path / "notes.txt", tmp_path / "b", tmp_path / ".hidden"]
    assert find_images(given).images == [given[0], tmp_path / "b" / "1.png", given[2]]


@pytest.mark.parametrize("follow_links", [False, True])
def test_links_out_are_followed_on_request_and_loops_never(tmp_path, follow_links):
    """What links inside lead to is read once, what lies outside with the flag; no loop is."""
    save(tmp_path / "elsewhere" / "1.png", noise(0))
    save(tmp_path / "data" / "sub" / "2.png", noise(1))
    save(tmp_path / "data" / ".pool" / "3.png", noise(2))
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "4.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "pool").symlink_to(tmp_path / "data" / ".pool")
    (tmp_path / "data" / "sub" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "sub" / "again").symlink_to("../sub")
    (tmp_path / "data" / "self").symlink_to("self")
    (tmp_path / "given").symlink_to(tmp_path / "data")
    found = find_images([tmp_path / "given"], follow_links=follow_links)
    inside, outside = ["pool/3.png", "sub/2.png"], ["4.png", "linked/1.png"]
    names = [path.relative_to(tmp_path / "given").as_posix() for path in found.images]
    assert names == sorted(inside + outside) if follow_links else inside
    told = "\n".join(found.left_out)
    left_out = "skipped 2 links out of the folder: 4.png, linked; --follow-links reads"
    assert (left_out in told) is not follow_links
    assert "skipped 2 links back, or to a folder that is read" in told
    assert "already: sub/again, sub/up" in told


def test_folders_that_link_to_each_other_are_read_once(tmp_path):
    """Ten folders that each link to all the others hold ten images, by millions of paths."""
    for one in range(10):
        save(tmp_path / str(one) / "x.png", noise(one))
        for other in range(10):
            (tmp_path / str(one) / f"to{other}").symlink_to(f"../{other}")
    assert len(find_images([tmp_path]).images) == 10


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", "there is no image or folder .*nowhere"),
        ("empty", "empty holds no images"),
        ("text", "text holds no images"),
    ],
)
def test_paths_without_images_are_data_errors(tmp_path, name, said):
    """What is not there, and a folder with nothing to read, is exit code 3 by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").touch()
    with pytest.raises(DataError, match=said):
        find_images([tmp_path / "empty" / ".." / name])
