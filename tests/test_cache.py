"""What cache.py promises: a bounded folder, of this user's own files only."""

import os
import resource
import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.data import cache, decoding
from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
from lmsm_cli.data.decoded import MappedImages, UndecodedImages
from lmsm_cli.data.decoding import read_images
from lmsm_cli.data.lists import ImageLists
from lmsm_cli.data.sources import load_own_folder
from lmsm_cli.errors import DataError, LmsmError
from tests.conftest import SilentDisplay, noise, save

NUM_BYTES = (
    128 + 6 * 8 * 8 * 3
)  # of the pixels of a folder below, with what .npy writes before them
OPTIONS = FolderOptions(8)
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache; the folder of its decoded images."""
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


@pytest.fixture
def large(monkeypatch):
    """Let every set be too large for memory."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)


def pets(root: Path, first: int = 0) -> Path:
    """Write two classes of three bitmaps."""
    for number in range(6):
        save(root / ("cat", "dog")[number // 3] / f"{number}.bmp", noise(first + number))
    return root


def read(root: Path, display: SilentDisplay | None = None):
    """Return the images of a folder."""
    listing = list_class_folders(root)
    return read_images(listing, OPTIONS, display=display or SilentDisplay()).images


def expected(first: int = 0) -> np.ndarray:
    """Return the pixels of a folder."""
    return np.stack([noise(first + number) for number in range(6)])


def is_kept(root: Path, folder: Path) -> bool:
    """Return whether the cache has a folder's images."""
    return (folder / f"{decoding.entry_key(root, OPTIONS)}.json").exists()


def test_a_key_is_of_one_list_of_values():
    """No two lists share a key, wherever their texts are cut, and whatever bytes a name has."""
    names = ["a", "b\n", "a\nb", "a/b", "", "\0", os.fsdecode(b"\xff"), "\\udcff", "12"]
    lists = [[*names[:n], "|", *names[n:]] for n in range(len(names))]
    lists += [["ab", "c"], ["a", "bc"], ["abc"], ["abc", ""], ["", "abc"], [1, 2], [12], [b"\xff"]]
    assert len({cache.key_of(*values) for values in lists}) == len(lists)


def test_each_folder_and_form_has_its_own_entry(tmp_path, folder):
    """Folders of one name, sizes, channels and resizings are apart; a link is what it leads to."""
    one, two = tmp_path / "1" / "train", tmp_path / "2" / "train"
    (tmp_path / "link").symlink_to(tmp_path / "1")
    keys = {
        decoding.entry_key(root, FolderOptions(size, resize), channels)
        for root in (one, two, tmp_path / "link" / "train")
        for size in (8, 16)
        for channels in (1, 3)
        for resize in ("crop", "pad", "squash")
    }
    assert len(keys) == 2 * 2 * 2 * 3


def test_limit_is_of_the_environment_or_half_the_room(folder, monkeypatch):
    """Sizes have units; without any the cache may take half of what is free and its own."""
    folder.mkdir(parents=True)
    for text, size in {"50GB": 50 * 10**9, "1.5 tb": 15 * 10**11, "800": 800, "0": 0}.items():
        monkeypatch.setenv("LMSM_CACHE_SIZE", text)
        assert cache.size_limit(folder) == size
    for text in ("much", "-1", "5 GiBi", "nan"):
        monkeypatch.setenv("LMSM_CACHE_SIZE", text)
        with pytest.raises(LmsmError, match=r"LMSM_CACHE_SIZE is .* such as 50GB"):
            cache.size_limit(folder)
    monkeypatch.delenv("LMSM_CACHE_SIZE")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9000, 1000, 800))
    (folder / f"{'0' * 32}-{'0' * 16}.npy").write_bytes(bytes(200))
    (folder / "foreign").write_bytes(bytes(5000))
    assert cache.size_limit(folder) == 500


