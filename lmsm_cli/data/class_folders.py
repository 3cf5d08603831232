"""Read a folder that holds one folder of images per class.

Class labels follow the alphabetical order of the folder names, images the sorted order of the file
names, so an index means the same image every time. Names with a leading dot are ignored;
control characters in a name are spelled out, since class names go to terminals and logs. Images
are decoded once, into a file beside the data that notices changed files; what is small is then read
into memory, what is large stays in the file.
"""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from platformdirs import user_cache_path
from torch import Tensor

from lmsm_cli.data.decoded import DecodedFile, Images, MappedImages, Pixels
from lmsm_cli.data.fetch import locked
from lmsm_cli.data.image_files import DECODING_THREADS, SUFFIXES, read_image
from lmsm_cli.display import SILENT, Display
from lmsm_cli.errors import DataError, DiskError, visible

# Decoded sets up to this size are held in memory, and on the device: seven times CIFAR-10.
IN_MEMORY_BYTES = 1 << 30

_TEST_SHARE = 0.2  # where the folders come without train/ and test/
_CACHE_VERSION = b"2"
# Decoded at once by a thread, then written and synced: little enough to lose, enough for the disk.
_CHUNK_BYTES = 1 << 23

_Read = TypeVar("_Read", Tensor, MappedImages)


@dataclass(frozen=True)
class Listing:
    """The image files below a folder of class folders, without their contents."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]  # relative to root
    labels: tuple[int, ...]
    fingerprint: str  # changes whenever a file is changed, added or removed


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Turn an OSError into a DataError that names the file."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or root}: {error.strerror or error}"
        ) from None


def has_folders(path: Path) -> bool:
    """Return whether there is such a folder and it holds folders that are not hidden."""
    return path.is_dir() and bool(_folder_names(path))


def list_class_folders(root: Path) -> Listing:
    """Return the images below each class folder of `root`.

    Raises DataError where there is no class folder, or one without images; OSError where a
    folder cannot be listed (see `reading`).
    """
    wanted = f"expected {root / '<class>' / '*.jpg'} (or {', '.join(SUFFIXES[1:])})"
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; {wanted}")
    names = _folder_names(root)
    if not names:
        raise DataError(f"{root} holds no class folders; {wanted}")
    files: list[str] = []
    labels: list[int] = []
    digest = hashlib.sha256(_CACHE_VERSION)
    for label, name in enumerate(names):
        entries = _image_entries(root / name)
        if not entries:
            raise DataError(f"the class folder {root / name} holds no images; {wanted}")
        for entry in entries:
            file, stat = f"{name}/{entry.name}", entry.stat()
            digest.update(os.fsencode(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
            files.append(file)
        labels += [label] * len(entries)
    return Listing(
        root, tuple(map(_class_name, names)), tuple(files), tuple(labels), digest.hexdigest()
    )


def split_by_class(listing: Listing) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the training and test indices of a fixed split that is the same share of each class.

    Raises DataError where a class has no two images to share out.
    """
    draws = np.random.RandomState(0)  # its stream is frozen for good, default_rng's is not
    labels = np.array(listing.labels)
    is_test = np.zeros(len(labels), dtype=bool)
    for label, name in enumerate(listing.classes):
        own = np.flatnonzero(labels == label)
        if len(own) < 2:
            raise DataError(
                f"the class folder {listing.root / name} holds 1 image; training and test need "
                "one each: add images, or make train/ and test/"
            )
        is_test[draws.permutation(own)[: max(1, round(_TEST_SHARE * len(own)))]] = True
    return np.flatnonzero(~is_test), np.flatnonzero(is_test)


