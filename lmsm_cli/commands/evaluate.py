"""`lmsm eval`: the scores of a checkpoint or run folder."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from lmsm_cli.commands.console import print_json, stdout_console


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="checkpoint.pt, or a run folder.")],
    split: Annotated[Literal["test", "validation"], typer.Option(help="Which of the run's own images.")] = "test",
    images: Annotated[Path | None, typer.Option(help="Class folders to evaluate on instead.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the run's data is (default: as in the run).")] = None,
    confusion: Annotated[bool, typer.Option("--confusion", help="Print the confusion matrix too.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:  # fmt: skip
    """Evaluate a checkpoint or run folder: per-class accuracy, precision and F1."""
    from lmsm_cli import evaluation
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables import confusion_table, per_class_table, summary_table

    with new_display() as display:
        scores = evaluation.evaluate(checkpoint, display, split_name=split, images=images, data_dir=data_dir, device=device)  # fmt: skip
    if json:
        print_json(scores)
        return
    console = stdout_console()
    console.print(per_class_table(scores))
    console.print(summary_table(scores))
    if confusion:
        console.print(confusion_table(scores))
