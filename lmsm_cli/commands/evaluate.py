"""`lmsm eval`: the scores of a checkpoint or run folder."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.errors import LmsmError

if TYPE_CHECKING:
    from lmsm_cli.evaluation import Tau


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt, or a run folder.")],
    split: Annotated[Literal["test", "validation"], typer.Option(help="Which of the run's own images.")] = "test",
    images: Annotated[Path | None, typer.Option(help="Class folders to evaluate on instead.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the run's data is (default: as in the run).")] = None,
    adjust: Annotated[str | None, typer.Option(metavar="TAU|auto", help="Correct for a long tail by logit adjustment: logits minus TAU log of the class's share of the training images. 1 is theory's value for a loss that knows no class counts; auto takes the best on the run's validation images.")] = None,
    tau_norm: Annotated[str | None, typer.Option(metavar="TAU|auto", help="Correct for a long tail by tau-normalisation: class weights divided by their norm to the power of TAU, 0 to 1; auto as above.")] = None,
    confusion: Annotated[bool, typer.Option("--confusion", help="Print the confusion matrix too.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:  # fmt: skip
    """Evaluate a checkpoint or run folder: per-class accuracy, precision and F1."""
    corrections = {"adjust": _tau("--adjust", adjust), "tau_norm": _tau("--tau-norm", tau_norm)}
    from lmsm_cli import evaluation  # imports torch, which a mistyped tau must not wait for
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports import tables

    with new_display() as display:
        scores = evaluation.evaluate(checkpoint, display, split_name=split, images=images, data_dir=data_dir, device=device, **corrections)  # fmt: skip
    if json:
        print_json(scores)
        return
    console = stdout_console()
    console.print(tables.per_class_table(scores))
    console.print(tables.summary_table(scores))
    if confusion:
        console.print(tables.confusion_table(scores))
    if scores["adjustment"]:
        console.print(tables.adjustment_table(scores))
        console.print(tables.adjustment_line(scores["adjustment"]), soft_wrap=True)


def _tau(flag: str, text: str | None) -> "Tau | None":
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
    return tau
