"""The groups of a comparison held against their baselines: intervals, Holm's step, verdicts.

A score that is a mean of right answers has an interval over seeds and test images, where the runs'
predictions are known; every other one is over seeds alone.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.answers import Answers, answers_of, of_known_spread, weights_of
from lmsm_cli.comparison.baseline import baseline_of, verdict_in_words
from lmsm_cli.comparison.crossed import Crossed
from lmsm_cli.comparison.intervals import (
    ALPHA,
    FEWEST_SEEDS,
    NOTHING_VARIES,
    Difference,
    difference,
    verdict_of,
)
from lmsm_cli.comparison.planning import floor_of, seeds_needed
from lmsm_cli.comparison.records import Group
from lmsm_cli.comparison.same_answers import SameAnswers, notes_on_same_answers
from lmsm_cli.comparison.samples import Sample, by_seed, values
from lmsm_cli.comparison.two_way import (
    FEWEST_IMAGES,
    Estimate,
    NoVerdict,
    Over,
    Why,
    two_way,
)
from lmsm_cli.comparison.verdicts import (
    FEWEST_STEPS,
    Remark,
    chance_forbids,
    holm,
    holm_once,
    undertrained,
)
from lmsm_cli.metrics import METRICS, ClassScore, Scores
from lmsm_cli.shot_groups import shot_groups

_HINTS = {
    Remark.FEW_STEPS: f"fewer than {FEWEST_STEPS} training steps",
    Remark.STILL_FALLING: "a training loss that still fell",
}
_ROUNDING = 1e-9
# Whether the best of more groups is told from all others is not looked at: pairs grow with the
# square.
_MOST_RIVALS = 30


@dataclass(frozen=True)
class Question:
    """What is asked of a comparison."""

    over: Over = Over.BOTH
    """What the intervals allow for: seeds and test images, or seeds alone."""
    size: float = 0.05
    """The difference for which the number of seeds is told."""


@dataclass(frozen=True)
class _Peers:
    """The groups with one set of test images, and the answers of their runs."""

    numbers: tuple[int, ...]
    members: Mapping[int, Sequence[Sample]]
    answers: Answers | None
    weights: Mapping[int, Mapping[str, NDArray[np.float64]]]
    """Of each group, the share of the classes (C,) in its scores that are means of right answers.
    """
    names: tuple[str, ...]
    """Of the classes."""
    images: Mapping[int, Mapping[str, int]]
    """Of each group, the test images of these scores."""
    classes: Mapping[int, Mapping[str, list[int]]]
    """Of each group, the numbers of its common and rare classes."""
    same: SameAnswers
    question: Question

    @classmethod
    def of(
        cls, numbers: Sequence[int], members: Sequence[Sequence[Sample]], question: Question
    ) -> "_Peers":
        first = members[numbers[0]][0].scores
        own = {number: members[number] for number in numbers}
        found = None
        if len(numbers) > 1:
            found = answers_of(sample for samples in own.values() for sample in samples)
        answers = found if question.over is Over.BOTH else None
        counts = _train_counts({number: members[number][0].scores for number in numbers})
        weights = {
            number: weights_of(answers.strata, one) if answers else {}
            for number, one in counts.items()
        }
        names = tuple(one.name for one in first.per_class)
        images = {number: _images_of(first.per_class, one) for number, one in counts.items()}
        classes = {number: shot_groups(one) for number, one in counts.items()}
        same = SameAnswers.of(own, found)
        return cls(tuple(numbers), own, answers, weights, names, images, classes, same, question)

    def differences(self, number: int, baseline: int) -> dict[str, Difference | None]:
        """Return each score's difference of two groups, before Holm's step.

        There is none on classes that are rare, or common, to one of them alone.
        """
        own, other = self.members[number], self.members[baseline]
        both = self.answers.between(own, other) if self.answers else None
        weights = self.weights[number]
        found: dict[str, Difference | None] = {}
        for key, metric in METRICS.items():
            if self.classes[number].get(key) != self.classes[baseline].get(key):
                found[key] = None
            elif metric.is_share and both is not None and key in weights:
                found[key] = self._from_answers(both, weights[key])
            elif metric.is_share:
                images = self.images[number].get(key, FEWEST_IMAGES)
                found[key] = self._from_scores(own, other, key, images)
        return found

    def _from_scores(
        self, own: Sequence[Sample], other: Sequence[Sample], key: str, images: int
    ) -> Difference | None:
        """Return the difference over seeds alone."""
        sides = by_seed(own, other, key)
        found = difference(*sides, higher_is_better=METRICS[key].higher_is_better)
        if found is None or found.reason or images >= FEWEST_IMAGES:
            return found
        few = NoVerdict(Why.FEW_IMAGES, images=images)
        return replace(found, reason=self.in_words(few), verdict="can't tell")

    def _from_answers(self, both: Crossed, weights: NDArray[np.float64]) -> Difference | None:
        estimate = two_way(both, weights)
        if estimate.mean is None:
            return None
        parts = estimate.components
        needed = seeds_needed(parts, self.question.size) if parts else None
        return Difference(
            mean=estimate.mean,
            low=estimate.low,
            high=estimate.high,
            n=min(estimate.seeds),
            paired=len(estimate.seeds) == 1,
            verdict="can't tell",
            over=estimate.over,
            p_value=estimate.p_value,
            reason="; ".join(self.in_words(one) for one in estimate.no_verdict),
            seeds_needed=(needed.fewest, needed.most) if needed else None,
            floor=floor_of(parts) if parts else None,
        )

    def in_words(self, one: NoVerdict, place: str = "") -> str:
        """Return what forbids a verdict, and the way out where there is one.

        `place` says which classes the score is on.
        """
        named = ", ".join(self.names[number] for number in one.classes)
        match one.why:
            case Why.NO_IMAGE:
                return f"no test image of {named}"
            case Why.ONE_IMAGE:
                return f"one test image of {named}, whose share of chance nobody knows"
            case Why.NOTHING_VARIES:
                return NOTHING_VARIES
            case Why.TWO_SEEDS:
                return "two seeds: give a third"
            case Why.FEW_IMAGES:
                return f"{one.images} test images, and a verdict needs {FEWEST_IMAGES}"
            case Why.CHANCE:
                return f"no run is clearly better than guessing {place}: train longer first"

    def at_chance(self, key: str) -> NoVerdict | None:
        """Return the reason where no group has learned the classes of a score."""
        arms = [self._alone(number, key) for number in self.numbers if self.images[number].get(key)]
        return chance_forbids(arms, len(self.names)) if arms else None

    @cached_property
    def _own(self) -> dict[int, Crossed | None]:
        """Each group's own answers, reduced once for all scores; None without predictions."""
        return {
            number: self.answers.alone(samples) if self.answers else None
            for number, samples in self.members.items()
        }

    def _alone(self, number: int, key: str) -> Estimate:
        """Return a group's own score with its interval; without one where predictions lack.

        It tells whether the nets have learned, so it leaves out classes of which nobody can tell,
        and is of the nets at hand where two seeds do not tell of others.
        """
        own = self._own[number]
        if own is not None and (weights := self.weights[number].get(key)) is not None:
            over = Over.IMAGES if min(own.seeds) < FEWEST_SEEDS else Over.BOTH
            return two_way(own, of_known_spread(weights, own.counts), over=over)
        known = values(self.members[number], key)
        found = difference(known, dict.fromkeys(known, 0.0), higher_is_better=True)
        seeds, images = (len(known),), self.images[number][key]
        if found is None or found.low is None:  # one run or two: their mean
            mean = found.mean if found else None
            constant = (NoVerdict(Why.NOTHING_VARIES),)
            return Estimate(mean, None, None, None, Over.SEEDS, seeds, images, None, constant)
        bounds = (found.mean, found.low, found.high, found.p_value)
        return Estimate(*bounds, Over.SEEDS, seeds, images, None)


