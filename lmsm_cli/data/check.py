"""What there is to know of a data set before a training, as plain data: for `lmsm data`.

All facts come from what a training would read (`look_into` of splits.py), so the numbers are those
that it would record. What they mean is said in reports/data_findings.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lmsm_cli.data.class_folders import Listing, look_alikes
from lmsm_cli.data.decoded import middle
from lmsm_cli.data.fold_check import (
    FoldCounts,
    GroupFacts,
    fold_counts,
    group_facts,
    sides_of_folds,
)
from lmsm_cli.data.folder_contents import FolderContents
from lmsm_cli.data.headers import Shapes, read_headers, shapes_of
from lmsm_cli.data.identity import PARTS, Copies, Part, copies_of_pictures
from lmsm_cli.data.image_files import DeepLevels, all_levels
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.data.near_copies import MOST_IMAGES, near_copies
from lmsm_cli.data.splits import Data, DataAtHand, pictures_of
from lmsm_cli.errors import few
from lmsm_cli.runtime.display import Display
from lmsm_cli.shot_groups import by_train_count, shot_groups


@dataclass(frozen=True)
class ClassImages:
    """The images of a class by what a training would do with them."""

    name: str
    group: str | None
    """many, medium or few, as the scores of a run have it; None where there are no groups."""
    parts: Mapping[Part, int]
    folds: tuple[int, ...] | None = None
    """The test images of each fold, of which one is that of the parts; None without folds."""

    @property
    def tested(self) -> int:
        """The images that are tested, of folds in all of them."""
        return self.parts["test"] if self.folds is None else sum(self.folds)

    @property
    def total(self) -> int:
        """All images that the training would have of the class."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class FolderFacts:
    """What is known of the files of class folders; names are those from the data folder on."""

    shapes: Shapes | None
    unreadable: Mapping[str, str]
    """Each file that cannot be read, with the reason."""
    left_out: Mapping[str, list[str]]
    """What is not read: files and links by kind (see LeftOut); `beside` those with a role."""
    empty: list[str]
    """Classes without a training image that can be read, those that are left out before others."""
    lonely: list[str]
    """Classes with one image, which is trained on and never tested."""
    strange: list[str]
    """Class folders of the test or the validation that are none of the training's."""
    look_alikes: list[list[str]]
    is_shared_out: bool
    """Whether a part of the images becomes the test, since there is none."""
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    """What a training refuses, but for unreadable files."""
    levels: DeepLevels = field(default_factory=DeepLevels)
    """Of the images of 16 bits."""


@dataclass(frozen=True)
class DataCheck:
    """All that is known of a data set before a training."""

    dataset: str
    place: Path | None
    """None for a set that needs no folder."""
    classes: tuple[ClassImages, ...]
    """The commonest first."""
    copies: list[Copies]
    """Pictures that stand more than once."""
    alike: list[Copies] | None
    """Others that look nearly the same, in two classes or parts; None where they are too many."""
    faults: list[str]
    """Why the choices of the training leave too few images."""
    folder: FolderFacts | None
    """None for a published set."""
    folds: FoldCounts | None = None
    images_of: GroupFacts | None = None
    """What stays on one side of every split; None where every image is for itself."""

    def count(self, part: Part, group: str | None = None) -> int:
        """Return the images of a part, of all classes or of a group of them."""
        return sum(one.parts[part] for one in self.classes if group in (None, one.group))

    @property
    def groups(self) -> dict[str, list[ClassImages]]:
        """The classes of each group, the commonest first; {} where there are no groups."""
        found: dict[str, list[ClassImages]] = {}
        for one in self.classes:
            if one.group is not None:
                found.setdefault(one.group, []).append(one)
        return found


def check_data(
    dataset: str, place: Path, at_hand: DataAtHand, image_size: int, display: Display
) -> DataCheck:
    """Return what is known of a data set.

    Args:
        dataset: its name.
        place: the folder that it is in.
        at_hand: what a training would read of it.
        image_size: the pixels of a side that the images of class folders are brought to.
        display: is shown how far the reading of headers is.
    """
    folder = at_hand.folder
    facts = _folder_facts(place, folder, image_size, display) if folder else None
    data, config = at_hand.data, at_hand.config
    copies, alike = _copies(data, at_hand) if data else ([], [])
    folds = None
    if data and data.folds:
        folds = fold_counts(data.folds, config.split_seed, config.test_images_per_class)
    return DataCheck(
        dataset,
        None if dataset == "digits" else place,
        _classes(at_hand, folds),
        copies,
        alike,
        at_hand.faults,
        facts,
        folds,
        group_facts(folder.own) if folder and folder.own else None,
    )


