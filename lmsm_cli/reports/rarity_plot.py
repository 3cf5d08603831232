"""Accuracy of each class against its training images, as PNG and PDF."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsm_cli.comparison.records import Comparison
from lmsm_cli.errors import visible
from lmsm_cli.reports.figures import (
    GREY,
    any_letters,
    label_of,
    new_figure,
    save_figure,
    spread,
)
from lmsm_cli.reports.rarity import Arm, arms_of, rarity_chart
from lmsm_cli.reports.rarity_places import Line, RarityChart
from lmsm_cli.runs.record import RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAME = "accuracy_by_training_images"
# Okabe and Ito 2008, told apart by the colour-blind; dashes and marks differ too, for grey prints.
STYLES: tuple[tuple[str, str, Any], ...] = (
    ("#0072b2", "s", "-"),
    ("#d55e00", "^", (0, (5, 2))),
    ("#009e73", "D", (0, (2, 1.5))),
    ("#aa4499", "v", (0, (6, 2, 1.5, 2))),
    ("#8a6d00", "P", (0, (1, 1))),
    ("#56b4e9", "X", (0, (8, 2, 2, 2, 2, 2))),
)
BASELINE: tuple[str, str, Any] = ("black", "o", "-")
_SHADE = "#e9ecef"
# Percent: the regions are named above 100.
_TOP, _REGION_AT = 110, 105
_LABEL_WIDTH = 26


def plot_accuracy_by_training_images(
    arms: Sequence[Arm], folder: Path, *, title: str = "", name: str = NAME
) -> None:
    """Draw a line for each group as accuracy_by_training_images.{png,pdf}; nothing for no accuracy.

    Args:
        arms: The groups, or the one run.
        folder: Where the files go.
        title: Stands above, where it says more than the axes do.
        name: Of the files, without suffix.

    Raises:
        DiskError: A file cannot be written.
    """
    chart = rarity_chart(arms)
    if chart:
        save_figure(rarity_figure(chart, title=title), folder / name)


def plot_comparison(comparison: Comparison, records: Sequence[RunRecord], folder: Path) -> None:
    """Draw accuracy_by_training_images.{png,pdf} of a comparison; `records` are its runs.

    Further sets of test images have pictures of their own, -2 and so on. Raises DiskError.
    """
    for number, groups in enumerate(comparison.by_test_set(), 1):
        name = NAME if number == 1 else f"{NAME}-{number}"
        plot_accuracy_by_training_images(arms_of(groups, records), folder, name=name)


def rarity_figure(
    chart: RarityChart, *, title: str = "", width: float = 9.0, height: float = 5.0
) -> "Figure":
    """Return the picture as a matplotlib figure of that many inches."""
    figure, (axes,) = new_figure(1, 1, width=width, height=height)
    _set_axes(axes, chart)
    for region in chart.regions[:1] if len(chart.regions) > 1 else ():
        axes.axvspan(region.low, region.high, color=_SHADE, zorder=0, linewidth=0)
    if len(chart.regions) > 1:
        for region in chart.regions:
            middle = (region.low * region.high) ** 0.5
            axes.text(middle, _REGION_AT, region.title, ha="center", va="center", fontsize=9)
    labels = [_draw_line(axes, line, style) for line, style in _styled(chart.lines)]
    caption = " ".join(chart.notes)
    if caption:
        figure.supxlabel(caption, fontsize=8.5, color=GREY, x=0.01, ha="left", wrap=True)
    if title:
        figure.suptitle(visible(title), fontsize=11, parse_math=False)
    names = _name_classes(axes, chart)
    with any_letters():
        figure.draw_without_rendering()  # so that the boxes of texts are known
    _spread_labels(axes, labels)
    _spread_names(axes, chart, names, figure.dpi)
    return figure


def _set_axes(axes: "Axes", chart: RarityChart) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    axes.set_xscale("log")
    axes.set_xlim(chart.high, chart.low)  # from common to rare, as all tables
    axes.set_xticks([x for x, _ in chart.ticks], [name for _, name in chart.ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(chart.axis_title)
    axes.set_ylabel("accuracy of the class, %")
    axes.set_ylim(-2, _TOP if len(chart.regions) > 1 else 102)
    axes.set_yticks(range(0, 101, 20))


def _styled(lines: Sequence[Line]) -> list[tuple[Line, tuple[str, str, Any]]]:
    """Return the lines with their styles; the baseline's is black, and it is drawn thickest."""
    others = iter(STYLES)
    return [(one, BASELINE if one.is_baseline else next(others)) for one in lines]


