"""`lmsm retrain`: other last layers on the nets of finished runs, and their comparison."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_line, stdout_console
from lmsm_cli.commands.options import (
    Imports,
    Json,
    Quiet,
    Verbose,
    layers_of,
    value,
    with_flags_of,
)
from lmsm_cli.commands.running import run_and_compare
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lmsm_cli.sweeps.plan import PlannedRun, RunStatus

# A place of its own, so that the same command finds its runs again.
_OUT = "runs/retrain"

_Runs = Annotated[
    list[Path],
    typer.Argument(
        help="Finished runs, one for each seed or fold.", autocompletion=completion.checkpoints
    ),
]
_Head = Annotated[
    list[str] | None,
    value(
        "NAME",
        "A last layer, repeatable: any loss; crt, softmax on as many draws of each class; los, "
        "softmax on labels of which little is left; lws, marc and samn, which learn one or two "
        "numbers a class; or one that is made without a training: adjust, tau-norm and mla, each "
        "with a tau as in adjust:1 or the best on validation images, and ncm, the mean features of "
        "the classes. (default: ten to train, and those four)",
        name="--head",
    ),
]


@with_flags_of(
    (
        *("out", "data_dir", "skip_unreadable"),
        *("epochs", "batch_size", "lr", "weight_decay", "device", "threads"),
    ),
    out="Folder that the run folders are made in. (default: runs/retrain)",
    data_dir="Where the runs' data is now. (default: where the runs had it)",
    skip_unreadable="Leave out images that cannot be read, and report them. (default: as the runs "
    "did)",
    epochs="Passes over the training images. (default: enough for 1,500 steps, but 10 to 200)",
    lr="Learning rate of SGD before it falls by a cosine. (default: 0.1 for batches of 128, less "
    "for smaller ones)",
)
def retrain(
    runs: _Runs,
    head: _Head = None,
    *,
    imports: Imports = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Train other last layers on the nets of finished runs, in seconds each, and compare them.

    All up to the last layer stays as it is, so its features are worked out once. Each one is an \
ordinary run, which eval, predict and export take, and resume where it was trained; runs go to \
--out (default: runs/retrain), and the same command again does only what is missing.
    """
    from lmsm_cli.runs.own_code import named
    from lmsm_cli.runs.record import only_run

    folders = [only_run(path) for path in runs]
    if len(set(folders)) < len(folders):
        raise LmsmError("a run is given twice: take one of them out")
    # heads are trained with other code than the runs
    with named(imports or (), may_be_unused=True):
        _check_code(folders)
        _retrain(folders, head, flags, quiet=quiet, verbose=verbose, json=json)


def _check_code(folders: "Sequence[Path]") -> None:
    """Raise an error where the runs' net must not be imported, or what is named is none of theirs.

    Their loss is imported for those heads alone that go on from it.
    """
    from lmsm_cli.runs import checkpoint, own_code
    from lmsm_cli.runs.one_run import check_own

    for folder in folders:
        file = checkpoint.find(folder)
        state = checkpoint.load(file)
        check_own(state, file)
        net_alone = state.config.model_copy(update={"loss": "softmax"})
        own_code.check_used(state.config, folder)
        own_code.check_allowed(net_alone, state.own_code, folder)


def _retrain(
    folders: "Sequence[Path]",
    head: list[str] | None,
    flags: dict[str, Any],
    *,
    quiet: bool,
    verbose: bool,
    json: bool,
) -> None:
    from lmsm_cli.sweeps.second_stage import (  # imports torch
        check_of_one_group,
        plan_second_stages,
        usual_heads,
    )

    check_of_one_group(folders)
    out = Layer({"out": _OUT}, {"out": "lmsm retrain"})
    base = {
        folder: [*layers_of(None, folder / "config.yaml", None, {"loss": "softmax"}), out]
        for folder in folders
    }
    plan = plan_second_stages(folders, head or usual_heads(folders), base, Layer.of_flags(flags))
    _warn_of_the_choice(folders)
    run_and_compare(
        plan,
        None,
        None,
        with_plots=False,
        quiet=quiet,
        json=json,
        verbose=verbose,
        beside=_choice,
    )
    if not json:
        _print_choice(plan)


def _warn_of_the_choice(folders: "Sequence[Path]") -> None:
    """Say before any work what the choice among the heads will not be told by."""
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.sweeps.second_stage import what_is_not_held_out

    with new_display(quiet=True) as display:
        for text in what_is_not_held_out(folders):
            display.warning(text)


def _print_choice(plan: "Sequence[PlannedRun]") -> None:
    """Print which heads are best on the validation images, on average over the runs."""
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.reports.tables_checks import heads_table
    from lmsm_cli.sweeps.plan import RunIndex

    with new_display(quiet=True) as display:
        chosen = _choice(RunIndex(plan[0].config.out, display).status(plan))["chosen"]
    if chosen is None:
        print_line("no images were held out (--validation 0), so none of the last layers is chosen")
        return
    stdout_console().print(heads_table(chosen["heads"]))
    best = chosen["heads"][0]
    score = 100 * best["val_balanced_accuracy"]
    print_line(f"best on validation images: {best['head']}, balanced accuracy {score:.1f} %")
    if best["is_tuned_on_them"]:
        print_line("its tau was chosen on these images too, which flatters it")


def _choice(found: "Sequence[RunStatus]") -> dict[str, Any]:
    """Return what the JSON has beside the comparison: the heads by their validation score."""
    from lmsm_cli.config.post_hoc import is_post_hoc, parse_post_hoc
    from lmsm_cli.sweeps.second_stage import reached_on_validation

    reached = reached_on_validation(found)
    heads = [
        {
            "head": head,
            "val_balanced_accuracy": score,
            "is_tuned_on_them": is_post_hoc(head) and parse_post_hoc(head).is_chosen,
        }
        for head, score in reached.items()
    ]
    return {"chosen": {"best": heads[0]["head"], "heads": heads} if heads else None}
