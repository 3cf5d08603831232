"""Evaluation of a checkpoint on labelled images: scores for `lmsm eval`, features for pictures."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor

from lmsm_cli.data import sources
from lmsm_cli.data.decoded import middle
from lmsm_cli.data.find_again import check_at_hand
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.data.layout import check_apart
from lmsm_cli.data.splits import folder_options
from lmsm_cli.errors import LmsmError, counted, few
from lmsm_cli.inference.correction import RequestedCorrection, check, made, needs_held_out
from lmsm_cli.inference.coverage import answered_above, sureness_for
from lmsm_cli.inference.effect import main_scores, paired_difference
from lmsm_cli.inference.own_images import HeldOut, logits_of, own_images, with_labels_of
from lmsm_cli.inference.trained import Correction, Trained, read_trained
from lmsm_cli.metrics import Scores
from lmsm_cli.reports.figures import check_drawn
from lmsm_cli.reports.tables_corrections import better_tau, worse_words
from lmsm_cli.runs.documents import (
    Adjustment,
    Coverage,
    EvaluationDocument,
    build,
)
from lmsm_cli.runs.images import IMAGES
from lmsm_cli.runtime.device import Runtime, choose_runtime
from lmsm_cli.runtime.display import Display, WarningLog
from lmsm_cli.scoring import log_odds, score
from lmsm_cli.training.evaluate import answers, features_of

# The predicted classes (N,) and the logits (N, C) of images.
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
    written: Mapping[str, Path] = field(default_factory=dict)
    """What is written of the answers, by the flag that asks for it; not among the images."""

    @property
    def name(self) -> str:
        """What scores.json says that the images are."""
        return str(self.images.absolute()) if self.images else self.split

    @property
    def choices(self) -> dict[str, bool]:
        """The choices of the run's config that this changes."""
        chosen = {"follow_links": self.follow_links, "skip_unreadable": self.skip_unreadable}
        return {key: value for key, value in chosen.items() if value}

    def check_written(self, trained: Trained) -> None:
        """Raise LmsmError where what is written would lie among the images, the run's or others,
        and where a picture beside the features would replace one that lmsm did not draw.
        """
        for flag, path in self.written.items():
            trained.check_apart(flag, path)
            if self.images:
                check_apart(flag, path, "folder", self.images)
            if flag == "--features" and trained.is_flat:
                check_drawn(path.with_suffix(".png"))


@dataclass(frozen=True)
class Evaluation:
    """What a classifier said of labelled images; `labelled` counts classes as the model does."""

    scores: EvaluationDocument
    labelled: ImageSet
    predictions: NDArray[np.int64]  # (N,)
    logits: NDArray[np.float32]  # (N, C), without a margin; corrected on request
    trained: Trained
    runtime: Runtime

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
    coverage: float | None = None,
) -> Evaluation:
    """Evaluate a checkpoint file or run folder.

    Args:
        path: The checkpoint or the run folder.
        display: Where progress and warnings go.
        subject: The images; the run's test images if None.
        correction: What corrects the answers; the scores' `adjustment` holds its effect.
        device: auto, cpu, cuda or cuda:N.
        best: Take best.pt of the run folder instead of the last epoch.
        coverage: The share of the images to answer, those that the classifier is surest of; the
            scores' `coverage` tells what it then gets right.

    Raises LmsmError for a correction that is impossible here, or where something is to be written
    among the images; CheckpointError or DataError.
    """
    subject = subject or Subject()
    trained = read_trained(path, subject.data_dir, best=best)
    subject.check_written(trained)
    display = WarningLog(display)  # since a folder may be read twice
    trained = replace(trained, config=trained.config.model_copy(update=subject.choices))
    checked = check(trained, correction, display) if correction else None
    needs_held_out = _needs_held_out(trained, correction, coverage)
    if not trained.is_data_named and (subject.images is None or needs_held_out):
        check_at_hand(trained.config)
    runtime = trained.runtime(device)
    # the logits are those as trained, so that scores with and without a correction are told
    trained.model.correct_by(None)
    held_out = None
    if needs_held_out:
        is_scaled = correction is not None and correction.is_scaled
        held_out = HeldOut.of(trained, runtime, display, with_scale=is_scaled)
    awaits_scale = correction is not None and correction.awaits_scale
    found = trained.correction
    if checked and not awaits_scale:
        found = made(checked, held_out)
    labelled = with_labels_of(trained.model, _labelled(trained, subject, display))
    logits, scale = logits_of(trained, labelled, runtime, display, with_scale=awaits_scale)
    if checked and awaits_scale:
        found = made(checked, held_out, scale)
    if correction and correction.chooses and subject.split == "validation":
        display.warning(
            f"{correction.chooses} was chosen on these same validation images, so their scores "
            "flatter it; report those of test images"
        )
    whole = _Answered(trained, labelled, logits, found)
    more = {} if coverage is None else {"coverage": whole.covering(coverage, held_out, subject)}
    evaluation = whole.evaluation(subject.name, runtime, more)
    _warn_of_worse(evaluation.scores, display)
    return evaluation


