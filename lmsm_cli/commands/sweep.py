"""`lmsm sweep`: many runs that differ in chosen ways, and their comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_json, print_line, stdout_console
from lmsm_cli.commands.options import (
    ConfigFile,
    Json,
    Margin,
    Preset,
    Quiet,
    Verbose,
    layers_of,
    switch,
    train_command,
    value,
    with_config_flags,
)
from lmsm_cli.commands.running import KEPT, disk_needed, plan_of, run_and_compare, seed_numbers
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError, RunError, check_choice
from lmsm_cli.sweeps.grid import always_varied, check_flags, label, parse_axes, seeds_text

if TYPE_CHECKING:
    from lmsm_cli.runtime.display import Display
    from lmsm_cli.sweeps.optuna_store import Search
    from lmsm_cli.sweeps.plan import PlannedRun, RunStatus
    from lmsm_cli.sweeps.time_left import TimeLeft

# A place of its own, so that the same command finds its runs again.
_OUT = "runs/sweep"
_TRIALS_SHOWN = 10

_Grid = Annotated[
    list[str] | None,
    value(
        "KEY=A,B",
        "Values of a choice, repeatable: lr=0.1,0.01, "
        "loss=softmax,lsoftmax:margin=4,lambda_min=5, milestones=160,180;120,160; "
        "with --trials also a range, lr=0.0001..0.1:log.",
        "Sweep",
        name="--grid",
    ),
]
_Arm = Annotated[
    list[str] | None,
    value(
        "'KEY=A KEY=B'",
        "Choices that belong together, repeatable: 'loss=ldam reweight=effective "
        "rebalance_from=9'. Every arm meets every value of the grid.",
        "Sweep",
        name="--arm",
    ),
]
_Seeds = Annotated[
    str | None,
    value(
        "N|A,B,...",
        "Runs of each combination: 5 for the seeds 0 to 4, or a list (default: --seed).",
        "Sweep",
    ),
]
_Trials = Annotated[
    int | None,
    value(
        "N",
        "Search instead: draw choices by Optuna until the study has N trials; "
        "the best is by validation score.",
        "Search",
    ),
]
_Prune = Annotated[
    bool,
    switch("--prune", "End a trial that does worse than the median of those before.", "Search"),
]
_Study = Annotated[
    str | None,
    value("NAME", "Name of the study (default: one that follows from the choices).", "Search"),
]
_Storage = Annotated[
    str | None,
    value(
        "URL", "Database of the study, for several hosts (default: study.db in --out).", "Search"
    ),
]
_Keep = Annotated[
    str,
    value(
        "NAME",
        "Whose weights stay once all runs are done: `all` (default), or `winner` and softmax; "
        "the scores of all runs stay.",
        "Sweep",
        complete=completion.one_of(KEPT),
    ),
]
_DryRun = Annotated[
    bool,
    switch(
        "--dry-run",
        "List the runs, which are there already, and about how long the others take; run none.",
        "Sweep",
    ),
]
_Plots = Annotated[
    bool, switch("--plots", "Draw the plots of each run, and of their comparison.", "Sweep")
]


@with_config_flags
def sweep(
    *,
    preset: Preset = None,
    config: ConfigFile = None,
    margin: Margin = None,
    grid: _Grid = None,
    arm: _Arm = None,
    seeds: _Seeds = None,
    trials: _Trials = None,
    prune: _Prune = False,
    study: _Study = None,
    storage: _Storage = None,
    keep: _Keep = KEPT[0],
    dry_run: _DryRun = False,
    plots: _Plots = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Run every combination of choices with every seed, and compare them.

    The same command again does only what is missing: it continues what was stopped, tries \
again what failed, and leaves to other processes what they are doing. So start it several times to \
share the work. Other choices are the flags of `lmsm train`; runs go to --out (default: runs/sweep).
    """
    axes = parse_axes(grid or [], arm or [])
    check_flags(axes, flags | {"margin": margin})
    out = Layer({"out": _OUT}, {"out": "lmsm sweep"})
    layers = [out, *layers_of(preset, config, margin, flags, always_varied(axes))]
    shown: dict[str, Any] = {"quiet": quiet, "verbose": verbose, "json": json}
    check_choice("--keep", keep, KEPT)
    if trials is not None:
        _check_trials(trials, dry_run=dry_run, plots=plots, keep=keep)
        numbers = seed_numbers(seeds, flags.get("seed"))
        from lmsm_cli.sweeps.optuna_store import Search

        search = Search(layers, axes, numbers, trials, study, storage, prune)
        _search(search, preset, config, **shown)
        return
    if prune or study or storage:
        raise LmsmError("--prune, --study and --storage are of a search: give --trials N")
    plan = plan_of(layers, axes, seeds, seed=flags.get("seed"), quiet=quiet)
    if dry_run:
        _show_plan(plan, keep, with_plots=plots, **shown)
    else:
        place = plan[0].config.out / "plots" if plots else None
        run_and_compare(plan, preset, config, with_plots=plots, plots_in=place, keep=keep, **shown)


