"""`lmsm study`: which loss to take for some images, how sure that is, and the model."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lmsm_cli.commands.console import print_json, print_line, stderr_console
from lmsm_cli.commands.data import dataset_named
from lmsm_cli.commands.options import (
    DataSet,
    Json,
    Quiet,
    Verbose,
    flag_words,
    resolve_options,
    switch,
    value,
    with_flags_of,
)
from lmsm_cli.commands.study_end import ended, print_end
from lmsm_cli.config import DATA_KEYS
from lmsm_cli.errors import DataError, LmsmError, StoppedError, check_choice

if TYPE_CHECKING:
    from lmsm_cli.config import Config
    from lmsm_cli.runtime.display import Display
    from lmsm_cli.sweeps.study import Study
    from lmsm_cli.sweeps.study_plan import Rounds, StudyState
    from lmsm_cli.sweeps.study_start import Wanted

_DECIDED = ("dataset", "image_list", "test_from", "test_share", "folds", "fold", "split_seed")
_FLAGS = (
    *(key for key in DATA_KEYS if key not in _DECIDED),
    *("augment", "model", "neck", "pretrained", "freeze", "epochs", "batch_size", "optimizer"),
    *("lr", "weight_decay", "schedule", "warmup", "device", "precision", "threads", "out"),
)
# Who gives one of these has her own schedule, which is kept.
_TIMED = ("epochs", "schedule", "warmup")

_Budget = Annotated[
    str | None,
    value("TIME", "How long it may take, as in 30m or 2h. (default: 30m, or as before)", "Study"),
]
_Rounds = Annotated[
    str | None,
    value(
        "N",
        "Do so many rounds, however long they take; 4x2 is 4 rounds of 2 folds each, and 4x2+5 has "
        "5 nets a side for the test images.",
        "Study",
    ),
]
_Also = Annotated[
    list[str] | None,
    value(
        "LOSS", "Try this loss or second stage too, repeatable: any of `lmsm losses`.", "Study",
        name="--also",
    ),
]  # fmt: skip
_Keep = Annotated[
    str,
    value("NAME", "Whose weights stay: `winner` and softmax, or `all`.", "Study"),
]
_Export = Annotated[
    bool, switch("--export", "Write the chosen model as an ONNX file too.", "Study")
]
_DryRun = Annotated[
    bool, switch("--dry-run", "Say what the study would do, take and show; do nothing.", "Study")
]


@with_flags_of(_FLAGS, out="Folder of the study. (default: runs/study-DATA)")
def study(
    *,
    what: DataSet,
    budget: _Budget = None,
    rounds: _Rounds = None,
    also: _Also = None,
    keep: _Keep = "winner",
    export: _Export = False,
    dry_run: _DryRun = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Find out which loss to take for your images, how sure that is, and train the model.

    Losses race as last layers on softmax's nets; the best two (of a short budget one) and softmax \
are trained whole, round after round, and judged on training images that are held out. Where there \
are test images, the best one and softmax are then trained on all training images, and the test \
images decide, once. The same command again continues it.
    """
    _check_flags(keep, export=export)
    seconds, wanted_rounds = _how_long(budget, rounds)
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.sweeps.study_start import Wanted

    place = flags.get("out") or f"runs/study-{Path(what).name or 'images'}"
    own = {"loss": "softmax", "seed": "0", "out": place}
    config = resolve_options(None, None, None, flags | dataset_named(what, flags) | own).config
    may_shorten = all(flags.get(key) is None for key in _TIMED)
    with new_display(quiet, verbose) as display:
        _check_data(config, display)
        wanted = Wanted(config, also or (), seconds, wanted_rounds, keep == "all", may_shorten)
        found, measured = _begun(wanted, display)
        lines = _plan_lines(found, measured)
        if dry_run:
            _show_plan(found, lines, json=json)
            return
        for line in lines if measured else ():
            display.info(line)
        result = _result(found, display)
        exported = _exported(result, display) if export else None
    again = _repeating(what, flags, found.state, also or ())
    document = ended(found, config, again) | {"exported": exported}
    if json:
        print_json(document)
    else:
        print_end(found, document, config)


