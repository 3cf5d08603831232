"""What the headers of image files say without decoding: size, colour mode, format."""

from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from lmsm_cli.data.deep_colours import has_deep_colours
from lmsm_cli.data.image_files import (
    DECODING_THREADS,
    ImageFileError,
    naming,
    opened,
    pillow_warnings,
)
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.runtime.files import open_regular

_ORIENTATION = 0x0112  # the EXIF tag
_ON_THEIR_SIDE = (5, 6, 7, 8)  # its values for pictures that are turned by a quarter
_SHOWN_EVERY = 500  # files


class Header(NamedTuple):
    """The header of an image file; the sides are those of the picture as it is shown."""

    width: int
    height: int
    mode: str
    format: str


class Spread(NamedTuple):
    """The least, the middle and the greatest of some numbers of pixels."""

    least: int
    median: int
    greatest: int

    @classmethod
    def of(cls, numbers: Sequence[int]) -> Self:
        """Return the spread of at least one number."""
        return cls(min(numbers), round(float(np.median(numbers))), max(numbers))


@dataclass(frozen=True)
class Shapes:
    """The sizes and kinds of image files, counted."""

    width: Spread
    height: Spread
    shorter_side: Spread
    smaller: int
    """Images with a side that is shorter than the wanted size, which are enlarged."""
    not_square: int
    modes: dict[str, int]
    formats: dict[str, int]


def read_headers(root: Path, files: Sequence[str], display: Display = SILENT) -> list[Header]:
    """Return the headers of those files below `root` whose header can be read, in their order."""
    found: list[Header | None] = []
    with (
        pillow_warnings(SILENT, root),  # decoding tells them
        ThreadPoolExecutor(DECODING_THREADS) as threads,
    ):
        for header in threads.map(lambda file: _header(root / file), files):
            found.append(header)
            if len(found) % _SHOWN_EVERY == 0 or len(found) == len(files):
                display.progress(f"reading headers of {root}", len(found), len(files))
    return [header for header in found if header is not None]


def shapes_of(headers: Iterable[Header], size: int) -> Shapes | None:
    """Return the sizes and kinds of some images, None where there is none.

    Args:
        headers: of the image files.
        size: the pixels of a side that the images are brought to.
    """
    known = list(headers)
    if not known:
        return None
    shorter = [min(one.width, one.height) for one in known]
    return Shapes(
        Spread.of([one.width for one in known]),
        Spread.of([one.height for one in known]),
        Spread.of(shorter),
        sum(side < size for side in shorter),
        sum(one.width != one.height for one in known),
        dict(Counter(one.mode for one in known).most_common()),
        dict(Counter(one.format for one in known).most_common()),
    )


def _header(path: Path) -> Header | None:
    try:
        with naming(path), open_regular(path) as file, opened(file) as image:
            width, height = image.size
            if _is_on_its_side(image):
                width, height = height, width
            return Header(width, height, _mode(image), image.format or "")
    except ImageFileError:
        return None


def _mode(image: Image.Image) -> str:
    """Return the colour mode as it lies in the file, with `;16` where a level has 16 bits."""
    if has_deep_colours(image):
        return f"{image.mode};16"
    # An older Pillow calls a PNG of 16 bits by the mode that it decodes it to.
    return "I;16" if (image.format, image.mode) == ("PNG", "I") else image.mode


def _is_on_its_side(image: Any) -> bool:
    """Return whether EXIF says that the picture is to be turned by a quarter.

    Only where the header has EXIF: asking others for it would decode them. Pillow turns the sides
    of a TIFF itself.
    """
    if "exif" not in image.info or image.format == "TIFF":
        return False
    return image.getexif().get(_ORIENTATION) in _ON_THEIR_SIDE
