"""Whether a checkpoint is of the run in whose folder it lies: another's would be taken for it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lmsm_cli.config import CHANGEABLE_KEYS, Config, dump
from lmsm_cli.data.identity import PARTS
from lmsm_cli.errors import CheckpointError, LmsmError, few
from lmsm_cli.losses.registry import normal_spec
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.documents import ScoresDocument
from lmsm_cli.runs.record import RunRecord, read_run

# The files that a run writes itself. One of another name was put there, and tells of itself alone.
_OWN_NAMES = ("checkpoint.pt", "checkpoint-previous.pt", "best.pt")
TELLING = ("dataset", "model", "neck", "loss", "head_bias", "seed")
"""What a classifier is known by."""
# What may be otherwise in a file that a run saved before it went on elsewhere: what a resume may
# change, and what another device decides anew.
_FREE = (*CHANGEABLE_KEYS, "precision", "layout", "threads")
_MOST_SHOWN = 3


def check_own(state: CheckpointState, file: Path, keys: Sequence[str] | None = None) -> None:
    """Raise CheckpointError where a checkpoint of a run folder is of another run than config.yaml.

    A file that lies elsewhere, or that the run did not name so, is what it says itself.

    Args:
        state: What the file holds.
        file: Where it lies.
        keys: The choices to hold against config.yaml, for a resume, which looks at the others
            itself. By default all that a run keeps, and scores.json: its images and its epoch.
    """
    record = read_run(file.parent, with_metrics=False)
    if file.name not in _OWN_NAMES or record.status is None or record.is_outside:
        return
    unlike = _unlike(dump(state.config), record.config or {}, keys)
    if unlike:
        found = few([f"{key} {own!r}" for key, own, _ in unlike], _MOST_SHOWN, " and ")
        others = few([f"{key} {other!r}" for key, _, other in unlike], _MOST_SHOWN, " and ")
        raise CheckpointError(
            f"{file} was trained with {found}, and config.yaml beside it says {others}; they are "
            f"not of one run, or were edited: {_WAY_OUT}"
        )
    if keys is None and (fact := _other_scores(state, file.name, record)):
        raise CheckpointError(f"{file} {fact}: {_WAY_OUT}")


_WAY_OUT = "put the run's own file back, or take the checkpoint out of the folder"


def _unlike(
    own: Mapping[str, Any], written: Mapping[str, Any], keys: Sequence[str] | None
) -> list[tuple[str, Any, Any]]:
    """Return the choices of a checkpoint that config.yaml has otherwise: key and both values."""
    written = {key: value for key, value in _as_saved(written).items() if key in written}
    known = [key for key in own if key in written and key not in _FREE]
    return [
        (key, own[key], written[key])
        for key in known
        if (keys is None or key in keys) and _is_other(key, own[key], written[key])
    ]


def _as_saved(written: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the choices of config.yaml as a checkpoint has them; what no run has, as it is."""
    try:
        return dump(Config.model_validate(dict(written), context={"is_saved": True}))
    except ValidationError:
        plain: dict[str, Any] = json.loads(
            json.dumps(written)
        )  # as lists, which YAML has as tuples
        return plain


def _is_other(key: str, own: Any, written: Any) -> bool:
    if key == "epochs" and isinstance(written, int):  # a run can be made longer after a file
        return bool(written < own)
    return bool(_plain(key, own) != _plain(key, written))


def _plain(key: str, value: Any) -> Any:
    """Return a value as it is compared: a loss whatever way it is written."""
    try:
        return normal_spec(str(value)) if key == "loss" else value
    except LmsmError:
        return value


def _other_scores(state: CheckpointState, name: str, record: RunRecord) -> str:
    """Return what scores.json says otherwise than a checkpoint; "" where they may be of one run."""
    scores = record.scores
    if scores is None:
        return ""
    if state.images and scores.images:
        parts = [part for part in PARTS if state.images.get(part) != getattr(scores.images, part)]
        if parts:
            return (
                f"was trained for other {' and '.join(parts)} images than scores.json beside it "
                "tells, so they are not of one run"
            )
    # of a run that goes on, the one or the other may be behind
    epoch = _epoch_of(name, scores) if record.state == "completed" else None
    if epoch is not None and epoch != state.epoch:
        return f"is of epoch {state.epoch}, and scores.json beside it of epoch {epoch}"
    return ""


def _epoch_of(name: str, scores: ScoresDocument) -> int | None:
    """Return the epoch that a finished run's file is of; None where it is not known."""
    if name == "checkpoint.pt":
        return scores.epoch
    best = scores.best_on_validation
    return best.epoch if name == "best.pt" and best else None
