"""The images of a run, found again by class and content, wherever their files are by now."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lmsm_cli.config import Config
from lmsm_cli.config.keys import LIST_FILES
from lmsm_cli.data import sources
from lmsm_cli.data.class_folders import Listing, match_classes
from lmsm_cli.data.decoded import Images, select
from lmsm_cli.data.identity import PARTS, Finder, ImagesRecord, Part
from lmsm_cli.data.image_set import ImageSet, Labelled
from lmsm_cli.data.sources import Split
from lmsm_cli.data.splits import Data, as_evaluated, as_trained, folder_options
from lmsm_cli.errors import DataError, counted, few
from lmsm_cli.runtime.display import Display


def check_at_hand(config: Config) -> None:
    """Raise DataError where a run's data would be downloaded to a place that only the run names.

    A run may come from anybody, and so may the name of a folder to write into. The usual place of
    this user's data (LMSM_DATA_DIR, data/) is as good as named.
    """
    where = config.data_dir
    if config.dataset in sources.OWN or where == Config.model_validate({}).data_dir:
        return
    if sources.find_dataset(config.dataset, where) is None:
        raise DataError(
            f"{config.dataset} is not below {where}, where the run had it; give its place with "
            "--data-dir, to which what is missing is downloaded"
        )


def load_again(config: Config, record: ImagesRecord, display: Display) -> Data:
    """Return the images of a run, in its order. Raises DataError as `find_again`."""
    wanted = [part for part in PARTS if part != "validation" or len(record.of(part))]
    found = find_again(config, record, wanted, display)
    return Data(found["training"], found.get("validation"), found["test"])


def find_again(
    config: Config, record: ImagesRecord, wanted: Sequence[Part], display: Display
) -> dict[Part, ImageSet]:
    """Return parts of a run's images, each in the run's order, wherever their files are by now.

    They are known by class and content alone; other images are left out. Those to train on have the
    size that crops come from. Raises DataError that counts and names the images that are gone or
    are in another class.
    """
    rows = np.flatnonzero(np.isin(record.split, [PARTS.index(part) for part in wanted]))
    keys = record.identities()
    finder = Finder([keys[row] for row in rows])
    first: Split = "test" if list(wanted) == ["test"] else "train"
    pools = []
    for pool in _parts_now(config, record, first, display):
        pools.append(_named_as(record.classes, pool))
        finder.look_in(pools[-1].identities())
        if not finder.missing:
            break
    if finder.missing:
        raise DataError(_not_there(config, record, rows[finder.missing], pools))
    _note_extra(config, keys, pools, display)
    found: dict[Part, ImageSet] = {}
    for part in wanted:
        own = record.split[rows] == PARTS.index(part)
        taken = _taken(record.of(part), pools, finder.pool_of[own], finder.place_of[own])
        found[part] = (as_trained if part == "training" else as_evaluated)(config, taken)
    return found


def _parts_now(
    config: Config, record: ImagesRecord, first: Split, display: Display
) -> Iterator[Labelled]:
    """Yield the images that are there now, part after part.

    Where a list is gone, they are those that the run recorded by name, below the data folder.
    """
    config = _lists_beside_images(config) if config.dataset == "list" else config
    where, options = config.data_dir, folder_options(config)
    if config.dataset == "list" and sources.find_dataset("list", where, options) is None:
        display.info(
            f"there is no list {config.image_list}: the images are those that the run recorded, "
            f"in {where}"
        )
        names = [os.fsdecode(place) for place in record.places.tolist()]
        named = Listing(where, record.classes, tuple(names), tuple(record.labels.tolist()))
        yield sources.load_listing(named, options, len(record.mean), display)
        return
    yield from sources.load_parts(config.dataset, where, first, options=options, display=display)


def _lists_beside_images(config: Config) -> Config:
    """Return the config with the lists that are gone found in the data folder, if they are there.

    Lists and images that lie together are moved together.
    """
    moved: dict[str, Path] = {}
    for key in LIST_FILES:
        path = getattr(config, key)
        if path is not None and not path.exists():
            beside = config.data_dir / path.name
            moved[key] = beside if beside.exists() else path
    return config.model_copy(update=moved)


def _named_as(classes: Sequence[str], pool: Labelled) -> Labelled:
    """Return images whose classes bear a run's names where a person takes both for the same."""
    places, _ = match_classes(pool.classes, classes)
    names = zip(pool.classes, places, strict=True)
    return pool._replace(classes=tuple(n if at is None else classes[at] for n, at in names))


def _taken(
    own: ImagesRecord,
    pools: Sequence[Labelled],
    pool_of: NDArray[np.int64],
    place_of: NDArray[np.int64],
) -> ImageSet:
    """Return recorded images from their places in the pools, copied where they lie in several."""
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
    config: Config, record: ImagesRecord, rows: NDArray[np.int64], pools: Sequence[Labelled]
) -> str:
    """Say which images of a run are not in its data any more."""
    class_of = {
        one.tobytes(): pool.classes[label]
        for pool in pools
        for one, label in zip(pool.digests, pool.labels.tolist(), strict=True)
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
    lacking = " and ".join(f"{count} {part}" for part, count in counts.items())
    problems = [
        f"{len(names)} {what} ({few(names, 5, '; ')})"
        for what, names in (("gone or changed", gone), ("of another class now", moved))
        if names
    ]
    return (
        f"{config.data_dir} lacks {lacking} image{'s' if len(rows) > 1 else ''} of the run: "
        f"{', '.join(problems)}; give the run's data with --data-dir, or score other images with "
        "`lmsm eval RUN --images FOLDER`"
    )


def _note_extra(
    config: Config, keys: Sequence[bytes], pools: Sequence[Labelled], display: Display
) -> None:
    """Say how many images the run did not have; a profile leaves some out by itself."""
    kept_back = config.imbalance != "none" or config.test_from == "training"
    if kept_back or config.images_per_class or config.test_images_per_class:
        return
    there = Counter(key for pool in pools for key in pool.identities())
    if extra := (there - Counter(keys)).total():
        display.info(f"left out: {counted(extra, 'image')} in {config.data_dir}, none of the run's")
