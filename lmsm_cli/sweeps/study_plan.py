"""The plan of a study: what is held out, how many rounds a budget allows, and when to look.

It is made once, from one measured training, and kept in study.json: what is decided later never
depends on how fast a machine happens to be.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lmsm_cli.comparison.intervals import FEWEST_SEEDS
from lmsm_cli.comparison.sequential import looks_at
from lmsm_cli.config import RUNTIME_KEYS
from lmsm_cli.errors import MALFORMED, CheckpointError, LmsmError, first_line, writing
from lmsm_cli.reports.tables_checks import duration
from lmsm_cli.runs.folder import write_whole
from lmsm_cli.runtime.files import lock_of, own_folder, read_text

STUDY = "study.json"
_SCHEMA = 2
_FROM_THE_RUNS = (
    "give another --out, or remove it: of the runs beside it, those that this version would train "
    "alike are found again"
)
TEST_IMAGES = "test images"
# What ended a study, in study.json.
OUT_OF_TIME = "the budget"
# Why the race is without a candidate, in study.json.
NO_TIME = "the race had no time left"
USUAL_BUDGET = 1800.0
"""In seconds."""
# Held-out images of a rare class below which folds hold every image out in its turn.
ENOUGH_HELD_OUT = 50
_SHARE = 0.2
# Folds, the most first: fewer train on less, and leave more rounds.
_FOLDS = (5, 3, 2)
MOST_ROUNDS = 20
# Of softmax and one arm on all training images, for the test images to decide on: more of them are
# trained while a budget lasts, and a plan leaves room for so many, or for the fewest of a verdict.
MOST_PAIRS = 10
_ROOM_FOR_PAIRS = (5, FEWEST_SEEDS)
# Rounds that choose the arm which the test images are asked of.
_CHOOSING = 3
# Seconds of a last layer's training, beside its steps: a run folder is written for each.
HEAD_SECONDS = 2.5
RESERVE = 0.06
"""The share of a budget that is left for looks, tests and files."""
# Of the epochs of the defaults, what a short budget leaves at least.
_FEWEST_EPOCHS = 0.5
_ROUNDS = re.compile(r"([1-9]\d{0,2})(?:x([2-9]|[1-9]\d))?(?:\+([1-9]\d?))?")
_BUDGET = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?:in)?)?(?:(\d+(?:\.\d+)?)s)?")


@dataclass(frozen=True)
class StudyPlan:
    """How a study goes."""

    folds: int | None
    """None where a fixed fifth is held out."""
    rounds: int
    looks: tuple[int, ...]
    """After how many rounds it looks whether an arm is told."""
    arms: int
    """How many are trained whole beside the baseline."""
    run_seconds: float | None
    """Of one training, as measured; None where the rounds were given."""
    expected_seconds: float | None
    pairs: int = 0
    """How many nets a side, of softmax and the arm that is ahead, are trained on all training
    images, for the test images to decide on; 0 where there are none. A budget may allow more."""
    epochs: int | None = None
    """Of each training, where the budget is too short for those of the defaults."""
    usual_epochs: int | None = None
    """Those of the defaults, where they are more."""

    @property
    def spelled(self) -> str:
        """The rounds, folds and pairs as --rounds takes them."""
        return str(Rounds(self.rounds, self.folds, self.pairs or None))

    @property
    def has_budget(self) -> bool:
        """Whether a budget gave the rounds, and a larger one may give more; else --rounds did."""
        return self.run_seconds is not None

    @property
    def may_grow(self) -> bool:
        """Whether there may be more rounds: not after a planned look, nor of those that choose."""
        return self.has_budget and not self.looks and self.rounds < _most_rounds(self.pairs)

    @property
    def trainings(self) -> int:
        """The trainings of a round: one for each fold of each arm and the baseline."""
        return (self.folds or 1) * (self.arms + 1)

    @property
    def share(self) -> float:
        """The share of the training images that a net of a round learns from."""
        return 1 - 1 / self.folds if self.folds else 1 - _SHARE

    @property
    def all_trainings(self) -> int:
        """Those of all rounds, and of the pairs."""
        return self.rounds * self.trainings + 2 * self.pairs


def seconds_of(text: str) -> float:
    """Return the seconds of a budget.

    >>> [seconds_of(text) for text in ("30m", "2h", "1h30m", "90s")]
    [1800.0, 7200.0, 5400.0, 90.0]
    """
    found = _BUDGET.fullmatch(text.strip().lower())
    if not found or not any(found.groups()):
        raise LmsmError(f"--budget is {text!r}: give hours, minutes or seconds, as in 30m or 2h")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    total = 3600 * hours + 60 * minutes + seconds
    if not 0 < total < math.inf:
        raise LmsmError(f"--budget is {text!r}: give a finite time above 0, as in 30m")
    return total


def needs_folds(counts: Sequence[int]) -> bool:
    """Return whether a fixed fifth would leave the rarest class too few held-out images."""
    return min(counts) * _SHARE < ENOUGH_HELD_OUT


@dataclass(frozen=True)
class Rounds:
    """How many rounds are wanted; of how many folds each, and how many pairs, where given too."""

    number: int
    folds: int | None = None
    pairs: int | None = None

    @classmethod
    def of(cls, text: str) -> "Rounds":
        """Read what --rounds gives. Raises LmsmError.

        >>> Rounds.of("4"), Rounds.of("4x2+5")
        (Rounds(number=4, folds=None, pairs=None), Rounds(number=4, folds=2, pairs=5))
        """
        found = _ROUNDS.fullmatch(text.strip())
        if not found:
            raise LmsmError(
                f"--rounds is {text}: give at least 1, as in 4, in 4x2 for 4 rounds of 2 folds, or "
                "in 4x2+5 for 5 nets a side on the test images besides"
            )
        number, folds, pairs = (int(part) if part else None for part in found.groups())
        assert number is not None
        return cls(number, folds, pairs)

    def __str__(self) -> str:
        folds = f"x{self.folds}" if self.folds else ""
        return f"{self.number}{folds}" + (f"+{self.pairs}" if self.pairs else "")


def plan_by_rounds(
    counts: Sequence[int], rounds: Rounds, arms: int, *, has_test: bool
) -> StudyPlan:
    """Return the plan of exactly so many rounds.

    Raises LmsmError for folds where a fixed fifth is held out, or more of them than images, and for
    pairs without test images.
    """
    number, folds = rounds.number, rounds.folds
    if rounds.pairs and not has_test:
        raise LmsmError(
            f"--rounds {rounds}: there are no test images to ask; give --rounds "
            f"{replace(rounds, pairs=None)}"
        )
    if not needs_folds(counts):
        if folds:
            raise LmsmError(
                f"--rounds {rounds}: no folds are made here, a fifth of the images holds enough "
                f"of each class; give --rounds {number}"
            )
    elif folds is None:
        folds = _most_folds(counts)[0]
    elif folds > max(counts):
        raise LmsmError(f"--rounds {rounds}: the largest class has {max(counts)} images")
    if not has_test:
        return StudyPlan(folds, number, looks_at(number), arms, None, None)
    return StudyPlan(folds, number, (), arms, None, None, rounds.pairs or FEWEST_SEEDS)


def plan_by_budget(
    counts: Sequence[int], cost: "Cost", arms: int, *, has_test: bool, epochs: int | None = None
) -> StudyPlan:
    """Return the plan with the most folds that leaves rounds enough, if there is one.

    Without test images these are the rounds of a look. With them they choose one arm, and must
    leave room for its nets and softmax's on all training images; fewer nets, and one arm in place
    of two, are taken where there is no room otherwise.

    Args:
        counts: The training images of each class.
        cost: What it may cost, and what trainings do.
        arms: How many are trained whole beside the baseline, at most.
        has_test: Whether test images decide.
        epochs: Those of the measured training, where fewer may be taken: as many as allow a round,
            and half of them at least. None where they were asked for.

    Raises BudgetError where the budget does not allow one round.
    """
    for fewer in _epochs_to_try(epochs):
        share = fewer / epochs if fewer and epochs else 1
        at_hand = replace(cost, run_seconds=share * cost.run_seconds)
        plan = _best_plan(counts, at_hand, arms, has_test=has_test)
        if plan.rounds:
            return replace(plan, epochs=fewer, usual_epochs=epochs) if fewer != epochs else plan
    smallest = _smallest_plan(counts, at_hand, arms, has_test=has_test)
    where = f"with {fewer} of {epochs} epochs" if epochs else "here"
    refusal = Refusal(smallest, at_hand, at_hand.run_seconds / cost.run_seconds, tuple(counts))
    raise BudgetError(
        f"a budget of {duration(cost.budget)} does not allow one round: a training takes about "
        f"{duration(at_hand.run_seconds)} {where}; give --budget {refusal.minutes}m or more, or "
        "fewer --epochs",
        refusal,
    )


def _epochs_to_try(epochs: int | None) -> Sequence[int | None]:
    """Return the epochs that a training may have, the most first; None alone stands as it is."""
    if epochs is None:
        return [None]
    return range(epochs, math.ceil(_FEWEST_EPOCHS * epochs) - 1, -1)


def _plans(counts: Sequence[int], cost: "Cost", arms: int, *, has_test: bool) -> list[StudyPlan]:
    """Return the plans that there are, the best first where it has rounds."""
    folds = _most_folds(counts) if needs_folds(counts) else (None,)
    if has_test:
        sizes = [*((arms, pairs) for pairs in _ROOM_FOR_PAIRS), (1, FEWEST_SEEDS)]
    else:
        sizes = [(arms, 0)]
    return [cost.plan(one, *size) for size in sizes for one in folds]


def _best_plan(counts: Sequence[int], cost: "Cost", arms: int, *, has_test: bool) -> StudyPlan:
    """Return the plan of `plan_by_budget`; its rounds are 0 where the budget allows none."""
    found = _plans(counts, cost, arms, has_test=has_test)
    if has_test:
        return next((plan for plan in found if plan.rounds), found[-1])
    looked = (plan for plan in found if plan.rounds >= FEWEST_SEEDS)
    return next(looked, max(found, key=lambda plan: (plan.rounds, plan.folds or 0)))


def _smallest_plan(counts: Sequence[int], cost: "Cost", arms: int, *, has_test: bool) -> StudyPlan:
    """Return the plan of one round that takes the least time."""
    found = _plans(counts, cost, arms, has_test=has_test)
    return min((replace(plan, rounds=1) for plan in found), key=cost.of)


@dataclass(frozen=True)
class Cost:
    """What a study may cost, and what its parts do."""

    budget: float
    """In seconds."""
    run_seconds: float
    """Of one training, on all but a fifth of the images."""
    heads: int
    """How many last layers race."""

    @property
    def whole_seconds(self) -> float:
        """Of one training on all training images."""
        return self.run_seconds / (1 - _SHARE)

    def of(self, plan: StudyPlan) -> float:
        """Return the seconds of a plan."""
        return sum(self.parts(plan).values())

    def parts(self, plan: StudyPlan) -> dict[str, float]:
        """Return the seconds of a plan: its rounds, the race, and what is trained on all images."""
        return {
            # a training on fewer images takes as much less
            "rounds": plan.rounds * plan.trainings * self.whole_seconds * plan.share,
            "race": self.heads * (plan.folds or 1) * HEAD_SECONDS,
            "whole": max(2 * plan.pairs, 1) * self.whole_seconds,
        }

    def plan(self, folds: int | None, arms: int, pairs: int) -> StudyPlan:
        """Return the plan of so many folds: the rounds are as many as fit into the budget."""
        empty = StudyPlan(folds, 0, (), arms, self.run_seconds, None, pairs)
        around = self.of(empty)
        room = (1 - RESERVE) * self.budget - around
        fitting = math.floor(room / (self.of(replace(empty, rounds=1)) - around))
        rounds = max(0, min(_most_rounds(pairs), fitting))
        plan = replace(empty, rounds=rounds, looks=() if pairs else looks_at(rounds))
        return replace(plan, expected_seconds=self.of(plan) + RESERVE * self.budget)


@dataclass(frozen=True)
class Refusal:
    """What a budget was too short for."""

    plan: StudyPlan
    """The smallest there is."""
    cost: Cost
    """With the fewest epochs that the budget may take."""
    epochs: float
    """The share of the epochs that these are."""
    counts: tuple[int, ...]

    @property
    def minutes(self) -> int:
        """Those of a budget that would do."""
        return math.ceil(self.cost.of(self.plan) / (1 - RESERVE) / 60)

    @property
    def share(self) -> float:
        """The share of the time of all trainings, with all epochs, that the budget leaves them."""
        parts = self.cost.parts(self.plan)
        room = (1 - RESERVE) * self.cost.budget - parts["race"]
        return max(0.0, room / (parts["rounds"] + parts["whole"])) * self.epochs


class BudgetError(LmsmError):
    """A budget that does not allow one round."""

    def __init__(self, text: str, refusal: Refusal) -> None:
        super().__init__(text)
        self.refusal = refusal


def plan_longer(plan: StudyPlan, budget: float, heads: int) -> StudyPlan:
    """Return a plan for a larger budget: other rounds where no look was planned, else the same.

    The level is spent over the rounds of the looks, which must not follow from what they found.
    """
    if not plan.may_grow:
        return plan
    assert plan.run_seconds is not None
    longer = Cost(budget, plan.run_seconds, heads).plan(plan.folds, plan.arms, plan.pairs)
    longer = replace(longer, epochs=plan.epochs, usual_epochs=plan.usual_epochs)
    return longer if longer.rounds > plan.rounds else plan


def _most_rounds(pairs: int) -> int:
    """Return how many rounds a budget gives at most: where test images decide, these choose."""
    return _CHOOSING if pairs else MOST_ROUNDS


def _most_folds(counts: Sequence[int]) -> tuple[int, ...]:
    """Return the numbers of folds that there are images enough for, the most first."""
    largest = max(counts)
    return tuple(folds for folds in _FOLDS if folds <= largest) or (2,)


@dataclass
class StudyState:
    """What study.json holds."""

    base: dict[str, Any]
    """The config of the baseline, whole."""
    also: list[str]
    plan: StudyPlan
    images: list[str] = field(default_factory=list)
    """The digests of all its images, training and test."""
    arms: list[str] | None = None
    """The names of those that were chosen in the race."""
    race: dict[str, float] | None = None
    """The score of each candidate as a last layer."""
    budget: float | None = None
    """In seconds, the last that was given; None where the rounds were given."""
    spent: float = 0.0
    """Seconds, of all processes that worked on it one after the other."""
    result: dict[str, Any] | None = None
    planned: list[str] = field(default_factory=list)
    """The hashes of its runs, whose weights are its own to remove."""
    dropped: dict[str, str] = field(default_factory=dict)
    """The candidates that the race is without, and why."""
    race_begun: float = 0.0
    """Seconds that were spent before the race."""
    race_seconds: float = 0.0
    """Of the race, in all processes."""

    @property
    def spelled(self) -> str:
        """What --rounds takes to do as much again."""
        result = self.result or {"rounds": 0}
        pairs = result.get("pairs") or self.plan.pairs or None
        rounds = result["rounds"] if result.get("ended") == OUT_OF_TIME else self.plan.rounds
        return str(Rounds(rounds, self.plan.folds, pairs))

    @property
    def may_go_on(self) -> bool:
        """Whether a larger budget can still tell something.

        Not where the test images were asked, where the looks have spent the level of the study,
        where the rounds that choose a loss are done, or where --rounds gave their number.
        """
        if self.result is None:
            return True
        asked = self.result["verdict"]["decided_on"] == TEST_IMAGES
        ended = self.result.get("ended")
        return not asked and (ended == OUT_OF_TIME or self._lacks_losses or self.plan.may_grow)

    @property
    def _lacks_losses(self) -> bool:
        """Whether the race had no time for some, which may race yet: no look is planned."""
        return NO_TIME in self.dropped.values() and not self.plan.looks

    def unlike(self, base: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """Return what of a config differs from the baseline's, but for where and how it runs."""
        return {
            key: (self.base.get(key), value)
            for key, value in base.items()
            if key not in RUNTIME_KEYS and self.base.get(key) != value
        }

    def begun(self, out: Path) -> "StudyState":
        """Write a new study, or return that which another process began at the same time.

        Raises LmsmError where that is another one, DiskError.
        """
        with _held(out):
            there = read_state(out)
            if there is None:
                self._write(out)
                return self
        if there.unlike(self.base) or (there.also, there.images) != (self.also, self.images):
            raise LmsmError(f"another study began in {out} meanwhile: give another --out")
        return there

    def note(self, out: Path) -> None:
        """Write study.json, with what another process has decided first. Raises DiskError.

        Nothing is decided twice: the arms, and what the test images said.
        """
        with _held(out):
            there = read_state(out)
            if there is not None:
                self.planned = sorted({*self.planned, *there.planned})
                self.spent = max(self.spent, there.spent)
                # the end of a smaller budget is none for this one, nor are its arms
                is_ours = there.result is None or self.budget == there.budget
                if there.arms is not None and is_ours:
                    self.arms, self.race, self.dropped = there.arms, there.race, there.dropped
                if self.result is None and is_ours:
                    self.result = there.result
            self._write(out)

    def _write(self, out: Path) -> None:
        values = {"schema": _SCHEMA} | asdict(self)
        write_whole(out / STUDY, json.dumps(values, indent=2, allow_nan=False) + "\n")


@contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keep other processes from study.json, to read and write it at once. Raises DiskError."""
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        lock = lock_of(own_folder(out / ".sweep") / "study.lock")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_state(out: Path) -> StudyState | None:
    """Return the study of a folder, None where there is none. Raises CheckpointError."""
    path = out / STUDY
    try:
        values = json.loads(read_text(path))
        if not isinstance(values, dict) or "schema" not in values:
            raise ValueError("it holds no study")
        if values.pop("schema") != _SCHEMA:
            raise CheckpointError(f"{path} is of another version of lmsm; {_FROM_THE_RUNS}")
        plan = values.pop("plan")
        return StudyState(plan=StudyPlan(**plan | {"looks": tuple(plan["looks"])}), **values)
    except FileNotFoundError:
        return None
    except MALFORMED as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}; {_FROM_THE_RUNS}") from None