def _images_of(classes: Sequence[ClassScore], train_counts: Sequence[int | None]) -> dict[str, int]:
    """Return the test images of accuracy, balanced accuracy and each group of classes."""
    whole = sum(one.test_count for one in classes)
    groups = shot_groups(train_counts)
    members = {
        name: sum(classes[number].test_count for number in some) for name, some in groups.items()
    }
    return {"accuracy": whole, "balanced_accuracy": whole} | members


def held_against(
    groups: Sequence[Group],
    members: Sequence[Sequence[Sample]],
    name: str | None,
    question: Question,
) -> tuple[list[Group], list[str]]:
    """Return the groups with differences to their baseline, and notes on those without one.

    Args:
        groups, members: The groups, and the samples of each.
        name: What the baseline is called; softmax for None.
        question: What the intervals allow for.

    Raises:
        LmsmError: There is no such baseline.
    """
    chosen, notes = baseline_of(groups, name, [samples[0].recipe for samples in members])
    held = list(groups)
    for numbers in _by_test_set(groups):
        peers = _Peers.of(numbers, members, question)
        raw = {
            number: peers.differences(number, place)
            for number in numbers
            if (place := chosen[number]) is not None and place != number
        }
        judged = _judged(raw, peers, chosen)
        best = _told_best(peers, groups, judged, chosen)
        for number, first in peers.same.firsts(chosen).items():
            changes = judged.get(number, {})
            held[number] = replace(
                groups[number],
                is_baseline=number in chosen,
                differences=changes,
                verdict=verdict_in_words(changes),
                best=tuple(key for key, winners in best.items() if number in winners),
                remarks=_remarks(members[number]),
                same_as="" if first == number else groups[first].label,
            )
    return held, [
        *_without_predictions(held, question),
        *notes_on_same_answers(held),
        *notes,
        *_on_fewer_seeds(held, chosen),
    ]


