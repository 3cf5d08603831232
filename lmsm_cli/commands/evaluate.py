"""`lmsm eval`: the scores of a checkpoint or run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from lmsm_cli.commands.completion import one_of
from lmsm_cli.commands.console import print_json, print_line, stdout_console
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
from lmsm_cli.errors import LmsmError, check_choice, did_you_mean

if TYPE_CHECKING:
    from lmsm_cli.inference.evaluate import Evaluation, Tau
    from lmsm_cli.runs.documents import EvaluationDocument
    from lmsm_cli.runtime.display import Display

_SPLITS = ("test", "validation")
_WORST = 25
_MOST_WORST = 1000
_SCALED = "scaled"

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
        "Go on without the images of --images that cannot be read, which are told.",
    ),
]
_Adjust = Annotated[
    str | None,
    value(
        "TAU",
        "Correct for rare classes by logit adjustment: TAU times the log of a class's share "
        "of the training images is taken from its score. 1 is what theory asks for after "
        "softmax; auto takes the best on the run's validation images. scaled:TAU and scaled:auto "
        "measure TAU in units of the scale of the logits, for losses with margins or on cosines: "
        "the mean length of the features times that of the class weights.",
    ),
]
_TauNorm = Annotated[
    str | None,
    value(
        "TAU",
        "Correct for rare classes by tau-normalisation: a class's weights are divided by "
        "their norm to the power of TAU, 0 to 1; auto as above.",
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
        "Write the images' features, labels, predictions and the class names to an .npz file; "
        "two features also as a picture, .png.",
    ),
]
_Json = Annotated[bool, switch("--json", "Print the scores as JSON.")]


def evaluate(
    checkpoint: Checkpoint,
    best: Best = False,
    split: _Split = "test",
    images: _Images = None,
    data_dir: _DataDir = None,
    follow_links: FollowLinks = False,
    skip_unreadable: _SkipUnreadable = False,
    adjust: _Adjust = None,
    tau_norm: _TauNorm = None,
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
    wanted = _correction(adjust, tau_norm)
    if worst is not None and not plots:
        raise LmsmError("--worst is how many mistakes --plots draws: give --plots FOLDER too")
    if worst is not None and not 1 <= worst <= _MOST_WORST:
        raise LmsmError(f"--worst is {worst}: give a number from 1 to {_MOST_WORST}")
    check_choice("--split", split, _SPLITS)
    if images is not None and split != "test":
        raise LmsmError(f"--images and --split {split} exclude each other; give one of them")
    _check_targets(plots, features)
    # imports torch, which a mistyped tau must not wait for
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.inference.evaluate import RequestedCorrection, Subject, evaluate_checkpoint
    from lmsm_cli.runs.own_code import named

    subject = Subject(split, images, data_dir, follow_links, skip_unreadable)
    correction = RequestedCorrection(*wanted) if wanted else None
    with new_display(quiet) as display, named(imports or ()):
        found = evaluate_checkpoint(checkpoint, display, subject, correction, device, best=best)
        _write(found, plots, worst or _WORST, features, display)
    if json:
        print_json(found.scores.to_json())
    else:
        _print(found.scores, with_confusion=confusion)


def _check_targets(plots: Path | None, features: Path | None) -> None:
    """Raise LmsmError for a file that is no .npz, DiskError for places that cannot be written."""
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
    print_line(tables.evaluated_line(scores), console)
    console.print(tables.per_class_table(scores))
    console.print(tables.summary_table(scores))
    for note in tables.notes_on_scores(scores):
        print_line(note, console)
    console.print(tables.reliability_table(scores))
    if with_confusion:
        console.print(tables.confusion_table(scores))
    if scores.adjustment:
        console.print(tables.adjustment_table(scores.adjustment, scores))
        console.print(tables.adjustment_line(scores.adjustment), soft_wrap=True)


def _correction(adjust: str | None, tau_norm: str | None) -> "tuple[str, Tau, bool] | None":
    """Return the flags' method and tau, and whether tau is in units of the logits' scale.

    Raises LmsmError for both flags at once and for a bad tau.
    """
    if adjust is not None and tau_norm is not None:
        raise LmsmError("--adjust and --tau-norm exclude each other; give one of them")
    if tau_norm is not None:
        return "tau-norm", _share(tau_norm), False
    return None if adjust is None else ("adjust", *_adjustment(adjust))


def _share(text: str) -> "Tau":
    """Return the tau of --tau-norm."""
    tau = _tau(text)
    if tau is None or (tau != "auto" and tau > 1):
        here = "; only --adjust takes scaled:TAU" if text.startswith(_SCALED) else ""
        raise LmsmError(f"--tau-norm is {text!r}: give a number from 0 to 1, or auto{here}")
    return tau


def _adjustment(text: str) -> "tuple[Tau, bool]":
    """Return the tau of --adjust, and whether it stands after `scaled:`."""
    unit, colon, number = text.partition(":")
    tau = _tau(number if colon else text)
    if tau is not None and (unit == _SCALED or not colon):
        return tau, bool(colon)
    if unit == _SCALED:
        raise LmsmError(
            f"--adjust is {text!r}: give scaled:NUMBER, with a number of at least 0, or scaled:auto"
        )
    if colon:
        right = f"{_SCALED}:{'auto' if tau is None else number}"
        raise LmsmError(
            f"--adjust is {text!r}: there is no unit {unit!r}{did_you_mean(text, [right])}"
        )
    raise LmsmError(
        f"--adjust is {text!r}: give a number of at least 0, or auto; scaled:NUMBER and "
        "scaled:auto are in units of the logits' scale"
    )


def _tau(text: str) -> "Tau | None":
    """Return the finite number of at least 0, or `auto`, that a text gives; None for any other."""
    if text == "auto":
        return "auto"
    try:
        tau = float(text)
    except ValueError:
        return None
    return tau if 0 <= tau < float("inf") else None
