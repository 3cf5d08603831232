"""`lmsm train` and `lmsm resume`: one run from flags, presets and files, or from its folder."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_json, print_line, stdout_console
from lmsm_cli.commands.options import (
    ConfigFile,
    FollowLinks,
    Imports,
    Json,
    Margin,
    Preset,
    Quiet,
    Verbose,
    layers_of,
    resolve_options,
    switch,
    value,
    with_config_flags,
)
from lmsm_cli.commands.running import plan_of, run_and_compare, seed_numbers
from lmsm_cli.config import dump
from lmsm_cli.config.resolve import Resolved
from lmsm_cli.errors import LmsmError, RunError

if TYPE_CHECKING:
    from lmsm_cli.runtime.display import Display

_ShowConfig = Annotated[
    bool, switch("--show-config", "Print every choice with where it came from, and stop.")
]
_DryRun = Annotated[
    bool,
    switch(
        "--dry-run",
        "Try the run out: train and evaluate a few batches, save and read a checkpoint, "
        "report the time of each phase, memory and disk of the whole run; leave no run folder.",
    ),
]
_Resume = Annotated[
    Path | None,
    value(
        "RUN",
        "Continue a run, as `lmsm resume` does; of the flags only --data-dir, --device, "
        "--out, --tensorboard and more --epochs fit then.",
        complete=completion.run_folders,
    ),
]
_Imports = Annotated[
    list[str] | None,
    value(
        "MODULE:NAME",
        "Import this loss or net of your own, which the run of --pretrained was trained with; "
        "repeatable.",
        name="--import",
    ),
]
_Seeds = Annotated[
    str | None,
    value(
        "N|A,B,...",
        "Repeat the run with these seeds (5: 0 to 4) and show mean and sd; "
        "runs that are there already are not repeated.",
        "Run",
    ),
]


@with_config_flags
def train(
    *,
    preset: Preset = None,
    config: ConfigFile = None,
    margin: Margin = None,
    show_config: _ShowConfig = False,
    dry_run: _DryRun = False,
    resume: _Resume = None,
    seeds: _Seeds = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    imports: _Imports = None,
    **flags: Any,
) -> None:
    """Train a classifier, test it, and keep both in a run folder.

    Every choice has a default; a preset, a --config FILE and flags change it, each over the one \