def _train_counts(groups: Mapping[int, Scores]) -> dict[int, list[int | None]]:
    """Return the training images of each class, of each group.

    A group may not know its own, or have as many of each class: those of the first group that has
    rare classes take their place. Its answers are held against the others' on the classes that are
    rare to these.
    """
    told = {n: [one.train_count for one in scores.per_class] for n, scores in groups.items()}
    some = next((counts for counts in told.values() if shot_groups(counts)), None)
    return {
        n: counts if some is None or shot_groups(counts) else some for n, counts in told.items()
    }


def _by_test_set(groups: Sequence[Group]) -> list[list[int]]:
    found: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        found.setdefault(group.test_set, []).append(number)
    return list(found.values())


def _judged(
    raw: Mapping[int, Mapping[str, Difference | None]],
    peers: _Peers,
    chosen: Sequence[int | None],
) -> dict[int, dict[str, Difference | None]]:
    """Return the differences with verdicts, after Holm's step over the groups for each score.

    Groups with the same answers are one in that step. `chosen` are the baselines.
    """
    judged = {number: dict(changes) for number, changes in raw.items()}
    for key, metric in METRICS.items():
        rows = [(number, one) for number, some in raw.items() if (one := some.get(key))]
        forbidden = peers.at_chance(key) if rows else None
        if forbidden:
            said = peers.in_words(forbidden, metric.place)
            reasons = ["; ".join(filter(None, (said, one.reason))) for _, one in rows]
            rows = [
                (number, replace(one, reason=reason, at_chance=True))
                for (number, one), reason in zip(rows, reasons, strict=True)
            ]
        adjusted, family = holm_once(
            [None if one.reason else one.p_value for _, one in rows],
            [peers.same.hypothesis(number, chosen[number], key) for number, _ in rows],
        )
        for (number, one), p in zip(rows, adjusted, strict=True):
            counted = replace(one, family=None if p is None else family)
            judged[number][key] = verdict_of(counted, p, higher_is_better=metric.higher_is_better)
    return judged


