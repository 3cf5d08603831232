"""How an arm of a study differs from its baselines on the verdict half, and what that decides.

Each difference has two 95% intervals: over the seeds, and over seeds and test images (two-way).
The second decides, and its p-value. The few classes against the first baseline are the question of
a study, and are tested alone; the accuracy, and both scores against further baselines, are tested
together, by Holm's step-down.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from halves import Half
from numpy.typing import NDArray
from rich.table import Table
from tail_arms import Study

from lmsm_cli.comparison.crossed import Strata, paired
from lmsm_cli.comparison.intervals import CONFIDENCE, Difference, difference, in_points
from lmsm_cli.comparison.two_way import Estimate, two_way
from lmsm_cli.comparison.verdicts import holm
from lmsm_cli.metrics import METRICS, Scores
from lmsm_cli.shot_groups import shot_groups

SHOWN = ("few", "medium", "many", "balanced_accuracy", "accuracy")
TESTED = ("few", "accuracy")


@dataclass(frozen=True)
class Judged:
    """A score of an arm and of a baseline, and their paired difference."""

    key: str
    baseline: str
    values: tuple[dict[int, float], dict[int, float]]
    """Of the arm and of the baseline, by seed."""
    over_seeds: Difference
    over_both: Estimate


def judged(study: Study, arm: str, baseline: str, half: Half | None) -> Iterator[Judged]:
    """Yield the scores that an arm and a baseline have on a half; on all images for None."""
    labels = study.images.labels[study.part(half)]
    strata = Strata.of(labels, len(study.images.classes))
    answers = paired(*(study.right(name, half) for name in (arm, baseline)), strata)
    scores = [study.scores(name, half) for name in (arm, baseline)]
    for key in SHOWN:
        own, other = (values_of(one, key) for one in scores)
        change = difference(own, other, higher_is_better=True)
        if change is not None:
            both = two_way(answers, _weights(strata, study.train_counts, key))
            yield Judged(key, baseline, (own, other), change, both)


def _weights(strata: Strata, train_counts: Sequence[int], key: str) -> NDArray[np.float64]:
    """Return the share of each class in a score (C,)."""
    if key == "accuracy":
        return strata.image_weights()
    groups = {"balanced_accuracy": list(range(len(train_counts)))} | shot_groups(train_counts)
    return strata.class_weights(groups[key])


def table_of_scores(study: Study, arm: str, baseline: str) -> Table:
    """Return each score on the verdict half and on all images, with both intervals."""
    table = Table(title=f"{arm} against {baseline}: in percent, mean±sd, and 95% intervals")
    table.add_column("test images")
    table.add_column("score")
    titles = ("arm", "baseline", "difference", "over seeds", "over seeds and test images")
    for title in titles:
        table.add_column(title, justify="right")
    for half in ("verdict", None):
        number = f"{study.part(half).sum():,}"
        where = f"verdict half, {number}" if half else f"all {number}, those of the choice included"
        for one in judged(study, arm, baseline, half):
            cells = [told(values) for values in one.values]
            cells += [in_points(one.over_seeds.mean), one.over_seeds.interval or "-"]
            table.add_row(where, METRICS[one.key].column, *cells, interval(one.over_both))
    return table


def table_of_verdicts(study: Study, arm: str, baselines: Sequence[str]) -> Table:
    """Return what the verdict half decides."""
    table = Table(title=f"{arm} on the verdict half, over seeds and test images")
    table.add_column("question")
    table.add_column("against")
    for title in ("difference", "95% interval", "p", "p after Holm"):
        table.add_column(title, justify="right")
    table.add_column("verdict")
    found = [one for name in baselines for one in judged(study, arm, name, "verdict")]
    tested = [one for key in TESTED for one in found if one.key == key]
    first = [one for one in tested if (one.key, one.baseline) == (TESTED[0], baselines[0])]
    others = [one for one in tested if one not in first]
    for family, rank in ((first, "first"), (others, "second")):
        adjusted = holm([one.over_both.p_value for one in family])
        for one, p_value in zip(family, adjusted, strict=True):
            both = one.over_both
            cells = [in_points(both.mean), interval(both), _p(both.p_value)]
            cells.append("-" if family is first else _p(p_value))
            table.add_row(
                f"{rank}: {METRICS[one.key].column}", one.baseline, *cells, verdict(both, p_value)
            )
    return table


def verdict(both: Estimate, p_value: float | None) -> str:
    """Return what an estimate decides, by a p-value that Holm's step-down may have adjusted."""
    if both.no_verdict:
        return f"none: {', '.join(one.why for one in both.no_verdict)}"
    if p_value > 1 - CONFIDENCE:
        return "not told apart"
    return "higher" if both.mean > 0 else "lower"


def interval(both: Estimate) -> str:
    """Return the bounds in points; - where there are none."""
    if both.low is None or both.high is None:
        return "-"
    return f"[{in_points(both.low)}, {in_points(both.high)}]"


def values_of(scores: Mapping[int, Scores], key: str) -> dict[int, float]:
    """Return the values of a metric that are known, by seed."""
    found = {seed: METRICS[key].get(one) for seed, one in scores.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def told(values: Mapping[int, float]) -> str:
    """Return mean±sd in percent; - for no value."""
    known = [100 * value for value in values.values()]
    if not known:
        return "-"
    sd = f"±{statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{sd}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"
