"""`lmsm train`: one run from flags, presets and files."""

from typing import Annotated, Any

import typer

from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.commands.options import (
    ConfigFile,
    Margin,
    Preset,
    resolve_options,
    with_config_flags,
)
from lmsm_cli.config import dump
from lmsm_cli.layers import Resolved


@with_config_flags
def train(
    *,
    preset: Preset = None,
    config: ConfigFile = None,
    margin: Margin = None,
    show_config: Annotated[bool, typer.Option("--show-config", help="Print each value with where it came from, and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    **flags: Any,
) -> None:  # fmt: skip
    """Train a classifier and write a run folder; ends with a per-class accuracy table.

    A value comes from the highest of: default < preset < --config FILE < flag.
    """
    resolved = resolve_options(preset, config, margin, flags)
    if show_config:
        _show(resolved, json=json)
    else:
        _run(resolved, json=json)


def _show(resolved: Resolved, *, json: bool) -> None:
    values = dump(resolved.config)
    if json:
        print_json({key: {"value": values[key], "from": place} for key, place in resolved.origins.items()})  # fmt: skip
        return
    from lmsm_cli.reports.tables import config_table

    stdout_console().print(config_table(values, resolved.origins))


def _run(resolved: Resolved, *, json: bool) -> None:
    from lmsm_cli import experiment
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables import per_class_table, summary_table
    from lmsm_cli.runs.record import read_run

    with new_display() as display:
        folder = experiment.run(resolved.config, display)
    if folder is None:  # the first rank prints
        return
    scores = read_run(folder.path).scores or {}
    if json:
        print_json({"run": str(folder.path), **scores})
        return
    console = stdout_console()
    console.print(per_class_table(scores))
    console.print(summary_table(scores))
    console.print(f"run folder: {folder.path}", markup=False, highlight=False, soft_wrap=True)
