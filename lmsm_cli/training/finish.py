"""How a run ends: its status in any case; after the training its test scores and pictures."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np

from lmsm_cli.config.in_words import history_title
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.distributed.process_group import SINGLE_PROCESS
from lmsm_cli.errors import (
    CheckpointError,
    LmsmError,
    PrunedError,
    RunError,
    StoppedError,
    counted,
)
from lmsm_cli.metrics import Scores
from lmsm_cli.reports import plots
from lmsm_cli.reports.rarity import arm_of_run
from lmsm_cli.reports.rarity_plot import plot_accuracy_by_training_images
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.documents import ScoresDocument, build
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import MOST_LOGITS, Predictions
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.runtime.signals import Terminated
from lmsm_cli.scoring import probabilities, score
from lmsm_cli.training.evaluate import answers, features_of, scores_of
from lmsm_cli.training.features import as_features, stay_the_same
from lmsm_cli.training.loop import Trainer
from lmsm_cli.training.resume import History


@contextmanager
def status_of(folder: RunFolder | None) -> Iterator[None]:
    """Keep status.json true: running, then completed, failed or interrupted."""
    if folder is None:
        yield
        return
    folder.write_status("running")
    try:
        yield
    except (StoppedError, PrunedError) as error:
        folder.write_status("interrupted", str(error), error.exit_code)
        raise
    except LmsmError as error:
        folder.write_status("failed", str(error), error.exit_code)
        raise
    except KeyboardInterrupt as error:
        number = signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
        folder.write_status("interrupted", signal.Signals(number).name, 128 + number)
        raise
    except BaseException as error:
        folder.write_status("failed", f"{type(error).__name__}: {error}", 1)
        raise
    folder.write_status("completed", exit_code=0)


def score_images(
    trainer: Trainer, images: ImageSet, display: Display = SILENT, what: str = "testing"
) -> tuple[Scores, Predictions]:
    """Return the scores of the model on labelled images, which the ranks share, and its answers.

    `what` is the name of the work for the display.
    """
    shown = partial(display.progress, f"{what} on {counted(len(images), 'image')}")
    shown(0, len(images))
    if stay_the_same(trainer.config):
        images = as_features(images, trainer.tested, trainer.config, trainer.runtime)
    logits = scores_of(trainer.tested, images.images, trainer.runtime, trainer.ranks, shown=shown)
    predicted, array = answers(logits)
    labels = images.labels.numpy()
    predictions = Predictions(
        labels,
        predicted,
        probabilities(array, labels).astype(np.float32),
        array.astype(np.float32, copy=False) if array.size <= MOST_LOGITS else None,
    )
    counts = trainer.data.train_counts
    return score(trainer.model.classes, labels, predicted, counts, array), predictions


def build_scores_json(
    scores: Scores,
    trainer: Trainer,
    history: History,
    folder: RunFolder,
    display: Display,
) -> ScoresDocument:
    """Return scores.json: the last epoch's test scores, and what best.pt would have given.

    `display` is warned where best.pt is lost, which costs only its own scores.
    """
    head, rows = trainer.model.head, history.rows
    values = {
        "checkpoint": folder.checkpoint.name,
        "epoch": len(rows),
        "lengthened_from": history.lengthened_from,
        "lambda": head.lambda_at(1.0),
        "effective_margin": head.effective_margin_at(1.0),
        "test_images_per_class": trainer.config.test_images_per_class,
        "net": net_facts(trainer),
        "ema": trainer.config.ema,
        "stopped_before": trainer.config.epochs if len(rows) < trainer.config.epochs else None,
        "best_on_validation": _best_scores(scores, trainer, history, folder, display),
        "training": {
            "seconds": sum(row["seconds"] for row in rows),
            "images_per_second": median(row["images_per_second"] for row in rows),
        },
    }
    return build(ScoresDocument, scores.parts() | values)


def net_facts(trainer: Trainer) -> dict[str, int]:
    """Return how large a classifier is: its weights, those that are frozen, and its features."""
    sizes = [(p.numel(), p.requires_grad) for p in trainer.model.parameters()]
    return {
        "weights": sum(size for size, _ in sizes),
        "frozen": sum(size for size, is_trained in sizes if not is_trained),
        "features": trainer.model.head.weight.shape[1],
    }


def net_words(trainer: Trainer) -> str:
    """Return a line on the net: its name, its weights, and the features that the head gets."""
    facts = net_facts(trainer)
    return (
        f"net: {trainer.config.model}, {facts['weights']:,} weights, "
        f"{counted(facts['features'], 'feature')} for the last layer"
    )


def _best_scores(
    scores: Scores,
    trainer: Trainer,
    history: History,
    folder: RunFolder,
    display: Display,
) -> dict[str, Any] | None:
    """Return what best.pt gives on the test images: where it is the last epoch, `scores`."""
    names = ("accuracy", "balanced_accuracy")
    if history.best is None:
        return None
    if history.is_at_best:
        return history.best | {name: getattr(scores, name) for name in names}
    try:
        best = trainer.runtime.place(checkpoint.load_checkpoint(folder.best_checkpoint))
    except CheckpointError as error:
        display.warning(f"{error}; scores.json has no best_on_validation")
        return None
    alone = replace(trainer, model=best, average=None, ranks=SINGLE_PROCESS)
    what = f"testing the best epoch, {history.best['epoch']},"
    scores, _ = score_images(alone, trainer.data.test, display, what)
    return history.best | {name: getattr(scores, name) for name in names}


def draw_plots(folder: RunFolder, trainer: Trainer) -> None:
    """Draw the plots: from the files of the run folder, and of a 2-D net's test features.

    Raises RunError where these files cannot be read.
    """
    record, model, data = read_run(folder.path), trainer.tested, trainer.data
    if record.scores is None:
        raise RunError(f"the plots cannot be drawn: {folder.path}: {record.problem}")
    plots.plot_class_distribution(data.train_counts, data.training.classes, folder.plots)
    if record.metrics:
        title = history_title(record.config or {})
        plots.plot_training_history(record.metrics, folder.plots, title)
    plots.plot_confusion(record.scores, folder.plots)
    plots.plot_reliability(record.scores, folder.plots)
    plot_accuracy_by_training_images(
        [arm_of_run(record.scores)], folder.plots, title=plots.accuracy_title(record.scores)
    )
    if model.head.weight.shape[1] == 2:
        features = features_of(model, data.test.images, trainer.runtime).cpu().numpy()
        panel = (plots.features_title(record.scores), features, data.test.labels.numpy())
        plots.plot_features([panel], model.classes, folder.plots / "features.png")
