"""`lmsm compare`: runs side by side, grouped over seeds."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.options import Quiet, switch, value
from lmsm_cli.errors import LmsmError, visible

if TYPE_CHECKING:
    from lmsm_cli.comparison.records import Comparison

_Paths = Annotated[
    list[Path],
    typer.Argument(
        help="Run folders, or folders of runs.",
        metavar="RUN",
        autocompletion=completion.run_folders,
    ),
]
_By = Annotated[
    str | None,
    value(
        "KEYS",
        "Put runs together that share these choices, such as loss or loss,lr, and average "
        "over all others (default: over the seed only). Runs on other images are never averaged.",
    ),
]
_Baseline = Annotated[
    str | None,
    value(
        "NAME", "What the others are held against: a loss, or the name of a row (default: softmax)."
    ),
]
_Sort = Annotated[
    str | None,
    value("SCORE", "Put the best first by this score, such as few or balanced_accuracy."),
]
_OnlyChanged = Annotated[
    bool, switch("--only-changed", "Leave out scores and classes in which all rows are alike.")
]
_Markdown = Annotated[bool, switch("--markdown", "Print the tables as Markdown.")]
_Csv = Annotated[
    Path | None, value("FILE", "Write all numbers as CSV too; - prints them instead of tables.")
]
_Html = Annotated[Path | None, value("FILE", "Write a report page too, with curves and pictures.")]
_Json = Annotated[bool, switch("--json", "Print one JSON document instead of tables.")]


def compare(
    paths: _Paths,
    by: _By = None,
    baseline: _Baseline = None,
    sort: _Sort = None,
    only_changed: _OnlyChanged = False,
    markdown: _Markdown = False,
    csv: _Csv = None,
    html: _Html = None,
    quiet: Quiet = False,
    json: _Json = False,
) -> None:
    """Compare runs: mean and sd over seeds, and whether the difference to a baseline can be \
trusted.

    Runs that differ only in their seed become one row. Each row is held against the baseline: \
the difference, the interval that holds it with 95% confidence, and a verdict.
    """
    prints_csv = csv == Path("-")
    if json + markdown + prints_csv > 1:
        raise LmsmError("--json, --markdown and --csv - each print instead of the tables: give one")
    from lmsm_cli.commands.console import print_json, stdout_console
    from lmsm_cli.comparison.grouping import compare_runs
    from lmsm_cli.reports.exports import to_csv
    from lmsm_cli.runs.folder import check_place, write_whole
    from lmsm_cli.runs.record import find_runs, read_run, runs_below

    for file in filter(None, (None if prints_csv else csv, html)):
        check_place(file)
    records = [read_run(path, with_metrics=html is not None) for path in find_runs(paths)]
    comparison = compare_runs(records, by=_names(by), baseline=baseline, sort=sort)
    deeper = (
        f"{visible(str(folder))} holds runs too, which were not looked at: give it as well"
        for folder in runs_below(paths)
    )
    comparison = replace(comparison, notes=(*comparison.notes, *deeper))
    if csv and not prints_csv:
        write_whole(csv, to_csv(comparison))
    if html is not None:
        from lmsm_cli.reports.html.page import write_page

        write_page(html, comparison, records)
    if json:
        print_json(comparison.to_json())
    elif prints_csv:
        stdout_console().out(to_csv(comparison), end="")
    else:
        print_comparison(comparison, only_changed=only_changed, markdown=markdown)


def _names(text: str | None) -> list[str]:
    return [name.strip().replace("-", "_") for name in (text or "").split(",") if name.strip()]


def print_comparison(
    comparison: "Comparison", *, only_changed: bool = False, markdown: bool = False
) -> None:
    """Print the tables of a comparison and its notes."""
    from lmsm_cli.commands.console import stdout_console
    from lmsm_cli.reports.comparison_tables import comparison_notes, comparison_tables
    from lmsm_cli.reports.exports import to_markdown

    console = stdout_console()
    if markdown:
        for table in comparison_tables(comparison, only_changed=only_changed):
            console.out(to_markdown(table))
    else:
        for table in comparison_tables(comparison, width=console.width, only_changed=only_changed):
            console.print(table)
    for note in comparison_notes(comparison):
        console.print(visible(note), markup=False)
