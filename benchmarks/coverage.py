"""Do the two-way intervals hold? Studies by simulation, of which the truth is known.

    python benchmarks/coverage.py                                   # all of it: an hour
    python benchmarks/coverage.py --only coverage --seeds 3 --images 10 --studies 10000

Each net's answer is drawn from a logistic model: the logit of being right has normal effects of the
image, of image and method, of seed and method, and of seed, method and class. A study compares two
methods on the mean accuracy of three rare classes. Printed as Markdown: how often the intervals
cover the true difference; how often any of five arms without an effect gets a verdict after Holm;
how often a difference is told, beside `planning.power` of the true components.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.crossed import Strata, paired, unpaired
from lmsm_cli.comparison.planning import power
from lmsm_cli.comparison.two_way import Components, Over, two_way
from lmsm_cli.comparison.verdicts import holm

# Logits of an easy, a middling and a hard rare class: about 54, 46 and 37% are right.
BASES = (0.3, -0.3, -1.0)
# With these the images of a class vary by half as much as the single answers about them.
IMAGE, IMAGE_BY_METHOD = 2.0, 2.0
EFFECTS = {"small": 0.15, "usual": 0.5, "large": 1.5}
"""Standard deviation of the effects of seed, and of seed and class, of each method.

The differences of the mean accuracy vary over seeds by 3, 10 and 24 points.
"""
GAP = 0.5
"""The logit by which one method is better, where there is an effect: 5 to 6 points."""
POWER_GAPS = (0.25, 0.5, 1.0)
ARMS = 5
LOWEST, HIGHEST = 0.935, 0.98
MOST_OFF = 0.05
# Seeds and images a class of the study in which the true components are measured: to 3%.
BIG = (2500, 1000)


@dataclass(frozen=True)
class Cell:
    """One kind of study."""

    effects: str
    seeds: int
    images: int
    """Test images of each class."""

    @property
    def strata(self) -> Strata:
        """The test images by class."""
        labels = np.repeat(np.arange(len(BASES)), self.images)
        return Strata.of(labels, len(BASES))

    def random(self, seed: int) -> np.random.Generator:
        """Return the cell's own stream of numbers, whatever other cells are simulated."""
        effects = list(EFFECTS).index(self.effects)
        return np.random.default_rng([seed, effects, self.seeds, self.images])


@dataclass(frozen=True)
class Row:
    """A line of a table: its shares, column by column, and whether the target is met."""

    columns: list[list[float]]
    met: bool

    @property
    def text(self) -> str:
        """The columns in percent, and the verdict."""
        told = (" / ".join(f"{100 * share:.1f}" for share in column) for column in self.columns)
        return " | ".join([*told, "met" if self.met else "**MISSED**"])


class Part(NamedTuple):
    """A table: how many studies a cell has, its columns, and what fills it."""

    studies: int
    columns: tuple[str, ...]
    rows: Callable[[list[Cell], int, int], list[Row]]


def answers(cell: Cell, gaps: tuple[float, ...], random: np.random.Generator) -> list[NDArray]:
    """Draw one study: whether the nets (S, N) of each method are right, on the same images.

    The first method has no gap, each other its own, in logits.
    """
    number, classes = cell.images * len(BASES), len(BASES)
    image = np.repeat(BASES, cell.images) + random.normal(0, IMAGE, number)
    found = []
    for gap in (0.0, *gaps):
        own = image + random.normal(gap, IMAGE_BY_METHOD, number)
        sd = EFFECTS[cell.effects]
        seeds = random.normal(0, sd, (cell.seeds, 1)) + random.normal(0, sd, (cell.seeds, classes))
        logits = own.astype(np.float32) + np.repeat(seeds, cell.images, axis=1).astype(np.float32)
        uniform = random.random(logits.shape, dtype=np.float32)
        # uniform < 1 / (1 + exp(-logit)), without a division
        found.append(uniform * (1 + np.exp(-logits)) < 1)
    return found


