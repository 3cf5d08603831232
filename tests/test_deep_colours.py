"""What deep_colours.py promises of colours of 16 bits, in files written by hand."""

import base64
import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.data.deep_colours import check_decoder
from lmsm_cli.data.headers import Header, read_headers
from lmsm_cli.data.image_files import ImageFileError, decode, read_image
from tests.conftest import noise

WHITE = 65_535


def png(levels: np.ndarray, **chunks: bytes) -> bytes:
    """Return a PNG of 16-bit levels, (H, W) or (H, W, 2 to 4), with these chunks more."""
    height, width = levels.shape[:2]
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[levels.reshape(height, width, -1).shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    parts = {
        "IHDR": struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0),
        **chunks,
        "IDAT": zlib.compress(rows),
        "IEND": b"",
    }
    whole = [(name.encode() + content, len(content)) for name, content in parts.items()]
    chunked = [struct.pack(">I", n) + one + struct.pack(">I", zlib.crc32(one)) for one, n in whole]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunked)


def tiff(
    levels: np.ndarray, order: str = "<", *, deflated=False, planes=False, alpha=None
) -> bytes:
    """Return a TIFF of 16-bit levels, (H, W, 3 or 4), with the meaning of its fourth samples."""
    height, width, bands = levels.shape
    parts = np.moveaxis(levels, 2, 0) if planes else levels[None]
    data = [part.astype(f"{order}u2").tobytes() for part in parts]
    data = [zlib.compress(part) for part in data] if deflated else data
    tags = {
        256: (width,),
        257: (height,),
        258: (16,) * bands,
        259: (8 if deflated else 1,),
        262: (2,),
        273: tuple(8 + sum(map(len, data[:place])) for place in range(len(data))),
        277: (bands,),
        278: (height,),
        279: tuple(map(len, data)),
        284: (2 if planes else 1,),
        **({} if alpha is None else {338: (alpha,)}),
    }
    start = 8 + sum(map(len, data))
    entries, values, place = b"", b"", start + 2 + 12 * len(tags) + 4
    for tag, numbers in tags.items():
        value = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(value) > 4:
            values += value
            value, place = struct.pack(f"{order}I", place), place + len(value)
        entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + value
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", start)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return head + b"".join(data) + directory + values


def sgi(levels: np.ndarray) -> bytes:
    """Return an uncompressed SGI image of 16-bit levels, (H, W, bands)."""
    height, width, bands = levels.shape
    sides = (3 if bands > 1 else 2, width, height, bands)
    head = struct.pack(">hBBHHHHII", 474, 0, 2, *sides, 0, WHITE).ljust(512, b"\0")
    return head + np.moveaxis(levels[::-1], 2, 0).astype(">u2").tobytes()


def with_alpha(levels: np.ndarray, alpha: int = WHITE) -> np.ndarray:
    """Return levels (H, W, bands) with a band more, of this level."""
    return np.dstack([levels, np.full(levels.shape[:2], alpha)])


FILES = {
    "png": png,
    "png with alpha": lambda levels: png(with_alpha(levels)),
    "grey png with alpha": lambda levels: png(with_alpha(levels[..., :1])),
    "tiff": tiff,
    "tiff of the other order": lambda levels: tiff(levels, ">"),
    "deflated tiff": lambda levels: tiff(levels, deflated=True),
    "deflated tiff of the other order": lambda levels: tiff(levels, ">", deflated=True),
    "tiff with alpha": lambda levels: tiff(with_alpha(levels), alpha=2),
    "tiff with a fourth sample": lambda levels: tiff(with_alpha(levels, 7), alpha=0),
    "deflated tiff of planes": lambda levels: tiff(levels, deflated=True, planes=True),
    "sgi": sgi,
    "grey sgi": lambda levels: sgi(levels[..., :1]),
}
WHOLE = [name for name in FILES if "planes" not in name and "sgi" not in name]


