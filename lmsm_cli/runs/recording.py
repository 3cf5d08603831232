"""`record_run`: a run folder from a training script of one's own, to be compared with others."""

import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lmsm_cli import __version__
from lmsm_cli.config.yaml import dump_yaml
from lmsm_cli.runs.folder import RunFolder, run_name
from lmsm_cli.runs.images import write_images, write_predictions
from lmsm_cli.runs.results import Given, Results, checked

_LONGEST_PART = 60
"""Characters of a loss, data set or net in a folder's name, which has at most 255."""
_NO_CONFIG = "# results of another program, as record_run wrote them down: nothing to train with\n"


def record_run(
    folder: str | Path,
    *,
    loss: str,
    seed: int,
    labels: Any,
    logits: Any = None,
    predictions: Any = None,
    ids: Any = None,
    class_counts: Any = None,
    classes: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Path:
    """Write what a classifier said of its test images into a new run folder, and return its path.

    `lmsm compare` sets such runs beside lmsm's own: runs of one loss make a row, runs of one seed
    are paired. Arrays, tensors and lists are taken. A second record of the same loss and seed is a
    newer run, which then counts.

    Args:
        folder: Where the run folder is made.
        loss: What the row is called: the loss, or the method.
        seed: The seed of the training, by which runs are paired.
        labels: The true class of each test image (N,): numbers from 0, or names.
        logits: The scores before softmax (N, C), finite; top-k and calibration need them.
        predictions: The predicted classes (N,), where there are no logits.
        ids: What each image is (N,): texts or numbers, unique, the same for the same image in each
            run, in any order; or lmsm's own digests, from its images.npz. Without ids, runs are
            taken for the same images where all labels are equal in their order.
        class_counts: The training images of each class (C,), for many, medium and few; or for each
            image those of its class (N,).
        classes: The names of the classes, in the order of their numbers.
        settings: Further choices that tell runs apart, such as {"lr": 0.1}.

    Raises:
        ArgumentError: Something does not fit; the message names the argument and the row.
        DiskError: The folder cannot be written; no half of it is left.
    """
    chosen = {} if settings is None else settings
    results = checked(
        Given(loss, seed, labels, logits, predictions, ids, class_counts, classes, chosen)
    )
    scores, config = results.scores(), _NO_CONFIG + dump_yaml(results.config)
    run = RunFolder.create(Path(folder), _folder_name(results), "give another folder")
    try:
        run.write_status("running")
        run.write_config(config)
        run.write_environment(_environment())
        write_images(run.path, results.images())
        write_predictions(run.path, results.predictions())
        run.write_scores(scores)
        run.write_status("completed", exit_code=0)
    except BaseException:  # a full disk, say: half a run would be listed by each comparison
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run.path


def _folder_name(results: Results) -> str:
    """Return a name that a file system takes, however long the loss or another part is."""
    told = (*map(results.settings.get, ("dataset", "model")), results.loss)
    dataset, model, loss = ("" if one is None else str(one)[:_LONGEST_PART] for one in told)
    return run_name(dataset, model, loss, results.seed, datetime.now())


def _environment() -> dict[str, Any]:
    """Return what is known of where the script ran; what it trained with is its own matter."""
    return {
        "lmsm": __version__,
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "platform": platform.platform(),
        "command": sys.argv,
    }
