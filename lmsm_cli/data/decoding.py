"""Read the images of class folders, which are decoded once as long as the files stay the same.

The decoded images are kept in the user's cache, never beside the data. What is small is held in
memory, what is large stays on disk. The digests of the files come from the same reading.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from lmsm_cli.data import cache
from lmsm_cli.data.cache_entry import CacheEntry, Facts, Kept, Take
from lmsm_cli.data.class_folders import Listing
from lmsm_cli.data.decoded import Images, LevelSums, Pixels, UndecodedImages, select
from lmsm_cli.data.decoder import Decoder
from lmsm_cli.data.identity import Digests
from lmsm_cli.data.image_files import DECODING_THREADS, ImageFileError, Resize
from lmsm_cli.errors import DataError
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.runtime.files import locked

# Decoded sets up to this size are held in memory, and on the device: seven times CIFAR-10.
IN_MEMORY_BYTES = 1 << 30

# Whether a file's ctime is when it last changed, so that no change can be hidden. Windows means the
# file's birth.
CTIME_TELLS_CHANGES = os.name != "nt"
# A change within the same tick of the file system's clock is not seen in ctime: 2 s on the coarsest.
_TICK_NS = 2_000_000_000
_CTIME = 2  # its column among a file's states
_FORMAT = 1  # of what is kept; another one is kept apart
_NAMED = 10  # unreadable files that a message names

_warned: WeakKeyDictionary[Display, set[tuple[str, int | None, bool]]] = WeakKeyDictionary()


class ReadImages(NamedTuple):
    """The images that could be read, with their listing, and the reasons why others could not."""

    images: Images
    digests: Digests  # (N, 16): of the files' bytes
    pixels: Digests  # (N, 16): of the pixels at full size; only good to find the same picture twice
    sums: LevelSums
    unreadable: dict[str, str]
    listing: Listing


def read_images(
    listing: Listing,
    *,
    size: int,
    channels: int,
    resize: Resize = "crop",
    skip_unreadable: bool = False,
    display: Display = SILENT,
) -> ReadImages:
    """Return the listed images, from the user's cache where the files are the same, else decoded.

    More than IN_MEMORY_BYTES stay on disk: in the cache, or, where that has no room, in the files
    themselves, to be decoded for each batch; `display` is warned of that. Raises DataError that
    names the unreadable files, unless they are to be skipped and there are others.
    """
    reading = _Reading(Decoder(listing, size, channels, resize), display)
    images, facts = reading.kept()
    if not facts.unreadable:
        return ReadImages(images, facts.digests, facts.pictures, facts.sums, {}, listing)
    reasons = reading.reasons(facts)
    unreadable = {
        listing.files[row]: reason or "is read only now" for row, reason in reasons.items()
    }
    if not skip_unreadable or len(unreadable) == len(listing.files):
        it = "it" if len(unreadable) == 1 else "them"
        raise DataError(
            f"{_unreadable_text(listing, unreadable)}; replace or remove {it}, or go on without {it}: --skip-unreadable"
        )
    display.warning(f"left out: {_unreadable_text(listing, unreadable)}")
    rows = np.setdiff1d(np.arange(len(listing.files)), np.array(facts.unreadable))
    return ReadImages(
        select(images, torch.from_numpy(rows)),
        facts.digests[rows],
        facts.pictures[rows],
        facts.sums[rows],
        unreadable,
        listing.without(set(unreadable)),
    )


def entry_key(root: Path, *, size: int, channels: int, resize: Resize = "crop") -> str:
    """Return the key in the cache of a folder's images at a size."""
    return cache.key_of(_FORMAT, os.path.realpath(root), size, channels, resize)


