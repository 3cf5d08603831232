"""Decode the files of a listing, a few at once: pixels, and digests of what was read.

Each file is read once, so that the digests are of the very bytes that were decoded.
"""

import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lmsm_cli.data.cache_entry import Facts, Take
from lmsm_cli.data.class_folders import Listing
from lmsm_cli.data.decoded import LevelSums, Pixels, level_sums
from lmsm_cli.data.identity import DIGEST_BYTES, as_digests, digest
from lmsm_cli.data.image_files import (
    DECODING_THREADS,
    ImageFileError,
    Resize,
    decode,
    fit,
    naming,
    read_content,
)
from lmsm_cli.runtime.display import Display

# Decoded at once by a thread, then handed over.
_CHUNK_BYTES = 1 << 23
_BAND_BYTES = 1 << 20


class Decoded(NamedTuple):
    """What is read of one image file."""

    pixels: NDArray[np.uint8]  # (H, W, C)
    content: bytes  # digest of the file's bytes
    picture: bytes  # digest of the pixels at full size


class _Chunk(NamedTuple):
    """The images of some files in a row."""

    pixels: Pixels
    contents: list[bytes]
    pictures: list[bytes]
    unreadable: list[int]
    sums: LevelSums


@dataclass(frozen=True)
class Decoder:
    """The files of a listing, and the form in which they are wanted."""

    listing: Listing
    size: int
    channels: int
    resize: Resize

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape (N, H, W, C) of the images of all files."""
        return (len(self.listing.files), self.size, self.size, self.channels)

    def path(self, row: int) -> Path:
        """Return the path of a file."""
        return self.listing.root / self.listing.files[row]

    def one(self, row: int) -> Decoded:
        """Read a file. Raises ImageFileError that names it."""
        path = self.path(row)
        with naming(path):
            content = read_content(path)
            image = decode(content, self.channels)
            return Decoded(
                fit(image, self.size, self.resize), digest(content), _picture_digest(image)
            )

    def content(self, row: int) -> bytes | None:
        """Return the digest of a file's bytes; None where it cannot be read."""
        try:
            return digest(read_content(self.path(row)))
        except (OSError, ImageFileError):
            return None

    def all(self, take: Take, display: Display) -> Facts:
        """Decode all files, handing over chunk after chunk."""
        since = time.time_ns()
        contents: list[bytes] = []
        pictures: list[bytes] = []
        sums: list[LevelSums] = []
        unreadable: list[int] = []
        for chunk in self._chunks():
            take(chunk.pixels)
            contents += chunk.contents
            pictures += chunk.pictures
            sums.append(chunk.sums)
            unreadable += chunk.unreadable
            display.progress(f"decoding {self.listing.root}", len(contents), self.shape[0])
        return Facts(
            as_digests(contents), as_digests(pictures), np.concatenate(sums), unreadable, since
        )

    def _chunks(self) -> Iterator[_Chunk]:
        """Yield the images chunk after chunk.

        They are decoded by a few threads (Pillow works without the GIL), which are never more than a
        few chunks ahead.
        """
        count = self.shape[0]
        step = max(1, _CHUNK_BYTES // prod(self.shape[1:]))
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            starts = iter(range(0, count, step))
            ahead: deque[Future[_Chunk]] = deque()
            for _ in range(0, count, step):
                while len(ahead) <= DECODING_THREADS and (first := next(starts, None)) is not None:
                    ahead.append(
                        threads.submit(self._chunk, range(first, min(first + step, count)))
                    )
                yield ahead.popleft().result()

    def _chunk(self, rows: range) -> _Chunk:
        images = np.zeros((len(rows), *self.shape[1:]), np.uint8)
        contents: list[bytes] = []
        pictures: list[bytes] = []
        unreadable: list[int] = []
        for place, row in enumerate(rows):
            try:
                images[place], content, picture = self.one(row)
            except ImageFileError:
                content = picture = bytes(DIGEST_BYTES)
                unreadable.append(row)
            contents.append(content)
            pictures.append(picture)
        return _Chunk(images, contents, pictures, unreadable, level_sums(images))


def _picture_digest(image: Image.Image) -> bytes:
    """Return a digest of an image's pixels at full size, which serves only to find the same picture.

    It is made of two checksums of all pixels: blake2b of them would take half as long as decoding.
    """
    checksum = folded = 0
    rows = max(1, _BAND_BYTES // (image.width * len(image.getbands())))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        whole = bottom - top == image.height
        band = (image if whole else image.crop((0, top, image.width, bottom))).tobytes()
        checksum = zlib.crc32(band, checksum)
        folded ^= int(np.bitwise_xor.reduce(np.frombuffer(band, "<u8", len(band) // 8)))
    return digest(struct.pack("<IIIQ", image.width, image.height, checksum, folded))
