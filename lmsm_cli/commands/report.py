"""`lmsm report`: one run as a page to look at and to send."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.options import value


def report(
    run: Annotated[
        Path,
        typer.Argument(help="Run folder.", metavar="RUN", autocompletion=completion.run_folders),
    ],
    out: Annotated[
        Path | None, value("FILE", "Where to write the page (default: RUN/report.html).")
    ] = None,
) -> None:
    """Write a run's report: scores, curves, confusions, calibration and config in one HTML file.

    The file needs no network and nothing beside it. For several runs: \
lmsm compare RUNS --html FILE.
    """
    from lmsm_cli.commands.console import print_line
    from lmsm_cli.comparison.grouping import compare_runs
    from lmsm_cli.reports.html.page import write_page
    from lmsm_cli.runs.folder import PAGES, check_place
    from lmsm_cli.runs.record import find_runs, only_run, read_run

    together = f"lmsm compare {shlex.quote(str(run))} --html page.html"
    (found,) = find_runs([only_run(run, f"; a page of all of them: {together}")])
    path = out or found / "report.html"
    check_place(path, PAGES)
    record = read_run(found)
    if out:  # by itself it lies in the run folder
        record.check_apart("--out", out)
    write_page(path, compare_runs([record]), [record])
    print_line(str(path))
