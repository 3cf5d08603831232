"""The parts of a user's class folders: `train/`, `test/` and `val/`, or classes alone.

`val/`, `valid/` and `validation/` beside `train/` hold the validation images; upper and lower case
are the same. Where there is neither `train/` nor `test/`, every folder is a class. The classes are
those of the training images: a test may lack some, and must not have others.
"""

import os
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

from lmsm_cli.data.class_folders import (
    FolderOptions,
    Listing,
    folder_names,
    folders_with,
    has_folders,
    list_class_folders,
    look_alikes,
    match_classes,
    runs_among,
)
from lmsm_cli.errors import (
    DataError,
    FaultsError,
    LmsmError,
    counted,
    few,
    os_errors_as_data_errors,
)

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
class Layout:
    """The images of a user's folder by what they are for, all labelled by the same classes."""

    listings: dict[Role, Listing]
    """Where only `train` is there, it has all images, of which a part is for the test."""
    notes: list[str]
    """What a user should know of it, a sentence each."""
    faults: list[str]
    """Why it cannot be trained on, whatever the files hold."""
    stops: list[str] = field(default_factory=list)
    """What a training refuses before it reads an image: a part or a second class is missing."""
    strange: dict[Role, list[str]] = field(default_factory=dict)
    """Class folders of a part with images that are none of the training's classes."""
    beside: list[str] = field(default_factory=list)
    """What lies beside the folders that have a role, and is not read."""
    dropped: list[str] = field(default_factory=list)
    """Class folders without images, which are left out on request."""
    is_shared_out: bool = False
    """Whether the classes stand alone, so that a part of `train` is for the test."""


def roles_in(data_dir: Path) -> dict[Role, Path]:
    """Return the folders of class folders whose names say what they are for, in the order of roles.

    It is empty where all are classes. Raises DataError where two folders have one role, OSError
    where a folder cannot be listed.
    """
    found: dict[Role, Path] = {}
    for name in folder_names(data_dir) if data_dir.is_dir() else []:
        role = role_of(name)
        if role is None or not has_folders(data_dir / name):
            continue
        if role in found:
            raise DataError(
                f"{data_dir} holds two folders of {role} images, {found[role].name}/ and {name}/: "
                "keep one, or give the other a name with a leading dot"
            )
        found[role] = data_dir / name
    if not found.keys() & {"train", "test"}:
        return {}
    return {role: found[role] for role in get_args(Role) if role in found}


def check_apart(flag: str, path: Path, dataset: str, data_dir: Path) -> None:
    """Raise LmsmError where what a flag has written would lie among the images of class folders:
    the next look would take it for a class, for an image of one, for the images of a part, or for
    their list.

    What lies beside train/ and test/ under another name is read by none.
    """
    if dataset != "folder":
        return
    # Path.resolve raises a RuntimeError of its own for a link that leads to itself
    written, images = (Path(os.path.realpath(place)) for place in (path, data_dir))
    with os_errors_as_data_errors(data_dir):
        parts = roles_in(data_dir).values()
    places = [Path(os.path.realpath(part)) for part in parts] or [images]
    becomes_part = images in written.parents and _is_read(*written.relative_to(images).parts)
    if becomes_part or any(place == written or place in written.parents for place in places):
        elsewhere = images.parent / (path.name if written != images else "runs")
        raise LmsmError(
            f"{flag} {path} lies in the folder of the images, {data_dir}, where the next run "
            "would take it for some of them: give another place, such as "
            f"{flag} {shlex.quote(str(elsewhere))}"
        )


def _is_read(name: str, *below: str) -> bool:
    """Return whether what has this name beside the parts, itself or by what is below, is read.

    A file is where it is named as a list of images.
    """
    stem, dot, ending = name.casefold().rpartition(".")
    is_list = not below and dot and ending in ("csv", "tsv", "txt")
    last = re.split(r"[-._]", stem)[-1]
    return bool(role_of(name) or (is_list and (stem == "metadata" or role_of(last))))


def read_layout(data_dir: Path, options: FolderOptions) -> Layout:
    """Return the images that class folders hold, and what they are for.

    Folders without images and classes of the test alone are faults of the layout, to be reported
    together with files that cannot be read. Raises DataError where there are no training or test
    images or not two classes, OSError where a folder cannot be listed.
    """
    layout = look_at_layout(data_dir, options)
    if layout.stops:
        raise FaultsError([*layout.stops, *layout.faults])
    return layout


