"""Read single image files, of whatever kind, in the one form that a classifier takes."""

import os
import re
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lmsm_cli.data.deep_colours import check_decoder, has_deep_colours, lower_halves, span
from lmsm_cli.data.walk import FORMATS, endings, walk
from lmsm_cli.errors import (
    DataError,
    LmsmError,
    counted,
    few,
    first_line,
    os_errors_as_data_errors,
    visible,
)
from lmsm_cli.runtime.display import Display
from lmsm_cli.runtime.files import open_regular

# Decoding small files is bound by Python itself: more threads stop helping early.
DECODING_THREADS = min(4, os.cpu_count() or 1)

# White in 16 bits. What stays within 8 bits of them was not scaled, and would come out black.
_DEEPEST = 65535

# Levels up to here are of images of 15 bits or fewer, or of pictures in the dark: no file alone can
# tell.
_DARK = _DEEPEST >> 1

MEGAPIXELS = "LMSM_MAX_MEGAPIXELS"
"""Environment variable: the largest image that is read; Pillow's own limit is 179 megapixels."""

Resize = Literal["crop", "pad", "squash"]


class ImageFileError(DataError):
    """An image file that cannot be used; `reason` is why, as what follows the file's name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}; replace or remove it")
        self.reason = visible(reason)


class DeepLevels(NamedTuple):
    """The levels of some pictures of 16 bits: how many pictures, and the highest level of all.

    Of colours it is the highest that it can be: their last 8 bits are unknown.
    """

    number: int = 0
    highest: int = 0


class Picture(NamedTuple):
    """A decoded image at its full size, and of one of 16 bits the highest level that it had.

    Of colours it is the highest that it can have been.
    """

    image: Image.Image
    highest: int | None = None


def all_levels(parts: Iterable[DeepLevels]) -> DeepLevels:
    """Return the levels of the pictures of all parts."""
    found = list(parts)
    highest = max((part.highest for part in found), default=0)
    return DeepLevels(sum(part.number for part in found), highest)


def notes_on_levels(levels: DeepLevels) -> list[str]:
    """Return the fact and the way out where all pictures of 16 bits are dark; else nothing."""
    if not 0 < levels.highest <= _DARK:
        return []
    bits = levels.highest.bit_length()
    return [
        f"no level of {counted(levels.number, '16-bit image')} is above {levels.highest:,} of "
        f"{_DEEPEST:,}, so they are read as dark; if they are of {bits} bits, multiply their "
        f"levels by {1 << (16 - bits)} and save them again"
    ]


@dataclass
class Found:
    """Image files in their order, and in sentences what was left out beside them."""

    images: list[Path] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def find_images(paths: Iterable[Path], *, follow_links: bool = False) -> Found:
    """Return the files among the paths, whatever their names, and the images below the folders.

    A folder is walked as those of a training are (see walk.py). Raises DataError where a path does
    not exist, a folder cannot be listed or holds no image.
    """
    found = Found()
    for path in paths:
        with os_errors_as_data_errors(path):
            if not path.exists():
                raise DataError(f"there is no image or folder {path}")
            if not path.is_dir():
                found.images.append(path)
                continue
            tree = walk(path, follow_links=follow_links)
        if not tree.images:
            raise DataError(
                f"the folder {path} holds no images ({endings()}){tree.left_out.hint()}"
            )
        found.images += [path / name for name in tree.images]
        found.left_out += tree.left_out.words(path)
    return found


def read_image(
    path: Path,
    *,
    size: int,
    channels: int,
    resize: Resize = "crop",
    crop_from: int | None = None,
) -> NDArray[np.uint8]:
    """Return one image, (size, size, channels), with 1 (grey) or 3 (RGB) channels.

    `decode` and `fit` say how; with `crop_from` it is the middle of the image of that size. Raises
    ImageFileError that names the file.
    """
    with naming(path):
        pixels = fit(decode(read_content(path), channels).image, crop_from or size, resize)
    rows, columns = middle_of(pixels.shape[0], pixels.shape[1], size)
    return pixels[rows, columns]


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever an unreadable image makes Pillow raise into an ImageFileError.

    Too little memory is no fault of a file, and stays a MemoryError.
    """
    try:
        with _about(path):
            yield
    except UnidentifiedImageError:
        raise ImageFileError(path, "is not an image that can be read") from None
    except Image.DecompressionBombError as error:
        raise ImageFileError(path, _too_large(str(error))) from None
    except (LmsmError, MemoryError):
        raise
    except Exception as error:  # each decoder has errors of its own, and a plugin any class
        why = getattr(error, "strerror", None) or first_line(error)
        raise ImageFileError(path, f"cannot be read: {why}") from None


