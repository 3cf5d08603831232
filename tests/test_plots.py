"""Plots: files that open, of a size that can be looked at, whatever the data."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from lmsm_cli.errors import DiskError
from lmsm_cli.reports import plots
from lmsm_cli.reports.plots import (
    plot_class_distribution,
    plot_confusion,
    plot_features,
    plot_reliability,
    plot_training_history,
)
from lmsm_cli.runs.documents import EvaluationDocument
from lmsm_cli.scoring import score
from lmsm_cli.shot_groups import shot_groups
from tests.synthetic_runs import document, scores_json

pytestmark = pytest.mark.libraries

ODD_NAMES = ["$a_b$", "$", "_x", "new\nline", "nul\x00", "\udc80", "日本", "{", "$\\frac$"]
ODD_NAMES.append("t" * 40)
NAMES = {10: ODD_NAMES, 100: [f"class {number}" for number in range(100)]}


def assert_drawn(folder, name):
    """Check that PNG and PDF are there, and that the PNG is a picture and not a blank."""
    assert (folder / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    with Image.open(folder / f"{name}.png") as image:
        assert min(image.size) > 300
        assert max(image.size) < 2500
        assert len(image.convert("L").getcolors(256)) > 10


@pytest.mark.parametrize("num_classes", [10, 100])
def test_class_distribution_and_confusion_are_drawn(tmp_path, num_classes):
    """Odd names, a class without test images and many classes draw without a warning."""
    counts = [500 // (number + 1) for number in range(num_classes)]
    labels = np.arange(400) % num_classes
    labels = labels[labels != 3]
    names = NAMES[num_classes]
    scores = score(names, labels, np.roll(labels, 1) % 4, counts)
    plot_class_distribution(counts, names, tmp_path / "plots")
    plot_confusion(scores, tmp_path / "plots")
    assert_drawn(tmp_path / "plots", "class_distribution")
    assert_drawn(tmp_path / "plots", "confusion")


def test_class_without_training_images_is_drawn(tmp_path):
    """A count of 0 makes no division by zero."""
    plot_class_distribution([5, 0], ["cat", "dog"], tmp_path)
    assert_drawn(tmp_path, "class_distribution")


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"epoch": 1, "train_loss": 2.0, "lr": 0.1, "lambda": 0.0}],
        [
            {"epoch": n, "train_loss": 1 / n, "val_loss": None, "lr": 0.1, "lambda": None}
            for n in range(1, 40)
        ],
        [
            {"epoch": n, "train_loss": None, "val_accuracy": 0.1 * n, "lr": 0.1, "lambda": 10.0**-n}
            for n in (1, 2)
        ],
    ],
    ids=["none", "one", "no-lambda", "gaps"],
)
def test_history_is_drawn_with_gaps_and_few_epochs(tmp_path, rows):
    """No epoch, one epoch, null values and missing keys all give a picture without a warning."""
    plot_training_history(rows, tmp_path)
    assert_drawn(tmp_path, "training_history")


def figure_of(monkeypatch, plot, *arguments):
    """Return the figure that a plot would save."""
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, stem: drawn.append(figure))
    plot(*arguments)
    (figure,) = drawn
    figure.draw_without_rendering()
    return figure


def lambda_rows(*values):
    """Return epochs in which lambda falls, and the margin rises, as given."""
    return [
        {
            "epoch": epoch,
            "train_loss": 1 / epoch,
            "val_loss": 2 / epoch,
            "train_accuracy": 0.25 * epoch,
            "val_accuracy": 0.2 * epoch,
            "val_balanced_accuracy": 0.1 * epoch,
            "lr": 0.1**epoch,
            "lambda": lam,
            "effective_margin": margin,
        }
        for epoch, (lam, margin) in enumerate(values, 1)
    ]


def test_history_is_in_percent_and_has_the_effective_margin(tmp_path, monkeypatch):
    """Accuracy of 0.25 stands at 25; lambda and the margin it leaves have panels of their own."""
    rows = lambda_rows((500.0, 1.01), (50.0, 1.2), (1.0, 2.5))
    figure = figure_of(monkeypatch, plot_training_history, rows, tmp_path)
    panels = {axes.get_title(): axes for axes in figure.axes}
    assert list(panels) == ["loss", "accuracy, %", "learning rate", "lambda", "effective margin"]
    accuracy = {line.get_label(): list(line.get_ydata()) for line in panels["accuracy, %"].lines}
    assert accuracy["training"] == [25, 50, 75]
    assert accuracy["validation, balanced"] == pytest.approx([10, 20, 30])
    assert list(panels["effective margin"].lines[0].get_ydata()) == [1.01, 1.2, 2.5]
    assert panels["effective margin"].get_ylim()[0] < 1
    assert [axes.get_yscale() for axes in figure.axes[2:]] == ["log", "log", "linear"]


@pytest.mark.parametrize("lams", [(500.0, 50.0, 1.0), (3.0, 2.0, 1.5), (100.0, 1e-3, 0.0)])
def test_the_axis_of_lambda_has_plain_numbers(tmp_path, monkeypatch, lams):
    """Ticks read 100 and 10, no powers and not 0 alone; every value lies on the axis."""
    rows = lambda_rows(*((lam, 1.5) for lam in lams))
    figure = figure_of(monkeypatch, plot_training_history, rows, tmp_path)
    (axes,) = [one for one in figure.axes if one.get_title() == "lambda"]
    low, high = axes.get_ylim()
    assert all(low <= lam <= high for lam in lams)
    names = [
        label.get_text()
        for label in axes.get_yticklabels(which="both")
        if label.get_text() and low <= label.get_position()[1] <= high
    ]
    assert len(names) >= 2
    assert all(name.replace(".", "").replace("-", "").replace("e", "").isdigit() for name in names)
    boxes = [label.get_window_extent() for label in axes.get_yticklabels()]
    assert all(figure.bbox.x0 <= box.x0 for box in boxes)


def test_a_loss_without_margin_has_no_panels_for_it(tmp_path, monkeypatch):
    """Softmax has three panels, and no key of a line that is not there."""
    rows = lambda_rows((None, None), (None, None))
    figure = figure_of(monkeypatch, plot_training_history, rows, tmp_path)
    assert [axes.get_title() for axes in figure.axes] == ["loss", "accuracy, %", "learning rate"]


def test_classes_are_coloured_by_their_groups(tmp_path, monkeypatch):
    """Many, medium and few are named beside the bars, with the classes that the tables mean."""
    counts = [4, 107, 20, 55, 10, 76]
    names = ["e", "a", "c", "b", "d", "f"]
    figure = figure_of(monkeypatch, plot_class_distribution, counts, names, tmp_path)
    (axes,) = figure.axes
    legend = axes.get_legend()
    colour_of = dict(
        zip(
            (text.get_text() for text in legend.get_texts()),
            (patch.get_facecolor() for patch in legend.get_patches()),
            strict=True,
        )
    )
    groups = {name: {counts[i] for i in numbers} for name, numbers in shot_groups(counts).items()}
    drawn = {
        name: {bar.get_height() for bar in axes.patches if bar.get_facecolor() == colour}
        for name, colour in colour_of.items()
    }
    assert drawn == groups
    box = legend.get_window_extent()
    assert not any(bar.get_window_extent().overlaps(box) for bar in axes.patches)


def test_the_confusion_is_in_order_of_rarity_with_counts(tmp_path, monkeypatch):
    """Cells stand at the commonest class first, in percent and images; 0 where none ever was."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    predictions = np.array([0, 1, 1, 1, 1, 1, 1, 0, 1, 1])  # 2 is never predicted
    scores = score(["frog", "cat", "dog"], labels, predictions, [5, 900, 40])
    figure = figure_of(monkeypatch, plot_confusion, scores, tmp_path)
    axes = figure.axes[0]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    assert ticks == ["cat (900)", "dog (40)", "frog (5)"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "frog"]
    cells = {}
    for text in axes.texts:
        x, y = text.get_position()
        cells.setdefault((round(y), round(x)), []).append(text.get_text())
    assert cells == {
        (0, 0): ["75", "3"],
        (0, 1): ["0"],
        (0, 2): ["25", "1"],
        (1, 0): ["100", "2"],
        (1, 1): ["0"],
        (2, 0): ["75", "3"],
        (2, 1): ["0"],
        (2, 2): ["25", "1"],
    }
    boxes = [text.get_window_extent() for text in axes.texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    # (true, predicted) of the shades are the percentages
    shades = axes.images[0].get_array()
    assert shades.tolist() == [[75, 0, 25], [100, 0, 0], [75, 0, 25]]


def test_a_class_without_test_images_says_so_in_the_confusion(tmp_path, monkeypatch):
    """An empty row is told from one of zeros; one image of a thousand is not written as 0."""
    labels = np.repeat([0, 1], [1000, 4])
    predictions = labels.copy()
    predictions[0] = 1
    scores = score(["a", "b", "c"], labels, predictions, [9, 5, 3])
    axes = figure_of(monkeypatch, plot_confusion, scores, tmp_path).axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("no test image") == 1
    assert "<1" in texts


def reliability(*bins):
    """Return what of scores.json is drawn, for bins of (images, confidence, accuracy)."""
    keys = ("count", "confidence", "accuracy")
    found = [dict(zip(keys, one, strict=True)) for one in bins]
    return document(
        scores_json((1, 1), accuracy=0.8) | {"calibration_error": 0.1, "reliability": found}
    )


@pytest.mark.parametrize(
    "bins", [[(7, 1.0, 1.0)], [(3, 0.07, 0.0), (40_000, 0.5, 0.9), (1, 0.99, 0.5)]]
)
def test_reliability_is_drawn(tmp_path, bins):
    """One bin, empty bins between others, and bins above and below the diagonal give a picture."""
    plot_reliability(reliability(*bins), tmp_path)
    assert_drawn(tmp_path, "reliability")


def test_the_confusion_says_which_images_it_is_of(tmp_path, monkeypatch):
    """Those of a run are test images; what `eval` judged has its name."""
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, stem: drawn.append(figure))
    scores = score(["a", "b"], np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), [3, 3])
    plot_confusion(scores, tmp_path)
    own = scores.parts() | {"checkpoint": "best.pt", "epoch": 1, "adjustment": None}
    for split in ("validation", "some/folder"):
        plot_confusion(document(own | {"split": split}, EvaluationDocument), tmp_path)
    titles = [figure.axes[0].get_title() for figure in drawn]
    assert titles == [
        "Accuracy 75.0% of 4 test images",
        "Accuracy 75.0% of 4 validation images",
        "Accuracy 75.0% of 4 images",
    ]


