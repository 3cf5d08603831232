"""`lmsm compare`: runs side by side, grouped over seeds."""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.options import Quiet, switch, value
from lmsm_cli.errors import LmsmError, check_choice, counted, listed, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lmsm_cli.comparison.records import Comparison
    from lmsm_cli.runs.record import RunRecord

_OVER = ("both", "seeds")
# Of more folders no command is long enough to be read.
_MOST_FOLDERS = 4

_Paths = Annotated[
    list[Path],
    typer.Argument(
        help="Run folders, or folders of runs; also files of other programs' results.",
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
_Over = Annotated[
    str,
    value(
        "WHAT",
        "What the intervals allow for: both, other seeds and other test images, or seeds alone, "
        "the narrower one: it says nothing of other images.",
        complete=completion.one_of(_OVER),
    ),
]
_Points = Annotated[
    float,
    value(
        "POINTS",
        "Tell how many seeds in all would show a difference of this size.",
        min=0.1,
        max=100,
    ),
]
_OnlyChanged = Annotated[
    bool, switch("--only-changed", "Leave out scores and classes in which all rows are alike.")
]
_Markdown = Annotated[bool, switch("--markdown", "Print the tables as Markdown.")]
_Csv = Annotated[
    Path | None, value("FILE", "Write all numbers as CSV too; - prints them instead of tables.")
]
_Html = Annotated[Path | None, value("FILE", "Write a report page too, with curves and pictures.")]
_Plots = Annotated[
    Path | None,
    value("FOLDER", "Draw accuracy by training images, a line a row, into this folder (PNG, PDF)."),
]
_Json = Annotated[bool, switch("--json", "Print one JSON document instead of tables.")]


def compare(
    paths: _Paths,
    by: _By = None,
    baseline: _Baseline = None,
    sort: _Sort = None,
    over: _Over = "both",
    points: _Points = 5.0,
    only_changed: _OnlyChanged = False,
    markdown: _Markdown = False,
    csv: _Csv = None,
    html: _Html = None,
    plots: _Plots = None,
    quiet: Quiet = False,
    json: _Json = False,
) -> None:
    """Compare runs: say which loss is better, and how sure that is.

    Runs that differ only in their seed become one row. Each row is held against the baseline: \
the difference, its 95% interval over other seeds and other test images, and a verdict after \
Holm's correction for several rows. The answer stands last.

    A file of results (.csv, .tsv, .txt or .npz) has the columns label and predicted, or logit_0, \
logit_1, ... (.npz: logits), and may have id, train_count, loss and seed; else it is named \
NAME-sSEED.csv.
    """
    check_choice("--over", over, _OVER)
    prints_csv = csv == Path("-")
    if json + markdown + prints_csv > 1:
        raise LmsmError("--json, --markdown and --csv - each print instead of the tables: give one")
    from lmsm_cli.commands.console import print_json, print_line, stderr_console, stdout_console
    from lmsm_cli.comparison.differences import Question
    from lmsm_cli.comparison.grouping import compare_runs
    from lmsm_cli.comparison.two_way import Over
    from lmsm_cli.reports.exports import to_csv

    files = _Files(None if prints_csv else csv, html, plots)
    files.check(paths)
    records, notes, left_out = _read(paths)
    files.check_apart(records)
    question = Question(Over.BOTH if over == "both" else Over.SEEDS, points / 100)
    comparison = compare_runs(
        records, by=_names(by), baseline=baseline, sort=sort, question=question
    )
    comparison = replace(comparison, notes=(*comparison.notes, *notes))
    whole = replace(comparison, notes=(*comparison.notes, *left_out))
    files.write(whole, records)
    for line in () if json else left_out:  # first of all: who reads on must know it
        print_line(line, stderr_console() if prints_csv else None)
    if json:
        print_json(whole.to_json())
    elif prints_csv:
        stdout_console().out(to_csv(comparison), end="")
    else:
        print_comparison(comparison, only_changed=only_changed, markdown=markdown)
        for line in () if markdown else files.told():
            print_line(line)
        print_conclusion(comparison, markdown=markdown)


class _Files(NamedTuple):
    """What is written beside what is printed."""

    csv: Path | None
    html: Path | None
    plots: Path | None

    def check(self, paths: "Iterable[Path]") -> None:
        """Raise DiskError where one of them cannot be written, LmsmError where it is one that is
        compared, or of another kind.
        """
        from lmsm_cli.runs.folder import PAGES, TABLES, check_folder, check_place

        for file, endings in ((self.csv, TABLES), (self.html, PAGES)):
            if file:
                check_place(file, endings, paths)
        if self.plots:
            check_folder(self.plots, "--plots")

    def check_apart(self, records: "Iterable[RunRecord]") -> None:
        """Raise LmsmError where one of them would lie among the images of the runs."""
        configs = ((record, record.config or {}) for record in records if record.scores)
        keys = ("dataset", "data_dir", "image_list")
        of_data = {str([one.get(key) for key in keys]): run for run, one in configs}
        for flag, path in (("--csv", self.csv), ("--html", self.html), ("--plots", self.plots)):
            for record in of_data.values():
                if path:
                    record.check_apart(flag, path)

    def told(self) -> list[str]:
        """Return what was written where."""
        named = {"numbers": self.csv, "page": self.html, "pictures": self.plots}
        return [f"{what}: {visible(str(path))}" for what, path in named.items() if path]

    def write(self, comparison: "Comparison", records: "Sequence[RunRecord]") -> None:
        """Write them. Raises DiskError."""
        from lmsm_cli.comparison.grouping import comparable

        records, *_ = comparable(records)  # as the comparison has them
        if self.csv:
            from lmsm_cli.reports.exports import to_csv
            from lmsm_cli.runs.folder import write_whole

            write_whole(self.csv, to_csv(comparison))
        if self.html:
            from lmsm_cli.reports.html.page import write_page

            write_page(self.html, comparison, records)
        if self.plots:
            from lmsm_cli.reports.rarity_plot import plot_comparison

            plot_comparison(comparison, records, self.plots)


def _read(paths: list[Path]) -> "tuple[list[RunRecord], list[str], list[str]]":
    """Return the runs of folders and of files of results, notes, and lines on what is left out."""
    from lmsm_cli.comparison.result_files import check_no_files, is_result_file, read_results
    from lmsm_cli.runs.record import find_runs, read_run, runs_below

    folders = [path for path in paths if not is_result_file(path)]
    for folder in folders:
        check_no_files(folder)
    records = [read_run(path) for path in find_runs(folders)]
    from_files, notes = read_results([path for path in paths if is_result_file(path)])
    return records + from_files, notes, _left_out(paths, runs_below(folders, levels=2))


def _left_out(paths: list[Path], below: dict[Path, int]) -> list[str]:
    """Return a line on the runs in folders below those that are compared, with what shows them."""
    if not below:
        return []
    runs, verb = sum(below.values()), "is" if sum(below.values()) == 1 else "are"
    said = f"{counted(runs, 'more run')} in folders below {verb} not compared here"
    if len(below) > _MOST_FOLDERS:
        return [f"{said}: {listed([str(one) for one in below], _MOST_FOLDERS)}"]
    command = shlex.join(["lmsm", "compare", *map(str, [*paths, *below])])
    return [visible(f"{said}; to compare them too: {command}")]


def _names(text: str | None) -> list[str]:
    return [name.strip().replace("-", "_") for name in (text or "").split(",") if name.strip()]


def print_comparison(
    comparison: "Comparison", *, only_changed: bool = False, markdown: bool = False
) -> None:
    """Print the tables of a comparison and its notes; the conclusion follows what comes between."""
    from lmsm_cli.commands.console import layout_width, stdout_console
    from lmsm_cli.reports.comparison_tables import comparison_notes, comparison_tables
    from lmsm_cli.reports.exports import to_markdown

    console = stdout_console()
    if markdown:
        for table in comparison_tables(comparison, only_changed=only_changed):
            console.out(to_markdown(table))
    else:
        width = layout_width(console)
        for table in comparison_tables(comparison, width=width, only_changed=only_changed):
            console.print(table, width=width)
    for note in comparison_notes(comparison):
        console.print(visible(note), markup=False)


def print_conclusion(comparison: "Comparison", *, markdown: bool = False) -> None:
    """Print the answer of a comparison, the last thing on the screen."""
    from lmsm_cli.commands.console import stdout_console
    from lmsm_cli.reports.verdicts import conclusion_text

    text = conclusion_text(comparison)
    if markdown:
        stdout_console().out(text.plain)
    elif text.plain:
        stdout_console().print(text)
