"""Decode class folders once: while their files stay the same, the user's cache has the images.

Nothing is written beside the data. Small sets are held in memory, large ones stay on disk. A file
is read once, so that the digests are of the very bytes that were decoded.
"""

import os
import struct
import time
import zlib
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from lmsm_cli.data import cache
from lmsm_cli.data.cache import CacheEntry, Decoded, Facts, join_facts
from lmsm_cli.data.class_folders import FolderOptions, Listing
from lmsm_cli.data.decoded import Images, LevelSums, Pixels, UndecodedImages, level_sums, select
from lmsm_cli.data.identity import DIGEST_BYTES, Digests, as_digests, digest
from lmsm_cli.data.image_files import (
    DECODING_THREADS,
    DeepLevels,
    ImageFileError,
    decode,
    fit,
    naming,
    read_content,
)
from lmsm_cli.errors import DataError, few
from lmsm_cli.runtime.cpu import num_cores
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.runtime.files import locked

# Decoded sets up to this size are held in memory, and on the device: seven times CIFAR-10.
IN_MEMORY_BYTES = 1 << 30

# Whether a file's ctime is when it last changed, so that no change can be hidden. On Windows it is
# the file's birth.
CTIME_TELLS_CHANGES = os.name != "nt"
# ctime shows no change within the same tick of the file system's clock, which is 2 s at most.
_TICK_NS = 2_000_000_000
_CTIME = 2  # its column among a file's states
_FORMAT = 3  # of the entries: those of another format are kept apart
_CHUNK_BYTES = 1 << 23  # decoded at once by a thread, then handed over
_BAND_BYTES = 1 << 20
_SMALL_FILE = 1 << 14  # a JPEG of 224 x 224 has about as much
_MOST_THREADS = 16

_warned: WeakKeyDictionary[Display, set[tuple[str, int | None, bool]]] = WeakKeyDictionary()


class ReadImages(NamedTuple):
    """The images that could be read, with their listing, and the reasons why others could not."""

    images: Images
    digests: Digests  # (N, 16): of the files' bytes
    pictures: Digests  # (N, 16): of the pixels at full size; only to find the same picture twice
    sums: LevelSums
    listing: Listing
    unreadable: Mapping[str, str] = MappingProxyType({})  # the other files, each with the reason
    levels: DeepLevels = DeepLevels()  # of those of 16 bits


def read_images(
    listing: Listing, options: FolderOptions, channels: int = 3, display: Display = SILENT
) -> ReadImages:
    """Return the listed images, from the user's cache where the files are the same, else decoded.

    More than IN_MEMORY_BYTES stay on disk: in the cache, or, where that has no room, in the files
    themselves, to be decoded for each batch, of which `display` is warned.

    Args:
        listing: the image files, with their labels.
        options: size and resizing; whether unreadable files are left out, if there are others.
        channels: 1 (grey) or 3 (RGB).
        display: is shown progress and warnings.

    Raises:
        DataError: files cannot be read; it names the first of them.
    """
    read = read_what_can_be(listing, options, channels, display)
    if not read.unreadable:
        return read
    if not options.skip_unreadable or not read.listing.files:
        raise DataError(refusal(listing, read.unreadable))
    what = unreadable_text(listing, read.unreadable, shown=3)  # `lmsm data` lists them all
    display.warning(f"skipped, to be replaced or removed: {what}")
    return read


def refusal(listing: Listing, unreadable: Mapping[str, str]) -> str:
    """Return why a training does not start on a listing with files that cannot be read."""
    it = "it" if len(unreadable) == 1 else "them"
    what = unreadable_text(listing, unreadable)
    left = listing.without(set(unreadable))
    if lost := [name for name in left.empty if name not in listing.empty]:
        return f"{what}; replace {it}, since no image of {few(lost)} can be read"
    return f"{what}; replace or remove {it}, or go on without {it}: --skip-unreadable"


