"""What class_folders.py promises."""

import os
from pathlib import Path

import numpy as np
import pytest

from lmsm_cli.data import class_folders
from lmsm_cli.data.class_folders import cache_path, read_images
from lmsm_cli.data.listing import list_class_folders, split_by_class
from lmsm_cli.errors import DataError
from tests.conftest import SilentDisplay, noise, save


def read(root: Path, size: int = 8, channels: int = 3, **kwargs) -> np.ndarray:
    """Return all images below class folders."""
    return read_images(list_class_folders(root), size=size, channels=channels, **kwargs).numpy()


@pytest.fixture
def pets(tmp_path):
    """Two classes of three images, in train/."""
    root = tmp_path / "train"
    for seed, name in enumerate(["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png", "dog/1.png", "dog/2.png"]):  # fmt: skip
        save(root / name, noise(seed))
    return root


def test_labels_follow_sorted_folders_and_images_sorted_files(tmp_path):
    """An index means the same image every time: folders and files are taken in sorted order."""
    for name in ("zebra/b.png", "zebra/a.png", "ant/10.png", "ant/9.PNG", "Bee/x.jpeg"):
        save(tmp_path / name, noise(0))
    listing = list_class_folders(tmp_path)
    assert listing.classes == ("Bee", "ant", "zebra")
    assert listing.files == ("Bee/x.jpeg", "ant/10.png", "ant/9.PNG", "zebra/a.png", "zebra/b.png")
    assert listing.labels == (0, 1, 1, 2, 2)


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


def swap_content(path: Path) -> None:
    """Put other pixels into a bitmap behind its back: same size, same time of change."""
    times = path.stat()
    size = times.st_size
    save(path, noise(99))
    assert path.stat().st_size == size
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_second_reading_comes_from_the_cache(tmp_path):
    """Images are decoded once: the second time not even a swapped file is looked into."""
    path = save(tmp_path / "train" / "cat" / "0.bmp", noise(0))
    read(tmp_path / "train")
    swap_content(path)
    assert np.array_equal(read(tmp_path / "train")[0], noise(0))
    assert (tmp_path / ".lmsm-train-8x8x3.pixels").is_file()


def test_cache_is_by_size_and_channels(pets):
    """The same folder read in another size or as grey is decoded anew."""
    assert read(pets).shape == (6, 8, 8, 3)
    assert read(pets, size=4).shape == (6, 4, 4, 3)
    assert read(pets, channels=1).shape == (6, 8, 8, 1)


def change(path: Path) -> None:
    """Rewrite a file in the same size, a moment later."""
    swap_content(path)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("happen", "expected"),
    [
        (change, [99, 1]),
        (lambda path: path.unlink(), [1]),
        (lambda path: path.rename(path.with_name("2.bmp")), [1, 0]),
        (lambda path: save(path.with_name("00.bmp"), noise(5)), [0, 5, 1]),
    ],
    ids=["changed", "removed", "renamed", "added"],
)
def test_cache_notices_changed_files(tmp_path, happen, expected):
    """A changed, removed, renamed or added file is seen at the next reading."""
    first = save(tmp_path / "cat" / "0.bmp", noise(0))
    save(tmp_path / "cat" / "1.bmp", noise(1))
    read(tmp_path)
    happen(first)
    order = [path.name for path in sorted((tmp_path / "cat").iterdir())]
    images = read(tmp_path)
    assert len(images) == len(order) == len(expected)
    for image, seed in zip(images, expected, strict=True):
        assert np.array_equal(image, noise(seed))


