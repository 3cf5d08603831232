"""`lmsm compare`: runs side by side, grouped over seeds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lmsm_cli.reports.comparison import Comparison

_PATHS = typer.Argument(help="Run folders, or folders of runs.", metavar="RUNS...")
_JSON = typer.Option("--json", help="Print one JSON document instead of tables.")


def compare(
    paths: Annotated[list[Path], _PATHS],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Compare runs: scores as mean ± sd over seeds, and accuracies per class side by side."""
    from lmsm_cli.commands.console import print_json
    from lmsm_cli.reports.comparison import compare_runs
    from lmsm_cli.runs.record import find_runs, read_run

    comparison = compare_runs([read_run(path) for path in find_runs(paths)])
    if json:
        print_json(comparison.to_json())
    else:
        print_comparison(comparison)


def print_comparison(comparison: "Comparison") -> None:
    """Print the tables of a comparison, in their narrow form where the terminal asks for it."""
    from lmsm_cli.commands.console import stdout_console
    from lmsm_cli.reports.tables import comparison_tables

    console = stdout_console()
    unlimited = console.options.update(width=10_000)
    tables = comparison_tables(comparison)
    if any(console.measure(table, options=unlimited).maximum > console.width for table in tables):
        tables = comparison_tables(comparison, narrow=True)
    for table in tables:
        console.print(table)
