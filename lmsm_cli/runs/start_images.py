"""Whether a run is scored on images that the weights it starts from were trained on."""

from lmsm_cli.config import Config
from lmsm_cli.data.identity import Digests, ImagesRecord, Part
from lmsm_cli.errors import DataError, counted, few
from lmsm_cli.runs.images import IMAGES, recorded_images
from lmsm_cli.runs.start import checkpoint_of, weights_file
from lmsm_cli.runtime.display import Display

_JUDGING: tuple[Part, ...] = ("test", "validation")
_SHOWN = 3


def seen_by_start(config: Config, display: Display) -> Digests | None:
    """Return what the images (N, 16) are that a config's start has seen.

    That is, the training images of the run to start from, and of the run that this started from.
    None where it starts from no run, or that has no images.npz beside its checkpoint, which is
    said. Raises CheckpointError where one of the two is damaged, or they are not of one run.
    """
    file, state = weights_file(config.pretrained), checkpoint_of(config.pretrained)
    if file is None or state is None:
        return None
    record = recorded_images(file.parent, state.images, file)
    if record is None:
        display.info(
            f"whether {config.pretrained} was trained on images that are tested here is not known: "
            f"{IMAGES} is not beside {file}"
        )
        return None
    return record.seen_in_training


def check_unseen(record: ImagesRecord, seen: Digests, config: Config, display: Display) -> None:
    """Check that what a run starts from was not trained on the images that are to judge it.

    Args:
        record: The run's images.
        seen: What the start was trained on, (N, 16).
        config: The run's choices.
        display: Shows a warning where validation images alone were seen, and nothing is chosen by
            them but an epoch.

    Raises:
        DataError: Test images were, or validation images by which a last layer is chosen.
    """
    own = {one.tobytes() for one in record.of("training").digests}
    known = {one.tobytes() for one in seen} - own  # copies in the data itself are told of it
    found = {part: _among(record.of(part), known) for part in _JUDGING}
    if not any(found.values()):
        return
    told = "; ".join(
        f"{len(names):,} of {counted(len(record.of(part)), f'{part} image')}, {few(names, _SHOWN)}"
        for part, names in found.items()
        if names
    )
    text = f"{config.pretrained} was trained on images that are to judge this run: {told}"
    if found["test"] or config.freeze == "features":
        raise DataError(f"{text}; {_way_out(config)}")
    display.warning(f"{text}; the best epoch is chosen by images that the start knows")


def _among(images: ImagesRecord, known: set[bytes]) -> list[str]:
    """Return the names of the images whose digests are known."""
    rows = enumerate(images.digests)
    return [images.name_of(row) for row, one in rows if one.tobytes() in known]


def _way_out(config: Config) -> str:
    """Return what to do where the start has seen the images that judge."""
    if config.folds:
        return "--folds tests each image once: leave it out, or start from other weights"
    if config.freeze == "features":
        return (
            "a last layer is judged by images that its net has not seen: take away those that were "
            "added since, or train the net anew"
        )
    return (
        "start from other weights, or test on images that it has not seen: where some were added "
        "since, put its own test images and some of the new ones in test/"
    )