def _draw_line(axes: "Axes", line: Line, style: tuple[str, str, Any]) -> Any:
    """Draw the dots of a line with their intervals, and its name at its rare end."""
    colour, mark, dashes = style
    weight = 2.6 if line.is_baseline else 1.6
    trend = [(x, 100 * mean) for x, mean in line.trend()]
    axes.plot(*zip(*trend, strict=True), color=colour, linestyle=dashes, linewidth=weight, zorder=3)
    for dot in line.dots:
        if dot.interval:
            ends = [100 * dot.interval.low, 100 * dot.interval.high]
            bar: dict[str, Any] = {"color": colour, "linewidth": 1.1, "alpha": 0.75, "zorder": 2}
            axes.plot([dot.x, dot.x], ends, marker="_", markersize=5, **bar)
    places = [dot.x for dot in line.dots], [100 * dot.mean for dot in line.dots]
    face = {"markerfacecolor": colour, "markeredgecolor": "white", "markeredgewidth": 0.7}
    marks: dict[str, Any] = {"linestyle": "", "marker": mark, "markersize": 7, "zorder": 4} | face
    axes.plot(*places, label=line.label or None, **marks)
    return _named_at_the_end(axes, line, colour, trend[-1])


def _named_at_the_end(axes: "Axes", line: Line, colour: str, end: tuple[float, float]) -> Any:
    name = _broken(line.label) + ("\n(baseline)" if line.is_baseline else "")
    style: dict[str, Any] = {"color": colour, "fontsize": 9, "va": "center", "parse_math": False}
    leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6}
    leader |= {"relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 6}
    return axes.annotate(
        name,
        xy=end,
        xytext=(1.02, end[1]),
        textcoords=("axes fraction", "data"),
        annotation_clip=False,
        fontweight="bold" if line.is_baseline else "normal",
        arrowprops=leader if name else None,
        **style,
    )


def _broken(label: str) -> str:
    """Return a label in lines of some length, broken after commas and between words."""
    lines = [""]
    for piece in visible(label).replace(",", ",\0").replace(" ", " \0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > _LABEL_WIDTH:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _name_classes(axes: "Axes", chart: RarityChart) -> list[Any]:
    """Name the classes above the axes, slanted."""
    style: dict[str, Any] = {"fontsize": 8.5, "rotation": 40, "ha": "left", "va": "bottom"}
    where = axes.get_xaxis_transform()
    return [
        axes.text(
            x,
            1.04,
            label_of(name),
            transform=where,
            rotation_mode="anchor",
            parse_math=False,
            **style,
        )
        for x, name in chart.names
    ]


def _spread_labels(axes: "Axes", labels: Sequence[Any]) -> None:
    """Move the names of the lines up or down until none covers another."""
    from matplotlib.text import Text

    if not any(label.get_text() for label in labels):
        return
    boxes = [Text.get_window_extent(label) for label in labels]  # without the leading line
    area = axes.get_window_extent()
    middles = [(box.y0 + box.y1) / 2 for box in boxes]
    moved = spread(middles, [1.2 * box.height for box in boxes], area.y1)
    for label, middle in zip(labels, moved, strict=True):
        x, _ = label.xyann
        label.xyann = (x, axes.transData.inverted().transform((area.x0, middle))[1])


def _spread_names(axes: "Axes", chart: RarityChart, names: Sequence[Any], dpi: float) -> None:
    """Move the names of classes apart, and lead from each to its place on the axis."""
    from math import radians, sin

    if not names:
        return
    height = names[0].get_fontsize() * dpi / 72
    distance = 1.25 * height / sin(radians(names[0].get_rotation()))
    area = axes.get_window_extent()
    to_pixels, where = axes.transData, axes.get_xaxis_transform()
    wanted = [to_pixels.transform((x, 0))[0] for x, _ in chart.names]
    style: dict[str, Any] = {"color": GREY, "linewidth": 0.6, "transform": where, "clip_on": False}
    for (x, _), name, place in zip(
        chart.names, names, spread(wanted, distance, area.x1), strict=True
    ):
        moved = to_pixels.inverted().transform((place, area.y0))[0]
        name.set_x(moved)
        axes.plot([x, x, moved], [1.0, 1.012, 1.035], **style)
