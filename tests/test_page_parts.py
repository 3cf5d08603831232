"""What the report page is drawn from: curves, scales, and bins, against other roads to them."""

import math
import re

import numpy as np
import pytest

from lmsm_cli.metrics import METRICS
from lmsm_cli.reports.figures import spread
from lmsm_cli.reports.html import svg
from lmsm_cli.reports.html.charts import Series, curve_chart, merged_bins
from lmsm_cli.reports.html.curves import MAX_POINTS, Point, curve
from lmsm_cli.reports.html.facts import value_text
from lmsm_cli.reports.html.pictures import embedded
from lmsm_cli.reports.html.rarity import rarity_picture
from lmsm_cli.reports.html.tables import seeds_text, written
from lmsm_cli.reports.rarity import arm_of_run, rarity_chart
from lmsm_cli.scoring import score
from tests.synthetic_runs import document, scores_json


def test_curve_is_mean_and_bounds_of_the_runs_that_got_so_far():
    """An epoch has the mean, lowest and highest of the runs that have it; null is a gap."""
    long = [{"epoch": 1, "x": 1.0}, {"epoch": 2, "x": 4.0}, {"epoch": 3, "x": None}]
    short = [{"epoch": 1, "x": 3.0}]
    assert curve([long, short], "x") == (Point(1, 2.0, 1.0, 3.0), Point(2, 4.0, 4.0, 4.0))
    assert curve([long, short], "y") == ()


@pytest.mark.parametrize("num_epochs", [MAX_POINTS, MAX_POINTS + 1, 5000])
def test_thinned_curve_keeps_its_ends_and_its_spikes(num_epochs):
    """A loss that jumps in one of 5,000 epochs still jumps in the drawing."""
    rows = [{"epoch": n, "x": math.sin(n)} for n in range(1, num_epochs + 1)]
    rows[num_epochs // 3]["x"] = 50.0
    points = curve([rows], "x")
    assert len(points) <= MAX_POINTS
    assert (points[0].epoch, points[-1].epoch) == (1, num_epochs)
    assert max(point.mean for point in points) == 50.0
    assert [p.epoch for p in points] == sorted({p.epoch for p in points})


@pytest.mark.parametrize(
    "values",
    [
        [],
        [0.0],
        [5.0, 5.0],
        [-3.0, 7.0],
        [0.0, 1e-12],
        [1e-300, 1.0],
        [0.0, 1e-5, 1e5],
        [1e99, -1e99],
        [0.1, 100.0],
        [math.inf, 2.0],
    ],
)
@pytest.mark.parametrize("may_bend", [False, True])
def test_scale_holds_every_value(values, may_bend):
    """Whatever the values, an axis has a few ticks in order, and each value a place on it."""
    scale = svg.scale_of(values, may_bend=may_bend)
    ticks = [tick for tick, _ in scale.ticks]
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert len({name for _, name in scale.ticks}) == len(ticks)
    for value in filter(math.isfinite, values):
        assert scale.high >= value
        assert 0 <= scale.share(value) <= 1
    assert scale.share(scale.low) == 0
    assert scale.share(scale.high) == 1


def test_scales_read_as_round_numbers():
    """Ticks are named as a person would: no 0.30000000000000004, and percent for shares."""

    def named(scale):
        return " ".join(name for _, name in scale.ticks)

    assert named(svg.scale_of([0.0, 1.0], percent=True)) == "0 25 50 75 100"
    assert named(svg.scale_of([-0.3, 0.3])) == "\u22120.4 \u22120.2 0.0 0.2 0.4"
    assert named(svg.scale_of([0, 1, 1000], may_bend=True)).startswith("0 1 ")
    assert named(svg.epoch_scale([1, 10])) == "2 4 6 8 10"
    assert named(svg.epoch_scale([1, 2])) == "1 2"


def test_spread_keeps_order_and_distance():
    """Labels at one height are moved apart, in their order, and stay in the picture."""
    moved = spread([50, 50, 50, 10], 11, 60)
    assert moved[3] == 10
    assert sorted(moved[:3])[-1] <= 60
    gaps = np.diff(sorted(moved))
    assert min(gaps) >= 11


def test_spread_of_unequal_labels_leaves_each_its_room():
    """Neighbours are the mean of their sizes apart, and none goes past the end."""
    moved = spread([50, 50, 52], [10, 30, 20], 60)
    assert moved[2] == 60
    assert (moved[2] - moved[1], moved[1] - moved[0]) == (25, 20)
    assert spread([], [], 60) == []


def test_the_numbers_of_an_axis_have_room_at_its_left():
    """A learning rate's names are longer than those of percent, and the frame begins after them."""
    rows = [{"epoch": 1, "x": 1e-5}, {"epoch": 2, "x": 6.6e-6}]
    series = [Series(1, "softmax", curve([rows], "x"))]
    drawn = curve_chart("Learning rate", series, percent=False, may_bend=True)
    names = re.findall(r'<text class="end" x="([\d.]+)" [^>]*>([^<]*)</text>', drawn)
    assert "0.000010" in [name for _, name in names]
    for right, name in names:
        assert float(right) >= 6 * len(name)  # letters of 11 pixels are 6 wide


@pytest.mark.parametrize("width", ["wide", "narrow"])
def test_the_picture_of_the_question_has_each_dot_at_its_place(width):
    """Between two classes a dot's place is linear in the logarithm of the training images."""
    counts, shares = [1000, 100, 10], [0.9, 0.5, 0.1]
    scores = document(scores_json(shares, train=counts, test=[50] * 3, names="abc"))
    drawn = str(rarity_picture(rarity_chart([arm_of_run(scores)])))
    part = drawn[drawn.index(f'class="{width}"') :].partition("</div>")[0]
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', part)
    (x1, y1), (x2, y2), (x3, y3) = (tuple(map(float, dot)) for dot in dots)
    assert x1 < x2 < x3
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.3)
    assert y1 < y2 < y3
    assert y2 - y1 == pytest.approx(y3 - y2, abs=0.3)
    assert "a, 1,000 training images: 90.0%, 95% interval over test images" in part


