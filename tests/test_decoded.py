"""What decoded.py promises: decoded once, never from a file that is not whole, and little memory."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmsm_cli.data import class_folders
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.data.class_folders import cache_path, read_image, read_images
from lmsm_cli.data.decoded import MappedImages
from lmsm_cli.data.listing import list_class_folders
from lmsm_cli.data.sources import load, load_folder
from lmsm_cli.display import Display
from lmsm_cli.errors import DataError, DiskError
from tests.conftest import SilentDisplay, write_class_folders

BYTES = 8 * 8 * 3  # of an image of the folder below
HELD = pytest.mark.parametrize("limit", [1 << 30, 0], ids=["in memory", "mapped"])


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Two classes of ten images in train/, decoded two images a chunk; where caches go is empty."""
    write_class_folders(tmp_path / "train", ("cat", "dog"), 10, size=8)
    monkeypatch.setattr(class_folders, "_CHUNK_BYTES", 2 * BYTES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return tmp_path / "train"


@pytest.fixture
def mapped(monkeypatch):
    """Let every set be too large for memory."""
    monkeypatch.setattr(class_folders, "IN_MEMORY_BYTES", 0)


@pytest.fixture
def opened(monkeypatch) -> list[str]:
    """The names of the images that are decoded, as it happens."""
    names: list[str] = []

    def counted(path, **kwargs):
        names.append(f"{path.parent.name}/{path.name}")
        return read_image(path, **kwargs)

    monkeypatch.setattr(class_folders, "read_image", counted)
    return names


def read(root: Path, **kwargs):
    """Return all images of 8 x 8 below class folders."""
    return read_images(list_class_folders(root), size=8, channels=3, **kwargs)


def stored(root: Path) -> torch.Tensor:
    """Return the pixels as Pillow reads the files one by one."""
    return torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in sorted(root.glob("*/*.*"))])  # fmt: skip


def all_of(images) -> torch.Tensor:
    """Return images as a tensor, wherever they are."""
    return images[:]


def hidden(folder: Path) -> list[str]:
    """Return the names of the hidden files in a folder."""
    return sorted(path.name for path in folder.glob(".*"))


class StopAt(Display):
    """A display that interrupts when so many images are done."""

    def __init__(self, done: int) -> None:
        self.done = done

    def report(self, what, done, total):
        """Raise KeyboardInterrupt once so many are done."""
        if done == self.done:
            raise KeyboardInterrupt