def test_least_recently_used_goes_first(tmp_path, folder, monkeypatch):
    """With room for two sets, the third replaces the one that was not read for longest."""
    a, b, c, d = (pets(tmp_path / name) for name in "abcd")
    for root in (a, b, c):
        read(root)
    for number, root in enumerate((b, c, a)):
        for path in folder.glob(f"{decoding.entry_key(root, OPTIONS)}*"):
            os.utime(path, ns=(0, 10**18 + number))
    read(b)
    limit = sum(path.stat().st_size for path in folder.iterdir())
    monkeypatch.setenv("LMSM_CACHE_SIZE", str(limit + 2000))
    read(d)
    assert [is_kept(root, folder) for root in (a, b, c, d)] == [True, True, False, True]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= limit + 2000


def test_what_is_in_use_stays(tmp_path, folder, large, monkeypatch):
    """Mapped images are not deleted for others, nor by --clear-cache; later they are."""
    a, b = pets(tmp_path / "a"), pets(tmp_path / "b", 50)
    held = read(a)
    monkeypatch.setenv("LMSM_CACHE_SIZE", str(2 * NUM_BYTES + 2000))
    display = SilentDisplay()
    assert isinstance(read(b, display), UndecodedImages)
    assert "other processes use" in display.warned[0]
    cache.clear()
    assert is_kept(a, folder)
    assert np.array_equal(held[:].numpy(), expected())
    del held
    assert isinstance(read(b), MappedImages)
    assert not is_kept(a, folder)
    cache.clear()
    assert list(folder.iterdir()) == []


def test_without_room_images_are_decoded_for_each_batch(tmp_path, folder, large, monkeypatch):
    """A large set that the cache can't take is read, with one warning and the way out."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(9000, 8900, 100))
    monkeypatch.setenv("LMSM_CACHE_SIZE", "1GB")
    root, display = pets(tmp_path / "pets"), SilentDisplay()
    save(tmp_path / "other" / "cat" / "0.bmp", noise(0))
    for folder_of_images in (tmp_path / "other", root):
        images = read(folder_of_images, display)
        assert isinstance(images, UndecodedImages)
    assert np.array_equal(images[:].numpy(), expected())
    (warning,) = display.warned
    assert "images are decoded anew for each batch" in warning
    assert "LMSM_CACHE_DIR" in warning
    assert list(folder.iterdir()) == []
    save(root / "cat" / "0.bmp", noise(99))
    with pytest.raises(DataError, match=r"0\.bmp has changed since"):
        images[0]


def test_the_need_is_said_before(tmp_path, folder, large):
    """Before a large set is decoded, its bytes and the place are told."""
    display = SilentDisplay()
    read(pets(tmp_path / "pets"), display)
    (said,) = display.said
    assert f"will take 0.0 GB in {folder}" in said
    assert display.warned == []


@pytest.fixture
def full_disk():
    """Let no file grow beyond the half of the pixels: the kernel's own refusal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (NUM_BYTES // 2, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "on disk"])
def test_disk_that_fills_up_is_no_end(tmp_path, folder, monkeypatch, full_disk, limit):
    """A write that fails half-way gives one warning and leaves nothing; the images are read."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    display = SilentDisplay()
    images = read(pets(tmp_path / "pets"), display)
    assert np.array_equal(images[:].numpy(), expected())
    assert len(display.warned) == 1
    assert "File too large" in display.warned[0]
    assert list(folder.iterdir()) == []


def cache_is_a_file(folder: Path, elsewhere: Path) -> None:
    """Put a file where the cache folder would be."""
    folder.parent.write_text("no folder")


def decoded_is_a_link(folder: Path, elsewhere: Path) -> None:
    """Let the folder of decoded images be a link."""
    folder.parent.mkdir()
    elsewhere.mkdir()
    folder.symlink_to(elsewhere)


def lock_is_a_link(folder: Path, elsewhere: Path) -> None:
    """Let the entry's lock be a link."""
    folder.mkdir(parents=True)
    elsewhere.write_text("mine")
    key = decoding.entry_key(folder.parent.parent / "pets", OPTIONS)
    (folder / f"{key}.lock").symlink_to(elsewhere)


