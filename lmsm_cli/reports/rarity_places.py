"""What stands where in the picture of accuracy against training images: dots, lines, regions."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

_MOST_TICKS = 7
# How far classes of equal counts, and lines, stand apart, as a share of the axis.
_BESIDE, _LINES_BESIDE = 0.05, 0.012
_RAREST_FIRST = ("few", "medium", "many")


@dataclass(frozen=True)
class Interval:
    """The 95% interval of a mean accuracy, and what another study would draw anew."""

    low: float
    high: float
    over: str
    """As `Over` has it."""


@dataclass(frozen=True)
class Dot:
    """The accuracy of a class, or of classes of similar counts, and where it stands."""

    names: tuple[str, ...]
    train_counts: tuple[int, ...]
    shots: str
    """Whether its classes are many, medium or few; empty where no class is rare."""
    mean: float
    interval: Interval | None
    x: float = 0.0
    """Training images, a little aside where another dot would be hidden."""


@dataclass(frozen=True)
class Line:
    """The dots of one arm, commonest class first."""

    number: int
    label: str
    is_baseline: bool
    dots: tuple[Dot, ...]

    def trend(self) -> list[tuple[float, float]]:
        """Return what the line runs through: at each number of training images the mean dot.

        Of classes with equal counts it is their mean, all along the dots.
        """
        alike: dict[tuple[int, ...], list[Dot]] = {}
        for dot in self.dots:
            key = dot.train_counts if len(set(dot.train_counts)) > 1 else dot.train_counts[:1]
            alike.setdefault(key, []).append(dot)
        means = [
            (_geometric_mean(dot.x for dot in dots), sum(dot.mean for dot in dots) / len(dots))
            for dots in alike.values()
        ]
        if len(means) > 1:
            return means
        return [(self.dots[0].x, means[0][1]), (self.dots[-1].x, means[0][1])]


@dataclass(frozen=True)
class Region:
    """A stretch of the axis on which classes are many, medium or few."""

    name: str
    low: float
    high: float
    counts: tuple[int, int]
    """The smallest and the largest number of training images of its classes."""

    @property
    def title(self) -> str:
        """The name, with the counts that it stands for."""
        least, most = self.counts
        if least == most:
            return f"{self.name}: {least:,}"
        return {
            "few": f"few: \N{LESS-THAN OR EQUAL TO}{most:,}",
            "many": f"many: \N{GREATER-THAN OR EQUAL TO}{least:,}",
        }.get(self.name, self.name)


@dataclass(frozen=True)
class RarityChart:
    """The picture before it is drawn: lines over a logarithmic axis of training images."""

    lines: tuple[Line, ...]
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    regions: tuple[Region, ...]
    """Rarest first; empty where no class is rare, or the lines have other counts."""
    names: tuple[tuple[float, str], ...]
    """Where each class stands, commonest first; empty where dots are shared or counts differ."""
    notes: tuple[str, ...]
    """What a reader must know: what dots and bars are, and what was left out."""

    @property
    def axis_title(self) -> str:
        """What stands below the axis."""
        title = "training images of the class (log scale)"
        return f"{title}, the rarest at the right" if self.has_tail else title

    @property
    def has_tail(self) -> bool:
        """Whether some class is rare beside another."""
        return any(dot.shots for line in self.lines for dot in line.dots)


class Places:
    """Where dots stand on the logarithmic axis of training images."""

    def __init__(self, dots: Sequence[Dot], num_lines: int) -> None:
        self._positive = sorted({n for dot in dots for n in dot.train_counts if n > 0}) or [1]
        self._has_zero = any(0 in dot.train_counts for dot in dots)
        values = sorted({math.log10(self._x(dot)) for dot in dots})
        self._span = values[-1] - values[0] or 1.0
        gap = min((b - a for a, b in pairwise(values)), default=self._span)
        self._num_lines = num_lines
        self._line_step = min(_LINES_BESIDE * self._span, 0.5 * gap / num_lines)
        self._gaps = values

    def _x(self, dot: Dot) -> float:
        """Return a dot's training images; 0 has a place of its own below all others."""
        return _geometric_mean(n or self._positive[0] / 3 for n in dot.train_counts)

    def placed(self, dots: Sequence[Dot], line: int | None = None) -> tuple[Dot, ...]:
        """Return dots with their places: those of equal counts side by side, lines a bit apart."""
        alike: dict[float, list[Dot]] = {}
        for dot in dots:
            alike.setdefault(math.log10(self._x(dot)), []).append(dot)
        aside = 0.0 if line is None else (line - (self._num_lines - 1) / 2)
        placed = []
        for value, some in alike.items():
            step = self._step(value, len(some))
            line_step = min(self._line_step, 0.7 * step / self._num_lines)
            for place, dot in enumerate(some):
                # the axis runs from common to rare: what comes first stands further up
                moved = value - (place - (len(some) - 1) / 2) * step - aside * line_step
                placed.append(replace(dot, x=10**moved))
        return tuple(placed)

    def _step(self, value: float, number: int) -> float:
        """Return how far dots of one count stand apart, so that no other count is reached."""
        distances = (abs(value - other) for other in self._gaps if other != value)
        room = min(distances, default=number * _BESIDE * self._span / 0.6)
        return min(_BESIDE * self._span, 0.6 * room / number)

    def ends(self, lines: Iterable[Line]) -> tuple[float, float]:
        """Return the lower and the upper end of the axis."""
        xs = [dot.x for line in lines for dot in line.dots]
        room = 10 ** (0.04 * self._span)
        return min(xs) / room, max(xs) * room

    def names(self, dots: Sequence[Dot]) -> tuple[tuple[float, str], ...]:
        """Return where the names of classes stand, none where dots are shared."""
        if any(len(dot.names) > 1 for dot in dots):
            return ()
        return tuple((dot.x, dot.names[0]) for dot in self.placed(dots))

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Return round numbers of training images, few of them; the ends where none is round."""
        low, high = self._positive[0], self._positive[-1]
        found: list[int] = []
        for steps in ((1, 2, 5), (1, 3), (1,)):
            powers = range(len(str(high)))
            found = [n for p in powers for s in steps if low <= (n := s * 10**p) <= high]
            if len(found) <= _MOST_TICKS:
                break
        if len(found) < 2:
            found = sorted({low, high})
        zero = [(low / 3, "0")] if self._has_zero else []
        return (*zero, *((float(n), f"{n:,}") for n in found))

    def regions(self, lines: Sequence[Line]) -> tuple[Region, ...]:
        """Return the regions that hold dots, rarest first, each up to half way to the next."""
        dots = [dot for line in lines for dot in line.dots]
        held = [[dot for dot in dots if dot.shots == name] for name in _RAREST_FIRST]
        named = [(name, some) for name, some in zip(_RAREST_FIRST, held, strict=True) if some]
        low, high = self.ends(lines)
        borders = [
            math.sqrt(max(dot.x for dot in a) * min(dot.x for dot in b))
            for (_, a), (_, b) in pairwise(named)
        ]
        edges = pairwise([low, *borders, high])
        regions = []
        for (name, some), (start, end) in zip(named, edges, strict=False):
            counts = [n for dot in some for n in dot.train_counts]
            regions.append(Region(name, start, end, (min(counts), max(counts))))
        return tuple(regions)


def _geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log10(value) for value in values]
    return 10 ** (sum(logs) / len(logs))
