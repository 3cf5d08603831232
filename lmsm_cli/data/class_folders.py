"""Read the images of class folders, as they are listed (see listing.py).

Images are decoded once, into a file beside the data that notices changed files; what is small is then read
into memory, what is large stays in the file.
"""

import errno
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor

from lmsm_cli.data.decoded import DecodedFile, Images, MappedImages, Pixels
from lmsm_cli.data.fetch import locked
from lmsm_cli.data.image_files import DECODING_THREADS, read_image
from lmsm_cli.data.listing import Listing
from lmsm_cli.display import SILENT, Display
from lmsm_cli.errors import DiskError

# Decoded sets up to this size are held in memory, and on the device: seven times CIFAR-10.
IN_MEMORY_BYTES = 1 << 30

_CACHE_VERSION = b"2"
# Decoded at once by a thread, then written and synced: little enough to lose, enough for the disk.
_CHUNK_BYTES = 1 << 23

_Read = TypeVar("_Read", Tensor, MappedImages)


def read_images(listing: Listing, *, size: int, channels: int, display: Display = SILENT) -> Images:
    """Return the listed images, from the file of decoded ones where it still fits, else decoded.

    More than IN_MEMORY_BYTES stay in that file. Where none can be made beside the data, `display` is
    warned once and the images are only held in memory, or, if they are too large, kept in the user's
    cache folder. Raises DataError for an image, DiskError where a large set finds no room.
    """
    shape = (len(listing.files), size, size, channels)
    file = DecodedFile(cache_path(listing.root, size=size, channels=channels), _fingerprint(listing), shape)  # fmt: skip
    if len(listing.files) * size * size * channels > IN_MEMORY_BYTES:
        return _mapped(listing, file, display)
    try:
        return _read_or_make(listing, file, file.read, display)
    except OSError as error:
        why = f"cannot write {file.path}: {error.strerror}"
    except DiskError as error:
        why = str(error)
        with suppress(OSError):
            file.part.unlink()
    display.warn(f"no cache of decoded images: {why}")
    return torch.from_numpy(np.concatenate(list(_decoded(listing, shape, 0, display))))


def cache_path(root: Path, *, size: int, channels: int) -> Path:
    """Return where decoded images are kept: beside a train/ or test/, else inside the folder."""
    shape = f"{size}x{size}x{channels}.pixels"
    if root.name in ("train", "test"):
        return root.parent / f".lmsm-{root.name}-{shape}"
    return root / f".lmsm-images-{shape}"


def _mapped(listing: Listing, beside: DecodedFile, display: Display) -> MappedImages:
    """Return the images mapped from beside the data, or else from the user's cache folder."""
    problems = []
    for file in (beside, _elsewhere(listing, beside)):
        try:
            if file is not beside:
                file.path.parent.mkdir(parents=True, exist_ok=True)
            return _read_or_make(listing, file, file.map, display)
        except OSError as error:
            problems.append(f"{file.path}: {error.strerror or error}")
    raise DiskError(
        f"the decoded images of {listing.root} take {beside.num_bytes:,} bytes and can be kept nowhere "
        f"({'; '.join(problems)}); make one of these folders writable"
    )


def _elsewhere(listing: Listing, beside: DecodedFile) -> DecodedFile:
    """Return the file of decoded images in the user's cache folder, one for each data folder."""
    key = hashlib.sha256(os.fsencode(listing.root.resolve())).hexdigest()[:16]
    name = beside.path.name.replace(".lmsm", key)
    path = user_cache_path("lmsm") / "decoded" / name
    return DecodedFile(path, beside.fingerprint, beside.shape)


def _read_or_make(listing: Listing, file: DecodedFile, read: Callable[[], _Read | None], display: Display) -> _Read:  # fmt: skip
    """Return what `read` makes of the file, decoding into it first unless it is there."""
    images = read()
    if images is None:
        with locked(file.path, display):
            images = read()  # another process may have made it while this one waited
            if images is None:
                file.make(lambda start: _decoded(listing, file.shape, start, display))
                images = read()
    if images is None:
        raise OSError(errno.EIO, "it reads back otherwise than it was written", str(file.path))
    return images


def _decoded(listing: Listing, shape: tuple[int, int, int, int], start: int, display: Display) -> Iterator[Pixels]:  # fmt: skip
    """Yield the listed images from the `start`th on, chunk after chunk.

    They are decoded by a few threads (Pillow works without the GIL), which are never more than a
    few chunks ahead. A chunk is reported when the next one is asked for.
    """
    count, size, _, channels = shape
    step = max(1, _CHUNK_BYTES // (size * size * channels))

    def decode(first: int) -> Pixels:
        paths = [listing.root / name for name in listing.files[first : first + step]]
        return np.stack([read_image(path, size=size, channels=channels) for path in paths])

    with ThreadPoolExecutor(DECODING_THREADS) as threads:
        starts = iter(range(start, count, step))
        ahead: deque[Future[Pixels]] = deque()
        for done in range(start, count, step):
            while len(ahead) <= DECODING_THREADS and (first := next(starts, None)) is not None:
                ahead.append(threads.submit(decode, first))
            yield ahead.popleft().result()
            display.report(f"decoding {listing.root}", min(done + step, count), count)


def _fingerprint(listing: Listing) -> str:
    """Return what changes whenever a file is changed, added or removed."""
    digest = hashlib.sha256(_CACHE_VERSION)
    for file in listing.files:
        with suppress(OSError):  # what is gone is told when it is read
            stat = (listing.root / file).stat()
            digest.update(os.fsencode(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    return digest.hexdigest()