def _too_large(message: str) -> str:
    """Return why an image is refused that Pillow refuses for its size, and how to have it read."""
    num_pixels, limit = (int(digits) for digits in re.findall(r"\d+", message)[:2])
    return (
        f"has {num_pixels:,} pixels, and more than {limit:,} could be made to fill the memory: "
        f"{MEGAPIXELS}={-(-num_pixels // 10**6) + 1} in the environment has it read"
    )


def opened(content: bytes | IO[bytes]) -> Image.Image:
    """Return the image that bytes or an open file hold, not decoded yet. Raises what Pillow raises.

    Raises LmsmError where the limit in the environment is no number.
    """
    if limit := os.environ.get(MEGAPIXELS):
        # Pillow refuses twice as many, and warns of as many
        Image.MAX_IMAGE_PIXELS = max(1, int(_number(limit) * 1e6 / 2))
    file = BytesIO(content) if isinstance(content, bytes) else content
    return Image.open(file, formats=_known())


@cache
def _known() -> tuple[str, ...]:
    """Return the formats that this Pillow knows; older ones lack some, and take no unknown name."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise LmsmError(
            f"{MEGAPIXELS} is {text!r}: give the megapixels of the largest image to read, as 300"
        )
    return value


def read_content(path: Path) -> bytes:
    """Return the bytes of an image file. Raises OSError, or ImageFileError for an empty one."""
    with open_regular(path) as file:
        content = file.read()
    if not content:
        raise ImageFileError(path, "is not an image: it is empty")
    return content


def decode(content: bytes, channels: int) -> Picture:
    """Return an image at its full size, in 1 (grey) or 3 (RGB) channels.

    Turned as its EXIF data says, see-through parts over white, 16 bits scaled to 8, of an animation
    the first picture. Raises what `naming` turns, also for 8 bits in 16, for more than 16, and for
    what Pillow would read wrongly.
    """
    with opened(content) as file:
        check_decoder(file, content)
        is_deep = has_deep_colours(file)
        upright = ImageOps.exif_transpose(file)
        image, highest = _deep_colours(upright, content) if is_deep else _in_8_bits(upright)
        return Picture(_convert(image, "L" if channels == 1 else "RGB"), highest)


def fit(image: Image.Image, size: int, resize: Resize = "crop") -> NDArray[np.uint8]:
    """Return the pixels, (size, size, channels), resized bicubically where the size is another.

    `crop` resizes the shorter side and keeps the middle, `pad` the longer side with black on both
    sides of the other, `squash` each side.
    """
    if image.size != (size, size):
        image = _FITTED[resize](image, size)
    return np.asarray(image).reshape(size, size, -1)


def middle_of(height: int, width: int, side: int) -> tuple[slice, slice]:
    """Return the rows and columns of the middle square of an image, as torchvision's center_crop.

    >>> middle_of(8, 11, 8)
    (slice(0, 8, None), slice(2, 10, None))
    """
    top, left = round((height - side) / 2), round((width - side) / 2)
    return slice(top, top + side), slice(left, left + side)


def _cropped(image: Image.Image, size: int) -> Image.Image:
    return ImageOps.fit(image, (size, size), method=Image.Resampling.BICUBIC)


def _padded(image: Image.Image, size: int) -> Image.Image:
    width, height = (max(1, round(side * size / max(image.size))) for side in image.size)
    whole = Image.new(image.mode, (size, size))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    whole.paste(small, ((size - width) // 2, (size - height) // 2))
    return whole


def _squashed(image: Image.Image, size: int) -> Image.Image:
    return image.resize((size, size), Image.Resampling.BICUBIC)


_FITTED = {"crop": _cropped, "pad": _padded, "squash": _squashed}
_IN_WORDS = {
    "crop": "the shorter side resized (bicubic), the middle of the other kept",
    "pad": "the longer side resized (bicubic), black on both sides of the other",
    "squash": "each side resized by itself (bicubic)",
}


def preparation(resize: Resize, size: int, crop_from: int | None = None) -> str:
    """Return how an image file becomes a classifier's input, for programs that do it themselves."""
    words = (
        "turned as EXIF says, see-through parts over white, 16 bits scaled to 8; "
        f"{_IN_WORDS[resize]}, unless the size is right"
    )
    if crop_from in (None, size):
        return words
    return f"{words}: {crop_from} x {crop_from}, and of that the middle {size} x {size}"