def _warn_of_worse(scores: EvaluationDocument, display: Display) -> None:
    done = scores.adjustment
    if done and done.difference and done.difference.verdict == "worse":
        words = worse_words(done.difference, f"these {done.difference.images:,} images")
        display.warning(f"{words}; {better_tau(done)}")


def _needs_held_out(
    trained: Trained, correction: RequestedCorrection | None, coverage: float | None
) -> bool:
    """Return whether the run's validation images are needed, beside those to evaluate."""
    is_to_cover = coverage is not None and trained.config.validation > 0
    return is_to_cover or (
        correction is not None and needs_held_out(correction, scales_itself=True)
    )


@dataclass(frozen=True)
class _Answered:
    """The logits of labelled images, as trained, and what corrects them."""

    trained: Trained
    labelled: ImageSet
    logits: Tensor
    correction: Correction | None

    def _corrected(self, logits: Tensor) -> Tensor:
        return self.correction.affine.of(logits) if self.correction else logits

    def covering(self, share: float, held_out: HeldOut | None, subject: Subject) -> Coverage:
        """Return what is right where the classifier answers a share of the images."""
        logits = self._corrected(self.logits)
        is_same = held_out is None or (subject.images is None and subject.split == "validation")
        judged = logits if held_out is None else self._corrected(held_out.logits)
        least = sureness_for(_sureness(answers(judged)), share)
        given = answers(logits)
        found = answered_above(least, given[0], _sureness(given), self.labelled.labels.numpy())
        values = {
            "wanted": share,
            "confidence": float(expit(least)),
            "log_odds": least,
            "chosen_on": "these images" if is_same else "validation",
        }
        return build(Coverage, values | found)

    def evaluation(self, split: str, runtime: Runtime, more: dict[str, Any]) -> Evaluation:
        """Return the answers and their scores, with a correction also the scores without it."""
        trained, labelled = self.trained, self.labelled
        logits = self._corrected(self.logits)
        given, test = answers(logits), split == "test"
        head, progress = trained.model.head, trained.state.epoch / trained.config.epochs
        values = {
            "checkpoint": str(trained.file),
            **trained.epoch_facts,
            "split": split,
            "effective_margin": head.effective_margin_at(progress),
            "adjustment": self._applied(given[0]),
            "test_images_per_class": trained.config.test_images_per_class if test else None,
            **more,
        }
        parts = _score(trained, labelled, given).parts()
        scores = build(EvaluationDocument, parts | values)
        array = given[1].astype(np.float32, copy=False)
        return Evaluation(scores, labelled, given[0], array, trained, runtime)

    def _applied(self, predictions: NDArray[np.int64]) -> Adjustment | None:
        if self.correction is None:
            return None
        trained, facts = self.trained, self.correction.facts
        plain, labels = answers(self.logits), self.labelled.labels.numpy()
        own = {
            "unadjusted": main_scores(_score(trained, self.labelled, plain)),
            "is_built_in": trained.correction is not None,
            "difference": paired_difference(
                labels, plain[0], predictions, trained.model.classes, facts.prior
            ),
        }
        return build(Adjustment, facts.parts() | own)


def _score(trained: Trained, labelled: ImageSet, given: Answers) -> Scores:
    labels, (predictions, logits) = labelled.labels.numpy(), given
    counts = trained.state.train_counts
    return score(trained.model.classes, labels, predictions, counts, logits)


def _sureness(given: Answers) -> NDArray[np.float64]:
    """Return the log odds (N,) of the predicted classes."""
    predictions, logits = given
    return log_odds(logits, predictions)


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
        return own_images(trained, "test", display)
    if trained.config.validation == 0:
        raise LmsmError(
            "the run held out no validation images (validation 0); evaluate its test images"
        )
    return own_images(trained, "validation", display)


def _warn_of_training_images(trained: Trained, images: ImageSet, display: Display) -> None:
    if trained.images is None:
        display.info(
            "whether these are images that the run was trained on is not known: "
            f"{IMAGES} is not beside {trained.file}"
        )
        return
    seen = {one.tobytes() for one in trained.images.seen_in_training}
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


def features_of_test_images(
    path: Path, display: Display
) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]:
    """Return a run's test features (N, D), labels (N,) and class names."""
    trained = read_trained(path)
    test = own_images(trained, "test", display)
    found = features_of(trained.model, test.images, choose_runtime("cpu", "fp32"))
    return found.numpy(), test.labels.numpy(), test.classes
