"""Prefetching: the same in the same order, one ahead, with its errors, and no thread left over."""

import threading
import time
from contextlib import closing
from itertools import islice

import pytest
import torch

from lmsm_cli.data import decoded, decoding
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
from lmsm_cli.data.decoded import MappedImages, to_device
from lmsm_cli.data.decoding import read_images
from lmsm_cli.data.prefetch import ahead
from lmsm_cli.errors import DataError
from lmsm_cli.training.run import start_run
from tests.conftest import SilentDisplay, digits_config, write_class_folders


def prefetching():
    """Return the threads that prefetch."""
    return [one for one in threading.enumerate() if one.name.startswith("prefetch")]


@pytest.mark.parametrize("count", [0, 1, 2, 9])
def test_results_come_in_the_order_of_the_items(count):
    """However long each takes."""

    def get(item):
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(ahead(get, range(count))) == [item * item for item in range(count)]
    assert not prefetching()


def test_the_next_is_worked_out_while_one_is_used():
    """A slow gather overlaps with a step; it is one ahead, never two."""
    begun = [threading.Event() for _ in range(5)]

    def get(item):
        begun[item].set()
        return item

    for item in ahead(get, range(5)):
        if item < 4:
            assert begun[item + 1].wait(timeout=20)
        time.sleep(0.01)
        assert not any(event.is_set() for event in begun[item + 2 :])


def test_an_error_comes_where_its_result_would():
    """What came before it is used first, and the thread is gone."""

    def get(item):
        if item == 3:
            raise DataError("x.png has changed")
        return item

    seen, results = [], ahead(get, range(6))
    with pytest.raises(DataError, match=r"x\.png has changed"):  # noqa: PT012  what came before?
        for item in results:
            seen.append(item)
    assert seen == [0, 1, 2]
    assert not prefetching()


def test_none_is_left_where_it_is_closed_early():
    """The one under way is waited for, and no other begins."""
    done = []

    def get(item):
        time.sleep(0.05)
        done.append(item)

    with closing(ahead(get, range(9))) as results:
        next(results)
    assert not prefetching()
    assert done == [0, 1]


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Two classes of ten images, too large for the memory."""
    write_class_folders(tmp_path / "data", ("cat", "dog"), 10, size=12)
    monkeypatch.setenv("LMSM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(decoding, "IN_MEMORY_BYTES", 0)
    return tmp_path / "data"


def test_a_batch_of_images_on_disk_is_read_while_the_one_before_is_used(pets, monkeypatch):
    """Its places are those of the plan, and only batches from the first one wanted are read."""
    gathers, gather, second = [], MappedImages.gather, threading.Event()

    def noted(self, places, out):
        gathers.append(places.tolist())
        gather(self, places, out)
        if len(gathers) == 2:
            second.set()

    images = read_images(list_class_folders(pets), FolderOptions(12)).images
    monkeypatch.setattr(MappedImages, "gather", noted)
    plan = plan_epoch(20, "none", seed=0, epoch=0)
    wanted = [part.tolist() for part in plan.order.split(6)]
    with closing(batches(images, torch.arange(20), plan, 6, start=1)) as some:
        next(some)
        assert second.wait(timeout=20)
        assert gathers == wanted[1:3]
        assert [len(batch.labels) for batch in islice(some, 2)] == [6, 2]
    assert gathers == wanted[1:]


class Failing(SilentDisplay):
    """Fails after the first step."""

    def step(self, step):
        """Raise what a broken screen would."""
        raise RuntimeError("the screen is gone")


def test_no_thread_outlives_a_training_that_fails(pets, tmp_path, monkeypatch):
    """Even while the error is at hand, whose traceback holds the frames of the training."""
    gather = MappedImages.gather

    def slow(self, places, out):
        time.sleep(0.2)
        gather(self, places, out)

    monkeypatch.setattr(MappedImages, "gather", slow)
    flags = {"dataset": "folder", "data_dir": pets, "image_size": 12, "model": "paper-2d"}
    flags |= {"imbalance": "none", "factor": 1.0, "batch_size": 4, "epochs": 1}
    with pytest.raises(RuntimeError, match="the screen is gone") as error:
        start_run(digits_config(tmp_path / "runs", **flags), Failing(), with_plots=False)
    assert not prefetching()
    assert error.value.__traceback__ is not None


@pytest.mark.parametrize(("free", "is_resident"), [(2 * 20 * 12 * 12 * 3, True), (17_279, False)])
def test_a_gpu_holds_what_half_of_its_free_memory_takes(pets, monkeypatch, free, is_resident):
    """Else the images stay on disk; on the CPU they always do."""
    images = read_images(list_class_folders(pets), FolderOptions(12)).images
    monkeypatch.setattr(decoded, "_free_bytes", lambda device: free)
    moved = to_device(images, torch.device("meta"))  # as a GPU: no place of the host's
    assert isinstance(moved, torch.Tensor) == is_resident
    assert moved.shape == images.shape
    assert to_device(images, torch.device("cpu")) is images


def test_images_get_to_a_device_whole_whatever_is_sent_at_once(pets, monkeypatch):
    """Each piece lands in its place, the last one shorter."""
    images = read_images(list_class_folders(pets), FolderOptions(12)).images
    monkeypatch.setattr(decoded, "_SENT", 3 * 12 * 12 * 3)
    assert torch.equal(decoded.copied_to(images, torch.device("cpu")), images[:])
