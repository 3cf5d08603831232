"""The end of `lmsm study`: its page, its script and what it prints."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsm_cli.commands.console import print_line, stdout_console
from lmsm_cli.errors import visible

if TYPE_CHECKING:
    from lmsm_cli.config import Config
    from lmsm_cli.reports.study_end import Ending
    from lmsm_cli.sweeps.study import Study

# The smallest share of each class that a test can have: one image.
_LEAST_TEST = 0.0001


def ended(found: "Study", config: "Config", again: str) -> dict[str, Any]:
    """Write the page and the script of a finished study, and return its document.

    `again` is the command that repeats it.
    """
    state = found.state
    assert state.result is not None
    document = state.result | {"race": state.race, "spent_seconds": state.spent}
    ending, page = _write_page(found, config, document)
    script = _write_script(found, again)
    document |= {"page": str(page), "script": str(script)}
    return document | {"answer": ending.answer, "lines": list(ending.lines)}


def _write_page(
    found: "Study", config: "Config", document: Mapping[str, Any]
) -> "tuple[Ending, Path]":
    """Write the page of the trainings that the answer rests on; return its opening and place."""
    from lmsm_cli.comparison.grouping import comparable, compare_runs
    from lmsm_cli.reports.html.page import write_page
    from lmsm_cli.reports.study_end import ending_of, named_by_arm, with_verdicts_of_study

    by_arm = found.records()
    records = comparable([one for some in by_arm.values() for one in some])[0]
    places = {name: [str(one.path) for one in some] for name, some in by_arm.items()}
    comparison = with_verdicts_of_study(named_by_arm(compare_runs(records), places), document)
    more = _more_lines(found, config, document)
    ending = ending_of(document, asdict(found.state.plan), comparison, more)
    page = config.out / "study.html"
    write_page(page, comparison, records, ending)
    return ending, page


def _more_lines(found: "Study", config: "Config", document: Mapping[str, Any]) -> list[str]:
    """Return what the model was trained on, and what helps where nothing was told."""
    from lmsm_cli.data.identity import PARTS  # imports numpy
    from lmsm_cli.reports.study_hints import hints_of, model_line
    from lmsm_cli.runs.record import read_run

    images = read_run(Path(document["model"]["run"])).images
    if images is None:
        return []
    parts = {str(part): len(images.of(part).labels) for part in PARTS}
    counts = dict(zip(images.classes, found.counts, strict=True))
    lines = [model_line(parts, has_test=found.has_test)]
    lines += hints_of(document, config, counts, parts)
    told = document["verdict"]["is_told"] or document.get("short_of_time")
    return lines + ["a larger --budget continues the study"] * (not told and found.state.may_go_on)


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


def print_end(found: "Study", document: Mapping[str, Any], config: "Config") -> None:
    """Print the tables of a study, where everything is, and last its answer."""
    from lmsm_cli.reports.study import race_table, study_table

    console, model = stdout_console(), document["model"]
    if found.state.race:
        console.print(race_table(found.state.race, found.state.arms or ()))
    console.print(study_table(document))
    for line in document["lines"]:
        console.print(visible(line), markup=False)
    print_line(f"page: {document['page']}")
    print_line(f"model: {model['file']}")
    if document["exported"]:
        print_line(f"exported: {document['exported']}")
    print_line(f"its scores: {_eval_command(model)}")
    which = "all training images" if found.has_test else "all images but one of each class"
    print_line(f"to train it on {which}: {_whole_command(found, model)}")
    print_line(f"all rounds: lmsm compare {shlex.quote(str(config.out))}")
    print_line(f"to repeat each step: sh {shlex.quote(document['script'])} FOLDER")
    print_line("")
    console.print(visible(document["answer"]), markup=False)


def _whole_command(found: "Study", model: Mapping[str, Any]) -> str:
    """Return what trains the model on all images that a training may have."""
    from lmsm_cli.runs.own_code import train_again

    candidate, run = found.candidates.get(model["name"]), Path(model["run"])
    then = ""
    if candidate is not None and candidate.whole is None:
        run = Path(_made(run).pretrained or "")
        run = run if run.is_dir() else run.parent
        imports = "".join(f" {shlex.quote(word)}" for word in _imports(_made(run)))
        then = f", then lmsm retrain RUN --head {shlex.quote(candidate.head)}{imports}"
    least = [] if found.has_test else ["--test-share", str(_LEAST_TEST)]
    return f"{train_again(run)} {shlex.join(['--validation', '0', *least, '--out', 'runs'])}{then}"


def _eval_command(model: Mapping[str, Any]) -> str:
    """Return the command that evaluates the chosen model, with the own code that it needs."""
    return shlex.join(["lmsm", "eval", model["file"], *_imports(_made(Path(model["run"])))])


def _imports(config: "Config") -> list[str]:
    """Return the words that name the own code of a run."""
    from lmsm_cli.runs.own_code import places_of

    return [word for place, _ in places_of(config).values() for word in ("--import", place)]


def _made(run: Path) -> "Config":
    """Return the config of a run of the study."""
    from lmsm_cli.config.resolve import Layer, resolve
    from lmsm_cli.runs.record import read_run

    values = read_run(run).config or {}
    layer = Layer(values, dict.fromkeys(values, "lmsm study"), is_recipe=True)
    return resolve([layer], is_saved=True).config
