"""`lmsm eval`: the scores of a checkpoint or run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.commands.options import FollowLinks, Quiet
from lmsm_cli.errors import LmsmError, check_choice

if TYPE_CHECKING:
    from lmsm_cli.inference.evaluate import Evaluation, Tau
    from lmsm_cli.runs.documents import EvaluationDocument
    from lmsm_cli.runtime.display import Display

_SPLITS = ("test", "validation")
_WORST = 25
_MOST_WORST = 1000


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="A run folder, or a checkpoint of one.", autocompletion=completion.checkpoints
        ),
    ],
    split: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=completion.of(_SPLITS),
            help="Which of the run's own images: test or validation.",
        ),
    ] = "test",
    images: Annotated[
        Path | None,
        typer.Option(help="Other images to evaluate on: a folder with one folder for each class."),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where the run's data is now. (default: where the run had it)"),
    ] = None,
    follow_links: FollowLinks = False,
    skip_unreadable: Annotated[
        bool,
        typer.Option(
            "--skip-unreadable",
            help="Go on without the images of --images that cannot be read, which are told.",
        ),
    ] = False,
    adjust: Annotated[
        str | None,
        typer.Option(
            metavar="TAU",
            help="Correct for rare classes by logit adjustment: TAU times the log of a class's share of the training images is taken from its score. 1 is what theory asks for after softmax; auto takes the best on the run's validation images.",
        ),
    ] = None,
    tau_norm: Annotated[
        str | None,
        typer.Option(
            metavar="TAU",
            help="Correct for rare classes by tau-normalisation: a class's weights are divided by their norm to the power of TAU, 0 to 1; auto as above.",
        ),
    ] = None,
    confusion: Annotated[
        bool, typer.Option("--confusion", help="Print too which class was taken for which.")
    ] = False,
    plots: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Draw confusion matrix, reliability and the worst mistakes there; of a net with two features these too.",
        ),
    ] = None,
    worst: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Mistakes on the sheet of --plots, those the classifier was surest of. (default: 25)",
        ),
    ] = None,
    features: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the images' features, labels, predictions and the class names to an .npz file; two features also as a picture, .png.",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda or cuda:N.", autocompletion=completion.devices)
    ] = "auto",
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Evaluate a trained classifier: accuracy, precision and F1 of every class."""
    corrections = {
        "adjust": _tau("--adjust", adjust),
        "tau_norm": _tau("--tau-norm", tau_norm, largest=1.0),
    }
    if worst is not None and not plots:
        raise LmsmError("--worst is how many mistakes --plots draws: give --plots FOLDER too")
    if worst is not None and not 1 <= worst <= _MOST_WORST:
        raise LmsmError(f"--worst is {worst}: give a number from 1 to {_MOST_WORST}")
    check_choice("--split", split, _SPLITS)
    _check_targets(plots, features)
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.inference import (
        evaluate as evaluation,  # imports torch, which a mistyped tau must not wait for
    )

    with new_display(quiet) as display:
        found = evaluation.evaluation_of(
            checkpoint,
            display,
            split_name=split,
            images=images,
            data_dir=data_dir,
            follow_links=follow_links,
            skip_unreadable=skip_unreadable,
            device=device,
            **corrections,
        )
        _write(found, plots, worst or _WORST, features, display)
    if json:
        print_json(found.scores.to_json())
    else:
        _print(found.scores, with_confusion=confusion)


def _check_targets(plots: Path | None, features: Path | None) -> None:
    """Raise LmsmError for a file that is no .npz, DiskError for places that cannot be written to."""
    from lmsm_cli.runs.folder import check_folder, check_place

    if plots:
        check_folder(plots, "--plots")
    if features:
        if features.suffix != ".npz":
            raise LmsmError(f"--features is {str(features)!r}: end the name in .npz")
        check_place(features)


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
    from lmsm_cli.reports import tables

    console = stdout_console()
    console.print(tables.evaluated_line(scores), markup=False, soft_wrap=True)
    console.print(tables.per_class_table(scores))
    console.print(tables.summary_table(scores))
    if absent := tables.absent_line(scores):
        console.print(absent, markup=False, highlight=False, soft_wrap=True)
    console.print(tables.reliability_table(scores))
    if with_confusion:
        console.print(tables.confusion_table(scores))
    if scores.adjustment:
        console.print(tables.adjustment_table(scores.adjustment, scores))
        console.print(tables.adjustment_line(scores.adjustment), soft_wrap=True)


def _tau(flag: str, text: str | None, *, largest: float = float("inf")) -> "Tau | None":
    """Return a flag's tau as a number or `auto`. Raises LmsmError for anything else."""
    if text is None:
        return None
    if text == "auto":
        return "auto"
    try:
        tau = float(text)
    except ValueError:
        tau = -1.0
    if not 0 <= tau < float("inf"):
        raise LmsmError(f"{flag} is {text!r}: give a number of at least 0, or auto")
    if tau > largest:
        raise LmsmError(f"{flag} is {text!r}: give a number from 0 to {largest:g}, or auto")
    return tau
