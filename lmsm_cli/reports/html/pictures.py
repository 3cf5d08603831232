"""Pictures of run folders, made small enough to stand inside the report page."""

import base64
import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from lmsm_cli.errors import MALFORMED, first_line
from lmsm_cli.runtime.files import open_regular

if TYPE_CHECKING:
    from PIL import Image

# What the pictures of a page may take together; base64 adds a third.
_BUDGET = 600_000
_FEW = 6
_SIDES = (800, 560, 400, 280, 200)
_SIDES_OF_MANY = _SIDES[2:]


def embedded(path: Path, num_pictures: int) -> str | None:
    """Return a picture as a data URI, scaled to be one of so many; None where there is none.

    Raises ValueError for a file that is no picture.
    """
    if not path.is_file():
        return None
    from PIL import Image

    picture = b""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # of the other formats that Pillow knows, some start programs
            with open_regular(path) as file, Image.open(file, formats=("PNG",)) as image:
                pixels = image.convert("RGB")
        for side in _SIDES if num_pictures <= _FEW else _SIDES_OF_MANY:
            picture = _scaled(pixels, side)
            if len(picture) * num_pictures <= _BUDGET:
                break
    except (*MALFORMED, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is no picture that can be read: {first_line(error)}") from None
    return "data:image/webp;base64," + base64.b64encode(picture).decode("ascii")


def _scaled(pixels: "Image.Image", side: int) -> bytes:
    """Return a picture as WebP, its longer side at most so many pixels."""
    small, encoded = pixels.copy(), io.BytesIO()
    small.thumbnail((side, side))
    small.save(encoded, "WEBP", quality=75)
    return encoded.getvalue()
