"""The images of a run: made long-tailed, and divided into training, validation and test."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lmsm_cli.config import Config
from lmsm_cli.config.data_path import list_names
from lmsm_cli.data import sources
from lmsm_cli.data.class_folders import FolderOptions
from lmsm_cli.data.decoded import middle
from lmsm_cli.data.folder_contents import FolderContents, look_into_folder
from lmsm_cli.data.folds import Division, Folds, grouped_share, share_of
from lmsm_cli.data.identity import (
    PARTS,
    ImagesRecord,
    Part,
    Pictures,
    duplicate_pictures,
    rows_of_smallest_digests,
)
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.data.imbalance import (
    kept_indices,
    long_tail_counts,
    stratified_split,
    validation_counts,
)
from lmsm_cli.data.lists import ImageLists
from lmsm_cli.data.own_folder import OwnFolder, sides_of
from lmsm_cli.data.sources import Split
from lmsm_cli.data.too_few import FEWEST_TESTED, FEWEST_TRAINED, too_few_text
from lmsm_cli.errors import DataError, LmsmError, os_errors_as_data_errors
from lmsm_cli.runtime.display import Display

# A default is contradicted by a note, a choice by a warning.
_USUAL_VALIDATION = Config.model_fields["validation"].default


@dataclass(frozen=True)
class Data:
    """The images of a run."""

    training: ImageSet
    validation: ImageSet | None
    test: ImageSet
    divided: str | None = None
    """The digest of all images that folds test among them; None without folds."""
    folds: Folds | None = None
    """All images that folds divide; None without folds."""
    usual_counts: list[int] | None = None
    """The training images per class that defaults follow from where `train_counts` are a fold's:
    those of the whole, so that all folds have the same."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that a net gets; those to train on may be kept larger."""
        _, height, width, channels = self.test.images.shape
        return height, width, channels

    @property
    def train_counts(self) -> list[int]:
        """Training images per class, validation excluded."""
        return self.training.counts()

    @property
    def parts(self) -> dict[Part, ImageSet]:
        """The parts that have images, by name."""
        sets = dict(zip(PARTS, (self.training, self.validation, self.test), strict=True))
        return {part: images for part, images in sets.items() if images}

    @property
    def pictures(self) -> Mapping[str, Pictures]:
        """What is known of the images of each part, to find the same picture twice."""
        return {part: pictures_of(part, images) for part, images in self.parts.items()}

    def record(self) -> ImagesRecord:
        """Return which images these are, to find them again."""
        sets = list(self.parts.values())
        numbers = np.array([PARTS.index(part) for part in self.parts], np.uint8)
        return ImagesRecord(
            self.training.classes,
            np.repeat(numbers, [len(images) for images in sets]),
            np.concatenate([images.labels.numpy() for images in sets]),
            np.concatenate([images.digests for images in sets]),
            np.concatenate([images.places for images in sets]),
            self.training.mean,
            self.training.std,
            self.divided,
        )


def planned_counts(config: Config) -> list[int] | None:
    """Return the training images per class that a run will have, by the published counts.

    Nothing is read; None where only the data itself knows. Raises LmsmError for too few.
    """
    published = sources.source_of(config.dataset).train_counts
    return None if published is None else counts_left(config, published)


def planned_usual_counts(config: Config) -> list[int] | None:
    """Return the `Data.usual_counts` that a run will have, by the published counts.

    None where it has none, and where only the data itself knows.
    """
    published = sources.source_of(config.dataset).train_counts
    is_fold = config.test_from == "training" and config.folds is not None
    return _kept(config, published) if published and is_fold else None


def counts_left(config: Config, available: Sequence[int]) -> list[int]:
    """Return the images that profile and validation leave of each class; raise for too few."""
    kept = _kept(config, available)
    if config.test_from == "training":
        share = 1 / config.folds if config.folds else config.test_share
        kept = [count - share_of(count, share) for count in kept]
    held_out = [max(0, count) for count in validation_counts(kept, config.validation)]
    left = [count - held for count, held in zip(kept, held_out, strict=True)]
    problems = []
    if config.validation > 0 and sum(held_out) == 0:
        problems.append(
            f"validation is {config.validation}: no class is large enough to hold out an image; "
            "use --validation 0, or a larger share"
        )
    if config.batch_size > sum(left):
        problems.append(
            f"batch_size is {config.batch_size}: only {sum(left)} training images are left, which "
            f"is less than one batch; take --batch-size {sum(left)} or less"
        )
    if problems:
        raise LmsmError("\n".join(problems))
    return left


