"""What decoding.py promises: images are decoded once, and no change of a file is missed."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lmsm_cli.data import decoding
from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
from lmsm_cli.data.decoded import MappedImages
from lmsm_cli.data.decoding import read_images
from lmsm_cli.data.identity import digest
from lmsm_cli.data.image_files import read_content
from lmsm_cli.errors import DataError
from lmsm_cli.runtime.display import SILENT
from tests.conftest import SilentDisplay, noise, save

BYTES = 8 * 8 * 3  # of an image of the folder below
NAMES = [f"{kind}/{number:04}.bmp" for kind in ("cat", "dog") for number in range(10)]
HELD = pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "on disk"])


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Let a chunk be two images, and the cache be empty."""
    monkeypatch.setattr(decoding, "_CHUNK_BYTES", 2 * BYTES)
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def pets(tmp_path):
    """Two classes of ten images in train/, bitmaps of one size, an hour old."""
    for seed, name in enumerate(NAMES):
        save(tmp_path / "train" / name, noise(seed))
    return tmp_path / "train"


@pytest.fixture
def trusting(monkeypatch):
    """Let ctime tell changes of files that were made just now."""
    monkeypatch.setattr(decoding, "_TICK_NS", 0)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the images that are read, as it happens."""
    names: list[str] = []

    def counted(path):
        names.append(f"{path.parent.name}/{path.name}")
        return read_content(path)

    monkeypatch.setattr(decoding, "read_content", counted)
    return names


def read(root: Path, size=8, display=SILENT, **options):
    """Return what is read of all images of 8 x 8 below class folders."""
    return read_images(list_class_folders(root), FolderOptions(size, **options), display=display)


def pixels_of(found) -> np.ndarray:
    """Return the pixels that were read, wherever they are."""
    return found.images[:].numpy()


def expected(seeds=range(20)) -> np.ndarray:
    """Return the pixels that were drawn."""
    return np.stack([noise(seed) for seed in seeds])


def snapshot(root: Path) -> dict[str, object]:
    """Return what can be known of everything below a folder, links themselves."""
    found = {}
    for path in sorted([root, *root.rglob("*")]):
        info = path.lstat()
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else None
        found[str(path)] = (info.st_mode, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, content)
    return found


def kept_files(tmp_path: Path) -> list[str]:
    """Return the endings of the files in the cache."""
    return sorted(path.suffix for path in (tmp_path / "cache" / "decoded").iterdir())


def swap_content(path: Path, seed: int = 99) -> None:
    """Put other pixels into a bitmap behind its back: same size, same time of change."""
    times = path.stat()
    save(path, noise(seed))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (times.st_size, times.st_mtime_ns)


@HELD
def test_nothing_is_written_into_the_data(pets, tmp_path, monkeypatch, limit):
    """Reading a folder, twice, changes no file, time or name below it; the cache has the images."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    before = snapshot(pets)
    for _ in range(2):
        assert np.array_equal(pixels_of(read(pets)), expected())
    assert snapshot(pets) == before
    assert kept_files(tmp_path) == [".json", ".npy"]


@HELD
def test_images_are_decoded_once(pets, trusting, opened, monkeypatch, limit):
    """The second time no image file is opened: pixels and digests come from the cache."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    first = read(pets)
    assert sorted(opened) == NAMES
    opened.clear()
    again = read(pets)
    assert opened == []
    assert isinstance(again.images, torch.Tensor if limit else MappedImages)
    assert np.array_equal(pixels_of(again), expected())
    assert np.array_equal(again.digests, first.digests)
    assert np.array_equal(again.pictures, first.pictures)
    assert [bytes(row) for row in first.digests] == [
        digest((pets / name).read_bytes()) for name in NAMES
    ]


@HELD
def test_pixels_that_were_exchanged_are_seen(pets, trusting, monkeypatch, limit):
    """Other pixels in a file of the same size, with its time of change set back, are noticed."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    read(pets)
    swap_content(pets / "cat" / "0000.bmp")
    assert np.array_equal(pixels_of(read(pets)), expected([99, *range(1, 20)]))


