"""The picture of the question as plain data: dots, intervals, places, regions, what is left out."""

import math
import statistics

import numpy as np
import pytest
from scipy.stats import binomtest, t

from lmsm_cli.comparison.differences import Question
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.records import ClassStatistic, Statistic
from lmsm_cli.comparison.two_way import Over
from lmsm_cli.reports.rarity import (
    MOST_LINES,
    Arm,
    arm_of_run,
    arms_of,
    class_interval,
    rarity_chart,
)
from lmsm_cli.shot_groups import shot_groups
from tests.synthetic_runs import (
    document,
    images_of,
    records_in,
    scores_json,
    write_predicting_run,
    write_runs,
)


def classes_of(counts, accuracies, *, sd=0.02, n=5, tested=100):
    """Return the accuracies of classes named by their number, None where one has no image."""
    return [
        ClassStatistic(
            str(number),
            count,
            tested if mean is not None else 0,
            None if mean is None else Statistic(mean, sd if n > 1 else None, n),
        )
        for number, (count, mean) in enumerate(zip(counts, accuracies, strict=True))
    ]


def run_of(counts, accuracies, tested=10):
    """Return the scores of a run with these accuracies of its classes."""
    names = [f"class {number}" for number in range(len(counts))]
    return document(scores_json(accuracies, train=counts, test=[tested] * len(counts), names=names))


def arm(counts, accuracies, number=1, **more):
    """Return an arm whose classes have these training images and accuracies."""
    baseline = more.pop("is_baseline", False)
    return Arm(number, f"loss {number}", classes_of(counts, accuracies, **more), (), baseline)


def test_interval_over_seeds_is_that_of_students_t():
    """Mean ± t(n - 1) sd / sqrt(n), as scipy.stats has it, and never beyond 0 and 100%."""
    values = [0.5, 0.6, 0.65, 0.4]
    found = Statistic(statistics.mean(values), statistics.stdev(values), 4)
    interval = class_interval(ClassStatistic("cat", 5, 50, found))
    scale = statistics.stdev(values) / 2
    assert (interval.low, interval.high) == pytest.approx(
        t.interval(0.95, 3, loc=found.mean, scale=scale)
    )
    assert interval.over == "seeds"
    wide = class_interval(ClassStatistic("cat", 5, 50, Statistic(0.5, 0.6, 3)))
    assert (wide.low, wide.high) == (0, 1)


@pytest.mark.parametrize(("right", "images"), [(0, 7), (3, 10), (58, 58), (450, 1000)])
def test_interval_of_one_run_is_wilsons_over_its_test_images(right, images):
    """As scipy.stats.binomtest has it, with none and with all images right too."""
    found = class_interval(ClassStatistic("cat", 5, images, Statistic(right / images, None, 1)))
    wanted = binomtest(right, images).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx(tuple(wanted), abs=1e-12)
    assert found.over == "test images"


@pytest.mark.parametrize(
    ("accuracy", "tested"),
    [
        (None, 0),
        (Statistic(0.5, 0.1, 2), 10),
        (Statistic(1.0, 0.0, 5), 10),
        (Statistic(0.5, None, 3), 10),
    ],
    ids=["no test image", "two seeds", "nothing varies", "no sd"],
)
def test_where_nothing_is_known_there_is_no_interval(accuracy, tested):
    """Two seeds, equal runs and a class without test images have no bar, which would mislead."""
    assert class_interval(ClassStatistic("cat", 5, tested, accuracy)) is None


def test_a_dot_is_a_class_at_its_number_of_training_images():
    """Of one arm each dot stands exactly at its count, commonest first, with its own accuracy."""
    chart = rarity_chart([arm([4, 100, 20], [0.1, 0.9, 0.5])])
    (line,) = chart.lines
    assert [dot.x for dot in line.dots] == pytest.approx([100, 20, 4])
    assert [(dot.names, dot.mean) for dot in line.dots] == [
        (("1",), 0.9),
        (("2",), 0.5),
        (("0",), 0.1),
    ]
    assert line.trend() == [(pytest.approx(x), y) for x, y in [(100, 0.9), (20, 0.5), (4, 0.1)]]
    assert chart.low < 4
    assert chart.high > 100
    assert [name for _, name in chart.ticks] == ["5", "10", "20", "50", "100"]


