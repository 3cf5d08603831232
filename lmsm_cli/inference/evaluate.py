"""Evaluation of a checkpoint on labelled images: scores for `lmsm eval`, features for pictures."""

import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsm_cli.data import sources
from lmsm_cli.data.decoded import middle
from lmsm_cli.data.identity import Part
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.data.splits import check_at_hand, find_again, folder_options, load_test, load_training
from lmsm_cli.errors import DataError, LmsmError, counted, few
from lmsm_cli.inference.adjust import Correction, choose_tau, logit_adjustment, tau_normalisation
from lmsm_cli.inference.trained import Trained, read_trained
from lmsm_cli.metrics import Scores, score
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs.documents import Adjustment, ChosenOn, EvaluationDocument, Unadjusted, build
from lmsm_cli.runs.images import IMAGES
from lmsm_cli.runtime.device import Runtime, choose_runtime
from lmsm_cli.runtime.display import Display, WarningLog
from lmsm_cli.training.evaluate import answers, features_of, scores_and_scale_of, scores_of

Tau = float | Literal["auto"]
# The predicted classes (N,) and the probabilities (N, C) of images.
Answers = tuple[NDArray[np.int64], NDArray[np.floating[Any]]]


@dataclass(frozen=True)
class Subject:
    """The images that a classifier is evaluated on."""

    split: str = "test"
    """`test` or `validation`, of the run's own images."""
    images: Path | None = None
    """Other images in place of them: class folders whose names are among the model's classes."""
    data_dir: Path | None = None
    """Where the run's data is now, if elsewhere than the run had it."""
    follow_links: bool = False
    """Whether to follow links out of `images`, even if the run did not."""
    skip_unreadable: bool = False
    """Whether to go on without unreadable files of `images`, even if the run did not."""

    @property
    def name(self) -> str:
        """What scores.json says that the images are."""
        return str(self.images.absolute()) if self.images else self.split

    @property
    def choices(self) -> dict[str, bool]:
        """The choices of the run's config that this changes."""
        chosen = {"follow_links": self.follow_links, "skip_unreadable": self.skip_unreadable}
        return {key: value for key, value in chosen.items() if value}


@dataclass(frozen=True)
class RequestedCorrection:
    """A correction for the long tail: `adjust` or `tau-norm`, with tau or `auto`.

    `auto` takes the tau that is best on the run's validation images.
    """

    method: str
    tau: Tau
    is_scaled: bool = False
    """Whether tau, of `adjust` alone, is in units of the logits' scale (`Head.score_scale`).

    The scale is that of the images that are corrected, without their labels. With `auto` it is that
    of the validation images, so that what is applied is what was chosen: rare classes can have
    shorter features, and hence images with more of them a smaller scale.
    """


@dataclass(frozen=True)
class _Adjustment:
    """A correction with its tau; `chosen_on` tells of the images that tau was chosen on, if any."""

    correction: Correction
    tau: float
    chosen_on: ChosenOn | None = None
    awaits_scale: bool = False  # that of the images which it will correct


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said of labelled images; `labelled` counts classes as the model does."""

    scores: EvaluationDocument
    labelled: ImageSet
    predictions: NDArray[np.int64]  # (N,)
    probabilities: NDArray[np.floating[Any]]  # (N, C)
    logits: NDArray[np.float32]  # (N, C), without a margin; corrected on request
    trained: Trained
    runtime: Runtime

    @property
    def is_flat(self) -> bool:
        """Whether a feature is a point of the plane."""
        return self.trained.model.head.weight.shape[1] == 2

    def features(self) -> NDArray[np.float32]:
        """Return the head's input features (N, D) of the images, worked out anew."""
        found = features_of(self.trained.model, self.labelled.images, self.runtime)
        return found.cpu().numpy()


def evaluate_checkpoint(
    path: Path,
    display: Display,
    subject: Subject | None = None,
    correction: RequestedCorrection | None = None,
    device: str = "auto",
    *,
    best: bool = False,
) -> Evaluation:
    """Evaluate a checkpoint file or run folder.

    Args:
        path: The checkpoint or the run folder.
        display: Where progress and warnings go.
        subject: The images; the run's test images if None.
        correction: What corrects for the long tail; the scores' `adjustment` holds its effect.
        device: auto, cpu, cuda or cuda:N.
        best: Take best.pt of the run folder instead of the last epoch.

    Raises LmsmError for a correction that is impossible here, CheckpointError or DataError.
    """
    subject = subject or Subject()
    trained = read_trained(path, subject.data_dir, best=best)
    display = WarningLog(display)  # since a folder may be read twice
    needs_own = subject.images is None or (correction is not None and correction.tau == "auto")
    if subject.data_dir is None and needs_own:
        check_at_hand(trained.config)
    trained = replace(trained, config=trained.config.model_copy(update=subject.choices))
    checked = _checked_correction(trained, correction, display) if correction else None
    runtime = trained.runtime(device)
    adjustment = None
    if correction and checked:
        adjustment = _with_tau(checked, correction, trained, runtime, display)
    labelled = _with_labels_of(trained.model, _labelled(trained, subject, display))
    if adjustment and adjustment.chosen_on and subject.split == "validation":
        display.warning(
            "tau was chosen on these same validation images, so their scores flatter it; "
            "report those of test images"
        )
    return _evaluated(trained, labelled, runtime, adjustment, subject.name, display)