def true_difference(effects: str, gap: float) -> float:
    """Return the expected difference: the logistic function over all normal effects at once."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    sd = math.sqrt(IMAGE**2 + IMAGE_BY_METHOD**2 + 2 * EFFECTS[effects] ** 2)

    def rate(shift: float) -> float:
        logits = np.add.outer(np.array(BASES) + shift, sd * nodes)
        return float((weights / (1 + np.exp(-logits))).sum(axis=1).mean() / weights.sum())

    return rate(gap) - rate(0.0)


def coverage(cell: Cell, studies: int, seed: int) -> dict[str, float]:
    """Return the shares of studies in which each interval covers the true difference."""
    random, strata = cell.random(seed), cell.strata
    weights = strata.class_weights(list(range(len(BASES))))
    truth = true_difference(cell.effects, GAP)
    hits = {"two-way": 0, "unpaired": 0, "over seeds alone": 0}
    for _ in range(studies):
        baseline, own = answers(cell, (GAP,), random)
        pairs = paired(own, baseline, strata)
        found = (
            two_way(pairs, weights),
            two_way(unpaired(own, baseline, strata), weights),
            two_way(pairs, weights, over=Over.SEEDS),
        )
        for name, one in zip(hits, found, strict=True):
            # no interval, no verdict: nothing false is said
            hits[name] += one.low is None or one.low <= truth <= one.high
    return {name: number / studies for name, number in hits.items()}


def false_verdicts(cell: Cell, studies: int, seed: int) -> float:
    """Return the share of studies without any effect in which an arm gets a verdict after Holm."""
    random, strata = cell.random(seed), cell.strata
    weights = strata.class_weights(list(range(len(BASES))))
    wrong = 0
    for _ in range(studies):
        baseline, *arms = answers(cell, (0.0,) * ARMS, random)
        found = [two_way(paired(own, baseline, strata), weights).p_value for own in arms]
        wrong += any(p is not None and p < 0.05 for p in holm(found))
    return wrong / studies


@cache
def true_components(effects: str, gap: float, seed: int) -> tuple[float, float, float]:
    """Return the variances of seeds, of images and of the residuals, by their definitions.

    In one large study; of images and residuals the mean over the classes, which weigh alike.
    """
    cell = Cell(effects, *BIG)
    baseline, own = answers(cell, (gap,), cell.random(seed))
    d = own.astype(float) - baseline
    residual, image = [], []
    for one in np.split(d, len(BASES), axis=1):
        rows, columns = one.mean(axis=1, keepdims=True), one.mean(axis=0, keepdims=True)
        square = ((one - rows - columns + one.mean()) ** 2).mean()
        residual.append(square)
        image.append(columns.var() - square / len(one))
    of_seed = d.mean(axis=1).var(ddof=1) - np.mean(residual) / d.shape[1]
    return of_seed, float(np.mean(image)), float(np.mean(residual))


def powers(cell: Cell, gap: float, studies: int, seed: int) -> tuple[float, float]:
    """Return how often a difference is told: predicted from the true components, and simulated."""
    of_seed, image, residual = true_components(cell.effects, gap, seed)
    number = cell.images * len(BASES)
    components = Components(
        seed=((of_seed + residual / number) / cell.seeds,),
        seeds=(cell.seeds,),
        image=(image + residual / cell.seeds) / number,
        both=residual / cell.seeds / number,
        image_degrees=number - len(BASES),
    )
    predicted = power(components, true_difference(cell.effects, gap), cell.seeds)
    random, strata = cell.random(seed + 1), cell.strata
    weights = strata.class_weights(list(range(len(BASES))))
    told = 0
    for _ in range(studies):
        baseline, own = answers(cell, (gap,), random)
        one = two_way(paired(own, baseline, strata), weights)
        told += one.p_value is not None and one.p_value < 0.05
    return predicted, told / studies


def rows_of_coverage(cells: list[Cell], studies: int, seed: int) -> list[Row]:
    """Return how often each interval covers the truth; that over seeds alone has no target."""
    found = [coverage(cell, studies, seed) for cell in cells]
    bounded = [one[name] for one in found for name in ("two-way", "unpaired")]
    columns = [[one[name] for one in found] for name in found[0]]
    return [Row(columns, all(LOWEST <= share <= HIGHEST for share in bounded))]


def rows_of_holm(cells: list[Cell], studies: int, seed: int) -> list[Row]:
    """Return how often anything is told; the target is 5% and two standard errors."""
    found = [false_verdicts(cell, studies, seed) for cell in cells]
    return [Row([found], max(found) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / studies))]


def rows_of_power(cells: list[Cell], studies: int, seed: int) -> list[Row]:
    """Return, for each difference, its size, and how often it is told."""
    rows = []
    for gap in POWER_GAPS:
        found = [powers(cell, gap, studies, seed) for cell in cells]
        met = all(abs(predicted - simulated) <= MOST_OFF for predicted, simulated in found)
        size = true_difference(cells[0].effects, gap)
        rows.append(Row([[size], *map(list, zip(*found, strict=True))], met))
    return rows


PARTS = {
    "coverage": Part(2000, ("two-way", "unpaired", "over seeds alone"), rows_of_coverage),
    "holm": Part(20000, ("any verdict",), rows_of_holm),
    "power": Part(2000, ("difference", "predicted", "simulated"), rows_of_power),
}


def tell(name: str, given: argparse.Namespace) -> None:
    """Print the table of a part as it comes: the numbers of seeds side by side in a cell of it."""
    part, studies = PARTS[name], given.studies or PARTS[name].studies
    seeds = " / ".join(map(str, given.seeds))
    print(f"\n{name} with {seeds} seeds, in percent of {studies:,} studies a cell\n")
    print(f"| effects of seeds | images a class | {' | '.join(part.columns)} | target |")
    print("| --- | ---: |" + " ---: |" * len(part.columns) + " --- |")
    for effects, images in product(given.effects, given.images):
        cells = [Cell(effects, seeds, images) for seeds in given.seeds]
        for row in part.rows(cells, studies, given.seed):
            print(f"| {effects} | {images:,} | {row.text} |", flush=True)


def main() -> int:
    """Print the tables; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, help="of each cell, in place of each part's number")
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    parser.add_argument("--images", type=int, nargs="+", default=[10, 60, 500, 1000])
    parser.add_argument("--effects", nargs="+", choices=EFFECTS, default=list(EFFECTS))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seed", type=int, default=0, help="of the simulation")
    given = parser.parse_args()
    for name in given.only:
        tell(name, given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
