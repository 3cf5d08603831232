"""`lmsm predict`: the likeliest classes of image files."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.commands.corrections import UNCORRECTED, Corrections, RunData, with_correction_flags
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
from lmsm_cli.errors import LmsmError, RunError

if TYPE_CHECKING:
    from lmsm_cli.inference.predict import Predictions

_STDOUT = Path("-")
_Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGE", help="Image files, and folders of them, at any depth."),
]
_Top = Annotated[int, value("K", "Classes to give for each image.")]
_Json = Annotated[bool, switch("--json", "Print the predictions as JSON.")]
_Csv = Annotated[
    Path | None, value("FILE", "Write them as CSV too; - prints that instead of the table.")
]


@with_correction_flags
def predict(
    checkpoint: Checkpoint,
    images: _Images,
    best: Best = False,
    top: _Top = 5,
    json: _Json = False,
    csv: _Csv = None,
    correction: Corrections = UNCORRECTED,
    data_dir: RunData = None,
    device: Device = "auto",
    imports: Imports = None,
    follow_links: FollowLinks = False,
    quiet: Quiet = False,
) -> None:
    """Name the likeliest classes of image files: JPEG, PNG, TIFF or another raster format, any \
size.

    Files that cannot be read are reported, the others are predicted, and the exit code is 1.
    """
    if json and csv == _STDOUT:
        raise LmsmError(
            "--json and --csv - both print on stdout; give one of them, or a file to --csv"
        )
    if top < 1:
        raise LmsmError(f"--top is {top}: give at least 1")
    from lmsm_cli.data.image_files import find_images
    from lmsm_cli.runs.folder import TABLES, check_place

    listed = find_images(images, follow_links=follow_links)
    if csv and csv != _STDOUT:
        check_place(csv, TABLES, [checkpoint, *listed.images])
    # imports torch, which a mistyped path must not wait for
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.inference.predict import predict_files
    from lmsm_cli.inference.trained import read_trained
    from lmsm_cli.runs.checkpoint import find
    from lmsm_cli.runs.own_code import named

    with new_display(quiet) as display, named(imports or ()):
        for text in listed.left_out:
            display.warning(text)
        trained = read_trained(find(checkpoint, best=best), data_dir)
        if csv and csv != _STDOUT:
            trained.check_apart("--csv", csv)
        found = predict_files(
            trained,
            listed.images,
            display,
            top=top,
            device=device,
            correction=correction.requested(),
        )
    _show(found, json, csv)


def _show(found: "Predictions", json: bool, csv: Path | None) -> None:
    """Write or print the predictions. Raises RunError where images could not be read."""
    from lmsm_cli.reports.tables_predictions import predictions_table
    from lmsm_cli.runs.folder import write_whole

    if csv and csv != _STDOUT:
        write_whole(csv, found.to_csv())
    if json:
        print_json(found.to_json())
    elif csv == _STDOUT:
        stdout_console().out(found.to_csv(), end="")
    else:
        console = stdout_console()
        console.print(predictions_table(found.to_json(), console.width))
    if found.num_failed:
        raise RunError(f"{found.num_failed} of {len(found.images)} images could not be read")