def _check_trials(trials: int, *, dry_run: bool, plots: bool, keep: str) -> None:
    """Raise LmsmError for what a search cannot have."""
    if trials < 1:
        raise LmsmError(f"--trials is {trials}: give at least 1")
    if dry_run or plots:
        raise LmsmError("--trials draws its runs as it goes: leave --dry-run and --plots out")
    if keep != KEPT[0]:
        raise LmsmError(
            f"--keep {keep} needs a sweep's comparison with softmax, and --trials has none: "
            "leave --keep out"
        )


def _show_plan(
    plan: "Sequence[PlannedRun]",
    keep: str,
    *,
    with_plots: bool,
    quiet: bool,
    verbose: bool,
    json: bool,
) -> None:
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables_checks import disk_line, plan_table, time_left_line
    from lmsm_cli.runtime.display import OncePerPlan
    from lmsm_cli.sweeps.plan import RunIndex, unbegun

    with new_display(quiet, verbose) as display:
        index = RunIndex(plan[0].config.out, display)
        disk = disk_needed(plan, index, display) if keep != KEPT[0] else None
        found = index.status(plan)
        index.check_new(unbegun(found))
        once = OncePerPlan(display, index.said)  # the run that is tried out says it again
        left = _time_left(found, once, with_plots=with_plots)
    rows = [
        {
            "label": one.run.label,
            "state": one.state,
            "run": str(one.record.path) if one.record else None,
        }
        for one in found
    ]
    if json:
        print_json({"runs": rows, **_time_document(left), **(disk or {})})
        return
    stdout_console().print(plan_table(rows))
    if left:
        print_line(time_left_line(asdict(left)))
    if disk:
        print_line(disk_line(**disk))


def _time_left(
    found: "Sequence[RunStatus]", display: "Display", *, with_plots: bool
) -> "TimeLeft | None":
    """Return what the unfinished trainings will take; None, and a warning, if nobody can tell."""
    from lmsm_cli.sweeps.time_left import time_left

    try:
        return time_left(found, display, with_plots=with_plots)
    except LmsmError as error:
        display.warning(f"how long the trainings will take is not known: {error}")
        return None


def _time_document(left: "TimeLeft | None") -> dict[str, Any]:
    """Return what the JSON has of the time; `tried` is empty where finished runs tell it."""
    if left is None:
        return {"seconds_left": None, "tried": []}
    return {"seconds_left": left.seconds, "tried": [asdict(one) for one in left.tried]}


def _search(
    search: "Search",
    preset: str | None,
    config: Path | None,
    *,
    quiet: bool,
    verbose: bool,
    json: bool,
) -> None:
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables_checks import trials_table
    from lmsm_cli.sweeps.search import run_search

    with new_display(quiet, verbose) as display:
        found = run_search(search, display)
    rows = [asdict(one) | {"label": label(one.choices)} for one in found]
    best = None
    if found[0].value is not None:
        command = _best_command(search, found[0].choices, preset, config)
        best = rows[0] | {"command": command}
    if json:
        print_json({"score": "val_balanced_accuracy", "best": best, "trials": rows})
    else:
        few = rows[:_TRIALS_SHOWN]
        is_part = len(few) < len(rows)
        title = f"The best {len(few)} of {len(rows)} trials" if is_part else f"{len(rows)} trials"
        stdout_console().print(trials_table(few, title))
        if best:
            print_line(f"the best: {best['command']}")
    if best is None:
        raise RunError(
            f"none of the {len(rows)} trials came to its end: "
            "look at the reasons, and at the ranges"
        )


def _best_command(
    search: "Search", choices: Mapping[str, str], preset: str | None, config: Path | None
) -> str:
    from lmsm_cli.sweeps.plan import plan_run

    # where runs are made that belong to no sweep
    layers = [*search.layers, Layer({"out": "runs"}, {"out": "runs"})]
    command = train_command(plan_run(layers, choices, None).config, preset, config)
    return command + (f" --seeds {seeds_text(search.seeds)}" if search.seeds else "")