@pytest.mark.parametrize(("name", "value"), [("_TICK_NS", 10**18), ("CTIME_TELLS_CHANGES", False)])
def test_change_within_a_tick_of_the_clock_is_seen(pets, trusting, monkeypatch, name, value):
    """Where times prove nothing, since they are too young or mean something else, contents do."""
    monkeypatch.setattr(decoding, name, value)
    states = decoding._states(list_class_folders(pets))
    monkeypatch.setattr(decoding, "_states", lambda listing: states)
    read(pets)
    swap_content(pets / "cat" / "0000.bmp")
    assert np.array_equal(pixels_of(read(pets)), expected([99, *range(1, 20)]))


@HELD
def test_young_files_are_compared_once(pets, monkeypatch, opened, limit):
    """Files made just before they were decoded are compared by content at the next start alone."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    made = max((pets / name).stat().st_ctime_ns for name in NAMES)
    for seconds, names in ((0, NAMES), (10, NAMES), (20, []), (30, [])):
        clock = SimpleNamespace(time_ns=lambda now=made + seconds * 10**9: now)
        monkeypatch.setattr(decoding, "time", clock)
        opened.clear()
        assert np.array_equal(pixels_of(read(pets)), expected())
        assert sorted(opened) == names


def test_exchanged_names_are_seen(pets, trusting, monkeypatch):
    """Two class folders that exchange names, with files of equal size and times, are noticed."""
    for name in NAMES:
        os.utime(pets / name, ns=(0, 0))
    states = decoding._states

    def changed_at_one_moment(listing):
        """Return the states of the files, none of which was changed before another one."""
        found = states(listing)
        found[:, 2] = 0
        return found

    monkeypatch.setattr(decoding, "_states", changed_at_one_moment)
    read(pets)
    (pets / "cat").rename(pets / "tmp")
    (pets / "dog").rename(pets / "cat")
    (pets / "tmp").rename(pets / "dog")
    assert np.array_equal(pixels_of(read(pets)), expected([*range(10, 20), *range(10)]))


def test_copied_folder_is_another_entry_with_the_same_digests(pets, tmp_path, opened):
    """A copy is decoded again, and its images are known as the same."""
    first = read(pets)
    opened.clear()
    shutil.copytree(pets, tmp_path / "copy" / "train")
    again = read(tmp_path / "copy" / "train")
    assert sorted(opened) == NAMES
    assert np.array_equal(again.digests, first.digests)
    assert len(kept_files(tmp_path)) == 4


@pytest.mark.slow
def test_two_processes_decode_once_between_them(pets, tmp_path):
    """Of two processes on one folder, one decodes; both see the same, and no lock is left."""
    both = [child(READ, pets, 0) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(int(count) for count, _ in said) == [0, 20]
    assert said[0][1] == said[1][1]
    assert kept_files(tmp_path) == [".json", ".npy"]


@pytest.mark.slow
def test_killed_decoding_leaves_no_wrong_cache(pets, tmp_path):
    """After a SIGKILL in the middle, all is decoded, and what was left behind is gone."""
    process = child(READ, pets, 8)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert ".part" in kept_files(tmp_path)
    assert np.array_equal(pixels_of(read(pets)), expected())
    assert kept_files(tmp_path) == [".json", ".npy"]


# Arguments: the folder, the images after which it is killed (0: never).
READ = """
    import hashlib, os, signal, sys, time
    from pathlib import Path
    from lmsm_cli.data import decoding
    from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
    from lmsm_cli.runtime.display import Display

    root, deadly = Path(sys.argv[1]), int(sys.argv[2])
    decoding._CHUNK_BYTES, decoding.IN_MEMORY_BYTES, decoding._TICK_NS = 2 * 8 * 8 * 3, 0, 0
    content_of, opened = decoding.read_content, []

    def slowly(path):
        opened.append(path)
        time.sleep(0.02)
        return content_of(path)

    class Deadly(Display):
        def progress(self, what, done, total):
            if deadly and done >= deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    decoding.read_content = slowly
    found = decoding.read_images(list_class_folders(root), FolderOptions(8), display=Deadly())
    print(len(opened), hashlib.sha256(found.images[:].numpy().tobytes()).hexdigest())
