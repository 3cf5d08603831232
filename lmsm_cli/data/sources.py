"""Read a data set into an ImageSet: uint8 images, labels, class names, normalisation.

To add a data set that torchvision knows, add it to SOURCES here and to PUBLISHED; what else there
is comes as class folders (`folder`) or lists of files (`list`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from lmsm_cli.data.class_folders import (
    DEFAULTS,
    FolderOptions,
    Listing,
    folders_with,
    has_folders,
    list_class_folders,
)
from lmsm_cli.data.decoded import level_sums
from lmsm_cli.data.decoding import ReadImages, read_images
from lmsm_cli.data.folds import A_FIFTH, Division, check_sides
from lmsm_cli.data.identity import pixel_digests
from lmsm_cli.data.image_files import all_levels, notes_on_levels, pillow_warnings
from lmsm_cli.data.image_set import ImageSet, Labelled, Normalisation, labelled
from lmsm_cli.data.layout import (
    Layout,
    Role,
    missing_classes,
    read_layout,
    relabelled,
    roles_in,
)
from lmsm_cli.data.list_layout import read_list_layout
from lmsm_cli.data.own_folder import OwnFolder, check_undivided, divided
from lmsm_cli.data.published import PUBLISHED
from lmsm_cli.data.published import Split as Split
from lmsm_cli.errors import (
    DataError,
    FaultsError,
    LmsmError,
    did_you_mean,
    few,
    os_errors_as_data_errors,
)
from lmsm_cli.runtime.display import SILENT, Display


@dataclass(frozen=True)
class Source:
    """What is known of a data set before anything is read."""

    name: str  # the data set behind an alias; its class folders are below a folder of this name
    train_counts: tuple[int, ...] | None  # as published; None where only the folder knows
    channels: int
    size: int  # side in pixels; of own images only a default
    normalisation: Normalisation | None = None  # None: worked out from the training images


# The means and deviations that the field uses: CIFAR's as in LDAM-DRW (Cao et al. 2019).
_CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
_CIFAR10 = Source("cifar10", (5000,) * 10, 3, 32, _CIFAR)
_SVHN = ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970))
_MNIST_COUNTS = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)
_SVHN_COUNTS = (4948, 13861, 10585, 8497, 7458, 6882, 5727, 5595, 5045, 4659)
_DIGITS_COUNTS = (119, 121, 118, 122, 121, 121, 121, 119, 116, 120)

SOURCES: dict[str, Source] = {
    "balanced": _CIFAR10,
    "imbalanced": _CIFAR10,
    "cifar10": _CIFAR10,
    "cifar100": Source("cifar100", (500,) * 100, 3, 32, _CIFAR),
    "mnist": Source("mnist", _MNIST_COUNTS, 1, 28, ((0.1307,), (0.3081,))),
    "fashion-mnist": Source("fashion-mnist", (6000,) * 10, 1, 28, ((0.2860,), (0.3530,))),
    "svhn": Source("svhn", _SVHN_COUNTS, 3, 32, _SVHN),
    "digits": Source("digits", _DIGITS_COUNTS, 1, 8),
    "folder": Source("folder", None, 3, 32),
    "list": Source("list", None, 3, 32),
}
OWN = ("folder", "list")
"""The user's own images, which are never downloaded."""


def source_of(dataset: str) -> Source:
    """Return what is known of a data set. Raises LmsmError with the nearest name."""
    if dataset not in SOURCES:
        raise LmsmError(f"no data set {dataset!r}{did_you_mean(dataset, SOURCES)}")
    return SOURCES[dataset]


def load(
    dataset: str,
    data_dir: Path,
    split: Split,
    *,
    options: FolderOptions = DEFAULTS,
    display: Display = SILENT,
) -> ImageSet:
    """Return the training or test images of a data set; what is missing is downloaded first.

    Args:
        dataset: a key of SOURCES, such as `cifar10`, or `folder` or `list` for the user's own.
        data_dir: where the data sets are, or the user's folder.
        split: train or test. Own training images with validation images beside them are without
            those.
        options: how class folders are read, and which lists.
        display: shows downloads and warnings.

    Raises DataError that names the file and the way out, DiskError where a download cannot be
    written.
    """
    source = source_of(dataset)
    if source.name == "digits":
        return _load_digits(split)
    if source.name in OWN:
        own = load_own_folder(data_dir, options, display)
        return own.training if split == "train" else own.test
    assert source.normalisation is not None
    with os_errors_as_data_errors(data_dir):
        labelled = _Reader(source, data_dir, options, display).known(split)
    return labelled.normalised(source.normalisation)


def load_parts(
    dataset: str,
    data_dir: Path,
    first: Split,
    *,
    options: FolderOptions = DEFAULTS,
    display: Display = SILENT,
) -> Iterator[Labelled]:
    """Yield all images of a data set, part after part, the one that has the `first` split before.

    For a search of a run's images among them: a class may be empty, lack a folder or hold runs
    here, and files may be unreadable. Raises DataError where there is no such data at all.
    """
    source = source_of(dataset)
    if source.name == "digits":
        yield _digits()
        return
    reader = _Reader(source, data_dir, replace(options, skip_unreadable=True), display)
    with os_errors_as_data_errors(data_dir):
        if source.name in OWN:
            yield from reader.own_parts(first)
        else:
            for split in sorted(get_args(Split), key=lambda split: split != first):
                yield reader.known(split)


