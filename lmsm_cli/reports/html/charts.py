"""The charts of the report page: training curves, differences to the baseline, calibration.

They take plain data and return one inline picture each; svg.py has the scales and the marks.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from lmsm_cli.comparison.intervals import Difference, in_points
from lmsm_cli.metrics import ReliabilityBin
from lmsm_cli.reports.figures import spread
from lmsm_cli.reports.html import svg
from lmsm_cli.reports.html.curves import Point
from lmsm_cli.reports.verdicts import in_words
from lmsm_cli.scoring import reliability_bounds

# More numbers at the ends of lines cannot be kept apart.
_NAMED_LINES = 12
_DOTTED_POINTS = 12
# The gap of a bin with a smaller share of the images is chance, and would catch the eye.
_SEEN = 0.01


@dataclass(frozen=True)
class Series:
    """The line of one group: its number in the tables, its style in the drawing, its label."""

    number: int
    label: str
    points: tuple[Point, ...]

    @property
    def style(self) -> str:
        """The classes of page.css."""
        return svg.style_of(self.number)

    @property
    def name(self) -> str:
        """What the line is called where a pointer rests on it."""
        return f"{self.number}: {self.label}"


def curve_chart(title: str, series: Sequence[Series], *, percent: bool, may_bend: bool) -> Markup:
    """Return lines over the epochs, with a band from the lowest to the highest run of a group."""
    points = [point for one in series for point in one.points]
    bounds = [bound for point in points for bound in (point.low, point.high)]
    x = svg.epoch_scale([point.epoch for point in points])
    y = svg.scale_of(bounds, percent=percent, may_bend=may_bend)
    frame = svg.Frame(x, y, left=max(44, y.room()))
    bands = [_band(frame, one) for one in series if any(p.low < p.high for p in one.points)]
    lines = [mark for one in series for mark in _line(frame, one)]
    scale = [svg.text(frame.left, 9, "log scale")] if frame.y.is_log else []
    spoken = f"{title} by epoch, lines: {', '.join(one.name for one in series)}"
    marks = [frame.axes("epoch"), *scale, *bands, *lines, *_line_names(frame, series)]
    return svg.picture(frame.width, frame.height, spoken, *marks)


def _band(frame: svg.Frame, series: Series) -> Markup:
    over = [frame.at(point.epoch, point.high) for point in series.points]
    under = [frame.at(point.epoch, point.low) for point in reversed(series.points)]
    return svg.path([*over, *under], f"band {series.style}", series.name, closed=True)


def _line(frame: svg.Frame, series: Series) -> list[Markup]:
    places = [frame.at(point.epoch, point.mean) for point in series.points]
    marks = [svg.path(places, f"line {series.style}", series.name)]
    if len(places) <= _DOTTED_POINTS:
        for point, (x, y) in zip(series.points, places, strict=True):
            spoken = f"{series.name}, epoch {point.epoch:g}: {point.mean:.4g}"
            marks.append(svg.marker(x, y, series.number, spoken, size=2.5))
    return marks


def _line_names(frame: svg.Frame, series: Sequence[Series]) -> list[Markup]:
    """Return the groups' numbers at the ends of their lines."""
    if not 1 < len(series) <= _NAMED_LINES:
        return []
    ends = [frame.at(one.points[-1].epoch, one.points[-1].mean) for one in series]
    heights = spread([y + 4 for _, y in ends], 11, frame.height - frame.bottom + 4)
    return [
        svg.text(x + 7, height, str(one.number), f"tag {one.style}")
        for one, (x, _), height in zip(series, ends, heights, strict=True)
    ]


@dataclass(frozen=True)
class Contrast:
    """A group's difference to the baseline, to be drawn in a row."""

    number: int
    label: str
    difference: Difference


def difference_chart(title: str, rows: Sequence[Contrast]) -> Markup:
    """Return a row a group: its difference to the baseline in points, with the interval."""
    values = [
        100 * value
        for row in rows
        for value in (row.difference.mean, row.difference.low, row.difference.high, 0.0)
        if value is not None
    ]
    height = 50 + 24 * len(rows)
    empty = svg.Scale(0, len(rows) or 1, ())
    frame = svg.Frame(svg.scale_of(values), empty, height=height, left=30, right=22, bottom=38)
    zero = frame.at(0, 0)[0]
    marks = [
        frame.axes("percentage points"),
        svg.line(zero, frame.top, zero, height - frame.bottom, "zero"),
    ]
    for place, row in enumerate(rows):
        marks += _contrast(frame, row, len(rows) - place - 0.5)
    return svg.picture(frame.width, height, f"{title}: differences to the baseline", *marks)


def _contrast(frame: svg.Frame, row: Contrast, place: float) -> list[Markup]:
    one, style = row.difference, svg.style_of(row.number)
    x, y = frame.at(100 * one.mean, place)
    marks = [svg.text(frame.left - 8, y + 4, str(row.number), f"tag end {style}")]
    spoken = f"{row.number}: {row.label}: {in_points(one.mean)}, {in_words(one.verdict)}"
    if one.low is not None and one.high is not None:
        low, high = (frame.at(100 * end, place)[0] for end in (one.low, one.high))
        marks.append(svg.path([(low, y), (high, y)], f"line whole {style}", spoken))
        marks += [svg.line(end, y - 4, end, y + 4, f"line whole {style}") for end in (low, high)]
        spoken += f", 95% interval {in_points(one.low)} to {in_points(one.high)}"
    return [*marks, svg.marker(x, y, row.number, spoken)]


def merged_bins(runs: Iterable[Sequence[ReliabilityBin]]) -> list[ReliabilityBin]:
    """Return the reliability bins of several runs as one's: means weighted by images."""
    merged: dict[tuple[float, float], list[float]] = {}
    for bins in runs:
        for one in bins:
            sums = merged.setdefault(reliability_bounds(one.confidence), [0.0, 0.0, 0.0])
            for i, value in enumerate((1.0, one.confidence, one.accuracy)):
                sums[i] += one.count * value
    return [
        ReliabilityBin(
            count=int(count), confidence=min(1.0, sure / count), accuracy=min(1.0, right / count)
        )
        for _, (count, sure, right) in sorted(merged.items())
        if count
    ]


def reliability_chart(number: int, label: str, bins: Sequence[ReliabilityBin]) -> Markup:
    """Return accuracy over confidence, bin by bin; on the diagonal the two agree."""
    side = svg.Scale(0, 1, tuple((tick / 4, f"{25 * tick}") for tick in range(5)))
    frame = svg.Frame(side, side, width=250, height=236, right=14)
    marks = [frame.axes("confidence, %"), svg.line(*frame.at(0, 0), *frame.at(1, 1), "zero")]
    total, style = sum(one.count for one in bins), svg.style_of(number)
    for one in bins:
        x, y = frame.at(one.confidence, one.accuracy)
        spoken = f"{one.count} images: confidence {one.confidence:.1%}, right {one.accuracy:.1%}"
        if one.count >= _SEEN * total:
            marks.append(svg.line(x, y, x, frame.at(0, one.confidence)[1], f"gap {style}"))
        marks.append(svg.marker(x, y, number, spoken, size=2.5 + 5 * (one.count / total) ** 0.5))
    return svg.picture(frame.width, frame.height, f"Reliability of {number}: {label}", *marks)
