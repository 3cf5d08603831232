"""What tests share: a quiet display, tiny data sets on disk, and the real ones where they are."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

torch.set_num_threads(1)  # test processes run side by side, and small nets gain nothing from two

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # fmt: skip


# Renamed in the environment, so that no test but those on real data sees it; worker processes do.
if "LMSM_DATA_DIR" in os.environ:
    os.environ["LMSM_REAL_DATA"] = os.environ.pop("LMSM_DATA_DIR")


@pytest.fixture
def real_data() -> Path:
    """The folder of the unpacked real data sets; skips where it is not given."""
    if "LMSM_REAL_DATA" not in os.environ:
        pytest.skip("LMSM_DATA_DIR is not set")
    return Path(os.environ["LMSM_REAL_DATA"])


def write_class_folders(root: Path, classes, per_class: int, *, size: int = 32, seed: int = 0) -> None:  # fmt: skip
    """Write `per_class` PNGs a class whose brightness tells the class, so that they can be learned."""
    generator = np.random.default_rng(seed)
    for label, name in enumerate(classes):
        folder = root / name
        folder.mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.normal(20 + 210 * label / len(classes), 12, (size, size, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i:04}.png")


@pytest.fixture(scope="session")
def tiny_cifar(tmp_path_factory) -> Path:
    """A data folder with a CIFAR-10 of 12 training and 3 test images a class, as class folders."""
    root = tmp_path_factory.mktemp("data")
    write_class_folders(root / "cifar10" / "train", CIFAR10_CLASSES, 12)
    write_class_folders(root / "cifar10" / "test", CIFAR10_CLASSES, 3, seed=1)
    return root


class SilentDisplay:
    """A Display that shows nothing and keeps what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def report(self, what, done, total):
        """Show nothing."""

    def say(self, text):
        """Keep a message."""
        self.said.append(text)

    def warn(self, text):
        """Keep a warning."""
        self.warned.append(text)

    def step(self, step):
        """Show nothing."""

    def epoch(self, epoch, num_epochs):
        """Show nothing."""
