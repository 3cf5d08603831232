"""Accuracy of each class against its training images, a line for each group: plain data.

plots/ and the report page draw it (rarity_plot.py, html/rarity.py), each dot where rarity_places.py
puts it. The interval of a class is over seeds and test images where the runs' predictions are
known, as the differences of a comparison are; `class_interval` has what is taken elsewhere.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from lmsm_cli.comparison.intervals import CONFIDENCE, FEWEST_SEEDS
from lmsm_cli.comparison.records import ClassStatistic, Group, Statistic
from lmsm_cli.comparison.two_way import Over, two_way
from lmsm_cli.errors import listed
from lmsm_cli.metrics import Scores
from lmsm_cli.reports.rarity_places import Dot, Interval, Line, Places, RarityChart
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.scoring import mean_of
from lmsm_cli.shot_groups import shot_groups

if TYPE_CHECKING:
    from lmsm_cli.comparison.crossed import Crossed

# Of more classes, neighbours share a dot.
NAMED_DOTS = 20
_SHARED_DOTS = 12
# More lines cannot be told apart where their intervals overlap.
MOST_LINES = 6


@dataclass(frozen=True)
class Arm:
    """A group of runs, or a run alone, that is to become a line."""

    number: int
    label: str
    classes: Sequence[ClassStatistic]
    runs: Sequence[Scores] = ()
    """The scores of its runs: what classes that share a dot are averaged from."""
    is_baseline: bool = False
    answers: Callable[[], "Crossed | None"] | None = None
    """Reads and reduces its runs' predictions; only asked of arms that are drawn."""

    @property
    def is_counted(self) -> bool:
        """Whether the training images of all of its classes are known."""
        return all(one.train_count is not None for one in self.classes)


def class_interval(one: ClassStatistic) -> Interval | None:
    """Return the interval of a class's mean accuracy; None where nothing is known of it.

    From three runs on it is Student's t over seeds; of one run it is Wilson's (1927) over test
    images. Equal runs have none: that nothing varied is no certainty.
    """
    found = one.accuracy
    if found is None or not one.test_count:
        return None
    if found.n == 1:
        low, high = _wilson(found.mean, one.test_count)
        return Interval(low, high, Over.IMAGES)
    if found.n < FEWEST_SEEDS or not found.sd:
        return None
    from scipy.special import stdtrit  # a third of the time that scipy.stats takes to import

    half = found.sd / math.sqrt(found.n) * float(stdtrit(found.n - 1, (1 + CONFIDENCE) / 2))
    return Interval(max(0.0, found.mean - half), min(1.0, found.mean + half), Over.SEEDS)


def _wilson(share: float, images: int) -> tuple[float, float]:
    from scipy.special import ndtri

    z = float(ndtri((1 + CONFIDENCE) / 2))
    centre, shrunk = share + z**2 / (2 * images), 1 + z**2 / images
    half = z * math.sqrt(share * (1 - share) / images + (z / (2 * images)) ** 2)
    return max(0.0, (centre - half) / shrunk), min(1.0, (centre + half) / shrunk)


def two_way_interval(answers: "Crossed", numbers: Sequence[int]) -> Interval | None:
    """Return the interval of the mean accuracy of some classes over seeds and test images."""
    import numpy as np

    tested = [number for number in numbers if answers.counts[number]]
    weights = np.zeros(len(answers.counts))
    weights[tested] = 1 / max(1, len(tested))
    found = two_way(answers, weights)
    if found.low is None or found.high is None:
        return None
    return Interval(max(0.0, found.low), min(1.0, found.high), found.over)


def arms_of(numbered: Iterable[tuple[int, Group]], records: Iterable[RunRecord]) -> list[Arm]:
    """Return the arms of a comparison's numbered groups; `records` are its runs.

    Where no difference of the comparison is over test images, none of the bars is.
    """
    groups = list(numbered)
    by_path = {str(record.path): record for record in records}
    known = [one for _, group in groups for one in group.differences.values() if one]
    over_images = not known or any(one.over != Over.SEEDS for one in known)
    arms = []
    for number, group in groups:
        runs = [by_path[run] for run in group.runs if run in by_path]
        scores = [run.scores for run in runs if run.scores]
        # a row of answers is a seed
        may_cross = over_images and len(set(group.seeds)) == len(runs) >= FEWEST_SEEDS
        answers = partial(_answers_of, runs) if may_cross else None
        arms.append(Arm(number, group.label, group.per_class, scores, group.is_baseline, answers))
    return arms


def _answers_of(runs: Sequence[RunRecord]) -> "Crossed | None":
    """Return which images the runs had right, by seed; None where some run's are not known."""
    import numpy as np

    from lmsm_cli.comparison.crossed import Strata, crossed

    found = [run.predictions for run in runs]
    known = [one for one in found if one is not None]
    scores = runs[0].scores
    if scores is None or len(known) < len(found):
        return None
    if any(not np.array_equal(one.labels, known[0].labels) for one in known):
        return None
    strata = Strata.of(known[0].labels, len(scores.per_class))
    return crossed(np.stack([one.predicted == one.labels for one in known]), strata)


def arm_of_run(scores: Scores, label: str = "") -> Arm:
    """Return the arm of a single run."""
    classes = [
        ClassStatistic(
            one.name,
            one.train_count,
            one.test_count,
            None if one.accuracy is None else Statistic(one.accuracy, None, 1),
        )
        for one in scores.per_class
    ]
    return Arm(1, label, classes, [scores])