def pictures(highest: int) -> np.ndarray:
    """Return levels (6, 7, 3) from 1 to the highest, both of which each colour has."""
    levels = np.random.default_rng(highest).integers(1, highest + 1, (6, 7, 3))
    levels[2, 3], levels[4, 5] = highest, 1
    return levels


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("bits", [9, 12, 15, 16])
def test_colours_keep_their_upper_half_and_tell_their_range(file, bits):
    """The pixels are levels // 256, and the highest level is known but for the lower half."""
    levels = pictures(2**bits - 1)
    image, highest = decode(FILES[file](levels), 3)
    expected = np.dstack([levels[..., 0]] * 3) if "grey" in file else levels
    assert np.array_equal(np.asarray(image), expected // 256)
    assert highest == 2**bits - 1


@pytest.mark.parametrize("file", FILES)
def test_eight_bits_in_sixteen_are_refused_or_told_as_black(file):
    """They would come out black; of planes and SGI the lower half is not to be had."""
    content = FILES[file](pictures(200))
    if file not in WHOLE:
        assert decode(content, 3).highest == 255
        return
    with pytest.raises(ValueError, match="more than 8 bits go from 1 to 200, not to 65535"):
        decode(content, 3)


@pytest.mark.parametrize("file", WHOLE)
def test_a_black_picture_is_black(file):
    """Where the lower half is black too there is nothing to scale."""
    image, highest = decode(FILES[file](np.zeros((6, 7, 3), int)), 3)
    assert (np.asarray(image) == 0).all()
    assert highest == 0


def test_alpha_that_was_not_scaled_is_told_as_well():
    """Alpha of 12 bits lets white shine through nearly all of a picture, whatever its colours."""
    levels = pictures(WHITE)
    assert decode(png(with_alpha(levels, 4095)), 3).highest == 4095
    with pytest.raises(ValueError, match="of unknown range"):
        decode(png(with_alpha(levels, 255)), 3)
    assert (np.asarray(decode(png(with_alpha(levels, 0)), 3).image) == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_see_through_grey_of_sixteen_bits_is_white(channels):
    """Pixels of the level that tRNS names, and no others of the same upper half."""
    levels = np.array([[0x1234, 0x1235, 0x12FF], [0x2000, 0x1234, 0x7FFF]])
    image, highest = decode(png(levels, tRNS=struct.pack(">H", 0x1234)), channels)
    expected = np.array([[255, 0x12, 0x12], [0x20, 255, 0x7F]])
    assert np.array_equal(
        np.asarray(image), expected if channels == 1 else np.dstack([expected] * 3)
    )
    assert highest == 0x7FFF


def test_see_through_colours_of_sixteen_bits_are_white_in_a_turned_picture_too():
    """All three levels must be those of tRNS; EXIF turns the picture by a quarter."""
    levels = np.full((2, 3, 3), (0x1234, 0x5678, 0x7ABC))
    levels[0, 1, 2] += 1
    levels[1, 0, 0] -= 0x100
    exif = Image.Exif()
    exif[0x0112] = 6  # the left column is the top row, from below
    key = struct.pack(">3H", 0x1234, 0x5678, 0x7ABC)
    image, highest = decode(png(levels, tRNS=key, eXIf=exif.tobytes()[6:]), 3)
    expected = np.full((2, 3, 3), 255)
    expected[0, 1], expected[1, 0] = (0x12, 0x56, 0x7A), (0x11, 0x56, 0x7A)
    assert np.array_equal(np.asarray(image), np.rot90(expected, -1))
    assert highest == 0x7ABD


@pytest.mark.parametrize("bands", [1, 3])
def test_what_is_see_through_tells_no_range(bands):
    """White of 16 bits around pictures of 12 bits, which is never seen."""
    levels = pictures(4095)
    levels[0] = WHITE
    key = struct.pack(f">{bands}H", *[WHITE] * bands)
    assert decode(png(levels if bands == 3 else levels[..., 0], tRNS=key), 3).highest == 4095
    image, highest = decode(png(np.full((2, 2), WHITE), tRNS=struct.pack(">H", WHITE)), 3)
    assert (np.asarray(image) == 255).all()
    assert highest == 0


# By imagecodecs (OpenJPEG), 2 x 2 pixels of 12 bits: a row of 4,095, which is white, and one of 0.
JPEG_2000 = (
    b"|4;u>051Rl000020000200000000000000200002000000000000RpF0Sf^E3jqQDQUDA90003200aa80smY81VCW_WB?"
    b"@q0Yh?SVRU6=AYyqSPjF>!N>D{dAa-SPb7^mGATlmBE;Rp;015yA0000R00IA#-{2q&2g5oNfB*-8fdAP"
)


@pytest.mark.parametrize("around", [b"", b"boxes before the codestream"])
def test_deep_colours_of_jpeg_2000_are_refused(tmp_path, around):
    """Pillow would read their white as black. Those of 8 bits and grey of 16 it reads rightly."""
    content = base64.b85decode(JPEG_2000)
    image = Image.open(BytesIO(content))
    assert np.asarray(image).max() == 0  # once this fails the refusal can go
    with pytest.raises(ValueError, match=r"colours of 12 bits in JPEG 2000, .* white as black"):
        check_decoder(Image.open(BytesIO(content)), around + content)
    with pytest.raises(ValueError, match="save it as PNG or TIFF"):
        decode(content, 3)
    deep = np.full((8, 8), 0x8012, np.uint16)
    for picture, expected in ((noise(0), noise(0)), (deep, np.full((8, 8, 3), 0x80))):
        path = tmp_path / "x.j2k"
        Image.fromarray(picture).save(path, irreversible=False)
        assert np.array_equal(read_image(path, size=8, channels=3), expected)


@pytest.mark.parametrize("order", ["<", ">"])
def test_uncompressed_planes_of_sixteen_bits_are_refused(order):
    """Pillow would take upper and lower halves for pixels of their own."""
    content = tiff(pictures(WHITE), order, planes=True)
    with pytest.raises(ValueError, match="uncompressed planes, which Pillow misreads: save it"):
        decode(content, 3)


def test_a_file_is_refused_by_its_name(tmp_path):
    """As every other image file that cannot be used."""
    (tmp_path / "x.png").write_bytes(png(pictures(255)))
    with pytest.raises(ImageFileError, match=r"x\.png cannot be read: its pixels of more than 8 b"):
        read_image(tmp_path / "x.png", size=8, channels=3)


def test_headers_tell_the_depth_of_colours(tmp_path):
    """In the list of colour modes they are no plain RGB; Pillow has no mode of LA in 16 bits."""
    for name, form in FILES.items():
        (tmp_path / name).write_bytes(form(pictures(WHITE)))
    Image.new("RGB", (7, 6)).save(plain := BytesIO(), "TIFF")
    (tmp_path / "plain").write_bytes(plain.getvalue())
    (found,) = read_headers(tmp_path, ["plain"])
    assert found == Header(7, 6, "RGB", "TIFF")
    modes = {name: read_headers(tmp_path, [name])[0].mode for name in FILES}
    fourth = modes.pop("tiff with a fourth sample")
    assert fourth in ("RGB;16", "RGBX;16")  # by the version of Pillow
    assert modes == {
        name: "L;16" if name == "grey sgi" else "RGBA;16" if "alpha" in name else "RGB;16"
        for name in modes
    }