def look_at_layout(data_dir: Path, options: FolderOptions) -> Layout:
    """Return what `read_layout` does, also where parts or classes are missing (see `stops`).

    The classes are those of the training images, or of the first part that there is.
    """
    roles = roles_in(data_dir)
    stops = (
        [_lacking_part(data_dir, roles)] if roles and not {"train", "test"} <= set(roles) else []
    )
    listings = {
        role: list_class_folders(
            root, options, inside=data_dir, may_be_empty=True, may_hold_runs=True
        )
        for role, root in (roles or {"train": data_dir}).items()
    }
    first = next(iter(listings))
    train, dropped = _without_empty(listings[first], options)
    listings[first] = train
    if len(train.classes) == 1:
        stops.append(
            f"{train.root} holds one class folder, {train.classes[0]!r}: "
            "to tell classes apart takes at least two"
        )
    beside = _others_in(data_dir, roles)
    notes = _names_beside(data_dir, roles) + train.left_out.words(train.root)
    if dropped:
        notes.append(f"skipped: {folders_with('no images', train.root, dropped)}")
    notes += [
        f"{train.root}: {' and '.join(map(repr, alike))} look the same, "
        "and are classes of their own"
        for alike in look_alikes(train.classes)
    ]
    faults = faults_of(train)
    if not roles:
        notes += _roles_as_classes(train)
        return Layout(listings, notes, faults, stops, dropped=dropped, is_shared_out=True)
    strangers: dict[Role, list[str]] = {}
    for role, listing in listings.items():
        if listing is train:
            continue
        faults += runs_among(listing)
        listings[role], more, strange = relabelled(listing, train.classes)
        notes += listing.left_out.words(listing.root) + more
        if strange:
            strangers[role] = strange
            faults.append(
                f"{listing.root} has class folders that {train.root} lacks: {few(strange)}"
            )
        if not listing.files:
            faults.append(f"{listing.root} holds no images{listing.left_out.hint()}")
    return Layout(listings, notes, faults, stops, strangers, beside, dropped)


def relabelled(listing: Listing, classes: Sequence[str]) -> tuple[Listing, list[str], list[str]]:
    """Return a listing labelled by other classes, notes, and its folders that are none of them.

    The images of those are not in it.
    """
    places, notes = match_classes(listing.classes, classes)
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
    notes = [f"{listing.root}: {text}" for text in notes]
    return replace(known, classes=tuple(classes), labels=labels), notes, unknown


def missing_classes(what: str, listing: Listing) -> list[str]:
    """Return the warning that classes have no images, if some have none."""
    if not listing.empty:
        return []
    return [
        f"there is no {what}{' ' if what else ''}image of {len(listing.empty)} of "
        f"{len(listing.classes)} classes ({few(listing.empty)}): "
        "means over classes are over those that have some"
    ]


def faults_of(train: Listing) -> list[str]:
    """Return why the training images cannot be trained on: classes without any, runs among them."""
    faults = runs_among(train)
    if not train.empty:
        return faults
    fact = train.classes_with("no images", train.empty) + train.left_out.hint()
    it = "it" if len(train.empty) == 1 else "them"
    text = f"{fact}; add some, or remove {it}"
    more = f", or go on without {it}: --skip-unreadable" if _may_drop(train) else ""
    return [*faults, text + more]


def _may_drop(train: Listing) -> bool:
    """Return whether the classes without images can be left out: two others are needed.

    A list has classes for its images alone, and those that cannot be read are no reason to drop a
    class: somebody meant it to be there.
    """
    return train.source is None and len(train.classes) - len(train.empty) >= 2


def _without_empty(train: Listing, options: FolderOptions) -> tuple[Listing, list[str]]:
    """Return training images without the classes that have none, on request, and those."""
    empty = train.empty
    if not options.skip_unreadable or not empty or not _may_drop(train):
        return train, []
    kept = [place for place, name in enumerate(train.classes) if name not in empty]
    labels = tuple(kept.index(label) for label in train.labels)
    return replace(
        train, classes=tuple(train.classes[place] for place in kept), labels=labels
    ), empty


def role_of(name: str) -> Role | None:
    """Return what images are for, by the name of their folder or their part; None for no such."""
    return _ROLES.get(name.strip().casefold())


def _roles_as_classes(train: Listing) -> list[str]:
    """Return a note on folders with the name of a role that are classes."""
    names = [name for name in train.classes if role_of(name)]
    kind = "a class" if len(names) == 1 else "classes"
    why = "since there is no train/ with class folders"
    return [f"{train.root}: {few(names)} taken for {kind}, {why}"] if names else []


def _others_in(data_dir: Path, roles: dict[Role, Path]) -> list[str]:
    """Return what lies beside the folders that have a role."""
    known = {root.name for root in roles.values()}
    names = sorted(path.name for path in data_dir.iterdir() if not path.name.startswith("."))
    return [name for name in names if name not in known] if roles else []


def _names_beside(data_dir: Path, roles: dict[Role, Path]) -> list[str]:
    """Return a note on what lies beside the folders that have a role."""
    others = _others_in(data_dir, roles)
    if not others:
        return []
    beside = " and ".join(f"{name}/" for name in sorted(root.name for root in roles.values()))
    return [f"{data_dir}: {counted(len(others), 'name')} left out beside {beside}: {few(others)}"]


def _lacking_part(data_dir: Path, roles: dict[Role, Path]) -> str:
    """Return that there are no training or no test images, of which one is missing."""
    if "train" not in roles:
        return _lacking(data_dir, "train")
    train = roles["train"].name
    ways = [f"rename {roles['validation'].name}/ to test/"] if "validation" in roles else []
    ways.append(f"move the class folders of {train}/ up, and a fifth of each is the test")
    ways.append(f"rename {train}/ if it is a class")
    return f"{_lacking(data_dir, 'test')}, or {', or '.join(ways)}"


def _lacking(data_dir: Path, role: Role) -> str:
    """Return that there are no class folders for a part, and where they are expected."""
    flat = [name for name in folder_names(data_dir) if role_of(name) == role]
    expected = data_dir / role / "<class>" / "*.jpg"
    if flat:
        return f"{data_dir / flat[0]} holds no class folders; expected {expected}"
    return f"there is no folder {data_dir / role}; expected {expected}"
