"""Keep decoded images in one file, which is written chunk after chunk and read whole or mapped.

The file is a header of one page (JSON, padded with zeros), then the pixels, uint8 (N, H, W, C). It
grows under the name `<name>.part`; its header tells how many images are done and their checksum, so
a killed decoding goes on where it stopped. Only a whole file bears the final name.
"""

import errno
import json
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsm_cli.errors import DiskError

Pixels = NDArray[np.uint8]  # (N, H, W, C)

_PAGE = 4096  # bytes before the pixels, so that they start on a page
_FORMAT = 1
# Bytes copied before the mapped pages are given back. For an image of 150 KB, Linux was seen to map
# 1.7 MB around it: a whole batch of 128 held 220 MB.
_GATHERED = 1 << 22
_BLOCK = 1 << 24  # bytes between two looks at the checksum of a file that is gone on with


@dataclass(frozen=True, eq=False)
class MappedImages:
    """Images (N, H, W, C) that stay in their file, where a uint8 tensor would not fit in memory.

    Indexed as a tensor, with a slice, a number or an index tensor on the host, they give a tensor
    in memory. They have no `to`: a batch is moved, never the whole.
    """

    _memory: mmap.mmap
    _pixels: Pixels  # all images of the file, backed by _memory
    _rows: Tensor  # int64 (N,): the places of these images in the file

    @property
    def shape(self) -> torch.Size:
        """The shape (N, H, W, C)."""
        return torch.Size((len(self._rows), *self._pixels.shape[1:]))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def __getitem__(self, index: Tensor | slice | int) -> Tensor:
        """Return the images at the index, copied into memory."""
        rows = self._rows[index].numpy()
        images = np.empty((*rows.shape, *self.shape[1:]), np.uint8)
        places, copies = rows.reshape(-1), images.reshape(-1, *self.shape[1:])
        step = max(1, _GATHERED // self._pixels[0].nbytes)
        for start in range(0, len(places), step):
            copies[start : start + step] = self._pixels[places[start : start + step]]
            # Mapped pages count as this process's memory until they are given back. They stay in
            # the kernel's page cache as long as there is room, so the disk is not read again.
            if hasattr(mmap, "MADV_DONTNEED"):
                self._memory.madvise(mmap.MADV_DONTNEED)
        return torch.from_numpy(images)

    def select(self, index: Tensor) -> "MappedImages":
        """Return the images at the index (M,), in its order, without reading any."""
        return replace(self, _rows=self._rows[index])


Images = Tensor | MappedImages  # uint8 (N, H, W, C)


def select(images: Images, index: Tensor) -> Images:
    """Return the images at the index (M,), in its order: copied if they are in memory."""
    return images.select(index) if isinstance(images, MappedImages) else images[index]


def placed(images: Images, device: torch.device) -> Images:
    """Return the images on the device, or as they are if they stay in their file."""
    return images if isinstance(images, MappedImages) else images.to(device)


@dataclass(frozen=True)
class DecodedFile:
    """The file that keeps decoded images (N, H, W, C) of what `fingerprint` stands for."""

    path: Path
    fingerprint: str
    shape: tuple[int, int, int, int]

    @property
    def num_bytes(self) -> int:
        """Size of the whole file."""
        return self._end(self.shape[0])

    @property
    def part(self) -> Path:
        """The file's name before it is whole."""
        return self.path.with_name(f"{self.path.name}.part")

    def read(self) -> Tensor | None:
        """Return all images in memory; None where the file is missing, another's, or damaged."""
        with suppress(OSError), self.path.open("rb") as file:
            found = self._look_into(file)
            if found is None or found[0] != self.shape[0]:
                return None
            images = np.empty(self.shape, np.uint8)
            if file.readinto(images.data) == images.nbytes and zlib.crc32(images.data) == found[1]:
                return torch.from_numpy(images)
        return None

    def map(self) -> MappedImages | None:
        """Return the images without reading them; None where the file is missing or another's.

        Its length is checked and its checksum is not: that would read, at each start, tens of GB
        that were on disk before the file got its name.
        """
        with suppress(OSError), self.path.open("rb") as file:
            found = self._look_into(file)
            if found is None or found[0] != self.shape[0]:
                return None
            memory = mmap.mmap(file.fileno(), self.num_bytes, access=mmap.ACCESS_READ)
            pixels = np.frombuffer(memory, np.uint8, offset=_PAGE).reshape(self.shape)
            return MappedImages(memory, pixels, torch.arange(self.shape[0]))
        return None

    def make(self, chunks_from: Callable[[int], Iterable[Pixels]]) -> None:
        """Write the file from `chunks_from(n)`, the images from the nth on; the lock must be held.

        Raises OSError where no file can be made here, DiskError where it cannot be finished.
        """
        if self.path.is_dir():  # found out before the work instead of after it
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(self.path))
        done, checksum = self._done_before()
        self._check_space(done)
        self.part.touch()
        try:
            with self.part.open("r+b") as file:
                self._write(file, chunks_from, done, checksum)
            self.part.replace(self.path)
        except OSError as error:
            raise self._disk_error(error.strerror or str(error)) from None
        with suppress(OSError):
            self.path.with_suffix(".npz").unlink()  # what lmsm 0.1 kept decoded images in

    def _write(self, file: BinaryIO, chunks_from: Callable[[int], Iterable[Pixels]], done: int, checksum: int) -> None:  # fmt: skip
        """Append chunk after chunk; the header counts a chunk only when the disk has it."""
        file.write(self._header(done, checksum))
        file.seek(self._end(done))
        file.truncate()
        for chunk in chunks_from(done):
            file.write(chunk.data)
            _sync(file)
            done, checksum = done + len(chunk), zlib.crc32(chunk.data, checksum)
            file.seek(0)
            file.write(self._header(done, checksum))
            file.flush()
            file.seek(self._end(done))
        _sync(file)

    def _header(self, done: int, checksum: int) -> bytes:
        """Return the page before the pixels; `checksum` is the CRC-32 of the images that are done."""
        fields = {"lmsm": _FORMAT, "fingerprint": self.fingerprint, "shape": self.shape}
        return json.dumps(fields | {"done": done, "crc32": checksum}).encode().ljust(_PAGE, b"\0")

    def _look_into(self, file: BinaryIO) -> tuple[int, int] | None:
        """Return how many images the file holds and their checksum; None for another's file.

        The file is left at the first pixel.
        """
        try:
            stored = json.loads(file.read(_PAGE).rstrip(b"\0"))
            done, checksum = int(stored["done"]), int(stored["crc32"])
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None
        # compared as a whole: what the fields mean is known only if all of them are ours
        whole = 0 <= done <= self.shape[0] and self._end(done) <= os.fstat(file.fileno()).st_size
        ours = stored == json.loads(self._header(done, checksum).rstrip(b"\0"))
        return (done, checksum) if whole and ours else None

    def _done_before(self) -> tuple[int, int]:
        """Return the images, and their checksum, that a killed process left intact; else 0, 0."""
        with suppress(OSError), self.part.open("rb") as file:
            found = self._look_into(file)
            if found is not None and _checksum(file, self._end(found[0]) - _PAGE) == found[1]:
                return found
        return 0, 0

    def _check_space(self, done: int) -> None:
        if shutil.disk_usage(self.path.parent).free < self.num_bytes - self._end(done):
            raise self._disk_error(os.strerror(errno.ENOSPC))

    def _disk_error(self, why: str) -> DiskError:
        free = shutil.disk_usage(self.path.parent).free
        return DiskError(
            f"cannot write {self.part}: {why}; the decoded images take {self.num_bytes:,} bytes in "
            f"{self.path.parent}, where {free:,} are free: make room, then start again"
        )

    def _end(self, num_images: int) -> int:
        """Return the place in the file after so many images."""
        _, height, width, channels = self.shape
        return _PAGE + num_images * height * width * channels


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _checksum(file: BinaryIO, num_bytes: int) -> int:
    """Return the CRC-32 of the file's next bytes."""
    checksum = 0
    for start in range(0, num_bytes, _BLOCK):
        checksum = zlib.crc32(file.read(min(_BLOCK, num_bytes - start)), checksum)
    return checksum
