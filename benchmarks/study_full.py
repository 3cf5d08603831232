"""Hold a study against a full comparison: `python benchmarks/study_full.py DATA STUDY`

DATA is what the study was made of, and STUDY its folder. Softmax and the losses that the study
trained whole are trained on all training images with ten fresh seeds, and held against each other
on all test images: the two-way interval, after Holm's correction. Runs go to STUDY-full; what is
there is not done again.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from lmsm_cli.commands.progress import new_display
from lmsm_cli.comparison.verdicts import holm
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.reports.study import study_sentence
from lmsm_cli.sweeps.candidates import BASELINE, candidates_for
from lmsm_cli.sweeps.held_out import Question, answered
from lmsm_cli.sweeps.study import Study
from lmsm_cli.sweeps.study_plan import StudyState, read_state
from lmsm_cli.sweeps.study_start import checked_images
from lmsm_cli.sweeps.study_verdict import judged

SEEDS = range(100, 110)


def main() -> int:
    """Print the answer of either; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("study", type=Path)
    given = parser.parse_args()
    state = read_state(given.study)
    if state is None or state.result is None:
        print(f"{given.study} has no finished study", file=sys.stderr)
        return 1
    out = given.study.with_name(given.study.name + "-full")
    base = state.base | {"out": str(out), "data_dir": str(given.data)}
    config = resolve([Layer(base, dict.fromkeys(base, "the study"), is_recipe=True)]).config
    counts, _ = checked_images(config, has_test=True)
    tried = {one.name: one for one in candidates_for(counts, base, state.also)}
    with new_display(quiet=True) as display:
        fresh = StudyState(base, state.also, state.plan)
        full = Study(out, fresh, tried, counts, True, display, None, True)
        arms = (BASELINE, *(state.arms or ()))
        rounds = {
            name: [answered([full.on_all_images(name, seed)]) for seed in SEEDS] for name in arms
        }
    question = Question.of(rounds[BASELINE][0].labels, counts, state.result["question"])
    sides = {name: np.stack([one.right for one in some]) for name, some in rounds.items()}
    found = [judged(name, sides[name], sides[BASELINE], question) for name in arms[1:]]
    print(f"the study, in {state.spent / 60:.0f} minutes: {study_sentence(state.result)}")
    for one, p in zip(found, holm([one.p_value for one in found]), strict=True):
        told = p is not None and p <= 0.05
        low, high = (100 * (bound or 0) for bound in (one.low, one.high))
        verdict = ("better" if one.mean > 0 else "worse") if told else "no clear difference"
        print(
            f"ten seeds: {one.arm} less softmax {100 * one.mean:+.1f} "
            f"[{low:+.1f}, {high:+.1f}] points: {verdict}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
