"""`lmsm export`: a checkpoint as an ONNX file or a torch program."""

from pathlib import Path
from typing import Annotated, Any

from lmsm_cli.commands.completion import one_of
from lmsm_cli.commands.console import print_json, print_line
from lmsm_cli.commands.corrections import UNCORRECTED, Corrections, with_correction_flags
from lmsm_cli.commands.options import Best, Checkpoint, Imports, Quiet, switch, value
from lmsm_cli.errors import LmsmError, check_choice

_FORMATS = ("onnx", "torch")
_Out = Annotated[
    Path | None,
    value(
        "FILE",
        "Where to write it (default: model.onnx or model.pt2 beside the checkpoint; best.onnx "
        "or best.pt2 with --best; adjusted.onnx or adjusted.pt2 with a correction; else as the "
        "file is named).",
    ),
]


@with_correction_flags
def export(
    checkpoint: Checkpoint,
    best: Best = False,
    form: Annotated[
        str,
        value(
            "NAME",
            "onnx for an ONNX file, torch for a program for torch.export.load; neither needs lmsm.",
            name="--format",
            complete=one_of(_FORMATS),
        ),
    ] = "onnx",
    out: _Out = None,
    images: Annotated[int, value("N", "Test images to verify it on.")] = 1000,
    data_dir: Annotated[
        Path | None, value("PATH", "Where the run's data is now. (default: where the run had it)")
    ] = None,
    correction: Corrections = UNCORRECTED,
    imports: Imports = None,
    quiet: Quiet = False,
    json: Annotated[bool, switch("--json", "Print what was written as JSON.")] = False,
) -> None:
    """Write a checkpoint as one file for other programs, verified against it on test images.

    Input `images`: uint8 (N, C, H, W), 0 to 255, any N; the normalisation is inside.
    Outputs `logits` and `probabilities`: (N, classes), without a margin.
    Class names, image size, normalisation and correction are in the file's metadata.
    """
    check_choice("--format", form, _FORMATS)
    if images < 1:
        raise LmsmError(f"--images is {images}: give at least 1")
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.inference.export import export_checkpoint  # imports torch
    from lmsm_cli.runs.checkpoint import find
    from lmsm_cli.runs.own_code import named

    with new_display(quiet) as display, named(imports or ()):
        document = export_checkpoint(
            find(checkpoint, best=best),
            display,
            form=form,
            out=out,
            num_images=images,
            data_dir=data_dir,
            correction=correction.requested(),
        )
    if json:
        print_json(document)
    else:
        _print(document)


def _print(document: dict[str, Any]) -> None:
    from lmsm_cli.reports.tables import epoch_words
    from lmsm_cli.reports.tables_corrections import correction_lines
    from lmsm_cli.runs.documents import CorrectionFacts, build

    epoch = epoch_words(document["epoch"], document["epochs"], document["is_best"])
    shape = f"(N, {document['channels']}, {document['image_height']}, {document['image_width']})"
    found, runner = document["verification"], {"onnx": "onnxruntime", "torch": "torch.export"}
    print_line(
        f"{document['file']}: {document['bytes'] / 1e6:,.1f} MB, "
        f"of {document['checkpoint']} ({epoch})"
    )
    print_line(
        f"input images: uint8 {shape}, 0 to 255; "
        f"outputs logits and probabilities: (N, {len(document['classes'])})"
    )
    for line in correction_lines(build(CorrectionFacts, document["correction"] or {})):
        print_line(line)
    print_line(
        f"{runner[document['format']]} against the checkpoint on {found['images']:,} "
        f"{found['of']}: same class for {found['same_top1']:.1%}, "
        f"largest difference of a logit {found['largest_difference']:.2g}"
    )
