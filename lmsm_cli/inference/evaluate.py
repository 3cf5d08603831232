"""What a saved checkpoint says of labelled images: scores for `lmsm eval`, features for pictures."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lmsm_cli.data import sources
from lmsm_cli.data.identity import Part
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.data.splits import check_at_hand, find_again, folder_options, load_test, load_training
from lmsm_cli.errors import DataError, LmsmError, counted, few
from lmsm_cli.inference.adjust import Correction, choose_tau, logit_adjustment, tau_normalisation
from lmsm_cli.inference.trained import Trained, read_trained
from lmsm_cli.metrics import Scores, score
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs.documents import (
    Adjustment,
    ChosenOn,
    EvaluationDocument,
    Unadjusted,
    build,
)
from lmsm_cli.runs.images import IMAGES
from lmsm_cli.runtime.device import Runtime, choose_runtime
from lmsm_cli.runtime.display import Display, WarningLog
from lmsm_cli.training.evaluate import answers, features_of, scores_of

Tau = float | Literal["auto"]


@dataclass(frozen=True)
class _Adjustment:
    """A correction with its tau; `chosen_on` tells of the images that tau was chosen on, if any."""

    correction: Correction
    tau: float
    chosen_on: ChosenOn | None


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said of labelled images; `labelled` counts classes as the model does."""

    scores: EvaluationDocument
    labelled: ImageSet
    predictions: NDArray[np.int64]  # (N,)
    probabilities: NDArray[np.floating[Any]]  # (N, C)
    logits: NDArray[np.float32]  # (N, C), without a margin; corrected where that was asked for
    trained: Trained
    runtime: Runtime

    @property
    def is_flat(self) -> bool:
        """Whether a feature is a point of the plane."""
        return self.trained.model.head.weight.shape[1] == 2

    def features(self) -> NDArray[np.float32]:
        """Return the head's input features (N, D) of the images, worked out anew."""
        found: NDArray[np.float32] = (
            features_of(self.trained.model, self.labelled.images, self.runtime).cpu().numpy()
        )
        return found


def evaluation_of(
    path: Path,
    display: Display,
    *,
    split_name: str = "test",
    images: Path | None = None,
    data_dir: Path | None = None,
    follow_links: bool = False,
    skip_unreadable: bool = False,
    device: str = "auto",
    adjust: Tau | None = None,
    tau_norm: Tau | None = None,
) -> Evaluation:
    """Return what a checkpoint file or run folder says of its own data, or of class folders.

    `split_name` is `test` or `validation`; `images` are class folders whose names are among the
    checkpoint's classes, read with links out of them and without unreadable files if that is asked
    for, here or by the run. `adjust` or `tau_norm` corrects for the long tail with that tau, `auto`
    with the one that is best on the run's validation images; `adjustment` then tells what it did.
    Raises LmsmError for a correction that can't be had, CheckpointError or DataError.
    """
    if adjust is not None and tau_norm is not None:
        raise LmsmError("--adjust and --tau-norm exclude each other; give one of them")
    if images is not None and split_name != "test":
        raise LmsmError(f"--images and --split {split_name} exclude each other; give one of them")
    trained = read_trained(path, data_dir)
    display = WarningLog(display)  # for it may read a folder twice
    if data_dir is None and (images is None or "auto" in (adjust, tau_norm)):
        check_at_hand(trained.config)
    asked = {"follow_links": follow_links, "skip_unreadable": skip_unreadable}
    choices = {key: value for key, value in asked.items() if value}
    trained = replace(trained, config=trained.config.model_copy(update=choices))
    wanted = _wanted_correction(trained, adjust, tau_norm, display)
    runtime = trained.runtime(device)
    adjustment = _with_tau(*wanted, trained, runtime, display) if wanted else None
    labelled = _with_labels_of(trained.model, _labelled(trained, split_name, images, display))
    if adjustment and adjustment.chosen_on and split_name == "validation":
        display.warning(
            "tau was chosen on these same validation images, so their scores flatter it; report those of test images"
        )
    return _answered(
        trained,
        labelled,
        runtime,
        adjustment,
        split=str(images.absolute()) if images else split_name,
    )


def _wanted_correction(
    trained: Trained, adjust: Tau | None, tau_norm: Tau | None, display: Display
) -> tuple[Correction, Tau] | None:
    """Return the correction and tau that are asked for; refuse, before any data is read, what can't be had."""
    tau = tau_norm if adjust is None else adjust
    if tau is None:
        return None
    if tau == "auto" and trained.config.validation == 0:
        raise LmsmError(
            "the run held out no validation images (validation 0) to choose tau on; give a number instead of auto"
        )
    if tau_norm is None:
        return logit_adjustment(trained.train_counts, _adjusted_in_training(trained, display)), tau
    return tau_normalisation(trained.model.head.class_weights(), trained.model.head.bias), tau


def _adjusted_in_training(trained: Trained, display: Display) -> float:
    """Return how much of the logit adjustment the training did already; say so where it did."""
    config = trained.config
    weighs = config.reweight != "none" and (config.reweight, config.reweight_beta) != (
        "effective",
        0,
    )
    if trained.epoch >= config.rebalance_from and (weighs or config.sampling == "balanced"):
        display.warning(
            "the training rebalanced the classes already; theory's tau for its logits is 0"
        )
        return 1.0
    strength = trained.model.head.prior_strength()
    if strength:
        display.warning(
            f"the loss {config.loss!r} adjusted its logits with tau {strength:g} already; theory's tau for what is left is {max(0.0, 1 - strength):g}"
        )
    return strength


