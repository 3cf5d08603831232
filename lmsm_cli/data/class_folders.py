"""List the images of a folder that holds one folder of images per class.

Labels follow the alphabetical order of the class folders, images the sorted order of their names,
so that an index means the same image every time. A class is a folder of the first level; below it
images lie at any depth (see walk.py). Control characters in a class name are spelled out, since
class names go to terminals and logs.
"""

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from lmsm_cli.data.image_files import Resize
from lmsm_cli.data.lists import ImageLists
from lmsm_cli.data.walk import SUFFIXES, LeftOut, is_inside, walk
from lmsm_cli.errors import DataError, few, visible


@dataclass(frozen=True)
class FolderOptions:
    """How class folders and lists of files are read."""

    image_size: int = 32
    """Pixels of a side; of published data sets that of the set."""
    resize: Resize = "crop"
    follow_links: bool = False
    """Whether links out of the folder are read."""
    skip_unreadable: bool = False
    lists: ImageLists | None = None
    """The lists that name the images, where class folders do not tell their classes."""


DEFAULTS = FolderOptions()


@dataclass(frozen=True)
class Listing:
    """Labelled image files below a folder, without their contents."""

    root: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]  # relative to root
    labels: tuple[int, ...]
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)
    source: Path | None = None
    """The list that names the files; None where class folders do."""
    part: str = ""
    """What the files of a list are for: the lists of one folder have the same root."""
    groups: tuple[str, ...] = ()
    """Of each file the group that it belongs to, such as a patient; empty where none is told."""

    @property
    def empty(self) -> list[str]:
        """The classes without an image."""
        return [name for name, n in zip(self.classes, self.counts(), strict=True) if not n]

    def counts(self) -> list[int]:
        """Return the number of images of each class."""
        counts: list[int] = np.bincount(self.labels, minlength=len(self.classes)).tolist()
        return counts

    def without(self, files: set[str]) -> "Listing":
        """Return the listing without some files; the classes stay."""
        kept = [row for row, file in enumerate(self.files) if file not in files]
        return replace(
            self,
            files=tuple(self.files[row] for row in kept),
            labels=tuple(self.labels[row] for row in kept),
            groups=tuple(self.groups[row] for row in kept) if self.groups else (),
        )

    def classes_with(self, what: str, names: Sequence[str]) -> str:
        """Return the fact that classes have something: `no images`, `1 image`."""
        if self.source is None:
            return folders_with(what, self.root, names)
        if len(names) == 1:
            return f"class {names[0]!r} of {self.source} has {what}"
        return f"{len(names)} classes of {self.source} have {what}: {few(list(map(repr, names)))}"


def has_folders(path: Path) -> bool:
    """Return whether there is such a folder and it holds folders that are not hidden."""
    return path.is_dir() and bool(folder_names(path))


def folder_names(root: Path) -> list[str]:
    """Return the names of the folders, sorted, that are not hidden."""
    with os.scandir(root) as entries:
        return sorted(e.name for e in entries if not e.name.startswith(".") and Path(e).is_dir())


def list_class_folders(
    root: Path,
    options: FolderOptions = DEFAULTS,
    *,
    inside: Path | None = None,
    may_be_empty: bool = False,
    may_hold_runs: bool = False,
) -> Listing:
    """Return the images below each class folder of `root`, and what is left out there.

    Args:
        root: the folder of the class folders.
        options: say whether links out of the folder are followed.
        inside: the folder that links must stay inside, by default `root`.
        may_be_empty: allow class folders without images.
        may_hold_runs: allow class folders in which runs lie (see `runs_among`).

    Raises:
        DataError: there is no class folder, or some hold no images or hold runs, which are all
            named.
        OSError: a folder cannot be listed (see `os_errors_as_data_errors`).
    """
    inside, follow_links, endings = inside or root, options.follow_links, len(SUFFIXES) - 2
    wanted = f"expected {root / '<class>' / '*.jpg'} (or .png, and {endings} other endings)"
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; {wanted}")
    if not follow_links and not is_inside(os.path.realpath(root), os.path.realpath(inside)):
        raise DataError(f"{root} is a link out of {inside}: --follow-links reads what it leads to")
    names, left_out = _class_folders(root, inside, follow_links)
    if not names:
        raise DataError(f"{root} holds no class folders; {wanted}{left_out.hint()}")
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        tree = walk(root / name, inside=inside, follow_links=follow_links)
        files += [f"{name}/{image}" for image in tree.images]
        labels += [label] * len(tree.images)
        left_out.add(tree.left_out, name)
    listing = Listing(root, _class_names(root, names), tuple(files), tuple(labels), left_out)
    if listing.empty and not may_be_empty:
        raise DataError(
            f"{folders_with('no images', root, listing.empty)}; {wanted}{left_out.hint()}"
        )
    if (runs := runs_among(listing)) and not may_hold_runs:
        raise DataError(runs[0])
    return listing


