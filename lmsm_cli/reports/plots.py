"""Plots of a run, as PNG and PDF.

To add a plot, add a function that takes plain data, makes a figure with `new_figure` and ends in
`save_figure` (figures.py).
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmsm_cli.errors import visible
from lmsm_cli.metrics import DENSE_CLASSES, Scores
from lmsm_cli.reports.confusion import Confusion, confusion_of
from lmsm_cli.reports.figures import (
    BLUE,
    GREEN,
    GREY,
    NAMED_CLASSES,
    ORANGE,
    SHOTS,
    count_epochs,
    label_of,
    name_ticks,
    new_figure,
    new_mosaic,
    save_figure,
)
from lmsm_cli.reports.tables import judged_images
from lmsm_cli.scoring import reliability_bounds
from lmsm_cli.shot_groups import by_train_count, shot_groups

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy import floating, integer
    from numpy.typing import NDArray

    Panel = tuple[str, NDArray[floating[Any]], NDArray[integer[Any]]]

_ABOVE = ("loss", "accuracy")
_ANNEALED = ("lambda", "effective_margin")
# From this ratio of largest to smallest on, an axis is logarithmic.
_LOG_FROM = 50
# Of more epochs, dots would run into a line.
_DOTTED_EPOCHS = 30


def plot_class_distribution(counts: Sequence[int], classes: Sequence[str], folder: Path) -> None:
    """Draw the training images of each class, largest first, as class_distribution.{png,pdf}."""
    order = by_train_count(counts)
    heights = [counts[number] for number in order]
    named = len(counts) <= NAMED_CLASSES
    width = max(5.0, 0.6 * len(counts)) if named else 8.0
    figure, (axes,) = new_figure(1, 1, width=width, height=3.8)
    shots = {n: name for name, numbers in shot_groups(counts).items() for n in numbers}
    colours = [SHOTS.get(shots.get(number, ""), BLUE) for number in order]
    labels = [shots.get(number, "") for number in order]
    first = [name if labels.index(name) == place else "" for place, name in enumerate(labels)]
    width = 0.8 if named else 1.0
    bars = axes.bar(range(len(order)), heights, width=width, color=colours, label=first)
    if shots:
        axes.legend(fontsize=9, frameon=False, loc="upper right")
    ratio = f", largest : smallest = {heights[0] / heights[-1]:.4g} : 1" if heights[-1] else ""
    axes.set_title(f"{sum(counts):,} training images in {len(counts)} classes{ratio}", fontsize=10)
    axes.set_ylabel("training images")
    if named:
        name_ticks(axes, [classes[number] for number in order], "x")
        axes.bar_label(bars, list(map(str, heights)), padding=2, fontsize=8)
        axes.margins(y=0.1)
    else:
        axes.set_xlabel("classes, by number of training images")
        axes.margins(x=0.01)
    save_figure(figure, folder / "class_distribution")


def plot_training_history(rows: Sequence[Mapping[str, Any]], folder: Path, title: str = "") -> None:
    """Draw the epochs of metrics.jsonl as training_history.{png,pdf}.

    Loss and accuracy stand above, learning rate, lambda and effective margin below, the last two
    only where the loss has them. Values that are missing or null leave a gap. A `title` stands
    above all.
    """
    annealed = [key for key in _ANNEALED if any(row.get(key) is not None for row in rows)]
    below = ["lr", *annealed]
    # cells of both rows: 6 are divided by 2 panels and by 1, 2 or 3
    cells = [[name for name in row for _ in range(6 // len(row))] for row in (_ABOVE, below)]
    figure, panels = new_mosaic(cells, width=10.0, height=6.4)
    if title:
        figure.suptitle(visible(title), fontsize=10, parse_math=False)
    _draw_lines(panels["loss"], rows, "loss", {"training": "train_loss", "validation": "val_loss"})
    shares = {"training": "train_accuracy", "validation": "val_accuracy"}
    shares["validation, balanced"] = "val_balanced_accuracy"
    _draw_lines(panels["accuracy"], rows, "accuracy, %", shares, times=100)
    _draw_lines(panels["lr"], rows, "learning rate", {"learning rate": "lr"})
    _scale_rate(panels["lr"], [row["lr"] for row in rows if row.get("lr")])
    for key in annealed:
        _draw_lines(panels[key], rows, key.replace("_", " "), {key: key})
        _scale_annealed(panels[key], key, [row[key] for row in rows if row.get(key) is not None])
    save_figure(figure, folder / "training_history")


def plot_schedule(
    epochs: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]], title: str, path: Path
) -> None:
    """Draw the planned learning rate, lambda and effective margin over the epochs to `path`.

    Lambda and margin have panels only where the loss has them.

    Args:
        epochs: the values at each epoch's end, by `epoch`, `lr`, `lambda`, `effective_margin`.
        curve: the same without `lr`, at more places, for the lines of lambda and margin.
        title: stands above the panels.
        path: its suffix chooses the format.
    """
    keys = [k for k in _ANNEALED if any(row[k] is not None for row in epochs)]
    figure, panels = new_figure(1, 1 + len(keys), width=max(5.0, 4.0 * (1 + len(keys))), height=3.4)
    figure.suptitle(visible(title), fontsize=10, parse_math=False)
    rates = [row["lr"] for row in epochs]
    panels[0].stairs(rates, range(len(rates) + 1), baseline=None, color=BLUE, linewidth=1.5)
    panels[0].set_title("learning rate")
    panels[0].set_ylim(0, 1.08 * max(rates))
    for axes, key in zip(panels[1:], keys, strict=True):
        _draw_annealing(axes, epochs, curve, key)
    for axes in panels:
        count_epochs(axes)
        axes.set_xlim(0, len(epochs))
    save_figure(figure, path.with_suffix(""), (path.suffix,))


def _draw_annealing(
    axes: "Axes", epochs: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]], key: str
) -> None:
    """Draw lambda or the effective margin as a curve, with dots at the ends of few epochs."""
    values = [row[key] for row in curve]
    # not clipped: the last dot, and a lambda of 0, lie on the frame
    style: dict[str, Any] = {"color": BLUE, "clip_on": False}
    axes.plot([row["epoch"] for row in curve], values, **style)
    if len(epochs) <= _DOTTED_EPOCHS:
        ends = [(row["epoch"], row[key]) for row in epochs]
        axes.plot(*zip(*ends, strict=True), "o", markersize=3, **style)
    axes.set_title(key.replace("_", " "))
    _scale_annealed(axes, key, values)


def _scale_annealed(axes: "Axes", key: str, values: Sequence[float]) -> None:
    """Give lambda a log axis, and the effective margin one that begins at 1, which is no margin."""
    if key == "lambda":
        _scale_lambda(axes, min(values), max(values))
        return
    lowest, highest = min(1, *values), max(values)
    room = 0.05 * (highest - lowest) or 0.05
    axes.set_ylim(lowest - room, highest + room)


def _scale_rate(axes: "Axes", values: Sequence[float]) -> None:
    """Give a learning rate that falls over orders of magnitude a log axis, from 0 any other."""
    if values and max(values) > _LOG_FROM * min(values):
        axes.set_yscale("log")
        # Formulas at the ticks would keep this frame and its callers alive, which hold the net.
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    else:
        axes.set_ylim(0, 1.08 * max(values, default=1))


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


def accuracy_title(scores: Scores) -> str:
    """Return how many of which images were right."""
    images = sum(row.test_count for row in scores.per_class)
    return f"Accuracy {100 * scores.accuracy:.1f}% of {images:,} {judged_images(scores)}"


def plot_confusion(scores: Scores, folder: Path) -> None:
    """Draw the percent of each class's images by predicted class as confusion.{png,pdf}.

    Classes stand by their training images, commonest first. Of more classes than a figure has room
    for, neighbours in that order share a cell.
    """
    import numpy as np

    order = by_train_count([row.train_count for row in scores.per_class])
    confusion = confusion_of(scores) or Confusion(len(scores.per_class), {})
    matrix, together = _cells(confusion.in_order(order))
    totals = matrix.sum(axis=1, keepdims=True)
    percent = np.divide(100 * matrix, totals, out=np.full_like(matrix, np.nan), where=totals > 0)
    named = len(order) <= NAMED_CLASSES
    side = 3.0 + 0.46 * len(order) if named else 7.5
    figure, (axes,) = new_figure(1, 1, width=side + 0.8, height=side)
    axes.set_facecolor("#e5e7eb")  # shows through where a class has no test image
    end = len(matrix) * together - 0.5
    scale: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": 100, "interpolation": "nearest"}
    image = axes.imshow(percent, extent=(-0.5, end, end, -0.5), **scale)
    sharing = "" if named else ", by number of training images"
    sharing += f", {together} to a cell" if together > 1 else ""
    axes.set(xlabel=f"predicted class{sharing}", ylabel=f"true class{sharing}")
    axes.set_title(accuracy_title(scores), fontsize=10)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    if named:
        classes = [scores.per_class[number] for number in order]
        name_ticks(axes, [one.name for one in classes], "x")
        counted = [f"{label_of(one.name)} ({one.train_count:,})" for one in classes]
        name_ticks(axes, counted, "y")
        axes.set_ylabel("true class (training images)")
        _number_cells(axes, matrix, percent)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, label="% of the true class's images")
    bar.outline.set_visible(False)
    save_figure(figure, folder / "confusion")


def _number_cells(
    axes: "Axes", matrix: "NDArray[floating[Any]]", percent: "NDArray[floating[Any]]"
) -> None:
    """Write percent, and below it the images, into the cells that hold some.

    Of a class that was right for none of its images, or that was never predicted, 0 is written too:
    an empty cell there would look as if something were missing.
    """
    style: dict[str, Any]
    never = matrix.sum(axis=0) == 0
    for row, images in enumerate(matrix):
        if not images.sum():
            style = {"ha": "center", "va": "center", "fontsize": 8, "color": GREY}
            axes.text((len(matrix) - 1) / 2, row, "no test image", **style)
            continue
        for column, n in enumerate(images):
            if n:
                share = percent[row, column]
                style = {"color": "white" if share > 50 else "black", "ha": "center"}
                large = "<1" if round(share) == 0 else f"{share:.0f}"
                axes.text(column, row, large, va="bottom", fontsize=8, **style)
                axes.text(column, row + 0.06, f"{n:.0f}", va="top", fontsize=6.5, **style)
            elif row == column or never[column]:
                style = {"ha": "center", "va": "center", "fontsize": 8, "color": GREY}
                axes.text(column, row, "0", **style)


def _cells(confusion: Confusion) -> "tuple[NDArray[floating[Any]], int]":
    """Return the images by true (rows) and predicted class, and how many classes share a cell."""
    import numpy as np

    together = math.ceil(confusion.num_classes / DENSE_CLASSES)
    size = math.ceil(confusion.num_classes / together)
    matrix = np.zeros((size, size))
    for (true, guess), images in confusion.cells.items():
        matrix[true // together, guess // together] += images
    return matrix, together


def plot_reliability(scores: Scores, folder: Path) -> None:
    """Draw accuracy against confidence, bin by bin, as reliability.{png,pdf}.

    A bar each bin that holds images, hatched from its accuracy to its mean confidence, which lies
    on the diagonal; below, how many images it holds. Without probabilities nothing is drawn.
    """
    bins = scores.reliability
    if not bins or scores.calibration_error is None:
        return
    figure, (upper, lower) = new_figure(2, 1, width=5.4, height=6.4, ratios=(3, 1))
    bounds = [reliability_bounds(one.confidence) for one in bins]
    lefts, width = [100 * left for left, _ in bounds], 100 * (bounds[0][1] - bounds[0][0])
    accuracies = [100 * one.accuracy for one in bins]
    gaps = [100 * (one.confidence - one.accuracy) for one in bins]
    bars: dict[str, Any] = {"width": width, "align": "edge", "edgecolor": "white", "linewidth": 0.6}
    hatched: dict[str, Any] = bars | {"color": "none", "hatch": "////", "edgecolor": ORANGE}
    upper.bar(lefts, accuracies, color=BLUE, label="accuracy", **bars)
    upper.bar(lefts, gaps, bottom=accuracies, label="gap to mean confidence", **hatched)
    perfect: dict[str, Any] = {"linestyle": "--", "linewidth": 1, "label": "perfect calibration"}
    upper.plot([0, 100], [0, 100], color=GREY, **perfect)
    upper.set(xlim=(0, 100), ylim=(0, 100), ylabel="accuracy, %")
    error = f"Expected calibration error {100 * scores.calibration_error:.1f}%"
    upper.set_title(f"{error}, accuracy {100 * scores.accuracy:.1f}%", fontsize=10)
    upper.legend(fontsize=8, frameon=False, loc="upper left")
    counts = [one.count for one in bins]
    counted = lower.bar(lefts, counts, color=GREY, **bars)
    lower.bar_label(counted, list(map(str, counts)), padding=2, fontsize=6.5)
    title = "confidence: probability of the predicted class, %"
    lower.set(xlim=(0, 100), xlabel=title, ylabel="images")
    lower.margins(y=0.15)
    save_figure(figure, folder / "reliability")


def features_title(scores: Scores) -> str:
    """Return the title of a panel of features: the effective margin, if any, and the accuracy."""
    margin = scores.effective_margin
    accuracy = f"accuracy {100 * scores.accuracy:.1f}%"
    return accuracy if margin is None else f"effective margin {margin:.3g}, {accuracy}"


def plot_features(panels: Sequence["Panel"], classes: Sequence[str], path: Path) -> None:
    """Draw 2-D features, one panel for each (title, features (N, 2), labels (N,)), to `path`.

    As figure 2 of Liu et al. 2016: points coloured by class, and each class's mean direction as a
    thin line from the origin.
    """
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = max(4.8, 3.4 * columns)
    figure, all_axes = new_figure(rows, columns, width=width, height=width / columns * rows + 0.6)
    colours = _class_colours(len(classes))
    for axes, (title, features, labels) in zip(all_axes, panels, strict=False):
        _draw_features(axes, features, labels, colours)
        axes.set_title(visible(title), fontsize=11, parse_math=False)
    for axes in all_axes[len(panels) :]:
        axes.set_visible(False)
    if len(classes) <= NAMED_CLASSES:
        _name_colours(figure, classes, colours)
    save_figure(figure, path.with_suffix(""), (path.suffix,))


def _draw_features(
    axes: "Axes",
    features: "NDArray[floating[Any]]",
    labels: "NDArray[integer[Any]]",
    colours: Sequence[Any],
) -> None:
    import numpy as np

    for number, colour in enumerate(colours):
        points = features[labels == number]
        if not len(points):
            continue
        axes.scatter(points[:, 0], points[:, 1], s=5, color=colour, alpha=0.6, linewidths=0)
        mean = points.mean(axis=0)
        length = float(np.linalg.norm(mean))
        if length > 0:
            tip = mean / length * np.linalg.norm(points, axis=1).max()
            axes.plot([0, tip[0]], [0, tip[1]], color=colour, linewidth=0.9)
    axes.axhline(0, color=GREY, linewidth=0.4, zorder=0)
    axes.axvline(0, color=GREY, linewidth=0.4, zorder=0)
    axes.set_aspect("equal", adjustable="datalim")
    axes.tick_params(labelsize=7)
    axes.grid(visible=False)


def _draw_lines(
    axes: "Axes",
    rows: Sequence[Mapping[str, Any]],
    title: str,
    keys: Mapping[str, str],
    *,
    times: float = 1,
) -> None:
    """Draw one line for each key that any row has, so many times its value, against the epoch."""
    epochs = [row["epoch"] for row in rows]
    for (name, key), colour in zip(keys.items(), (BLUE, ORANGE, GREEN), strict=False):
        values = [math.nan if row.get(key) is None else times * row[key] for row in rows]
        if not all(map(math.isnan, values)):
            marker = "o" if len(rows) <= _DOTTED_EPOCHS else ""
            axes.plot(epochs, values, color=colour, marker=marker, markersize=3, label=name)
    axes.set_title(title)
    count_epochs(axes)
    if len(epochs) == 1:
        axes.set_xlim(epochs[0] - 1, epochs[0] + 1)
    if len(keys) > 1 and axes.lines:
        axes.legend(fontsize=8, frameon=False)


def _class_colours(num_classes: int) -> list[Any]:
    from matplotlib import colormaps

    if num_classes <= 10:
        return [colormaps["tab10"](number) for number in range(num_classes)]
    return [colormaps["turbo"](number / (num_classes - 1)) for number in range(num_classes)]


def _name_colours(figure: "Figure", classes: Sequence[str], colours: Sequence[Any]) -> None:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 4}
    dots = [Line2D([], [], color=colour, **style) for colour in colours]
    longest = max(len(label_of(name)) for name in classes)
    blanks = [" "] * len(classes)  # matplotlib would drop a name that starts with an underscore
    # inches of a dot and, about, of the longest name
    columns = max(1, min(10, int(figure.get_figwidth() / (0.4 + 0.08 * longest))))
    layout: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "handletextpad": 0.1}
    legend = figure.legend(dots, blanks, fontsize=8, frameon=False, **layout)
    for text, name in zip(legend.get_texts(), classes, strict=True):
        text.set_parse_math(False)
        text.set_text(label_of(name))