def find_dataset(dataset: str, data_dir: Path, options: FolderOptions = DEFAULTS) -> Path | None:
    """Return where a data set's files or class folders are; None where there are none.

    Nothing is read of them. `digits` are inside scikit-learn, so anywhere; of a `list` it is the
    place of the list.
    """
    source = source_of(dataset)
    if source.name == "digits":
        return data_dir
    if source.name == "list":
        return options.lists.path if options.lists and options.lists.path.exists() else None
    if source.name == "folder":
        return data_dir if has_folders(data_dir) else None
    return _published_root(source, data_dir) or _class_folders_of(source, data_dir)


def own_layout(data_dir: Path, options: FolderOptions) -> Layout:
    """Return which of a user's own images are for what, with their counts, notes and faults.

    No image is read. Raises DataError where nothing can be made of the folder or the lists.
    """
    return (read_list_layout if options.lists else read_layout)(data_dir, options)


def load_own_folder(
    data_dir: Path,
    options: FolderOptions,
    display: Display = SILENT,
    division: Division = A_FIFTH,
) -> OwnFolder:
    """Return a user's own images, normalised by those for the training.

    Args:
        data_dir: the folder that they lie in.
        options: how it is read, and which lists.
        display: shows progress and warnings.
        division: how its images are divided where none are for the test.

    Raises DataError with every fault: lines of lists, classes without images, classes of the test
    alone, files that cannot be read, images that cannot be divided so.
    """
    reader = _Reader(SOURCES["folder"], data_dir, options, display)
    with os_errors_as_data_errors(data_dir):
        layout = own_layout(data_dir, options)
        if "test" in layout.listings:
            check_undivided(data_dir, division)
        parts, faults = reader.roles_of(layout)
    if faults:
        raise FaultsError(faults)
    images = {
        role: reader.labelled(part).grouped(division.group_pattern) for role, part in parts.items()
    }
    training = images["train"]
    if "test" not in parts:
        return divided(training, division, display)
    check_sides({role: one.groups for role, one in images.items()})
    normalisation = training.own_normalisation()
    sets = {role: one.normalised(normalisation) for role, one in images.items()}
    return OwnFolder(sets["train"], sets.get("validation"), sets["test"])


def load_listing(
    listing: Listing, options: FolderOptions, channels: int, display: Display = SILENT
) -> Labelled:
    """Return the images of a listing that can be read, in 1 (grey) or 3 (RGB) channels.

    Raises DataError where none can.
    """
    source = replace(SOURCES["folder"], channels=channels)
    options = replace(options, skip_unreadable=True)
    reader = _Reader(source, listing.root, options, display)
    with os_errors_as_data_errors(listing.root):
        return reader.labelled(reader.read(replace(listing, source=listing.root, part="recorded")))


def load_folder(
    path: Path,
    *,
    options: FolderOptions,
    channels: int = 3,
    classes: Sequence[str] | None = None,
    display: Display = SILENT,
) -> ImageSet:
    """Return all images below the class folders of `path`.

    The normalisation is that of these images: for a trained model, take its own.

    Args:
        path: holds one folder for each class.
        options: the size of the images, and how they are read.
        channels: 1 (grey) or 3 (RGB).
        classes: labels are places in it, and a class may have no images or no folder; without it,
            the folders are the classes.
        display: shows progress and warnings.

    Raises DataError for a folder that is no class, and where there is no image.
    """
    reader = _Reader(replace(SOURCES["folder"], channels=channels), path, options, display)
    with os_errors_as_data_errors(path):
        listing = reader.listed(path)
        if not listing.files:
            raise DataError(f"the class folders of {path} hold no images{listing.left_out.hint()}")
        if classes is not None:
            listing, notes, strange = relabelled(listing, classes)
            if strange:
                raise DataError(
                    f"{path} has class folders that are none of the classes: "
                    f"{few(list(map(repr, strange)), 5)}; "
                    f"the classes are {few(list(map(repr, classes)), 5)}"
                )
            reader.warn(notes)
        read = reader.read(listing)
    reader.warn([*missing_classes("", read.listing), *notes_on_levels(read.levels)])
    labelled = reader.labelled(read)
    return labelled.normalised(labelled.own_normalisation())