def _told_best(
    peers: _Peers,
    groups: Sequence[Group],
    judged: Mapping[int, Mapping[str, Difference | None]],
    chosen: Sequence[int | None],
) -> dict[str, list[int]]:
    """Return, by score, the group that is the best and told from each other one after Holm.

    Groups with the same answers are the best together, and are not told from each other. One that
    is held against a baseline must be better by that verdict too, whose step of Holm is over other
    rows: a star beside "not after Holm" would be a second answer.
    """
    if not 1 < len(peers.numbers) <= _MOST_RIVALS:
        return {}
    rivals: dict[tuple[int, int], dict[str, Difference | None]] = {}
    best = {}
    for key, metric in METRICS.items():
        firsts = peers.same.firsts(chosen, key)
        means = {
            n: one.mean for n in dict.fromkeys(firsts.values()) if (one := groups[n].metrics[key])
        }
        if not metric.is_share or len(means) < 2 or peers.at_chance(_learned_by(peers, key)):
            continue
        winner = (max if metric.higher_is_better else min)(means, key=lambda n: means[n])
        others = [number for number in means if number != winner]
        for other in others:
            if (winner, other) not in rivals:
                rivals[winner, other] = peers.differences(winner, other)
        found = [rivals[winner, other][key] for other in others]
        adjusted = holm([None if one is None or one.reason else one.p_value for one in found])
        held = judged.get(winner, {}).get(key)
        if held is not None and held.verdict != "better":
            continue
        if all(p is not None and p <= ALPHA for p in adjusted):
            best[key] = [number for number, first in firsts.items() if first == winner]
    return best


def _learned_by(peers: _Peers, key: str) -> str:
    """Return the score that tells whether the nets have learned what a score is of."""
    return key if any(key in images for images in peers.images.values()) else "balanced_accuracy"


def _remarks(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return what hints that a group was trained too briefly to tell."""
    found: dict[str, None] = {}
    for sample in samples:
        losses = [row.get("train_loss") for row in sample.record.metrics]
        known = [float(loss) for loss in losses if isinstance(loss, int | float)]
        steps = FEWEST_STEPS if sample.steps is None else sample.steps
        found |= dict.fromkeys(_HINTS[remark] for remark in undertrained(known, steps))
    return tuple(found)


def _on_fewer_seeds(groups: Sequence[Group], chosen: Sequence[int | None]) -> list[str]:
    """Say whose difference is not that of the means shown."""
    moved = [
        group.label
        for group, place in zip(groups, chosen, strict=True)
        if place is not None
        and any(
            _is_of_fewer(key, one, group, groups[place]) for key, one in group.differences.items()
        )
    ]
    if not moved:
        return []
    return [
        f"the difference of {', '.join(moved)} is over the seeds and choices that its baseline "
        "has too: it is not that of the means shown, which are over all runs"
    ]


def _is_of_fewer(metric: str, change: Difference | None, group: Group, baseline: Group) -> bool:
    """Return whether a difference is not that of the means of both groups."""
    own, other = group.metrics[metric], baseline.metrics[metric]
    if change is None or own is None or other is None:
        return False
    return abs(change.mean - (own.mean - other.mean)) > _ROUNDING


def _without_predictions(groups: Iterable[Group], question: Question) -> list[str]:
    """Say which verdicts are over seeds alone since runs have no predictions."""
    if question.over is not Over.BOTH:
        return []
    old = [
        group.label
        for group in groups
        if (one := group.differences.get("accuracy")) and one.over == Over.SEEDS
    ]
    if not old:
        return []
    return [
        f"{', '.join(old)}: over seeds alone, since runs have no predictions.npz; "
        "other test images could move these differences further than their intervals say"
    ]
