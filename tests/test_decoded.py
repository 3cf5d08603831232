"""What decoded.py promises: images on disk act as a tensor of them, and take little memory."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lmsm_cli.data import decoding
from lmsm_cli.data.augment import AUGMENTATIONS
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
from lmsm_cli.data.decoded import MappedImages, StoredImages, UndecodedImages, level_sums
from lmsm_cli.data.decoding import read_images
from lmsm_cli.data.sources import load, load_folder
from tests.conftest import write_class_folders


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Two classes of ten images in train/; the cache is empty."""
    write_class_folders(tmp_path / "train", ("cat", "dog"), 10, size=8)
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "train"


@pytest.fixture(params=["0", "1GB"], ids=["undecoded", "mapped"])
def on_disk(request, monkeypatch):
    """Let every set be too large for memory; without and with room in the cache."""
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    monkeypatch.setenv("LMSM_CACHE_SIZE", request.param)
    return UndecodedImages if request.param == "0" else MappedImages


def read(root: Path) -> StoredImages:
    """Return all images of 8 x 8 below class folders."""
    return read_images(list_class_folders(root), FolderOptions(8)).images


def stored(root: Path) -> torch.Tensor:
    """Return the pixels as Pillow reads the files one by one."""
    return torch.stack(
        [torch.from_numpy(np.array(Image.open(path))) for path in sorted(root.glob("*/*.*"))]
    )


def all_of(images) -> torch.Tensor:
    """Return images as a tensor, wherever they are."""
    return images[:]


def test_images_on_disk_are_indexed_as_a_tensor(pets, on_disk):
    """Index tensors, slices, masks and numbers give what the tensor of the images gives."""
    images, expected = read(pets), stored(pets)
    assert isinstance(images, on_disk)
    assert images.shape == expected.shape
    assert len(images) == 20
    for index in (
        torch.tensor([3, 19, 3, 0]),
        torch.tensor([-1]),
        torch.tensor([], dtype=torch.int64),
        torch.arange(20) % 3 == 1,
        slice(5, 9),
        slice(None),
        slice(18, 99),
        slice(0, 0),
        7,
        -2,
    ):
        assert torch.equal(images[index], expected[index])
    assert torch.equal(torch.stack(list(images)), expected)
    with pytest.raises(IndexError):
        images[torch.tensor([20])]
    images[:].zero_()
    assert torch.equal(all_of(images), expected)


def test_lazy_subset_is_the_eager_subset(pets, monkeypatch):
    """Subsets of mapped images, and subsets of these, hold the same pixels as copies do."""
    eager = load_folder(pets, options=FolderOptions(8))
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    lazy = load_folder(pets, options=FolderOptions(8))
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
    eager = load("folder", root, split, options=FolderOptions(8))
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    lazy = load("folder", root, split, options=FolderOptions(8))
    assert isinstance(lazy.images, MappedImages)
    assert torch.equal(all_of(lazy.images), eager.images)
    assert lazy.counts() == eager.counts()
    assert (lazy.mean, lazy.std) == (eager.mean, eager.std)


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_batches_of_images_on_disk_are_those_of_a_tensor(pets, on_disk, augment):
    """An epoch over images on disk, from any batch on, is the epoch over the tensor."""
    plan, labels = plan_epoch(20, augment, seed=3, epoch=1, size=(8, 8)), torch.arange(20)
    for start in (0, 2):
        lazy = list(batches(read(pets), labels, plan, 6, start=start))
        eager = list(batches(stored(pets), labels, plan, 6, start=start))
        assert len(lazy) == len(eager) == 4 - start
        for own, expected in zip(lazy, eager, strict=True):
            assert torch.equal(own.images, expected.images)
            assert torch.equal(own.labels, expected.labels)
            assert own.images.stride() == expected.images.stride()


# Prints the peak of resident memory in MiB after the imports and at the end, and image counts.
EPOCH = """
    import json, sys
    from pathlib import Path

    import numpy as np
    import torch
    from PIL import Image
    from lmsm_cli.data.batches import batches, plan_epoch
    from lmsm_cli.data.class_folders import FolderOptions
    from lmsm_cli.data.class_folders import list_class_folders
    from lmsm_cli.data.folds import fixed_share
    from lmsm_cli.data.sources import load

    def peak():  # not ru_maxrss: that counts the process which started this one too
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) / 1024

    root, at_start = Path(sys.argv[1]), peak()
    training = load("folder", root, "train", options=FolderOptions(224))
    test = load("folder", root, "test", options=FolderOptions(224))
    tail = training.subset(torch.arange(0, len(training), 3))
    listing = list_class_folders(root)
    is_test = fixed_share(np.array(listing.labels), len(listing.classes), 0.2)
    files = [listing.files[i] for i in np.flatnonzero(~is_test)]
    plan = plan_epoch(len(training), "crop-flip", seed=0, epoch=0)
    plain = plan_epoch(len(tail), "none", seed=0, epoch=0)
    seen = sum(len(batch.labels) for batch in batches(training.images, training.labels, plan, 128))
    of_tail = batches(tail.images, torch.arange(len(tail)), plain, 128)
    for step, (images, places, *_) in enumerate(of_tail):
        if step % 10 == 0:
            for image, place in zip(images, places.tolist()):
                expected = np.asarray(Image.open(root / files[3 * place]))
                assert np.array_equal(image.permute(1, 2, 0).numpy(), expected)
    counts = {"train": len(training), "test": len(test), "seen": seen}
    print(json.dumps({"at_start": at_start, "peak": peak()} | counts))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_stays_far_below_the_size_of_the_data(tmp_path):
    """Decoding 1.4 GiB, its normalisation, subsets and an epoch take less than 600 MiB."""
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
    command = [sys.executable, "-c", textwrap.dedent(EPOCH), str(tmp_path / "images")]
    environment = os.environ | {"LMSM_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=300, check=True)
    said = json.loads(done.stdout)
    assert (said["train"], said["test"], said["seen"]) == (8000, 2000, 8000)
    assert said["peak"] - said["at_start"] < 600, said


def test_sums_of_levels_are_exact():
    """The sums are those of whole numbers, of many images and where every level is the highest."""
    pixels = np.random.default_rng(0).integers(0, 256, (90, 37, 29, 3), np.uint8)
    whole = pixels.astype(int)
    assert np.array_equal(
        level_sums(pixels), np.stack([whole.sum((1, 2)), (whole**2).sum((1, 2))], 1)
    )
    brightest = np.full((1, 1024, 1024, 1), 255, np.uint8)
    assert level_sums(brightest).tolist() == [[[255 << 20], [255**2 << 20]]]
