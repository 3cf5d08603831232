"""Where the arms of a study stand on held-out images, and what a look at that tells."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmsm_cli.comparison.intervals import in_points
from lmsm_cli.comparison.sequential import ALPHA, Standing, chance_to_tell, told_at
from lmsm_cli.comparison.two_way import Over
from lmsm_cli.sweeps.candidates import BASELINE
from lmsm_cli.sweeps.held_out import Answered, Question
from lmsm_cli.sweeps.study_plan import StudyPlan

# An arm that has less chance to be told by the last look is not worth the time.
_HOPELESS = 0.1


@dataclass
class Standings:
    """What the nets of each round answered, and how far that puts each arm from softmax."""

    counts: Sequence[int]
    """The training images of each class."""
    over: Over
    """What is chance on held-out images."""
    rounds: dict[str, list[Answered]] = field(default_factory=dict)
    """By arm, softmax among them."""
    _question: Question | None = None

    @property
    def question(self) -> Question:
        """What is asked, of the held-out images; there is one as soon as there is an answer."""
        assert self._question is not None
        return self._question

    def add(self, name: str, answers: Answered) -> None:
        """Take an arm's answers of its next round."""
        self.rounds.setdefault(name, []).append(answers)
        if self._question is None:
            self._question = Question.of(answers.labels, self.counts)

    def done(self, name: str) -> int:
        """Return how many rounds of an arm are done."""
        return len(self.rounds.get(name, ()))

    def of(self, arms: Sequence[str]) -> dict[str, Standing]:
        """Return the standings of those of some arms that have answers."""
        found = {}
        for name in arms:
            if own := self.rounds.get(name, []):
                baseline = self.rounds[BASELINE][: len(own)]
                found[name] = self.question.standing(own, baseline, over=self.over)
        return found

    def text(self, arms: Sequence[str], num_rounds: int) -> str:
        """Return where some arms stand, in a line."""
        found = self.of(arms)
        if not found:
            return "no round is done yet"
        texts = [f"{name} {_points(one)}" for name, one in found.items()]
        return f"after round {self.done(BASELINE)} of {num_rounds}: {', '.join(texts)}"

    def leader_text(self, arms: Sequence[str]) -> str:
        """Return who leads by how much; nothing before the first round is done."""
        found = self.of(arms)
        if not found:
            return ""
        name = leader_of(found)
        return f"{name} {_points(found[name])}"

    def table(self, arms: Sequence[str]) -> list[dict[str, Any]]:
        """Return a row for softmax and each arm: its mean score over rounds, and its distance."""
        rows, standings = [], self.of(arms)
        for name in (BASELINE, *arms):
            rounds = self.rounds.get(name, [])
            if not rounds:
                continue
            scores = [self.question.score(one) for one in rounds]
            row: dict[str, Any] = {"name": name, "rounds": len(rounds)}
            row["score"] = sum(scores) / len(scores)
            if name != BASELINE:
                one = standings[name]
                row |= {"difference": one.mean, "half_width": one.half_width(ALPHA)}
            rows.append(row)
        return rows


@dataclass(frozen=True)
class Look:
    """What a look has told."""

    settled: dict[str, str]
    """The arms that are told by now: `better` or `worse`."""
    goes_on: bool
    """Whether further rounds may change the answer."""
    is_hopeless: bool = False
    """Whether they may not because no arm can still be told."""


def look_at(
    standings: Mapping[str, Standing],
    settled: Mapping[str, str],
    plan: StudyPlan,
    done: int,
    family: int,
) -> Look:
    """Return what a planned look tells.

    Args:
        standings: Of the arms that are still open.
        settled: What earlier looks told.
        plan: Has the rounds of all looks.
        done: The rounds of this one.
        family: How many arms the level of the study is for, the settled ones included.
    """
    look = plan.looks.index(done)
    settled = dict(settled) | told_at(standings, settled, plan.looks, look, family)
    better = [one.mean for one in told_better(standings, settled).values()]
    # one that is told is not the answer while another is further ahead, and may yet be told
    ahead = [
        one
        for name, one in standings.items()
        if name not in settled and one.mean > max(better, default=-math.inf)
    ]
    if better and not ahead:
        return Look(settled, goes_on=False)
    left = max(1, family - len(settled))
    hopes = [chance_to_tell(one, plan.looks, look, left) for one in ahead]
    is_hopeless = done < plan.rounds and bool(hopes) and max(hopes) < _HOPELESS
    return Look(settled, not is_hopeless, is_hopeless)


def told_better(
    standings: Mapping[str, Standing], settled: Mapping[str, str]
) -> dict[str, Standing]:
    """Return those of some arms that a look has told to be better than softmax."""
    return {name: one for name, one in standings.items() if settled.get(name) == "better"}


def leader_of(standings: Mapping[str, Standing]) -> str:
    """Return the arm that is furthest ahead."""
    return max(standings, key=lambda name: standings[name].mean)


def _points(one: Standing) -> str:
    half = one.half_width()
    around = "" if half is None else f" ± {100 * half:.1f}"
    return f"{in_points(one.mean)}{around} points"
