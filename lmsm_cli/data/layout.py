"""Which of a user's class folders are for what: `train/`, `test/` and `val/`, or classes alone.

`val/`, `valid/` and `validation/` beside `train/` hold the validation images; upper and lower case
are the same. Where there is neither `train/` nor `test/`, every folder is a class. The classes are
those of the training images: a test may lack some, and must not have others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from lmsm_cli.data.class_folders import (
    Listing,
    empty_folders,
    folder_names,
    has_folders,
    list_class_folders,
    lonely_folders,
    look_alikes,
    matched,
)
from lmsm_cli.data.image_files import Resize
from lmsm_cli.errors import DataError, counted, few

Role = Literal["train", "validation", "test"]

_ROLES: dict[str, Role] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class FolderOptions:
    """How class folders are read."""

    image_size: int = 32
    """Pixels of a side; of published data sets that of the set."""
    resize: Resize = "crop"
    follow_links: bool = False
    """Whether links out of the folder are read."""
    skip_unreadable: bool = False


DEFAULTS = FolderOptions()


@dataclass(frozen=True)
class Layout:
    """The images of a user's folder by what they are for, all labelled by the same classes."""

    data_dir: Path
    train: Listing
    """Without `test`: all images, of which a part is for the test."""
    validation: Listing | None = None
    test: Listing | None = None
    told: list[str] = field(default_factory=list)
    """What a user should know of it, a sentence each."""
    faults: list[str] = field(default_factory=list)
    """Why it cannot be trained on."""

    @property
    def listings(self) -> dict[Role, Listing]:
        """The listings that there are."""
        by_role: dict[Role, Listing | None] = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
        }
        return {role: listing for role, listing in by_role.items() if listing is not None}


def roles_in(data_dir: Path) -> dict[Role, Path]:
    """Return the folders of class folders that have a role by their names, in the order of their use.

    It is empty where all are classes. Raises DataError where two folders have one role, OSError where a folder cannot be listed.
    """
    found: dict[Role, Path] = {}
    for name in folder_names(data_dir) if data_dir.is_dir() else []:
        role = _ROLES.get(name.strip().casefold())
        if role is None or not has_folders(data_dir / name):
            continue
        if role in found:
            raise DataError(
                f"{data_dir} holds two folders of {role} images, {found[role].name}/ and {name}/: keep one, or give the other a name with a leading dot"
            )
        found[role] = data_dir / name
    if not found.keys() & {"train", "test"}:
        return {}
    return {role: found[role] for role in get_args(Role) if role in found}


def read_layout(data_dir: Path, options: FolderOptions) -> Layout:
    """Return the images that class folders hold, and what they are for.

    Folders without images and classes of the test alone are faults of the layout, to be told together
    with what cannot be read. Raises DataError where there are no training or test images or not two
    classes, OSError where a folder cannot be listed.
    """
    roles = roles_in(data_dir)
    if not roles:
        train = list_class_folders(data_dir, follow_links=options.follow_links, may_be_empty=True)
        _check_classes(train)
        faults = [*faults_of(train), *lonely_folders(train)]
        return Layout(data_dir, train, told=_told_of_classes(data_dir, train), faults=faults)
    _check_roles(data_dir, roles)
    listings = {
        role: list_class_folders(
            root, inside=data_dir, follow_links=options.follow_links, may_be_empty=True
        )
        for role, root in roles.items()
    }
    train = listings["train"]
    _check_classes(train)
    told, faults = _beside(data_dir, roles) + _told_look_alikes(train), faults_of(train)
    for role, listing in listings.items():
        told += listing.left_out.words(listing.root)
        if role == "train":
            continue
        listings[role], more, strange = relabelled(listing, train.classes)
        told += more
        if strange:
            faults.append(
                f"{listing.root} has class folders that {train.root} lacks: {few(strange)}"
            )
        if not listing.files:
            faults.append(f"{listing.root} holds no images{listing.left_out.hint()}")
    return Layout(data_dir, train, listings.get("validation"), listings["test"], told, faults)


