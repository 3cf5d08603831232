"""The user's cache of decoded images: a folder of a limited size, and its entries.

An entry has a key and two files: `<key>.json` says what is known of the images and names the file
of their pixels, `<key>-<number>.npy`. The pixels get their name when they are whole and on the
disk, the JSON document after them, so that a process which is killed at any moment leaves no wrong
entry.
`LMSM_CACHE_DIR` moves the cache folder, `LMSM_CACHE_SIZE` sets its limit. Links that lie there, and
other users' files, are not used.
"""

import errno
import hashlib
import json
import mmap
import os
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from math import prod
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple

import numpy as np
import torch
from platformdirs import user_cache_path
from pydantic import BaseModel, ConfigDict, Field

from lmsm_cli.data.decoded import Images, LevelSums, MappedImages, Pixels
from lmsm_cli.data.identity import DIGEST_BYTES, Digests
from lmsm_cli.data.image_files import DeepLevels, all_levels
from lmsm_cli.errors import LmsmError, writing
from lmsm_cli.runtime.files import (
    check_own_file,
    check_own_folder,
    created,
    locked,
    open_regular,
    replacing,
)

if sys.platform != "win32":
    import fcntl

# The share of the free disk that the cache may take: the rest is the user's.
_SHARE = 0.5
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_NO_PIXELS = "0" * 16  # the number of a file of pixels that there is not
_OWN_NAME = re.compile(r"[0-9a-f]{32}(-\w+)?\.(json|npy|part|lock)")


def cache_folder() -> Path:
    """Return the folder of lmsm's caches: `LMSM_CACHE_DIR`, else the system's place for caches."""
    given = os.environ.get("LMSM_CACHE_DIR")
    return Path(given).expanduser().absolute() if given else user_cache_path("lmsm")


def decoded_folder() -> Path:
    """Return the folder of the decoded images, made where it is missing, for this user alone.

    Raises OSError where it can't be made, is a link, or belongs to another user.
    """
    folder = cache_folder() / "decoded"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    check_own_folder(folder)
    _check_owner(folder.stat(), folder)
    return folder


def key_of(*fields: object) -> str:
    """Return 32 hexadecimal digits for some values: each list of values has its own."""
    hashed = hashlib.blake2b(digest_size=16)
    for field in fields:
        # with its length before it: ("a", "bc") is not ("ab", "c")
        content = field if isinstance(field, bytes) else os.fsencode(str(field))
        hashed.update(len(content).to_bytes(8, "little") + content)
    return hashed.hexdigest()


@dataclass(frozen=True)
class _Kept:
    """The files of one key, with their size in all and when they were last used (ns)."""

    key: str
    paths: tuple[Path, ...]
    num_bytes: int
    used: int


def still_there(paths: Iterable[Path]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield listed files, each with its size and times, but those that are gone meanwhile.

    Another process may drop some to make room.
    """
    for path in paths:
        try:
            info = path.lstat()
        except OSError:
            continue
        yield path, info


def entries(folder: Path) -> list[_Kept]:
    """Return the entries of the folder of decoded images, the least recently used first."""
    files: dict[str, list[tuple[Path, os.stat_result]]] = {}
    listed = folder.iterdir() if folder.is_dir() else ()
    for path, info in still_there(path for path in listed if _OWN_NAME.fullmatch(path.name)):
        files.setdefault(path.stem.partition("-")[0], []).append((path, info))
    found = [
        _Kept(
            key,
            tuple(path for path, _ in own),
            sum(info.st_size for _, info in own),
            max(info.st_mtime_ns for _, info in own),
        )
        for key, own in files.items()
    ]
    return sorted(found, key=lambda entry: entry.used)


def size_limit(folder: Path) -> int:
    """Return how many bytes the decoded images may take: `LMSM_CACHE_SIZE`, else half of the room.

    Raises LmsmError for a text that is no size.
    """
    given = os.environ.get("LMSM_CACHE_SIZE")
    if given:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*([a-z]*)\s*", given, re.IGNORECASE)
        if match is None or match[2].upper() not in _UNITS:
            raise LmsmError(f"LMSM_CACHE_SIZE is {given!r}: give a size such as 50GB or 800MB")
        return int(float(match[1]) * _UNITS[match[2].upper()])
    held = sum(entry.num_bytes for entry in entries(folder))
    return int((shutil.disk_usage(folder).free + held) * _SHARE)


def make_room(folder: Path, num_bytes: int) -> None:
    """Delete what was least recently used until so many more bytes may be kept.

    Nothing that another process uses is deleted, and nothing at all where that would not do.
    Raises OSError where there is no room.
    """
    limit, kept = size_limit(folder), entries(folder)
    held, free = sum(entry.num_bytes for entry in kept), shutil.disk_usage(folder).free
    if num_bytes > limit:
        what = f"{num_bytes:,} bytes are more than the limit of {limit:,} (LMSM_CACHE_SIZE)"
        raise OSError(errno.ENOSPC, what, str(folder))
    for entry in kept if num_bytes <= free + held else ():
        if held + num_bytes <= limit and num_bytes <= free:
            break
        held -= entry.num_bytes if _remove(folder, entry) else 0
        free = shutil.disk_usage(folder).free
    if held + num_bytes > limit or num_bytes > free:
        what = (
            f"{num_bytes:,} bytes have no room: {free:,} are free, the limit is {limit:,}, "
            "and other processes use what is kept there"
        )
        raise OSError(errno.ENOSPC, what, str(folder))


def clear() -> None:
    """Delete the decoded images that no process makes or uses. Raises DiskError where it can't."""
    folder = cache_folder() / "decoded"
    if os.path.lexists(folder):
        with writing(folder):
            decoded_folder()
            for entry in entries(folder):
                _remove(folder, entry)


def _remove(folder: Path, entry: _Kept) -> bool:
    """Delete an entry unless a process makes or uses it; return whether it is gone."""
    try:
        with locked(folder / entry.key, wait=False):
            if any(map(_is_in_use, entry.paths)):
                return False
            for path in entry.paths:
                path.unlink(missing_ok=True)
    except OSError:  # also where the lock is held
        return False
    return True


def _hold(file: IO[bytes]) -> None:
    """Mark the open file as in use until its descriptor and all copies of it are closed."""
    if sys.platform != "win32":  # which deletes no open file
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)


