"""`lmsm retrain`: other last layers on the nets of finished runs, and their comparison."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_line
from lmsm_cli.commands.options import Json, Quiet, Verbose, layers_of, value, with_flags_of
from lmsm_cli.commands.running import run_and_compare
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmsm_cli.sweeps.plan import PlannedRun

# A place of its own, so that the same command finds its runs again.
_OUT = "runs/retrain"

_Runs = Annotated[
    list[Path],
    typer.Argument(help="Finished runs, one for each seed.", autocompletion=completion.checkpoints),
]
_Head = Annotated[
    list[str] | None,
    value(
        "NAME",
        "A last layer to train, repeatable: any loss, or a second stage: crt, los, lws, marc, "
        "samn. (default: ten of them)",
        name="--head",
    ),
]


@with_flags_of(
    ("out", "data_dir", "epochs", "batch_size", "lr", "weight_decay", "device", "threads")
)
def retrain(
    runs: _Runs,
    head: _Head = None,
    *,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Train other last layers on the nets of finished runs, in seconds each, and compare them.

    All up to the last layer stays as it is, so its features are worked out once. Each head is an \
ordinary run, which eval, predict, export and resume take; runs go to --out (default: \
runs/retrain), and the same command again does only what is missing.
    """
    from lmsm_cli.runs.record import only_run
    from lmsm_cli.sweeps.second_stage import USUAL, plan_second_stages  # imports torch

    folders = [only_run(path) for path in runs]
    if len(set(folders)) < len(folders):
        raise LmsmError("a run is given twice: take one of them out")
    out = Layer({"out": _OUT}, {"out": "lmsm retrain"})
    base = {
        folder: [*layers_of(None, folder / "config.yaml", None, {"loss": "softmax"}), out]
        for folder in folders
    }
    plan = plan_second_stages(folders, head or USUAL, base, Layer.of_flags(flags))
    run_and_compare(plan, None, None, with_plots=False, quiet=quiet, verbose=verbose, json=json)
    if not json:
        _print_choice(plan)


def _print_choice(plan: "Sequence[PlannedRun]") -> None:
    """Print which head is best on the validation images, on average over the runs."""
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.runs.record import read_run
    from lmsm_cli.sweeps.plan import RunIndex

    reached: dict[str, list[float]] = {}
    with new_display(quiet=True) as display:
        for one in RunIndex(plan[0].config.out, display).status(plan):
            rows = read_run(one.record.path).metrics if one.record else []
            score = rows[-1]["val_balanced_accuracy"] if rows else None
            if score is not None:
                reached.setdefault(one.run.label, []).append(score)
    if not reached:
        print_line("no images were held out (--validation 0), so none of the heads is chosen")
        return
    means = {name: sum(scores) / len(scores) for name, scores in reached.items()}
    best = max(means, key=lambda name: means[name])
    print_line(f"best on validation images: {best}, balanced accuracy {100 * means[best]:.1f} %")