def _in_8_bits(image: Image.Image) -> Picture:
    """Return an image of 16 bits scaled to 8, and its highest level; others as they are."""
    if not image.mode.startswith("I"):
        return Picture(image)
    deep = np.asarray(image).astype(np.int64)  # Pillow itself would clip 16 bits to 255
    return _scaled(deep, image.info.get("transparency"))


def _scaled(deep: NDArray[np.int64], clear: int | tuple[int, ...] | None) -> Picture:
    """Return levels of 16 bits, (H, W) or (H, W, 3), as 8 bits, and the highest that is seen.

    Pixels of the level or colour `clear` are see-through: they become white. Raises ValueError for
    levels of another range.
    """
    levels = deep.reshape(*deep.shape[:2], -1)
    unseen = np.zeros(deep.shape[:2], bool) if clear is None else (levels == clear).all(2)
    seen = levels[~unseen]
    lowest, highest = (int(seen.min()), int(seen.max())) if seen.size else (0, 0)
    _check_range(lowest, highest)
    pixels = (deep >> 8).astype(np.uint8)
    pixels[unseen] = 255
    return Picture(Image.fromarray(pixels), highest)


def _check_range(lowest: int, highest: int) -> None:
    if lowest < 0 or highest > _DEEPEST or 0 < highest <= _DEEPEST >> 8:
        raise ValueError(
            f"its pixels of more than 8 bits go from {lowest} to {highest}, "
            f"not to {_DEEPEST}: of unknown range"
        )


def _deep_colours(image: Image.Image, content: bytes) -> Picture:
    """Return a decoded image with deep colours, and the highest level that it can have had.

    Raises ValueError for levels of 8 bits in 16.
    """
    (_, top), clear = span(image), image.info.get("transparency")
    if top and clear is None:
        return Picture(image, None if image.mode == "CMYK" else top << 8 | 255)
    with opened(content) as file:
        found = lower_halves(file)
        lower = None if found is None else ImageOps.exif_transpose(found)
    if lower is None:
        return Picture(image, 255)
    if clear is not None:
        return _scaled(np.asarray(image).astype(np.int64) << 8 | np.asarray(lower), clear)
    _check_range(*span(lower))
    return Picture(image, 0)


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image.convert(mode)


# Python's warnings know no files, and are one for all threads: a thread says which file it is at.
_at = threading.local()
# Python's filters belong to the process: two hooks at once would restore each other's.
_one_at_a_time = threading.RLock()


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Attribute the warnings of this thread to a file."""
    before = getattr(_at, "path", None)
    _at.path = path
    try:
        yield
    finally:
        _at.path = before


@contextmanager
def pillow_warnings(display: Display, root: Path | None = None) -> Iterator[None]:
    """Show at the end, once for each kind, what Pillow warned of while it read files in any thread.

    Files below `root` are named from there on. Warnings about no file go their usual way.
    """
    heard: list[tuple[Path, type[Warning], str]] = []
    with _one_at_a_time, warnings.catch_warnings():
        shown = warnings.showwarning

        def hear(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            path = getattr(_at, "path", None)
            if path is None:
                shown(message, category, *rest, **more)
            else:
                heard.append((path, category, str(message)))

        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.filterwarnings("always", category=Image.DecompressionBombWarning)
        warnings.showwarning = hear
        try:
            yield
        finally:
            for text in _in_words(heard, root):
                display.warning(text)


def _in_words(heard: list[tuple[Path, type[Warning], str]], root: Path | None) -> list[str]:
    """Return a sentence for each kind of warning; numbers make no difference."""
    kinds: dict[tuple[type[Warning], str], tuple[str, set[str]]] = {}
    for path, category, message in heard:
        kind = (category, re.sub(r"\d+", "0", message))
        name = str(path.relative_to(root) if root and path.is_relative_to(root) else path)
        kinds.setdefault(kind, (message, set()))[1].add(name)
    return [
        f"{counted(len(names), 'image')}: {_meaning(category, message)}: {few(sorted(names))}"
        for (category, _), (message, names) in kinds.items()
    ]


def _meaning(category: type[Warning], message: str) -> str:
    if issubclass(category, Image.DecompressionBombWarning):
        megapixels = int(Image.MAX_IMAGE_PIXELS or 0) // 10**6
        return f"more than {megapixels} megapixels, which are decoded whole"
    return f"Pillow says '{' '.join(message.split()).rstrip('.')}'"
