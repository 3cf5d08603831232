"""The picture of the question as it is drawn: from the axes' own objects, not from its pixels."""

import itertools

import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from lmsm_cli.commands.app import main
from lmsm_cli.reports.rarity import Arm, rarity_chart
from lmsm_cli.reports.rarity_plot import plot_accuracy_by_training_images, rarity_figure
from tests.synthetic_runs import scores_of, write_run, write_runs
from tests.test_plots import ODD_NAMES, assert_drawn
from tests.test_rarity import arm, classes_of

COUNTS = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
FALLING = [0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
LONG = "lsoftmax:margin=auto,lambda_min=1,weight_norm=shared rebalance_from=14"


def three_arms():
    """Return a baseline and two losses that end at the same accuracy of the rarest class."""
    first, second, third = (
        arm(COUNTS, [max(0.1, one - 0.05 * n) for one in FALLING], n) for n in (1, 2, 3)
    )
    base = Arm(1, "softmax", first.classes, (), is_baseline=True)
    return [base, second, Arm(3, LONG, third.classes)]


def dots_of(axes):
    """Return the artists that are marks: one for each line."""
    return [line for line in axes.lines if line.get_linestyle() == "None" and line.get_marker()]


def drawn(arms, **more):
    """Return the figure, laid out, and its axes."""
    figure = rarity_figure(rarity_chart(arms), **more)
    figure.draw_without_rendering()
    return figure, figure.axes[0]


def assert_apart(boxes):
    """Check that no box of text covers another."""
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)


def test_axes_are_training_images_on_a_log_scale_and_percent():
    """Common classes stand at the left; the ticks are numbers of images."""
    _, axes = drawn(three_arms())
    assert axes.get_xscale() == "log"
    assert axes.get_yscale() == "linear"
    left, right = axes.get_xlim()
    assert left > 5000 > 50 > right
    assert "training images" in axes.get_xlabel()
    assert "%" in axes.get_ylabel()
    ticks = {tick.get_text(): x for tick, x in zip(axes.get_xticklabels(), axes.get_xticks())}  # noqa: B905
    assert ticks["1,000"] == 1000
    assert axes.get_xticks(minor=True).size == 0


def test_marks_stand_at_the_accuracies_and_bars_end_at_the_intervals():
    """Each class of each loss has a mark in percent and a vertical bar from low to high."""
    chart = rarity_chart(three_arms())
    axes = rarity_figure(chart).axes[0]
    marks = dots_of(axes)
    assert len(marks) == 3
    for mark, line in zip(marks, chart.lines, strict=True):
        assert list(mark.get_xdata()) == [dot.x for dot in line.dots]
        assert list(mark.get_ydata()) == [100 * dot.mean for dot in line.dots]
    bars = {
        (round(line.get_xdata()[0], 6), *(round(y, 6) for y in line.get_ydata()))
        for line in axes.lines
        if line.get_marker() == "_"
    }
    assert bars == {
        (round(dot.x, 6), round(100 * dot.interval.low, 6), round(100 * dot.interval.high, 6))
        for line in chart.lines
        for dot in line.dots
    }


def test_lines_differ_without_colour_and_the_baseline_is_thickest():
    """Marks and dashes tell six lines apart in grey; the baseline is black, solid and thick."""
    arms = [Arm(n, f"loss {n}", classes_of(COUNTS, FALLING), (), n == 2) for n in range(1, 7)]
    axes = rarity_figure(rarity_chart(arms)).axes[0]
    marks = dots_of(axes)
    assert len({mark.get_marker() for mark in marks}) == 6
    trends = [line for line in axes.lines if len(line.get_xdata()) == 10 and line not in marks]
    assert len(trends) == 6
    looks = {(repr(line._unscaled_dash_pattern), line.get_linewidth()) for line in trends}
    assert len(looks) == 6
    base = trends[1]
    assert to_rgb(base.get_color()) == (0, 0, 0)
    assert base.get_linewidth() > 1.5 * max(o.get_linewidth() for o in trends if o is not base)