"""


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start Python on the code; it finds its arguments in sys.argv."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def break_some(root: Path) -> None:
    """Let two of the images be none."""
    (root / "cat" / "0003.bmp").write_bytes(b"no image")
    (root / "dog" / "0009.bmp").write_bytes(b"")


def test_unreadable_images_are_told_all_at_once_and_again(pets, trusting, opened):
    """Both starts name every unreadable file with its reason; the second decodes nothing else."""
    break_some(pets)
    for names in (NAMES, ["cat/0003.bmp", "dog/0009.bmp"]):
        opened.clear()
        with pytest.raises(
            DataError,
            match=r"2 of the 20 images .*0003\.bmp is not an image"
            r".*0009\.bmp is not an image: it is empty.*--skip-unreadable",
        ):
            read(pets)
        assert sorted(set(opened)) == names


@HELD
def test_unreadable_images_can_be_left_out(pets, trusting, monkeypatch, limit):
    """With skip_unreadable the others are read, at both starts; a warning names those left out."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", limit)
    break_some(pets)
    for _ in range(2):
        display = SilentDisplay()
        found = read(pets, skip_unreadable=True, display=display)
        rows = [*range(3), *range(4, 19)]
        assert np.array_equal(pixels_of(found), expected(rows))
        assert list(found.listing.files) == [NAMES[row] for row in rows]
        assert found.listing.labels == (0,) * 9 + (1,) * 9
        assert len(found.digests) == len(found.pictures) == 18
        (warning,) = display.warned
        assert "0003.bmp" in warning


def test_image_that_is_mended_meanwhile_is_left_out_whole(pets, trusting, monkeypatch):
    """A file that can be read a moment later moves no other image to another's label."""
    break_some(pets)
    decoded = decoding._Reader.decoded

    def decoded_then_mended(reader):
        found = decoded(reader)
        save(pets / NAMES[3], noise(3))
        return found

    monkeypatch.setattr(decoding._Reader, "decoded", decoded_then_mended)
    found = read(pets, skip_unreadable=True)
    rows = [*range(3), *range(4, 19)]
    assert np.array_equal(pixels_of(found), expected(rows))
    assert list(found.listing.files) == [NAMES[row] for row in rows]


def test_images_that_are_all_unreadable_cannot_be_left_out(pets):
    """Without a single image there is nothing to go on with."""
    for name in NAMES:
        (pets / name).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"20 of the 20 .* and 10 more"):
        read(pets, skip_unreadable=True)


@pytest.mark.realdata
def test_real_cifar10_is_decoded_once(real_data, tmp_path):
    """Of real CIFAR-10, a copy of a few files is kept, and one touched file is noticed."""
    source = real_data / "cifar10" / "train"
    assert np.bincount(list_class_folders(source).labels).tolist() == [5000] * 10
    for folder in sorted(source.iterdir())[:2]:
        (tmp_path / "few" / folder.name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[:20]:
            shutil.copy(file, tmp_path / "few" / folder.name)
    display = SilentDisplay()
    first = read(tmp_path / "few", size=32, display=display)
    decoded = len(display.reported)
    again = read(tmp_path / "few", size=32, display=display)
    assert len(display.reported) == decoded
    assert np.array_equal(pixels_of(first), pixels_of(again))
    next((tmp_path / "few").glob("*/*.jpg")).touch()
    read(tmp_path / "few", size=32, display=display)
    assert len(display.reported) == 2 * decoded
