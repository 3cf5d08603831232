"""The images of a run: made long-tailed, and divided into training, validation and test."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lmsm_cli.config import Config
from lmsm_cli.data import sources
from lmsm_cli.data.class_folders import matched
from lmsm_cli.data.decoded import Images, select
from lmsm_cli.data.identity import PARTS, Finder, ImagesRecord, Part, Pictures, duplicate_pictures
from lmsm_cli.data.imbalance import kept_indices, long_tail_counts, split, validation_counts
from lmsm_cli.data.layout import FolderOptions
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.errors import DataError, LmsmError, few
from lmsm_cli.runtime.display import Display

# What nobody asked for need not be contradicted loudly.
_USUAL_VALIDATION = Config.model_fields["validation"].default


@dataclass(frozen=True)
class Data:
    """The images of a run; `train_counts` are the training images per class."""

    training: ImageSet
    validation: ImageSet | None
    test: ImageSet

    @property
    def train_counts(self) -> list[int]:
        """Training images per class, validation excluded."""
        return self.training.counts()

    @property
    def parts(self) -> dict[Part, ImageSet]:
        """The parts that have images, by name."""
        sets = dict(zip(PARTS, (self.training, self.validation, self.test), strict=True))
        return {part: images for part, images in sets.items() if images}

    def record(self) -> ImagesRecord:
        """Return which images these are, to find them again."""
        there = [(PARTS.index(part), images) for part, images in self.parts.items()]
        return ImagesRecord(
            self.training.classes,
            np.concatenate([np.full(len(images), number, np.uint8) for number, images in there]),
            np.concatenate([images.labels.numpy() for _, images in there]),
            np.concatenate([images.digests for _, images in there]),
            np.concatenate([images.places for _, images in there]),
            self.training.mean,
            self.training.std,
        )


def check_at_hand(config: Config) -> None:
    """Raise DataError where a run's data would have to be downloaded to a place that only it names.

    A run may come from anybody, and so may the name of a folder to write into. The place where this
    user's data goes without a word (LMSM_DATA_DIR, data/) is as good as named.
    """
    where = config.data_dir
    if config.dataset == "folder" or where == Config.model_validate({}).data_dir:
        return
    if sources.find_dataset(config.dataset, where) is None:
        raise DataError(
            f"{config.dataset} is not below {where}, where the run had it; give its place with --data-dir, to which what is missing is downloaded"
        )


def planned_counts(config: Config) -> list[int] | None:
    """Return the training images per class that a run will have, by the published counts.

    Nothing is read; None where only the data itself knows. Raises LmsmError where
    they are too few.
    """
    published = sources.source_of(config.dataset).train_counts
    return None if published is None else counts_left(config, published)


def counts_left(config: Config, available: Sequence[int]) -> list[int]:
    """Return what the profile and the validation leave of each class; raise where that is too few."""
    kept = _kept(config, available)
    held_out = [max(0, count) for count in validation_counts(kept, config.validation)]
    problems = []
    if config.validation > 0 and sum(held_out) == 0:
        problems.append(
            f"validation is {config.validation}: no class is large enough to hold out an image; use --validation 0 or more"
        )
    left = [count - held for count, held in zip(kept, held_out, strict=True)]
    if config.batch_size > sum(left):
        problems.append(
            f"batch_size is {config.batch_size}: only {sum(left)} training images are left, which is less than one batch; take --batch-size {sum(left)} or less"
        )
    if problems:
        raise LmsmError("\n".join(problems))
    return left


def _kept(config: Config, available: Sequence[int]) -> list[int]:
    return long_tail_counts(available, config.imbalance, config.factor, config.images_per_class)


def load_training(config: Config, display: Display) -> tuple[ImageSet, ImageSet | None]:
    """Return the long-tailed training images and the validation images split off them."""
    if config.dataset == "folder":
        own = sources.load_own_folder(config.data_dir, folder_options(config), display)
        return _divided(config, own.training, own.validation, display)
    full = sources.load(
        config.dataset, config.data_dir, "train", options=folder_options(config), display=display
    )
    return _divided(config, full, None, display)


def _divided(
    config: Config, full: ImageSet, given: ImageSet | None, display: Display
) -> tuple[ImageSet, ImageSet | None]:
    """Return the training images that the profile leaves, and the validation images.

    Those are the `given` ones where there are any; else they are split off. With validation 0 there
    are none.
    """
    if given is not None and config.validation == 0:
        display.warning(
            f"validation is 0: the {len(given):,} validation images of {config.data_dir} are not used"
        )
    elif given is not None:
        told = display.info if config.validation == _USUAL_VALIDATION else display.warning
        told(
            f"validation: the {len(given):,} images that {config.data_dir} has for it, none of the training's (--validation {config.validation:g} is not used)"
        )
        training, _ = _divided(config.model_copy(update={"validation": 0.0}), full, None, display)
        return training, given
    counts_left(config, full.counts())
    if config.imbalance != "none" or config.images_per_class:
        counts = _kept(config, full.counts())
        full = full.subset(torch.from_numpy(kept_indices(full.labels.numpy(), counts)))
    if config.validation == 0:
        return full, None
    train_part, held_out = split(
        full.labels.numpy(), len(full.classes), config.validation, config.split_seed
    )
    return full.subset(torch.from_numpy(train_part)), full.subset(torch.from_numpy(held_out))


def load_test(config: Config, display: Display) -> ImageSet:
    """Return the test images."""
    return sources.load(
        config.dataset, config.data_dir, "test", options=folder_options(config), display=display
    )


def load_data(config: Config, display: Display) -> Data:
    """Return the images that the config asks for, as they are there now."""
    if config.dataset != "folder":
        training, validation = load_training(config, display)
        return Data(training, validation, load_test(config, display))
    own = sources.load_own_folder(config.data_dir, folder_options(config), display)
    data = Data(*_divided(config, own.training, own.validation, display), own.test)
    for text in duplicate_pictures(
        {part: _pictures(images) for part, images in data.parts.items()}
    ):
        display.warning(f"{config.data_dir}: {text}")
    return data


def folder_options(config: Config) -> FolderOptions:
    """Return how the config has class folders read."""
    return FolderOptions(
        config.image_size, config.resize, config.follow_links, config.skip_unreadable
    )


def _pictures(images: ImageSet) -> Pictures:
    assert images.pictures is not None
    names = [os.fsdecode(place) for place in images.places.tolist()]
    return Pictures(images.labels.numpy(), images.digests, images.pictures, names)


def identity_of(config: Config, display: Display) -> dict[str, str | None]:
    """Return the digests of the parts of the data that the config gives now."""
    return load_data(config, display).record().summaries


def load_again(config: Config, record: ImagesRecord, display: Display) -> Data:
    """Return the images of a run, in its order. Raises DataError as `find_again`."""
    held_out = record.of("validation")
    wanted: list[Part] = (
        ["training", "validation", "test"] if len(held_out) else ["training", "test"]
    )
    found = find_again(config, record, wanted, display)
    return Data(found["training"], found.get("validation"), found["test"])


def find_again(
    config: Config, record: ImagesRecord, wanted: Sequence[Part], display: Display
) -> dict[Part, ImageSet]:
    """Return parts of a run's images, each in the run's order, wherever their files are by now.

    They are known by class and content alone; what else there is is left out. Raises DataError that
    counts and names the images that are gone or are in another class.
    """
    rows = np.flatnonzero(np.isin(record.split, [PARTS.index(part) for part in wanted]))
    keys = record.identities()
    finder = Finder([keys[row] for row in rows])
    pools = []
    for pool in sources.load_parts(
        config.dataset,
        config.data_dir,
        "test" if list(wanted) == ["test"] else "train",
        options=folder_options(config),
        display=display,
    ):
        pools.append(_named_as(record.classes, pool))
        finder.look_in(pools[-1].identities())
        if not finder.missing:
            break
    if finder.missing:
        raise DataError(_not_there(config, record, rows[finder.missing], pools))
    _tell_extra(config, keys, pools, display)
    pool_of, place_of = finder.places()
    split = record.split[rows]
    found: dict[Part, ImageSet] = {}
    for part in wanted:
        own = split == PARTS.index(part)
        found[part] = _taken(record.of(part), pools, pool_of[own], place_of[own])
    return found


def _named_as(classes: Sequence[str], pool: sources.Labelled) -> sources.Labelled:
    """Return images whose classes bear a run's names where a person takes both for the same."""
    places, _ = matched(pool.classes, classes)
    names = zip(pool.classes, places, strict=True)
    return pool._replace(classes=tuple(n if at is None else classes[at] for n, at in names))


