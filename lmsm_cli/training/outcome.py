"""How a run ends: its status whatever happens, and after the training its test scores and pictures."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np

from lmsm_cli.data.sources import ImageSet
from lmsm_cli.data.splits import Data
from lmsm_cli.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from lmsm_cli.errors import CheckpointError, LmsmError, PrunedError, RunError, StoppedError
from lmsm_cli.metrics import Scores, score
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.reports import plots
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.documents import ScoresDocument, build
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import MOST_LOGITS, Predictions
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.signals import Terminated
from lmsm_cli.training.evaluate import answers, features_of, scores_of
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
    model: Classifier,
    images: ImageSet,
    train_counts: list[int],
    runtime: Runtime,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> Scores:
    """Return the scores of a classifier on labelled images, which several ranks share."""
    return answered(model, images, train_counts, runtime, ranks)[0]


def answered(
    model: Classifier,
    images: ImageSet,
    train_counts: list[int],
    runtime: Runtime,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Scores, Predictions]:
    """Return the scores as `score_images`, and what the classifier said of each image."""
    logits = scores_of(model, images.images, runtime, ranks)
    predicted, probabilities = answers(logits)
    labels = images.labels.numpy()
    predictions = Predictions(
        labels,
        predicted,
        probabilities[np.arange(len(labels)), labels].astype(np.float32),
        logits.float().cpu().numpy() if logits.numel() <= MOST_LOGITS else None,
    )
    return score(model.classes, labels, predicted, train_counts, probabilities), predictions


def build_scores_json(
    scores: Scores,
    model: Classifier,
    journal: History,
    folder: RunFolder,
    data: Data,
    runtime: Runtime,
    warn: Callable[[str], None],
) -> ScoresDocument:
    """Return scores.json: the last epoch's test scores, and what best.pt would have given.

    `warn` is told where best.pt is lost, which costs only its own scores.
    """
    values = {
        "checkpoint": folder.checkpoint.name,
        "epoch": len(journal.rows),
        "lengthened_from": journal.lengthened_from,
        "lambda": model.head.lambda_at(1.0),
        "effective_margin": model.head.effective_margin_at(1.0),
        "best_on_validation": _of_best(journal, folder, data, runtime, warn),
        "training": {
            "seconds": sum(row["seconds"] for row in journal.rows),
            "images_per_second": median(row["images_per_second"] for row in journal.rows),
        },
    }
    return build(ScoresDocument, scores.parts() | values)


def _of_best(
    journal: History, folder: RunFolder, data: Data, runtime: Runtime, warn: Callable[[str], None]
) -> dict[str, Any] | None:
    if journal.best is None:
        return None
    try:
        chosen = runtime.place(checkpoint.load_checkpoint(folder.best_checkpoint))
    except CheckpointError as error:
        warn(f"{error}; scores.json has no best_on_validation")
        return None
    of_best = score_images(chosen, data.test, data.train_counts, runtime)
    return journal.best | {
        "accuracy": of_best.accuracy,
        "balanced_accuracy": of_best.balanced_accuracy,
    }


def draw(folder: RunFolder, model: Classifier, data: Data, runtime: Runtime) -> None:
    """Draw the plots: from the files of the run folder, and of a 2-D net's test features.

    Raises RunError where these files cannot be read.
    """
    record = read_run(folder.path)
    if record.scores is None:
        raise RunError(f"the plots cannot be drawn: {folder.path}: {record.problem}")
    plots.plot_class_distribution(data.train_counts, data.training.classes, folder.plots)
    plots.plot_training_history(record.metrics, folder.plots)
    plots.plot_confusion(record.scores, folder.plots)
    plots.plot_reliability(record.scores, folder.plots)
    if model.head.weight.shape[1] == 2:
        features = features_of(model, data.test.images, runtime).cpu().numpy()
        panel = (plots.features_title(record.scores), features, data.test.labels.numpy())
        plots.plot_features([panel], model.classes, folder.plots / "features.png")
