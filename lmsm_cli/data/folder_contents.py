"""All that a user's class folders hold, whatever would stop a training there."""

from pathlib import Path
from typing import NamedTuple

import torch

from lmsm_cli.data.class_folders import FolderOptions, shares_by_class
from lmsm_cli.data.decoding import ReadImages, read_what_can_be
from lmsm_cli.data.image_files import pillow_warnings
from lmsm_cli.data.layout import Layout, Role, look_at_layout
from lmsm_cli.data.sources import ImageSet, OwnFolder, labelled
from lmsm_cli.errors import os_errors_as_data_errors
from lmsm_cli.runtime.display import Display


class FolderContents(NamedTuple):
    """What lies in class folders, what can be read of it, and what a training would make of it."""

    layout: Layout
    read: dict[Role, ReadImages]
    own: OwnFolder | None
    """What a training would get if it went on, without a normalisation; None where no image can be
    read."""

    def places(self, role: Role) -> str:
        """Return what stands before the names of a part's files below the data folder."""
        return "" if self.layout.is_shared_out else f"{self.layout.listings[role].root.name}/"


def look_into_folder(data_dir: Path, options: FolderOptions, display: Display) -> FolderContents:
    """Return what the user's class folders hold: all that can be read, and every fault.

    A file is decoded once, or taken from the cache. Raises DataError where there are no class
    folders, or a folder cannot be listed.
    """
    with os_errors_as_data_errors(data_dir):
        layout = look_at_layout(data_dir, options)
        read: dict[Role, ReadImages] = {}
        for role, listing in layout.listings.items():
            if listing.files:
                with pillow_warnings(display, listing.root):
                    read[role] = read_what_can_be(listing, options, display=display)
    return FolderContents(layout, read, _own(layout, read, data_dir))


def _own(layout: Layout, read: dict[Role, ReadImages], data_dir: Path) -> OwnFolder | None:
    images: dict[Role, ImageSet] = {
        role: labelled(part, data_dir).normalised(((), ()))
        for role, part in read.items()
        if part.listing.files
    }
    if not images:
        return None
    if layout.is_shared_out:
        whole = images["train"]
        train, test = map(torch.from_numpy, shares_by_class(read["train"].listing))
        return OwnFolder(whole.subset(train), None, whole.subset(test))
    nothing = next(iter(images.values())).subset([])
    first, test_images = (images.get(role, nothing) for role in ("train", "test"))
    return OwnFolder(first, images.get("validation"), test_images)
