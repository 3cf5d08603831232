"""Read single image files, of whatever kind, in the one form that a classifier takes."""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lmsm_cli.errors import DataError, visible
from lmsm_cli.regular import open_regular

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
# Decoding small files is bound by Python itself: more threads stop helping early.
DECODING_THREADS = min(4, os.cpu_count() or 1)

# White in 16 bits. What stays within 8 bits of them was not scaled, and would come out black.
_DEEPEST = 65535

# Named, so that a file with a harmless name is never handed to, say, PostScript.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP")

_UNREADABLE_IMAGE = (
    OSError, ValueError, SyntaxError, TypeError, IndexError, KeyError, EOFError, OverflowError,
    struct.error, zlib.error, Image.DecompressionBombError,
)  # fmt: skip


class ImageFileError(DataError):
    """An image file that cannot be used; `reason` is why, as what follows the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}; replace or remove it")
        self.reason = visible(reason)


class Found(NamedTuple):
    """Image files, and the files beside them that are not named so."""

    images: list[Path]
    left_out: list[Path]


def find_images(paths: Iterable[Path]) -> Found:
    """Return the files among the paths, whatever their names, and the images below the folders.

    Those of a folder come in sorted order, its folders included; files without an image's suffix
    are left out, names with a leading dot not even told. Raises DataError where a path does not
    exist, a folder cannot be listed or holds no image.
    """
    found = Found([], [])
    for path in paths:
        try:
            if not path.exists():
                raise DataError(f"there is no image or folder {path}")
            files = sorted(_files_below(path, set())) if path.is_dir() else []
        except OSError as error:
            raise DataError(f"cannot read {error.filename or path}: {error.strerror or error}") from None  # fmt: skip
        images = [file for file in files if file.name.lower().endswith(SUFFIXES)]
        if path.is_dir() and not images:
            raise DataError(f"the folder {path} holds no images ({', '.join(SUFFIXES)})")
        found.images.extend(images if path.is_dir() else [path])
        found.left_out.extend(sorted(set(files) - set(images)))
    return found


def _files_below(folder: Path, above: set[Path]) -> Iterator[Path]:
    """Yield the files in and below a folder; `above` are the folders that a link could lead back to."""
    within = above | {folder.resolve()}
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    for entry in shown:
        path = folder / entry.name
        if not entry.is_dir():
            yield path
        elif path.resolve() not in within:
            yield from _files_below(path, within)


def read_image(path: Path, *, size: int, channels: int, smallest: int = 1) -> NDArray[np.uint8]:
    """Return one image, (size, size, channels), with 1 (grey) or 3 (RGB) channels.

    Decoded as by `decode`, then brought to its size as by `fit`. Raises ImageFileError that names the
    file, also where a side has less than `smallest` pixels.
    """
    with naming(path):
        image = decode(read_content(path), channels)
        if min(image.size) < smallest:
            raise ValueError(f"its {image.width} x {image.height} pixels show nothing")
        return fit(image, size)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever an unreadable image makes Pillow raise into an ImageFileError."""
    try:
        yield
    except UnidentifiedImageError:
        raise ImageFileError(path, "is not an image that can be read") from None
    except _UNREADABLE_IMAGE as error:
        why = getattr(error, "strerror", None) or error
        raise ImageFileError(path, f"cannot be read: {why}") from None


def read_content(path: Path) -> bytes:
    """Return the bytes of an image file. Raises OSError, or ImageFileError for an empty one."""
    with open_regular(path) as file:
        content = file.read()
    if not content:
        raise ImageFileError(path, "is not an image: it is empty")
    return content


def decode(content: bytes, channels: int) -> Image.Image:
    """Return an image at its full size, in 1 (grey) or 3 (RGB) channels.

    Turned as its EXIF data says, see-through parts over white, 16 bits scaled to 8, of an animation
    the first picture. Raises what `naming` turns, also where deeper pixels than 8 bits don't span 16.
    """
    with Image.open(BytesIO(content), formats=_FORMATS) as file:
        return _convert(ImageOps.exif_transpose(file), "L" if channels == 1 else "RGB")


def fit(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Return the pixels, (size, size, channels): the shorter side resized (bicubic), the middle kept."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(image).reshape(size, size, -1)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Return the image in mode L or RGB."""
    if image.mode.startswith("I"):  # Pillow would clip 16 bits to 255 instead of scaling them
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > _DEEPEST or 0 < deep.max() <= _DEEPEST >> 8:
            raise ValueError(f"its pixels of more than 8 bits go from {deep.min()} to {deep.max()}, not to {_DEEPEST}: of unknown range")  # fmt: skip
        image = Image.fromarray((deep >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)