@dataclass(frozen=True)
class _Reader:
    """Reads a data set below a folder, and warns a display of what is left out."""

    source: Source
    data_dir: Path
    options: FolderOptions
    display: Display

    def warn(self, texts: Sequence[str]) -> None:
        for text in texts:
            self.display.warning(text)

    def known(self, split: Split) -> Labelled:
        """Return a published data set: its own files, else class folders, else a download."""
        published = PUBLISHED[self.source.name]
        root = _published_root(self.source, self.data_dir)
        if root is None:
            if home := _class_folders_of(self.source, self.data_dir):
                return self.known_folders(home / split)
            root = published.roots(self.data_dir, self.source.name)[0]
            published.fetch(root, display=self.display)
        return _published(*published.read(root, split))

    def known_folders(self, path: Path) -> Labelled:
        """Return a split of a published data set from its class folders, which must be complete."""
        listing = list_class_folders(path, self.options, inside=path.parent)
        name = self.source.name
        expected = len(self.source.train_counts or ())
        if len(listing.classes) != expected:
            raise DataError(
                f"{path} holds {len(listing.classes)} class folders, {name} has {expected}; "
                "complete it, or read it as it is with --dataset folder"
            )
        self.warn(listing.left_out.words(path))
        options = replace(self.options, image_size=self.source.size)
        below = replace(self, data_dir=path.parent, options=options)
        read = below.read(listing)
        if read.listing.empty:
            raise DataError(folders_with("no images", path, read.listing.empty))
        return below.labelled(read)

    def own_parts(self, first: Split) -> Iterator[Labelled]:
        """Yield the images of each of the user's folders of class folders, or of each list."""
        if self.options.lists:
            listings = read_list_layout(self.data_dir, self.options).listings
            for role in sorted(listings, key=lambda role: role != first):
                yield self.labelled(self.read(listings[role]))
            return
        roles = roles_in(self.data_dir)
        roots = [roles[role] for role in sorted(roles, key=lambda role: role != first)]
        for root in roots or [self.data_dir]:
            listing = self.listed(root, may_hold_runs=True)
            if listing.files:
                yield self.labelled(self.read(listing))

    def roles_of(self, layout: Layout) -> tuple[dict[Role, ReadImages], list[str]]:
        """Return what could be read of a layout, and every fault."""
        self.warn(layout.notes)
        faults = list(layout.faults)
        parts: dict[Role, ReadImages] = {}
        for role, listing in layout.listings.items():
            if not listing.files:  # a fault already
                continue
            try:
                parts[role] = self.read(listing)
            except DataError as error:
                faults.append(str(error))
                continue
            if role == "train":
                faults += _lost_classes(listing, parts[role].listing)
            else:
                self.warn(missing_classes(role, parts[role].listing))
        self.warn(notes_on_levels(all_levels(part.levels for part in parts.values())))
        return parts, faults

    def listed(self, root: Path, *, may_hold_runs: bool = False) -> Listing:
        """Return the images below class folders, of which some may be empty."""
        listing = list_class_folders(
            root,
            self.options,
            inside=self.data_dir,
            may_be_empty=True,
            may_hold_runs=may_hold_runs,
        )
        self.warn(listing.left_out.words(root))
        return listing

    def read(self, listing: Listing) -> ReadImages:
        """Return the listed images that can be read. Raises DataError as `read_images`."""
        with pillow_warnings(self.display, listing.root):
            return read_images(listing, self.options, self.source.channels, self.display)

    def labelled(self, read: ReadImages) -> Labelled:
        """Return images as read with their labels, and their places from the data folder on."""
        return labelled(read, self.data_dir)


def _lost_classes(listing: Listing, read: Listing) -> list[str]:
    """Return the fault that no image of some classes can be read, where that is so."""
    lost = [name for name in read.empty if name not in listing.empty]
    ways = "replace them, or remove them with their class"
    return [f"{listing.classes_with('no images that can be read', lost)}; {ways}"] if lost else []


def _load_digits(split: Split) -> ImageSet:
    """Return a split of the digits, a third of them for the test."""
    from sklearn.model_selection import train_test_split

    read = _digits()
    parts = train_test_split(
        np.arange(len(read.labels)), test_size=1 / 3, random_state=0, stratify=read.labels.numpy()
    )
    train, test = (torch.from_numpy(np.sort(part)) for part in parts)
    whole = read.normalised(read.own_normalisation(train))
    return whole.subset(train if split == "train" else test)


def _digits() -> Labelled:
    from sklearn.datasets import load_digits

    digits = load_digits()
    # the file holds 0..16
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in digits.target_names)
    labels = digits.target.astype(np.int64)
    return _published(images, labels, names)._replace(sums=level_sums(images))


def _published(
    images: NDArray[np.uint8], labels: NDArray[np.int64], classes: tuple[str, ...]
) -> Labelled:
    """Return images (N, H, W, C) as they were published; their places are their numbers."""
    pixels = torch.from_numpy(images).contiguous()
    digests = pixel_digests(images)
    return Labelled(pixels, torch.from_numpy(labels), classes, digests, np.arange(len(images)))


def _published_root(source: Source, data_dir: Path) -> Path | None:
    """Return the root of torchvision's layout below which all files are."""
    published = PUBLISHED[source.name]
    roots = published.roots(data_dir, source.name)
    return next((root for root in roots if published.is_complete(root)), None)


def _class_folders_of(source: Source, data_dir: Path) -> Path | None:
    """Return the folder whose train/ or test/ holds the data set's class folders."""
    homes = [data_dir / source.name]
    if source.name in (data_dir.resolve().name, data_dir.absolute().name):
        homes.append(data_dir)
    return next(
        (home for home in homes if any(has_folders(home / name) for name in ("train", "test"))),
        None,
    )
