"""Which runs had the same images, by the digests in their scores.json, and what is told where not.

Runs from before these digests have none: their images are not known, and nothing is taken for equal
to them but other such runs with as many images of the same classes.
"""

import hashlib
import shlex
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lmsm_cli.errors import CheckpointError
from lmsm_cli.runs.record import RunRecord

if TYPE_CHECKING:
    from lmsm_cli.data.identity import ImagesRecord, Part

PARTS: "tuple[Part, ...]" = ("training", "validation", "test")
UNKNOWN = "unknown"
# What decides, with the data set itself, which of its images are trained and validated on.
_DATA_KEYS = ("dataset", "imbalance", "factor", "images_per_class", "validation", "split_seed")
_SHORTEST_NAME = 8
_MOST_TOLD = 5
_MOST_NAMES = 3

Images = tuple[str | None, ...]
"""The digests of PARTS, None for a part without images."""


def images_of(record: RunRecord) -> Images | None:
    """Return which images a run had; None where that is not known."""
    known = (record.scores or {}).get("images")
    return tuple(known[part] for part in PARTS) if known else None


def names_of(found: Iterable[Images | None]) -> dict[Images | None, str]:
    """Return a short name for each distinct choice of images: the first digits of a digest of it."""
    whole = {
        images: hashlib.blake2b(repr(images).encode(), digest_size=16).hexdigest()
        for images in found
        if images
    }
    length = _SHORTEST_NAME
    while len({name[:length] for name in whole.values()}) < len(whole):
        length += 1
    return {None: UNKNOWN} | {images: name[:length] for images, name in whole.items()}


def choices_hide_it(records: Iterable[RunRecord], usual: Mapping[str, Any]) -> bool:
    """Return whether runs had different images that their choices alone do not tell apart.

    `usual` are the choices of a run that does not name them.
    """
    all_images: dict[Hashable, set[Images | None]] = {}
    test_images: dict[Hashable, set[str | None]] = {}
    for record in records:
        given, images = {**usual, **(record.config or {})}, images_of(record)
        choices = tuple(repr(given.get(key)) for key in _DATA_KEYS)
        all_images.setdefault(choices, set()).add(images)
        test_images.setdefault(choices[0], set()).add(images[-1] if images else UNKNOWN)
    several: list[set[Any]] = [*all_images.values(), *test_images.values()]
    return any(len(found) > 1 for found in several)


def notes_on_images(records: Sequence[RunRecord], *, told_apart: bool) -> list[str]:
    """Return which runs had other images than the newest run, how many differ and what to type.

    Where they are not `told_apart` by their images, but by choices, that is no news.
    """
    members: dict[Images | None, list[RunRecord]] = {}
    for record in sorted(records, key=lambda record: record.name):
        members.setdefault(images_of(record), []).append(record)
    old = members.pop(None, [])
    notes = []
    if told_apart and len(members) > 1:
        names = names_of(members)
        newest = max(members, key=lambda images: members[images][-1].name)
        others = [images for images in members if images != newest]
        notes = [
            _difference(names[one], members[one], names[newest], members[newest])
            for one in others[-_MOST_TOLD:]
        ]
        if len(others) > _MOST_TOLD:
            notes.append(f"{len(others) - _MOST_TOLD} more sets of images differ from images={names[newest]} too")  # fmt: skip
    if old:
        apart = "; they stand in rows of their own (images=unknown)" if members else ""
        verb = "is" if len(old) == 1 else "are"
        notes.append(f"{_listed(old)} {verb} from before runs recorded their images: known are only the classes and the numbers of images{apart}")  # fmt: skip
    return notes


def _difference(name: str, runs: Sequence[RunRecord], newest: str, newest_runs: Sequence[RunRecord]) -> str:  # fmt: skip
    """Return how the images of some runs differ from those of the newest, and the way out."""
    one, other = runs[-1], newest_runs[-1]
    command = ["lmsm", "train", "--config", str(one.path / "config.yaml")]
    if data_dir := (other.config or {}).get("data_dir"):
        command += ["--data-dir", str(data_dir)]
    return (
        f"images={name} ({_listed(runs)}) are not images={newest} ({_listed(newest_runs)}): "
        f"{_counts(one, other)}; to compare them, train on one data set: `{shlex.join(command)}`"
    )


def _listed(runs: Sequence[RunRecord]) -> str:
    names = [run.name for run in runs[:_MOST_NAMES]]
    more = len(runs) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _counts(one: RunRecord, other: RunRecord) -> str:
    """Return how many images of each part differ: `3 of 64 training images differ`."""
    unlike = [part for part, a, b in zip(PARTS, images_of(one) or (), images_of(other) or (), strict=True) if a != b]  # fmt: skip
    found = [_images_record(run) for run in (one, other)]
    if found[0] is None or found[1] is None:
        return f"other {' and '.join(unlike)} images (how many is not known, since images.npz is missing or damaged)"  # fmt: skip
    return ", ".join(_count(part, found[0], found[1]) for part in unlike)


def _count(part: "Part", one: "ImagesRecord", other: "ImagesRecord") -> str:
    sides = [Counter(record.of(part).identities()) for record in (one, other)]
    shares = [
        f"{(own - against).total():,} of {own.total():,}"
        for own, against in (sides, reversed(sides))
    ]
    return f"{' and '.join(dict.fromkeys(shares))} {part} images differ"


def _images_record(run: RunRecord) -> "ImagesRecord | None":
    from lmsm_cli.runs.images import read_images_record

    try:
        return read_images_record(run.path)
    except CheckpointError:
        return None
