"""The identity of an image: its class and a digest of its content, wherever its file lies.

Counts, names, paths and times prove nothing: a run records the images that it used, and they are
found again by content. Duplicates are found by it too.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.errors import few
from lmsm_cli.runtime.files import open_regular

# blake2b of 128 bits: no two different images are ever found that share one.
DIGEST_BYTES = 16

DIVIDED_ANEW = (
    "the files are the same as now, but some were renamed or moved, which divides them anew "
    "between training and test"
)
"""What is to be said of images where `are_same_images` holds and a part of them is another."""

Value = TypeVar("Value")

Digests = NDArray[np.uint8]  # (N, DIGEST_BYTES)
Part = Literal["training", "validation", "test"]
PARTS: tuple[Part, ...] = ("training", "validation", "test")
"""In the order of their numbers in images.npz."""


def digest(content: bytes | memoryview) -> bytes:
    """Return the digest of one content."""
    return hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest()


def file_digest(path: Path) -> str:
    """Return the digest of a file in hexadecimal, however large it is. Raises OSError."""
    with open_regular(path) as file:
        hashed = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES))
    return hashed.hexdigest()


def as_digests(digests: list[bytes]) -> Digests:
    """Return digests as an array, (N, DIGEST_BYTES)."""
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIGEST_BYTES).copy()


def pixel_digests(images: NDArray[np.uint8]) -> Digests:
    """Return the digest of the pixels (H, W, C) of each of the images (N, H, W, C)."""
    images = np.ascontiguousarray(images)
    return as_digests([digest(image.reshape(-1).data) for image in images])


@dataclass(frozen=True, eq=False)
class ImagesRecord:
    """Which images a run trained on, validated on and tested on, each part in the run's order."""

    classes: tuple[str, ...]
    split: NDArray[np.uint8]  # (N,): places in PARTS
    labels: NDArray[np.int64]  # (N,)
    digests: Digests  # (N, 16)
    places: NDArray[Any]  # (N,): file names as bytes, or indices in the published files
    mean: tuple[float, ...]  # the normalisation of the run, per channel
    std: tuple[float, ...]
    divided: str | None = None
    """The digest of all images that folds test among them, where the test images are a fold."""
    seen_before: Digests | None = None
    """(N, 16): the images that what it started from was trained on; None where it is not known."""

    @property
    def seen_in_training(self) -> Digests:
        """Return what the images (N, 16) are that its net was trained on, before the run too."""
        own = self.of("training").digests
        return own if self.seen_before is None else np.concatenate([own, self.seen_before])

    def of(self, part: Part) -> "ImagesRecord":
        """Return the images of one part."""
        own = self.split == PARTS.index(part)
        chosen = (self.split[own], self.labels[own], self.digests[own], self.places[own])
        return ImagesRecord(self.classes, *chosen, self.mean, self.std)

    def __len__(self) -> int:
        return len(self.split)

    def identities(self) -> list[bytes]:
        """Return what each image is."""
        return image_keys(self.classes, self.labels, self.digests)

    @cached_property
    def split_digests(self) -> dict[str, str | None]:
        """Return the digest of each part, None for one without images."""
        parts = {part: self.of(part) for part in PARTS}
        return {
            part: split_digest(own.classes, own.labels, own.digests) if len(own) else None
            for part, own in parts.items()
        }

    @property
    def scored(self) -> dict[str, str | None]:
        """What scores.json tells of the images: the parts, and the order of the test images.

        Of a fold also all images that the folds test among them.
        """
        test = self.of("test")
        order = order_digest(test.classes, test.labels, test.digests)
        divided = {"divided": self.divided} if self.divided else {}
        return self.split_digests | {"test_order": order} | divided

    @cached_property
    def all_digests(self) -> dict[str, str | None]:
        """The digests of the parts, and of the order in which the run has all its images."""
        ordered = digest(b"".join(self.identities()) + self.split.tobytes())
        return self.split_digests | {"order": ordered.hex()}

    def name_of(self, row: int) -> str:
        """Return how a person finds an image: its file's name, or its number."""
        place = self.places[row]
        if isinstance(place, bytes):
            return place.decode("utf-8", "surrogateescape")
        return f"image {place} of the {PARTS[self.split[row]]} images"


def image_keys(classes: Sequence[str], labels: NDArray[np.int64], digests: Digests) -> list[bytes]:
    """Return 32 bytes for each image, equal for the same content in a class of the same name."""
    return [row.tobytes() for row in _rows(classes, labels, digests)]


def are_same_images(one: ImagesRecord, other: ImagesRecord) -> bool:
    """Return whether two records are of the same contents in the same classes.

    Whatever parts and order these are in, and whatever the names of their files.
    """
    return Counter(one.identities()) == Counter(other.identities())


def split_digest(classes: Sequence[str], labels: NDArray[np.int64], digests: Digests) -> str:
    """Return 32 hexadecimal digits that are equal for the same images, in whatever order."""
    columns = _rows(classes, labels, digests).view(">u8")
    ordered = columns[np.lexsort(columns.T)]
    return digest(ordered.tobytes()).hex()


def order_digest(classes: Sequence[str], labels: NDArray[np.int64], digests: Digests) -> str:
    """Return 32 hexadecimal digits that are equal for the same images in the same order."""
    return digest(_rows(classes, labels, digests).tobytes()).hex()