def read_images(listing: Listing, *, size: int, channels: int, display: Display = SILENT) -> Images:
    """Return the listed images, from the file of decoded ones where it still fits, else decoded.

    More than IN_MEMORY_BYTES stay in that file. Where none can be made beside the data, `display` is
    warned once and the images are only held in memory, or, if they are too large, kept in the user's
    cache folder. Raises DataError for an image, DiskError where a large set finds no room.
    """
    shape = (len(listing.files), size, size, channels)
    file = DecodedFile(cache_path(listing.root, size=size, channels=channels), listing.fingerprint, shape)  # fmt: skip
    if len(listing.files) * size * size * channels > IN_MEMORY_BYTES:
        return _mapped(listing, file, display)
    try:
        return _read_or_make(listing, file, file.read, display)
    except OSError as error:
        why = f"cannot write {file.path}: {error.strerror}"
    except DiskError as error:
        why = str(error)
        with suppress(OSError):
            file.part.unlink()
    display.warn(f"no cache of decoded images: {why}")
    return torch.from_numpy(np.concatenate(list(_decoded(listing, shape, 0, display))))


def cache_path(root: Path, *, size: int, channels: int) -> Path:
    """Return where decoded images are kept: beside a train/ or test/, else inside the folder."""
    shape = f"{size}x{size}x{channels}.pixels"
    if root.name in ("train", "test"):
        return root.parent / f".lmsm-{root.name}-{shape}"
    return root / f".lmsm-images-{shape}"


def _mapped(listing: Listing, beside: DecodedFile, display: Display) -> MappedImages:
    """Return the images mapped from beside the data, or else from the user's cache folder."""
    problems = []
    for file in (beside, _elsewhere(listing, beside)):
        try:
            if file is not beside:
                file.path.parent.mkdir(parents=True, exist_ok=True)
            return _read_or_make(listing, file, file.map, display)
        except OSError as error:
            problems.append(f"{file.path}: {error.strerror or error}")
    raise DiskError(
        f"the decoded images of {listing.root} take {beside.num_bytes:,} bytes and can be kept nowhere "
        f"({'; '.join(problems)}); make one of these folders writable"
    )


def _elsewhere(listing: Listing, beside: DecodedFile) -> DecodedFile:
    """Return the file of decoded images in the user's cache folder, one for each data folder."""
    key = hashlib.sha256(os.fsencode(listing.root.resolve())).hexdigest()[:16]
    name = beside.path.name.replace(".lmsm", key)
    path = user_cache_path("lmsm") / "decoded" / name
    return DecodedFile(path, beside.fingerprint, beside.shape)


def _read_or_make(listing: Listing, file: DecodedFile, read: Callable[[], _Read | None], display: Display) -> _Read:  # fmt: skip
    """Return what `read` makes of the file, decoding into it first unless it is there."""
    images = read()
    if images is None:
        with locked(file.path, display):
            images = read()  # another process may have made it while this one waited
            if images is None:
                file.make(lambda start: _decoded(listing, file.shape, start, display))
                images = read()
    if images is None:
        raise OSError(errno.EIO, "it reads back otherwise than it was written", str(file.path))
    return images


def _decoded(listing: Listing, shape: tuple[int, int, int, int], start: int, display: Display) -> Iterator[Pixels]:  # fmt: skip
    """Yield the listed images from the `start`th on, chunk after chunk.

    They are decoded by a few threads (Pillow works without the GIL), which are never more than a
    few chunks ahead. A chunk is reported when the next one is asked for.
    """
    count, size, _, channels = shape
    step = max(1, _CHUNK_BYTES // (size * size * channels))

    def decode(first: int) -> Pixels:
        paths = [listing.root / name for name in listing.files[first : first + step]]
        return np.stack([read_image(path, size=size, channels=channels) for path in paths])

    with ThreadPoolExecutor(DECODING_THREADS) as threads:
        starts = iter(range(start, count, step))
        ahead: deque[Future[Pixels]] = deque()
        for done in range(start, count, step):
            while len(ahead) <= DECODING_THREADS and (first := next(starts, None)) is not None:
                ahead.append(threads.submit(decode, first))
            yield ahead.popleft().result()
            display.report(f"decoding {listing.root}", min(done + step, count), count)


def _class_name(folder: str) -> str:
    r"""Return a folder's name as it can be shown anywhere: control characters are spelled, as \x1b."""
    return visible(os.fsencode(folder).decode("utf-8", "backslashreplace"))


def _folder_names(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def _image_entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        shown = [e for e in entries if not e.name.startswith(".")]
    images = [e for e in shown if e.name.lower().endswith(SUFFIXES) and not e.is_dir()]
    return sorted(images, key=lambda entry: entry.name)
