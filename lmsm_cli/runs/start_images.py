"""Whether a run is scored on images that the weights it starts from were trained on."""

from collections.abc import Sequence

from lmsm_cli.config import Config
from lmsm_cli.config.post_hoc import parse_post_hoc
from lmsm_cli.data.identity import Digests, ImagesRecord, Part
from lmsm_cli.errors import CheckpointError, DataError, LmsmError, counted, few
from lmsm_cli.models.pretrained import IMAGENET
from lmsm_cli.runs.checkpoint import is_checkpoint
from lmsm_cli.runs.images import IMAGES, recorded_images
from lmsm_cli.runs.start import checkpoint_of, weights_file
from lmsm_cli.runtime.display import Display

_JUDGING: tuple[Part, ...] = ("test", "validation")
_SHOWN = 3


def images_of_start(config: Config, display: Display) -> ImagesRecord | None:
    """Return what `known_of_start` does; what is not known is a warning."""
    record, unknown = known_of_start(config)
    if unknown:
        display.warning(unknown)
    return record


def known_of_start(config: Config) -> tuple[ImagesRecord | None, str]:
    """Return images.npz of the run that a config starts from, and in words what is not known of it.

    None where it starts from no run, or that has no such file beside its checkpoint. Raises
    CheckpointError where one of the two is damaged, or they are not of one run.
    """
    file, state = weights_file(config.pretrained), checkpoint_of(config.pretrained)
    if file is None or state is None:
        return None, ""
    try:
        record = recorded_images(file.parent, state.images, file)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; without that file the weights alone are taken, and what they were trained "
            "on is not known"
        ) from None
    if record is None:
        why = f"{IMAGES} is not beside {file}"
    elif record.seen_before is None and _is_a_run(state.config.pretrained):
        why = f"it started from {state.config.pretrained}, and that is not known of it either"
    else:
        return record, ""
    return record, (
        f"whether {config.pretrained} was trained on images that are tested here is not known: "
        f"{why}; if it was, the scores flatter"
    )


def _is_a_run(source: str | None) -> bool:
    """Return whether weights are those of a run, as far as they are still there to be looked at."""
    if source in (None, IMAGENET):
        return False
    try:
        file = weights_file(source)
    except LmsmError:
        return True
    return file is None or not file.is_file() or is_checkpoint(file)


def several_unknown(sources: Sequence[str]) -> str:
    """Return what is not known of several starts of a plan, in a sentence."""
    return (
        f"whether {few(sources, _SHOWN)} were trained on images that are tested here is not known; "
        "if they were, the scores flatter; train.log of each run says why"
    )


def check_unseen(
    record: ImagesRecord, start: ImagesRecord, config: Config, display: Display
) -> None:
    """Check that what a run starts from was not trained on the images that are to judge it.

    Args:
        record: The run's images.
        start: Those of the run that it starts from.
        config: The run's choices.
        display: Shows a warning where validation images alone were seen, and no tau is chosen by
            them.

    Raises:
        DataError: Test images were, or validation images by which a tau is chosen.
    """
    known = _set_of(start.seen_in_training)
    # copies in the data, of the run or of its start, are told of that data; an image that the start
    # was judged by, and that only its own start was trained on, is none
    own = _set_of(start.of("training").digests)
    known -= _set_of(record.of("training").digests)
    for part in _JUDGING:
        known -= own & _set_of(start.of(part).digests)
    found = {part: _among(record.of(part), known) for part in _JUDGING}
    if not any(found.values()):
        return
    told = "; ".join(
        f"{len(names):,} of {counted(len(record.of(part)), f'{part} image')}, {few(names, _SHOWN)}"
        for part, names in found.items()
        if names
    )
    text = f"{config.pretrained} was trained on images that are to judge this run: {told}"
    if found["test"]:
        raise DataError(f"{text}; {_way_out(config)}")
    if config.post_hoc and parse_post_hoc(config.post_hoc).is_chosen:
        raise DataError(
            f"{text}, and tau is chosen by them; give the validation and split_seed of that run, "
            f"or a tau, as in {config.post_hoc}:1"
        )
    display.warning(f"{text}: what is chosen by them is chosen too well")


def _set_of(digests: Digests) -> set[bytes]:
    return {one.tobytes() for one in digests}


def _among(images: ImagesRecord, known: set[bytes]) -> list[str]:
    """Return the names of the images whose digests are known."""
    rows = enumerate(images.digests)
    return [images.name_of(row) for row, one in rows if one.tobytes() in known]


def _way_out(config: Config) -> str:
    """Return what to do where the start has seen the images that judge."""
    if config.folds:
        return "folds test each image once: take none, or start from other weights"
    if config.freeze == "features":
        return (
            "a last layer is judged by images that its net has not seen: take away those that were "
            "added since, or train the net anew"
        )
    return (
        "start from other weights, or test on images that it has not seen: where some were added "
        "since, put its own test images and some of the new ones in test/"
    )