def _kept(config: Config, available: Sequence[int]) -> list[int]:
    return long_tail_counts(available, config.imbalance, config.factor, config.images_per_class)


def load_training(config: Config, display: Display) -> tuple[ImageSet, ImageSet | None]:
    """Return the long-tailed training images, at the size that crops are drawn from, and the
    validation images.
    """
    if config.test_from == "training":
        data = load_data(config, display)
        return data.training, data.validation
    if config.dataset in sources.OWN:
        own = _load_own(config, display)
        return _divided(config, own.training, own.validation, display)
    return _divided(config, _load(config, "train", display), None, display)


def load_test(config: Config, display: Display) -> ImageSet:
    """Return the test images that the config leaves."""
    if config.test_from == "training":
        return load_data(config, display).test
    if config.dataset in sources.OWN:
        return _tested(config, _load_own(config, display).test)
    return _tested(config, _load(config, "test", display))


def load_data(config: Config, display: Display) -> Data:
    """Return the images that the config selects, as they are there now."""
    if config.dataset not in sources.OWN:
        if config.test_from == "training":
            return _held_out(config, _load(config, "train", display), None, display)
        return Data(*load_training(config, display), load_test(config, display))
    own = _load_own(config, display)
    data = _shared_out(config, own, display)
    for text in duplicate_pictures(data.pictures):
        display.warning(f"{config.data_dir}: {text}")
    if few := _too_few(config, data):
        display.warning(few)
    return data


def _too_few(config: Config, data: Data) -> str | None:
    """Return which classes have too few images, but where somebody made them so few.

    Of folds all images are tested.
    """
    tested = data.folds.counts if data.folds else data.test.counts()
    counts = dict(
        zip(data.training.classes, zip(data.train_counts, tested, strict=True), strict=True)
    )
    chosen = config.images_per_class or FEWEST_TRAINED
    fewest = (
        0 if config.imbalance != "none" else int(chosen * (1 - config.validation)),
        config.test_images_per_class or FEWEST_TESTED,
    )
    return too_few_text(config.image_list or config.data_dir, counts, fewest)


def _shared_out(config: Config, own: OwnFolder, display: Display) -> Data:
    if config.test_from == "training":
        return _held_out(config, own.training, own.validation, display)
    return Data(
        *_divided(config, own.training, own.validation, display),
        _tested(config, own.test),
        own.folds.tested_digest(config.test_images_per_class) if own.folds else None,
        own.folds,
        _kept(config, own.folds.counts) if own.folds else None,
    )


def _held_out(config: Config, full: ImageSet, given: ImageSet | None, display: Display) -> Data:
    """Return data whose test images are some of the training images that the profile leaves.

    Args:
        config: says which, by a share or a fold, as of images without a test set of their own.
        full, given: the training images, and the validation images that are not among them.
        display: shows which classes are not tested.
    """
    full = _tailed(config, full)
    whole = config.model_copy(update={"test_from": "test", "imbalance": "none"})
    whole = whole.model_copy(update={"images_per_class": None})
    sides = sides_of(full, division_of(config), display)
    training, validation = _divided(whole, full.subset(sides.training), given, display)
    test, folds = _tested(config, full.subset(sides.test)), sides.folds
    if folds is None:
        return Data(training, validation, test)
    divided = folds.tested_digest(config.test_images_per_class)
    return Data(training, validation, test, divided, folds, folds.counts)


class DataAtHand(NamedTuple):
    """The images that a training would have, as far as that can be told, and what forbids it."""

    data: Data | None
    """None where no image can be read."""
    folder: FolderContents | None
    """None for a published data set."""
    config: Config
    """Of the training: where folds are asked for and none is named, of the first."""
    faults: list[str]
    """Why the config leaves too few images of those that can be read."""


