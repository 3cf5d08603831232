"""What `lmsm train --seeds` and `lmsm sweep` share: a plan of runs, done and compared."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsm_cli.commands.compare import print_comparison, print_conclusion
from lmsm_cli.commands.console import print_json, print_line, stdout_console
from lmsm_cli.commands.options import train_command
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError, RunError, counted
from lmsm_cli.sweeps.grid import Axis, parse_seeds, product

if TYPE_CHECKING:
    from lmsm_cli.comparison.records import Comparison
    from lmsm_cli.runtime.display import Display
    from lmsm_cli.sweeps.plan import PlannedRun, RunIndex, RunStatus
    from lmsm_cli.sweeps.sweep import Failure


KEPT = ("all", "winner")
"""Whose weights may stay at the end of a sweep."""


def plan_of(
    layers: Sequence[Layer],
    axes: Sequence[Axis],
    seeds: str | None,
    *,
    seed: Any,
    quiet: bool = False,
) -> "list[PlannedRun]":
    """Return the runs of every combination with every seed of --seeds, else with that of --seed.

    `layers` are what all runs share, lowest first. Raises LmsmError for what cannot work.
    """
    numbers = seed_numbers(seeds, seed)
    combinations = product(axes, len(numbers or "1"))
    from lmsm_cli.commands.progress import new_display

    with new_display(quiet) as display:
        # to load torch and to look at the images takes seconds, on a busy machine many
        display.progress("planning the runs", 0, 0)
        from lmsm_cli.sweeps.plan import build_plan

        return build_plan(layers, combinations, numbers)


def seed_numbers(seeds: str | None, seed: Any) -> tuple[int, ...] | None:
    """Return the seeds of --seeds, None without it. Raises LmsmError where --seed is given too."""
    if seeds is not None and seed is not None:
        raise LmsmError("--seed and --seeds are both given: take one")
    return None if seeds is None else parse_seeds(seeds)


def run_and_compare(
    plan: "Sequence[PlannedRun]",
    preset: str | None,
    config: Path | None,
    *,
    with_plots: bool,
    plots_in: Path | None = None,
    quiet: bool,
    json: bool,
    verbose: bool = False,
    beside: "Callable[[Sequence[RunStatus]], Mapping[str, Any]] | None" = None,
    keep: str = KEPT[0],
) -> None:
    """Complete a plan, then print the comparison of its runs, those that failed, and the folders.

    `preset` and `config` are for the commands that repeat a failed run; `plots_in` is a folder for
    pictures of the comparison; `beside` gives what else the JSON has of the runs; `keep` is one of
    KEPT. Raises RunError where some failed, LmsmError where none can be the winner.
    """
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.comparison.grouping import comparable, compare_runs
    from lmsm_cli.reports.tables_checks import disk_line, weights_lines
    from lmsm_cli.runs.record import read_run
    from lmsm_cli.sweeps.plan import RunIndex
    from lmsm_cli.sweeps.sweep import run_plan, unreadable

    with new_display(quiet, verbose) as display:
        _tell(plan, display)
        index = RunIndex(plan[0].config.out, display)
        if keep != KEPT[0] and (disk := disk_needed(plan, index, display)):
            display.info(disk_line(**disk))
        failures = run_plan(plan, index, with_plots=with_plots)
    found = index.status(plan)
    failures += unreadable(found, failures)
    done = [one.record for one in found if one.record and one.state == "completed"]
    # two data folders may hold the same images, and then share runs
    records = [read_run(path) for path in dict.fromkeys(record.path for record in done)]
    comparison = compare_runs(records)
    if plots_in:
        from lmsm_cli.reports.rarity_plot import plot_comparison

        plot_comparison(comparison, comparable(records)[0], plots_in)
    failed = [_failure(one, preset, config) for one in failures]
    weights = _weights(comparison) if keep != KEPT[0] and not failed else {}
    if json:
        more = beside(found) if beside else {}
        print_json(comparison.to_json() | {"failed": failed, **more, **weights})
    else:
        lines = weights_lines(weights["weights"]) if weights else []
        _print(comparison, plan[0].config.out, failed, lines)
    if failed:
        raise RunError(
            f"{len(failed)} of {len(plan)} runs failed; the same command again tries only those"
            + ("" if keep == KEPT[0] else ", and no weights go before")
        )


def disk_needed(
    plan: "Sequence[PlannedRun]", index: "RunIndex", display: "Display"
) -> dict[str, int] | None:
    """Return what a sweep needs until weights go, and what is free; None where nothing is to do.

    Raises LmsmError where no arm can be the winner.
    """
    from lmsm_cli.sweeps.kept import check_has_winner, disk_until_then

    check_has_winner(plan)
    return disk_until_then(plan, index, display)


def _weights(comparison: "Comparison") -> dict[str, Any]:
    """Remove the weights of the losers; return what the JSON has of that. Raises DiskError."""
    from lmsm_cli.sweeps.kept import drop_losers

    return {"weights": drop_losers(comparison).to_json()}


def _failure(one: "Failure", preset: str | None, config: Path | None) -> dict[str, str]:
    """Return what is shown of a failed run, with the command that repeats it."""
    command = train_command(one.run.config, preset, config)
    return {"label": one.run.label, "reason": one.reason, "command": command}


def _tell(plan: "Sequence[PlannedRun]", display: "Display") -> None:
    """Say what a user should know of the defaults of the runs, each sentence once."""
    for note in dict.fromkeys(note for run in plan for note in run.notes):
        display.info(note)


def _print(
    comparison: "Comparison", out: Path, failed: Sequence[dict[str, str]], lines: Sequence[str]
) -> None:
    """Print a comparison, the folders, what failed, some lines, and the answer."""
    if comparison.groups:
        print_comparison(comparison)
    number = sum(group.num_folders for group in comparison.groups)
    print_line(f"{counted(number, 'run folder')} in {out}")
    _print_failures(failed)
    for line in lines:
        print_line(line)
    print_conclusion(comparison)


def _print_failures(failed: Sequence[dict[str, str]]) -> None:
    from lmsm_cli.reports.tables_checks import failures_table

    if failed:
        stdout_console().print(failures_table(failed))
    for row in failed:
        print_line(f"to repeat it: {row['command']}")
