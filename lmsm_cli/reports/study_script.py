"""The commands that repeat a study step by step, as a shell script."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from lmsm_cli.runs.own_code import train_again
from lmsm_cli.runs.record import RunRecord

SCRIPT = "repeat.sh"


def study_script(again: str, scored: str, runs: Sequence[RunRecord]) -> str:
    """Return the script.

    Args:
        again: The command that repeats the whole study, without its --out.
        scored: The command that evaluates the chosen model.
        runs: The finished run folders of the study.
    """
    own = sorted(runs, key=lambda run: run.name)
    place = own[0].path.parent
    lines = [
        "#!/bin/sh",
        "# Repeat the trainings of a study one by one: sh repeat.sh FOLDER, where their runs go.",
        "# Paths are as seen from the folder that the study was called in.",
        "# The whole study again, with as many rounds:",
        *(f"#     {line}" for line in f"{again} --out FOLDER".split("\n")),
        "set -e",
        "out=$1",
        f'[ "$out" ] || out={shlex.quote(f"{place}-again")}',
        *(line for run in own for line in _of_run(run)),
        "# The scores of the chosen model as it is, and all rounds side by side",
        scored,
        f"lmsm compare {shlex.quote(str(place))}",
    ]
    return "\n".join(lines) + "\n"


def _of_run(run: RunRecord) -> tuple[str, str]:
    """Return the lines of a run: what it is, and its command."""
    config = run.config or {}
    head = config.get("post_hoc") or config.get("loss")
    is_head = config.get("freeze") == "features"
    of = f", a last layer on {Path(config['pretrained']).name}" if is_head else ""
    fold = "" if config.get("fold") is None else f", fold {config['fold']}"
    return (
        f"# {head}{of}: seed {config.get('seed')}{fold}",
        f'{train_again(run.path)} --out "$out"',
    )