def _is_in_use(path: Path) -> bool:
    """Return whether a process holds the file (see `_hold`)."""
    if sys.platform == "win32" or path.suffix != ".npy" or path.is_symlink():
        return False
    with suppress(FileNotFoundError), open_regular(path) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _open_own(path: Path) -> BufferedReader:
    """Open a file of the cache to read. Raises OSError for a link and for another user's file."""
    check_own_file(path)
    file = open_regular(path)
    try:
        _check_owner(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def _check_owner(info: os.stat_result, path: Path) -> None:
    if sys.platform != "win32" and info.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))


class Facts(NamedTuple):
    """What is known of N files that were decoded."""

    digests: Digests  # (N, 16): of the files' bytes
    pictures: Digests  # (N, 16): of the pixels at full size
    sums: LevelSums  # (N, 2, C)
    unreadable: Sequence[int]  # rows of files that are no images; their pixels are black
    since_ns: int  # when the files were compared with these digests, or were first read
    levels: DeepLevels = DeepLevels()  # of those of 16 bits


def join_facts(parts: Sequence[Facts]) -> Facts:
    """Return the facts of all files from those of the chunks that they were decoded in."""
    return Facts(
        np.concatenate([part.digests for part in parts]),
        np.concatenate([part.pictures for part in parts]),
        np.concatenate([part.sums for part in parts]),
        [row for part in parts for row in part.unreadable],
        min(part.since_ns for part in parts),
        all_levels(part.levels for part in parts),
    )


class Decoded(NamedTuple):
    """The images of N files, black ones in the place of unreadable files, and the facts."""

    images: Images
    facts: Facts


