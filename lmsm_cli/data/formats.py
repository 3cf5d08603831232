"""Which image files are read: by name, what Pillow decodes in its own process, up to a limit of pixels."""

import os
from functools import cache
from io import BytesIO

from PIL import Image

from lmsm_cli.errors import LmsmError

# What Pillow decodes in its own process: EPS would start Ghostscript, WMF and HDF5 are others' to
# decode. TGA has no mark of its own, so it is tried last.
FORMATS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "QOI": (".qoi",),
    "DIB": (".dib",),
    "PCX": (".pcx",),
    "DCX": (".dcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "PSD": (".psd",),
    "DDS": (".dds",),
    "ICO": (".ico",),
    "CUR": (".cur",),
    "ICNS": (".icns",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "FITS": (".fits", ".fit"),
    "FLI": (".fli", ".flc"),
    "FTEX": (".ftc", ".ftu"),
    "BLP": (".blp",),
    "GBR": (".gbr",),
    "MSP": (".msp",),
    "PIXAR": (".pxr",),
    "PCD": (".pcd",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
}
SUFFIXES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)

# Endings that stand for images alone; others' files have the rest too, such as .fit, .pcd and .rgb.
SURE_SUFFIXES = tuple(
    suffix
    for name in ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
    for suffix in FORMATS[name]
)

MEGAPIXELS = "LMSM_MAX_MEGAPIXELS"
"""Environment variable: the largest image that is read; Pillow's own limit is 179 megapixels."""


def opened(content: bytes) -> Image.Image:
    """Return the image that some bytes hold, not decoded yet. Raises what Pillow raises.

    Raises LmsmError where the limit in the environment is no number.
    """
    if limit := os.environ.get(MEGAPIXELS):
        # Pillow refuses twice as many, and warns of as many
        Image.MAX_IMAGE_PIXELS = max(1, int(_number(limit) * 1e6 / 2))
    return Image.open(BytesIO(content), formats=_known())


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
