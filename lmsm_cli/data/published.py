"""Find, download and read the published files of CIFAR, MNIST, Fashion-MNIST and SVHN.

The layout, the addresses and the checksums are torchvision's, the downloads pooch's; both are
imported only when they are needed. A file gets its name when it is whole and its checksum fits, and
nothing is unpickled before. To add a data set that torchvision knows, add a final subclass, or an
entry of PUBLISHED where one fits.
"""

import gzip
import hashlib
import shutil
import tarfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lmsm_cli.data.class_names import CLASS_NAMES
from lmsm_cli.errors import DataError, writing
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.runtime.files import check_own_folder, locked, open_regular, own_folders

Split = Literal["train", "test"]

_TIMEOUT = 30  # seconds without a byte
_PAUSES = (0, 2)  # seconds before each round over the mirrors


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
        """Download what is missing below the root; of several processes, one does it.

        Raises DataError where no mirror gives a file, DiskError where one cannot be written.
        """
        home = root / self.home()
        for folder in (home, *home.parents):
            if folder.is_relative_to(root) and folder != root:
                with writing(folder):
                    check_own_folder(folder)
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            with locked(root / self.name, display), _scratch(root / f".{self.name}") as scratch:
                missing = [path for path in self.files(root) if not path.is_file()]
                if 0 < len(missing) < len(self.files(root)):
                    display.info(f"{missing[0]} is missing")
                if missing:
                    self.download_missing(missing, root, scratch, display)

    @abstractmethod
    def download_missing(
        self, missing: list[Path], root: Path, scratch: Path, display: Display
    ) -> None:
        """Download and unpack what is missing, by way of an empty scratch folder."""

    @abstractmethod
    def read(self, root: Path, split: Split) -> Content:
        """Return the images of a split. Raises DataError that names a damaged file."""


class _Cifar(Published):
    """CIFAR-10 and CIFAR-100: batches of images, pickled."""

    def home(self) -> Path:
        return Path(self.torchvision.base_folder)

    def files(self, root: Path) -> list[Path]:
        return list(self._checksums(root))

    def download_missing(
        self, missing: list[Path], root: Path, scratch: Path, display: Display
    ) -> None:
        source = self.torchvision
        archive = root / source.filename
        download([source.url], archive, source.tgz_md5, scratch=scratch, display=display)
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        except tarfile.TarError as error:
            raise DataError(f"{archive} cannot be unpacked: {error}") from None
        own_folders(root, self.home())
        for path in missing:
            (scratch / path.relative_to(root)).replace(path)

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


class _Mnist(Published):
    """MNIST and Fashion-MNIST: idx files."""

    def home(self) -> Path:
        return Path(self.name, "raw")

    def files(self, root: Path) -> list[Path]:
        return [path.with_suffix("") for path, _ in self._archives(root)]

    def download_missing(
        self, missing: list[Path], root: Path, scratch: Path, display: Display
    ) -> None:
        own_folders(root, self.home())
        for archive, md5 in self._archives(root):
            path = archive.with_suffix("")
            if path in missing:
                mirrors = [mirror + archive.name for mirror in self.torchvision.mirrors]
                download(mirrors, archive, md5, scratch=scratch, display=display)
                with gzip.open(archive) as packed, (scratch / path.name).open("wb") as file:
                    shutil.copyfileobj(packed, file)
                (scratch / path.name).replace(path)

    def read(self, root: Path, split: Split) -> Content:
        """Return a split; the sizes in the files' headers must be the sizes of the files."""
        from torchvision.datasets import mnist

        folder, prefix = root / self.home(), "train" if split == "train" else "t10k"
        labels_path = folder / f"{prefix}-labels-idx1-ubyte"
        images = _read_idx(mnist.read_image_file, folder / f"{prefix}-images-idx3-ubyte")
        labels = _read_idx(mnist.read_label_file, labels_path)
        if len(images) != len(labels) or labels.max(initial=0) >= len(CLASS_NAMES["mnist"]):
            raise DataError(
                f"{labels_path} does not fit the images beside it; delete both, and start again"
            )
        names = CLASS_NAMES["mnist" if self.name == "MNIST" else "fashion-mnist"]
        return Content(images[..., None], labels, names)

    def _archives(self, root: Path) -> list[tuple[Path, str]]:
        return [(root / self.home() / name, md5) for name, md5 in self.torchvision.resources]


