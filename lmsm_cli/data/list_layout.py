"""The images that lists name, found on disk, and what they are for: as `layout.py` of folders.

A path in a list is relative to the list, or to the data folder where that is another. The images of
a part are put in the order of class folders, so that the same images make the same run, whatever
form they come in.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, get_args

from lmsm_cli.data.class_folders import (
    FolderOptions,
    Listing,
    look_alikes,
    match_classes,
)
from lmsm_cli.data.layout import Layout, Role, role_of
from lmsm_cli.data.listed_files import ListedFiles
from lmsm_cli.data.lists import ImageLists, Rows, by_line, read_class_names, read_rows
from lmsm_cli.errors import DataError, FaultsError, LmsmError, few, visible

_METADATA = "metadata"  # a list of this name is of the folder that it lies in


class _Entry(NamedTuple):
    """An image that a list names and that is there."""

    list: Path
    line: int
    file: str  # from the data folder on
    label: str
    role: Role | None
    group: str


@dataclass
class _Found:
    """What the lists gave."""

    entries: list[_Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    has_groups: bool = False


def read_list_layout(data_dir: Path, options: FolderOptions) -> Layout:
    """Return the images that lists name, what they are for, and every fault of the lists.

    Args:
        data_dir: the folder that the images lie in.
        options: tells the lists; whether links out of the folder are followed, and missing files
            left out.

    Raises DataError where a list cannot be understood, there are no training or test images or not
    two classes.
    """
    layout = look_at_list_layout(data_dir, options)
    if layout.stops:
        raise FaultsError(layout.faults + layout.stops)
    return layout


def look_at_list_layout(data_dir: Path, options: FolderOptions) -> Layout:
    """Return what `read_list_layout` does, also where parts or classes are missing (see `stops`).

    The classes are those of the training images, or of the first part that there is. Raises
    DataError where a list cannot be understood, or names no image that is there.
    """
    lists = options.lists
    assert lists is not None
    found, files = _Found(), ListedFiles(data_dir, follow_links=options.follow_links)
    for role, file, base in _files(lists, data_dir):
        rows = read_rows(file, lists)
        if rows.splits is not None and role is not None:
            raise DataError(
                f"{file} has a column of splits, and is named as a list of {role} images alone: "
                "give this list alone, or take the column out"
            )
        found.faults += rows.faults
        found.has_groups |= rows.groups is not None
        _add(found, rows, files, base, role, skip_missing=options.skip_unreadable)
    if not found.entries:
        raise FaultsError([*found.faults, f"{lists.path} names no image that is there"])
    found.entries = _each_once(found, _roles_by_folder(found))
    found.entries = _named(found, lists)
    if not found.entries:
        raise FaultsError(found.faults)
    return _layout(data_dir, lists, found)


def _files(lists: ImageLists, data_dir: Path) -> Iterator[tuple[Role | None, Path, Path]]:
    """Yield each list, what all its images are for (None: it says so), and its images' folder."""
    if lists.names is not None:
        for role, file in _lists_in(lists.path, lists.names):
            is_of_folder = file.stem.casefold() == _METADATA
            below = file.parent.relative_to(lists.path) if is_of_folder else ""
            yield role, file, data_dir / below
        return
    if lists.validation and not lists.test:
        raise LmsmError(
            f"validation_list {lists.validation} needs a test_list beside it; without both, a part "
            "of the images is held out for each"
        )
    stays = os.path.realpath(lists.path.parent) == os.path.realpath(data_dir)
    given: dict[Role, Path | None] = {
        "train": lists.path,
        "validation": lists.validation,
        "test": lists.test,
    }
    for role, one in given.items():
        if one is not None:
            yield role if lists.test else None, one, one.parent if stays else data_dir


def _lists_in(folder: Path, names: Sequence[str]) -> list[tuple[Role | None, Path]]:
    """Return the lists of a folder, one for each role. Raises DataError where two have one role."""
    if not names:
        raise DataError(
            f"{folder} holds no list; expected metadata.csv, or a file for each part such as "
            "NAME_train.txt and NAME_test.txt"
        )
    by_role: dict[Role | None, str] = {}
    for name in names:
        stem = Path(name).stem.replace("-", "_").replace(".", "_")
        role = role_of(stem.rpartition("_")[2]) or role_of(Path(name).parent.name)
        if role in by_role:
            what = f"lists of {role} images" if role else "lists"
            raise DataError(
                f"{folder} holds two {what}, {by_role[role]} and {name}; name those to take: "
                f"--dataset {folder}/... --test-list {folder}/..."
            )
        by_role[role] = name
    if len(by_role) > 1 and None in by_role:
        raise DataError(
            f"{folder} holds the lists {few(names)}, of all images and of parts; name one: "
            f"--dataset {folder / by_role[None]}"
        )
    return [(role, folder / by_role[role]) for role in (None, *get_args(Role)) if role in by_role]


