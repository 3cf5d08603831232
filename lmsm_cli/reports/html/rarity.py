"""Accuracy of each class against its training images on the report page: a line for each group."""

import math
from dataclasses import replace

from markupsafe import Markup

from lmsm_cli.reports.figures import label_of, spread
from lmsm_cli.reports.html import svg
from lmsm_cli.reports.rarity_places import Dot, Line, RarityChart

_WIDE, _NARROW = (960, 330), (330, 250)
"""Width, and height of the plotting area, on a desk and on a phone: letters keep their size."""
_SLANT = 60
_REGION_AT, _TOP = 1.055, 1.11
_NAME_LENGTH = 16
_TITLE = "Accuracy of each class by its training images"


def rarity_picture(chart: RarityChart) -> Markup:
    """Return the drawing twice, of which page.css shows the one that fits the window."""
    pictures = [
        Markup('<div class="{}">{}</div>').format(kind, _drawn(chart, *size))
        for kind, size in (("wide", _WIDE), ("narrow", _NARROW))
    ]
    return svg.joined(pictures)


def _drawn(chart: RarityChart, width: int, height: int) -> Markup:
    frame = _frame(chart, width, height)
    marks = [
        *_regions(frame, chart),
        frame.axes("training images (log scale), rarest at the right"),
    ]
    marks += _names(frame, chart)
    for line in chart.lines:
        marks += _line(frame, line)
    marks += _numbers(frame, chart.lines)
    lines = ", ".join(f"{one.number}: {one.label}" for one in chart.lines)
    return svg.picture(width, frame.height, f"{_TITLE}, in percent; lines: {lines}", *marks)


def _frame(chart: RarityChart, width: int, height: int) -> svg.Frame:
    """Return the frame; the names of the classes have their room above it and at its right."""
    longest = max((len(_short(name)) for _, name in chart.names), default=0) * svg.LETTER
    slant = math.radians(_SLANT)
    top = 16 + math.ceil(longest * math.sin(slant) + (10 if longest else 0))
    last = len(_short(chart.names[-1][1])) * svg.LETTER if chart.names else 0
    right = max(28, math.ceil(last * math.cos(slant)))
    across = svg.Scale(
        -math.log10(chart.high),
        -math.log10(chart.low),
        tuple((-math.log10(value), name) for value, name in chart.ticks),
    )
    percent = tuple((n / 5, f"{20 * n}") for n in range(6))
    up = svg.Scale(0, _TOP if len(chart.regions) > 1 else 1.0, percent)
    frame = svg.Frame(across, up, width=width, height=height + top, right=right, top=top)
    return replace(frame, x=replace(across, ticks=_apart(frame)))


def _apart(frame: svg.Frame) -> tuple[tuple[float, str], ...]:
    """Return the ticks that have room beside each other."""
    kept: list[tuple[float, str]] = []
    for value, name in frame.x.ticks[::-1]:  # rarest last, the commonest first
        left = frame.at(value, 0)[0] - len(name) * svg.LETTER / 2
        if not kept or left > frame.at(kept[-1][0], 0)[0] + (len(kept[-1][1]) / 2 + 1) * svg.LETTER:
            kept.append((value, name))
    return tuple(kept)


def _regions(frame: svg.Frame, chart: RarityChart) -> list[Markup]:
    """Return the shade behind the rarest classes, and the names of the regions."""
    if len(chart.regions) < 2:
        return []
    marks = []
    for place, region in enumerate(chart.regions):
        left, right = (frame.at(-math.log10(x), 0)[0] for x in (region.high, region.low))
        if place == 0:
            corners = [(left, frame.top), (right, frame.top)]
            floor = frame.height - frame.bottom
            corners += [(right, floor), (left, floor)]
            marks.append(svg.path(corners, "shade", "the rarest classes", closed=True))
        has_room = len(region.title) * svg.LETTER < right - left
        height = frame.at(0, _REGION_AT)[1] + 4
        title = region.title if has_room else region.name
        marks.append(svg.text((left + right) / 2, height, title, "mid name"))
    return marks


def _names(frame: svg.Frame, chart: RarityChart) -> list[Markup]:
    """Return the names of the classes above the frame, slanted, each with a line to its place."""
    places = [frame.at(-math.log10(x), 0)[0] for x, _ in chart.names]
    distance = 12 / math.sin(math.radians(_SLANT))
    marks = []
    moved = spread(places, distance, frame.width - frame.right)
    for (_, name), place, at in zip(chart.names, places, moved, strict=True):
        marks.append(svg.line(place, frame.top, at, frame.top - 6, "axis"))
        marks.append(svg.text(at + 4, frame.top - 9, _short(name), turned=-_SLANT))
    return marks


def _short(name: str) -> str:
    name = label_of(name)
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def _line(frame: svg.Frame, line: Line) -> list[Markup]:
    style, name = svg.style_of(line.number), f"{line.number}: {line.label}"
    base = " base" if line.is_baseline else ""
    through = [frame.at(-math.log10(x), mean) for x, mean in line.trend()]
    marks = [svg.path(through, f"line {style}{base}", name)]
    for dot in line.dots:
        x, y = frame.at(-math.log10(dot.x), dot.mean)
        if dot.interval:
            low, high = (
                frame.at(-math.log10(dot.x), end)[1]
                for end in (dot.interval.low, dot.interval.high)
            )
            marks.append(svg.line(x, low, x, high, f"line whole thin {style}"))
            marks += [svg.line(x - 3, e, x + 3, e, f"line whole thin {style}") for e in (low, high)]
        marks.append(svg.marker(x, y, line.number, f"{name}, {_spoken(dot)}"))
    return marks


def _spoken(dot: Dot) -> str:
    """Return what a dot says where a pointer rests on it."""
    least, most = min(dot.train_counts), max(dot.train_counts)
    images = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    who = dot.names[0] if len(dot.names) == 1 else f"{len(dot.names)} classes"
    text = f"{who}, {images} training images: {100 * dot.mean:.1f}%"
    if dot.interval is None:
        return text
    ends = f"{100 * dot.interval.low:.1f} to {100 * dot.interval.high:.1f}"
    return f"{text}, 95% interval over {dot.interval.over} {ends}"


def _numbers(frame: svg.Frame, lines: tuple[Line, ...]) -> list[Markup]:
    """Return the groups' numbers at the rare ends of their lines."""
    if len(lines) < 2:
        return []
    ends = [frame.at(-math.log10(one.trend()[-1][0]), one.trend()[-1][1]) for one in lines]
    heights = spread([y + 4 for _, y in ends], 12, frame.height - frame.bottom + 4)
    return [
        svg.text(
            frame.width - frame.right + 6,
            height,
            str(one.number),
            f"tag {svg.style_of(one.number)}",
        )
        for one, height in zip(lines, heights, strict=True)
    ]