def test_the_rarest_classes_are_shaded_and_the_groups_named():
    """The shade covers the classes of `few` and no other."""
    _, axes = drawn(three_arms())
    (shade,) = axes.patches
    box = shade.get_extents().transformed(axes.transData.inverted())
    low, high = sorted((box.x0, box.x1))
    assert [count for count in COUNTS if low < count < high] == [139, 83, 50]
    texts = [text.get_text() for text in axes.texts]
    assert {"many: ≥1,796", "medium", "few: ≤139"} <= set(texts)


def test_nothing_is_cut_and_no_name_covers_another():
    """Names of lines and of classes, ticks and caption lie inside the figure, each alone."""
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
    names.append("a class with quite a long name, say")
    arms = three_arms()
    for one in arms:
        one.classes[:] = [
            type(c)(name, c.train_count, c.test_count, c.accuracy)
            for c, name in zip(one.classes, names, strict=True)
        ]
    figure, axes = drawn(arms, title="CIFAR-10, exp 0.01")
    labels = [text for text in axes.texts if text.get_text()]
    texts = [*labels, *axes.get_xticklabels(), *axes.get_yticklabels(), *figure.texts]
    texts += [axes.xaxis.label, axes.yaxis.label]
    for text in texts:
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0, text.get_text()
        assert box.x1 <= figure.bbox.x1, text.get_text()
        assert figure.bbox.y0 <= box.y0, text.get_text()
        assert box.y1 <= figure.bbox.y1, text.get_text()
    flat = [text for text in labels if not text.get_rotation()]
    assert {"softmax\n(baseline)", "loss 2"} < {text.get_text() for text in flat}
    assert_apart([Text.get_window_extent(text) for text in flat])  # without leading lines
    assert_apart([tick.get_window_extent() for tick in axes.get_xticklabels()])
    slanted = [text for text in labels if text.get_rotation()]
    assert [text.get_text() for text in slanted][:9] == names[:9]
    area = axes.get_window_extent()
    starts = [axes.transData.transform((text.get_position()[0], 0))[0] for text in slanted]
    assert all(b - a > 12 for a, b in itertools.pairwise(starts))
    assert all(text.get_window_extent().y0 > area.y1 for text in slanted)


@pytest.mark.parametrize("counts", [[50] * 10, [5] * 9 + [0], COUNTS])
def test_odd_names_and_counts_are_drawn_without_a_warning(tmp_path, counts):
    """Balanced data, a class without training images and any script give both files."""
    classes = classes_of(counts, FALLING)
    named = [
        type(c)(n, c.train_count, c.test_count, c.accuracy)
        for c, n in zip(classes, ODD_NAMES, strict=True)
    ]
    arms = [Arm(1, "$a_b$ {x}", named, (), is_baseline=True), Arm(2, "日本\x00", named)]
    plot_accuracy_by_training_images(arms, tmp_path / "plots", title="$\\frac$")
    assert_drawn(tmp_path / "plots", "accuracy_by_training_images")


def test_without_accuracies_no_file_is_written(tmp_path):
    """Scores of no class leave no picture and no error."""
    plot_accuracy_by_training_images([arm([3, 2], [None, None])], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_compare_draws_a_picture_for_each_set_of_test_images(tmp_path, capsys):
    """`compare --plots FOLDER` makes the folder; runs on other classes have a picture apart."""
    write_runs(tmp_path / "runs", ["softmax", "focal"], 3)
    write_run(tmp_path / "runs", "z", scores=scores_of(["red", "green", "blue"]), dataset="folder")
    plots = tmp_path / "new" / "plots"
    assert main(["compare", str(tmp_path / "runs"), "--plots", str(plots)]) == 0
    assert "softmax" in capsys.readouterr().out
    assert_drawn(plots, "accuracy_by_training_images")
    assert_drawn(plots, "accuracy_by_training_images-2")
    assert len(list(plots.iterdir())) == 4


def test_a_folder_that_takes_no_plots_is_refused_before_work(tmp_path, capsys):
    """A file in the folder's place is exit code 6, with the flag to change."""
    write_runs(tmp_path / "runs", ["softmax"], 1)
    (tmp_path / "file").touch()
    assert main(["compare", str(tmp_path / "runs"), "--plots", str(tmp_path / "file")]) == 6
    assert "choose another with --plots" in capsys.readouterr().err
