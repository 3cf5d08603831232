"""Which runs had the same images, by the digests in their scores.json, and notes where not.

Runs from before these digests have none: their images are not known, and nothing is taken for equal
to them but other such runs with as many images of the same classes.
"""

import hashlib
import shlex
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsm_cli.errors import CheckpointError, listed
from lmsm_cli.runs.record import OUTSIDE, RunRecord

if TYPE_CHECKING:
    from lmsm_cli.data.identity import Part

PARTS: "tuple[Part, ...]" = ("training", "validation", "test")
UNKNOWN = "unknown"
# What decides, with the data set itself, which of its images are tested on; and on which all is
# done, those first.
TEST_KEYS = (
    "dataset", "test_images_per_class", "test_from", "test_share", "folds", "fold", "group_pattern",
    "group_column", "split_column",
)  # fmt: skip
IMAGE_KEYS = (
    *TEST_KEYS, "imbalance", "factor", "images_per_class", "validation", "split_seed",
)  # fmt: skip
_SHORTEST_NAME = 8
_MOST_NOTES = 5
_MOST_NAMES = 3

Images = tuple[str | None, ...]
"""The digests of PARTS, None for a part without images."""


def images_of(record: RunRecord) -> Images | None:
    """Return which images a run had; None where that is not known."""
    known = record.scores.images if record.scores else None
    return tuple(getattr(known, part) for part in PARTS) if known else None


def names_of(found: Iterable[Images | None]) -> dict[Images | None, str]:
    """Return a short name for each distinct choice of images: the first digits of its digest."""
    whole = {
        images: hashlib.blake2b(repr(images).encode(), digest_size=16).hexdigest()
        for images in found
        if images
    }
    length = _SHORTEST_NAME
    while len({name[:length] for name in whole.values()}) < len(whole):
        length += 1
    return {None: UNKNOWN} | {images: name[:length] for images, name in whole.items()}


def named_images(records: Iterable[RunRecord]) -> dict[Images | None, str]:
    """Return a name for each distinct choice of images: that of the folder or list of a user's own
    where each has one that no other has, else as `names_of`."""
    places: dict[Images | None, set[str | None]] = {}
    for record in records:
        places.setdefault(images_of(record), set()).add(_place(record))
    found = [place for known in places.values() for place in known]
    if len(places) < 2 or None in places or None in found or len(found) > len(places):
        return names_of(places)
    whole = {images: str(place) for images, (place,) in places.items()}
    for names in ({images: Path(place).name for images, place in whole.items()}, whole):
        if len(set(names.values())) == len(places) and all(names.values()):
            return {None: UNKNOWN, **names}
    return names_of(places)


def _place(record: RunRecord) -> str | None:
    """Return where a run had a user's images; None for a published set and where it is unknown."""
    config = record.config or {}
    key = {"folder": "data_dir", "list": "image_list"}.get(str(config.get("dataset")))
    return str(config[key]) if key and config.get(key) and not record.is_outside else None


def choices_hide_it(records: Iterable[RunRecord], usual: Mapping[str, Any]) -> bool:
    """Return whether runs had different images that their choices alone do not tell apart.

    `usual` are the choices of a run that does not name them.
    """
    all_images: dict[Hashable, set[Images | None]] = {}
    test_images: dict[Hashable, set[str | None]] = {}
    for record in records:
        images = images_of(record)
        if record.is_outside:  # no choices are known
            test_images.setdefault(OUTSIDE, set()).add(images[-1] if images else UNKNOWN)
            continue
        choices = _choices(record, usual)
        all_images.setdefault(choices, set()).add(images)
        test_images.setdefault(_of_test(choices), set()).add(images[-1] if images else UNKNOWN)
    several: list[set[Any]] = [*all_images.values(), *test_images.values()]
    return any(len(found) > 1 for found in several)


def _choices(record: RunRecord, usual: Mapping[str, Any]) -> tuple[str, ...]:
    given = {**usual, **(record.config or {})}
    if given.get("folds"):  # which of the images a fold has is drawn by that seed
        given["fold"] = (given.get("fold"), given.get("split_seed"))
    return tuple(repr(given.get(key)) for key in IMAGE_KEYS)


def _of_test(choices: tuple[str, ...]) -> tuple[str, ...]:
    """Return those of the choices that decide the test images."""
    return choices[: len(TEST_KEYS)]


