"""Training curves: metrics.jsonl of the runs of a group as one line with a band, pure data.

None, and what is too large for any measure, leaves a gap.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# A line of more points than a chart has pixels only makes the page heavy.
MAX_POINTS = 160
_LARGEST = 1e100  # of larger numbers not even a mean is sure to be finite


@dataclass(frozen=True)
class Point:
    """The mean over runs in one epoch, and the smallest and largest of them."""

    epoch: float
    mean: float
    low: float
    high: float


def curve(runs: Iterable[Sequence[Mapping[str, Any]]], key: str) -> tuple[Point, ...]:
    """Return a value of metrics.jsonl over the epochs; `runs` are the rows of each run."""
    values: dict[float, list[float]] = {}
    for rows in runs:
        for row in rows:
            epoch, value = row.get("epoch"), row.get(key)
            if epoch is not None and value is not None and max(abs(epoch), abs(value)) < _LARGEST:
                values.setdefault(epoch, []).append(value)
    points = [
        Point(epoch, statistics.fmean(known), min(known), max(known))
        for epoch, known in sorted(values.items())
    ]
    return tuple(thinned(points))


def thinned(points: Sequence[Point]) -> Sequence[Point]:
    """Return at most MAX_POINTS points: first, last, and lowest and highest of each stretch.

    So a spike of one epoch is still seen.
    """
    if len(points) <= MAX_POINTS:
        return points
    length = math.ceil((len(points) - 2) / (MAX_POINTS // 2 - 1))
    kept = {points[0].epoch: points[0], points[-1].epoch: points[-1]}
    for start in range(1, len(points) - 1, length):
        stretch = points[start : min(start + length, len(points) - 1)]
        for extreme in (min, max):
            point = extreme(stretch, key=lambda one: one.mean)
            kept[point.epoch] = point
    return [kept[epoch] for epoch in sorted(kept)]
