"""The images of a run, found again for a trained classifier, and what it says of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Self

import torch
from torch import Tensor

from lmsm_cli.data.find_again import find_again
from lmsm_cli.data.identity import Part
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.data.splits import load_test, load_training
from lmsm_cli.errors import DataError, counted, few
from lmsm_cli.inference.trained import Trained
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs.images import IMAGES
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.display import Display
from lmsm_cli.training.evaluate import scores_and_scale_of, scores_of

Look = Callable[[ImageSet], tuple[Tensor, float | None]]


class HeldOut:
    """The validation images of a run, and the logits that its classifier, as trained, has of them.

    The logits are worked out when they are asked for, and only once.
    """

    def __init__(self, images: ImageSet, look: Look, display: Display) -> None:
        """Take the images, what gives their logits (N, C) and scale, and where warnings go."""
        self.images, self._look, self._display = images, look, display

    @classmethod
    def of(
        cls, trained: Trained, runtime: Runtime, display: Display, *, with_scale: bool = False
    ) -> Self:
        """Read the images at once. Raises DataError where images are gone."""
        look = partial(logits_of, trained, runtime=runtime, display=display, with_scale=with_scale)
        return cls(own_images(trained, "validation", display), look, display)

    @cached_property
    def logits_and_scale(self) -> tuple[Tensor, float | None]:
        """The logits (N, C) and, if that was wanted, their scale."""
        return self._look(self.images)

    @property
    def logits(self) -> Tensor:
        """The logits (N, C)."""
        return self.logits_and_scale[0]

    def missing_classes(self, what: str) -> tuple[str, ...]:
        """Return the classes without an image, and warn of them; `what` is chosen on the others."""
        images = self.images
        missing = [name for name, n in zip(images.classes, images.counts(), strict=True) if not n]
        if missing:
            self._display.warning(
                f"{what} was chosen without {len(missing)} of {len(images.classes)} classes, "
                f"which have no validation image: {few(missing)}; give a number, or train with a "
                "larger --validation"
            )
        return tuple(missing)


def logits_of(
    trained: Trained,
    images: ImageSet,
    runtime: Runtime,
    display: Display,
    *,
    with_scale: bool = False,
) -> tuple[Tensor, float | None]:
    """Return the logits (N, C) and, if wanted, their scale, which needs the same features."""
    shown = partial(display.progress, f"evaluating {counted(len(images), 'image')}")
    shown(0, len(images))
    if with_scale:
        return scores_and_scale_of(trained.model, images.images, runtime, shown=shown)
    return scores_of(trained.model, images.images, runtime, shown=shown), None


def own_images(trained: Trained, part: Part, display: Display) -> ImageSet:
    """Return the test or validation images of a run, labelled as the model counts.

    They are found by content; of a checkpoint that lies apart from its run folder, the data must be
    as it was. Raises DataError where images are gone, or what they were cannot be known.
    """
    if trained.images is not None:
        found = find_again(trained.config, trained.images, [part], display)[part]
        return with_labels_of(trained.model, found)
    as_split_now = _split_now(trained, part, display)
    if trained.state.images is None:
        display.info(
            f"{trained.file} is of an lmsm that did not record its images: "
            "they are taken as the data is now"
        )
    elif as_split_now.digest() != trained.state.images.get(part):
        raise DataError(
            f"{trained.config.data_dir} gives other {part} images than the run had, and {IMAGES}, "
            f"which tells them, is not beside {trained.file}; give the run folder, the run's data "
            "with --data-dir, or other images with --images"
        )
    return with_labels_of(trained.model, as_split_now)


def _split_now(trained: Trained, part: Part, display: Display) -> ImageSet:
    """Return the part of the data as a new run would split it.

    Raises DataError where the training images are not as many as the run's: its split would be
    another, and hold out images that the run was trained on.
    """
    # files that cannot be read are none of the run's, as where its images are found by content
    config = trained.config.model_copy(update={"skip_unreadable": True})
    if part == "test":
        return load_test(config, display)
    training, held_out = load_training(config, display)
    assert held_out is not None
    if with_labels_of(trained.model, training).counts() != trained.state.train_counts:
        raise DataError(
            f"{trained.config.data_dir} holds other training images than the run had, so which it "
            "held out cannot be known; give the run's data with --data-dir"
        )
    return held_out


def with_labels_of(model: Classifier, images: ImageSet) -> ImageSet:
    """Return the images with labels counted as the model counts its classes.

    A data set can number its classes differently in another layout: names decide. Raises DataError
    where the names are not the model's.
    """
    if images.classes == model.classes:
        return images
    strange = sorted(set(images.classes) ^ set(model.classes))
    if strange:
        raise DataError(
            "the data's classes are not the checkpoint's: only one of them has "
            f"{', '.join(strange[:5])}; give the run's data with --data-dir"
        )
    places = torch.tensor([model.classes.index(name) for name in images.classes])
    return replace(images, labels=places[images.labels], classes=model.classes)