def read_what_can_be(
    listing: Listing, options: FolderOptions, channels: int = 3, display: Display = SILENT
) -> ReadImages:
    """Return what `read_images` does, without the files that cannot be read, and why they cannot.

    Of images whose files are all unreadable there are none.
    """
    reader = _Reader(listing, options, channels, display)
    images, facts = reader.decoded()
    if not facts.unreadable:
        known = (facts.digests, facts.pictures, facts.sums)
        return ReadImages(images, *known, listing, levels=facts.levels)
    unreadable = {
        listing.files[row]: reason or "is read only now"
        for row, reason in reader.reasons(facts).items()
    }
    rows = np.setdiff1d(np.arange(len(listing.files)), np.array(facts.unreadable))
    return ReadImages(
        select(images, torch.from_numpy(rows)),
        facts.digests[rows],
        facts.pictures[rows],
        facts.sums[rows],
        listing.without(set(unreadable)),
        unreadable,
        facts.levels,
    )


def entry_key(
    root: Path, options: FolderOptions, channels: int = 3, of: tuple[str, ...] = ()
) -> str:
    """Return the key in the cache of a folder's images in one form, `of` a part of them."""
    form = (options.image_size, channels, options.resize)
    return cache.key_of(_FORMAT, os.path.realpath(root), *form, *of)


class _Image(NamedTuple):
    """One image file, read and decoded."""

    pixels: NDArray[np.uint8]  # (H, W, C)
    content: bytes  # digest of the file's bytes
    picture: bytes  # digest of the pixels at full size
    highest: int | None  # level of an image of 16 bits


