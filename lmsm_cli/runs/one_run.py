"""Whether a checkpoint is of the run in whose folder it lies: another's would be taken for it."""

from pathlib import Path
from typing import Any

from lmsm_cli.errors import CheckpointError, LmsmError
from lmsm_cli.losses.registry import normal_spec
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.record import read_run

# The files that a run writes itself. One of another name was put there, and tells of itself alone.
_OWN_NAMES = ("checkpoint.pt", "checkpoint-previous.pt", "best.pt")
# What a classifier is known by. A resume holds all choices against those of the checkpoint.
_TELLING = ("dataset", "model", "neck", "loss", "head_bias", "seed")


def check_own(state: CheckpointState, file: Path) -> None:
    """Raise CheckpointError where a checkpoint of a run folder is of another run than config.yaml.

    A file that lies elsewhere, or that the run did not name so, is what it says itself.
    """
    record = read_run(file.parent, with_metrics=False)
    if file.name not in _OWN_NAMES or record.status is None or record.is_outside:
        return
    written = record.config or {}
    unlike = [
        (key, getattr(state.config, key), written[key])
        for key in _TELLING
        if key in written and _plain(key, getattr(state.config, key)) != _plain(key, written[key])
    ]
    if unlike:
        found = " and ".join(f"{key} {own!r}" for key, own, _ in unlike)
        others = " and ".join(f"{key} {other!r}" for key, _, other in unlike)
        raise CheckpointError(
            f"{file} was trained with {found}, and config.yaml beside it says {others}; they are "
            "not of one run, or were edited: put the run's own file back, or take the checkpoint "
            "out of the folder"
        )


def _plain(key: str, value: Any) -> Any:
    """Return a value as it is compared: a loss whatever way it is written."""
    try:
        return normal_spec(str(value)) if key == "loss" else value
    except LmsmError:
        return value
