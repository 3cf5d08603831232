"""`lmsm data`: what is in a data set, what is wrong with it, and whether it is enough."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from lmsm_cli.commands.console import print_json, print_line, stdout_console
from lmsm_cli.commands.options import (
    ConfigFile,
    DataSet,
    Preset,
    Quiet,
    check_picture,
    flag_words,
    resolve_options,
    switch,
    value,
    with_flags_of,
)
from lmsm_cli.config import DATA_KEYS, dump
from lmsm_cli.config.data_path import choices_at
from lmsm_cli.config.value_types import Dataset
from lmsm_cli.errors import DataError, LmsmError, did_you_mean, visible

if TYPE_CHECKING:
    from lmsm_cli.config import Config
    from lmsm_cli.config.resolve import Resolved
    from lmsm_cli.data.check import DataCheck
    from lmsm_cli.data.splits import Data
    from lmsm_cli.reports.data_next import Commands
    from lmsm_cli.runtime.display import Display

# What does not change what is found; the data itself is the argument.
_NO_FLAGS = ("dataset", "image_list", "fold", "crop_from")
# The flags that decide which images a training has, and whether they are enough for it.
_FLAGS = (
    *(key for key in DATA_KEYS if key not in _NO_FLAGS),
    *("batch_size", "epochs"),
)
# Of them, what a study decides by itself.
_NOT_OF_A_STUDY = ("test_from", "test_share", "folds", "split_seed")
# What is told of a training on the data; the first is of class folders alone.
_PLAN = ("image_size", "model", "pretrained", "augment", "batch_size", "epochs", "optimizer", "lr")

_Plot = Annotated[
    Path | None,
    value("FILE", "Draw the images of each class, with samples, into a png, pdf or svg file."),
]
_Json = Annotated[bool, switch("--json", "Print what was found as JSON.")]


@with_flags_of(
    _FLAGS,
    data_dir="Folder that the data set is in. (default: $LMSM_DATA_DIR, else data; of a list the "
    "folder that it lies in)",
    folds="Divide images that have no test images of their own into so many parts, and show what "
    "each would test.",
)
def data(
    *,
    what: DataSet,
    preset: Preset = None,
    config: ConfigFile = None,
    plot: _Plot = None,
    quiet: Quiet = False,
    json: _Json = False,
    **flags: Any,
) -> None:
    """Check a data set: images by class and split, bad files, copies, what is too little.

    Reads what a training with the same flags would read, and reports all that it finds at once. \
Writes nothing into the data folder, and downloads nothing. Exit code 3 where no training can start.
    """
    resolved = resolve_options(preset, config, None, flags | dataset_named(what, flags))
    if plot:
        _check_plot(plot, resolved.config)
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.data.check import check_data
    from lmsm_cli.data.splits import check_apart_from_listed, look_into
    from lmsm_cli.reports.data_findings import can_start, findings_document, findings_of
    from lmsm_cli.reports.data_next import next_steps

    chosen = resolved.config
    with new_display(quiet) as display:
        at_hand = look_into(chosen, display)
        if plot and at_hand.data:
            check_apart_from_listed("--plot", plot, chosen, at_hand.data.record())
        check = check_data(chosen.dataset, chosen.data_dir, at_hand, chosen.image_size, display)
        if plot:
            _draw(check, at_hand.data, plot, display)
    findings, commands = findings_of(check, chosen), _commands(what, preset, config, flags)
    if json:
        steps = [asdict(step) for step in next_steps(check, findings, commands)]
        print_json(findings_document(check, chosen, _plan(resolved)) | {"next": steps})
    else:
        _print(check, resolved, commands)
    if not can_start(findings):
        raise typer.Exit(DataError.exit_code)


def _check_plot(plot: Path, config: "Config") -> None:
    from lmsm_cli.data.layout import check_apart

    check_picture("--plot", plot)
    check_apart("--plot", plot, config.dataset, config.data_dir)


def _draw(check: "DataCheck", data: "Data | None", plot: Path, display: "Display") -> None:
    from lmsm_cli.reports.data_plot import plot_classes

    if data is None:
        display.warning(f"no image can be read: {plot} is not drawn")
        return
    plot_classes(check, data.training, plot)
    display.info(f"plot: {plot}")


def dataset_named(what: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of the config that a name or a path stands for."""
    if what in get_args(Dataset):
        return {"dataset": what}
    at_path = choices_at(what, get_args(Dataset))
    if at_path is None or not Path(what).exists():
        near = did_you_mean(what, get_args(Dataset))
        raise DataError(f"there is no folder or list {what}, and no data set of this name{near}")
    if at_path["dataset"] == "folder" and flags["data_dir"] is not None:
        raise LmsmError(f"--data-dir is for data sets with a name; {what} is a folder itself")
    return at_path


def _plan(resolved: "Resolved") -> dict[str, Any]:
    """Return what a training on the data would have, by choice or default."""
    values = dump(resolved.config)
    keys = _PLAN if resolved.config.dataset in ("folder", "list") else _PLAN[1:]
    return {key: values[key] for key in keys}


def _commands(
    what: str, preset: str | None, config: Path | None, flags: Mapping[str, Any]
) -> "Commands":
    """Return the commands that may come next, with what the check was given."""
    from lmsm_cli.reports.data_next import Commands

    given = {key: one for key, one in flags.items() if one is not None}
    recipe = ["--preset", preset] if preset else []
    recipe += ["--config", str(config)] if config else []
    words = [*recipe, *flag_words(given)]
    is_of_a_study = not recipe and not given.keys() & set(_NOT_OF_A_STUDY)

    def takes(more: Mapping[str, Any]) -> bool:
        try:
            resolve_options(preset, config, None, {**flags, **dataset_named(what, flags), **more})
        except LmsmError:
            return False
        return True

    return Commands(
        ["lmsm", "data", what, *words],
        ["lmsm", "train", "--dataset", what, *words],
        ["lmsm", "study", what, *words] if is_of_a_study else None,
        takes,
    )


def _print(check: "DataCheck", resolved: "Resolved", commands: "Commands") -> None:
    from lmsm_cli.reports.data_findings import conclusion_of, findings_of
    from lmsm_cli.reports.data_next import next_steps
    from lmsm_cli.reports.tables_data import data_tables, findings_table, training_table

    console, findings = stdout_console(), findings_of(check, resolved.config)
    for table in data_tables(check):
        console.print(table)
    console.print(training_table(_plan(resolved), resolved.origins))
    console.print(findings_table(findings))
    print_line("", console)
    print_line(conclusion_of(check, findings), console)
    for step in next_steps(check, findings, commands):
        print_line(visible(str(step)), console)
