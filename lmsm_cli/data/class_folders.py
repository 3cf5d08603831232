"""Read a folder that holds one folder of images per class.

Class labels follow the alphabetical order of the folder names, images the sorted order of the file
names, so an index means the same image every time. Names with a leading dot are ignored. Images
are decoded once and then cached beside the data; the cache notices changed files.
"""

import hashlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lmsm_cli.data.fetch import Report, silent
from lmsm_cli.errors import DataError

Pixels = NDArray[np.uint8]  # (N, H, W, C)

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Named, so that a file with a harmless name is never handed to, say, PostScript.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")
_TEST_SHARE = 0.2  # where the folders come without train/ and test/
_CACHE_VERSION = b"1"
_CHUNK = 256  # images between two reports
# Decoding small files is bound by Python itself: more threads stop helping early.
_THREADS = min(4, os.cpu_count() or 1)

_UNREADABLE_IMAGE = (
    OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, EOFError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip
_UNREADABLE_CACHE = (
    OSError, ValueError, SyntaxError, TypeError, KeyError, EOFError, RuntimeError, MemoryError,
    OverflowError, struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip


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
    classes = tuple(os.fsencode(name).decode("utf-8", "backslashreplace") for name in names)
    return Listing(root, classes, tuple(files), tuple(labels), digest.hexdigest())


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


def read_images(listing: Listing, *, size: int, channels: int, report: Report = silent) -> Pixels:
    """Return the listed images, from the cache where it still fits, else decoded and then cached.

    A folder that cannot be written gets no cache, which `report` says once.
    """
    cache = cache_path(listing.root, size=size, channels=channels)
    shape = (len(listing.files), size, size, channels)
    images = _read_cache(cache, listing.fingerprint, shape)
    if images is None:
        images = _decode(listing, shape, report)
        try:
            _write_cache(cache, listing.fingerprint, images)
        except OSError as error:
            report(f"no cache of decoded images: cannot write {cache}: {error.strerror}", 0, 0)
    return images


def cache_path(root: Path, *, size: int, channels: int) -> Path:
    """Return where decoded images are kept: beside a train/ or test/, else inside the folder."""
    shape = f"{size}x{size}x{channels}.npz"
    if root.name in ("train", "test"):
        return root.parent / f".lmsm-{root.name}-{shape}"
    return root / f".lmsm-images-{shape}"


def read_image(path: Path, *, size: int, channels: int) -> Pixels:
    """Return one image, (size, size, channels), with 1 (grey) or 3 (RGB) channels.

    Turned as its EXIF data says, see-through parts over white, 16 bits scaled to 8; the shorter
    side is resized (bicubic) and the middle kept, unless the image already has the right size.
    Raises DataError that names the file.
    """
    try:
        with Image.open(path, formats=_FORMATS) as file:
            image = _convert(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")
        if image.size != (size, size):
            image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
        return np.asarray(image).reshape(size, size, channels)
    except UnidentifiedImageError:
        raise DataError(f"{path} is not an image that can be read; replace or remove it") from None
    except _UNREADABLE_IMAGE as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the image {path}: {why}; replace or remove it") from None


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in mode L or RGB."""
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to 255 instead of scaling them
        deep = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


def _decode(listing: Listing, shape: tuple[int, ...], report: Report) -> Pixels:
    """Return the listed images, decoded by a few threads (Pillow works without the GIL)."""
    images = np.empty(shape, np.uint8)
    count, size, _, channels = shape

    def fill(start: int) -> int:
        stop = min(start + _CHUNK, count)
        for index in range(start, stop):
            path = listing.root / listing.files[index]
            images[index] = read_image(path, size=size, channels=channels)
        return stop

    with ThreadPoolExecutor(_THREADS) as threads:
        for done in threads.map(fill, range(0, count, _CHUNK)):
            report(f"decoding {listing.root}", done, count)
    return images


def _read_cache(cache: Path, fingerprint: str, shape: tuple[int, ...]) -> Pixels | None:
    """Return the cached images; None where there are none, or old, or damaged ones."""
    try:
        # opened here: np.load leaves a damaged file open
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            if str(stored["fingerprint"]) != fingerprint:
                return None
            images: Pixels = stored["images"]
    except _UNREADABLE_CACHE:
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write_cache(cache: Path, fingerprint: str, images: Pixels) -> None:
    """Write the cache under another name first: a reader never sees half of it."""
    part = cache.with_name(f"{cache.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez(file, fingerprint=np.array(fingerprint), images=images)
        part.replace(cache)
    finally:
        part.unlink(missing_ok=True)


def _folder_names(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and e.is_dir())


def _image_entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        shown = [e for e in entries if not e.name.startswith(".")]
    images = [e for e in shown if e.name.lower().endswith(SUFFIXES) and not e.is_dir()]
    return sorted(images, key=lambda entry: entry.name)
