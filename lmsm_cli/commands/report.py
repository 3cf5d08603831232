"""`lmsm report`: one run as a page to look at and to send."""

from pathlib import Path
from typing import Annotated

import typer

from lmsm_cli.commands import completion
from lmsm_cli.errors import LmsmError


def report(
    run: Annotated[Path, typer.Argument(help="Run folder.", metavar="RUN", autocompletion=completion.run_folders)],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where to write the page (default: RUN/report.html).")] = None,
) -> None:  # fmt: skip
    """Write a run's report: scores, curves, confusions, calibration and config in one HTML file.

    The file needs no network and nothing beside it. For several runs: lmsm compare RUNS --html FILE.
    """
    from lmsm_cli.commands.console import stdout_console
    from lmsm_cli.reports.comparison import compare_runs
    from lmsm_cli.reports.page import write_page
    from lmsm_cli.runs.folder import check_place
    from lmsm_cli.runs.record import find_runs, read_run

    runs = find_runs([run])
    if len(runs) > 1:
        raise LmsmError(f"{run} holds {len(runs)} runs, and a report is of one: give one of them, or use `lmsm compare {run} --html FILE`")  # fmt: skip
    path = out or runs[0] / "report.html"
    check_place(path)
    records = [read_run(runs[0])]
    write_page(path, compare_runs(records), records)
    stdout_console().print(str(path), markup=False, highlight=False, soft_wrap=True)
