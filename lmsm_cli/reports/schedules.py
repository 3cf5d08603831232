"""The picture of a run's schedules, before any training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsm_cli.errors import visible
from lmsm_cli.reports.figures import BLUE, count_epochs, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_schedule(
    epochs: Sequence[Mapping[str, Any]],
    curve: Sequence[Mapping[str, Any]],
    title: str,
    path: Path,
) -> None:
    """Draw the planned learning rate, lambda and effective margin over the epochs to `path`.

    `epochs` have the values at each epoch's end, `curve` those between. Lambda and margin have
    panels only where the loss has them.
    """
    keys = [k for k in ("lambda", "effective_margin") if any(row[k] is not None for row in epochs)]
    figure, panels = new_figure(1, 1 + len(keys), width=max(5.0, 4.0 * (1 + len(keys))), height=3.4)
    figure.suptitle(visible(title), fontsize=10, parse_math=False)
    panels[0].stairs(
        [row["lr"] for row in epochs],
        range(len(epochs) + 1),
        baseline=None,
        color=BLUE,
        linewidth=1.5,
    )
    panels[0].set_title("learning rate")
    panels[0].set_ylim(0, 1.08 * max(row["lr"] for row in epochs))
    for axes, key in zip(panels[1:], keys, strict=True):
        _draw_annealing(axes, epochs, curve, key)
    for axes in panels:
        count_epochs(axes)
        axes.set_xlim(0, len(epochs))
    save_figure(figure, path.with_suffix(""), (path.suffix,))


def _draw_annealing(
    axes: "Axes",
    epochs: Sequence[Mapping[str, Any]],
    curve: Sequence[Mapping[str, Any]],
    key: str,
) -> None:
    """Draw lambda or the effective margin as a curve, with dots at the ends of few epochs."""
    values = [row[key] for row in curve]
    # not clipped: the last dot, and a lambda of 0, lie on the frame
    axes.plot([row["epoch"] for row in curve], values, color=BLUE, clip_on=False)
    if len(epochs) <= 30:
        axes.plot(
            [row["epoch"] for row in epochs],
            [row[key] for row in epochs],
            "o",
            color=BLUE,
            markersize=3,
            clip_on=False,
        )
    axes.set_title(key.replace("_", " "))
    if key == "lambda":
        _scale_lambda(axes, min(values), max(values))
    else:
        lowest, highest = min(1, *values), max(values)  # 1 is no margin
        room = 0.05 * (highest - lowest) or 0.05
        axes.set_ylim(lowest - room, highest + room)


def _scale_lambda(axes: "Axes", lowest: float, highest: float) -> None:
    """Give lambda a log axis, whose end is 0 where lambda falls to next to nothing."""
    from matplotlib.ticker import LogFormatter

    if lowest >= 1e-4:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 2, 2 * highest)
        axes.yaxis.set_minor_formatter(LogFormatter())
    else:
        axes.set_yscale("symlog", linthresh=0.001)
        axes.set_ylim(0, 2 * highest or 1)
    axes.yaxis.set_major_formatter("{x:g}")
