"""`lmsm sweep`: many runs that differ in chosen ways, and their comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmsm_cli.commands.compare import print_comparison
from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.commands.options import (
    ConfigFile,
    Margin,
    Preset,
    Quiet,
    layers_of,
    train_command,
    with_config_flags,
)
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError, RunError
from lmsm_cli.sweeps.grid import Axis, check_flags, parse_axes, parse_seeds, product

if TYPE_CHECKING:
    from lmsm_cli.sweeps.optuna_store import Search
    from lmsm_cli.sweeps.plan import PlannedRun, RunStatus

# A place of its own, so that the same command finds its runs again.
_OUT = "runs/sweep"
_TRIALS_SHOWN = 10


@with_config_flags
def sweep(
    *,
    preset: Preset = None,
    config: ConfigFile = None,
    margin: Margin = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "--grid",
            metavar="KEY=A,B",
            help="Values of a choice, repeatable: lr=0.1,0.01, loss=softmax,lsoftmax:margin=4,lambda_min=5, milestones=160,180;120,160; with --trials also a range, lr=0.0001..0.1:log.",
            rich_help_panel="Sweep",
        ),
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            metavar="'KEY=A KEY=B'",
            help="Choices that belong together, repeatable: 'loss=ldam reweight=effective rebalance_from=9'. Every arm meets every value of the grid.",
            rich_help_panel="Sweep",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="N|A,B,...",
            help="Runs of each combination: 5 for the seeds 0 to 4, or a list (default: --seed).",
            rich_help_panel="Sweep",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials",
            metavar="N",
            help="Search instead: draw choices by Optuna until the study has N trials; the best is by validation score.",
            rich_help_panel="Search",
        ),
    ] = None,
    prune: Annotated[
        bool,
        typer.Option(
            "--prune",
            help="End a trial that does worse than the median of those before.",
            rich_help_panel="Search",
        ),
    ] = False,
    study: Annotated[
        str | None,
        typer.Option(
            "--study",
            metavar="NAME",
            help="Name of the study (default: one that follows from the choices).",
            rich_help_panel="Search",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            "--storage",
            metavar="URL",
            help="Database of the study, for several hosts (default: study.db in --out).",
            rich_help_panel="Search",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List the runs and which are there already; run none.",
            rich_help_panel="Sweep",
        ),
    ] = False,
    plots: Annotated[
        bool, typer.Option("--plots", help="Draw the plots of each run.", rich_help_panel="Sweep")
    ] = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    **flags: Any,
) -> None:
    """Run every combination of choices with every seed, and compare them.

    The same command again does only what is missing: it goes on with what was stopped, tries again what failed, \
