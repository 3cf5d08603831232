"""`lmsm study`: which loss to take for some images, how sure that is, and the model."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lmsm_cli.commands.console import print_json, print_line, stderr_console, stdout_console
from lmsm_cli.commands.data import dataset_named
from lmsm_cli.commands.options import (
    DataSet,
    Json,
    Quiet,
    Verbose,
    flag_words,
    resolve_options,
    switch,
    train_command,
    value,
    with_flags_of,
)
from lmsm_cli.config import DATA_KEYS
from lmsm_cli.errors import DataError, LmsmError, StoppedError, check_choice

if TYPE_CHECKING:
    from lmsm_cli.config import Config
    from lmsm_cli.runtime.display import Display
    from lmsm_cli.sweeps.study import Study
    from lmsm_cli.sweeps.study_plan import Rounds, StudyState

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

    Losses race as last layers on softmax's nets; the best two and softmax are trained whole, \
round after round, and judged on training images that are held out. Where there are test images, \
the best one and softmax are then trained on all training images, and the test images decide, \
once. The same command again continues it.
    """
    _check_flags(keep, export=export)
    seconds, wanted_rounds = _how_long(budget, rounds)
    from lmsm_cli.commands.progress import new_display
    from lmsm_cli.sweeps.study_start import Wanted, begin

    place = flags.get("out") or f"runs/study-{Path(what).name or 'images'}"
    own = {"loss": "softmax", "seed": "0", "out": place}
    config = resolve_options(None, None, None, flags | dataset_named(what, flags) | own).config
    may_shorten = all(flags.get(key) is None for key in _TIMED)
    with new_display(quiet, verbose) as display:
        _check_data(config, display)
        wanted = Wanted(config, also or (), seconds, wanted_rounds, keep == "all", may_shorten)
        found, measured = begin(wanted, display)
        lines = _plan_lines(found, measured)
        if dry_run:
            _show_plan(found, lines, json=json)
            return
        for line in lines if measured else ():
            display.info(line)
        result = _result(found, display)
        exported = _exported(result, display) if export else None
    from lmsm_cli.reports.study import study_sentence

    script = _write_script(found, _repeating(what, flags, found.state, also or ()))
    document = result | {
        "race": found.state.race,
        "page": str(_write_page(found, config)),
        "exported": exported,
        "script": str(script),
        "spent_seconds": found.state.spent,
        "answer": study_sentence(result),
    }
    if json:
        print_json(document)
    else:
        _print(found, document, config)


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
    from lmsm_cli.reports.study import plan_lines

    plan = asdict(found.state.plan)
    return plan_lines(plan, found.counts, measured, len(found.candidates))


def _show_plan(found: "Study", lines: list[str], *, json: bool) -> None:
    if json:
        names = list(found.candidates)
        print_json({"plan": asdict(found.state.plan), "candidates": names, "text": lines})
        return
    for line in lines:
        print_line(line)
    print_line(f"candidates: {'; '.join(found.candidates)}")


def _write_page(found: "Study", config: "Config") -> Path:
    """Write the page of the trainings that the answer rests on, and return its place."""
    from lmsm_cli.comparison.grouping import comparable, compare_runs
    from lmsm_cli.reports.html.page import write_page

    records = comparable(found.records())[0]
    page = config.out / "study.html"
    write_page(page, compare_runs(records), records)
    return page


def _repeating(
    what: str, flags: Mapping[str, Any], state: "StudyState", also: Sequence[str]
) -> str:
    """Return the command that repeats a study, without its --out."""
    given = {key: one for key, one in flags.items() if one is not None and key != "out"}
    if state.plan.epochs:
        given["epochs"] = state.plan.epochs
    more = [word for spec in also for word in ("--also", spec)]
    return shlex.join(["lmsm", "study", what, *flag_words(given), "--rounds", state.spelled, *more])


def _write_script(found: "Study", again: str) -> Path:
    """Write the commands that repeat each step, and return their place."""
    from lmsm_cli.reports.study_script import SCRIPT, study_script
    from lmsm_cli.runs.folder import write_whole
    from lmsm_cli.runs.record import read_run

    assert found.state.result is not None
    runs = [read_run(path) for path in found.folders()]
    scored = _eval_command(found.state.result["model"])
    text = study_script(again, scored, [one for one in runs if one.scores])
    script = found.out / SCRIPT
    write_whole(script, text)
    return script


def _exported(result: Mapping[str, Any], display: "Display") -> str:
    from lmsm_cli.inference.export import export_checkpoint

    return str(export_checkpoint(Path(result["model"]["file"]), display)["file"])


def _print(found: "Study", document: Mapping[str, Any], config: "Config") -> None:
    from lmsm_cli.reports.study import line_of_epochs, race_table, study_table
    from lmsm_cli.reports.tables_checks import duration
    from lmsm_cli.runs.record import read_run

    console, model = stdout_console(), document["model"]
    if found.state.race:
        console.print(race_table(found.state.race, found.state.arms or ()))
    console.print(study_table(document))
    print_line(f"time spent: {duration(document['spent_seconds'])}")
    if line := line_of_epochs(asdict(found.state.plan)):
        print_line(line)
    print_line(f"page: {document['page']}")
    print_line(f"model, trained anew on the training images: {model['file']}")
    if document["exported"]:
        print_line(f"exported: {document['exported']}")
    print_line(f"its scores: {_eval_command(model)}")
    made = _config_of(read_run(Path(model["run"])).config)
    if made.pretrained is None or made.freeze != "features":
        print_line(f"to train it again: {train_command(made)}")
    print_line(f"all rounds: lmsm compare {shlex.quote(str(config.out))}")
    print_line(f"to repeat each step: sh {shlex.quote(document['script'])} FOLDER")
    if not document["verdict"]["is_told"] and found.state.may_go_on:
        print_line("a larger --budget continues it")
    print_line("")
    print_line(document["answer"])


def _eval_command(model: Mapping[str, Any]) -> str:
    """Return the command that evaluates the chosen model, with the own code that it needs."""
    from lmsm_cli.runs.own_code import places_of
    from lmsm_cli.runs.record import read_run

    config = _config_of(read_run(Path(model["run"])).config)
    places = [place for place, _ in places_of(config).values()]
    more = [word for place in places for word in ("--import", place)]
    return shlex.join(["lmsm", "eval", model["file"], *more])


def _config_of(values: Mapping[str, Any] | None) -> "Config":
    from lmsm_cli.config.resolve import Layer, resolve

    layer = Layer(values or {}, dict.fromkeys(values or {}, "lmsm study"), is_recipe=True)
    return resolve([layer], is_saved=True).config