def look_into(config: Config, display: Display) -> DataAtHand:
    """Return the images that a training would have, whatever would stop it; download nothing.

    Raises DataError where there is no such data at all, or a published set is not whole.
    """
    if config.folds:
        config = config.model_copy(update={"fold": config.fold or 0})
    if config.dataset in sources.OWN:
        where, options = config.data_dir, folder_options(config)
        folder = look_into_folder(where, options, display, _division_of_folder(config))
        if folder.own is None:
            return DataAtHand(None, folder, config, folder.faults)
        data, faults = _as_far_as_possible(config, folder.own, display)
        return DataAtHand(data, folder, config, folder.faults + faults)
    if sources.find_dataset(config.dataset, config.data_dir) is None:
        raise DataError(
            f"{config.dataset} is not below {config.data_dir}: give its place with --data-dir; "
            f"`lmsm train --dataset {config.dataset}` downloads it"
        )
    training, test = _load(config, "train", display), _load(config, "test", display)
    data, faults = _as_far_as_possible(config, OwnFolder(training, None, test), display)
    return DataAtHand(data, None, config, faults)


def _as_far_as_possible(config: Config, own: OwnFolder, display: Display) -> tuple[Data, list[str]]:
    """Return images divided although too few may be left of them, and what is wrong with that."""
    try:
        return _shared_out(config, own, display), []
    except LmsmError as error:
        # without training images that alone is wrong, and is told as what the folder lacks
        faults = str(error).splitlines() if len(own.training) else []
    for less in ({"batch_size": 0}, {"batch_size": 0, "validation": 0.0}):
        with suppress(LmsmError):
            eased = config.model_copy(update=less)
            return _shared_out(eased, own, display), faults
    held_out = own.validation and as_evaluated(config, own.validation)
    return Data(own.training, held_out, _tested(config, own.test)), faults


def division_of(config: Config) -> Division:
    """Return how the config divides images that have no test set of their own.

    Raises LmsmError where it names folds and not which of them is tested on.
    """
    if config.folds and config.fold is None:
        raise LmsmError(
            f"folds is {config.folds}: one run is tested on one of them; "
            f"give --fold, 0 to {config.folds - 1}"
        )
    return Division(
        config.test_share,
        config.folds,
        config.fold or 0,
        config.split_seed,
        config.group_pattern,
    )


def _division_of_folder(config: Config) -> Division:
    """Return how a user's images are divided into training and test images."""
    if config.test_from == "training":  # the test images stay what they are
        return Division(group_pattern=config.group_pattern)
    return division_of(config)


def _load_own(config: Config, display: Display) -> OwnFolder:
    where, options = config.data_dir, folder_options(config)
    return sources.load_own_folder(where, options, display, _division_of_folder(config))


def _tested(config: Config, test: ImageSet) -> ImageSet:
    """Return the test images of a study in short: no more of a class than the config says."""
    most, test = config.test_images_per_class, as_evaluated(config, test)
    if most is None:
        return test
    rows = rows_of_smallest_digests(test.labels.numpy(), test.digests, most)
    return test.subset(torch.from_numpy(rows))


def as_evaluated(config: Config, images: ImageSet) -> ImageSet:
    """Return images as a net is validated and tested on them: of larger ones the middle."""
    if config.kept_size is None:
        return images
    return replace(images, images=middle(images.images, config.image_size))


def as_trained(config: Config, images: ImageSet) -> ImageSet:
    """Return images as a training takes them: whole where it draws crops, else as evaluated."""
    return images if config.augment == "photo" else as_evaluated(config, images)


def _load(config: Config, split: Split, display: Display) -> ImageSet:
    where, options = config.data_dir, folder_options(config)
    return sources.load(config.dataset, where, split, options=options, display=display)


def _divided(
    config: Config, full: ImageSet, given: ImageSet | None, display: Display
) -> tuple[ImageSet, ImageSet | None]:
    """Return the training images that the profile leaves, and the validation images.

    Those are the `given` ones, else they are split off; with validation 0 there are none.
    """
    if given is not None:
        _note_validation(config, len(given), display)
        given = as_evaluated(config, given) if config.validation > 0 else None
        config = config.model_copy(update={"validation": 0.0})
    counts_left(config, full.counts())
    full = _tailed(config, full)
    if config.validation == 0:
        return as_trained(config, full), given
    labels, seed = full.labels.numpy(), config.split_seed
    if full.groups is None:
        rows = stratified_split(labels, len(full.classes), config.validation, seed)
    else:
        rows = _grouped_split(config, full)
    training, held_out = (full.subset(torch.from_numpy(part)) for part in rows)
    return as_trained(config, training), as_evaluated(config, held_out)


