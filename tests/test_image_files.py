"""What image_files.py promises: any image file in one form, or its name and why not."""

import os
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.data.image_files import ImageFileError, find_images, read_image
from lmsm_cli.errors import DataError
from tests.conftest import noise, save


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
    assert np.array_equal(read_image(tmp_path / "x.gif", size=8, channels=3), np.full((8, 8, 3), (255, 0, 0)))  # fmt: skip


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1)])
def test_a_side_of_one_pixel_is_refused_where_that_is_asked(tmp_path, size):
    """A tracking pixel shows nothing to classify; what reads training images takes it as before."""
    Image.new("RGB", size, "red").save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png", size=8, channels=3).shape == (8, 8, 3)
    with pytest.raises(ImageFileError, match=f"its {size[0]} x {size[1]} pixels show nothing"):
        read_image(tmp_path / "x.png", size=8, channels=3, smallest=2)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe that nobody writes to is refused at once, and so are a folder and a broken link."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    for name, reason in (("pipe", "it is no regular file"), ("folder", "it is a folder"), ("gone", "No such file")):  # fmt: skip
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


def test_images_are_found_at_any_depth_in_sorted_order(tmp_path):
    """Of a folder come the files with an image's suffix, sorted by folder and name; hidden ones do not."""
    for name in ("b/2.png", "b/10.JPG", "b/c/1.tiff", "a.webp", "z.gif", ".hidden.png", ".git/x.png", "b/.x.png"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("notes.txt", "b/labels.json"):
        (tmp_path / name).touch()
    found = [str(path.relative_to(tmp_path)) for path in find_images([tmp_path]).images]
    assert found == ["a.webp", "b/10.JPG", "b/2.png", "b/c/1.tiff", "z.gif"]
    assert find_images([tmp_path, tmp_path / "a.webp"]).left_out == [
        tmp_path / "b/labels.json",
        tmp_path / "notes.txt",
    ]


def test_named_files_are_taken_whatever_their_names(tmp_path):
    """A file that is named is tried, in the order given, also one that bears no image's name."""
    for name in ("notes.txt", ".hidden", "b/1.png", "b/skipped.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    given = [tmp_path / "notes.txt", tmp_path / "b", tmp_path / ".hidden"]
    assert find_images(given).images == [given[0], tmp_path / "b" / "1.png", given[2]]


def test_links_are_followed_and_loops_are_not(tmp_path):
    """A folder that is linked in counts; a link back to a folder above does not go round."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").touch()
    (tmp_path / "data" / "sub").mkdir(parents=True)
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "sub" / "up").symlink_to(tmp_path / "data")
    assert find_images([tmp_path / "data"]).images == [tmp_path / "data" / "linked" / "1.png"]


@pytest.mark.parametrize(("name", "said"), [("nowhere", "there is no image or folder .*nowhere"), ("empty", "empty holds no images"), ("text", "text holds no images")])  # fmt: skip
def test_paths_without_images_are_data_errors(tmp_path, name, said):
    """What is not there, and a folder with nothing to read, is exit code 3 by name."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "notes.txt").touch()
    with pytest.raises(DataError, match=said):
        find_images([tmp_path / "empty" / ".." / name])