def test_bars_of_reliability_stand_at_their_bins(tmp_path, monkeypatch):
    """A bar of accuracy stands over its bin; its hatched gap ends at the mean confidence."""
    drawn = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, stem: drawn.append(figure))
    plot_reliability(reliability((3, 0.5, 0.25), (9, 0.95, 1.0)), tmp_path)
    upper, lower = drawn[0].axes
    bars = [(b.get_x(), b.get_width(), b.get_y(), b.get_height()) for b in upper.patches]
    left, right = (700 / 15, 100 / 15), (1400 / 15, 100 / 15)
    wanted = [(*left, 0, 25), (*right, 0, 100), (*left, 25, 25), (*right, 100, -5)]
    assert bars == [pytest.approx(bar) for bar in wanted]
    assert [bar.get_height() for bar in lower.patches] == [3, 9]
    assert [text.get_text() for text in lower.texts] == ["3", "9"]
    assert upper.get_title() == "Expected calibration error 10.0%, accuracy 80.0%"


def test_scores_without_probabilities_draw_no_reliability(tmp_path):
    """A scores.json from before calibration was scored has nothing to draw, and leaves no file."""
    plot_reliability(document(scores_json((1, 1))), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("num_panels", [1, 4, 5])
def test_features_are_drawn_one_panel_a_margin(tmp_path, num_panels):
    """The file is exactly the asked one; a class without points or with mean zero is no trouble."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 9
    features = rng.normal(size=(90, 2)).astype(np.float32)
    features[labels == 2] = 0
    panels = [(f"m = {m}", features, labels) for m in range(1, num_panels + 1)]
    plot_features(panels, ODD_NAMES, tmp_path / "new" / "features.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["features.png"]
    with Image.open(tmp_path / "new" / "features.png") as image:
        assert len(image.convert("RGB").getcolors(10**6)) > 50


def test_folder_that_cannot_be_written_is_a_disk_error(tmp_path):
    """A plot that finds no room ends in a message that names it."""
    (tmp_path / "plots").write_text("")
    with pytest.raises(DiskError, match=r"cannot write .*plots"):
        plot_training_history([], tmp_path / "plots")


def test_reports_need_neither_torch_nor_pyplot():
    """Importing the reports loads no torch and no matplotlib; drawing makes no global figures."""
    code = """
import sys
import lmsm_cli.reports.plots, lmsm_cli.reports.tables
import lmsm_cli.scoring, lmsm_cli.commands.compare, lmsm_cli.commands.console, lmsm_cli.runs.folder
assert not {"torch", "matplotlib", "sklearn", "numpy"} & set(sys.modules)
import lmsm_cli.comparison.grouping, lmsm_cli.reports.rarity_plot
assert not {"torch", "matplotlib", "sklearn"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
