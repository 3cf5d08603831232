"""Looks at a study while it grows: the level at which each may tell, so that all together keep 5%.

The level of a whole study is spent over its looks in proportion to its rounds (Lan and DeMets 1983;
the power family of Kim and DeMets 1987 with exponent 1). With a handful of rounds Student's t is
far from normal, and so are the levels of normal theory: here they are those of paths of t itself
(Shao and Feng 2007), drawn once from a fixed seed. Several arms go by Holm's step-down on such
levels (Ye, Li, Liu and Yao 2013): where one is told, the others share what it leaves.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.intervals import FEWEST_SEEDS
from lmsm_cli.comparison.two_way import Share, half_width, p_value

ALPHA = 0.05
MOST_LOOKS = 5
# Paths of t: a level of 0.001 is that of 400 of them, known within a twentieth.
_PATHS = 400_000
_AT_A_TIME = 50_000


def looks_at(rounds: int) -> tuple[int, ...]:
    """Return after how many of the rounds to look: from the third on, at most five times, evenly.

    >>> looks_at(4), looks_at(12), looks_at(2)
    ((3, 4), (3, 5, 8, 10, 12), ())
    """
    number = min(MOST_LOOKS, rounds - FEWEST_SEEDS + 1)
    if number < 1:
        return ()
    return tuple(np.linspace(FEWEST_SEEDS, rounds, number).round().astype(int).tolist())


@cache
def levels_of(looks: tuple[int, ...], alpha: float = ALPHA) -> tuple[float, ...]:
    """Return the level of the two-sided p-value at each look.

    Under no effect, p-values of Student's t over the rounds so far fall to such a level at some
    look in a share `alpha` of studies.

    Args:
        looks: The rounds done at each look, rising, 3 or more.
        alpha: The level of all looks together.
    """
    found = _p_values(looks)
    is_open = np.ones(len(found), dtype=bool)
    levels, spent = [], 0.0
    for number, rounds in enumerate(looks):
        share = alpha * rounds / looks[-1]
        values = np.sort(found[is_open, number])
        count = max(1, round((share - spent) * len(found)))
        levels.append(float(values[count - 1]))
        is_open &= found[:, number] > levels[-1]
        spent = share
    return tuple(levels)


@cache
def _p_values(looks: tuple[int, ...]) -> NDArray[np.float64]:
    """Return p-values (paths, looks) of normal rounds without effect."""
    from scipy.special import stdtr

    draws = np.random.RandomState(0)  # its stream is frozen for good, default_rng's is not
    parts = []
    for _ in range(_PATHS // _AT_A_TIME):
        rounds = draws.standard_normal((_AT_A_TIME, looks[-1]))
        p = [_t_of(rounds[:, :done]) for done in looks]
        tails = [stdtr(done - 1, -np.abs(t)) for t, done in zip(p, looks, strict=True)]
        parts.append(2 * np.stack(tails, axis=1))
    return np.concatenate(parts)


def _t_of(rounds: NDArray[np.float64]) -> NDArray[np.float64]:
    mean, sd = rounds.mean(axis=1), rounds.std(axis=1, ddof=1)
    t: NDArray[np.float64] = mean / (sd / math.sqrt(rounds.shape[1]))
    return t


@dataclass(frozen=True)
class Standing:
    """How much better than the baseline an arm is, after some rounds."""

    mean: float
    """The mean difference of the score that the study asks about."""
    shares: tuple[Share, ...]
    """The variance of the mean by its sources; empty while there are too few rounds."""

    @property
    def p_value(self) -> float | None:
        """Two-sided; None while nothing is known of chance."""
        return p_value(self.mean, list(self.shares)) if self.shares else None

    def half_width(self, level: float = ALPHA) -> float | None:
        """Return half of the interval that leaves out `level`."""
        return half_width(list(self.shares), level) if self.shares else None


def told_at(
    standings: Mapping[str, Standing],
    settled: Mapping[str, str],
    looks: Sequence[int],
    look: int,
    family: int,
) -> dict[str, str]:
    """Return which arms a look tells from the baseline: their names, and `better` or `worse`.

    Args:
        standings: Of the arms that are still open.
        settled: What earlier looks told.
        looks: The rounds of all looks.
        look: The number of this one, from 0.
        family: How many arms the level of the study is for, the settled ones included.
    """
    told: dict[str, str] = {}
    known = {name: one.p_value for name, one in standings.items() if name not in settled}
    order = sorted((p, name) for name, p in known.items() if p is not None)
    for p, name in order:
        left = family - len(settled) - len(told)
        if p > levels_of(tuple(looks), ALPHA / max(left, 1))[look]:
            break
        told[name] = "better" if standings[name].mean > 0 else "worse"
    return told


def chance_to_tell(standing: Standing, looks: Sequence[int], look: int, arms: int) -> float:
    """Return the chance that the last look tells an arm, if the rounds go on as they have gone.

    It is the conditional power at the current trend (Lan and Wittes 1988): the first share of the
    variance falls with the rounds, the others stay.

    Args:
        standing: Of the arm now.
        looks, look: The rounds of all looks, and the number of this one.
        arms: How many the level is shared by.
    """
    from scipy.special import ndtr

    if not standing.shares or look + 1 >= len(looks):
        return 0.0
    done, last = looks[look], looks[-1]
    first, *others = standing.shares
    then = Share(first.variance * done / last, last - 1)
    level = levels_of(tuple(looks), ALPHA / max(arms, 1))[-1]
    needed = half_width([then, *others], level)
    spread = math.sqrt(max(first.variance * done * (last - done), 0.0)) / last
    if spread == 0:
        return float(abs(standing.mean) > needed)
    above = ndtr((standing.mean - needed) / spread)
    return float(above + ndtr((-standing.mean - needed) / spread))