def _tailed(config: Config, full: ImageSet) -> ImageSet:
    """Return the training images that the profile leaves."""
    if config.imbalance == "none" and not config.images_per_class:
        return full
    counts = _kept(config, full.counts())
    return full.subset(torch.from_numpy(kept_indices(full.labels.numpy(), counts)))


def _grouped_split(config: Config, full: ImageSet) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return (training, validation) indices, with each group on one side; both ascending.

    Raises LmsmError where the groups leave too few images to either.
    """
    assert full.groups is not None
    wanted = [max(0, n) for n in validation_counts(full.counts(), config.validation)]
    groups = np.unique(full.groups, return_inverse=True)[1].astype(np.int64)
    draws = np.random.default_rng(config.split_seed)
    held = grouped_share(full.labels.numpy(), groups, wanted, draws)
    if not held.any():
        raise LmsmError(
            f"validation is {config.validation}: no group of images can be held out that leaves "
            "each class others; use --validation 0"
        )
    left = int((~held).sum())
    if config.batch_size > left:
        raise LmsmError(
            f"batch_size is {config.batch_size}: only {left} training images are left, which "
            f"is less than one batch; take --batch-size {left} or less"
        )
    return np.flatnonzero(~held), np.flatnonzero(held)


def _note_validation(config: Config, count: int, display: Display) -> None:
    """Say what becomes of validation images that have a folder of their own."""
    where = config.data_dir
    if config.validation == 0:
        display.warning(
            f"validation is 0: the {count:,} validation images of {where} are not used; "
            "leave --validation out to use them"
        )
        return
    show = display.info if config.validation == _USUAL_VALIDATION else display.warning
    show(
        f"validation: the {count:,} images that {where} has for it, none of the "
        f"training's (--validation {config.validation:g} is not used)"
    )


def check_apart_from_listed(flag: str, path: Path, config: Config, record: ImagesRecord) -> None:
    """Raise LmsmError where what a flag has written would lie among the images of a list.

    That is in or below a folder that directly holds some, which may be a class folder too. The data
    folder is none: images that lie in it directly are of no class by their folder. Nor is one that
    holds the list, itself or below: it is where the user works, and holds other things.
    """
    if config.dataset != "list":
        return
    assert config.image_list is not None
    own, written = (Path(os.path.realpath(one)) for one in (config.image_list, path))
    places = map(os.fsdecode, record.places.tolist())
    for folder in sorted({place.rpartition("/")[0] for place in places} - {""}):
        held = Path(os.path.realpath(config.data_dir / folder))
        if held in (written, *written.parents) and held not in (own, *own.parents):
            raise LmsmError(
                f"{flag} {path} lies in a folder of the list's images, {config.data_dir / folder}, "
                "where it would be taken for some of them: give another place"
            )


def folder_options(config: Config) -> FolderOptions:
    """Return how the config has class folders and lists read, at the size that crops come from."""
    lists = _lists(config) if config.dataset == "list" else None
    switches = (config.follow_links, config.skip_unreadable)
    size = config.kept_size or config.image_size
    return FolderOptions(size, config.resize, *switches, lists)


def _lists(config: Config) -> ImageLists:
    """Return the lists of a config. Raises DataError for a folder that cannot be listed."""
    path = config.image_list
    assert path is not None
    names = None
    if path.is_dir():
        with os_errors_as_data_errors(path):
            names = tuple(list_names(path))
    return ImageLists(
        path,
        names,
        config.validation_list,
        config.test_list,
        path_column=config.path_column,
        label_column=config.label_column,
        split_column=config.split_column,
        group_column=config.group_column,
        class_names=config.class_names,
    )


def pictures_of(part: str, images: ImageSet) -> Pictures:
    """Return what is known of the images of a part, to find the same picture twice."""
    if images.places.dtype.kind == "S":
        names = [os.fsdecode(place) for place in images.places.tolist()]
    else:
        names = [f"image {place} of the {part} images" for place in images.places.tolist()]
    pixels = images.digests if images.pictures is None else images.pictures
    return Pictures(images.labels.numpy(), images.digests, pixels, names)


def identity_of(config: Config, display: Display) -> dict[str, str | None]:
    """Return the digests of the parts of the data that the config gives now."""
    return load_data(config, display).record().split_digests
