"""Hold studies against full comparisons.

    python benchmarks/study_full.py train DATA STUDY
    python benchmarks/study_full.py table STUDY-full...

DATA is what the study was made of, and STUDY its folder. Softmax and the losses that the study
trained whole are trained on all training images with ten fresh seeds. Runs go to STUDY-full, where
full.json tells what the study said and which run is which; what is there is not done again.
The table holds the losses against softmax on all test images: the two-way interval, and the verdict
after Holm's correction.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from run_images import ImageList, images_tested_on, predictions_on

from lmsm_cli.commands.progress import new_display
from lmsm_cli.comparison.intervals import ALPHA
from lmsm_cli.comparison.verdicts import holm
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.errors import LmsmError
from lmsm_cli.reports.study import study_sentence
from lmsm_cli.runs.record import read_run
from lmsm_cli.sweeps.candidates import BASELINE, candidates_for
from lmsm_cli.sweeps.held_out import Question
from lmsm_cli.sweeps.study import Study
from lmsm_cli.sweeps.study_plan import StudyState, read_state
from lmsm_cli.sweeps.study_start import checked_images
from lmsm_cli.sweeps.study_verdict import Verdict, judged

FULL = "full.json"
SEEDS = range(100, 110)


def main(arguments: list[str] | None = None) -> int:
    """Train or print the table; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("train")
    one.add_argument("data", type=Path)
    one.add_argument("study", type=Path)
    one.set_defaults(act=lambda asked: train(asked.data, asked.study))
    one = commands.add_parser("table")
    one.add_argument("folders", nargs="+", type=Path)
    one.set_defaults(act=lambda asked: table(asked.folders))
    given = parser.parse_args(arguments)
    try:
        given.act(given)
    except LmsmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def train(data: Path, study: Path) -> None:
    """Train what a full comparison takes, and write which run is which.

    Raises LmsmError where there is no finished study, or a run fails.
    """
    state = read_state(study)
    if state is None or state.result is None:
        raise LmsmError(f"{study} has no finished study")
    out = study.with_name(study.name + "-full")
    base = state.base | {"out": str(out), "data_dir": str(data)}
    base |= {"epochs": state.plan.usual_epochs or base["epochs"]}  # no budget is short here
    config = resolve([Layer(base, dict.fromkeys(base, "the study"), is_recipe=True)]).config
    counts, _ = checked_images(config, has_test=True)
    tried = {one.name: one for one in candidates_for(counts, base, state.also)}
    with new_display(quiet=True) as display:
        fresh = StudyState(base, state.also, state.plan)
        full = Study(out, fresh, tried, counts, counts, True, display, None, True)
        runs = {
            name: [full.on_all_images(name, seed).path.name for seed in SEEDS]
            for name in (BASELINE, *(state.arms or ()))
        }
    told = {"minutes": state.spent / 60, "result": state.result, "counts": list(counts)}
    (out / FULL).write_text(json.dumps(told | {"runs": runs}, indent=1) + "\n")


def table(folders: Sequence[Path]) -> None:
    """Print what studies and full comparisons say, in Markdown.

    Raises LmsmError where a folder lacks what that takes.
    """
    print(
        "| training images | the study | minutes | ten seeds: less softmax, in points | verdict |"
    )
    print("| --- | --- | ---: | --- | --- |")
    for folder in folders:
        try:
            told = json.loads((folder / FULL).read_text())
        except OSError as error:
            raise LmsmError(f"{folder / FULL}: {error.strerror}") from None
        data, sentence = counted_images(told["counts"]), study_sentence(told["result"])
        first = [data, sentence, f"{told['minutes']:.0f}"]
        for verdict, word in compared(folder, told):
            cells = [*first, f"{verdict.arm}: {_difference(verdict)}", word]
            print("| " + " | ".join(cell.replace("_", r"\_") for cell in cells) + " |")
            first = ["", "", ""]


def counted_images(counts: Sequence[int]) -> str:
    """Return how many images the classes have: `300, 150, 60`, or `10 classes, 300 to 30`."""
    if len(counts) > 5:
        return f"{len(counts)} classes, {max(counts)} to {min(counts)}"
    return ", ".join(map(str, sorted(counts, reverse=True)))


def compared(folder: Path, told: Mapping[str, Any]) -> list[tuple[Verdict, str]]:
    """Return each arm's difference to softmax on the test images, and what it says."""
    images = _tested_on(folder / told["runs"][BASELINE][0])
    order = images.by_content()
    question = Question.of(images.labels[order], told["counts"], told["result"]["question"])
    right = {
        name: np.stack([_right(folder / run, images.digest) for run in runs])
        for name, runs in told["runs"].items()
    }
    found = [
        judged(name, own, right[BASELINE], question)
        for name, own in right.items()
        if name != BASELINE
    ]
    ps = holm([one.p_value for one in found])
    return [(one, _word(one.mean, p)) for one, p in zip(found, ps, strict=True)]


def _tested_on(run: Path) -> ImageList:
    images = images_tested_on(read_run(run))
    if images is None:
        raise LmsmError(f"nothing tells which test images {run} is of")
    return images


def _right(run: Path, digest: str) -> NDArray[np.bool_]:
    """Return which test images (N,) a run has right, in the order of their contents."""
    images = _tested_on(run)
    if images.digest != digest:
        raise LmsmError(f"{run} has other test images than the rest")
    found = predictions_on(images, run)
    if found is None:
        raise LmsmError(f"{run} has no predictions")
    right: NDArray[np.bool_] = (found.predicted == found.labels)[images.by_content()]
    return right


def _word(mean: float, p: float | None) -> str:
    if p is None or p > ALPHA:
        return "no clear difference"
    return "better" if mean > 0 else "worse"


def _difference(one: Verdict) -> str:
    if one.low is None or one.high is None:
        return f"{100 * one.mean:+.1f}"
    return f"{100 * one.mean:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]"


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())