@dataclass(frozen=True)
class _Reader:
    """The files of a listing, the form in which they are wanted, and how they are read."""

    listing: Listing
    options: FolderOptions
    channels: int
    display: Display

    @property
    def shape(self) -> tuple[int, int, int, int]:
        size = self.options.image_size
        return (len(self.listing.files), size, size, self.channels)

    @property
    def is_large(self) -> bool:
        return prod(self.shape) > IN_MEMORY_BYTES

    @property
    def threads(self) -> int:
        """How many threads decode: the decoder itself works without the GIL, and takes all cores.

        Small files are bound by Python, so that few threads are as fast.
        """
        is_bound_by_python = self.states[:, 0].mean() < _SMALL_FILE
        return DECODING_THREADS if is_bound_by_python else min(_MOST_THREADS, num_cores())

    @cached_property
    def states(self) -> NDArray[np.int64]:
        return _states(self.listing)

    def decoded(self) -> Decoded:
        """Return the images and facts of all files, from the cache or into it where possible."""
        try:
            entry = self._entry()
            found = entry.read(mapped=self.is_large)
            if found and not len(self._doubted(found.facts)) and self._is_true(found.facts):
                return found
            with locked(entry.path, self.display):
                return self._confirmed(entry) or self._made(entry)
        except OSError as error:
            return self._without_cache(error)

    def reasons(self, facts: Facts) -> dict[int, str | None]:
        """Return why files cannot be read, each tried again; None for one that now can be."""
        return {row: self._reason(row) for row in facts.unreadable}

    def _reason(self, row: int) -> str | None:
        try:
            self._image(row)
        except ImageFileError as error:
            return error.reason
        return None

    def _entry(self, *of: str) -> CacheEntry:
        """Return the cache's entry of the images, or of what more names."""
        if self.listing.source is not None:
            of = (os.path.realpath(self.listing.source), self.listing.part, *of)
        key = entry_key(self.listing.root, self.options, self.channels, of)
        fingerprint = _fingerprint(self.listing, self.states)
        return CacheEntry(cache.decoded_folder(), key, fingerprint, self.shape)

    def _confirmed(self, entry: CacheEntry) -> Decoded | None:
        """Return what the cache has if the files hold the same; the entry's lock is held."""
        now = time.time_ns()
        found = entry.read(mapped=self.is_large)  # perhaps made by the process that was waited for
        if found is None or not self._is_true(found.facts):
            return None
        if len(self._doubted(found.facts)):
            entry.confirm(now)
        return found

    def _doubted(self, facts: Facts) -> NDArray[np.intp]:
        """Return the rows of files whose times alone do not prove that they are the same."""
        doubted = np.ones(self.shape[0], bool)
        if CTIME_TELLS_CHANGES:
            doubted = self.states[:, _CTIME] >= facts.since_ns - _TICK_NS
        doubted[list(facts.unreadable)] = False
        return np.flatnonzero(doubted)

    def _is_true(self, facts: Facts) -> bool:
        """Return whether unreadable files still are, and the doubted ones hold what they held."""
        if not all(self.reasons(facts).values()):
            return False
        rows = self._doubted(facts)
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            found = list(threads.map(self._content, rows.tolist()))
        return found == [bytes(digest) for digest in facts.digests[rows]]

    def _content(self, row: int) -> bytes | None:
        """Return the digest of a file's bytes; None where it cannot be read."""
        try:
            return digest(read_content(self._path(row)))
        except (OSError, ImageFileError):
            return None

    def _made(self, entry: CacheEntry) -> Decoded:
        """Decode the images into the cache; the entry's lock is held. May raise OSError."""
        entry.discard()
        cache.make_room(entry.folder, entry.room)
        if self.is_large:
            self.display.info(
                f"the {len(self.listing.files):,} decoded images of {self.listing.root} will take "
                f"{entry.num_bytes / 1e9:,.1f} GB in {entry.folder}"
            )
        entry.write(self._chunks())
        written = entry.read(mapped=self.is_large)
        if written is None:
            raise OSError("what was written there reads back otherwise")
        return written

    def _without_cache(self, error: OSError) -> Decoded:
        count, *image_shape = self.shape
        if not self.is_large:
            self._warn(error, "they are decoded at each start")
            images, done, parts = np.empty(self.shape, np.uint8), 0, []
            for chunk, part in self._chunks():
                images[done : done + len(chunk)] = chunk
                done += len(chunk)
                parts.append(part)
            return Decoded(torch.from_numpy(images), join_facts(parts))
        self._warn(error, f"{count:,} images are decoded anew for each batch, which is slow")
        facts = self._facts_alone()
        again = partial(self._again, facts)
        return Decoded(UndecodedImages(count, tuple(image_shape), again, self.threads), facts)

    def _facts_alone(self) -> Facts:
        """Return the facts of files whose pixels have no room, from the cache where they are kept.

        All files are decoded for them once, and not at each start.
        """
        with suppress(OSError):  # the cache can't be used at all
            entry = self._entry("facts")
            with locked(entry.path, self.display):
                since, found = time.time_ns(), entry.read_facts()
                if found is None or not self._is_true(found):
                    return self._facts_made(entry)
                if len(self._doubted(found)):
                    entry.confirm(since)
                return found
        return join_facts([part for _, part in self._chunks()])

    def _facts_made(self, entry: CacheEntry) -> Facts:
        """Return the facts of all files, worked out anew and kept; the entry's lock is held."""
        facts = join_facts([part for _, part in self._chunks()])
        with suppress(OSError):  # they are worked out again at the next start
            entry.discard()
            cache.make_room(entry.folder, entry.room_of_facts)
            entry.write_facts(facts)
        return facts

    def _again(self, facts: Facts, row: int) -> Pixels:
        found = self._image(row)
        if found.content != bytes(facts.digests[row]):
            raise DataError(f"{self._path(row)} has changed since this run began; start again")
        return found.pixels

    def _warn(self, error: OSError, so: str) -> None:
        """Warn once that there is no cache, though it may be so for each part of the data."""
        where = error.filename or cache.cache_folder()
        warned = _warned.setdefault(self.display, set())
        kind = (str(where), error.errno, self.is_large)
        if kind not in warned:
            warned.add(kind)
            self.display.warning(
                f"no cache of decoded images ({where}: {error.strerror or error}): {so}; "
                "LMSM_CACHE_DIR names another folder"
            )

    def _path(self, row: int) -> Path:
        return self.listing.root / self.listing.files[row]

    def _image(self, row: int) -> _Image:
        """Read a file. Raises ImageFileError that names it."""
        path = self._path(row)
        with naming(path):
            content = read_content(path)
            image, highest = decode(content, self.channels)
            pixels = fit(image, self.options.image_size, self.options.resize)
            return _Image(pixels, digest(content), _picture_digest(image), highest)

    def _chunks(self) -> Iterator[tuple[Pixels, Facts]]:
        """Decode all files, chunk after chunk.

        A few threads decode them (Pillow works without the GIL), at most a few chunks ahead.
        """
        count, done = self.shape[0], 0
        step = max(1, _CHUNK_BYTES // prod(self.shape[1:]))
        parts = iter([range(at, min(at + step, count)) for at in range(0, count, step)])
        with ThreadPoolExecutor(self.threads) as threads:
            ahead: deque[Future[tuple[Pixels, Facts]]] = deque()
            while done < count:
                for rows in islice(parts, self.threads + 1 - len(ahead)):
                    ahead.append(threads.submit(self._chunk, rows))
                images, facts = ahead.popleft().result()
                done += len(images)
                yield images, facts
                self.display.progress(f"decoding {self.listing.root}", done, count)

    def _chunk(self, rows: range) -> tuple[Pixels, Facts]:
        since, images = time.time_ns(), np.zeros((len(rows), *self.shape[1:]), np.uint8)
        contents, pictures = ([bytes(DIGEST_BYTES)] * len(rows) for _ in range(2))
        unreadable: list[int] = []
        deep: list[int] = []
        for place, row in enumerate(rows):
            try:
                images[place], contents[place], pictures[place], highest = self._image(row)
            except ImageFileError:
                unreadable.append(row)
            else:
                deep += [] if highest is None else [highest]
        known = (as_digests(contents), as_digests(pictures), level_sums(images))
        levels = DeepLevels(len(deep), max(deep, default=0))
        return images, Facts(*known, unreadable, since, levels)


def _picture_digest(image: Image.Image) -> bytes:
    """Return a digest of an image's pixels at full size, which serves to find the same picture.

    It is made of two checksums of all pixels: blake2b of them would take half as long as decoding.
    """
    checksum = folded = 0
    rows = max(1, _BAND_BYTES // (image.width * len(image.getbands())))
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        is_whole = bottom - top == image.height
        band = (image if is_whole else image.crop((0, top, image.width, bottom))).tobytes()
        checksum = zlib.crc32(band, checksum)
        folded ^= int(np.bitwise_xor.reduce(np.frombuffer(band, "<u8", len(band) // 8)))
    return digest(struct.pack("<IIIQ", image.width, image.height, checksum, folded))


def _states(listing: Listing) -> NDArray[np.int64]:
    """Return what changes whenever a file is changed, or another takes its place, (N, 4).

    Size, times and inode, which tells files of one size and moment apart whose names are exchanged;
    of a link those of its target; zeros for a missing file, which is reported when it is read.
    """
    states = np.zeros((len(listing.files), 4), np.int64)
    root = os.fspath(listing.root)
    for row, file in enumerate(listing.files):
        with suppress(OSError):
            info = os.stat(f"{root}/{file}")  # noqa: PTH116  for 115,000 files a Path takes a second
            inode = info.st_ino % (1 << 63)  # of 64 bits without a sign
            states[row] = info.st_size, info.st_mtime_ns, info.st_ctime_ns, inode
    return states


def _fingerprint(listing: Listing, states: NDArray[np.int64]) -> str:
    """Return what changes whenever a file is changed, added, removed or renamed."""
    names = [os.fsencode(name) for name in listing.files]
    lengths = np.array([len(name) for name in names], np.int64)
    return cache.key_of(b"".join(names), lengths.tobytes(), states.tobytes())


def unreadable_text(listing: Listing, unreadable: Mapping[str, str], shown: int = 10) -> str:
    """Return a message that names the first unreadable files of a listing, each with the reason."""
    named = [f"{listing.root / file} {reason}" for file, reason in unreadable.items()]
    if len(named) == 1:
        return named[0]
    return (
        f"{len(named):,} of the {len(listing.files):,} images of {listing.root} cannot be read: "
        f"{few(named, shown, '; ')}"
    )