def _add(
    found: _Found,
    rows: Rows,
    files: ListedFiles,
    base: Path,
    role: Role | None,
    *,
    skip_missing: bool,
) -> None:
    """Add the images of a list that are there; the others are faults, or notes if `skip_missing`.

    Args:
        found: what the lists gave so far.
        rows: what the list says.
        files: finds the files.
        base: the folder that the paths are relative to.
        role: what the images are for, where the list does not say it.
        skip_missing: whether to go on without the files that are not there.
    """
    lost: dict[str, list[tuple[int, str]]] = defaultdict(list)
    strange: list[tuple[int, str]] = []
    for row, (line, path, label) in enumerate(
        zip(rows.lines, rows.paths, rows.labels, strict=True)
    ):
        own = role
        if rows.splits is not None:
            own = role_of(rows.splits[row])
            if own is None:
                strange.append((line, repr(rows.splits[row])))
                continue
        file, fault = files.find(base, path)
        if fault:
            lost[fault].append((line, path))
        else:
            group = rows.groups[row] if rows.groups is not None else ""
            found.entries.append(_Entry(rows.file, line, file, label, own, group))
    if strange:
        what = "a split that is none of train, val and test"
        found.faults.append(by_line(rows.file, what, strange))
    for fault, lines in lost.items():
        text = f"{by_line(rows.file, fault, lines)}; {files.way_out(fault, base)}"
        if not files.is_missing(fault):
            found.faults.append(text)
        elif skip_missing:
            found.notes.append(f"skipped, to be mended: {text}")
        else:
            it = "it" if len(lines) == 1 else "them"
            found.faults.append(f"{text}, or go on without {it}: --skip-unreadable")


def _roles_by_folder(found: _Found) -> list[_Entry]:
    """Return the images; by their folders train/ and test/, where no list says what they are for.

    That holds where all lie in folders with the name of a role.
    """
    entries = found.entries
    if any(entry.role for entry in entries):
        return entries
    roles = [role_of(entry.file.partition("/")[0]) for entry in entries]
    if not {"train", "test"} <= set(roles) or None in roles:
        return entries
    found.notes.append(
        f"{entries[0].list}: what an image is for is told by its folder, train/ or test/, "
        "since there is no column split"
    )
    return [entry._replace(role=role) for entry, role in zip(entries, roles, strict=True)]


def _each_once(found: _Found, entries: Sequence[_Entry]) -> list[_Entry]:
    """Return each image once; two labels, two parts or two groups for one file are faults."""
    first: dict[str, _Entry] = {}
    labels: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    splits: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    groups: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    again: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    for entry in entries:
        before = first.setdefault(entry.file, entry)
        if before is entry:
            continue
        where = (
            f"line {before.line}" if before.list == entry.list else f"{before.list}:{before.line}"
        )
        if before.label != entry.label:
            text = f"{entry.file}: {entry.label!r}, and {before.label!r} in {where}"
            labels[entry.list].append((entry.line, text))
        if before.role != entry.role:
            text = f"{entry.file}: {entry.role}, and {before.role} in {where}"
            splits[entry.list].append((entry.line, text))
        if before.group != entry.group:
            text = f"{entry.file}: {entry.group!r}, and {before.group!r} in {where}"
            groups[entry.list].append((entry.line, text))
        if before[3:] == entry[3:]:
            again[entry.list].append((entry.line, entry.file))
    for what, lines, into in (
        ("a second label for a file", labels, found.faults),
        ("a second split for a file", splits, found.faults),
        ("a second group for a file", groups, found.faults),
        ("a file that stands there before, and is read once", again, found.notes),
    ):
        into += [by_line(file, what, own) for file, own in lines.items()]
    return list(first.values())


def _named(found: _Found, lists: ImageLists) -> list[_Entry]:
    """Return the images with the names of their classes in place of numbers, where a file has them.

    Control characters in a label are spelled out.
    """
    if lists.class_names is None:
        return [entry._replace(label=visible(entry.label)) for entry in found.entries]
    names = read_class_names(lists.class_names)
    entries: list[_Entry] = []
    nameless: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    for entry in found.entries:
        name = names.get(int(entry.label)) if _is_number(entry.label) else None
        if name is None:
            nameless[entry.list].append((entry.line, repr(entry.label)))
        else:
            entries.append(entry._replace(label=visible(name)))
    numbers = sorted(names)
    span = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
    what = f"a label without a name in {lists.class_names}, which names {span}"
    found.faults += [by_line(file, what, lines) for file, lines in nameless.items()]
    return entries


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 19


