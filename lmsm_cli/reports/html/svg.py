"""Charts as inline SVG: scales, axes, and what is drawn between them.

A chart is Markup made of escaped text and numbers; colours, dashes and fonts are classes of
page.css, so that light and dark share one drawing. To add a chart, compose `Frame` and the marks
below it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

MINUS = "\u2212"  # as wide as a plus, unlike a hyphen
LETTER = 6.2
"""Pixels of a letter of page.css on average."""
_STYLES = 8  # colours, and dashes, in page.css
_LOG_FROM = 50  # from this ratio of largest to smallest on, an axis is logarithmic
_NEXT_TO_NOTHING = 1e-9
_TICKS = 4


@dataclass(frozen=True)
class Scale:
    """Values on an axis: where it ends, and which of them are named."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return the place of a value as a fraction of the axis; what lies beyond is on its end."""
        low, high, value = (self._bent(one) for one in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))

    def room(self) -> int:
        """Return the pixels that the names of the ticks take beside a vertical axis."""
        return 10 + math.ceil(LETTER * max((len(name) for _, name in self.ticks), default=0))

    def _bent(self, value: float) -> float:
        return math.log10(max(value, self.low)) if self.is_log else value


def scale_of(values: Iterable[float], *, percent: bool = False, may_bend: bool = False) -> Scale:
    """Return a scale that holds the finite values, in round steps.

    `may_bend` makes it logarithmic where positive values span orders of magnitude; what is not
    positive then stands on its lower end, named 0.
    """
    known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    positive = [value for value in known if value > _NEXT_TO_NOTHING]
    if may_bend and min(known) >= 0 and positive and max(known) > _LOG_FROM * min(positive):
        return _log_scale(min(positive), max(known), has_zero=len(positive) < len(known))
    low, high = min(known), max(known)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        room = abs(high) / 10 or 0.1
        low, high = low - room, high + room
    step = _round_step((high - low) / _TICKS)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    ticks = [number * step for number in range(first, last + 1)]
    return Scale(ticks[0], ticks[-1], tuple((tick, _named(tick, step, percent)) for tick in ticks))


def epoch_scale(epochs: Sequence[float]) -> Scale:
    """Return a scale from the first to the last epoch, with whole numbers named."""
    low, high = (min(epochs), max(epochs)) if epochs else (0.0, 1.0)
    if low == high:
        return Scale(low - 1, high + 1, ((low, f"{low:g}"),))
    step = max(1, math.ceil(_round_step((high - low) / (_TICKS + 1))))
    places = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Scale(low, high, tuple((place, f"{place:g}") for place in places))


def _log_scale(low: float, high: float, *, has_zero: bool) -> Scale:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    first -= has_zero
    every = math.ceil((last - first) / (_TICKS + 1))
    ticks = [(10.0**power, f"{10.0**power:g}") for power in range(first, last + 1, every)]
    if has_zero:
        ticks[0] = (10.0**first, "0")
    return Scale(10.0**first, 10.0**last, tuple(ticks), is_log=True)


def _round_step(distance: float) -> float:
    """Return the smallest of 1, 2, 2.5, 5 times a power of ten that is not below the distance."""
    power = 10.0 ** math.floor(math.log10(distance))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= distance * 0.999)


def _named(tick: float, step: float, percent: bool) -> str:
    factor = 100 if percent else 1
    mantissa, _, power = f"{step * factor:.1e}".partition("e")
    places = max(0, (mantissa == "2.5") - int(power))
    return f"{tick * factor:.{places}f}".replace("-", MINUS)


@dataclass(frozen=True)
class Frame:
    """A plotting area in a picture of `width` x `height`, with its two scales."""

    x: Scale
    y: Scale
    width: int = 360
    height: int = 214
    left: int = 44
    right: int = 24
    top: int = 16
    bottom: int = 34

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return a point's place in the picture, from its upper left corner."""
        across, down = self.width - self.left - self.right, self.height - self.top - self.bottom
        return self.left + self.x.share(x) * across, self.top + (1 - self.y.share(y)) * down

    def axes(self, x_title: str) -> Markup:
        """Return the grid, the names of the ticks and the name of the horizontal axis."""
        right, floor = self.width - self.right, self.height - self.bottom
        parts = []
        for value, name in self.y.ticks:
            place = self.at(self.x.low, value)[1]
            parts.append(line(self.left, place, right, place, "grid"))
            parts.append(text(self.left - 6, place + 4, name, "end"))
        parts.append(line(self.left, floor, right, floor, "axis"))
        for value, name in self.x.ticks:
            place = self.at(value, self.y.low)[0]
            parts.append(line(place, floor, place, floor + 3, "axis"))
            parts.append(text(place, floor + 15, name, "mid"))
        parts.append(text((self.left + right) / 2, self.height - 3, x_title, "mid name"))
        return joined(parts)


def picture(width: int, height: int, title: str, *marks: Markup) -> Markup:
    """Return the marks as one picture, with a title that is read aloud."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" focusable="false">'
        "<title>{}</title>{}</svg>"
    ).format(width, height, title, title, joined(marks))


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    """Return a straight line of a kind that page.css knows."""
    return Markup('<line class="{}" x1="{}" y1="{}" x2="{}" y2="{}"/>').format(
        kind, *map(_number, (x1, y1, x2, y2))
    )


def text(x: float, y: float, words: str, kind: str = "", *, turned: int = 0) -> Markup:
    """Return words at a place, turned around it by so many degrees clockwise."""
    place = _number(x), _number(y)
    turn = Markup(' transform="rotate({} {} {})"').format(turned, *place) if turned else ""
    return Markup('<text class="{}" x="{}" y="{}"{}>{}</text>').format(kind, *place, turn, words)


def path(
    points: Sequence[tuple[float, float]], kind: str, title: str, *, closed: bool = False
) -> Markup:
    """Return a line through points, or the area that they enclose."""
    steps = "L".join(f"{_number(x)} {_number(y)}" for x, y in points)
    return Markup('<path class="{}" d="M{}{}"><title>{}</title></path>').format(
        kind, steps, "Z" if closed else "", title
    )


def marker(x: float, y: float, number: int, title: str, size: float = 4) -> Markup:
    """Return a dot of a group, whose shape too is the group's: colour is not the only sign."""
    shape, style = _form(number) % 4, style_of(number)
    if shape == 0:
        return Markup(
            '<circle class="dot {}" cx="{}" cy="{}" r="{}"><title>{}</title></circle>'
        ).format(style, _number(x), _number(y), _number(size), title)
    corners = {
        1: ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        2: ((0, -1.3), (1.2, 0.9), (-1.2, 0.9)),
        3: ((0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)),
    }[shape]
    points = [(x + 0.9 * size * dx, y + 0.9 * size * dy) for dx, dy in corners]
    return path(points, f"dot {style}", title, closed=True)


def style_of(number: int) -> str:
    """Return the classes of page.css of the group with that number, from 1: colour and dashes.

    64 groups differ in one of them at least.
    """
    colour, dashes = (number - 1) % _STYLES, _form(number)
    return f"s{colour + 1} d{dashes + 1}"


def _form(number: int) -> int:
    """Return which dashes and which shape of dots a group has, from 0."""
    return (number - 1 + (number - 1) // _STYLES) % _STYLES


def joined(parts: Iterable[Markup]) -> Markup:
    """Return the parts one after another."""
    return Markup("").join(parts)


def _number(value: float) -> str:
    """Return a coordinate with one decimal at most."""
    return f"{value:.1f}".removesuffix(".0")
