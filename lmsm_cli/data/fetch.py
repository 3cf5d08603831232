"""Download a file, verify it, unpack it: nothing half-finished ever bears the final name.

A download goes to `<name>.part` beside the final name; an interrupted one is resumed where the
server can do so. What is on disk and intact is never downloaded again.
"""

import gzip
import hashlib
import http.client
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmsm_cli.errors import DataError, DiskError

# What is being done, how much of it is done, and of how much (0 = not known).
Report = Callable[[str, int, int], None]

_BLOCK = 1 << 18
_PASSING = (408, 425, 429)  # the 4xx answers that another try can change


class _FailedError(Exception):
    """A try that may go better the next time."""


class _UselessError(Exception):
    """An answer that no further try of this address will change."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def is_intact(path: Path, md5: str) -> bool:
    """Return whether the file is there and has this MD5."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        # not for security: it is what the data sets publish
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
    return digest.hexdigest() == md5


def download(
    urls: str | Sequence[str],
    path: Path,
    *,
    md5: str,
    report: Report = silent,
    pauses: Sequence[float] = (1, 3),
    timeout: float = 30,
) -> None:
    """Bring a file from the first of its mirrors that gives it, unless it is there and intact.

    `pauses` are the seconds of rest between rounds over the mirrors. Raises DataError that says
    what to put where by hand; DiskError where the file cannot be written.
    """
    if is_intact(path, md5):
        return None
    mirrors = [urls] if isinstance(urls, str) else list(urls)
    useful, problems = list(mirrors), {}
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    for pause in (0, *pauses):
        if pause and useful:
            report(f"{path.name}: trying again in {pause:g} s", 0, 0)
            time.sleep(pause)
        for url in list(useful):
            try:
                return _bring(url, path, md5=md5, report=report, timeout=timeout)
            except _UselessError as error:
                useful.remove(url)
                problems[url] = str(error)
            except _FailedError as error:
                problems[url] = str(error)
    tried = "; ".join(f"{url}: {problem}" for url, problem in problems.items())
    raise DataError(
        f"{path.name} could not be downloaded ({tried}); get it by hand from {mirrors[0]} and save "
        f"it as {path} (md5 {md5}), or take --dataset digits, which needs no download"
    )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a .tar.gz, or a file packed as .gz, into the folder.

    Each file gets its final name only when it is whole. Raises DataError where the archive is
    damaged or would write outside the folder; DiskError where the folder cannot be written.
    """
    with _writing(folder):
        staging = Path(tempfile.mkdtemp(prefix=".lmsm-unpack-", dir=folder))
    try:
        if archive.name.endswith((".tar.gz", ".tgz")):
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(staging, filter="data")
        else:
            with gzip.open(archive) as packed, (staging / archive.stem).open("wb") as file:
                shutil.copyfileobj(packed, file)
        for file_path in sorted(path for path in staging.rglob("*") if path.is_file()):
            final = folder / file_path.relative_to(staging)
            final.parent.mkdir(parents=True, exist_ok=True)
            file_path.replace(final)
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be unpacked: {error}; delete it and start again"
        ) from None
    except OSError as error:
        raise DiskError(f"cannot unpack {archive} into {folder}: {error.strerror}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _bring(url: str, path: Path, *, md5: str, report: Report, timeout: float) -> None:
    """Make one try: receive into the .part file, verify it, give it the final name."""
    part = path.with_name(path.name + ".part")
    resumed = _receive(url, part, report=report, timeout=timeout)
    with _writing(path):
        if is_intact(part, md5):
            part.replace(path)
            return
        part.unlink()
    if resumed:
        raise _FailedError("what it sent does not fit what was there of the file")
    raise _UselessError("what it sent is not the right file (wrong md5)")


def _receive(url: str, part: Path, *, report: Report, timeout: float) -> bool:
    """Receive into the .part file, after what it holds; return whether that was kept.

    Raises _FailedError where the connection ends early: what came is kept for the next try.
    """
    held = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "lmsm"} | ({"Range": f"bytes={held}-"} if held else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and held:  # nothing follows what is held: it is whole, or not ours
            return True
        kind = _FailedError if error.code >= 500 or error.code in _PASSING else _UselessError
        raise kind(f"HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _FailedError(str(getattr(error, "reason", error)) or type(error).__name__) from None
    with answer:
        # a server that knows no ranges answers 200 and sends the file from its start
        rest = answer.headers.get("Content-Range", "").startswith(f"bytes {held}-")
        start = held if answer.status == 206 and rest else 0
        _save(answer, part, start=start, report=report)
    return start > 0


def _save(answer: Any, part: Path, *, start: int, report: Report) -> None:
    """Write the answer into the .part file, after its first `start` bytes."""
    length = answer.length or 0
    total, done = (start + length if length else 0), start
    what = f"downloading {part.name.removesuffix('.part')}"
    with _writing(part), part.open("ab" if start else "wb") as file:
        for block in _blocks(answer):
            file.write(block)
            done += len(block)
            report(what, done, total)
    if done < total:
        raise _FailedError(f"the connection ended after {done:,} of {total:,} bytes")


def _blocks(answer: Any) -> Iterator[bytes]:
    while True:
        try:
            block = answer.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _FailedError(f"the connection was lost: {error}") from None
        if not block:
            return
        yield block


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn the OSError of a write into a DiskError that names the file."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from None