def test_lines_stand_a_little_aside_of_each_other_and_of_no_other_class():
    """With six lines, all dots of a class are nearer to its count than to any other's."""
    counts = [107, 76, 55, 40, 28, 20, 14, 10, 7, 4]
    arms = [arm(counts, [0.5] * 10, number) for number in range(1, 7)]
    chart = rarity_chart(arms)
    for place, count in enumerate(counts):
        xs = [line.dots[place].x for line in chart.lines]
        assert len({round(x, 9) for x in xs}) == 6
        assert math.prod(xs) ** (1 / 6) == pytest.approx(count)
        for x in xs:
            assert min(counts, key=lambda one: abs(math.log(one / x))) == count


def test_classes_of_one_count_stand_side_by_side_and_the_line_runs_through_their_mean():
    """Five classes of 500 and five of 50 are ten dots, and a line of two points."""
    counts = [500] * 5 + [50] * 5
    accuracies = [0.9, 0.8, 0.7, 0.6, 0.5, 0.5, 0.4, 0.3, 0.2, 0.1]
    chart = rarity_chart([arm(counts, accuracies)])
    (line,) = chart.lines
    xs = [dot.x for dot in line.dots]
    assert xs == sorted(xs, reverse=True)
    assert len(set(xs)) == 10
    assert min(xs[:5]) > 200 > max(xs[5:])
    assert line.trend() == [(pytest.approx(500), pytest.approx(0.7)), (pytest.approx(50), 0.3)]


def test_a_class_without_training_images_stands_below_all_others():
    """A logarithm has no 0: it has a place of its own, named 0."""
    chart = rarity_chart([arm([50, 9, 0], [0.9, 0.5, 0.0])])
    last = chart.lines[0].dots[-1]
    assert last.x < 9
    assert (pytest.approx(last.x), "0") in chart.ticks


def test_a_class_without_test_images_has_no_dot():
    """Nothing is known of it; the others stay where they are."""
    chart = rarity_chart([arm([50, 9, 5], [0.9, None, 0.1])])
    assert [dot.names for dot in chart.lines[0].dots] == [("0",), ("2",)]


def test_without_any_accuracy_there_is_no_picture():
    """No arm, or none with test images, draws nothing."""
    assert rarity_chart([]) is None
    assert rarity_chart([arm([5, 3], [None, None])]) is None


def test_equal_counts_have_no_tail_and_no_regions():
    """On balanced data the classes stand side by side, and nothing is called rare."""
    chart = rarity_chart([arm([500] * 10, [0.5] * 10)])
    assert not chart.has_tail
    assert chart.regions == ()
    assert chart.ticks == ((500.0, "500"),)
    xs = [dot.x for dot in chart.lines[0].dots]
    assert chart.lines[0].trend() == [(max(xs), 0.5), (min(xs), 0.5)]
    assert "rarest" not in chart.axis_title
    assert len({dot.x for dot in chart.lines[0].dots}) == 10


def test_nearly_equal_counts_have_no_tail_either():
    """Of 500 and 400 images no class is rare; of 600 and 400 one is."""
    nearly = rarity_chart([arm([500, 400], [0.5, 0.5])])
    assert not nearly.has_tail
    assert nearly.regions == ()
    assert "rarest" not in nearly.axis_title
    assert rarity_chart([arm([600, 400], [0.5, 0.5])]).has_tail


def test_regions_are_the_groups_of_the_tables_and_name_their_counts():
    """Rarest first, each holds the dots of its classes and touches the next."""
    counts = [107, 76, 55, 40, 28, 20, 14, 10, 7, 4]
    chart = rarity_chart([arm(counts, [0.5] * 10, n) for n in (1, 2, 3)])
    assert [one.title for one in chart.regions] == ["few: ≤10", "medium", "many: ≥55"]
    assert chart.regions[0].low == chart.low
    assert chart.regions[-1].high == chart.high
    assert chart.regions[0].high == chart.regions[1].low
    for region in chart.regions:
        inside = {
            dot.train_counts[0]
            for line in chart.lines
            for dot in line.dots
            if region.low <= dot.x <= region.high
        }
        assert inside == {counts[i] for i in shot_groups(counts)[region.name]}


