"""Find, fetch and read the published files of CIFAR, MNIST, Fashion-MNIST and SVHN.

The layout, the addresses and the checksums are torchvision's. Nothing is unpickled before its
checksum fits. torchvision is imported only when one of these data sets is asked for. To add a data
set that torchvision knows, add a final subclass, or an entry of PUBLISHED where one fits.
"""

import math
import struct
import warnings
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.data.downloads import download, is_intact, locked, unpack
from lmsm_cli.errors import DataError, writing
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.runtime.files import check_own_folder

Split = Literal["train", "test"]

_DIGITS = tuple(str(digit) for digit in range(10))


class Content(NamedTuple):
    """Images (N, H, W, C), labels (N,) and class names, as read."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


class Published(ABC):
    """The files of one data set as torchvision lays them out."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def torchvision(self) -> Any:
        """The class of torchvision that knows the files."""
        from torchvision import datasets

        return getattr(datasets, self.name)

    def roots(self, data_dir: Path, dataset: str) -> list[Path]:
        """Return where the layout may start; the first is where a download goes.

        `data_dir` itself, a folder of the data set's name below it, or a folder above it where
        `data_dir` already is a part of the layout.
        """
        parts = self.home().parts
        above = [
            full.parents[depth - 1]
            for full in (data_dir.resolve(), data_dir.absolute())  # a link may have either name
            for depth in range(len(parts), 0, -1)
            if full.parts[-depth:] == parts[:depth]
        ]
        return [*above, data_dir, data_dir / dataset]

    def is_complete(self, root: Path) -> bool:
        """Return whether all files are there, intact or not."""
        return all(path.is_file() for path in self.files(root))

    @abstractmethod
    def home(self) -> Path:
        """Return the folder of the files, relative to the root."""

    @abstractmethod
    def files(self, root: Path) -> list[Path]:
        """Return every file that must be there."""

    def fetch(self, root: Path, *, display: Display = SILENT) -> None:
        """Download and unpack what is missing below the root; of several processes, one does it."""
        for depth in range(len(self.home().parts)):
            folder = root.joinpath(*self.home().parts[: depth + 1])
            with writing(folder):
                check_own_folder(folder)
        with ExitStack() as stack:
            with writing(root):
                root.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(root / self.name, display))
            missing = [path for path in self.files(root) if not path.is_file()]
            if 0 < len(missing) < len(self.files(root)):
                display.info(f"{missing[0]} is missing")
            if missing:
                self.bring(root, display)

    @abstractmethod
    def bring(self, root: Path, display: Display) -> None:
        """Download and unpack what is missing; no other process does so meanwhile."""

    @abstractmethod
    def read(self, root: Path, split: Split) -> Content:
        """Return the images of a split. Raises DataError that names a damaged file."""


class Cifar(Published):
    """CIFAR-10 and CIFAR-100: batches of images, pickled."""

    def home(self) -> Path:
        """Return the folder of the batches."""
        return Path(self.torchvision.base_folder)

    def files(self, root: Path) -> list[Path]:
        """Return the batches and the file of the class names."""
        return list(self._checksums(root))

    def bring(self, root: Path, display: Display) -> None:
        """Download the archive, unless it is there, and unpack it."""
        source = self.torchvision
        archive = root / source.filename
        download(source.url, archive, md5=source.tgz_md5, display=display)
        unpack(archive, root)

    def read(self, root: Path, split: Split) -> Content:
        """Return a split; every file's checksum is verified before any is unpickled."""
        for path, md5 in self._checksums(root).items():
            _check_md5(path, md5)
        with warnings.catch_warnings():
            # NumPy 2.4.0 to 2.4.4 warn of how these pickles of 2009 write a dtype (numpy#31177)
            warnings.filterwarnings("ignore", message=r"dtype\(\): align")
            data = self.torchvision(str(root), train=split == "train", download=False)
        labels = np.asarray(data.targets, dtype=np.int64)
        return Content(np.ascontiguousarray(data.data), labels, tuple(data.classes))

    def _checksums(self, root: Path) -> dict[Path, str]:
        source = self.torchvision
        table = [*source.train_list, *source.test_list]
        table.append((source.meta["filename"], source.meta["md5"]))
        return {root / source.base_folder / name: md5 for name, md5 in table}


