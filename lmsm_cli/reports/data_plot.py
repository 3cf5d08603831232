"""The images of each class as a picture: a bar on a log axis, and a few samples beside it."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lmsm_cli.data.check import ClassImages, DataCheck
from lmsm_cli.data.identity import rows_of_smallest_digests
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.errors import counted
from lmsm_cli.reports.figures import BLUE, SHOTS, label_of, new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_SAMPLES = 6
# Of more classes, the commonest and the rarest are drawn.
_MOST_CLASSES = 60
_ROW = 0.45  # inches
_LEFT = 0.8  # where the log axis begins, so that a bar of one image can be seen
_GAPS = 16  # of an image's side, between images
_WIDTHS = (5.5, _ROW * _SAMPLES)  # of the bars with the names, and of the samples


def plot_classes(check: DataCheck, training: ImageSet, path: Path) -> None:
    """Draw the training images of each class, commonest first, to `path`. Raises DiskError.

    Args:
        check: what is known of the data.
        training: the training images, of which some are shown.
        path: its suffix chooses the format.
    """
    classes = list(check.classes)
    if len(classes) > _MOST_CLASSES:
        classes = classes[: _MOST_CLASSES // 2] + classes[-_MOST_CLASSES // 2 :]
    figure, (bars, pictures) = new_figure(
        1, 2, width=sum(_WIDTHS), height=_ROW * len(classes) + 1.1, widths=_WIDTHS
    )
    _draw_bars(bars, classes)
    of_all = f" of {len(check.classes):,}" if len(classes) < len(check.classes) else ""
    figure.suptitle(
        f"{counted(check.count('training'), 'training image')} in {len(classes)}{of_all} classes",
        fontsize=10,
    )
    _draw_samples(pictures, classes, training)
    save_figure(figure, path.with_suffix(""), (path.suffix,))


def _draw_bars(axes: "Axes", classes: list[ClassImages]) -> None:
    counts = [one.parts["training"] for one in classes]
    places = range(len(classes))
    colours = [SHOTS.get(one.group or "", BLUE) for one in classes]
    names = [one.group or "" for one in classes]
    first = [name if names.index(name) == place else "" for place, name in enumerate(names)]
    axes.barh(places, counts, height=0.7, color=colours, label=first)
    for place, one in enumerate(classes):
        text = f"{one.parts['training']:,} + {one.parts['test']:,} test"
        end = 1.1 * max(_LEFT, one.parts["training"])
        axes.text(end, place, text, fontsize=8, verticalalignment="center")
    axes.set_xscale("log")
    axes.set_xlim(_LEFT, 8 * max(1, *counts))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_yticks(
        places, labels=[label_of(one.name) for one in classes], fontsize=8, parse_math=False
    )
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_xlabel("training images")
    axes.grid(visible=False)
    if any(first):
        axes.legend(fontsize=9, frameon=False, loc="lower right")


def _draw_samples(axes: "Axes", classes: list[ClassImages], training: ImageSet) -> None:
    """Draw a row of images for each class, as high as its bar."""
    axes.imshow(
        _mosaic(classes, training),
        extent=(0, _SAMPLES, len(classes) - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_ylim(len(classes) - 0.5, -0.5)
    axes.set_axis_off()


def _mosaic(classes: list[ClassImages], training: ImageSet) -> "NDArray[np.uint8]":
    """Return the samples of all classes as one RGB picture; white where a class has fewer."""
    _, side, _, _ = training.images.shape
    step = side + max(1, side // _GAPS)
    sheet = np.full((len(classes) * step, _SAMPLES * step, 3), 255, np.uint8)
    labels = training.labels.numpy()
    chosen = rows_of_smallest_digests(labels, training.digests, _SAMPLES)
    row_of = {one.name: row for row, one in enumerate(classes)}
    images = training.subset(chosen.tolist()).images
    drawn = dict.fromkeys(row_of, 0)
    for place, number in enumerate(labels[chosen].tolist()):
        name = training.classes[number]
        if name in row_of:
            top, left = row_of[name] * step, drawn[name] * step
            sheet[top : top + side, left : left + side] = images[place].numpy()
            drawn[name] += 1
    return sheet
