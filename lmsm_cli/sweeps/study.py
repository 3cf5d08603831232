"""A study: which loss to take for some images, from the race of candidates to the chosen model.

Candidates race as last layers on softmax's nets; the best are trained whole beside softmax, round
after round, and judged on images held out of the training. Where the data has test images, the
rounds only choose one arm: it and softmax are trained on all training images, pair after pair, and
the test images decide, once. Else the held-out images do, with a level for all that raced. All
trainings are ordinary runs, found again in their folders, so a study continues after anything.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from lmsm_cli.comparison.intervals import FEWEST_SEEDS
from lmsm_cli.comparison.two_way import Over
from lmsm_cli.errors import RunError, StoppedError, listed
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.record import RunRecord, config_hash_of, read_run
from lmsm_cli.runs.weights import drop_weights
from lmsm_cli.runtime.display import Display
from lmsm_cli.sweeps.candidates import BASELINE, Candidate
from lmsm_cli.sweeps.held_out import Answered, Question, answered
from lmsm_cli.sweeps.plan import PlannedRun, RunIndex
from lmsm_cli.sweeps.study_display import StudyDisplay, StudyIndex
from lmsm_cli.sweeps.study_plan import MOST_PAIRS, NO_TIME, OUT_OF_TIME, StudyState
from lmsm_cli.sweeps.study_race import is_over, short_of_time
from lmsm_cli.sweeps.study_runs import ORIGIN, Trainings
from lmsm_cli.sweeps.study_standings import Standings, leader_of, look_at, told_better
from lmsm_cli.sweeps.study_verdict import (
    Pairs,
    Verdict,
    verdict_on_held_out,
    verdict_on_test,
)
from lmsm_cli.sweeps.sweep import run_plan, unreadable

# Reading, testing and writing beside a training's own seconds.
_OVERHEAD = 1.15


@dataclass
class Study:
    """A study under way; `run` goes on to its end."""

    out: Path
    state: StudyState
    candidates: Mapping[str, Candidate]
    """By name."""
    counts: Sequence[int]
    """The images of each class that trainings and held-out images share."""
    trained_counts: Sequence[int]
    """The training images of each class in its runs, which say which are rare."""
    has_test: bool
    """Whether the data has test images of its own."""
    display: Display
    budget: float | None
    """In seconds; None where the rounds were given."""
    keeps_all: bool = False
    is_new: bool = False
    """Whether it was planned here and now, and nothing of it is written yet."""
    _runs: dict[str, list[list[RunRecord]]] = field(default_factory=dict)
    """By arm, of each round, the run folders of its folds."""
    _pairs: Pairs | None = None
    """The nets that the test images were asked of."""
    _settled: dict[str, str] = field(default_factory=dict)
    _dropped: dict[str, str] = field(default_factory=dict)
    """The arms that could not be trained, and why."""
    _begun: float = field(default_factory=time.monotonic)
    _spent_before: float = 0.0

    @cached_property
    def _standings(self) -> Standings:
        # where no test images decide, the images are chance too
        return Standings(self.trained_counts, Over.SEEDS if self.has_test else Over.BOTH)

    @cached_property
    def _index(self) -> StudyIndex:
        return StudyIndex(self.out, StudyDisplay(self.display, self._note_time))

    def run(self) -> dict[str, Any]:
        """Do what is missing, and return the result. Raises StoppedError after a signal."""
        if self.is_new:
            self.state = self.state.begun(self.out)
        if self.state.result is None:
            self.state.budget = self.budget or self.state.budget
            self._spent_before = self.state.spent
            try:
                found = self._to_the_end()
            except StoppedError:
                self._note_time()
                raise
            if self.state.result is None:  # else another process was first
                self.state.result = found
                self._drop_weights()
                self._note_time()
        return self.state.result

    def standing_text(self) -> str:
        """Return where the arms stand, in a line."""
        return self._standings.text(self._arms, self.state.plan.rounds)

    def records(self) -> dict[str, list[RunRecord]]:
        """Return the runs that the answer rests on, by arm: the pairs, else those of the rounds."""
        found, result = partial(_found, index=RunIndex(self.out)), self.state.result or {}
        if pairs := result.get("pairs"):
            return {
                name: [
                    one
                    for seed in range(pairs)
                    for one in self._trainings.on_all_images(name, seed, found, found)
                ]
                for name in (BASELINE, result["verdict"]["arm"])
            }
        rounds = range(self.state.plan.rounds)
        return {
            name: [one for number in rounds for one in self._found_of(name, number, found)]
            for name in (BASELINE, *self._arms)
        }

    def _found_of(
        self, name: str, number: int, found: Callable[[Sequence[PlannedRun]], list[RunRecord]]
    ) -> list[RunRecord]:
        """Return an arm's runs of a round that are there, also those on softmax's nets."""
        if plan := self._plan_of(name, number):
            return found(plan)
        nets = found(self._plan_of(BASELINE, number))
        return found(self._trainings.heads_on(nets, self.candidates[name])) if nets else []

    def folders(self) -> list[Path]:
        """Return the folders of the study's runs; others may lie beside them."""
        own = set(self.state.planned)
        known = {path: config_hash_of(path) for path in sorted(self.out.iterdir())}
        # a study that ended before this was noted has all
        return [path for path, one in known.items() if one in own or (one and not own)]

    @property
    def _trainings(self) -> Trainings:
        return Trainings(self.state.base, self.candidates, self.has_test)

    def _plan_of(self, name: str, number: int) -> list[PlannedRun]:
        """Return an arm's whole trainings of a round; nothing where it has none of its own."""
        return self._trainings.of_round(name, number, self.state.plan.folds)

    def _to_the_end(self) -> dict[str, Any]:
        self._round_of(BASELINE, 0)
        self._race()
        done, ended = self._all_rounds()
        verdict = self._verdict()
        model = self._final_model(verdict.arm if verdict.is_told else BASELINE)
        self._note_time()
        if self.state.result is not None:
            return self.state.result  # another process was first
        found = {
            "rounds": done,
            "pairs": len(self._pairs.own) if self._pairs else 0,
            "ended": ended,
            "question": self.question.key,
            "settled": self._settled,
            "dropped": self._dropped,
            "held_out": self._standings.table(self._arms),
            "verdict": verdict.to_json(),
            "model": model,
        }
        return found | {"short_of_time": short_of_time(self.state, found, len(self.candidates))}

    def _all_rounds(self) -> tuple[int, str]:
        """Do the rounds of the plan; return how many are done, and what ended them."""
        for number in range(self.state.plan.rounds):
            if number and not self._has_time(number):
                return number, OUT_OF_TIME
            for name in (BASELINE, *self._open()):
                self._round_of(name, number)
            if self.state.result is not None:
                return number + 1, "another process"
            self.display.info(self.standing_text())
            if not self._look(number + 1) or not self._open():
                return number + 1, "a look"
        return self.state.plan.rounds, "the plan"

    @property
    def question(self) -> Question:
        """What is asked, of the held-out images."""
        return self._standings.question

    @property
    def _arms(self) -> Sequence[str]:
        """Those that are trained whole, but for softmax; none before the race is done."""
        return self.state.arms or ()

    def _open(self) -> list[str]:
        """Return the arms that are still trained: all but those that are worse, or failed."""
        return [
            name
            for name in self._arms
            if self._settled.get(name) != "worse" and name not in self._dropped
        ]

    def _round_of(self, name: str, number: int) -> None:
        """Complete an arm's trainings of a round, and read its answers."""
        if self._standings.done(name) > number:
            return
        try:
            found = self._answers_of(name, number)
        except RunError as error:
            if name == BASELINE or type(error) is not RunError:
                raise
            self._leave_out(name, str(error))
            return
        self._standings.add(name, found)

    def _leave_out(self, name: str, reason: str) -> None:
        self._dropped[name] = reason
        self.display.warning(f"{name} is left out: {reason}")

    def _answers_of(self, name: str, number: int) -> Answered:
        """Train an arm's nets of a round, and return their answers. Raises RunError."""
        plan = self._plan_of(name, number)
        if not plan:
            plan = self._trainings.heads_on(self._runs[BASELINE][number], self.candidates[name])
        records = self._trained(plan)
        self._runs.setdefault(name, []).append(records)
        return answered(records)

    def _trained(self, plan: Sequence[PlannedRun], *, counts: bool = True) -> list[RunRecord]:
        """Complete trainings, and return their records. Raises RunError where one fails.

        `counts` says whether the bar of all rounds moves.
        """
        done = sum(len(some) for runs in self._runs.values() for some in runs)
        if self._pairs:
            done = self.state.plan.rounds * self.state.plan.trainings
            done += len(self._pairs.own) + len(self._pairs.baseline)
        whole = max(self.state.plan.all_trainings, done + len(plan))
        index = self._index
        self.state.planned = sorted({*self.state.planned, *(run.config_hash for run in plan)})
        index.display.bar = (done, whole) if counts else None
        index.display.standing = self._standings.leader_text(self._arms)
        failures = run_plan(plan, index, with_plots=False)
        found = index.status(plan)
        failures += unreadable(found, failures)
        if failures:
            raise RunError(failures[0].reason)
        return [read_run(one.record.path) for one in found if one.record]

    def _race(self) -> None:
        """Choose the arms by the race of last layers, unless that is done."""
        state = self.state
        if state.arms is not None:
            self._dropped |= state.dropped
            return
        state.race_begun = state.race_begun or self._spent()
        scores, late = dict[str, float](), list[str]()
        for place, one in enumerate(self.candidates.values()):
            self.display.progress("racing last layers", place, len(self.candidates))
            if self._race_is_over(len(scores)) and not self._has_raced(one):
                late.append(one.name)
                continue
            begun = time.monotonic()
            try:
                scores[one.name] = self.question.score(self._raced(one))
            except RunError as error:
                if type(error) is not RunError:
                    raise
                self._leave_out(one.name, str(error))
            state.race_seconds += time.monotonic() - begun
        self.display.progress("racing last layers", len(self.candidates), len(self.candidates))
        self._dropped |= dict.fromkeys(late, NO_TIME)
        order = sorted(scores, key=lambda name: (-scores[name], name))
        scores[BASELINE] = self.question.score(self._standings.rounds[BASELINE][0])
        state.race, state.arms, state.dropped = scores, order[: state.plan.arms], {**self._dropped}
        self._note_time()
        if late:
            number = f"{len(late)} of {len(self.candidates)} losses"
            self.display.info(f"the race had no time for {number}: {listed(late, 3)}")
        self.display.info(f"the race is won by {listed(self._arms, len(self._arms))}")

    def _race_is_over(self, done: int) -> bool:
        """Return whether the race has had its share of the budget."""
        if self.budget is None or done < self.state.plan.arms:
            return False
        return is_over(self.state, self.budget)

    def _has_raced(self, one: Candidate) -> bool:
        """Return whether a candidate's last layers are there already, as after a kill."""
        found = self._index.status(self._trainings.heads_on(self._runs[BASELINE][0], one))
        return all(run.state == "completed" for run in found)

    def _raced(self, one: Candidate) -> Answered:
        """Return the answers of a candidate as last layers on softmax's nets. Raises RunError."""
        plan = self._trainings.heads_on(self._runs[BASELINE][0], one)
        return answered(self._trained(plan, counts=False))

    @property
    def family(self) -> int:
        """How many arms share the level of the looks: all that could have been ahead."""
        return len(self.candidates)

    def _look(self, done: int) -> bool:
        """Look at a round, if that is planned; return whether the study goes on."""
        plan = self.state.plan
        if done not in plan.looks:
            return True
        look = look_at(self._standings.of(self._open()), self._settled, plan, done, self.family)
        self._settled = look.settled
        if look.is_hopeless:
            self.display.info("no loss can still show a clear difference: the rounds end")
        return look.goes_on

    def _has_time(self, number: int) -> bool:
        """Return whether what a round lacks and what follows the rounds fit into the budget.

        A round that is done already is never lost for want of time.
        """
        if self.budget is None or not (missing := self._missing_of(number)):
            return True
        # as the arms were that are still open; a second stage takes no training of its own
        last = [runs[-1] for name in (BASELINE, *self._open()) if (runs := self._runs.get(name))]
        seconds = [_seconds(record) for some in last for record in some]
        whole = max(seconds, default=0.0) / self.state.plan.share
        after = max(2 * FEWEST_SEEDS * self.has_test, 1) * whole
        return self._spent() + missing * _OVERHEAD * sum(seconds) + after <= self.budget

    def _missing_of(self, number: int) -> float:
        """Return the share of a round's whole trainings that are not there yet."""
        wanted = [run for name in (BASELINE, *self._open()) for run in self._plan_of(name, number)]
        found = self._index.status(wanted)
        return sum(one.state != "completed" for one in found) / len(found)

    def _spent_here(self) -> float:
        return time.monotonic() - self._begun

    def _spent(self) -> float:
        return self._spent_before + self._spent_here()

    def _note_time(self) -> None:
        self.state.spent = self._spent()
        self.state.note(self.out)

    def _verdict(self) -> Verdict:
        """Return what decides: the test images on one arm, or the held-out images on all."""
        every = self._standings.of(self._arms)
        if not every:
            reason = "; ".join(f"{name}: {why}" for name, why in self._dropped.items())
            raise RunError(f"none of the candidates could be trained: {reason}")
        # an arm that failed in some rounds is judged by those where it went well
        standings = {name: one for name, one in every.items() if name not in self._dropped}
        if not standings:
            failed = leader_of(every)
            return Verdict.unasked(failed, every[failed], "it failed in a later round")
        leader = leader_of(told_better(standings, self._settled) or standings)
        if not self.has_test:
            return verdict_on_held_out(leader, standings[leader], self._settled)
        if standings[leader].mean <= 0:
            return Verdict.unasked(leader, standings[leader], "no arm is ahead")
        try:
            return self._asked_of_test(leader)
        except RunError as error:
            if type(error) is not RunError:
                raise
            self._leave_out(leader, str(error))
            return Verdict.unasked(leader, standings[leader], "it failed on all training images")

    def _asked_of_test(self, arm: str) -> Verdict:
        """Return what the test images say of an arm."""
        pairs = self._train_pairs(arm)
        return verdict_on_test(pairs, self.question.key, self.trained_counts, self.display)

    def _train_pairs(self, arm: str) -> Pairs:
        """Train the arm and softmax on all training images: as planned, or while there is time.

        How many there are never follows from what they answered.
        """
        self._pairs = pairs = Pairs(arm, [], [])
        self.display.info(f"{arm} is ahead: it and softmax are trained on all training images")
        begun = time.monotonic()
        for seed in range(MOST_PAIRS if self.budget else self.state.plan.pairs):
            if seed:
                last = _OVERHEAD * sum(_seconds(one[-1]) for one in (pairs.own, pairs.baseline))
                usual = max(last, (time.monotonic() - begun) / seed)
                if not self._has_time_for_pair(arm, seed, usual):
                    break
            pairs.baseline.append(self.on_all_images(BASELINE, seed))
            pairs.own.append(self.on_all_images(arm, seed))
        return pairs

    def _has_time_for_pair(self, arm: str, seed: int, usual_seconds: float) -> bool:
        """Return whether another pair fits into the budget; one that is there is never lost."""
        if self.budget is None:
            return True
        nets = [self._trainings.net_on_all_images(name, seed) for name in (BASELINE, arm)]
        if all(one.state == "completed" for one in self._index.status(nets)):
            return True
        return self._spent() + usual_seconds <= self.budget

    def on_all_images(self, name: str, seed: int) -> RunRecord:
        """Train softmax or a candidate on all training images, and return its run.

        Raises RunError where that fails.
        """
        heads = partial(self._trained, counts=False)
        (record,) = self._trainings.on_all_images(name, seed, self._trained, heads)
        return record

    def _final_model(self, name: str) -> dict[str, Any]:
        """Return the chosen arm's run on all training images, and its file."""
        record = self.on_all_images(name, 0)
        return {"name": name, "run": str(record.path), "file": str(checkpoint.find(record.path))}

    def _drop_weights(self) -> None:
        """Remove the weights of its runs but those of softmax, of the winner, and of the model."""
        result = self.state.result
        if self.keeps_all or result is None or (self.has_test and self.state.may_go_on):
            return  # the test images may be asked of any arm yet
        kept, model = {BASELINE, result["verdict"]["arm"]}, result["model"]
        stays = [one.path for name in kept for some in self._runs.get(name, ()) for one in some]
        stays += (
            [one.path for one in (*self._pairs.own, *self._pairs.baseline)] if self._pairs else []
        )
        known = {path.resolve() for path in (*stays, Path(model["run"]))}
        others = [folder for folder in self.folders() if folder.resolve() not in known]
        drop_weights(others, f"{ORIGIN} --keep winner")


def _found(plan: Sequence[PlannedRun], index: RunIndex) -> list[RunRecord]:
    return [read_run(one.record.path) for one in index.status(plan) if one.record]


def _seconds(record: RunRecord) -> float:
    training = record.scores.training if record.scores else None
    return (training.seconds or 0.0) if training else 0.0
