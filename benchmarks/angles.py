"""The paper's figure 2 in numbers, and the picture.

    python benchmarks/angles.py runs/mnist-figure [--plot FILE]

Of each run's test features: the mean angle between an image's feature and the mean direction of its
class (within), and the smallest angle between the mean directions of two classes (between), in
degrees. Printed as Markdown, mean ± sd over the runs of each loss. Needs the runs' checkpoints and
data.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.inference.evaluate import features_of_test_images
from lmsm_cli.reports.plots import plot_features
from lmsm_cli.runs.record import find_runs, read_run
from lmsm_cli.runtime.display import SILENT


def main() -> int:
    """Print the table; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plot", type=Path, help="draw the features of each loss's first seed")
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float, float]]] = {}
    panels = {}
    for path in find_runs([given.folder]):
        run = read_run(path)
        loss, error = run.config["loss"], 1 - run.scores.accuracy
        points, labels, classes = features_of_test_images(path, SILENT)
        found.setdefault(loss, []).append((100 * error, *angles(points, labels)))
        panels.setdefault(loss, (f"m = {margin_of(loss)}", points, labels))
    print(
        "| loss | n | test error, % | angle within a class | between the nearest two |\n"
        "| --- | ---: | ---: | ---: | ---: |"
    )
    for loss, rows in sorted(found.items()):
        columns = " | ".join(told(column) for column in zip(*rows, strict=True))
        print(f"| {loss} | {len(rows)} | {columns} |")
    if given.plot:
        plot_features([panels[loss] for loss in sorted(panels)], classes, given.plot)
    return 0


def angles(points: NDArray[np.floating], labels: NDArray[np.integer]) -> tuple[float, float]:
    """Return the mean angle within classes and the smallest between two, in degrees.

    `points` (N, D) are features, `labels` (N,) their classes. A class's direction is that of the
    mean of its features at length 1.
    """
    directions = points / np.linalg.norm(points, axis=1, keepdims=True)
    means = np.stack([directions[labels == c].mean(axis=0) for c in np.unique(labels)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    own = means[np.searchsorted(np.unique(labels), labels)]
    within = np.degrees(np.arccos((directions * own).sum(axis=1).clip(-1, 1)))
    between = np.degrees(np.arccos((means @ means.T).clip(-1, 1)))
    return float(within.mean()), float(between[~np.eye(len(means), dtype=bool)].min())


def margin_of(loss: str) -> str:
    """Return the margin in a spec: `lsoftmax:margin=2,lambda_min=0` -> 2."""
    return loss.partition("margin=")[2].partition(",")[0] or "1"


def told(values: tuple[float, ...]) -> str:
    """Return mean ± sd."""
    sd = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{statistics.fmean(values):.2f}±{sd:.2f}"


if __name__ == "__main__":
    sys.exit(main())