def test_arms_with_other_counts_have_neither_regions_nor_names():
    """A class may be rare in one arm and common in another: then nothing can be shaded."""
    chart = rarity_chart([arm([50, 5], [0.9, 0.1]), arm([50, 20], [0.9, 0.3], 2)])
    assert chart.regions == ()
    assert chart.names == ()
    assert [dot.train_counts for dot in chart.lines[1].dots] == [(50,), (20,)]


def test_neighbours_of_many_classes_share_a_dot():
    """Of 100 classes, a dot is the mean of some of one group, with the interval of those means."""
    counts = [round(500 * 0.01 ** (number / 99)) for number in range(100)]
    runs = [
        run_of(counts, [min(1.0, (200 - n + 7 * seed + n * seed % 5) / 220) for n in range(100)])
        for seed in range(3)
    ]
    classes = classes_of(counts, [0.5] * 100)
    (line,) = rarity_chart([Arm(1, "softmax", classes, runs)]).lines
    assert 10 <= len(line.dots) <= 14
    assert sum(len(dot.names) for dot in line.dots) == 100
    groups = {name: set(numbers) for name, numbers in shot_groups(counts).items()}
    for dot in line.dots:
        numbers = [int(name) for name in dot.names]
        assert set(numbers) <= groups[dot.shots]
        means = [
            statistics.fmean(run.per_class[number].accuracy for number in numbers) for run in runs
        ]
        assert dot.mean == pytest.approx(statistics.fmean(means))
        scale = statistics.stdev(means) / math.sqrt(3)
        low, high = t.interval(0.95, 2, loc=dot.mean, scale=scale)
        assert dot.interval.low == pytest.approx(max(0, low))
        assert dot.interval.high == pytest.approx(min(1, high))
    chart = rarity_chart([Arm(1, "softmax", classes, runs)])
    assert chart.names == ()
    assert chart.notes[0].startswith("A dot is the mean of classes")


