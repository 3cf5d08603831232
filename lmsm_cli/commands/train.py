"""`lmsm train`: one run from flags, presets and files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.commands.options import (
    ConfigFile,
    Margin,
    Preset,
    Quiet,
    layers_of,
    resolve_options,
    with_config_flags,
)
from lmsm_cli.commands.sweep import plan_of, run_and_compare
from lmsm_cli.config import dump
from lmsm_cli.config.resolve import Resolved
from lmsm_cli.errors import LmsmError, RunError


@with_config_flags
def train(
    *,
    preset: Preset = None,
    config: ConfigFile = None,
    margin: Margin = None,
    show_config: Annotated[
        bool,
        typer.Option("--show-config", help="Print every choice with where it came from, and stop."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Try the run out: train and evaluate a few batches, save and read a checkpoint, tell time, memory and disk of the whole run; leave no run folder.",
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            "--resume",
            metavar="RUN",
            help="Go on with a run, as `lmsm resume` does; of the flags only --data-dir, --device, --out, --tensorboard and more --epochs fit then.",
            autocompletion=completion.run_folders,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="N|A,B,...",
            help="Repeat the run with these seeds (5: 0 to 4) and show mean and sd; runs that are there already are not repeated.",
            rich_help_panel="Run",
        ),
    ] = None,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    **flags: Any,
) -> None:
    """Train a classifier, test it, and keep both in a run folder.

    Every choice has a default; a preset, a --config FILE and flags change it, each over the one before. \
Ends with a table of every class's accuracy.
    """
    if resume:
        if preset or config or show_config or seeds or dry_run:
            raise LmsmError(
                "--resume takes its choices from the run folder: leave --preset, --config, --seeds, --show-config and --dry-run out"
            )
        given = {**flags, "margin": margin}
        finish(
            resume,
            {key: value for key, value in given.items() if value is not None},
            quiet=quiet,
            json=json,
        )
        return
    resolved = resolve_options(preset, config, margin, flags)
    if show_config:
        _show(resolved, json=json)
    elif dry_run:
        if seeds is not None:
            raise LmsmError("--dry-run tries one run out: leave --seeds out")
        _dry_run(resolved, quiet=quiet, json=json)
    elif seeds is not None:
        plan = plan_of(layers_of(preset, config, margin, flags), [], seeds, seed=flags.get("seed"))
        run_and_compare(plan, preset, config, with_plots=True, quiet=quiet, json=json)
    else:
        _run(resolved, quiet=quiet, json=json)


def _show(resolved: Resolved, *, json: bool) -> None:
    values = dump(resolved.config)
    if json:
        print_json(
            {key: {"value": values[key], "from": place} for key, place in resolved.origins.items()}
        )
        return
    from lmsm_cli.reports.tables import config_table

    stdout_console().print(config_table(values, resolved.origins))


def _dry_run(resolved: Resolved, *, quiet: bool, json: bool) -> None:
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables_checks import dry_run_table
    from lmsm_cli.training.dry_run import dry_run

    with new_display(quiet) as display:
        document = dry_run(resolved.config, display)
    if document is None:  # the first rank prints
        return
    if json:
        print_json(document)
    else:
        stdout_console().print(dry_run_table(document))


def _run(resolved: Resolved, *, quiet: bool, json: bool) -> None:
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.training.run import start_run

    with new_display(quiet) as display:
        folder = start_run(resolved.config, display)
    if folder is not None:  # the first rank prints
        _print(folder.path, json=json)


def finish(
    run: Path, changes: dict[str, Any], *, strict: bool = False, quiet: bool = False, json: bool
) -> None:
    """Go on with a run, with changed values of its config, and print as `train` does."""
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.training.run import resume_run

    with new_display(quiet) as display:
        folder = resume_run(run, display, changes, strict=strict)
    if folder is not None:
        _print(folder.path, json=json)


def _print(run: Path, *, json: bool) -> None:
    from lmsm_cli.reports.tables import absent_line, per_class_table, summary_table
    from lmsm_cli.runs.record import read_run

    record = read_run(run, with_metrics=False)
    if record.scores is None:
        raise RunError(f"{run} cannot be read back: {record.problem}")
    scores = record.scores
    if json:
        print_json({"run": str(run), **scores.to_json()})
        return
    console = stdout_console()
    console.print(per_class_table(scores))
    console.print(summary_table(scores))
    if absent := absent_line(scores):
        console.print(absent, markup=False, highlight=False, soft_wrap=True)
    console.print(f"run folder: {run}", markup=False, highlight=False, soft_wrap=True)
