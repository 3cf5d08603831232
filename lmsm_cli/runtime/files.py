"""Files in folders that anybody may have made: a run, a data set, a cache.

What is read is a regular file, perhaps at the end of a link: a pipe is never waited for, a device
never opened. What is written, added to or made is a regular file of lmsm's own, and never reached
through a link that lies in its place. All functions raise OSError: the caller says what for.
"""

import errno
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from lmsm_cli.runtime.display import SILENT, Display

# No text of lmsm's is larger: JSON on each of 1,000 classes has a few million bytes.
LARGEST_TEXT = 1 << 26
_BLOCK = 1 << 20
_LINK = "it is a link, and nothing is written through one"
# The rest is Windows, which has neither, and no links that anybody may make.
_NO_LINK, _AT_ONCE = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file to read, also through a link. Raises OSError for anything else."""
    _check_regular(path.stat(), path)  # before: a device can do something when it is opened
    return os.fdopen(_descriptor(path, os.O_RDONLY), "rb")


def read_bytes(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """Return what a regular file holds. Raises OSError where that is more than `largest` bytes."""
    blocks, left = [], largest + 1
    with open_regular(path) as file:
        # In blocks, since Python reserves the bytes to be read, however few there are.
        while left > 0 and (block := file.read(min(left, _BLOCK))):
            blocks.append(block)
            left -= len(block)
    content = b"".join(blocks)
    if len(content) > largest:
        raise OSError(errno.EFBIG, f"it is larger than {largest:,} bytes", str(path))
    return content


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """Return a regular file's text. Raises OSError as `read_bytes`, UnicodeDecodeError."""
    return read_bytes(path, largest).decode("utf-8")


def created(path: Path) -> BufferedRandom:
    """Open a new file to write and read; what stands in its place is removed, a link itself."""
    path.unlink(missing_ok=True)
    return os.fdopen(_descriptor(path, os.O_RDWR | os.O_CREAT | os.O_EXCL), "w+b")


def opened_to_add(path: Path) -> BufferedRandom:
    """Open a file to add to its end, and to read; make it where it is missing.

    One that has other names too (hard links) becomes a file of its own first. Raises OSError for a
    link, and for what is no regular file.
    """
    with suppress(FileNotFoundError):
        info = path.lstat()
        _check_regular(info, path)
        if info.st_nlink > 1:
            with open_regular(path) as other, replacing(path) as file:
                shutil.copyfileobj(other, file)
    return os.fdopen(_descriptor(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "ab+")


def temporary_of(path: Path) -> Path:
    """Return where this process writes a file before it moves it to its path."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[BufferedRandom]:
    """Give a new file to write, which takes the place of `path` when the body has ended well.

    It is on the disk before, and its name after: a power cut leaves the old file or the new one. A
    link in that place is itself replaced. Raises OSError for a pipe or device there.
    """
    if not path.is_symlink():
        check_own_file(path)
    temporary = temporary_of(path)
    try:
        with created(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink()


def sync_file(path: Path) -> None:
    """Put what was written to a file on the disk. Raises OSError for what is no regular file."""
    with os.fdopen(_descriptor(path, os.O_RDWR), "rb") as opened:  # Windows flushes no other
        os.fsync(opened.fileno())


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a rename outlasts a power cut only then."""
    if sys.platform == "win32":  # opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def own_folder(path: Path) -> Path:
    """Return a folder to write into, made if missing. Raises OSError as `check_own_folder`."""
    with suppress(FileExistsError):
        path.mkdir()
    check_own_folder(path)
    return path


def own_folders(root: Path, below: Path) -> Path:
    """Return the folder at a relative path below a root, with each on the way made or checked."""
    for part in below.parts:
        root = own_folder(root / part)
    return root


def check_own_folder(path: Path) -> None:
    """Raise OSError where a link, which could lead anywhere, or a file is in a folder's place."""
    with suppress(FileNotFoundError):
        mode = path.lstat().st_mode
        if not stat.S_ISDIR(mode):
            what = _LINK if stat.S_ISLNK(mode) else "it is no folder"
            raise NotADirectoryError(errno.ENOTDIR, what, str(path))


def check_own_file(path: Path) -> None:
    """Raise OSError where a link, or what is no regular file, is in the place of a file."""
    with suppress(FileNotFoundError):
        _check_regular(path.lstat(), path)


def lock_of(path: Path, timeout: float = -1) -> BaseFileLock:
    """Return the lock in a file, which is not yet taken; `timeout` in seconds, -1 for ever."""
    check_own_file(path)
    return FileLock(path, timeout=timeout)


@contextmanager
def locked(path: Path, display: Display = SILENT, *, wait: bool = True) -> Iterator[None]:
    """Lock what bears this path against other processes; tell `display` where one is waited for.

    The lock of a process that was killed is free. Raises OSError where the folder cannot be written
    or a link lies in the lock's place, and, without `wait`, where another process holds the lock.
    """
    lock_file = path.with_name(f"{path.name}.lock")
    lock = lock_of(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        what = f"waiting for another process: {path}"
        display.progress(what, 0, 0)
        lock.acquire()
        display.progress(what, 1, 1)
    try:
        yield
    finally:
        # While it is held: a process that waits for a removed lock file makes another (filelock).
        with suppress(OSError):
            lock_file.unlink()
        lock.release()


def _check_regular(info: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(info.st_mode):
        raise OSError(errno.ELOOP, _LINK, str(path))
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))


def _descriptor(path: Path, flags: int) -> int:
    """Open without waiting, and look at what was opened: it may be another than a moment ago."""
    if flags != os.O_RDONLY:
        flags |= _NO_LINK
    descriptor = os.open(path, flags | _AT_ONCE | _BINARY, 0o666)
    try:
        _check_regular(os.fstat(descriptor), path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
