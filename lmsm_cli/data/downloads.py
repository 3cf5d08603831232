"""Download a file, verify it, unpack it: nothing half-finished ever bears the final name.

A download goes to `<name>.part` beside the final name; an interrupted one is resumed where the
server can do so. What is on disk and intact is never downloaded again; what has a wrong checksum is
put aside as `<name>.bad`. Who downloads holds a lock, since two processes share a `.part`.
"""

import gzip
import hashlib
import http.client
import io
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import Timeout

from lmsm_cli.errors import DataError, DiskError, writing
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.runtime.files import created, lock_of, open_regular, opened_to_add, own_folders

_BLOCK = 1 << 18
_PASSING = (408, 425, 429)  # the 4xx answers that another try can change
_SLOWEST = 1000  # bytes a second; a connection that gives less is given up
_LONGEST_WAIT = 60  # seconds that a server may ask for
# Bytes that an archive may unpack to: MNIST's, the emptiest of images, grow fivefold.
_GROWTH, _SMALL = 20, 1 << 20


class _FailedError(Exception):
    """A try that may go better the next time, after `wait` seconds if the server said so."""

    def __init__(self, text: str, wait: float = 0) -> None:
        super().__init__(text)
        self.wait = wait


class _UselessError(Exception):
    """An answer that no further try of this address will change."""


def is_intact(path: Path, md5: str) -> bool:
    """Return whether the file is there and has this MD5."""
    if not path.is_file():
        return False
    with open_regular(path) as file:
        # not for security: it is what the data sets publish
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() == md5


def download(
    urls: str | Sequence[str],
    path: Path,
    *,
    md5: str,
    display: Display = SILENT,
    pauses: Sequence[float] = (1, 3),
    timeout: float = 30,
) -> None:
    """Bring a file from the first of its mirrors that gives it, unless it is there and intact.

    `pauses` are the seconds of rest between rounds over the mirrors that bring nothing new; a
    server that brings next to nothing in `timeout` seconds is given up. The caller holds a lock.
    Raises DataError that says what to put where by hand; DiskError where the file cannot be written.
    """
    if is_intact(path, md5):
        return None
    mirrors = [urls] if isinstance(urls, str) else list(urls)
    useful, problems, part = list(mirrors), {}, path.with_name(f"{path.name}.part")
    held, in_vain, wait = _size(part), 0, 0.0
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    while useful and in_vain <= len(pauses):
        if in_vain:
            pause = max(pauses[in_vain - 1], wait)
            display.info(f"{path.name}: trying again in {pause:g} s")
            time.sleep(pause)
        wait = 0
        for url in list(useful):
            try:
                return _bring(url, path, part, md5=md5, display=display, timeout=timeout)
            except _UselessError as error:
                useful.remove(url)
                problems[url] = str(error)
            except _FailedError as error:
                problems[url], wait = str(error), max(wait, error.wait)
        # a connection that breaks again and again may go on as long as each time much comes
        in_vain = 1 if _size(part) >= held + _BLOCK else in_vain + 1
        held = max(held, _size(part))
    tried = "; ".join(f"{url}: {problem}" for url, problem in problems.items())
    raise DataError(
        f"{path.name} could not be downloaded ({tried}); get it by hand from {mirrors[0]} and save "
        f"it as {path} (md5 {md5}), or take --dataset digits, which needs no download"
    )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz, or a file packed as .gz, into the folder.

    Each file gets its final name only when it is whole. Raises DataError where the archive is
    damaged, grows beyond measure, or holds links or names outside the folder; DiskError where the
    folder cannot be written.
    """
    with writing(folder):
        staging = Path(tempfile.mkdtemp(prefix=".lmsm-unpack-", dir=folder))
    try:
        with gzip.open(archive) as packed:
            bounded: Any = _Bounded(packed, max(_SMALL, _GROWTH * archive.stat().st_size))
            if archive.name.endswith((".tar.gz", ".tgz")):
                with tarfile.open(fileobj=bounded, mode="r|") as tar:
                    tar.extractall(staging, filter=_plain_files)
            else:
                with created(staging / archive.stem) as file:
                    shutil.copyfileobj(bounded, file)
        for file_path in sorted(path for path in staging.rglob("*") if path.is_file()):
            final = folder / file_path.relative_to(staging)
            own_folders(folder, final.parent.relative_to(folder))
            file_path.replace(final)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}; delete it and start again"
        ) from None
    except OSError as error:
        raise DiskError(f"cannot unpack {archive} into {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Bounded:
    """A stream of which no more than `limit` bytes can be read."""

    def __init__(self, stream: io.BufferedIOBase, limit: int) -> None:
        self._stream, self._limit, self._left = stream, limit, limit

    def read(self, size: int) -> bytes:
        """Return the next bytes. Raises TarError behind the limit."""
        block = self._stream.read(size)
        self._left -= len(block)
        if self._left < 0:
            raise tarfile.TarError(f"it holds more than {self._limit:,} bytes")
        return block


def _plain_files(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Return what may be unpacked: no published archive holds links, devices or absolute names."""
    if not (member.isreg() or member.isdir()) or member.name.startswith("/"):
        raise tarfile.TarError(f"{member.name!r} is not a file or folder below its own folder")
    return tarfile.data_filter(member, folder)


