"""The user's cache of decoded images: where it is, how much it may hold, what goes when it is full.

An entry has a key and is some files: `<key>.json` tells what the entry holds and names the file of
its pixels, `<key>-<number>.npy`, which never changes and is replaced by one of another number.
`LMSM_CACHE_DIR` moves the cache folder, `LMSM_CACHE_SIZE` sets its limit. What lies there and is a
link, or another user's, is not used.
"""

import errno
import hashlib
import os
import re
import shutil
import sys
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO

from platformdirs import user_cache_path

from lmsm_cli.errors import LmsmError, writing
from lmsm_cli.runtime.files import check_own_file, check_own_folder, locked, open_regular

if sys.platform != "win32":
    import fcntl

# What the cache may take of the room that there is for it: the rest is the user's.
_SHARE = 0.5
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_OWN_NAME = re.compile(r"([0-9a-f]{32})(-\w+)?\.(json|npy|part|lock)")


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


def open_own(path: Path) -> BufferedReader:
    """Open a file of the cache to read. Raises OSError for a link and for another user's file."""
    check_own_file(path)
    file = open_regular(path)
    try:
        _check_owner(os.fstat(file.fileno()), path)
    except OSError:
        file.close()
        raise
    return file


def hold(file: IO[bytes]) -> None:
    """Mark the open file as in use until its descriptor and all copies of it are closed."""
    if sys.platform != "win32":  # which deletes no open file
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)


@dataclass(frozen=True)
class _Entry:
    """The files of one key, with their size in all and when they were last used (ns)."""

    key: str
    paths: tuple[Path, ...]
    num_bytes: int
    used: int


def entries(folder: Path) -> list[_Entry]:
    """Return the entries of the folder of decoded images, the least recently used first."""
    files: dict[str, list[tuple[Path, os.stat_result]]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if name := _OWN_NAME.fullmatch(path.name):
            with suppress(OSError):  # it is gone meanwhile
                files.setdefault(name[1], []).append((path, path.lstat()))
    found = [
        _Entry(
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

    Raises LmsmError for a size that is none.
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
    """Delete what was least recently used until so many bytes more may be kept.

    Nothing that another process uses is deleted, and nothing at all where that would not do.
    Raises OSError where there is no room.
    """
    limit, kept = size_limit(folder), entries(folder)
    held = sum(entry.num_bytes for entry in kept)
    if num_bytes > limit:
        what = f"{num_bytes:,} bytes are more than the limit of {limit:,} (LMSM_CACHE_SIZE)"
        raise OSError(errno.ENOSPC, what, str(folder))
    if num_bytes <= shutil.disk_usage(folder).free + held:
        for entry in kept:
            if held + num_bytes <= limit and num_bytes <= shutil.disk_usage(folder).free:
                return
            held -= entry.num_bytes if remove(folder, entry) else 0
    free = shutil.disk_usage(folder).free
    if held + num_bytes > limit or num_bytes > free:
        what = (
            f"{num_bytes:,} bytes have no room: {free:,} are free, the limit is {limit:,}, and other "
            "processes use what is kept there"
        )
        raise OSError(errno.ENOSPC, what, str(folder))


def remove(folder: Path, entry: _Entry) -> bool:
    """Delete an entry unless a process makes or uses it; return whether it is gone."""
    try:
        with locked(folder / entry.key, wait=False):
            if any(map(is_in_use, entry.paths)):
                return False
            for path in entry.paths:
                path.unlink(missing_ok=True)
    except OSError:  # also where the lock is held
        return False
    return True


def is_in_use(path: Path) -> bool:
    """Return whether a process holds the file (see `hold`)."""
    if sys.platform == "win32" or path.suffix != ".npy" or path.is_symlink():
        return False
    with suppress(FileNotFoundError), open_regular(path) as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _check_owner(info: os.stat_result, path: Path) -> None:
    if sys.platform != "win32" and info.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(path))


def clear() -> None:
    """Delete the decoded images that no process makes or uses. Raises DiskError where that can't be done."""
    folder = cache_folder() / "decoded"
    if os.path.lexists(folder):
        with writing(folder):
            decoded_folder()
            for entry in entries(folder):
                remove(folder, entry)
