"""A checkpoint holds a digest of its rows of metrics.jsonl: a resume finds none lost or edited.

What a crash leaves is repaired instead: the last row is missing, half a line is left, or rows
follow the checkpoint that is taken.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from lmsm_cli.errors import CheckpointError, DiskError
from lmsm_cli.runs.documents import row_text
from lmsm_cli.runs.folder import RunFolder, reason_of, write_whole
from lmsm_cli.runtime.files import read_bytes

Row = Mapping[str, Any]


def digest_of(rows: Sequence[Row]) -> str:
    """Return the SHA-256 of rows as metrics.jsonl has them."""
    return _digest([row_text(row).encode() for row in rows])


def check_rows(
    folder: RunFolder, rows: Sequence[Row], wanted: str, *, is_last_appended: bool
) -> None:
    """Raise CheckpointError where metrics.jsonl lacks rows of a checkpoint, or has other ones.

    The rows of the checkpoint are then written beside the file, for the user to take.

    Args:
        folder: The run folder.
        rows: The rows of the checkpoint.
        wanted: The digest that the checkpoint has of them.
        is_last_appended: Whether the last row was surely appended, so that it may not be missing.
    """
    found = _lines(folder)
    if len(found) >= len(rows) and _digest(found[: len(rows)]) == wanted:
        return
    kept = [row_text(row).encode() for row in rows]
    if _digest(kept) != wanted:
        raise CheckpointError(
            f"{folder.checkpoint} holds other rows of metrics.jsonl than it has a digest of: "
            "take another copy of the run"
        )
    if found == kept[:-1] and not is_last_appended:
        return
    fact = f"it has {len(found)} of {len(kept)} rows"
    for number, (ours, other) in enumerate(zip(kept, found, strict=False), 1):
        if ours != other:
            fact = f"row {number} is not what the run wrote"
            break
    aside = folder.metrics.with_name("metrics-saved.jsonl")
    write_whole(aside, b"".join(kept))
    raise CheckpointError(
        f"{folder.metrics} was changed since the checkpoint was saved: {fact}; the run's own rows "
        f"are now in {aside.name}: put that in its place, and resume again"
    )


def _digest(lines: Sequence[bytes]) -> str:
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _lines(folder: RunFolder) -> list[bytes]:
    """Return the whole lines of metrics.jsonl; of no file, none."""
    try:
        content = read_bytes(folder.metrics)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise DiskError(f"cannot read {folder.metrics}: {reason_of(error)}") from None
    return content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
