"""How a section of `gpu.sh` is measured: on the device or in a try-out, and until when.

In a try-out the device is the tests' pretended one, sizes are tiny, and CIFAR-10 is made up.
"""

import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import train_arms
from loss_arms import Size

TINY = {
    "model": "paper-2d",
    "imbalance": "none",
    "validation": 0,
    "batch_size": 6,
    "lr": 0.001,
    "epochs": 1,
    "warmup": 0,
    "neck": "none",
    "precision": "fp32",
}
"""What a try-out trains instead."""
IMAGES = 3  # a class of the made-up CIFAR-10: five steps, so that a graph is captured


class NotHereError(Exception):
    """A row can't be measured here; the message says why."""


@dataclass(frozen=True)
class Way:
    """What a part of a section is given."""

    out: Path
    is_try: bool
    ends: float
    """When no other turn is to be begun, by `time.monotonic`."""

    def is_over(self) -> bool:
        """Return whether the time is over."""
        return time.monotonic() >= self.ends

    def size(self, classes: int, turns: int, batch: int, **more: Any) -> Size:
        """Return the size of a loss's problem; all are small in a try-out."""
        size = Size(classes, turns, batch=batch, device="cuda", **more)
        if self.is_try:
            return replace(size, classes=min(classes, 24), turns=2, batch=8, width=8)
        return size

    def chunk(self, chunk: int) -> int:
        """Return how many classes are taken at a time."""
        return 8 if self.is_try else chunk

    def kernels_of(self, step: Callable[[], object]) -> int:
        """Return the kernels that a call launches, those of a graph one by one.

        A try-out counts launches, in which a graph is one.
        """
        step()
        if self.is_try:
            launches = _pretended().launches
            before = launches.total()
            step()
            return launches.total() - before
        from torch.autograd import DeviceType
        from torch.profiler import ProfilerActivity, profile

        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            step()
            torch.cuda.synchronize()
        events = [e for e in profiler.events() or () if e.device_type == DeviceType.CUDA]
        return sum(not event.name.startswith("Mem") for event in events)

    @contextmanager
    def little_memory(self) -> Iterator[None]:
        """Let the device be full soon."""
        if not self.is_try:
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(0.001)
            try:
                yield
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)
            return

        def fill(name: str) -> None:
            if name == "convolution_backward":
                raise torch.OutOfMemoryError("CUDA out of memory.")

        device = _pretended()
        device.disturb = fill
        try:
            yield
        finally:
            device.disturb = lambda name: None


def _pretended() -> Any:
    from tests.pretend_objects import DEVICE

    return DEVICE[0]


@contextmanager
def device(way: Way) -> Iterator[None]:
    """Give the context in which a section runs: nothing but in a try-out."""
    if not way.is_try:
        yield
        return
    from tests.pretend_cuda import PretendCuda

    os.environ["LMSM_DATA_DIR"] = str(_made_up(way.out))
    os.environ["LMSM_CACHE_DIR"] = str(way.out / "cache")
    train_arms.INSTEAD.update(TINY)
    torch.set_num_threads(1)
    with PretendCuda() as cuda:
        cuda.allocated = cuda.peak = 1 << 30
        yield


def _made_up(out: Path) -> Path:
    """Return a data folder with a tiny CIFAR-10 of noise, which is written where it is not yet."""
    import numpy as np
    from PIL import Image

    root = out / "data"
    if root.exists():
        return root
    draw = np.random.default_rng(0)
    for part, number in (("train", IMAGES), ("test", 1)):
        for name in NAMES:
            folder = out / "data-new" / "cifar10" / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                pixels = draw.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (out / "data-new").rename(root)
    return root


NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