class Mnist(Published):
    """MNIST and Fashion-MNIST: idx files."""

    def home(self) -> Path:
        """Return the folder of the unpacked files."""
        return Path(self.name, "raw")

    def files(self, root: Path) -> list[Path]:
        """Return the four unpacked files."""
        return [path.with_suffix("") for path, _ in self._archives(root)]

    def bring(self, root: Path, display: Display) -> None:
        """Download, unless it is there, and unpack each file that is missing."""
        for archive, md5 in self._archives(root):
            if not archive.with_suffix("").is_file():
                mirrors = [mirror + archive.name for mirror in self.torchvision.mirrors]
                download(mirrors, archive, md5=md5, display=display)
                unpack(archive, archive.parent)

    def read(self, root: Path, split: Split) -> Content:
        """Return a split; the sizes in the files' headers must be the sizes of the files."""
        prefix = "train" if split == "train" else "t10k"
        folder = root / self.home()
        labels_path = folder / f"{prefix}-labels-idx1-ubyte"
        images = _read_idx(folder / f"{prefix}-images-idx3-ubyte", num_dimensions=3)
        labels = _read_idx(labels_path, num_dimensions=1)
        if len(images) != len(labels) or labels.max(initial=0) >= len(_DIGITS):
            raise DataError(
                f"{labels_path} does not fit the images beside it; delete both, and start again"
            )
        names = _DIGITS if self.name == "MNIST" else tuple(self.torchvision.classes)
        return Content(images[..., None], labels.astype(np.int64), names)

    def _archives(self, root: Path) -> list[tuple[Path, str]]:
        return [(root / self.home() / name, md5) for name, md5 in self.torchvision.resources]


class Svhn(Published):
    """SVHN: one MATLAB file a split."""

    def home(self) -> Path:
        """Return the root itself."""
        return Path()

    def files(self, root: Path) -> list[Path]:
        """Return the files of the two splits."""
        return [root / self.torchvision.split_list[split][1] for split in ("train", "test")]

    def bring(self, root: Path, display: Display) -> None:
        """Download each file that is missing."""
        for split in ("train", "test"):
            url, name, md5 = self.torchvision.split_list[split]
            if not (root / name).is_file():
                download(url, root / name, md5=md5, display=display)

    def read(self, root: Path, split: Split) -> Content:
        """Return a split, its file's checksum verified; the digit 0 has label 0."""
        _, name, md5 = self.torchvision.split_list[split]
        _check_md5(root / name, md5)
        data = self.torchvision(str(root), split=split, download=False)
        images = np.ascontiguousarray(data.data.transpose(0, 2, 3, 1))
        return Content(images, np.atleast_1d(data.labels).astype(np.int64), _DIGITS)


PUBLISHED: dict[str, Published] = {
    "cifar10": Cifar("CIFAR10"),
    "cifar100": Cifar("CIFAR100"),
    "mnist": Mnist("MNIST"),
    "fashion-mnist": Mnist("FashionMNIST"),
    "svhn": Svhn("SVHN"),
}


def _check_md5(path: Path, md5: str) -> None:
    if not is_intact(path, md5):
        raise DataError(f"{path} is damaged (its md5 is not {md5}); delete it, and start again")


def _read_idx(path: Path, *, num_dimensions: int) -> NDArray[np.uint8]:
    """Return the array of an idx file of bytes. Raises DataError where it is cut or is none."""
    content = np.fromfile(path, np.uint8)
    start = 4 + 4 * num_dimensions
    if len(content) < start or content[:4].tolist() != [0, 0, 8, num_dimensions]:
        raise DataError(f"{path} is not an idx file of this kind; delete it, and start again")
    shape = struct.unpack(f">{num_dimensions}I", content[4:start].tobytes())
    expected = start + math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{path} is damaged: {len(content):,} bytes instead of {expected:,}; "
            "delete it, and start again"
        )
    return content[start:].reshape(shape)