@pytest.mark.parametrize("happen", [cache_is_a_file, decoded_is_a_link, lock_is_a_link])
def test_cache_that_cannot_be_used_is_told(tmp_path, folder, happen):
    """Images are read without it, a warning says why, and nothing is written through a link."""
    happen(folder, tmp_path / "elsewhere")
    display = SilentDisplay()
    assert np.array_equal(read(pets(tmp_path / "pets"), display).numpy(), expected())
    (warning,) = display.warned
    assert "no cache of decoded images" in warning
    elsewhere = tmp_path / "elsewhere"
    assert not elsewhere.is_dir() or list(elsewhere.iterdir()) == []
    assert not elsewhere.is_file() or elsewhere.read_text() == "mine"


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away"
)
def test_files_of_another_user_are_not_used(tmp_path, folder):
    """Neither a folder nor pixels that belong to another user are believed."""
    root = pets(tmp_path / "pets")
    read(root)
    (pixels,) = folder.glob("*.npy")
    pixels.write_bytes(pixels.read_bytes()[:-1] + b"\0")
    os.chown(pixels, 1234, 1234)
    display = SilentDisplay()
    assert np.array_equal(read(root, display).numpy(), expected())
    assert display.warned == []
    os.chown(folder, 1234, 1234)
    assert np.array_equal(read(root, display).numpy(), expected())
    assert "another user" in display.warned[0]


@pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "on disk"])
def test_cache_of_links_touches_no_target(tmp_path, folder, monkeypatch, limit):
    """With a link in the place of every file, all targets stay, and the images are right."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    root, elsewhere = pets(tmp_path / "pets"), tmp_path / "elsewhere"
    read(root)
    elsewhere.mkdir()
    for path in list(folder.iterdir()):
        path.rename(elsewhere / path.name)
        path.symlink_to(elsewhere / path.name)
    before = {path: (path.read_bytes(), path.stat()) for path in elsewhere.iterdir()}
    for command in (lambda: read(root), lambda: read(pets(tmp_path / "other")), cache.clear):
        command()
        after = {path: (path.read_bytes(), path.stat()) for path in elsewhere.iterdir()}
        for path, (content, info) in before.items():
            assert after[path][0] == content
            assert (info.st_mtime_ns, info.st_ctime_ns) == (
                after[path][1].st_mtime_ns,
                after[path][1].st_ctime_ns,
            )
    assert np.array_equal(read(root)[:].numpy(), expected())


def test_damaged_cache_is_made_anew(tmp_path, folder):
    """Whatever byte of either file is flipped or missing, the images are those of the data."""
    root = pets(tmp_path / "pets")
    read(root)
    draws = np.random.default_rng(0)
    for suffix in (".npy", ".json"):
        (path,) = folder.glob(f"*{suffix}")
        whole = path.read_bytes()
        damaged = [b"", b"PK", whole[:-1], whole + b"\0", whole[: len(whole) // 2]]
        for place in [*range(0, 130, 9), *draws.integers(0, len(whole), 15), len(whole) - 1]:
            bent = bytearray(whole)
            bent[place] ^= 0xFF
            damaged.append(bytes(bent))
        for content in damaged:
            (path,) = folder.glob(f"*{suffix}")
            path.write_bytes(content)
            assert np.array_equal(read(root).numpy(), expected())
            assert len(list(folder.iterdir())) == 2


def test_cut_pixels_are_never_mapped(tmp_path, folder, large):
    """A file of pixels that is too short, or of another form, is decoded again."""
    root = pets(tmp_path / "pets")
    read(root)
    for bend in (
        lambda path: os.truncate(path, NUM_BYTES - 1),
        lambda path: path.write_bytes(bytes(NUM_BYTES)),
    ):
        (path,) = folder.glob("*.npy")
        bend(path)
        assert np.array_equal(read(root)[:].numpy(), expected())


def test_cache_beside_the_data_is_neither_believed_nor_touched(tmp_path):
    """A forged cache of older versions, and links in the places of its files, are left alone."""
    root, thesis = pets(tmp_path / "given"), tmp_path / "thesis.txt"
    thesis.write_bytes(b"years of work")
    (root / ".lmsm-images-8x8x3.pixels.part").symlink_to(thesis)
    (root / ".lmsm-images-8x8x3.pixels.lock").symlink_to(thesis)
    forged = root / ".lmsm-images-8x8x3.pixels"
    forged.write_bytes(bytes(4096 + 6 * 8 * 8 * 3))
    display = SilentDisplay()
    assert np.array_equal(read(root, display).numpy(), expected())
    assert display.warned == []
    assert thesis.read_bytes() == b"years of work"
    assert forged.read_bytes() == bytes(4096 + 6 * 8 * 8 * 3)
    assert len(list(root.iterdir())) == 5


def test_doctor_empties_the_cache(tmp_path, folder, capsys):
    """doctor shows place, size, limit and the way to empty it, which leaves others' files."""
    read(pets(tmp_path / "pets"))
    (folder / "mine.txt").write_text("mine")
    assert main(["doctor", "--data-dir", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"{folder}: 0.0 MB of decoded images, " in said
    assert "lmsm doctor --clear-cache empties it" in said
    assert main(["doctor", "--data-dir", str(tmp_path), "--clear-cache"]) == 0
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    assert "--clear-cache" not in capsys.readouterr().out


def count_decoded(monkeypatch) -> list[int]:
    """Return a list that grows with each image that is decoded."""
    done: list[int] = []
    decode = decoding.decode

    def counting(content, channels):
        done.append(len(content))
        return decode(content, channels)

    monkeypatch.setattr(decoding, "decode", counting)
    return done


def test_a_set_without_room_is_looked_through_once(tmp_path, folder, large, monkeypatch):
    """Digests and sums stay in the cache where the pixels can't: a start decodes only its batches.

    A file that has changed is seen, and all is looked through again.
    """
    monkeypatch.setenv("LMSM_CACHE_SIZE", "2400")  # facts of six images, not their pixels
    root, done = pets(tmp_path / "pets"), count_decoded(monkeypatch)
    first = read_images(list_class_folders(root), OPTIONS)
    assert len(done) == 6
    again = read_images(list_class_folders(root), OPTIONS)
    assert len(done) == 6
    assert isinstance(again.images, UndecodedImages)
    for mine, theirs in zip(first[1:4], again[1:4], strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(again.images[2:4].numpy(), expected()[2:4])
    assert len(done) == 8
    save(root / "cat" / "0.bmp", noise(99))
    other = read_images(list_class_folders(root), OPTIONS)
    assert len(done) == 14
    assert not np.array_equal(other.digests, first.digests)
    monkeypatch.setenv("LMSM_CACHE_SIZE", "1GB")
    assert isinstance(read(root), MappedImages)


def test_a_list_without_room_is_decoded_batch_by_batch(tmp_path, large, monkeypatch):
    """Its parts too are looked through once, each for itself, and give what a tensor gives."""
    root = pets(tmp_path / "pets")
    lines = [f"{c}/{n}.bmp,{c},{'test' if n % 3 else 'train'}" for n, c in enumerate(["cat"] * 3)]
    lines += [f"dog/{n}.bmp,dog,{'test' if n % 3 else 'train'}" for n in range(3, 6)]
    (root / "a.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    options = FolderOptions(32, lists=ImageLists(root / "a.csv"))
    with monkeypatch.context() as usual:
        usual.setattr(decoding, "IN_MEMORY_BYTES", 1 << 30)
        eager = load_own_folder(root, options)
    cache.clear()
    monkeypatch.setenv("LMSM_CACHE_SIZE", "3400")  # facts of both parts
    done = count_decoded(monkeypatch)
    for _ in range(2):
        lazy = load_own_folder(root, options)
        assert len(done) == 6
        assert isinstance(lazy.training.images, UndecodedImages)
        assert (lazy.training.mean, lazy.test.digest()) == (
            eager.training.mean,
            eager.test.digest(),
        )
    assert lazy.test.images[torch.tensor([3, 0])].equal(eager.test.images[[3, 0]])


def test_an_entry_that_another_process_drops_meanwhile_is_none(tmp_path, monkeypatch):
    """Its file is listed, and gone before anyone asks for its size."""
    for key in ("0" * 32, "1" * 32):
        (tmp_path / f"{key}.npy").write_bytes(b"pixels")
    look = Path.lstat

    def of_those_left(path):
        if path.name.startswith("0"):
            raise FileNotFoundError(path)
        return look(path)

    monkeypatch.setattr(Path, "lstat", of_those_left)
    assert [entry.key for entry in cache.entries(tmp_path)] == ["1" * 32]
    assert cache.size_limit(tmp_path) > 0
