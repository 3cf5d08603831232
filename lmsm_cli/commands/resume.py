"""`lmsm resume`: go on with a run from its folder."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lmsm_cli.commands.train import finish


def resume(
    run: Annotated[Path, typer.Argument(help="The run folder.")],
    epochs: Annotated[int | None, typer.Option(help="More epochs than the run was to have.")] = None,
    device: Annotated[str | None, typer.Option(help="Another device: auto, cpu, cuda or cuda:N.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the data is now.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Don't fall back to the checkpoint before a damaged one.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:  # fmt: skip
    """Go on with an interrupted run, to the same bits as if nobody had stopped it (on the CPU)."""
    changes: dict[str, Any] = {"epochs": epochs, "device": device, "data_dir": data_dir}
    finish(run, {key: value for key, value in changes.items() if value is not None}, strict=strict, json=json)  # fmt: skip