def _taken(
    own: ImagesRecord,
    pools: Sequence[sources.Labelled],
    pool_of: NDArray[np.int64],
    place_of: NDArray[np.int64],
) -> ImageSet:
    """Return recorded images from their places in the pools; together in memory where they lie apart."""
    numbers = np.unique(pool_of).tolist()
    images: Images
    if len(numbers) == 1:
        images = select(pools[numbers[0]].images, torch.from_numpy(place_of))
    else:
        images = torch.empty(len(own), *pools[0].images.shape[1:], dtype=torch.uint8)
        for number in numbers:
            here = pool_of == number
            images[torch.from_numpy(here)] = pools[number].images[torch.from_numpy(place_of[here])]
    labels = torch.from_numpy(own.labels)
    return ImageSet(images, labels, own.classes, own.mean, own.std, own.digests, own.places)


def _not_there(
    config: Config, record: ImagesRecord, rows: NDArray[np.int64], pools: Sequence[sources.Labelled]
) -> str:
    """Say which images of a run are not in its data any more."""
    class_of = {
        pool.digests[place].tobytes(): pool.classes[pool.labels[place]]
        for pool in pools
        for place in range(len(pool.labels))
    }
    moved, gone = [], []
    for row in rows.tolist():
        now_in = class_of.get(record.digests[row].tobytes())
        name = record.name_of(row)
        if now_in in (None, record.classes[record.labels[row]]):  # or its copies are fewer
            gone.append(name)
        else:
            moved.append(f"{name}, now in {now_in}")
    counts = Counter(PARTS[number] for number in record.split[rows].tolist())
    told = " and ".join(f"{count} {part}" for part, count in counts.items())
    problems = [
        f"{len(names)} {what} ({few(names, 5, '; ')})"
        for what, names in (("gone or changed", gone), ("of another class now", moved))
        if names
    ]
    return (
        f"{config.data_dir} lacks {told} image{'s' if len(rows) > 1 else ''} of the run: "
        f"{', '.join(problems)}; give the run's data with --data-dir, or score other images with "
        "`lmsm eval RUN --images FOLDER`"
    )


def _tell_extra(
    config: Config,
    keys: Sequence[bytes],
    pools: Sequence[sources.Labelled],
    display: Display,
) -> None:
    """Say how many images there are that the run did not have; a profile leaves some out by itself."""
    if config.imbalance != "none" or config.images_per_class:
        return
    there = Counter(key for pool in pools for key in pool.identities())
    extra = (there - Counter(keys)).total()
    if extra:
        display.info(f"{extra} images in {config.data_dir} are none of the run's, and left out")
