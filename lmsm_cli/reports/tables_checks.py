"""Tables around runs: `lmsm doctor`, `lmsm train --dry-run`, sweeps and searches."""

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from lmsm_cli.errors import counted, listed
from lmsm_cli.reports.tables import NOTHING, new_table, percent, shown

_IN_WORDS = {
    "completed": "done",
    "interrupted": "begun: continued",
    "running": "another process is at it",
    "failed": "failed: tried again",
    "missing": "to do",
}
_STYLES = {"ok": "green", "note": "yellow", "problem": "bold red"}


def dry_run_table(document: Mapping[str, Any]) -> Table:
    """Return what a run will take, by what trying it out took."""
    texts = {key: document[key] for key in ("device", "model", "augmentation")}
    phases = {name: duration(seconds) for name, seconds in document["phases"].items()}
    for key, value in document.items():
        if key.endswith("_seconds"):
            texts[key] = duration(value)
        elif key.endswith("_bytes"):
            texts[key] = megabytes(value)
        elif isinstance(value, int | float):
            texts[key] = f"{value:,.0f}"
    step = f"{1000 * document['step_seconds']:,.1f} ms ({{images_per_second}} images/s)"
    rows = {
        "computes on": "{device}",
        "net": "{model}: {weights} weights, {features} features for the last layer",
        "images": "{training_images} training, {validation_images} validation, {test_images} test",
        "augmentation": "{augmentation}, of the training images alone",
        "a step": step + ", the first {first_step_seconds}",
        "an epoch": "{steps_per_epoch} steps, {epoch_seconds} with validation and checkpoint",
        "preparing": phases["preparing"] + ", to read the data and build the net",
        "training": phases["training"] + f" for {counted(document['epochs'], 'epoch')}",
        "validation": phases["validation"] + " on {validation_images} images each epoch",
        "checkpoints": phases["checkpoints"],
        "testing": phases["testing"] + _tested(document),
        "plots": phases["plots"],
        "the whole run": "{total_seconds}",
        "memory": "{peak_memory_bytes} at most",
        "a checkpoint": "{checkpoint_bytes}, saved in {save_seconds}, read back and equal",
        "disk": "{disk_bytes} needed, {free_disk_bytes} free",
    }
    if not document["validation_images"]:
        del rows["validation"]
    if document["augmentation"] == "none":
        del rows["augmentation"]
    table = _grid()
    for name, value in rows.items():
        table.add_row(name, shown(value.format_map(texts)))
    return table


def _tested(document: Mapping[str, Any]) -> str:
    """Return what the test of a run takes its time for."""
    if not document["validation_images"]:
        return " on {test_images} images"
    return " on {test_images} images, twice where the best epoch is not the last"


def checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each check: how it is, of what, what was found, and what mends it."""
    table = _grid()
    for check in checks:
        found = shown(check["found"])
        if check["fix"]:
            found = Text.assemble(found, "\n-> ", shown(check["fix"]))
        table.add_row(Text(check["status"], _STYLES[check["status"]]), check["name"], found)
    return table


def plan_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each planned run: its choices, where it stands, its folder."""
    table = new_table(counted(len(rows), "run"), "run", "state", "run folder")
    for row in rows:
        table.add_row(shown(row["label"]), _IN_WORDS[row["state"]], shown(row["run"] or NOTHING))
    return table


def failures_table(failed: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each run that failed: its choices and the reason."""
    table = new_table("Failed", "run", "reason")
    for row in failed:
        table.add_row(shown(row["label"]), shown(row["reason"]))
    return table


def heads_table(heads: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row for each last layer with its score on validation images, in their order."""
    table = new_table("On validation images, in percent", "head", numbers=["balanced accuracy"])
    for row in heads:
        table.add_row(shown(row["head"]), percent(row["val_balanced_accuracy"]))
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
        texts = (row["label"], ended, " ".join(row["runs"]) or NOTHING)
        table.add_row(str(row["number"]), percent(row["value"]), *map(shown, texts))
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(overflow="fold")
    return table


def duration(seconds: float) -> str:
    """Return a time in words, to two digits or so.

    >>> [duration(s) for s in (0.0123, 4.21, 200, 7500, 200_000)]
    ['12 ms', '4.2 s', '3 min 20 s', '2 h 5 min', '2 d 7 h']
    """
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    units = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
    large, name, small, part = next(unit for unit in units if whole >= unit[0])
    return f"{whole // large} {name} {whole % large // small} {part}"


def megabytes(count: int) -> str:
    """Return a number of bytes in MB, or in GB."""
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.1f} GB"


def time_left_line(left: Mapping[str, Any]) -> str:
    """Return what the trainings of a sweep will still take, and what that is guessed by."""
    text = f"trainings still to do: about {duration(left['seconds'])}"
    if not left["tried"]:
        return f"{text}, by those that are done"
    tried = "; ".join(f"{one['label']}: {duration(one['seconds'])}" for one in left["tried"])
    of_all = f"{len(left['tried'])} of {counted(left['num_runs'], 'run')}"
    return f"{text}, guessed by trying out {of_all} ({tried}); images are decoded once for all"


def disk_line(disk_bytes: float, free_disk_bytes: float) -> str:
    """Return what many runs need until some of them lose their weights, and what is free."""
    too_little = ", which is too little" if disk_bytes > free_disk_bytes else ""
    return (
        f"disk: about {disk_bytes / 1e6:,.0f} MB until the losers' weights go, of "
        f"{free_disk_bytes / 1e9:,.0f} GB free{too_little}"
    )


def weights_lines(weights: Mapping[str, Any]) -> list[str]:
    """Return whose weights stayed at the end of a sweep, and what that has freed."""
    kept, number = listed(weights["kept"], 3), weights["runs_dropped"]
    gone = f"{counted(number, 'run')} lost theirs, which frees {megabytes(weights['freed_bytes'])}"
    if not number:
        gone = "those of the others had gone before"
    if not weights["dropped"]:
        gone = "no arm is held against another"
    lines = [f"the weights of {kept} stay; {gone}"]
    lines += [f"the weights of {run} stay too: {why}" for run, why in weights["left"].items()]
    if weights["gone_before"]:
        first, number = weights["gone_before"][0], len(weights["gone_before"])
        lines.append(
            f"{counted(number, 'run')} of {kept} had lost weights before, such as {first}: "
            f"`lmsm eval {shlex.quote(first)}` tells the command that trains them again"
        )
    return lines