@contextmanager
def locked(path: Path, display: Display = SILENT, *, wait: bool = True) -> Iterator[None]:
    """Hold what bears this path against other processes; `display` is told once that one is waited for.

    The lock of a process that was killed is free. Raises OSError where the folder cannot be written
    or a link lies in the lock's place, and, unless it may `wait`, where another process holds it.
    """
    lock_path = path.with_name(f"{path.name}.lock")
    lock = lock_of(lock_path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise
        display.info(f"waiting for another process that makes {path}")
        lock.acquire()
    try:
        yield
    finally:
        # While it is held: who waits for a lock file that is gone makes another (filelock).
        with suppress(OSError):
            lock_path.unlink()
        lock.release()


def _bring(url: str, path: Path, part: Path, *, md5: str, display: Display, timeout: float) -> None:
    """Make one try: receive into the .part file, verify it, give it the final name."""
    passing = _receive(url, part, display=display, timeout=timeout)
    bad = path.with_name(f"{path.name}.bad")
    with writing(path):
        if is_intact(part, md5):
            part.replace(path)
            bad.unlink(missing_ok=True)
            return
        with open_regular(part) as file:
            page = file.read(100).lstrip().startswith(b"<")
        part.replace(bad)
    if passing:
        raise _FailedError("what came does not fit what was there of the file, or is cut")
    kind = "a web page" if page else "of another md5"
    raise _UselessError(f"what it sent is not the right file but {kind}, now {bad.name}")


def _size(path: Path) -> int:
    """Return how many bytes a file of ours holds; a link is none, and is replaced."""
    return path.stat().st_size if path.is_file() and not path.is_symlink() else 0


def _receive(url: str, part: Path, *, display: Display, timeout: float) -> bool:
    """Receive into the .part file, after what it holds.

    Return whether another try may bring another file: what was there was kept, or nobody said how
    much would come. Raises _FailedError where the connection ends early or gives next to nothing;
    what came is kept for the next try.
    """
    held = _size(part)
    headers = {"User-Agent": "lmsm"} | ({"Range": f"bytes={held}-"} if held else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and held:  # nothing follows what is held: it is whole, or not ours
            return True
        what = f"HTTP {error.code} {error.reason}"
        if error.code < 500 and error.code not in _PASSING:
            raise _UselessError(what) from None
        wait = error.headers.get("Retry-After", "")  # seconds; a date is rare, and not obeyed
        raise _FailedError(what, min(int(wait), _LONGEST_WAIT) if wait.isdecimal() else 0) from None
    except (OSError, http.client.HTTPException) as error:
        raise _FailedError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with answer:
        # a server that knows no ranges answers 200 and sends the file from its start
        rest = answer.headers.get("Content-Range", "").startswith(f"bytes {held}-")
        start = held if answer.status == 206 and rest else 0
        told = answer.length is not None
        _save(answer, part, start=start, display=display, timeout=timeout)
    return start > 0 or not told


def _save(answer: Any, part: Path, *, start: int, display: Display, timeout: float) -> None:
    """Write the answer into the .part file, after its first `start` bytes."""
    length = answer.length or 0
    total, done = (start + length if length else 0), start
    what = f"downloading {part.name.removesuffix('.part')}"
    with writing(part), opened_to_add(part) if start else created(part) as file:
        for block in _blocks(answer, timeout):
            file.write(block)
            done += len(block)
            display.progress(what, done, total)
    if done < total:
        raise _FailedError(f"the connection ended after {done:,} of {total:,} bytes")


def _blocks(answer: Any, timeout: float) -> Iterator[bytes]:
    """Yield what comes as it comes, as long as enough comes in each `timeout` seconds."""
    came, since = 0, time.monotonic()
    while True:
        try:
            block = answer.read1(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _FailedError(f"the connection was lost: {error}") from None
        if not block:
            return
        yield block
        came += len(block)
        seconds = time.monotonic() - since
        if seconds >= timeout:
            if came < _SLOWEST * seconds:
                raise _FailedError(f"only {came:,} bytes came in {seconds:.0f} s")
            came, since = 0, time.monotonic()
