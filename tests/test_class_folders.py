"""What class_folders.py promises."""

import os
from pathlib import Path

import numpy as np
import pytest

from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
from lmsm_cli.data.decoding import read_images
from lmsm_cli.data.sources import load_folder, load_parts
from lmsm_cli.errors import DataError
from lmsm_cli.inference.prior import shares_of
from tests.conftest import noise, save


def read(root: Path) -> np.ndarray:
    """Return all images of 8 x 8 below class folders."""
    return read_images(list_class_folders(root), FolderOptions(8)).images.numpy()


@pytest.fixture
def pets(tmp_path):
    """Two classes of three images, in train/."""
    root = tmp_path / "train"
    for seed in range(6):
        save(root / ("cat", "dog")[seed // 3] / f"{seed % 3}.png", noise(seed))
    return root


def test_labels_follow_sorted_folders_and_images_sorted_files(tmp_path):
    """An index means the same image every time: folders and files are taken in sorted order."""
    for name in ("zebra/b.png", "zebra/a.png", "ant/10.png", "ant/9.PNG", "Bee/x.jpeg"):
        save(tmp_path / name, noise(0))
    listing = list_class_folders(tmp_path)
    assert listing.classes == ("Bee", "ant", "zebra")
    assert listing.files == ("Bee/x.jpeg", "ant/10.png", "ant/9.PNG", "zebra/a.png", "zebra/b.png")
    assert listing.labels == (0, 1, 1, 2, 2)


def test_runs_are_no_images_of_a_class(pets):
    """Their plots would be scored or counted as images of it; a search for images may see them."""
    run = pets / "dog" / "runs" / "one"
    save(run / "plots" / "loss.png", noise(9))
    for name in ("config.yaml", "status.json"):
        (run / name).write_text("{}")
    fact = f"the class folder {pets / 'dog'} holds runs of lmsm; move these elsewhere"
    for refuses in (
        lambda: list_class_folders(pets),
        lambda: load_folder(pets, options=FolderOptions(8)),
        lambda: shares_of(pets, ("cat", "dog")),
    ):
        with pytest.raises(DataError) as error:
            refuses()
        assert str(error.value) == fact
    (part,) = load_parts("folder", pets, "test", options=FolderOptions(8))
    assert len(part.labels) == 7


def test_hidden_and_foreign_files_are_ignored(pets):
    """Names with a leading dot, files that are no images and loose files are not data."""
    before = list_class_folders(pets)
    save(pets / ".thumbnails" / "0.png", noise(1))
    save(pets / "cat" / ".0.png", noise(1))
    (pets / "cat" / "notes.txt").write_text("meow")
    (pets / "cat" / "album.png").mkdir()
    (pets / "readme.png").write_bytes(b"")
    assert list_class_folders(pets) == before


def test_pixels_of_the_right_size_are_untouched(pets):
    """An image that already has the right size is not resampled."""
    images = read(pets)
    assert images.shape == (6, 8, 8, 3)
    assert images.dtype == np.uint8
    for index in range(6):
        assert np.array_equal(images[index], noise(index))


def half(path: Path) -> bytes:
    """Return the first half of a file."""
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp"])
def test_truncated_image_is_named(tmp_path, suffix):
    """A cut image file stops with an error that names it; no half-grey image is trained on."""
    path = save(tmp_path / "cat" / f"cut.{suffix}", noise(0, (64, 64, 3)))
    path.write_bytes(half(path))
    with pytest.raises(DataError, match=rf"cut\.{suffix}.*replace it, since no image of cat"):
        read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>not found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n"],
    ids=["empty", "html", "postscript"],
)
def test_file_that_is_no_image_is_named(tmp_path, content):
    """What only bears an image's name is an error; PostScript is not run."""
    path = tmp_path / "cat" / "fake.jpg"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"fake\.jpg is not an image"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ([], "holds no class folders"),
        (["cat"], "cat holds no images"),
        (["cat/inner"], "cat holds no images"),
        (["cat", "dog/a"], "2 class folders of .*pets hold no images: 'cat', 'dog'"),
        (None, "there is no folder"),
    ],
    ids=["nothing", "empty class", "nested", "two", "no folder"],
)
def test_missing_images_say_what_was_expected_where(tmp_path, made, said):
    """Without class folders or images the error names the folder and shows the layout."""
    root = tmp_path / "pets"
    for name in made or ():
        (root / name).mkdir(parents=True)
    if made is not None:
        root.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=said) as caught:
        list_class_folders(root)
    assert str(root / "<class>" / "*.jpg") in str(caught.value)


def test_control_characters_in_names_are_data(tmp_path):
    """Strange folder names name classes, spelled out to be shown, also those without UTF-8."""
    save(tmp_path / "a\x1b[31m\n" / "0.png", noise(0))
    save(tmp_path / os.fsdecode(b"b\xff") / "0.png", noise(1))
    listing = list_class_folders(tmp_path)
    assert listing.classes == ("a\\x1b[31m\\n", "b\\xff")
    assert np.array_equal(read_images(listing, FolderOptions(8)).images[1], noise(1))