def runs_among(listing: Listing) -> list[str]:
    """Return that class folders hold runs of lmsm, whose plots are no images of a class."""
    files = set(listing.left_out.foreign)
    parents = {name.rpartition("/")[0] for name in files if name.endswith("/config.yaml")}
    runs = {parent for parent in parents if f"{parent}/status.json" in files}
    names = sorted({parent.partition("/")[0] for parent in runs} - set(listing.empty))
    if not names:
        return []
    return [f"{folders_with('runs of lmsm', listing.root, names)}; move these elsewhere"]


def folders_with(what: str, root: Path, names: Sequence[str]) -> str:
    """Return the fact that class folders hold something, such as `no images`."""
    if len(names) == 1:
        return f"the class folder {root / names[0]} holds {what}"
    return f"{len(names)} class folders of {root} hold {what}: {few(list(map(repr, names)))}"


def _class_folders(root: Path, inside: Path, follow_links: bool) -> tuple[list[str], LeftOut]:
    """Return the names of the class folders, and what lies beside them and is left out."""
    names, left_out = [], LeftOut()
    with os.scandir(root) as entries:
        found = sorted(entries, key=lambda e: e.name)
    base = os.path.realpath(inside)
    for entry in found:
        if entry.name.startswith("."):
            left_out.hidden.append(entry.name)
            continue
        leads_out = entry.is_symlink() and not is_inside(os.path.realpath(entry.path), base)
        if leads_out and not follow_links:
            left_out.outside.append(entry.name)
        elif Path(entry).is_dir():
            names.append(entry.name)
        elif entry.name.lower().endswith(SUFFIXES):
            left_out.loose.append(entry.name)
        else:
            left_out.foreign.append(entry.name)
    return names, left_out


def _class_names(root: Path, folders: Sequence[str]) -> tuple[str, ...]:
    r"""Return folders' names with control characters spelled out, as \x1b.

    Raises DataError for two folders that would share a name.
    """
    names = [visible(os.fsencode(folder).decode("utf-8", "backslashreplace")) for folder in folders]
    same = sorted(name for name, count in Counter(names).items() if count > 1)
    if same:
        raise DataError(
            f"{root} holds class folders that are shown with one name: "
            f"{', '.join(map(repr, same))}; rename one of each"
        )
    return tuple(names)


def look_alikes(names: Sequence[str]) -> list[list[str]]:
    """Return the groups of class names that a person takes for the same."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[_person_sees(name)].append(name)
    return [group for group in groups.values() if len(group) > 1]


def match_classes(
    names: Sequence[str], classes: Sequence[str]
) -> tuple[list[int | None], list[str]]:
    """Return the place of each name among the classes, None for a strange one, and notes.

    A name that a person takes for one class, and for no other, is that class, which is noted.
    """
    exact = {name: place for place, name in enumerate(classes)}
    seen: dict[str, list[int]] = defaultdict(list)
    for name, place in exact.items():
        seen[_person_sees(name)].append(place)
    rivals = Counter(map(_person_sees, names))
    places: list[int | None] = []
    notes: list[str] = []
    for name in names:
        alike = seen[_person_sees(name)]
        if name not in exact and len(alike) == rivals[_person_sees(name)] == 1:
            places.append(alike[0])
            notes.append(f"{name!r} is taken for {classes[alike[0]]!r}")
        else:
            places.append(exact.get(name))
    return places, notes


def _person_sees(name: str) -> str:
    """Return a name without what a person overlooks: case, outer blanks, forms of Unicode."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).strip()