def rarity_chart(arms: Sequence[Arm]) -> RarityChart | None:
    """Return the picture of groups that share their test images; None without any accuracy.

    Of more than MOST_LINES groups the baseline and those with the best rare classes are drawn. A
    group whose training images nobody knows has no place in it.
    """
    unknown = [arm.label for arm in arms if not arm.is_counted]
    arms = [arm for arm in arms if arm.is_counted]
    chosen = _chosen(arms)
    found = [(arm, _dots(arm)) for arm in chosen]
    found = [(arm, dots) for arm, dots in found if dots]
    if not found:
        return None
    places = Places([dot for _, dots in found for dot in dots], len(found))
    lines = tuple(
        Line(arm.number, arm.label, arm.is_baseline, places.placed(dots, place))
        for place, (arm, dots) in enumerate(found)
    )
    counts = {tuple(one.train_count for one in arm.classes) for arm, _ in found}
    is_shared = len(counts) == 1
    left_out = len(arms) - len(chosen)
    notes = [
        _note_on_dots(lines),
        _note_on_bars(lines),
        _note_on_choice(arms, chosen) if left_out else "",
        f"Not drawn, as their training images are not known: {listed(unknown)}." if unknown else "",
    ]
    return RarityChart(
        lines,
        *places.ends(lines),
        places.ticks(),
        places.regions(lines) if is_shared else (),
        places.names(found[0][1]) if is_shared else (),
        tuple(filter(None, notes)),
    )


def _chosen(arms: Sequence[Arm]) -> list[Arm]:
    if len(arms) <= MOST_LINES:
        return list(arms)

    def rank(arm: Arm) -> tuple[bool, float]:
        few = shot_groups([one.train_count for one in arm.classes]).get("few") or range(
            len(arm.classes)
        )
        known = [found.mean for number in few if (found := arm.classes[number].accuracy)]
        return not arm.is_baseline, -(mean_of(known) or 0.0)

    best = sorted(arms, key=rank)[:MOST_LINES]
    return sorted(best, key=lambda arm: arm.number)


def _dots(arm: Arm) -> list[Dot]:
    """Return the dots of an arm, commonest class first, not yet placed."""
    counts = [one.train_count or 0 for one in arm.classes]  # all are known here
    members = shot_groups(counts) or {"": list(range(len(counts)))}
    answers = arm.answers() if arm.answers else None
    dots = []
    for shots, numbers in members.items():
        ordered = sorted(numbers, key=lambda number: -counts[number])
        for some in _shared(ordered, len(counts)):
            classes = [arm.classes[number] for number in some]
            merged = classes[0] if len(some) == 1 else _merged(arm, some)
            if merged.accuracy:
                names, trained = zip(*((arm.classes[n].name, counts[n]) for n in some), strict=True)
                bar = two_way_interval(answers, some) if answers else class_interval(merged)
                dots.append(Dot(names, trained, shots, merged.accuracy.mean, bar))
    return dots


def _shared(ordered: Sequence[int], num_classes: int) -> list[list[int]]:
    """Return classes one by one, or neighbours together where there are too many for that."""
    if num_classes <= NAMED_DOTS:
        return [[number] for number in ordered]
    pieces = max(1, round(_SHARED_DOTS * len(ordered) / num_classes))
    borders = [round(len(ordered) * piece / pieces) for piece in range(pieces + 1)]
    return [list(ordered[low:high]) for low, high in pairwise(borders) if low < high]


def _merged(arm: Arm, numbers: Sequence[int]) -> ClassStatistic:
    """Return the mean of some classes as one; its test images are those that would tell as much."""
    classes = [arm.classes[number] for number in numbers]
    tested = [one.test_count for one in classes if one.test_count]
    means = [mean_of(run.per_class[number].accuracy for number in numbers) for run in arm.runs]
    known = [mean for mean in means if mean is not None]
    if not known:
        return ClassStatistic("", 0, 0, None)
    sd = statistics.stdev(known) if len(known) > 1 else None
    # the variance of a mean of K classes is the sum of p(1 - p)/n over K^2
    images = round(len(tested) ** 2 / sum(1 / n for n in tested)) if tested else 0
    return ClassStatistic("", 0, images, Statistic(statistics.fmean(known), sd, len(known)))


def _note_on_dots(lines: Iterable[Line]) -> str:
    shares = any(len(dot.names) > 1 for line in lines for dot in line.dots)
    return "A dot is the mean of classes with similar numbers of training images." if shares else ""


def _note_on_bars(lines: Iterable[Line]) -> str:
    over = {dot.interval.over for line in lines for dot in line.dots if dot.interval}
    if not over:
        return ""
    kinds = [kind for kind in Over if kind in over]
    if len(kinds) == 1:
        return f"Bars are 95% intervals over {kinds[0]}."
    return f"Bars are 95% intervals, by what is known of a group: over {' or '.join(kinds)}."


def _note_on_choice(arms: Sequence[Arm], chosen: Sequence[Arm]) -> str:
    has_baseline = any(arm.is_baseline for arm in chosen)
    best = len(chosen) - has_baseline
    those = f"the {best} with the highest mean on the rarest classes are drawn"
    return f"Of {len(arms)} groups {'the baseline and ' if has_baseline else ''}{those}."