def child(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start Python on the code; it finds its arguments in sys.argv."""
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# Arguments: the folder, IN_MEMORY_BYTES, the images after which it is killed (0: never).
READ = """
    import hashlib, os, signal, sys, time
    from pathlib import Path
    from lmsm_cli.data.listing import list_class_folders
    from lmsm_cli.display import Display
    from lmsm_cli.data import class_folders as folders

    root, limit, deadly = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    folders._CHUNK_BYTES, folders.IN_MEMORY_BYTES = 2 * 8 * 8 * 3, limit
    decode, opened = folders.read_image, []

    def slowly(path, **kwargs):
        opened.append(path)
        time.sleep(0.02)
        return decode(path, **kwargs)

    class Deadly(Display):
        def report(self, what, done, total):
            if deadly and done >= deadly:
                os.kill(os.getpid(), signal.SIGKILL)

    folders.read_image = slowly
    images = folders.read_images(list_class_folders(root), size=8, channels=3, display=Deadly())
    print(len(opened), hashlib.sha256(images[:].numpy().tobytes()).hexdigest())
"""


@HELD
def test_killed_decoding_goes_on_where_it_stopped(pets, opened, monkeypatch, limit):
    """After a SIGKILL behind 8 of 20 images, the next run decodes the other 12 and no more."""
    process = child(READ, pets, limit, 8)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    monkeypatch.setattr(class_folders, "IN_MEMORY_BYTES", limit)
    display = SilentDisplay()
    images = read(pets, display=display)
    assert sorted(opened) == list(list_class_folders(pets).files[8:])
    assert [done for _, done, _ in display.reported] == [10, 12, 14, 16, 18, 20]
    assert torch.equal(all_of(images), stored(pets))
    assert hidden(pets.parent) == [".lmsm-train-8x8x3.pixels"]


def flip(path: Path, position: int) -> None:
    """Flip the bits of one byte."""
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    "happen",
    [
        lambda part, image: os.utime(image, ns=(0, 1)),
        lambda part, image: image.unlink(),
        lambda part, image: shutil.copy(image, image.with_name("another.png")),
        lambda part, image: flip(part, 4096 + 3 * BYTES),
        lambda part, image: flip(part, 1),
        lambda part, image: flip(part, part.read_bytes().index(b'"done": ') + 8),
        lambda part, image: os.truncate(part, 4096 + 5 * BYTES),
        lambda part, image: part.write_bytes(b"[" * 9999),
        lambda part, image: part.write_bytes(b""),
    ],
    ids=["changed", "removed", "added", "pixel", "header", "count", "cut", "foreign", "empty"],
)
def test_half_a_decoding_that_does_not_fit_starts_anew(pets, opened, mapped, happen):
    """Of a killed decoding nothing is kept where an image changed or what it left is damaged."""
    with pytest.raises(KeyboardInterrupt):
        read(pets, display=StopAt(8))
    opened.clear()
    happen(pets.parent / ".lmsm-train-8x8x3.pixels.part", pets / "cat" / "0002.png")
    images = read(pets)
    assert sorted(opened) == list(list_class_folders(pets).files)
    assert torch.equal(all_of(images), stored(pets))


@pytest.mark.parametrize(
    "happen",
    [
        lambda file: flip(file, 2),
        lambda file: flip(file, file.read_bytes().index(b"fingerprint") + 20),
        lambda file: os.truncate(file, 4096 + 20 * BYTES - 1),
        lambda file: os.truncate(file, 4096),
        lambda file: file.write_bytes(b"PK"),
        lambda file: file.write_bytes(b"{}".ljust(99_999, b"\0")),
    ],
    ids=["header", "fingerprint", "cut", "only a header", "foreign", "empty header"],
)
def test_mapped_file_that_is_not_whole_is_made_anew(pets, opened, mapped, happen):
    """A cut or foreign file is never mapped: it is decoded again."""
    read(pets)
    happen(cache_path(pets, size=8, channels=3))
    opened.clear()
    assert torch.equal(all_of(read(pets)), stored(pets))
    assert len(opened) == 20


def test_large_sets_are_decoded_once(pets, opened, mapped):
    """A set above the limit is mapped, and the second time nothing is decoded."""
    assert isinstance(read(pets), MappedImages)
    opened.clear()
    assert torch.equal(all_of(read(pets)), stored(pets))
    assert opened == []


def test_limit_is_what_decides(pets, monkeypatch):
    """A set of exactly the limit is a tensor; a byte less of a limit, and it is mapped."""
    monkeypatch.setattr(class_folders, "IN_MEMORY_BYTES", 20 * BYTES)
    assert isinstance(read(pets), torch.Tensor)
    monkeypatch.setattr(class_folders, "IN_MEMORY_BYTES", 20 * BYTES - 1)
    assert isinstance(read(pets), MappedImages)


def test_changed_file_leaves_those_alone_who_read_the_old_one(pets, mapped):
    """A run that has mapped the images keeps them while another run decodes them anew."""
    before, expected = read(pets), stored(pets)
    Image.new("RGB", (8, 8), "red").save(pets / "cat" / "0000.png")
    assert all_of(read(pets))[0, 0, 0].tolist() == [255, 0, 0]
    assert torch.equal(all_of(before), expected)


@HELD
def test_one_of_two_processes_decodes(pets, limit):
    """Two processes on a folder decode each image once, see the same pixels and leave no lock."""
    both = [child(READ, pets, limit, 0) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in both]
    assert sorted(int(count) for count, _ in said) == [0, 20]
    assert said[0][1] == said[1][1]
    assert hidden(pets.parent) == [".lmsm-train-8x8x3.pixels"]


def test_bad_image_keeps_what_was_decoded_before_it(pets, opened):
    """An unreadable image is named; after its removal all is decoded, as the folder changed."""
    (pets / "dog" / "0009.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"0009\.png is not an image"):
        read(pets)
    assert hidden(pets.parent) == [".lmsm-train-8x8x3.pixels.part"]
    (pets / "dog" / "0009.png").unlink()
    assert torch.equal(read(pets), stored(pets))
    assert hidden(pets.parent) == [".lmsm-train-8x8x3.pixels"]


def test_cache_of_old_versions_is_removed(pets):
    """What lmsm 0.1 left beside the data goes when the new file is there."""
    (pets.parent / ".lmsm-train-8x8x3.npz").write_bytes(b"PK")
    read(pets)
    assert hidden(pets.parent) == [".lmsm-train-8x8x3.pixels"]


def block(root: Path) -> None:
    """Put a folder where the decoded images would go: root may write in a read-only one."""
    (cache_path(root, size=8, channels=3) / "in the way").mkdir(parents=True)


def test_large_set_of_a_read_only_folder_goes_to_the_users_cache(pets, opened, mapped):
    """What cannot be kept beside the data is kept below the user's cache folder, and found again."""
    block(pets)
    assert torch.equal(all_of(read(pets)), stored(pets))
    opened.clear()
    assert torch.equal(all_of(read(pets)), stored(pets))
    assert opened == []
    assert len(list((pets.parent / "user" / "lmsm" / "decoded").iterdir())) == 1


def test_folders_of_one_name_have_caches_of_their_own(pets, opened, mapped):
    """In the user's cache, two folders called train do not push each other out."""
    other = pets.parent / "other" / "train"
    write_class_folders(other, ("cat", "dog"), 5, size=8, seed=1)
    for root in (pets, other):
        block(root)
        read(root)
    opened.clear()
    assert torch.equal(all_of(read(pets)), stored(pets))
    assert torch.equal(all_of(read(other)), stored(other))
    assert opened == []


def test_large_set_that_can_be_kept_nowhere_says_where_it_was_tried(pets, opened, mapped):
    """With both places blocked the error names them and the bytes, before any decoding."""
    block(pets)
    (pets.parent / "user").write_text("no folder")
    with pytest.raises(DiskError, match=f"take {4096 + 20 * BYTES:,} bytes") as caught:
        read(pets)
    assert str(pets.parent / ".lmsm-train-8x8x3.pixels") in str(caught.value)
    assert str(pets.parent / "user") in str(caught.value)
    assert opened == []


def test_full_disk_is_found_before_the_decoding(pets, opened, mapped, monkeypatch):
    """Too little free space is exit code 6, with the bytes that are needed and where."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9999, 9899, 100))  # fmt: skip
    with pytest.raises(DiskError, match=rf"take {4096 + 20 * BYTES:,} bytes in .*, where 100 are free") as caught:  # fmt: skip
        read(pets)
    assert str(pets.parent) in str(caught.value)
    assert caught.value.exit_code == 6
    assert opened == []
    assert hidden(pets.parent) == []


@pytest.fixture
def full_disk():
    """Let no file grow beyond the header and ten images: the kernel's own refusal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096 + 10 * BYTES, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_disk_that_fills_up_stops_a_large_set(pets, mapped, full_disk):
    """A write that fails half-way is a DiskError that names the file and the bytes."""
    with pytest.raises(DiskError, match=rf"8x8x3\.pixels\.part: .*{4096 + 20 * BYTES:,} bytes"):
        read(pets)


def test_disk_that_fills_up_does_not_stop_a_small_set(pets, full_disk):
    """A set that fits in memory is read all the same, says so once and leaves nothing behind."""
    display = SilentDisplay()
    images = read(pets, display=display)
    assert torch.equal(images, stored(pets))
    assert sum("no cache" in text for text in display.warned) == 1
    assert hidden(pets.parent) == []


def test_mapped_images_are_indexed_as_a_tensor(pets, mapped):
    """Index tensors, slices, masks and numbers give what the tensor of the images gives."""
    images, expected = read(pets), stored(pets)
    assert images.shape == expected.shape
    assert len(images) == 20
    for index in (
        torch.tensor([3, 19, 3, 0]), torch.tensor([-1]), torch.tensor([], dtype=torch.int64),
        torch.arange(20) % 3 == 1, slice(5, 9), slice(None), slice(18, 99), slice(0, 0), 7, -2,
    ):  # fmt: skip
        assert torch.equal(images[index], expected[index])
    assert torch.equal(torch.stack(list(images)), expected)
    with pytest.raises(IndexError):
        images[torch.tensor([20])]
    images[:].zero_()
    assert torch.equal(all_of(images), expected)


def test_lazy_subset_is_the_eager_subset(pets, monkeypatch):
    """Subsets of mapped images, and subsets of these, hold the same pixels as copies do."""
    eager = load_folder(pets, image_size=8)
    monkeypatch.setattr(class_folders, "IN_MEMORY_BYTES", 0)
    lazy = load_folder(pets, image_size=8)
    for indices in ([5, 17, 2, 2, 11], [3, 0], []):
        eager, lazy = eager.subset(indices), lazy.subset(torch.tensor(indices, dtype=torch.int64))
        assert isinstance(lazy.images, MappedImages)
        assert lazy.images.shape == eager.images.shape
        assert torch.equal(all_of(lazy.images), eager.images)
        assert torch.equal(lazy.labels, eager.labels)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("with_splits", [True, False], ids=["train and test", "one folder"])
def test_large_folders_load_as_small_ones(pets, monkeypatch, split, with_splits):
    """Mapped or in memory, a data folder gives the same images, labels, mean and deviation."""
    if with_splits:
        write_class_folders(pets.parent / "test", ("cat", "dog"), 3, size=8, seed=1)
    root = pets.parent if with_splits else pets
    eager = load("folder", root, split, image_size=8)
    monkeypatch.setattr(class_folders, "IN_MEMORY_BYTES", 0)
    lazy = load("folder", root, split, image_size=8)
    assert isinstance(lazy.images, MappedImages)
    assert torch.equal(all_of(lazy.images), eager.images)
    assert lazy.counts() == eager.counts()
    assert (lazy.mean, lazy.std) == (eager.mean, eager.std)


@pytest.mark.parametrize("augment", ["none", "flip", "crop-flip"])
def test_batches_of_mapped_images_are_those_of_a_tensor(pets, mapped, augment):
    """An epoch over mapped images, from any batch on, is the epoch over the tensor."""
    plan, labels = plan_epoch(20, augment, seed=3, epoch=1), torch.arange(20)
    for start in (0, 2):
        lazy = list(batches(read(pets), labels, plan, 6, start=start))
        eager = list(batches(stored(pets), labels, plan, 6, start=start))
        assert len(lazy) == len(eager) == 4 - start
        for own, expected in zip(lazy, eager, strict=True):
            assert torch.equal(own.images, expected.images)
            assert torch.equal(own.labels, expected.labels)
            assert own.images.stride() == expected.images.stride()


# Prints the peak of resident memory in MiB after the imports and at the end, and the training images.
EPOCH = """
    import json, sys
    from pathlib import Path

    import numpy as np
    import torch
    from PIL import Image
    from lmsm_cli.data.batches import batches, plan_epoch
    from lmsm_cli.data.listing import list_class_folders, split_by_class
    from lmsm_cli.data.sources import load

    def peak():  # not ru_maxrss: that counts the process which started this one too
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    root, at_start = Path(sys.argv[1]), peak()
    training = load("folder", root, "train", image_size=224)
    test = load("folder", root, "test", image_size=224)
    tail = training.subset(torch.arange(0, len(training), 3))
    listing = list_class_folders(root)
    files = [listing.files[i] for i in split_by_class(listing)[0]]
    plan = plan_epoch(len(training), "crop-flip", seed=0, epoch=0)
    plain = plan_epoch(len(tail), "none", seed=0, epoch=0)
    seen = sum(len(batch.labels) for batch in batches(training.images, training.labels, plan, 128))
    for step, (images, places, _) in enumerate(batches(tail.images, torch.arange(len(tail)), plain, 128)):
        if step % 10 == 0:
            for image, place in zip(images, places.tolist()):
                expected = np.asarray(Image.open(root / files[3 * place]))
                assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    print(json.dumps({"at_start": at_start, "peak": peak(), "train": len(training), "test": len(test), "seen": seen}))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_far_below_the_size_of_the_data(tmp_path):
    """Decoding 1.4 GiB, its normalisation, subsets and an epoch take less than 600 MiB of memory."""
    draws = np.random.default_rng(0)
    distinct = []
    for number in range(200):
        coarse = Image.fromarray(draws.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        distinct.append(tmp_path / f"{number}.jpg")
        coarse.resize((224, 224)).save(distinct[-1])
    for number in range(10_000):  # 10,000 x 224 x 224 x 3 = 1,435 MiB
        path = tmp_path / "images" / f"class {number % 20:02}" / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(distinct[number * 7 % 200])
    process = child(EPOCH, tmp_path / "images")
    said = json.loads(process.communicate(timeout=300)[0])
    assert (said["train"], said["test"], said["seen"]) == (8000, 2000, 8000)
    assert said["peak"] - said["at_start"] < 600, said
    assert (tmp_path / "images" / ".lmsm-images-224x224x3.pixels").stat().st_size == 4096 + 10_000 * 150_528  # fmt: skip