def _layout(data_dir: Path, lists: ImageLists, found: _Found) -> Layout:
    """Return the images by what they are for."""
    by_role: dict[Role, list[_Entry]] = defaultdict(list)
    for entry in found.entries:
        by_role[entry.role or "train"].append(entry)
    roles = [role for role in get_args(Role) if by_role[role]]
    is_shared_out = not any(entry.role for entry in found.entries)
    classes = _sorted_classes({entry.label for entry in by_role[roles[0]]}, lists)
    stops = [] if is_shared_out else _lacking(lists, roles)
    if len(classes) == 1:
        stops.append(
            f"the {roles[0]} images of {lists.path} are all of one class, {classes[0]!r}: "
            "to tell classes apart takes at least two"
        )
    notes = found.notes + [
        f"{lists.path}: {' and '.join(map(repr, alike))} look the same, and are classes of their "
        "own"
        for alike in look_alikes(classes)
    ]
    faults = list(found.faults)
    listings: dict[Role, Listing] = {}
    strangers: dict[Role, list[str]] = {}
    for role in roles:
        known, more, strange = _as_in_training(by_role[role], classes)
        notes += more
        for file, lines in strange.items():
            faults.append(by_line(file, f"a {role} class without a training image", lines))
            strangers[role] = sorted({label for _, label in lines})
        listings[role] = _listing(data_dir, lists, role, known, classes, groups=found.has_groups)
        if not known:
            faults.append(f"{lists.path} names no {role} image of a training class")
    return Layout(listings, notes, faults, stops, strangers, is_shared_out=is_shared_out)


def _lacking(lists: ImageLists, roles: Sequence[Role]) -> list[str]:
    """Return why parts are too few, if training or test images are missing."""
    ways = {
        "train": "give them too",
        "test": "name a list of them with --test-list, or give those of another part that name "
        "(where no part is told, a fifth of each class is the test)",
    }
    return [
        f"{lists.path} names {' and '.join(roles)} images, and no {part} images that are there: "
        f"{way}"
        for part, way in ways.items()
        if part not in roles
    ][:1]


def _sorted_classes(labels: set[str], lists: ImageLists) -> tuple[str, ...]:
    """Return the class names in the order of the file of names, else of numbers or letters."""
    if lists.class_names is not None:
        names = {
            visible(name): number for number, name in read_class_names(lists.class_names).items()
        }
        return tuple(sorted(labels, key=names.__getitem__))
    if all(map(_is_number, labels)):
        return tuple(sorted(labels, key=lambda label: (int(label), label)))
    return tuple(sorted(labels))


def _as_in_training(
    entries: Sequence[_Entry], classes: Sequence[str]
) -> tuple[list[_Entry], list[str], dict[Path, list[tuple[int, str]]]]:
    """Return images labelled by the training's classes, notes, and the lines of other labels."""
    labels = sorted({entry.label for entry in entries})
    places, notes = match_classes(labels, classes)
    known = {
        label: classes[place]
        for label, place in zip(labels, places, strict=True)
        if place is not None
    }
    kept: list[_Entry] = []
    strange: dict[Path, list[tuple[int, str]]] = defaultdict(list)
    for entry in entries:
        if entry.label in known:
            kept.append(entry._replace(label=known[entry.label]))
        else:
            strange[entry.list].append((entry.line, repr(entry.label)))
    return kept, [f"{entries[0].list}: {note}" for note in notes], strange


def _listing(
    data_dir: Path,
    lists: ImageLists,
    role: Role,
    entries: Sequence[_Entry],
    classes: tuple[str, ...],
    *,
    groups: bool,
) -> Listing:
    """Return the images of a part, in the order that class folders have."""
    label_of = {name: number for number, name in enumerate(classes)}
    ordered = sorted(entries, key=lambda entry: (label_of[entry.label], entry.file.split("/")))
    return Listing(
        data_dir,
        classes,
        tuple(entry.file for entry in ordered),
        tuple(label_of[entry.label] for entry in ordered),
        source=lists.path,
        part=role,
        groups=tuple(entry.group for entry in ordered) if groups else (),
    )
