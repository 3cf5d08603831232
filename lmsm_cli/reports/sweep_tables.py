"""Tables of a sweep: where its runs stand, which failed, and what a search found."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from lmsm_cli.reports.tables import NOTHING, new_table, percent, shown

_IN_WORDS = {
    "completed": "done",
    "interrupted": "begun: goes on",
    "running": "another process is at it",
    "failed": "failed: tried again",
    "missing": "to do",
}


def plan_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each planned run: its choices, where it stands, its folder."""
    table = new_table(f"{len(rows)} runs", "run", "state", "run folder")
    for row in rows:
        table.add_row(shown(row["label"]), _IN_WORDS[row["state"]], shown(row["run"] or NOTHING))
    return table


def failures_table(failed: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each run that failed: its choices and the reason."""
    table = new_table("Failed", "run", "reason")
    for row in failed:
        table.add_row(shown(row["label"]), shown(row["reason"]))
    return table


def trials_table(trials: Sequence[Mapping[str, Any]], title: str) -> Table:
    """Return a row for each trial of a search: value, state, choices, run folders."""
    table = new_table(title, "#")
    table.add_column("balanced, validation", justify="right", overflow="fold")
    for name in ("choices", "ended", "run folder"):
        table.add_column(name, overflow="fold")
    for row in trials:
        ended = (
            f"failed: {row['reason']}"
            if row["state"] == "failed"
            else row["reason"] or row["state"]
        )
        table.add_row(
            str(row["number"]),
            percent(row["value"]),
            shown(row["label"]),
            shown(ended),
            shown(" ".join(row["runs"]) or NOTHING),
        )
    return table