@dataclass(frozen=True)
class _Reading:
    """How a listing's images are got."""

    decoder: Decoder
    display: Display

    @cached_property
    def states(self) -> NDArray[np.int64]:
        return _states(self.listing)

    @property
    def listing(self) -> Listing:
        return self.decoder.listing

    @property
    def is_large(self) -> bool:
        return prod(self.decoder.shape) > IN_MEMORY_BYTES

    def kept(self) -> Kept:
        """Return the images and facts of all files, from the cache or into it if that is possible."""
        try:
            entry = self._entry()
            found = self._from(entry)
            if found is not None:
                return found
            with locked(entry.path, self.display):
                # another process may have made it while this one waited
                return self._from(entry) or self._made(entry)
        except OSError as error:
            return self._without_cache(error)

    def reasons(self, facts: Facts) -> dict[int, str | None]:
        """Return why files cannot be read, each looked at again; None for one that now can be."""
        return {row: self._reason(row) for row in facts.unreadable}

    def _reason(self, row: int) -> str | None:
        try:
            self.decoder.one(row)
        except ImageFileError as error:
            return error.reason
        return None

    def _entry(self) -> CacheEntry:
        form = self.decoder
        key = entry_key(
            self.listing.root, size=form.size, channels=form.channels, resize=form.resize
        )
        fingerprint = _fingerprint(self.listing, self.states)
        return CacheEntry(cache.decoded_folder(), key, fingerprint, self.decoder.shape)

    def _from(self, entry: CacheEntry) -> Kept | None:
        """Return what the cache has, if it is still true of the files."""
        kept = entry.read(mapped=self.is_large)
        return kept if kept is not None and self._is_true(kept.facts) else None

    def _is_true(self, facts: Facts) -> bool:
        """Return whether the files hold what they held, where their times alone do not prove it."""
        if not all(self.reasons(facts).values()):
            return False
        doubted = np.ones(self.decoder.shape[0], bool)
        if CTIME_TELLS_CHANGES:
            doubted = self.states[:, _CTIME] >= facts.since_ns - _TICK_NS
        doubted[list(facts.unreadable)] = False
        rows = np.flatnonzero(doubted)
        with ThreadPoolExecutor(DECODING_THREADS) as threads:
            found = list(threads.map(self.decoder.content, rows.tolist()))
        return found == [bytes(digest) for digest in facts.digests[rows]]

    def _made(self, entry: CacheEntry) -> Kept:
        """Decode the images and keep them; the entry's lock is held. May raise OSError."""
        entry.discard()
        if not self.is_large:
            kept = self._in_memory()
            try:
                cache.make_room(entry.folder, entry.room)
                entry.write(partial(_hand_over, kept))
            except OSError as error:
                self._warn(error, "they are decoded at each start")
            return kept
        cache.make_room(entry.folder, entry.room)
        self.display.info(
            f"the {len(self.listing.files):,} decoded images of {self.listing.root} will take "
            f"{entry.num_bytes / 1e9:,.1f} GB in {entry.folder}"
        )
        entry.write(partial(self.decoder.all, display=self.display))
        written = entry.read(mapped=True)
        if written is None:
            raise OSError("what was written there reads back otherwise")
        return written

    def _without_cache(self, error: OSError) -> Kept:
        if not self.is_large:
            self._warn(error, "they are decoded at each start")
            return self._in_memory()
        self._warn(
            error,
            f"{len(self.listing.files):,} images are decoded anew for each batch, which is slow",
        )
        facts = self.decoder.all(lambda images: None, self.display)
        again = partial(self._again, facts)
        count, *image_shape = self.decoder.shape
        return Kept(UndecodedImages(count, tuple(image_shape), again, DECODING_THREADS), facts)

    def _again(self, facts: Facts, row: int) -> Pixels:
        found = self.decoder.one(row)
        if found.content != bytes(facts.digests[row]):
            raise DataError(
                f"{self.decoder.path(row)} has changed since this run began; start again"
            )
        return found.pixels

    def _in_memory(self) -> Kept:
        images, done = np.empty(self.decoder.shape, np.uint8), 0

        def take(chunk: Pixels) -> None:
            nonlocal done
            images[done : done + len(chunk)] = chunk
            done += len(chunk)

        facts = self.decoder.all(take, self.display)
        return Kept(torch.from_numpy(images), facts)

    def _warn(self, error: OSError, so: str) -> None:
        """Warn that there is no cache: once, though it may be so for each part of the data."""
        where = error.filename or cache.cache_folder()
        told = _warned.setdefault(self.display, set())
        kind = (str(where), error.errno, self.is_large)
        if kind not in told:
            told.add(kind)
            self.display.warning(
                f"no cache of decoded images ({where}: {error.strerror or error}): {so}; "
                "LMSM_CACHE_DIR names another folder"
            )


def _hand_over(kept: Kept, take: Take) -> Facts:
    take(kept.images[:].numpy())
    return kept.facts


def _states(listing: Listing) -> NDArray[np.int64]:
    """Return what changes whenever a file is changed, or another takes its place, (N, 4).

    Size, times and inode, which tells files of one size and moment apart whose names are exchanged;
    of a link those of its target; zeros for a file that is gone, which is told when it is read.
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


def _unreadable_text(listing: Listing, unreadable: dict[str, str]) -> str:
    """Return a message that names the first unreadable files of a listing, each with the reason."""
    named = [f"{listing.root / file} {reason}" for file, reason in unreadable.items()]
    if len(named) == 1:
        return named[0]
    shown = "; ".join(named[:_NAMED])
    more = f"; and {len(named) - _NAMED:,} more" if len(named) > _NAMED else ""
    return f"{len(named):,} of the {len(listing.files):,} images of {listing.root} cannot be read: {shown}{more}"
