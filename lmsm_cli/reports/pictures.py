"""Pictures of run folders, made small enough to stand inside the report page."""

import base64
import io
import warnings
from pathlib import Path

from lmsm_cli.errors import MALFORMED

# All pictures of a page together stay well below 1 MB: some 25 KB each at the smallest side.
_LARGE_SIDE, _SMALL_SIDE, _FEW = 800, 440, 6


def embedded(path: Path, num_pictures: int) -> str | None:
    """Return a picture as a data URI, scaled to be one of so many; None where there is none.

    Raises ValueError for a file that is no picture.
    """
    if not path.is_file():
        return None
    from PIL import Image

    side = _LARGE_SIDE if num_pictures <= _FEW else _SMALL_SIDE
    encoded = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                small = image.convert("RGB")
        small.thumbnail((side, side))
        small.save(encoded, "WEBP", quality=70)
    except (*MALFORMED, Image.DecompressionBombError, Warning) as error:
        raise ValueError(f"{path} is no picture that can be read: {error}") from None
    return "data:image/webp;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
