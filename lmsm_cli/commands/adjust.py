"""`lmsm adjust`: a checkpoint with a correction built in."""

from pathlib import Path
from typing import Annotated, Any

from lmsm_cli.commands.console import print_json, print_line
from lmsm_cli.commands.corrections import (
    UNCORRECTED,
    Corrections,
    print_effect,
    with_correction_flags,
)
from lmsm_cli.commands.options import Best, Checkpoint, Device, Imports, Json, Quiet, value
from lmsm_cli.errors import LmsmError

_Out = Annotated[
    Path | None,
    value("FILE", "Where to write it. (default: adjusted.pt beside the checkpoint)"),
]
_DataDir = Annotated[
    Path | None,
    value(
        "PATH",
        "Where the run's data is now, for auto and for what the correction does. (default: where "
        "the run had it)",
    ),
]


@with_correction_flags
def adjust(
    checkpoint: Checkpoint,
    best: Best = False,
    correction: Corrections = UNCORRECTED,
    out: _Out = None,
    data_dir: _DataDir = None,
    device: Device = "auto",
    imports: Imports = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Write a checkpoint with a correction built in, for eval, predict, export and load_checkpoint.

    What it does to the scores on the run's validation images is shown, if these are at hand. The \
run stays as it is, and continues from its own checkpoint.
    """
    if correction.is_empty:
        raise LmsmError(
            "nothing to correct by: give --adjust, --tau-norm, --prior or --temperature"
        )
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.inference.corrected_file import write_corrected  # imports torch
    from lmsm_cli.runs.checkpoint import find
    from lmsm_cli.runs.own_code import named

    request = correction.requested()
    assert request is not None
    with new_display(quiet) as display, named(imports or ()):
        document = write_corrected(
            find(checkpoint, best=best),
            request,
            display,
            out=out,
            data_dir=data_dir,
            device=device,
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
    print_line(f"{document['file']}: {document['checkpoint']} ({epoch}), corrected")
    facts = build(CorrectionFacts, document["correction"])
    for line in correction_lines(facts):
        print_line(line)
    print_effect(facts, document, document["file"])
