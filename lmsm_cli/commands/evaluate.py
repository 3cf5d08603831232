"""`lmsm eval`: the scores of a checkpoint or run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lmsm_cli.commands.completion import one_of
from lmsm_cli.commands.console import print_json, print_line, stdout_console
from lmsm_cli.commands.corrections import UNCORRECTED, Corrections, with_correction_flags
from lmsm_cli.commands.options import (
    Best,
    Checkpoint,
    Device,
    FollowLinks,
    Imports,
    Quiet,
    switch,
    value,
)
from lmsm_cli.errors import LmsmError, check_choice

if TYPE_CHECKING:
    from lmsm_cli.inference.evaluate import Evaluation
    from lmsm_cli.runs.documents import EvaluationDocument
    from lmsm_cli.runtime.display import Display

_SPLITS = ("test", "validation")
_WORST = 25
_MOST_WORST = 1000

_Split = Annotated[
    str,
    value("NAME", "Which of the run's own images: test or validation.", complete=one_of(_SPLITS)),
]
_Images = Annotated[
    Path | None,
    value("PATH", "Other images to evaluate on: a folder with one folder for each class."),
]
_DataDir = Annotated[
    Path | None, value("PATH", "Where the run's data is now. (default: where the run had it)")
]
_SkipUnreadable = Annotated[
    bool,
    switch(
        "--skip-unreadable",
        "Leave out the images of --images that cannot be read, and report them.",
    ),
]
_Coverage = Annotated[
    float | None,
    value(
        "SHARE",
        "Tell what is right where it answers only this share of the images, 0 to 1, those it is "
        "surest of: from which confidence on, chosen on the run's validation images if there are.",
    ),
]
_Confusion = Annotated[bool, switch("--confusion", "Print too which class was taken for which.")]
_Plots = Annotated[
    Path | None,
    value(
        "FOLDER",
        "Draw accuracy by training images, confusion matrix, reliability and the worst mistakes "
        "there; of a net with two features these too.",
    ),
]
_Worst = Annotated[
    int | None,
    value(
        "N", "Mistakes on the sheet of --plots, those the classifier was surest of. (default: 25)"
    ),
]
_Features = Annotated[
    Path | None,
    value(
        "FILE",
        "Write the images' features, logits, labels, predictions and the class names to an .npz "
        "file; two features also as a picture, .png.",
    ),
]
_Json = Annotated[bool, switch("--json", "Print the scores as JSON.")]


@with_correction_flags
def evaluate(
    checkpoint: Checkpoint,
    best: Best = False,
    split: _Split = "test",
    images: _Images = None,
    data_dir: _DataDir = None,
    follow_links: FollowLinks = False,
    skip_unreadable: _SkipUnreadable = False,
    correction: Corrections = UNCORRECTED,
    coverage: _Coverage = None,
    confusion: _Confusion = False,
    plots: _Plots = None,
    worst: _Worst = None,
    features: _Features = None,
    device: Device = "auto",
    imports: Imports = None,
    quiet: Quiet = False,
    json: _Json = False,
) -> None:
    """Evaluate a trained classifier: accuracy, precision and F1 of every class."""
    _check_coverage(coverage)
    _check_worst(worst, plots)
    check_choice("--split", split, _SPLITS)
    if images is not None and split != "test":
        raise LmsmError(f"--images and --split {split} exclude each other; give one of them")
    _check_targets(checkpoint, plots, features)
    # imports torch, which a mistyped tau must not wait for
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.inference.evaluate import Subject, evaluate_checkpoint
    from lmsm_cli.runs.own_code import named

    targets = {"--plots": plots, "--features": features}
    written = {flag: path for flag, path in targets.items() if path}
    subject = Subject(split, images, data_dir, follow_links, skip_unreadable, written)
    with new_display(quiet) as display, named(imports or ()):
        found = evaluate_checkpoint(
            checkpoint,
            display,
            subject,
            correction.requested(),
            device,
            best=best,
            coverage=coverage,
        )
        _write(found, plots, worst or _WORST, features, display)
    if json:
        print_json(found.scores.to_json())
    else:
        _print(found.scores, with_confusion=confusion)


def _check_coverage(coverage: float | None) -> None:
    if coverage is not None and not 0 < coverage <= 1:
        raise LmsmError(
            f"--coverage is {coverage:g}: give the share of the images to answer, above 0 and at "
            "most 1, such as 0.9"
        )


def _check_worst(worst: int | None, plots: Path | None) -> None:
    if worst is not None and not plots:
        raise LmsmError("--worst is how many mistakes --plots draws: give --plots FOLDER too")
    if worst is not None and not 1 <= worst <= _MOST_WORST:
        raise LmsmError(f"--worst is {worst}: give a number from 1 to {_MOST_WORST}")


def _check_targets(checkpoint: Path, plots: Path | None, features: Path | None) -> None:
    """Raise LmsmError for a file that is no .npz or is read, DiskError for places that cannot be
    written.
    """
    from lmsm_cli.runs.folder import check_folder, check_place

    if plots:
        check_folder(plots, "--plots")
    if features:
        if features.suffix != ".npz":
            raise LmsmError(f"--features is {str(features)!r}: end the name in .npz")
        check_place(features, reads=[checkpoint])


def _write(
    found: "Evaluation", plots: Path | None, worst: int, features: Path | None, display: "Display"
) -> None:
    from lmsm_cli.inference.evaluation_files import write_features, write_plots

    if plots:
        write_plots(found, plots, worst=worst)
        display.info(f"plots: {plots}")
    if features:
        write_features(found, features)
        display.info(f"features: {features}")


def _print(scores: "EvaluationDocument", *, with_confusion: bool) -> None:
    from lmsm_cli.reports import tables, tables_corrections

    console = stdout_console()
    print_line(tables.evaluated_line(scores), console)
    console.print(tables.per_class_table(scores))
    console.print(tables.summary_table(scores))
    for note in tables.notes_on_scores(scores):
        print_line(note, console)
    console.print(tables.reliability_table(scores))
    if with_confusion:
        console.print(tables.confusion_table(scores))
    if scores.adjustment:
        console.print(tables_corrections.adjustment_table(scores.adjustment, scores))
        for line in tables_corrections.correction_lines(scores.adjustment):
            print_line(line, console)
    if scores.coverage:
        print_line(tables_corrections.coverage_line(scores.coverage), console)
