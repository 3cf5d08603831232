"""All that a user's class folders or lists hold, whatever would stop a training there."""

from pathlib import Path
from typing import NamedTuple

from lmsm_cli.data.class_folders import FolderOptions
from lmsm_cli.data.decoding import ReadImages, read_what_can_be
from lmsm_cli.data.folds import Division, check_sides
from lmsm_cli.data.image_files import pillow_warnings
from lmsm_cli.data.image_set import Labelled, labelled
from lmsm_cli.data.layout import Layout, Role, look_at_layout
from lmsm_cli.data.list_layout import look_at_list_layout
from lmsm_cli.data.own_folder import OwnFolder, check_undivided, divided
from lmsm_cli.errors import DataError, os_errors_as_data_errors
from lmsm_cli.runtime.display import SILENT, Display


class FolderContents(NamedTuple):
    """What lies in class folders, what can be read of it, and what a training would make of it."""

    layout: Layout
    read: dict[Role, ReadImages]
    own: OwnFolder | None
    """What a training would get if it went on; None where no image can be read."""
    faults: list[str]
    """Why the images cannot be divided into training and test as asked."""

    def places(self, role: Role) -> str:
        """Return what stands before the names of a part's files below the data folder."""
        listing = self.layout.listings[role]
        is_whole = self.layout.is_shared_out or listing.source is not None
        return "" if is_whole else f"{listing.root.name}/"


def look_at_own_layout(data_dir: Path, options: FolderOptions) -> Layout:
    """Return which of a user's images are for what, also where parts or classes are missing.

    No image is read. Raises DataError where nothing can be made of the folder or the lists.
    """
    return (look_at_list_layout if options.lists else look_at_layout)(data_dir, options)


def look_into_folder(
    data_dir: Path, options: FolderOptions, display: Display, division: Division
) -> FolderContents:
    """Return what the user's class folders or lists hold: all that can be read, and every fault.

    A file is decoded once, or taken from the cache. `division` is how a part of the images becomes
    the test where there is none. Raises DataError where there are no class folders, a folder cannot
    be listed, or a list cannot be understood.
    """
    with os_errors_as_data_errors(data_dir):
        layout = look_at_own_layout(data_dir, options)
        read: dict[Role, ReadImages] = {}
        for role, listing in layout.listings.items():
            if listing.files:
                with pillow_warnings(display, listing.root):
                    read[role] = read_what_can_be(listing, options, display=display)
    images = {role: labelled(part, data_dir) for role, part in read.items() if part.listing.files}
    if not images:
        return FolderContents(layout, read, None, [])
    try:
        if "test" in layout.listings:
            check_undivided(data_dir, division)
        own, faults = _own(layout, images, division), []
    except DataError as error:
        own, faults = _undivided(images), [str(error)]
    return FolderContents(layout, read, own, faults)


def _own(layout: Layout, images: dict[Role, Labelled], division: Division) -> OwnFolder:
    grouped = {role: one.grouped(division.group_pattern) for role, one in images.items()}
    if layout.is_shared_out:
        return divided(grouped["train"], division, SILENT)
    check_sides({role: one.groups for role, one in grouped.items()})
    return _undivided(grouped)


def _undivided(images: dict[Role, Labelled]) -> OwnFolder:
    """Return images as they lie, of which some part may be missing."""
    sets = {role: one.normalised(((), ())) for role, one in images.items()}
    nothing = next(iter(sets.values())).subset([])
    first, test_images = (sets.get(role, nothing) for role in ("train", "test"))
    return OwnFolder(first, sets.get("validation"), test_images)
