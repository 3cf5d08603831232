"""The files that an evaluation writes on request: pictures, and features for other tools."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lmsm_cli.inference.evaluate import Evaluation
from lmsm_cli.reports.plots import (
    accuracy_title,
    features_title,
    plot_confusion,
    plot_features,
    plot_reliability,
)
from lmsm_cli.reports.rarity import arm_of_run
from lmsm_cli.reports.rarity_plot import plot_accuracy_by_training_images
from lmsm_cli.reports.sheets import Mistake, draw_mistakes
from lmsm_cli.runs.folder import write_whole
from lmsm_cli.scoring import log_odds


def write_plots(evaluation: Evaluation, folder: Path, *, worst: int) -> None:
    """Draw accuracy by training images, confusion, reliability, mistakes and, in 2-D, the features.

    Raises DiskError.
    """
    plot_confusion(evaluation.scores, folder)
    plot_reliability(evaluation.scores, folder)
    title = accuracy_title(evaluation.scores)
    plot_accuracy_by_training_images([arm_of_run(evaluation.scores)], folder, title=title)
    draw_mistakes(worst_mistakes(evaluation, worst), folder / "worst_mistakes.png")
    if evaluation.trained.is_flat:
        _plot_features(evaluation, evaluation.features(), folder / "features.png")


def write_features(evaluation: Evaluation, path: Path) -> None:
    """Write features, labels, predictions, logits and class names to an .npz file.

    The arrays are `features` (N, D) and `logits` (N, C) float32, `labels` and `predictions` (N,)
    int64, and `classes` (C,). The logits include a correction, as the predictions do. Features in
    two dimensions are also drawn into a PNG beside the file. Raises DiskError.
    """
    features = evaluation.features()
    arrays: dict[str, NDArray[Any]] = {
        "features": features,
        "labels": evaluation.labelled.labels.numpy(),
        "predictions": evaluation.predictions,
        "logits": evaluation.logits,
        "classes": np.array(evaluation.labelled.classes),
    }
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # none is named allow_pickle
    write_whole(path, file.getvalue())
    if evaluation.trained.is_flat:
        _plot_features(evaluation, features, path.with_suffix(".png"))


def worst_mistakes(evaluation: Evaluation, number: int) -> list[Mistake]:
    """Return the wrongly classified images that the classifier was surest of, surest first."""
    labelled, predictions = evaluation.labelled, evaluation.predictions
    labels = labelled.labels.numpy()
    # by log odds, since the probabilities of many may round to 1
    sureness = log_odds(evaluation.logits, predictions)
    wrong = np.flatnonzero(predictions != labels)
    surest = wrong[np.argsort(-sureness[wrong], kind="stable")][:number]
    return [
        Mistake(
            labelled.images[int(place)].numpy(),
            labelled.classes[labels[place]],
            labelled.classes[predictions[place]],
            float(expit(sureness[place])),
        )
        for place in surest
    ]


def _plot_features(evaluation: Evaluation, features: NDArray[np.float32], path: Path) -> None:
    panel = (features_title(evaluation.scores), features, evaluation.labelled.labels.numpy())
    plot_features([panel], evaluation.labelled.classes, path)