def test_the_interval_of_a_shared_dot_of_one_run_is_over_all_its_test_images():
    """Ten test images in each of 8 classes tell as much as 80 of one."""
    counts = list(range(130, 30, -1))
    scores = run_of(counts, [0.5] * 100, tested=10)
    (line,) = rarity_chart([arm_of_run(scores)]).lines
    for dot in line.dots:
        images = 10 * len(dot.names)
        wanted = binomtest(images // 2, images).proportion_ci(method="wilson")
        assert (dot.interval.low, dot.interval.high) == pytest.approx(tuple(wanted))


def test_of_many_groups_the_baseline_and_the_best_on_rare_classes_are_drawn():
    """The others are told by their number; lines keep their order and numbers."""
    arms = [arm([90, 30, 3], [0.9, 0.5, 0.1 * n], n) for n in range(1, 10)]
    arms[0] = Arm(1, "softmax", arms[0].classes, (), is_baseline=True)
    chart = rarity_chart(arms)
    assert len(chart.lines) == MOST_LINES
    assert [line.number for line in chart.lines] == [1, 5, 6, 7, 8, 9]
    assert chart.lines[0].is_baseline
    assert chart.notes[-1] == (
        "Of 9 groups the baseline and the 5 with the highest mean on the rarest classes are drawn."
    )


def test_the_note_says_what_the_bars_are():
    """Over seeds, over test images, or each where it is known; nothing where there is no bar."""
    seeds, image = arm([9, 3], [0.5, 0.5]), arm([9, 3], [0.5, 0.5], 2, n=1)
    bare = arm([9, 3], [0.5, 0.5], n=2)
    assert rarity_chart([seeds]).notes == ("Bars are 95% intervals over seeds.",)
    assert rarity_chart([image]).notes == ("Bars are 95% intervals over test images.",)
    assert "over seeds or test images" in rarity_chart([seeds, image]).notes[0]
    assert rarity_chart([bare]).notes == ()


def test_arms_of_a_comparison_are_its_groups(tmp_path):
    """Numbers, labels, baseline, classes and the runs' scores are those of compare_runs."""
    write_runs(tmp_path, ["softmax", "focal"], 3)
    records = records_in(tmp_path)
    (numbered,) = compare_runs(records).by_test_set()
    arms = arms_of(numbered, records)
    assert [(one.number, one.label, one.is_baseline) for one in arms] == [
        (1, "softmax", True),
        (2, "focal", False),
    ]
    assert [len(one.runs) for one in arms] == [3, 3]
    accuracies = [record.scores.per_class[2].accuracy for record in records[:3]]
    assert arms[0].classes[2].accuracy.mean == pytest.approx(statistics.fmean(accuracies))


COUNTS = [40, 12, 3]


def predicting_runs(out, losses=("softmax", "focal"), seeds=3):
    """Write runs with predictions for the same 60 images; return who was right, by loss."""
    images = images_of("abc", test=range(60))
    labels = images.of("test").labels
    right = {}
    for place, loss in enumerate(losses):
        for seed in range(seeds):
            generator = np.random.default_rng(10 * place + seed)
            logits = generator.normal(size=(60, 3))
            logits[np.arange(60), labels] += 1 + place
            config = {"loss": loss, "seed": seed}
            write_predicting_run(out, f"{place}-{seed}", images, logits, COUNTS, **config)
            right.setdefault(loss, []).append(logits.argmax(1) == labels)
    return labels, {loss: np.stack(rows) for loss, rows in right.items()}


def test_bars_are_over_seeds_and_test_images_where_predictions_are_known(tmp_path):
    """A class's bar is the two-way interval of its mean accuracy, from who was right where."""
    labels, right = predicting_runs(tmp_path)
    records = records_in(tmp_path)
    (numbered,) = compare_runs(records).by_test_set()
    chart = rarity_chart(arms_of(numbered, records))
    assert chart.notes == ("Bars are 95% intervals over seeds and test images.",)
    for line in chart.lines:
        for number, dot in enumerate(line.dots):
            rows = right[line.label][:, labels == number].astype(float)
            assert dot.mean == pytest.approx(rows.mean())
            # variances over seeds, and over images without the part that single answers have
            s, n = rows.shape
            residual = rows - rows.mean(1, keepdims=True) - rows.mean(0) + rows.mean()
            both = (residual**2).sum() / ((s - 1) * (n - 1)) / (s * n)
            over_seeds = rows.mean(1).var(ddof=1) / s
            over_images = max(rows.mean(0).var(ddof=1) / n - both, 0)
            half = math.sqrt(
                t.ppf(0.975, s - 1) ** 2 * over_seeds + t.ppf(0.975, n - 1) ** 2 * over_images
            )
            assert dot.interval.low == pytest.approx(max(0, rows.mean() - half))
            assert dot.interval.high == pytest.approx(min(1, rows.mean() + half))


def test_bars_are_over_seeds_where_that_was_asked_or_a_run_has_no_predictions(tmp_path):
    """`--over seeds` holds for the picture too; where a run tells nothing, its arm is so."""
    predicting_runs(tmp_path)
    records = records_in(tmp_path)
    asked = compare_runs(records, question=Question(Over.SEEDS))
    chart = rarity_chart(arms_of(*asked.by_test_set(), records))
    assert chart.notes == ("Bars are 95% intervals over seeds.",)
    (tmp_path / "1-2" / "predictions.npz").unlink()
    records = records_in(tmp_path)
    mixed = rarity_chart(arms_of(*compare_runs(records).by_test_set(), records))
    kinds = {dot.interval.over for line in mixed.lines for dot in line.dots if dot.interval}
    assert kinds == {Over.SEEDS}


def test_predictions_of_arms_that_are_not_drawn_are_not_read(tmp_path, monkeypatch):
    """Of many groups only the drawn ones cost the reading of their files."""
    losses = [f"lsoftmax:margin={number}" for number in range(1, 10)]
    predicting_runs(tmp_path, losses)
    records = records_in(tmp_path)
    (numbered,) = compare_runs(records).by_test_set()
    read = []
    monkeypatch.setattr(
        "lmsm_cli.reports.rarity._answers_of", lambda runs: read.append(len(runs)) and None
    )
    rarity_chart(arms_of(numbered, records))
    assert read == [3] * MOST_LINES
