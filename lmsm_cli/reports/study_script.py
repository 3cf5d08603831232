"""The commands that repeat a study step by step, as a shell script."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lmsm_cli.runs.record import RunRecord

SCRIPT = "repeat.sh"


def study_script(again: str, runs: Sequence[RunRecord], result: dict[str, Any]) -> str:
    """Return the script.

    Args:
        again: The command that repeats the whole study, without its --out.
        runs: The finished run folders of the study.
        result: What study.json holds of its end.
    """
    own, file = sorted(runs, key=lambda run: run.name), Path(result["model"]["file"])
    lines = [
        "#!/bin/sh",
        "# Repeat the trainings of a study one by one: sh repeat.sh FOLDER, where their runs go.",
        "# The whole study again, with as many rounds:",
        f"#     {again} --out FOLDER",
        "set -e",
        f'out=${{1:-"{own[0].path.parent}-again"}}' if own else "",
        *(line for run in own for line in _of_run(run)),
        "# The scores of the chosen model as it is, and all rounds side by side",
        f"lmsm eval {shlex.quote(str(file))}",
        f"lmsm compare {shlex.quote(str(file.parent.parent))}",
    ]
    return "\n".join(lines) + "\n"


def _of_run(run: RunRecord) -> tuple[str, str]:
    """Return the lines of a run: what it is, and its command."""
    config = run.config or {}
    head = config.get("post_hoc") or config.get("loss")
    is_head = config.get("freeze") == "features"
    of = f", a last layer on {Path(config['pretrained']).name}" if is_head else ""
    fold = "" if config.get("fold") is None else f", fold {config['fold']}"
    path = shlex.quote(str(run.path / "config.yaml"))
    return (
        f"# {head}{of}: seed {config.get('seed')}{fold}",
        f'lmsm train --config {path} --out "$out"',
    )
