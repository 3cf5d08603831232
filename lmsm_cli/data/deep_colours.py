"""Colour images of 16 bits, of which Pillow keeps the upper half of each level: what it leaves out.

Grey images of 16 bits come from Pillow whole; image_files.py scales them. For colours Pillow has no
mode of 16 bits: their upper halves tell a range but for 1/255, and where that is too little a file
is decoded once more for the lower halves.
"""

import sys
from typing import Any

from PIL import Image

# A level is of two bytes; read in the other order, the lower one stands in the place of the upper.
_OTHER_ORDER = {";16B": ";16L", ";16L": ";16B"}
_OTHER_ORDER[";16N"] = ";16B" if sys.byteorder == "little" else ";16L"  # N: as this machine has it

# Pillow has no other order of these: their four bytes become four bands.
_GREY_WITH_ALPHA = "LA;16B"
_BITS, _PLANES = 258, 284  # tags of a TIFF; _PLANES is 2 where each colour is a plane by itself
_CODESTREAM = b"\xff\x4f\xff\x51"  # how that of JPEG 2000 begins
_NUM_COMPONENTS, _DEPTHS = 40, 42  # where it has them, counted from there; a depth each 3 bytes


def check_decoder(image: Any, content: bytes) -> None:
    """Raise ValueError for an image, not decoded yet, whose deep colours Pillow reads wrongly.

    It rounds those of JPEG 2000 without a limit, so that white becomes black, and takes the bytes
    of planes of 16 bits in an uncompressed TIFF for levels. `content` is the file.
    """
    if image.mode.startswith(("I", "F")):
        return
    if image.format == "JPEG2000" and (bits := _depth(content)) > 8:
        raise ValueError(
            f"colours of {bits} bits in JPEG 2000, of which Pillow reads white as black: save it "
            "as PNG or TIFF"
        )
    if image.format == "TIFF" and 16 in image.tag_v2.get(_BITS, ()) and not has_deep_colours(image):
        raise ValueError(
            "colours of 16 bits in uncompressed planes, which Pillow misreads: save it as PNG, or "
            "with the colours of each pixel together"
        )


def _depth(content: bytes) -> int:
    """Return the most bits of a level of a JPEG 2000 file, 0 where it does not tell."""
    start = content.find(_CODESTREAM)
    number = int.from_bytes(content[start + _NUM_COMPONENTS : start + _DEPTHS])
    depths = content[start + _DEPTHS : start + _DEPTHS + 3 * number : 3]
    return max(((depth & 0x7F) + 1 for depth in depths), default=0) if start >= 0 else 0


def has_deep_colours(image: Any) -> bool:
    """Return whether an image that is not decoded yet has 16 bits a level, and a mode of 8 bits.

    Told of PNG, TIFF and SGI; colours of other formats are scaled by what their headers say.
    """
    if image.mode.startswith(("I", "F")):
        return False
    tiles = image.tile or []  # none where a format finds its picture later
    return any(tile[0] == "SGI16" or ";16" in _raw_mode(tile) for tile in tiles[:1])


def span(image: Image.Image) -> tuple[int, int]:
    """Return the lowest and the highest of the 8-bit levels of an image.

    The highest is at most that of the alpha channel: what is see-through is not seen, and alpha
    that was not scaled hides a picture.
    """
    found: Any = image.getextrema()
    bands = image.getbands()
    of = dict(zip(bands, found if len(bands) > 1 else (found,), strict=True))
    colours = [extrema for band, extrema in of.items() if band not in "AX"]
    highest = max(high for _, high in colours)
    return min(low for low, _ in colours), min(highest, of.get("A", (0, highest))[1])


def lower_halves(image: Any) -> Image.Image | None:
    """Return the lower 8 bits of each level as an image of the same bands.

    None where Pillow gives them in no way.

    Args:
        image: one with deep colours, not decoded yet; it can be used no more.
    """
    raw = _raw_mode(image.tile[0])
    if raw == _GREY_WITH_ALPHA:
        image.tile = [_with_raw_mode(tile, "RGBA") for tile in image.tile]
        _, grey, _, alpha = image.split()
        return Image.merge("RGBA", (grey, grey, grey, alpha))
    other = _OTHER_ORDER.get(raw[-4:])
    has_planes = image.format == "TIFF" and image.tag_v2.get(_PLANES) == 2
    if other is None or has_planes:
        return None
    image.tile = [_with_raw_mode(tile, raw[:-4] + other) for tile in image.tile]
    image.load()
    lower: Image.Image = image
    return lower


def _raw_mode(tile: Any) -> str:
    """Return how the samples of a tile lie in the file, as `RGB;16B`; empty where it says nothing.

    A tile is (decoder, place, offset, arguments), and the arguments are this or begin with it.
    """
    first = tile[3] if isinstance(tile[3], str) else next(iter(tile[3] or ()), "")
    return first if isinstance(first, str) else ""


def _with_raw_mode(tile: Any, raw: str) -> Any:
    arguments = raw if isinstance(tile[3], str) else (raw, *tile[3][1:])
    # A named tuple only in a newer Pillow
    return tile._replace(args=arguments) if hasattr(tile, "_replace") else (*tile[:3], arguments)