before. Ends with a table of every class's accuracy.
    """
    if resume:
        if preset or config or show_config or seeds or dry_run or imports:
            raise LmsmError(
                "--resume takes its choices from the run folder: leave --preset, --config, "
                "--seeds, --show-config, --dry-run and --import out (`lmsm resume` takes --import)"
            )
        _resume(resume, {**flags, "margin": margin}, quiet=quiet, verbose=verbose, json=json)
        return
    if show_config and dry_run:
        raise LmsmError("--show-config and --dry-run are both given: take one")
    seed_numbers(seeds, flags.get("seed"))  # refuses wrong ones, whatever is done with them
    resolved = resolve_options(preset, config, margin, flags)
    with _imported(imports, resolved):
        if show_config:
            _show(resolved, json=json)
        elif dry_run:
            if seeds is not None:
                raise LmsmError("--dry-run tries one run out: leave --seeds out")
            if _is_in_folds(resolved):
                resolved = resolve_options(preset, config, margin, {**flags, "fold": "0"})
            _dry_run(resolved, quiet=quiet, verbose=verbose, json=json)
        elif seeds is not None or _is_in_folds(resolved):
            layers = layers_of(preset, config, margin, flags)
            plan = plan_of(layers, [], seeds, seed=flags.get("seed"), quiet=quiet)
            run_and_compare(
                plan, preset, config, with_plots=True, quiet=quiet, verbose=verbose, json=json
            )
        else:
            _run(resolved, quiet=quiet, verbose=verbose, json=json)


@contextmanager
def _imported(imports: Sequence[str] | None, resolved: Resolved) -> Iterator[None]:
    """Let the body import what the run of --pretrained was trained with, where it is named.

    Raises LmsmError for code that is none of that run's.
    """
    if not imports:
        yield
        return
    from lmsm_cli.runs import own_code
    from lmsm_cli.runs.start import read_start

    start = read_start(resolved.config)
    if start is None:
        raise LmsmError(
            "--import is for code that the run of --pretrained was trained with; a loss of your "
            "own is named by --loss module:Class, a net by --model module:function"
        )
    # the run that is trained has other code, so not all that is read has what is named
    with own_code.named(imports, may_be_unused=True):
        own_code.check_used(start.config, Path(str(resolved.config.pretrained)))
        yield


def _is_in_folds(resolved: Resolved) -> bool:
    """Return whether there is a run to do for each fold."""
    return resolved.config.folds is not None and resolved.config.fold is None


def _show(resolved: Resolved, *, json: bool) -> None:
    values = dump(resolved.config)
    if json:
        print_json(
            {key: {"value": values[key], "from": place} for key, place in resolved.origins.items()}
        )
        return
    from lmsm_cli.reports.tables import config_table

    stdout_console().print(config_table(values, resolved.origins))


def _dry_run(resolved: Resolved, *, quiet: bool, verbose: bool, json: bool) -> None:
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables_checks import dry_run_table
    from lmsm_cli.training.dry_run import dry_run

    with new_display(quiet, verbose) as display:
        _tell(resolved, display)
        document = dry_run(resolved.config, display)
    if document is None:  # the first rank prints
        return
    if json:
        print_json(document)
    else:
        stdout_console().print(dry_run_table(document))


def _run(resolved: Resolved, *, quiet: bool, verbose: bool, json: bool) -> None:
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.inference.post_hoc import begin

    with new_display(quiet, verbose) as display:
        _tell(resolved, display)
        folder = begin(resolved.config, display)
    if folder is not None:  # the first rank prints
        _print(folder.path, json=json)


def _tell(resolved: Resolved, display: "Display") -> None:
    """Say what was chosen by the data, once of several processes."""
    if os.environ.get("RANK", "0") == "0":
        for note in resolved.notes:
            display.info(note)


def resume(
    run: Annotated[
        Path, typer.Argument(help="The run folder.", autocompletion=completion.run_folders)
    ],
    epochs: Annotated[
        int | None,
        value("INTEGER", "Train to this many epochs in all, more than the run was to have."),
    ] = None,
    device: Annotated[
        str | None,
        value("TEXT", "Another device: auto, cpu, cuda or cuda:N.", complete=completion.devices),
    ] = None,
    data_dir: Annotated[Path | None, value("PATH", "Where the data is now.")] = None,
    follow_links: FollowLinks = False,
    tensorboard: Annotated[
        bool | None,
        switch(
            "--tensorboard/--no-tensorboard",
            "Write the curves for TensorBoard from now on, or no longer.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        switch(
            "--strict",
            "Stop where the last checkpoint is damaged, instead of taking the one before.",
        ),
    ] = False,
    imports: Imports = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
) -> None:
    """Continue a run that was interrupted, or make a finished one longer.

    Needs nothing but the run folder. On a CPU the result is, to the last bit, that of a run that \
nobody stopped.
    """
    changes = {
        "epochs": epochs,
        "device": device,
        "data_dir": data_dir,
        "follow_links": follow_links or None,
        "tensorboard": tensorboard,
    }
    from lmsm_cli.runs.own_code import named

    with named(imports or ()):
        _resume(run, changes, strict=strict, quiet=quiet, verbose=verbose, json=json)


def _resume(
    run: Path,
    changes: Mapping[str, Any],
    *,
    strict: bool = False,
    quiet: bool,
    verbose: bool,
    json: bool,
) -> None:
    """Go on with a run, with changes of its config that are not None, and print as `train` does."""
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.training.run import resume_run

    given = {key: value for key, value in changes.items() if value is not None}
    with new_display(quiet, verbose) as display:
        folder = resume_run(run, display, given, strict=strict)
    if folder is not None:  # the first rank prints
        _print(folder.path, json=json)


def _print(run: Path, *, json: bool) -> None:
    from lmsm_cli.reports.tables import (
        best_line,
        net_line,
        notes_on_scores,
        per_class_table,
        summary_table,
    )
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
    for note in filter(None, (net_line(scores), *notes_on_scores(scores), best_line(scores))):
        print_line(note, console)
    print_line(f"run folder: {run}", console)