def _check_flags(keep: str, *, export: bool) -> None:
    """Raise LmsmError for what only the end of a study would tell."""
    check_choice("--keep", keep, ("winner", "all"))
    if export:
        from lmsm_cli.inference.export import check_extra

        check_extra("onnx")


def _how_long(budget: str | None, rounds: str | None) -> "tuple[float | None, Rounds | None]":
    """Return the budget in seconds or the rounds. Raises LmsmError where both are given."""
    from lmsm_cli.sweeps.study_plan import Rounds, seconds_of

    if budget is not None and rounds is not None:
        raise LmsmError("--budget and --rounds both say when the study ends: give one of them")
    if rounds is None:
        return (None if budget is None else seconds_of(budget)), None
    return None, Rounds.of(rounds)


def _begun(wanted: "Wanted", display: "Display") -> "tuple[Study, Mapping[str, Any]]":
    """Begin a study, or find it again; say what a budget is too short for, and what would do."""
    from lmsm_cli.reports.study_budget import smallest_lines, ways_out
    from lmsm_cli.sweeps.study_plan import BudgetError
    from lmsm_cli.sweeps.study_start import begin

    try:
        return begin(wanted, display)
    except BudgetError as error:
        known = error.refusal
        parts = known.cost.parts(known.plan)
        lines = smallest_lines(asdict(known.plan), parts, known.cost.heads)
        lines += ways_out(known.share, known.minutes, wanted.config, known.counts)
        for line in lines:
            print_line(line, stderr_console())
        raise


def _result(found: "Study", display: "Display") -> dict[str, Any]:
    """Return the result of a study; say where it stands if a signal stops it."""
    try:
        return found.run()
    except StoppedError as error:
        display.info(found.standing_text())
        raise StoppedError(
            f"{error.fact}; the same command continues the study", error.exit_code - 128
        ) from None


def _check_data(config: "Config", display: "Display") -> None:
    """Raise DataError where no training can start, with all that is wrong with the images."""
    from lmsm_cli.data.check import check_data
    from lmsm_cli.data.splits import look_into
    from lmsm_cli.reports.data_findings import can_start, findings_of
    from lmsm_cli.reports.tables_data import findings_table

    at_hand = look_into(config, display)
    check = check_data(config.dataset, config.data_dir, at_hand, config.image_size, display)
    findings = findings_of(check, config)
    if not can_start(findings):
        stderr_console().print(findings_table(findings))
        raise DataError("no study can be made of these images as they are; mend the above first")


def _plan_lines(found: "Study", measured: Mapping[str, Any]) -> list[str]:
    from lmsm_cli.reports.study_plan import plan_lines

    plan = asdict(found.state.plan)
    counts = found.counts, found.trained_counts
    return plan_lines(plan, *counts, measured, len(found.candidates))


def _show_plan(found: "Study", lines: list[str], *, json: bool) -> None:
    if json:
        names = list(found.candidates)
        print_json({"plan": asdict(found.state.plan), "candidates": names, "text": lines})
        return
    for line in lines:
        print_line(line)
    print_line(f"candidates: {'; '.join(found.candidates)}")


def _repeating(
    what: str, flags: Mapping[str, Any], state: "StudyState", also: Sequence[str]
) -> str:
    """Return the command that repeats a study, without its --out."""
    given = {key: one for key, one in flags.items() if one is not None and key != "out"}
    if state.plan.epochs:
        given["epochs"] = state.plan.epochs
    more = [word for spec in also for word in ("--also", spec)]
    return shlex.join(["lmsm", "study", what, *flag_words(given), "--rounds", state.spelled, *more])


def _exported(result: Mapping[str, Any], display: "Display") -> str:
    from lmsm_cli.inference.export import export_checkpoint

    return str(export_checkpoint(Path(result["model"]["file"]), display)["file"])