and leaves to other processes what they are doing. So start it several times to share the work. \
Other choices are the flags of `lmsm train`; runs go to --out (default: runs/sweep).
    """
    axes = parse_axes(grid or [], arm or [])
    check_flags(axes, flags | {"margin": margin})
    layers = [
        Layer({"out": _OUT}, {"out": "lmsm sweep"}),
        *layers_of(preset, config, margin, flags),
    ]
    if trials is not None:
        if trials < 1:
            raise LmsmError(f"--trials is {trials}: give at least 1")
        if dry_run or plots:
            raise LmsmError("--trials draws its runs as it goes: leave --dry-run and --plots out")
        numbers = _seed_numbers(seeds, flags.get("seed"))
        from lmsm_cli.sweeps.optuna_store import Search

        _search(
            Search(layers, axes, numbers, trials, study, storage, prune),
            preset,
            config,
            quiet=quiet,
            json=json,
        )
        return
    if prune or study or storage:
        raise LmsmError("--prune, --study and --storage are of a search: give --trials N")
    plan = plan_of(layers, axes, seeds, seed=flags.get("seed"))
    if dry_run:
        _show_plan(plan, json=json)
    else:
        run_and_compare(plan, preset, config, with_plots=plots, quiet=quiet, json=json)


def plan_of(
    layers: Sequence[Layer], axes: Sequence[Axis], seeds: str | None, *, seed: Any
) -> "list[PlannedRun]":
    """Return the runs of every combination with every seed. Raises LmsmError for what cannot work."""
    numbers = _seed_numbers(seeds, seed)
    combinations = product(axes, len(numbers or "1"))
    from lmsm_cli.sweeps.plan import build_plan

    return build_plan(layers, combinations, numbers)


def _seed_numbers(seeds: str | None, seed: Any) -> tuple[int, ...] | None:
    if seeds is not None and seed is not None:
        raise LmsmError("--seed and --seeds are both given: take one")
    return None if seeds is None else parse_seeds(seeds)


def run_and_compare(
    plan: "Sequence[PlannedRun]",
    preset: str | None,
    config: Path | None,
    *,
    with_plots: bool,
    quiet: bool,
    json: bool,
) -> None:
    """Complete a plan, then print the comparison of its runs, those that failed, and the folders.

    Raises RunError where some failed.
    """
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.comparison.grouping import compare_runs
    from lmsm_cli.reports.tables_checks import failures_table
    from lmsm_cli.sweeps.plan import RunIndex
    from lmsm_cli.sweeps.sweep import lost, run_plan

    with new_display(quiet) as display:
        index = RunIndex(plan[0].config.out, display)
        failures = run_plan(plan, index, with_plots=with_plots)
    found = index.status(plan)
    failures += lost(found, failures)
    done = [one.record for one in found if one.state == "completed"]
    comparison = compare_runs([record for record in done if record])
    failed = [
        {
            "label": one.run.label,
            "reason": one.reason,
            "command": train_command(one.run.config, preset, config),
        }
        for one in failures
    ]
    if json:
        print_json(comparison.to_json() | {"failed": failed})
    else:
        console = stdout_console()
        if comparison.groups:
            print_comparison(comparison)
        for run in (run for group in comparison.groups for run in group.runs):
            console.print(f"run folder: {run}", markup=False, highlight=False, soft_wrap=True)
        if failed:
            console.print(failures_table(failed))
        for row in failed:
            console.print(
                f"to repeat it: {row['command']}", markup=False, highlight=False, soft_wrap=True
            )
    if failed:
        raise RunError(
            f"{len(failed)} of {len(plan)} runs failed; the same command again tries only those"
        )


def _show_plan(plan: "Sequence[PlannedRun]", *, json: bool) -> None:
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables_checks import duration, plan_table
    from lmsm_cli.sweeps.plan import RunIndex

    with new_display(quiet=True) as display:
        found = RunIndex(plan[0].config.out, display).status(plan)
    rows = [
        {
            "label": one.run.label,
            "state": one.state,
            "run": str(one.record.path) if one.record else None,
        }
        for one in found
    ]
    seconds = _seconds_left(found)
    if json:
        print_json({"runs": rows, "seconds_left": seconds})
        return
    console = stdout_console()
    console.print(plan_table(rows))
    if seconds is not None:
        console.print(f"trainings still to do: about {duration(seconds)}, by those that are done")


def _seconds_left(found: "Sequence[RunStatus]") -> float | None:
    """Return what the unfinished trainings will take at the mean of the finished ones."""
    done = [one.seconds for one in found if one.seconds is not None]
    return fmean(done) * (len(found) - len(done)) if done else None


def _search(
    search: "Search", preset: str | None, config: Path | None, *, quiet: bool, json: bool
) -> None:
    """Search, then print the best trials and the command of the best."""
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables_checks import trials_table
    from lmsm_cli.sweeps.search import run_search

    with new_display(quiet) as display:
        found = run_search(search, display)
    rows = [
        {
            "number": one.number,
            "value": one.value,
            "state": one.state,
            "reason": one.reason,
            "label": one.label,
            "choices": one.choices,
            "runs": list(one.runs),
        }
        for one in found
    ]
    best = (
        None
        if found[0].value is None
        else rows[0] | {"command": _best_command(search, found[0].choices, preset, config)}
    )
    if json:
        print_json({"score": "val_balanced_accuracy", "best": best, "trials": rows})
    else:
        console = stdout_console()
        few = rows[:_TRIALS_SHOWN]
        title = (
            f"The best {len(few)} of {len(rows)} trials"
            if len(few) < len(rows)
            else f"{len(rows)} trials"
        )
        console.print(trials_table(few, title))
        if best:
            console.print(
                f"the best: {best['command']}", markup=False, highlight=False, soft_wrap=True
            )
    if best is None:
        raise RunError(
            f"none of the {len(rows)} trials came to its end: look at the reasons, and at the ranges"
        )


def _best_command(
    search: "Search", choices: Mapping[str, str], preset: str | None, config: Path | None
) -> str:
    from lmsm_cli.sweeps.plan import planned

    # where runs are made that belong to no sweep
    layers = [*search.layers, Layer({"out": "runs"}, {"out": "runs"})]
    command = train_command(planned(layers, choices, None).config, preset, config)
    return command + (f" --seeds {','.join(map(str, search.seeds))}" if search.seeds else "")
