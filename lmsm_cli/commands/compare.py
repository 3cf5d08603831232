"""`lmsm compare`: runs side by side, grouped over seeds."""

from pathlib import Path
from typing import Annotated

import typer

_PATHS = typer.Argument(help="Run folders, or folders of runs.", metavar="RUNS...")
_JSON = typer.Option("--json", help="Print one JSON document instead of tables.")


def compare(
    paths: Annotated[list[Path], _PATHS],
    json: Annotated[bool, _JSON] = False,
) -> None:
    """Compare runs: scores as mean ± sd over seeds, and accuracies per class side by side."""
    from lmsm_cli.commands.console import print_json, stdout_console
    from lmsm_cli.reports.comparison import compare_runs
    from lmsm_cli.reports.tables import comparison_tables
    from lmsm_cli.runs.folder import find_runs, read_run

    comparison = compare_runs([read_run(path) for path in find_runs(paths)])
    if json:
        print_json(comparison.to_json())
        return
    console = stdout_console()
    unlimited = console.options.update(width=10_000)
    tables = comparison_tables(comparison)
    if any(console.measure(table, options=unlimited).maximum > console.width for table in tables):
        tables = comparison_tables(comparison, narrow=True)
    for table in tables:
        console.print(table)
