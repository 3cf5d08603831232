"""The rows of metrics.jsonl as curves for TensorBoard, in a folder of the run folder."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lmsm_cli.errors import missing_extra, writing

Row = Mapping[str, Any]  # of metrics.jsonl


def check_tensorboard() -> None:
    """Raise LmsmError where TensorBoard is not installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise missing_extra("--tensorboard", error, "tensorboard") from None


@contextmanager
def curves(folder: Path | None, rows: Sequence[Row]) -> Iterator[Callable[[Row], None]]:
    """Give a function that adds the row of a finished epoch to the curves in `folder`, if any.

    They are drawn anew from `rows`, the epochs so far: a run that goes on leaves none out and has
    none twice. Each number has its name in metrics.jsonl; the step is the epoch. Raises DiskError.
    """
    if folder is None:
        yield lambda row: None
        return
    from torch.utils.tensorboard import SummaryWriter

    with writing(folder):
        for file in folder.glob("events.out.tfevents.*"):
            file.unlink()
        writer: Any = SummaryWriter(folder)
        ends = time.time() - sum(row["seconds"] for row in rows)
        for row in rows:
            ends += row["seconds"]  # as if nothing had lain between the epochs
            _add(writer, row, ends)
        writer.flush()

    def add(row: Row) -> None:
        with writing(folder):
            _add(writer, row, time.time())
            writer.flush()

    try:
        yield add
    finally:
        with writing(folder):
            writer.close()


def _add(writer: Any, row: Row, at: float) -> None:
    """Add what a curve can show of a row: its finite numbers."""
    for name, value in row.items():
        if name != "epoch" and isinstance(value, int | float) and math.isfinite(value):
            writer.add_scalar(name, value, row["epoch"], walltime=at)
