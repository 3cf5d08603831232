"""`lmsm resume`: go on with a run from its folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.options import FollowLinks, Quiet
from lmsm_cli.commands.train import finish


def resume(
    run: Annotated[
        Path, typer.Argument(help="The run folder.", autocompletion=completion.run_folders)
    ],
    epochs: Annotated[
        int | None,
        typer.Option(help="Train to this many epochs in all, more than the run was to have."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="Another device: auto, cpu, cuda or cuda:N.", autocompletion=completion.devices
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data is now.")] = None,
    follow_links: FollowLinks = False,
    tensorboard: Annotated[
        bool | None,
        typer.Option(
            "--tensorboard/--no-tensorboard",
            help="Write the curves for TensorBoard from now on, or no longer.",
        ),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Stop where the last checkpoint is damaged, instead of taking the one before.",
        ),
    ] = False,
    quiet: Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Go on with a run that was interrupted, or make a finished one longer.

    Needs nothing but the run folder. On a CPU the result is, to the last bit, that of a run that nobody stopped.
    """
    changes: dict[str, Any] = {
        "epochs": epochs,
        "device": device,
        "data_dir": data_dir,
        "follow_links": follow_links or None,
        "tensorboard": tensorboard,
    }
    finish(
        run,
        {key: value for key, value in changes.items() if value is not None},
        strict=strict,
        quiet=quiet,
        json=json,
    )