def _checked_correction(
    trained: Trained, wanted: RequestedCorrection, display: Display
) -> Correction:
    """Return the correction; raise LmsmError for an impossible one, before any data is read."""
    if wanted.tau == "auto" and trained.config.validation == 0:
        raise LmsmError(
            "the run held out no validation images (validation 0) to choose tau on; "
            "give a number instead of auto"
        )
    head = trained.model.head
    if wanted.method == "tau-norm":
        return tau_normalisation(head.class_weights(), head.bias)
    done = _adjusted_in_training(trained, display, "plain tau" if wanted.is_scaled else "tau")
    return logit_adjustment(trained.state.train_counts, done)


def _adjusted_in_training(trained: Trained, display: Display, tau: str) -> float:
    """Return how much of the logit adjustment the training did already; say so where it did."""
    config, strength = trained.config, trained.model.head.prior_strength
    is_uniform = config.reweight == "effective" and config.reweight_beta == 0
    is_rebalanced = config.sampling == "balanced" or (config.reweight != "none" and not is_uniform)
    if trained.state.epoch >= config.rebalance_from and is_rebalanced:
        display.warning(
            "The training rebalanced the classes already; no further correction is expected "
            f"({tau} 0)."
        )
        return 1.0
    if strength:
        left = max(0.0, 1 - strength)
        part, further = (f" by tau {strength:g}", "some further") if left else ("", "no further")
        display.warning(
            f"The loss {config.loss!r} is already adjusted{part}; {further} correction is "
            f"expected ({tau} {left:g})."
        )
    return strength


def _with_tau(
    correction: Correction,
    wanted: RequestedCorrection,
    trained: Trained,
    runtime: Runtime,
    display: Display,
) -> _Adjustment:
    """Return the correction with its tau, `auto` chosen on the run's validation images alone."""
    if wanted.tau != "auto":
        return _Adjustment(correction, wanted.tau, awaits_scale=wanted.is_scaled)
    held_out = _own_images(trained, "validation", display)
    logits, scale = _logits(trained, held_out, runtime, display, with_scale=wanted.is_scaled)
    if scale is not None:
        correction = correction.in_units_of(scale)
    choice = choose_tau(correction, logits, held_out.labels.numpy())
    missing = [name for name, n in zip(held_out.classes, held_out.counts(), strict=True) if not n]
    if missing:
        display.warning(
            f"tau was chosen without {len(missing)} of {len(held_out.classes)} classes, "
            f"which have no validation image: {few(missing)}; give a number, or train with a "
            "larger --validation"
        )
    chosen_on = ChosenOn(
        split="validation",
        num_images=len(held_out),
        classes_without_images=tuple(missing),
        balanced_accuracy=choice.balanced_accuracy,
        balanced_accuracy_unadjusted=choice.balanced_accuracy_unadjusted,
    )
    return _Adjustment(correction, choice.tau, chosen_on)


def _evaluated(
    trained: Trained,
    labelled: ImageSet,
    runtime: Runtime,
    adjustment: _Adjustment | None,
    split: str,
    display: Display,
) -> Evaluation:
    """Return the answers and their scores, with a correction also the scores without it."""
    awaits_scale = adjustment is not None and adjustment.awaits_scale
    logits, scale = _logits(trained, labelled, runtime, display, with_scale=awaits_scale)
    applied = None
    if adjustment:
        plain = _score(trained, labelled, answers(logits))
        correction = adjustment.correction
        if scale is not None:
            correction = correction.in_units_of(scale)
        applied = _applied(adjustment, correction, plain)
        logits = correction.scores(logits, adjustment.tau)
    given = answers(logits)
    head, progress = trained.model.head, trained.state.epoch / trained.config.epochs
    values = {
        "checkpoint": str(trained.file),
        **trained.epoch_facts,
        "split": split,
        "effective_margin": head.effective_margin_at(progress),
        "adjustment": applied,
        "test_images_per_class": trained.config.test_images_per_class if split == "test" else None,
    }
    parts = _score(trained, labelled, given).parts()
    scores = build(EvaluationDocument, parts | values)
    array = logits.float().cpu().numpy()
    return Evaluation(scores, labelled, *given, array, trained, runtime)