def notes_on_images(records: Sequence[RunRecord], usual: Mapping[str, Any]) -> list[str]:
    """Return which runs had other images than newer ones, how many differ and what to type.

    Images that differ by the runs' choices, such as another factor, are no news; of other
    programs' runs `same_images` tells.
    """
    members: dict[Images | None, list[RunRecord]] = {}
    own = (record for record in records if not record.is_outside)
    for record in sorted(own, key=lambda record: record.name):
        members.setdefault(images_of(record), []).append(record)
    old = members.pop(None, [])
    sets = [
        _Images(images, name, members[images], _choices(members[images][-1], usual))
        for images, name in named_images(records).items()
        if images and images in members
    ]
    sets.sort(key=lambda one: one.runs[-1].name, reverse=True)
    pairs = [(one, newer) for one in sets if (newer := _newer(one, sets))]
    notes = [_difference(one, newer) for one, newer in pairs[:_MOST_NOTES]]
    if len(pairs) > _MOST_NOTES:
        notes.append(f"{len(pairs) - _MOST_NOTES} more sets of images are not those of newer runs")
    if old:
        apart = "; they stand in rows of their own (images=unknown)" if members else ""
        verb = "is" if len(old) == 1 else "are"
        notes.append(
            f"{_listed(old)} {verb} from before runs recorded their images: "
            f"known are only the classes and the numbers of images{apart}"
        )
    return notes


def notes_on_damage(records: Iterable[RunRecord]) -> list[str]:
    """Return what turned out damaged while the runs were compared, and was left out."""
    found = [f"{problem}; left out" for record in records for problem in record.late_problems]
    more = len(found) - _MOST_NOTES
    return [*found[:_MOST_NOTES], *([f"{more} more files are left out so"] if more > 0 else [])]


@dataclass(frozen=True)
class _Images:
    """The runs, oldest first, on one choice of images."""

    images: Images
    name: str
    runs: Sequence[RunRecord]
    choices: tuple[str, ...]
    """Of the newest run, what decides its images."""

    @cached_property
    def counts(self) -> "dict[Part, Counter[bytes]] | None":
        """How often each image is there, by part; None where images.npz is missing or damaged."""
        from lmsm_cli.runs.images import read_images_record

        run = self.runs[-1]
        try:
            record = run.held_images or read_images_record(run.path)
        except CheckpointError:
            return None
        if record is None:
            return None
        return {part: Counter(record.of(part).identities()) for part in PARTS}


def _newer(one: _Images, sets: Sequence[_Images]) -> _Images | None:
    """Return the newest images that should have been the same, by choices or to test on."""
    same = next(other for other in sets if other.choices == one.choices)
    if same is not one:
        return same
    newest = next(other for other in sets if _of_test(other.choices) == _of_test(one.choices))
    return None if newest.images[-1] == one.images[-1] else newest


def _difference(one: _Images, newer: _Images) -> str:
    """Return how images differ from those of newer runs, and the way out."""
    command = ["lmsm", "train", "--config", str(one.runs[-1].path / "config.yaml")]
    if data_dir := (newer.runs[-1].config or {}).get("data_dir"):
        command += ["--data-dir", str(data_dir)]
    return (
        f"images={one.name} ({_listed(one.runs)}) are not images={newer.name} "
        f"({_listed(newer.runs)}): {_counts(one, newer)}; "
        f"to compare them, train on one data set: `{shlex.join(command)}`"
    )


def _listed(runs: Sequence[RunRecord]) -> str:
    return listed([run.name for run in runs], _MOST_NAMES)


def _counts(one: _Images, newer: _Images) -> str:
    """Return how many images of each part differ: `3 of 64 training images differ`."""
    pairs = zip(PARTS, one.images, newer.images, strict=True)
    unlike = [part for part, own, other in pairs if own != other]
    if one.counts is None or newer.counts is None:
        return (
            f"other {' and '.join(unlike)} images "
            "(how many is not known, since images.npz is missing or damaged)"
        )
    return ", ".join(_count(part, one.counts[part], newer.counts[part]) for part in unlike)


def _count(part: str, one: Counter[bytes], newer: Counter[bytes]) -> str:
    shares = (
        f"{(own - other).total():,} of {own.total():,}"
        for own, other in ((one, newer), (newer, one))
    )
    return f"{' and '.join(dict.fromkeys(shares))} {part} images differ"