def test_damaged_cache_is_rebuilt(pets):
    """Whatever the cache file holds, the images are those of the files."""
    expected = read(pets)
    cache = cache_path(pets, size=8, channels=3)
    whole = cache.read_bytes()
    draws = np.random.default_rng(0)
    damaged = [b"", b"PK", b"no zip at all", whole[:-30], whole[: len(whole) // 2], whole[50:]]
    for position in [*range(0, 60, 3), *draws.integers(0, len(whole), 60), *range(-150, 0, 5)]:
        bent = bytearray(whole)
        bent[position] ^= 0xFF
        damaged.append(bytes(bent))
    for content in damaged:
        cache.write_bytes(content)
        assert np.array_equal(read(pets), expected)


def test_cache_never_executes_a_pickle(pets, tmp_path):
    """A cache with a pickled object inside is rebuilt, and the object never comes to life."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    expected = read(pets)
    np.savez(cache_path(pets, size=8, channels=3), fingerprint=np.array(Trap(), object), images=expected)  # fmt: skip
    assert np.array_equal(read(pets), expected)
    assert not trap.exists()


def test_folder_that_cannot_be_written_gets_no_cache(pets):
    """Where no cache can be written, reading goes on, says so once, and leaves nothing behind."""
    (cache_path(pets, size=8, channels=3) / "in the way").mkdir(parents=True)
    display = SilentDisplay()
    images = read(pets, display=display)
    assert len(images) == 6
    assert sum("no cache" in text for text in display.warned) == 1
    assert [path.name for path in pets.parent.glob(".*")] == [".lmsm-train-8x8x3.pixels"]


def test_progress_ends_at_the_total(pets, monkeypatch):
    """Progress rises and ends at the number of images; the cache needs none."""
    monkeypatch.setattr(class_folders, "_CHUNK_BYTES", 4 * 8 * 8 * 3)
    display = SilentDisplay()
    read(pets, display=display)
    assert [step[1:] for step in display.reported] == [(4, 6), (6, 6)]
    read(pets, display=display)
    assert len(display.reported) == 2


def half(path: Path) -> bytes:
    """Return the first half of a file."""
    return path.read_bytes()[: path.stat().st_size // 2]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif", "tiff", "webp"])
def test_truncated_image_is_named(tmp_path, suffix):
    """A cut image file stops with an error that names it; no half-grey image is trained on."""
    path = save(tmp_path / "cat" / f"cut.{suffix}", noise(0, (64, 64, 3)))
    path.write_bytes(half(path))
    with pytest.raises(DataError, match=rf"cut\.{suffix}.*replace or remove"):
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


def test_broken_link_is_named(tmp_path):
    """A link to a file that is gone is an error, not a smaller data set."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match=r"gone\.png cannot be read: No such file"):
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
    """Strange folder names name classes, spelled out so that they can be shown; also without UTF-8."""
    save(tmp_path / "a\x1b[31m\n" / "0.png", noise(0))
    save(tmp_path / os.fsdecode(b"b\xff") / "0.png", noise(1))
    listing = list_class_folders(tmp_path)
    assert listing.classes == ("a\\x1b[31m\\n", "b\\xff")
    assert np.array_equal(read_images(listing, size=8, channels=3)[1], noise(1))


def test_split_takes_a_fifth_of_each_class(tmp_path):
    """The fixed split puts 20% of each class, at least one image, into the test, and repeats."""
    for name, count in {"few": 2, "many": 20, "some": 7}.items():
        for index in range(count):
            save(tmp_path / name / f"{index:02}.png", noise(0, (1, 1)))
    listing = list_class_folders(tmp_path)
    train, test = split_by_class(listing)
    labels = np.array(listing.labels)
    assert np.bincount(labels[test]).tolist() == [1, 4, 1]
    assert sorted([*train, *test]) == list(range(29))
    assert all(np.array_equal(a, b) for a, b in zip(split_by_class(listing), (train, test), strict=True))  # fmt: skip


def test_split_needs_two_images_of_a_class(tmp_path):
    """A class of one image cannot be trained and tested; the error names it."""
    save(tmp_path / "lonely" / "0.png", noise(0))
    with pytest.raises(DataError, match="lonely holds 1 image"):
        split_by_class(list_class_folders(tmp_path))


@pytest.mark.realdata
def test_real_cifar10_folders_and_their_cache(real_data, tmp_path):
    """Of real CIFAR-10, a copy of a few files is cached, and one touched file is noticed."""
    source = real_data / "cifar10" / "train"
    assert np.bincount(list_class_folders(source).labels).tolist() == [5000] * 10
    for folder in sorted(source.iterdir())[:2]:
        (tmp_path / folder.name).mkdir()
        for file in sorted(folder.iterdir())[:20]:
            (tmp_path / folder.name / file.name).write_bytes(file.read_bytes())
    display = SilentDisplay()
    first = read(tmp_path, size=32, display=display)
    again = read(tmp_path, size=32, display=display)
    assert len(display.reported) == 1
    assert np.array_equal(first, again)
    next(tmp_path.glob("*/*.jpg")).touch()
    read(tmp_path, size=32, display=display)
    assert len(display.reported) == 2
