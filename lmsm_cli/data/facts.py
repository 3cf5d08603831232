"""What is known of a run's images before any is decoded: how many, how large, of what kind."""

from collections.abc import Callable, Sequence

import numpy as np

from lmsm_cli.config import DATA_KEYS, Config
from lmsm_cli.config.defaults import PHOTO_NET, Facts, Kind
from lmsm_cli.config.resolve import Layer
from lmsm_cli.data.class_folders import Listing
from lmsm_cli.data.folder_contents import look_at_own_layout
from lmsm_cli.data.folds import fixed_share
from lmsm_cli.data.headers import Shapes, read_headers, shapes_of
from lmsm_cli.data.imbalance import long_tail_counts, validation_counts
from lmsm_cli.data.sources import OWN, source_of
from lmsm_cli.data.splits import folder_options
from lmsm_cli.errors import LmsmError
from lmsm_cli.models.pretrained import has_cached_weights

_MOST_HEADERS = 400
"""Images of which the size is read: enough for a median."""
_KINDS: dict[str, Kind] = {
    "digits": "digits",
    "mnist": "grey",
    "fashion-mnist": "grey",
    "svhn": "numbers",
    **dict.fromkeys(OWN, "own"),
}


def facts_of(config: Config) -> Facts | None:
    """Return the facts of a config's images; None where they cannot be had.

    That is where there are no images for the training. Where other parts or classes are missing,
    which loading reports in full, there are facts all the same: a value that nobody asked for is
    then no fault beside that.
    """
    source = source_of(config.dataset)
    kind = _KINDS.get(source.name, "objects")
    try:
        if source.train_counts is None:
            return _of_own(config)
        count = _left(config, source.train_counts)
    except (LmsmError, OSError):
        return None
    recipe = Layer.of_preset("digits").values if kind == "digits" else {}
    return Facts(kind, count, source.size, recipe=recipe)


def _of_own(config: Config) -> Facts | None:
    listings = look_at_own_layout(config.data_dir, folder_options(config)).listings
    training = listings.get("train")
    shapes = None if training is None else _shapes(training, config.image_size)
    if training is None or shapes is None:
        return None
    counts = training.counts()
    if "test" not in listings:
        # That share whatever folds and groups there are: every fold gets the same defaults.
        labels = np.array(training.labels)
        is_test = fixed_share(labels, len(counts), config.test_share)
        counts = np.bincount(labels[~is_test], minlength=len(counts)).tolist()
    if "validation" in listings:
        config = config.model_copy(update={"validation": 0.0})
    shape = shapes.width.median, shapes.height.median
    weights = frozenset(filter(has_cached_weights, {config.model, PHOTO_NET}))
    return Facts("own", _left(config, counts), shapes.shorter_side.median, shape, weights)


def _left(config: Config, available: Sequence[int]) -> int:
    """Return the training images that profile and validation leave."""
    kept = long_tail_counts(available, config.imbalance, config.factor, config.images_per_class)
    return sum(kept) - sum(max(0, held) for held in validation_counts(kept, config.validation))


def _shapes(listing: Listing, size: int) -> Shapes | None:
    """Return the sizes of images that lie evenly among all, from their headers."""
    step = max(1, -(-len(listing.files) // _MOST_HEADERS))
    return shapes_of(read_headers(listing.root, listing.files[::step]), size)


def remembered(look: Callable[[Config], Facts | None]) -> Callable[[Config], Facts | None]:
    """Return a function that looks only once at the same images."""
    known: dict[str, Facts | None] = {}

    def facts(config: Config) -> Facts | None:
        choices = config.model_dump_json(include={*DATA_KEYS, "model", "pretrained"})
        if choices not in known:
            known[choices] = look(config)
        return known[choices]

    return facts
