"""What all figures share: size, axes, colours, names of classes, and how they are saved.

Drawn with matplotlib's object API: no window, no global state. Class names are shown with
`label_of` and `parse_math=False`, since `$` is no formula there. Every file says that lmsm drew
it, so that a picture of the user's is never taken for an older drawing, and replaced.
"""

import contextlib
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmsm_cli.errors import LmsmError, visible, writing
from lmsm_cli.runs.folder import write_whole
from lmsm_cli.runtime.files import read_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Beyond this, names and numbers of single classes cannot be read in a figure.
NAMED_CLASSES = 20
BLUE, ORANGE, GREEN, GREY = "#1f77b4", "#ff7f0e", "#2ca02c", "#6b7280"
# Of classes with many, medium and few images: from dark to light, in grey prints too.
SHOTS = {"many": "#0b4a8f", "medium": "#5a9bd4", "few": "#f0a35e"}

# Matplotlib's own mark would not do: others draw data sets with it, such as spectrograms.
MARK = "drawn by lmsm"
_MARKED_AS = {".png": "Software", ".pdf": "Creator", ".svg": "Creator"}
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


def spread(
    places: Sequence[float], distance: float | Sequence[float], lowest: float
) -> list[float]:
    """Return the places in their order, moved so that labels there are a distance apart.

    None is moved beyond `lowest` unless there is no room at all. Of labels with a `distance` each,
    neighbours are the mean of theirs apart.
    """
    sizes = [distance] * len(places) if isinstance(distance, int | float) else distance
    order = sorted(range(len(places)), key=lambda number: places[number])
    moved = list(places)
    for one, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[one] + (sizes[one] + sizes[after]) / 2)
    for number in order[-1:]:
        moved[number] = min(moved[number], lowest)
    for after, one in itertools.pairwise(reversed(order)):
        moved[one] = min(moved[one], moved[after] - (sizes[one] + sizes[after]) / 2)
    return moved


def new_figure(
    rows: int,
    columns: int,
    *,
    width: float,
    height: float,
    ratios: Sequence[float] | None = None,
    widths: Sequence[float] | None = None,
) -> "tuple[Figure, list[Axes]]":
    """Return a figure with its axes, row by row.

    Args:
        rows, columns: the grid of axes.
        width, height: of the whole figure, in inches.
        ratios: the relative heights of the rows; None for equal ones.
        widths: the relative widths of the columns; None for equal ones.
    """
    figure = _empty_figure(width, height)
    panels = figure.subplots(
        rows, columns, squeeze=False, height_ratios=ratios, width_ratios=widths
    )
    return figure, [_styled(axes) for axes in panels.flat]


def new_mosaic(
    rows: Sequence[Sequence[str]], *, width: float, height: float
) -> "tuple[Figure, dict[str, Axes]]":
    """Return a figure whose axes fill the cells that bear their name, as wide as the page wants.

    Args:
        rows: The names of the axes, cell by cell; rows have equally many cells.
        width: Of the whole figure, in inches.
        height: Of the whole figure, in inches.
    """
    figure = _empty_figure(width, height)
    panels = figure.subplot_mosaic([list(row) for row in rows])
    return figure, {name: _styled(axes) for name, axes in panels.items()}


def _empty_figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _styled(axes: "Axes") -> "Axes":
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", linewidth=0.4, alpha=0.6)
    axes.set_axisbelow(True)
    return axes


def save_figure(figure: "Figure", stem: Path, suffixes: Sequence[str] = (".png", ".pdf")) -> None:
    """Write the figure to `stem` plus each suffix, whole or not at all. Raises DiskError."""
    for suffix in suffixes:
        file = io.BytesIO()
        with any_letters():
            metadata = {_MARKED_AS[suffix.lower()]: MARK}
            figure.savefig(file, dpi=150, format=suffix.removeprefix("."), metadata=metadata)
        write_picture(stem.with_name(stem.name + suffix), file.getvalue())


@contextlib.contextmanager
def any_letters() -> Iterator[None]:
    """Let letters be drawn that the font lacks: a box stands for each, and that is all."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def check_drawn(path: Path) -> None:
    """Raise LmsmError where a picture would be replaced that lmsm did not draw."""
    if not path.is_file():  # what is no file takes none, which is told of all files
        return
    try:
        is_drawn = MARK.encode() in read_bytes(path)
    except OSError:  # too large, or somebody else's
        is_drawn = False
    if not is_drawn:
        raise LmsmError(
            f"cannot write {path}: a picture is there that lmsm did not draw; give another name"
        )


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