def rows_of_smallest_digests(
    labels: NDArray[np.int64], digests: Digests, most: int
) -> NDArray[np.int64]:
    """Return the rows, ascending, of at most `most` images of each class.

    They are those of the smallest digests: a choice as good as drawn, and the same one wherever
    the images lie and in whatever order. That of fewer images is part of that of more.
    """
    first, second = np.ascontiguousarray(digests).view(">u8").T
    order = np.lexsort((second, first, labels))
    ordered = labels[order]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    return np.sort(order[rank < most])


def _rows(classes: Sequence[str], labels: NDArray[np.int64], digests: Digests) -> Digests:
    """Return the digest of the class name beside that of the content, (N, 32)."""
    names = as_digests([digest(name.encode("utf-8", "surrogateescape")) for name in classes])
    return np.ascontiguousarray(np.concatenate([names[labels], digests], axis=1))


class Finder:
    """Looks for images in pools of others by their keys, each at most once."""

    def __init__(self, wanted: Sequence[bytes]) -> None:
        self.pool_of = np.full(len(wanted), -1)  # (N,): numbers of pools; -1 is not found
        self.place_of = np.full(len(wanted), -1)  # (N,): places in those pools
        self._num_pools = 0
        self._rows: dict[bytes, list[int]] = defaultdict(list)
        for row in range(len(wanted) - 1, -1, -1):
            self._rows[wanted[row]].append(row)

    def look_in(self, pool: Iterable[bytes]) -> None:
        """Take from the next pool, in its order, what is still missing."""
        for place, key in enumerate(pool):
            if left := self._rows.get(key):
                row = left.pop()
                self.pool_of[row], self.place_of[row] = self._num_pools, place
        self._num_pools += 1

    @property
    def missing(self) -> list[int]:
        """The rows that no pool had, ascending."""
        missing: list[int] = np.flatnonzero(self.pool_of < 0).tolist()
        return missing


class Pictures(NamedTuple):
    """What is known of some images: label, digests of file and of pixels, name of the file."""

    labels: NDArray[np.int64]  # (N,)
    files: Digests  # (N, 16)
    pixels: Digests  # (N, 16)
    names: Sequence[str]


class Copies(NamedTuple):
    """Images that are one picture: their names, labels and parts, in the order of the parts."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    parts: tuple[str, ...]

    @property
    def is_of_two_classes(self) -> bool:
        """Whether the picture has more than one label."""
        return len(set(self.labels)) > 1

    @property
    def is_in_two_parts(self) -> bool:
        """Whether the picture stands on two sides of the split."""
        return len(set(self.parts)) > 1

    @property
    def is_twice_in_a_class(self) -> bool:
        """Whether the picture stands in a class more than once."""
        return len(set(self.labels)) < len(self.labels)


def copies_of_pictures(parts: Mapping[str, Pictures]) -> list[Copies]:
    """Return the pictures that stand more than once among the images of some parts.

    Two images are the same picture where their files, or their pixels at full size, are the same.
    """
    sets = list(parts.values())
    groups = _groups(
        np.concatenate([one.files for one in sets]), np.concatenate([one.pixels for one in sets])
    )
    return copies_at(groups, parts)


def copies_at(groups: Iterable[list[int]], parts: Mapping[str, Pictures]) -> list[Copies]:
    """Return the copies whose images stand in groups of rows of all parts, one after the other."""
    part_of = [part for part, one in parts.items() for _ in one.names]
    names = [name for one in parts.values() for name in one.names]
    labels = np.concatenate([one.labels for one in parts.values()])
    return [
        Copies(
            tuple(names[row] for row in rows),
            tuple(labels[rows].tolist()),
            tuple(part_of[row] for row in rows),
        )
        for rows in groups
    ]


def duplicate_pictures(parts: Mapping[str, Pictures]) -> list[str]:
    """Return a sentence for each kind of place where a picture stands twice, with the first files.

    The kinds are two classes, and each pair of parts.
    """
    in_classes: list[str] = []
    in_parts: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in copies_of_pictures(parts):
        if one.is_of_two_classes:
            first_of_label = _first_of_each(one.labels)
            in_classes.append(" = ".join(one.names[at] for at in sorted(first_of_label.values())))
        first_of_part = _first_of_each(one.parts)
        for here, there in combinations([part for part in parts if part in first_of_part], 2):
            pair = f"{one.names[first_of_part[here]]} = {one.names[first_of_part[there]]}"
            in_parts[here, there].append(pair)
    notes = []
    if in_classes:
        notes.append(f"{_pictures(in_classes)} in more than one class: {few(in_classes, 5, '; ')}")
    for (here, there), pairs in in_parts.items():
        notes.append(
            f"{_pictures(pairs)} among the {here} and the {there} images, "
            f"which flatters {there} scores: {few(pairs, 5, '; ')}"
        )
    return notes


def _first_of_each(values: Sequence[Value]) -> dict[Value, int]:
    """Return the first place of each of some values."""
    return {value: at for at, value in reversed(list(enumerate(values)))}


def _groups(*digests: Digests) -> list[list[int]]:
    """Return the groups of rows that share one of their digests, each in ascending order."""
    above = list(range(len(digests[0])))
    for kind in digests:
        first: dict[bytes, int] = {}
        for row, one in enumerate(kind):
            above[row] = min(above[row], above[first.setdefault(one.tobytes(), row)])
    groups: dict[int, list[int]] = defaultdict(list)
    for row, top in enumerate(above):
        groups[top].append(row)
    return [rows for rows in groups.values() if len(rows) > 1]


def _pictures(found: Sequence[str]) -> str:
    return "1 picture is" if len(found) == 1 else f"{len(found):,} pictures are"
