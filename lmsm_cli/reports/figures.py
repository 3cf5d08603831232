"""What all figures share: size, axes, colours, names of classes, and how they are saved.

Drawn with matplotlib's object API: no window, no global state. Class names are shown with
`label_of` and `parse_math=False`, since `$` is no formula there.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmsm_cli.errors import visible, writing
from lmsm_cli.runs.folder import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Beyond this, names and numbers of single classes cannot be read in a figure.
NAMED_CLASSES = 20
BLUE, ORANGE, GREEN, GREY = "#1f77b4", "#ff7f0e", "#2ca02c", "#6b7280"

_LABEL_LENGTH = 32


def label_of(name: str) -> str:
    """Return a class name as a figure has room for it: long ones lose their middle."""
    name, half = visible(name), _LABEL_LENGTH // 2
    return name if len(name) <= _LABEL_LENGTH else f"{name[:half]}…{name[1 - half :]}"


def name_ticks(axes: "Axes", names: Sequence[str], axis: str) -> None:
    """Put class names at the ticks, slanted below a figure where they are long."""
    one = axes.xaxis if axis == "x" else axes.yaxis
    one.set_ticks(
        range(len(names)), labels=list(map(label_of, names)), fontsize=8, parse_math=False
    )
    if axis == "x" and max(map(len, names)) > 3:
        for label in axes.get_xticklabels():
            label.set(rotation=40, ha="right", rotation_mode="anchor")


def new_figure(
    rows: int, columns: int, *, width: float, height: float, ratios: Sequence[float] | None = None
) -> "tuple[Figure, list[Axes]]":
    """Return a figure with its axes, row by row.

    Args:
        rows, columns: the grid of axes.
        width, height: of the whole figure, in inches.
        ratios: the relative heights of the rows; None for equal ones.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False, height_ratios=ratios)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, axis="y", linewidth=0.4, alpha=0.6)
        axes.set_axisbelow(True)
    return figure, list(panels.flat)


def save_figure(figure: "Figure", stem: Path, suffixes: Sequence[str] = (".png", ".pdf")) -> None:
    """Write the figure to `stem` plus each suffix, whole or not at all. Raises DiskError."""
    for suffix in suffixes:
        file = io.BytesIO()
        with warnings.catch_warnings():
            # the font lacks letters of some scripts; a box stands for them, and that is all
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            figure.savefig(file, dpi=150, format=suffix.removeprefix("."))
        write_picture(stem.with_name(stem.name + suffix), file.getvalue())


def write_picture(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and its folder first. Raises DiskError."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)


def count_epochs(axes: "Axes") -> None:
    """Make the horizontal axis one of whole epochs."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
