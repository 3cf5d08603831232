"""One entry of the cache: the pixels of a folder's images as .npy, and what is known of the files.

The pixels get their name when they are whole and on the disk, the sidecar after them; it alone
decides which pixels count, so a process that is killed at any moment leaves no wrong entry.
"""

import json
import mmap
import os
import secrets
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from math import prod
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field

from lmsm_cli.data.cache import hold, is_in_use, open_own
from lmsm_cli.data.decoded import Images, LevelSums, MappedImages, Pixels
from lmsm_cli.data.identity import DIGEST_BYTES, Digests
from lmsm_cli.runtime.files import created, replacing

Take = Callable[[Pixels], None]
"""Takes the next images."""


class Facts(NamedTuple):
    """What decoding N files found out."""

    digests: Digests  # (N, 16): of the files' bytes
    pictures: Digests  # (N, 16): of the pixels at full size
    sums: LevelSums
    unreadable: Sequence[int]
    """The rows of files that are no images; their pixels are black, and stand for nothing."""
    since_ns: int
    """When the first file was read."""


class Kept(NamedTuple):
    """The images of all N files, unreadable ones too, and the facts."""

    images: Images
    facts: Facts


class _Sidecar(BaseModel):
    """The JSON document beside the pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    fingerprint: str
    number: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]  # of the file of the pixels
    crc32: int
    since_ns: int
    digests: str
    pictures: str
    sums: str
    unreadable: list[int]


@dataclass(frozen=True)
class CacheEntry:
    """The entry with this key in a folder, for images (N, H, W, C) of what `fingerprint` stands for."""

    folder: Path
    key: str
    fingerprint: str
    shape: tuple[int, int, int, int]

    @property
    def num_bytes(self) -> int:
        """Bytes that the pixels take."""
        return len(self._header()) + prod(self.shape)

    @property
    def room(self) -> int:
        """Bytes that the entry takes, about."""
        return self.num_bytes + 1000 + 200 * self.shape[0]

    @property
    def path(self) -> Path:
        """The path that the entry is locked by."""
        return self.folder / self.key

    def read(self, *, mapped: bool) -> Kept | None:
        """Return what is kept, in memory or mapped; None where nothing fits, or it is damaged.

        In memory the pixels' checksum is verified. Mapped they are of the right number, and were on
        the disk before they got their name; to verify tens of GB would read them at each start.
        """
        with suppress(OSError, ValueError), open_own(self._sidecar) as file:
            sidecar = _Sidecar.model_validate_json(file.read((1 << 20) + 300 * self.shape[0]))
            facts = self._facts(sidecar)
            images = self._images(sidecar, mapped=mapped)
            if facts is not None and images is not None:
                with suppress(OSError):  # a cache that can only be read
                    _touch(file.fileno(), self._sidecar)
                return Kept(images, facts)
        return None

    def write(self, fill: Callable[[Take], Facts]) -> Facts:
        """Keep the images that `fill` hands over, in order; return the facts that it returns.

        The lock must be held. Raises OSError where the disk does not take them.
        """
        number, checksum = secrets.token_hex(8), 0
        part = self._pixels(number).with_suffix(".part")

        def take(images: Pixels) -> None:
            nonlocal checksum
            file.write(images.data)
            checksum = zlib.crc32(images.data, checksum)

        try:
            with created(part) as file:
                file.write(self._header())
                facts = fill(take)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._pixels(number))
        finally:
            part.unlink(missing_ok=True)
        sidecar = _Sidecar(
            fingerprint=self.fingerprint,
            number=number,
            crc32=checksum,
            since_ns=facts.since_ns,
            digests=facts.digests.tobytes().hex(),
            pictures=facts.pictures.tobytes().hex(),
            sums=facts.sums.astype("<i8").tobytes().hex(),
            unreadable=list(facts.unreadable),
        )
        with replacing(self._sidecar) as document:
            document.write(json.dumps(sidecar.model_dump()).encode())
        return facts

    def discard(self) -> None:
        """Delete what is left of this entry's past, but pixels in use; the lock must be held."""
        for path in self.folder.glob(f"{self.key}[.-]*"):
            if path.suffix != ".lock" and not is_in_use(path):
                path.unlink()

    @property
    def _sidecar(self) -> Path:
        return self.folder / f"{self.key}.json"

    def _pixels(self, number: str) -> Path:
        return self.folder / f"{self.key}-{number}.npy"

    def _header(self) -> bytes:
        """Return what stands before the pixels in an .npy file."""
        header = BytesIO()
        form = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, form)
        return header.getvalue()

    def _facts(self, sidecar: _Sidecar) -> Facts | None:
        """Return what the sidecar tells; None where it is of other files. May raise ValueError."""
        count = self.shape[0]
        digests, pictures = _digests(sidecar.digests), _digests(sidecar.pictures)
        sums = np.frombuffer(bytes.fromhex(sidecar.sums), "<i8").reshape(-1, 2, self.shape[3])
        rows_are_right = all(0 <= row < count for row in sidecar.unreadable)
        fits = sidecar.fingerprint == self.fingerprint and rows_are_right
        if not fits or {len(digests), len(pictures), len(sums)} != {count}:
            return None
        return Facts(digests, pictures, sums, sidecar.unreadable, sidecar.since_ns)

    def _images(self, sidecar: _Sidecar, *, mapped: bool) -> Images | None:
        """Return the pixels; None where the file is cut or damaged. May raise OSError."""
        header = self._header()
        with open_own(self._pixels(sidecar.number)) as file:
            hold(file)
            whole = os.fstat(file.fileno()).st_size == self.num_bytes
            if not whole or file.read(len(header)) != header:
                return None
            if mapped:
                # The map has a descriptor of its own, which holds the file as long as it lives.
                memory = mmap.mmap(file.fileno(), self.num_bytes, access=mmap.ACCESS_READ)
                pixels = np.frombuffer(memory, np.uint8, offset=len(header))
                return MappedImages(memory, pixels.reshape(self.shape))
            images = np.empty(self.shape, np.uint8)
            read = file.readinto(images.data)
            intact = read == images.nbytes and zlib.crc32(images.data) == sidecar.crc32
            return torch.from_numpy(images) if intact else None


def _digests(text: str) -> Digests:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, DIGEST_BYTES)


def _touch(descriptor: int, path: Path) -> None:
    """Note that the entry was used just now: what was not for longest goes first."""
    os.utime(descriptor if os.utime in os.supports_fd else path)
