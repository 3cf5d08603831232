"""How often a study of no effect names a winner all the same, and how often it finds a real one.

    python benchmarks/study_errors.py --studies 1000

Each simulated study is the real one (`lmsm_cli/sweeps/study.py`) whose nets are drawn: whether a
net has an image right follows a logistic model with an effect of the image, one of the seed, and,
for each arm, one of the image that belongs to that arm alone, which the race sees too. So an arm
can look better on the images at hand and be no better on others. Beside it stands a fixed plan of
the same cost: one arm, chosen beforehand, with as many trainings as the study has, on the test
images.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.runtime.display import SILENT
from lmsm_cli.sweeps.candidates import BASELINE, Candidate
from lmsm_cli.sweeps.held_out import Answered, Question
from lmsm_cli.sweeps.study import Study
from lmsm_cli.sweeps.study_plan import StudyPlan, StudyState, looks_at
from lmsm_cli.sweeps.study_verdict import Verdict, judged

# Standard deviations of the effects, in logits.
_IMAGE, _SEED, _ARM_IMAGE = 1.5, 0.2, 0.7
_ARMS = 10
# Training images of each class, of which the last three are rare.
COUNTS = (150, 120, 90, 70, 50, 40, 30, 20, 15, 10)


class SimulatedStudy(Study):
    """A study whose nets are drawn; `effect` is how much better its first arm really is."""

    draws: np.random.Generator
    effect: float
    test_images: int

    def begin(self, draws: np.random.Generator, effect: float, test_images: int) -> None:
        """Draw the images: those held out, and the test images."""
        self.draws, self.effect, self.test_images = draws, effect, test_images
        self.labels = np.repeat(np.arange(len(self.counts)), self.counts)
        self.digests = np.arange(len(self.labels) * 16).reshape(-1, 16).astype(np.uint8)
        self.held_out = self._effects(len(self.labels))
        self.test_labels = np.repeat(np.arange(len(self.counts)), test_images)
        self.tested = self._effects(len(self.test_labels))
        self.seeds: dict[tuple[str, int], float] = {}

    def _effects(self, number: int) -> dict[str, NDArray[np.float64]]:
        shared = self.draws.normal(0.3, _IMAGE, number)
        return {
            name: shared + (self.draws.normal(0, _ARM_IMAGE, number) if name != BASELINE else 0)
            for name in (BASELINE, *self.candidates)
        }

    def _net(self, name: str, seed: int, effects: NDArray[np.float64]) -> NDArray[np.bool_]:
        own = self.seeds.setdefault((name, seed), self.draws.normal(0, _SEED))
        gain = self.effect if name == "arm 0" else 0.0
        chances = 1 / (1 + np.exp(-(effects + own + gain)))
        return self.draws.random(len(effects)) < chances

    def _answers_of(self, name: str, number: int) -> Answered:
        right = self._net(name, number, self.held_out[name])
        return Answered(self.labels, right, self.digests)

    def _raced(self, one: Candidate) -> Answered:
        return self._answers_of(one.name, -1)

    def _asked_of_test(self, arm: str) -> Verdict:
        seeds = range(self.state.plan.pairs)
        own, theirs = (
            np.stack([self._net(name, seed, self.tested[name]) for seed in seeds])
            for name in (arm, BASELINE)
        )
        question = Question.of(self.test_labels, self.counts, self.question.key)
        return judged(arm, own, theirs, question)

    def _final_model(self, name: str) -> dict[str, Any]:
        return {"name": name, "run": "", "file": ""}

    def _note_time(self) -> None:
        """Keep nothing on disk."""


def simulated(
    draws: np.random.Generator, *, effect: float, rounds: int, test_images: int
) -> SimulatedStudy:
    """Return a simulated study to run; with `test_images` 0 the held-out images decide."""
    names = [f"arm {number}" for number in range(_ARMS)]
    candidates = {name: Candidate(name, name, whole={"loss": name}) for name in names}
    looks, pairs = ((), rounds) if test_images else (looks_at(rounds), 0)
    plan = StudyPlan(5, rounds, looks, 2, None, None, pairs)
    study = SimulatedStudy(
        Path("nowhere"),
        StudyState({}, [], plan),
        candidates,
        COUNTS,
        COUNTS,
        test_images > 0,
        SILENT,
        None,
        keeps_all=True,
    )
    study.begin(draws, effect, test_images)
    return study


def share_told(number: int, **choices: Any) -> tuple[float, float]:
    """Return the shares of studies that name a winner, and that name the first arm."""
    draws = np.random.default_rng(0)
    verdicts = [simulated(draws, **choices).run()["verdict"] for _ in range(number)]
    told = [one["arm"] for one in verdicts if one["is_told"]]
    return len(told) / number, told.count("arm 0") / number


def fixed_plan(number: int, *, effect: float, rounds: int, test_images: int) -> float:
    """Return how often the first arm alone is told, with as many nets as the study trains."""
    draws = np.random.default_rng(1)
    seeds = _fixed_seeds(rounds)
    found = 0
    for _ in range(number):
        counts: Sequence[int] = COUNTS
        labels = np.repeat(np.arange(len(counts)), test_images)
        shared = draws.normal(0.3, _IMAGE, len(labels))
        own = shared + draws.normal(0, _ARM_IMAGE, len(labels))
        sides = [
            np.stack(
                [
                    draws.random(len(labels))
                    < 1 / (1 + np.exp(-(effects + draws.normal(0, _SEED) + gain)))
                    for _ in range(seeds)
                ]
            )
            for effects, gain in ((own, effect), (shared, 0.0))
        ]
        question = Question.of(labels, counts, "few")
        found += judged("arm 0", sides[0], sides[1], question).is_told
    return found / number


def _fixed_seeds(rounds: int) -> int:
    """Return the nets a side of a fixed plan: a study has three a round, and as many pairs."""
    return rounds * (3 + 2) // 2


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=1000)
    number = parser.parse_args().studies
    print(f"{number} simulated studies a row; three rare classes of {COUNTS[-3:]} images\n")
    print("| effect in logits | rounds | test images a class | names a winner | the right one |")
    print("|---|---|---|---|---|")
    for effect in (0.0, 0.7, 1.4):
        for rounds in (3, 6):
            for test_images in (0, 100):
                choices = {"effect": effect, "rounds": rounds, "test_images": test_images}
                any_arm, right = share_told(number, **choices)
                cells = (effect, rounds, test_images or "none: held-out images decide")
                print(f"| {' | '.join(map(str, cells))} | {any_arm:.1%} | {right:.1%} |")
    print("\nA fixed plan of one arm with as many trainings, 100 test images a class:")
    for effect in (0.0, 0.7, 1.4):
        for rounds in (3, 6):
            told = fixed_plan(number, effect=effect, rounds=rounds, test_images=100)
            print(f"effect {effect}, {_fixed_seeds(rounds)} seeds: told in {told:.1%}")


if __name__ == "__main__":
    main()