def relabelled(listing: Listing, classes: Sequence[str]) -> tuple[Listing, list[str], list[str]]:
    """Return a listing labelled by other classes, what to tell, and its folders that are none of them.

    The images of those are not in it.
    """
    places, told = matched(listing.classes, classes)
    kept = [
        (file, places[label]) for file, label in zip(listing.files, listing.labels, strict=True)
    ]
    unknown = [
        name
        for name, place, n in zip(listing.classes, places, listing.counts(), strict=True)
        if place is None and n
    ]
    known = listing.without({file for file, place in kept if place is None})
    labels = tuple(place for _, place in kept if place is not None)
    told = [f"{listing.root}: {text}" for text in told]
    return replace(known, classes=tuple(classes), labels=labels), told, unknown


def missing_classes(what: str, listing: Listing) -> list[str]:
    """Return the warning that classes have no images, if some have none."""
    if not listing.empty:
        return []
    return [
        f"there is no {what}{' ' if what else ''}image of {len(listing.empty)} of {len(listing.classes)} classes ({few(listing.empty)}): means over classes are over those that have some"
    ]


def _told_of_classes(data_dir: Path, train: Listing) -> list[str]:
    told = train.left_out.words(data_dir) + _told_look_alikes(train)
    named = [name for name in train.classes if name.strip().casefold() in _ROLES]
    if named:
        told.append(
            f"{data_dir}: {few(named)} taken for {'a class' if len(named) == 1 else 'classes'}, since there is no train/ with class folders"
        )
    return told


def _told_look_alikes(listing: Listing) -> list[str]:
    return [
        f"{listing.root}: {' and '.join(map(repr, names))} look the same, and are classes of their own"
        for names in look_alikes(listing.classes)
    ]


def _beside(data_dir: Path, roles: dict[Role, Path]) -> list[str]:
    """Return what lies beside the folders that have a role, in a sentence."""
    known = {root.name for root in roles.values()}
    names = sorted(
        path.name
        for path in data_dir.iterdir()
        if path.name not in known and not path.name.startswith(".")
    )
    if not names:
        return []
    return [
        f"{data_dir}: {counted(len(names), 'name')} left out beside {' and '.join(f'{name}/' for name in sorted(known))}: {few(names)}"
    ]


def _check_roles(data_dir: Path, roles: dict[Role, Path]) -> None:
    """Raise DataError where there are no training or no test images."""
    if "train" not in roles:
        raise DataError(_lacking(data_dir, "train"))
    if "test" not in roles:
        train = roles["train"].name
        ways = [f"rename {roles['validation'].name}/ to test/"] if "validation" in roles else []
        ways.append(f"move the class folders of {train}/ up, and a fifth of each is the test")
        ways.append(f"rename {train}/ if it is a class")
        raise DataError(f"{_lacking(data_dir, 'test')}, or {', or '.join(ways)}")


def _lacking(data_dir: Path, role: Role) -> str:
    """Return that there are no class folders for a part, and where they are expected."""
    flat = [name for name in folder_names(data_dir) if _ROLES.get(name.strip().casefold()) == role]
    expected = data_dir / role / "<class>" / "*.jpg"
    if flat:
        return f"{data_dir / flat[0]} holds no class folders; expected {expected}"
    return f"there is no folder {data_dir / role}; expected {expected}"


def _check_classes(train: Listing) -> None:
    """Raise DataError for a single class."""
    if len(train.classes) == 1:
        raise DataError(
            f"{train.root} holds one class folder, {train.classes[0]!r}: to tell classes apart takes at least two"
        )


def faults_of(train: Listing) -> list[str]:
    """Return why the training images cannot be trained on: classes without any."""
    return [empty_folders(train.root, train.empty) + train.left_out.hint()] if train.empty else []