def _copies(data: Data, at_hand: DataAtHand) -> tuple[list[Copies], list[Copies] | None]:
    """Return the pictures that stand more than once, and others that look nearly the same."""
    own = at_hand.folder and at_hand.folder.own
    parts: Mapping[str, ImageSet] = {str(part): one for part, one in data.parts.items()}
    if own and own.folds:
        parts = sides_of_folds(own, own.folds, at_hand.config.fold or 0)
    pictures = {part: pictures_of(part, images) for part, images in parts.items()}
    copies = copies_of_pictures(pictures)
    if sum(map(len, parts.values())) > MOST_IMAGES:
        return copies, None
    side, *_ = data.image_shape
    images = {part: middle(one.images, side) for part, one in parts.items()}
    return copies, near_copies(pictures, images, copies)


def _classes(at_hand: DataAtHand, folds: FoldCounts | None) -> tuple[ClassImages, ...]:
    """Return the images of each class, the commonest in training first."""
    names, counts = _counts(at_hand)
    training = counts["training"]
    # a class without images would be mended before there is a training with groups
    known = [number for number, count in enumerate(training) if count]
    groups = {
        known[place]: name
        for name, places in shot_groups([training[number] for number in known]).items()
        for place in places
    }
    return tuple(
        ClassImages(
            names[row],
            groups.get(row),
            {part: counts[part][row] for part in PARTS},
            None if folds is None else tuple(folds.tested[names[row]]),
        )
        for row in by_train_count(training)
    )


def _counts(at_hand: DataAtHand) -> tuple[Sequence[str], dict[Part, list[int]]]:
    if at_hand.data is None:
        assert at_hand.folder is not None
        names = next(iter(at_hand.folder.layout.listings.values())).classes
        return names, {part: [0] * len(names) for part in PARTS}
    parts = at_hand.data.parts
    names = at_hand.data.training.classes
    return names, {
        part: parts[part].counts() if part in parts else [0] * len(names) for part in PARTS
    }


def _folder_facts(
    place: Path, folder: FolderContents, image_size: int, display: Display
) -> FolderFacts:
    layout = folder.layout
    first = next(iter(layout.listings))
    train = layout.listings[first]
    headers = [
        header
        for part in folder.read.values()
        for header in read_headers(part.listing.root, part.listing.files, display)
    ]
    left = folder.read[first].listing.counts() if first in folder.read else [0] * len(train.classes)
    counts = list(zip(train.classes, train.counts(), left, strict=True))
    lost = [name for name, there, readable in counts if there and not readable]
    lonely = [name for name, _, readable in counts if readable == 1] if layout.is_shared_out else []
    return FolderFacts(
        shapes=shapes_of(headers, image_size),
        unreadable={
            folder.places(role) + file: reason
            for role, part in folder.read.items()
            for file, reason in part.unreadable.items()
        },
        left_out=_left_out(folder),
        empty=[*layout.dropped, *(name for name, _, readable in counts if not readable)],
        lonely=lonely,
        strange=[
            folder.places(role) + name for role, names in layout.strange.items() for name in names
        ],
        look_alikes=look_alikes(train.classes),
        is_shared_out=layout.is_shared_out,
        notes=[*(note.removeprefix(f"{place}: ") for note in layout.notes), *_other_order(train)],
        faults=[
            *layout.stops,
            *layout.faults,
            *([f"no image of {few(lost)} can be read"] if lost else []),
        ],
        levels=all_levels(part.levels for part in folder.read.values()),
    )


def _other_order(listing: Listing) -> list[str]:
    """Return that the classes of a list stand otherwise than class folders of their names would.

    Numbers are in their order, since others have results by number too; folders are in that of
    letters. The images are then divided by other draws.
    """
    if listing.source is None or sorted(listing.classes) == list(listing.classes):
        return []
    return [
        "the classes are in the order of their numbers, not in that of letters: class folders of "
        "these names make other runs"
    ]


def _left_out(folder: FolderContents) -> dict[str, list[str]]:
    """Return what is not read, by kind."""
    found: dict[str, list[str]] = {"beside": list(folder.layout.beside)}
    for role, listing in folder.layout.listings.items():
        for kind, names in vars(listing.left_out).items():
            found.setdefault(kind, []).extend(folder.places(role) + name for name in names)
    return {kind: names for kind, names in found.items() if names}