class _Sidecar(BaseModel):
    """The JSON document beside the pixels."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[2] = 2
    fingerprint: str
    number: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]  # of the file of the pixels
    crc32: int
    since_ns: int
    digests: str
    pictures: str
    sums: str
    unreadable: list[int]
    levels: tuple[int, int]


@dataclass(frozen=True)
class CacheEntry:
    """The entry with a key in a folder, for images (N, H, W, C) of files with a fingerprint."""

    folder: Path
    key: str
    fingerprint: str
    shape: tuple[int, int, int, int]

    @property
    def num_bytes(self) -> int:
        """Bytes that the pixels take on disk."""
        return len(self._header()) + prod(self.shape)

    @property
    def room_of_facts(self) -> int:
        """Bytes that the facts take, about."""
        return 1000 + 200 * self.shape[0]

    @property
    def room(self) -> int:
        """Bytes that the entry takes, about."""
        return self.num_bytes + self.room_of_facts

    @property
    def path(self) -> Path:
        """The path that the entry is locked by."""
        return self.folder / self.key

    def read(self, *, mapped: bool) -> Decoded | None:
        """Return what is kept, in memory or mapped; None where nothing fits, or it is damaged.

        The checksum of the pixels is verified in memory only: for tens of GB that would take long
        at each start. A mapped file has the right size, and was on the disk before it was named.
        """
        with suppress(OSError, ValueError), _open_own(self._sidecar) as file:
            sidecar = _Sidecar.model_validate_json(file.read((1 << 20) + 300 * self.shape[0]))
            facts = self._facts(sidecar)
            images = self._images(sidecar, mapped=mapped)
            if facts is not None and images is not None:
                with suppress(OSError):  # a cache that can only be read
                    os.utime(file.fileno() if os.utime in os.supports_fd else self._sidecar)
                return Decoded(images, facts)
        return None

    def write(self, chunks: Iterable[tuple[Pixels, Facts]]) -> None:
        """Keep the images and facts of all files, which come in chunks.

        The lock must be held. Raises OSError where the disk does not take them.
        """
        number, checksum, parts = secrets.token_hex(8), 0, []
        temporary = self._pixels(number).with_suffix(".part")
        try:
            # Not through a mapping: a full disk would end the process (SIGBUS).
            with created(temporary) as file:
                file.write(self._header())
                for images, part in chunks:
                    file.write(images.data)
                    checksum = zlib.crc32(images.data, checksum)
                    parts.append(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._pixels(number))
        finally:
            temporary.unlink(missing_ok=True)
        self._write_sidecar(self._document(join_facts(parts), number, checksum))

    def read_facts(self) -> Facts | None:
        """Return the facts that are kept, whether or not the pixels are; None where none fit."""
        with suppress(OSError, ValueError), _open_own(self._sidecar) as file:
            sidecar = _Sidecar.model_validate_json(file.read((1 << 20) + 300 * self.shape[0]))
            return self._facts(sidecar)
        return None

    def write_facts(self, facts: Facts) -> None:
        """Keep the facts of files whose pixels have no room; the lock must be held.

        `read` finds no images then. Raises OSError where the disk does not take them.
        """
        self._write_sidecar(self._document(facts, _NO_PIXELS, 0))

    def _document(self, facts: Facts, number: str, checksum: int) -> _Sidecar:
        return _Sidecar(
            fingerprint=self.fingerprint,
            number=number,
            crc32=checksum,
            since_ns=facts.since_ns,
            digests=facts.digests.tobytes().hex(),
            pictures=facts.pictures.tobytes().hex(),
            sums=facts.sums.astype("<i8").tobytes().hex(),
            unreadable=list(facts.unreadable),
            levels=facts.levels,
        )

    def confirm(self, since_ns: int) -> None:
        """Note when the files were compared with the digests; the lock must be held."""
        with suppress(OSError, ValueError):  # a cache that can only be read
            with _open_own(self._sidecar) as file:
                sidecar = _Sidecar.model_validate_json(file.read())
            self._write_sidecar(sidecar.model_copy(update={"since_ns": since_ns}))

    def discard(self) -> None:
        """Delete what is left of this entry's past, but pixels in use; the lock must be held."""
        for path in self.folder.glob(f"{self.key}[.-]*"):
            if path.suffix != ".lock" and not _is_in_use(path):
                path.unlink()

    @property
    def _sidecar(self) -> Path:
        return self.folder / f"{self.key}.json"

    def _pixels(self, number: str) -> Path:
        return self.folder / f"{self.key}-{number}.npy"

    def _write_sidecar(self, sidecar: _Sidecar) -> None:
        with replacing(self._sidecar) as document:
            document.write(json.dumps(sidecar.model_dump()).encode())

    def _header(self) -> bytes:
        """Return what stands before the pixels in an .npy file."""
        header = BytesIO()
        form = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
        np.lib.format.write_array_header_1_0(header, form)
        return header.getvalue()

    def _facts(self, sidecar: _Sidecar) -> Facts | None:
        """Return what the sidecar says; None where it is of other files. May raise ValueError."""
        count = self.shape[0]
        digests, pictures = _digests(sidecar.digests), _digests(sidecar.pictures)
        sums = np.frombuffer(bytes.fromhex(sidecar.sums), "<i8").reshape(-1, 2, self.shape[3])
        rows_are_right = all(0 <= row < count for row in sidecar.unreadable)
        fits = sidecar.fingerprint == self.fingerprint and rows_are_right
        if not fits or {len(digests), len(pictures), len(sums)} != {count}:
            return None
        levels = DeepLevels(*sidecar.levels)
        return Facts(digests, pictures, sums, sidecar.unreadable, sidecar.since_ns, levels)

    def _images(self, sidecar: _Sidecar, *, mapped: bool) -> Images | None:
        """Return the pixels; None where the file is cut or damaged. May raise OSError."""
        header = self._header()
        with _open_own(self._pixels(sidecar.number)) as file:
            _hold(file)
            is_whole = os.fstat(file.fileno()).st_size == self.num_bytes
            if not is_whole or file.read(len(header)) != header:
                return None
            if mapped:
                # The map has a descriptor of its own, which holds the file as long as it lives.
                memory = mmap.mmap(file.fileno(), self.num_bytes, access=mmap.ACCESS_READ)
                pixels = np.frombuffer(memory, np.uint8, offset=len(header))
                return MappedImages(memory, pixels.reshape(self.shape))
            images = np.empty(self.shape, np.uint8)
            read = file.readinto(images.data)
            is_intact = read == images.nbytes and zlib.crc32(images.data) == sidecar.crc32
            return torch.from_numpy(images) if is_intact else None


def _digests(text: str) -> Digests:
    return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, DIGEST_BYTES)