def _with_tau(
    correction: Correction, tau: Tau, trained: Trained, runtime: Runtime, display: Display
) -> _Adjustment:
    """Return the correction with its tau, `auto` chosen on the run's validation images alone."""
    if tau != "auto":
        return _Adjustment(correction, tau, None)
    held_out = _own_images(trained, "validation", display)
    choice = choose_tau(
        correction, scores_of(trained.model, held_out.images, runtime), held_out.labels.numpy()
    )
    missing = [name for name, n in zip(held_out.classes, held_out.counts(), strict=True) if not n]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        display.warning(
            f"tau was chosen without {len(missing)} of {len(held_out.classes)} classes, which have no validation image: {', '.join(missing[:5])}{more}"
        )
    return _Adjustment(
        correction,
        choice.tau,
        ChosenOn(
            split="validation",
            num_images=len(held_out),
            classes_without_images=tuple(missing),
            balanced_accuracy=choice.balanced_accuracy,
            balanced_accuracy_unadjusted=choice.balanced_accuracy_unadjusted,
        ),
    )


def _answered(
    trained: Trained,
    labelled: ImageSet,
    runtime: Runtime,
    adjustment: _Adjustment | None,
    split: str,
) -> Evaluation:
    """Return the answers and their scores, with a correction also the scores without it."""
    logits = scores_of(trained.model, labelled.images, runtime)
    applied = None
    if adjustment:
        plain = _score(trained, labelled, *answers(logits))
        applied = Adjustment(
            method=adjustment.correction.method,
            tau=adjustment.tau,
            chosen_on=adjustment.chosen_on,
            unadjusted=Unadjusted(
                accuracy=plain.accuracy,
                balanced_accuracy=plain.balanced_accuracy,
                macro_f1=plain.macro_f1,
                groups=plain.groups,
            ),
        )
        logits = adjustment.correction.correct(logits, adjustment.tau)
    predictions, probabilities = answers(logits)
    head, progress = trained.model.head, trained.epoch / trained.config.epochs
    values = {
        "checkpoint": str(trained.file),
        "epoch": trained.epoch,
        "split": split,
        "effective_margin": head.effective_margin_at(progress),
        "adjustment": applied,
    }
    scores = _score(trained, labelled, predictions, probabilities)
    return Evaluation(
        build(EvaluationDocument, scores.parts() | values),
        labelled,
        predictions,
        probabilities,
        logits.float().cpu().numpy(),
        trained,
        runtime,
    )


def _score(
    trained: Trained,
    labelled: ImageSet,
    predictions: NDArray[np.int64],
    probabilities: NDArray[np.floating[Any]],
) -> Scores:
    labels = labelled.labels.numpy()
    return score(trained.model.classes, labels, predictions, trained.train_counts, probabilities)


def _labelled(trained: Trained, split_name: str, images: Path | None, display: Display) -> ImageSet:
    if images is not None:
        side, channels = trained.image_shape[0], trained.image_shape[2]
        options = replace(folder_options(trained.config), image_size=side)
        found = sources.load_folder(
            images,
            options=options,
            channels=channels,
            classes=trained.model.classes,
            display=display,
        )
        _tell_trained_on(trained, found, display)
        return found
    if split_name == "test":
        return _own_images(trained, "test", display)
    if trained.config.validation == 0:
        raise LmsmError(
            "the run held out no validation images (validation 0); evaluate its test images"
        )
    return _own_images(trained, "validation", display)


def _tell_trained_on(trained: Trained, images: ImageSet, display: Display) -> None:
    """Warn of images that the run was trained on: their scores are no test."""
    if trained.images is None:
        display.info(
            f"whether these are images that the run was trained on is not known: {IMAGES} is not beside {trained.file}"
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
            f"{counted(len(names), 'image')} of {len(images):,} are of those that the run was trained on, which flatters the scores: {few(names)}"
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
    if trained.image_digests is None:
        display.info(
            f"{trained.file} is of an lmsm that did not record its images: they are taken as the data is now"
        )
    elif as_split_now.digest() != trained.image_digests.get(part):
        raise DataError(
            f"{trained.config.data_dir} gives other {part} images than the run had, and {IMAGES}, which tells them, is not beside {trained.file}; give the run folder, the run's data with --data-dir, or other images with --images"
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
    if _with_labels_of(trained.model, training).counts() != trained.train_counts:
        raise DataError(
            f"{trained.config.data_dir} holds other training images than the run had, so which it held out cannot be known; give the run's data with --data-dir"
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
            f"the data's classes are not the checkpoint's: only one of them has {', '.join(strange[:5])}; give the run's data with --data-dir"
        )
    places = torch.tensor([model.classes.index(name) for name in images.classes])
    return replace(images, labels=places[images.labels], classes=model.classes)


def features(
    path: Path, display: Display
) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]:
    """Return a run's test features (N, D), labels (N,) and class names."""
    trained = read_trained(path)
    runtime = choose_runtime("cpu", "fp32")
    test = _own_images(trained, "test", display)
    return (
        features_of(trained.model, test.images, runtime).numpy(),
        test.labels.numpy(),
        test.classes,
    )