def _logits(
    trained: Trained, images: ImageSet, runtime: Runtime, display: Display, *, with_scale: bool
) -> tuple[Tensor, float | None]:
    """Return the logits (N, C) and, if wanted, their scale, which needs the same features."""
    shown = partial(display.progress, f"evaluating {counted(len(images), 'image')}")
    shown(0, len(images))
    if with_scale:
        return scores_and_scale_of(trained.model, images.images, runtime, shown=shown)
    return scores_of(trained.model, images.images, runtime, shown=shown), None


def _applied(adjustment: _Adjustment, correction: Correction, plain: Scores) -> Adjustment:
    return Adjustment(
        method=correction.method,
        tau=adjustment.tau,
        scale=correction.scale,
        chosen_on=adjustment.chosen_on,
        unadjusted=Unadjusted(
            accuracy=plain.accuracy,
            balanced_accuracy=plain.balanced_accuracy,
            macro_f1=plain.macro_f1,
            groups=plain.groups,
        ),
    )


def _score(trained: Trained, labelled: ImageSet, given: Answers) -> Scores:
    labels, (predictions, probabilities) = labelled.labels.numpy(), given
    counts = trained.state.train_counts
    return score(trained.model.classes, labels, predictions, counts, probabilities)


def _labelled(trained: Trained, subject: Subject, display: Display) -> ImageSet:
    if subject.images is not None:
        side, _, channels = trained.state.image_shape
        options = folder_options(trained.config)
        options = replace(options, image_size=trained.config.kept_size or side)
        classes = trained.model.classes
        found = sources.load_folder(
            subject.images, options=options, channels=channels, classes=classes, display=display
        )
        found = replace(found, images=middle(found.images, side))
        _warn_of_training_images(trained, found, display)
        return found
    if subject.split == "test":
        return _own_images(trained, "test", display)
    if trained.config.validation == 0:
        raise LmsmError(
            "the run held out no validation images (validation 0); evaluate its test images"
        )
    return _own_images(trained, "validation", display)


def _warn_of_training_images(trained: Trained, images: ImageSet, display: Display) -> None:
    if trained.images is None:
        display.info(
            "whether these are images that the run was trained on is not known: "
            f"{IMAGES} is not beside {trained.file}"
        )
        return
    seen = {one.tobytes() for one in trained.images.of("training").digests}
    names = [
        os.fsdecode(place)
        for one, place in zip(images.digests, images.places.tolist(), strict=True)
        if one.tobytes() in seen
    ]
    if names:
        display.warning(
            f"{counted(len(names), 'image')} of {len(images):,} are of those that the run was "
            f"trained on, which flatters the scores; leave them out: {few(names)}"
        )


def _own_images(trained: Trained, part: Part, display: Display) -> ImageSet:
    """Return the test or validation images of a run, labelled as the model counts.

    They are found by content; of a checkpoint that lies apart from its run folder, the data must be
    as it was. Raises DataError where images are gone, or what they were cannot be known.
    """
    if trained.images is not None:
        found = find_again(trained.config, trained.images, [part], display)[part]
        return _with_labels_of(trained.model, found)
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
    return _with_labels_of(trained.model, as_split_now)


def _split_now(trained: Trained, part: Part, display: Display) -> ImageSet:
    """Return the part of the data as a new run would split it.

    Raises DataError where the training images are not as many as the run's: its split would be
    another, and hold out images that the run was trained on.
    """
    if part == "test":
        return load_test(trained.config, display)
    training, held_out = load_training(trained.config, display)
    assert held_out is not None
    if _with_labels_of(trained.model, training).counts() != trained.state.train_counts:
        raise DataError(
            f"{trained.config.data_dir} holds other training images than the run had, so which it "
            "held out cannot be known; give the run's data with --data-dir"
        )
    return held_out


def _with_labels_of(model: Classifier, images: ImageSet) -> ImageSet:
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


def features_of_test_images(
    path: Path, display: Display
) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]:
    """Return a run's test features (N, D), labels (N,) and class names."""
    trained = read_trained(path)
    test = _own_images(trained, "test", display)
    found = features_of(trained.model, test.images, choose_runtime("cpu", "fp32"))
    return found.numpy(), test.labels.numpy(), test.classes