def test_text_in_a_chart_is_escaped():
    """A label with markup is text in the drawing."""
    drawn = svg.picture(10, 10, "<b>\"'&", svg.text(1, 2, "<script>"))
    assert "<b>" not in drawn
    assert "<script>" not in drawn
    assert "&lt;script&gt;" in drawn


def test_merged_bins_are_those_of_all_images_together():
    """The bins of two runs merge into those that scoring their images at once would give."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 400)
    logits = np.log(generator.dirichlet((1, 1, 1), 400))
    predictions = logits.argmax(1)

    def bins(part):
        return score("abc", labels[part], predictions[part], [1, 2, 3], logits[part]).reliability

    merged, whole = merged_bins([bins(slice(0, 150)), bins(slice(150, 400))]), bins(slice(None))
    assert len(merged) == len(whole)
    for one, other in zip(merged, whole, strict=True):
        assert dict(one) == pytest.approx(dict(other))


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ((3, 1, 2), "seeds 1 to 3"),
        ((1, 2), "seeds 1, 2"),
        ((5,), "seed 5"),
        ((1, 3, 9), "seeds 1, 3, 9"),
        ((None,), "no seed"),
    ],
)
def test_seeds_in_words(seeds, text):
    """Seeds in a row are told by their ends."""
    assert seeds_text(seeds) == text


@pytest.mark.parametrize(
    ("value", "key", "text"),
    [
        (0.8567, "accuracy", "85.7"),
        (-0.0004, "few", "\u22120.0"),
        (1.5, "effective_margin", "1.50"),
        (12345.6, "images_per_second", "12,346"),
    ],
)
def test_values_are_written_in_their_unit(value, key, text):
    """Shares are percent, everything else has its own decimals."""
    assert written(value, METRICS[key]) == text


def test_config_values_read_like_yaml():
    """True, nothing and lists are written as in config.yaml, not as in Python."""
    shown = [value_text(v) for v in (True, None, [160, 180], 0.1, "a")]
    assert shown == ["true", "-", "160, 180", "0.1", "a"]


def test_no_picture_is_none(tmp_path):
    """A run without a feature picture has none in the page."""
    assert embedded(tmp_path / "features.png", 1) is None