class _Svhn(Published):
    """SVHN: one MATLAB file a split."""

    def home(self) -> Path:
        return Path()

    def files(self, root: Path) -> list[Path]:
        return [root / self.torchvision.split_list[split][1] for split in ("train", "test")]

    def download_missing(
        self, missing: list[Path], root: Path, scratch: Path, display: Display
    ) -> None:
        for url, name, md5 in self.torchvision.split_list.values():
            if root / name in missing:
                download([url], root / name, md5, scratch=scratch, display=display)

    def read(self, root: Path, split: Split) -> Content:
        """Return a split, its file's checksum verified; the digit 0 has label 0."""
        _, name, md5 = self.torchvision.split_list[split]
        _check_md5(root / name, md5)
        data = self.torchvision(str(root), split=split, download=False)
        images = np.ascontiguousarray(data.data.transpose(0, 2, 3, 1))
        return Content(images, np.atleast_1d(data.labels).astype(np.int64), CLASS_NAMES["svhn"])


PUBLISHED: dict[str, Published] = {
    "cifar10": _Cifar("CIFAR10"),
    "cifar100": _Cifar("CIFAR100"),
    "mnist": _Mnist("MNIST"),
    "fashion-mnist": _Mnist("FashionMNIST"),
    "svhn": _Svhn("SVHN"),
}


def is_intact(path: Path, md5: str) -> bool:
    """Return whether the file is there and has this MD5."""
    if not path.is_file():
        return False
    with open_regular(path) as file:
        # not for security: it is what the data sets publish
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() == md5


def download(
    mirrors: Sequence[str], path: Path, md5: str, *, scratch: Path, display: Display = SILENT
) -> None:
    """Bring a file from the first mirror that gives it, unless it is there and intact.

    Args:
        mirrors: addresses of the file, tried in turn, and once more after a pause.
        path: the file's final name, which it gets when it is whole and verified.
        md5: the file's checksum in hexadecimal.
        scratch: an existing folder on the same disk, which receives the file.
        display: is shown the progress.

    Raises:
        DataError: no mirror gives the file; it says what to put where by hand.
        DiskError: the file cannot be written.
    """
    import pooch  # it takes 0.1 s
    from requests import RequestException

    with writing(path):
        if is_intact(path, md5):
            return
        pooch.get_logger().setLevel("WARNING")  # else it tells each download on stderr
        progress = _Progress(display, f"downloading {path.name}")
        getter = pooch.HTTPDownloader(
            progressbar=progress,
            chunk_size=1 << 18,
            timeout=_TIMEOUT,
            headers={"User-Agent": "lmsm", "Accept-Encoding": "identity"},  # .gz stays packed
        )
        problems = {}
        for pause in _PAUSES:
            time.sleep(pause)
            for url in mirrors:
                progress.reset()
                try:
                    pooch.retrieve(url, f"md5:{md5}", path.name, scratch, downloader=getter)
                except (RequestException, ValueError) as error:
                    problems[url] = _reason(error)
                else:
                    (scratch / path.name).replace(path)
                    return
    tried = "; ".join(f"{url}: {problem}" for url, problem in problems.items())
    raise DataError(
        f"{path.name} could not be downloaded ({tried}); get it by hand from {mirrors[0]} and save "
        f"it as {path} (md5 {md5}), or take --dataset digits, which needs no download"
    )


class _Progress:
    """The progress bar of a download as pooch calls it."""

    def __init__(self, display: Display, what: str) -> None:
        self.total, self._done = 0, 0  # bytes; a total of 0 is unknown
        self._display, self._what = display, what

    def update(self, num_bytes: int) -> None:
        self._done += num_bytes
        done = min(self._done, self.total or self._done)  # the last chunk is counted as whole
        self._display.progress(self._what, done, self.total)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        self._done = 0


def _reason(error: Exception) -> str:
    """Return in short why a download failed: requests wraps the cause twice."""
    if type(error) is ValueError:  # pooch's
        return "what came is not the right file: its md5 is another"
    cause = error.args[0] if error.args else error
    return str(getattr(cause, "reason", cause)).partition(" for url")[0]


@contextmanager
def _scratch(path: Path) -> Iterator[Path]:
    """Make an empty folder, removed at the end; what a killed process left there goes first."""
    if path.is_symlink():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _check_md5(path: Path, md5: str) -> None:
    if not is_intact(path, md5):
        raise DataError(f"{path} is damaged (its md5 is not {md5}); delete it, and start again")


def _read_idx(read: Callable[[str], Tensor], path: Path) -> NDArray[Any]:
    """Return the array of an idx file. Raises DataError where it is cut or is none."""
    try:
        array: NDArray[Any] = read(str(path)).numpy()
    except (AssertionError, LookupError, RuntimeError, TypeError, ValueError):
        raise DataError(
            f"{path} is damaged, or no idx file of this kind; delete it, and start again"
        ) from None
    return array
