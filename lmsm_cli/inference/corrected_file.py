"""`lmsm adjust`: a correction of a trained classifier, built into a checkpoint of its own."""

from pathlib import Path
from typing import Any

from lmsm_cli.inference.correction import RequestedCorrection, corrected
from lmsm_cli.inference.effect import check_up
from lmsm_cli.inference.trained import Trained, read_trained
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import CHECKPOINTS, check_place
from lmsm_cli.runtime.display import Display


def write_corrected(
    path: Path,
    wanted: RequestedCorrection,
    display: Display,
    *,
    out: Path | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Write a checkpoint with a correction built in, and return what it is and what it does.

    Args:
        path: The checkpoint file or run folder.
        wanted: The correction.
        display: Where progress and warnings go.
        out: The file to write; adjusted.pt beside the checkpoint if None.
        data_dir: Where the run's data is now, if elsewhere than the run had it.
        device: auto, cpu, cuda or cuda:N, where validation images are looked at.

    Raises LmsmError for an impossible correction or a file of the run, CheckpointError, DataError,
    DiskError.
    """
    file = checkpoint.find(path)
    given, out = out, out or file.with_name(checkpoint.ADJUSTED)
    check_place(out, CHECKPOINTS, [file])
    trained = read_trained(file, data_dir)
    if given:  # by itself it lies beside the checkpoint
        trained.check_apart("--out", given)
    found = corrected(trained, wanted, device, display)
    trained = found.trained
    save_corrected(trained, out)
    return {
        "file": str(out),
        "checkpoint": str(trained.file),
        **trained.epoch_facts,
        "correction": trained.correction_facts,
        **check_up(found, device, display).to_json(),
    }


def save_corrected(trained: Trained, out: Path) -> None:
    """Write a checkpoint of a classifier with its correction, from which no training goes on.

    Raises DiskError.
    """
    state, correction = trained.state, trained.correction
    assert correction is not None
    kept = {"journal": dict(state.history)} if state.history else {}
    saved = checkpoint.state_of(
        trained.model,
        state.choices,
        train_counts=state.train_counts,
        image_shape=state.image_shape,
        epoch=state.epoch,
        schema=checkpoint.CORRECTED,
        images=state.images,
        own_code=state.own_code,
        correction=correction.built_in(),
        **kept,
    )
    checkpoint.save(saved, out)
