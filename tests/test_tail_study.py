"""The study of a long tail: what is chosen on one half of the test images, and judged on the other.

The numbers come from right and wrong answers per image, averaged here.
"""

import shutil
import statistics
import tarfile
from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from lmsm_cli.runs.images import PREDICTIONS, read_images_record, read_predictions
from lmsm_cli.scoring import score
from tests.conftest import BENCHMARKS
from tests.synthetic_runs import ENVIRONMENT, images_of, write_predicting_run

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="a source distribution has none")

CLASSES, COUNTS = ("ant", "bee", "cow"), (70, 40, 10)  # many, medium, few
TEST = range(1000, 1240)
COMMIT = {"commit": "ab" * 20, "dirty": False}
LOSSES = {"softmax": 0.0, "balanced-softmax": 0.3, "lsoftmax:margin=2,tau=1": 0.9}


def write_arm(out, loss, seed, *, better=0.0, test=TEST, git=COMMIT, training=range(12), **config):
    """Write a run whose logits are drawn, those of the true class `better` than usual."""
    images = images_of(CLASSES, training=training, test=test)
    labels = images.of("test").labels
    draw = np.random.default_rng([seed, len(loss)])
    logits = draw.normal(size=(len(labels), 3))
    # some images are easy for a loss with every seed
    easy = np.random.default_rng(len(loss)).normal(size=len(labels))
    logits[np.arange(len(labels)), labels] += 0.7 + better + easy
    name = f"{loss.partition(':')[0]}-{'-'.join(map(str, config.values()))}-s{seed}"
    config = {"precision": "bf16"} | config
    environment = ENVIRONMENT | {"git": git}
    return write_predicting_run(
        out, name, images, logits, COUNTS, loss=loss, seed=seed, environment=environment, **config
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a folder with three losses, each with the seeds 0 to 6."""
    out = tmp_path_factory.mktemp("written")
    for loss, better in LOSSES.items():
        for seed in range(7):
            write_arm(out, loss, seed, better=better)
    return out


@pytest.fixture
def study(tmp_path, written):
    """Return a copy of it that a test may change."""
    return shutil.copytree(written, tmp_path / "runs" / "study")


@pytest.fixture
def command(module, capsys):
    """Return what runs tail_study.py: its tables, rows by title, and all other lines, or errors."""

    def run(*arguments, code=0):
        assert module("tail_study").main([str(one) for one in arguments]) == code
        out, error = capsys.readouterr()
        if code:
            assert not out
            return error
        lines = out.replace("\\", "").splitlines()
        tables = []
        for before, line in pairwise(lines):
            cells = [cell.strip() for cell in line.strip("| ").split("|")]
            if line.startswith("| ") and not before.startswith("| "):
                tables.append([])
                titles = cells
            elif line.startswith("| ") and not line.startswith("| -"):
                tables[-1].append(dict(zip(titles, cells, strict=True)))
        return tables, [line for line in lines if line and not line.startswith("|")]

    return run


def recalls(module, run, half, tau=None):
    """Return the accuracy of each class on a half, and of all images, counted image by image."""
    folder = run / "adjusted" / tau if tau else run
    record, found = read_images_record(run).of("test"), read_predictions(folder)
    halves = module("halves")
    own = [halves.HALVES[place] for place in halves.half_of(record.labels, record.digests)]
    rows = zip(own, found.labels, found.predicted, strict=True)
    hits = [(label, label == guess) for place, label, guess in rows if half in (place, "all")]
    by_class = [[hit for label, hit in hits if label == number] for number in range(3)]
    return [sum(one) / len(one) for one in by_class], sum(hit for _, hit in hits) / len(hits)


def told(values):
    """Return mean±sd as tables show it."""
    values = [100 * value for value in values]
    return f"{statistics.fmean(values):.1f}±{statistics.stdev(values):.1f}"


def interval(own, baseline):
    """Return the paired difference and its interval, by scipy's t-test."""
    test = stats.ttest_rel(own, baseline).confidence_interval(0.95)
    mean = 100 * statistics.fmean(a - b for a, b in zip(own, baseline, strict=True))
    return f"{mean:+.1f}", f"[{100 * test.low:+.1f}, {100 * test.high:+.1f}]"


def test_arms_are_shown_on_the_choice_half_with_these_seeds(module, study, command):
    """Of each arm mean and sd over three seeds, and the paired difference to the baseline."""
    [rows], below = command("choose", study, "--baseline", "balanced-softmax")
    assert [row["arm"] for row in rows] == list(LOSSES)
    cells = {row["arm"]: row for row in rows}
    found = {
        loss: [recalls(module, run, "choice") for run in runs_of(study, loss, range(3))]
        for loss in LOSSES
    }
    for loss, values in found.items():
        assert cells[loss]["n"] == "3"
        for place, group in enumerate(("many", "medium", "few")):
            assert cells[loss][group] == told([by_class[place] for by_class, _ in values])
        assert cells[loss]["balanced"] == told([statistics.fmean(one) for one, _ in values])
        assert cells[loss]["accuracy"] == told([accuracy for _, accuracy in values])
    few = {loss: [by_class[2] for by_class, _ in values] for loss, values in found.items()}
    for loss in ("softmax", "lsoftmax:margin=2,tau=1"):
        change, bounds = interval(few[loss], few["balanced-softmax"])
        assert cells[loss]["few difference"] == f"{change} {bounds}"
    assert cells["balanced-softmax"]["few difference"] == "-"
    assert below[-1] == "Chosen among `*`, 3 arms: lsoftmax:margin=2,tau=1"


def runs_of(study, loss, seeds):
    """Return the folders of a loss's runs."""
    return [next(study.glob(f"{loss.partition(':')[0]}-*-s{seed}")) for seed in seeds]


def test_the_choice_does_not_see_the_verdict_half(module, tmp_path, command):
    """An arm that is right on that half alone is not chosen, though it is right more often."""
    halves, images = module("halves"), images_of(CLASSES, training=range(9), test=TEST).of("test")
    in_choice = halves.half_of(images.labels, images.digests) == halves.HALVES.index("choice")
    for loss, is_right in (
        ("softmax", in_choice),  # on 120 images
        ("focal", ~in_choice | (np.arange(240) % 4 == 0)),
    ):
        for seed in range(3):
            answers = np.where(is_right, images.labels, (images.labels + 1) % 3)
            write_predicting_run(
                tmp_path / "runs",
                f"{loss}-{seed}",
                images_of(CLASSES, training=range(9), test=TEST),
                np.eye(3)[answers],
                COUNTS,
                loss=loss,
                seed=seed,
            )
    [rows], below = command("choose", tmp_path / "runs", "--baseline", "focal", "--seeds", "0-2")
    assert below[-1].endswith("arms: softmax")
    assert (rows[0]["arm"], rows[0]["accuracy"]) == ("softmax", "100.0±0.0")
    assert "highest mean balanced accuracy" in below[-2]


def test_the_rule_is_balanced_accuracy_then_few(module):
    """Right answers of 1,000 images a class, by hand: 0.05 points are 1.5 of 3,000 images."""

    def scores(*hits):
        labels = np.repeat([0, 1, 2], 1000)
        guesses = [[n] * k + [(n + 1) % 3] * (1000 - k) for n, k in enumerate(hits)]
        return score(CLASSES, labels, np.concatenate(guesses), COUNTS)

    rule = module("tail_study").rule
    assert rule({"a": [scores(900, 600, 300)], "b": [scores(300, 600, 901)]}) == "b"
    assert rule({"a": [scores(990, 900, 10)], "b": [scores(400, 400, 999)]}) == "a"
    # 1 image less: alike, and b has the better few; 2 images less: not
    assert rule({"a": [scores(900, 600, 300)], "b": [scores(600, 599, 600)]}) == "b"
    assert rule({"a": [scores(900, 600, 300)], "b": [scores(600, 598, 600)]}) == "a"
    # c is alike to b alone, and b is not the best
    arms = {"a": [scores(900, 600, 300)], "b": [scores(600, 599, 600)], "c": [scores(0, 998, 800)]}
    assert rule(arms) == "b"
    # over two seeds, 600 and 300 of few: 450 on average
    assert (
        rule(
            {"a": [scores(900, 600, 300), scores(600, 600, 600)]}
            | {"b": [scores(675, 675, 449)] * 2}
        )
        == "a"
    )


def test_each_pattern_has_a_choice_of_its_own(study, command):
    """Of a family the best is named; seeds that confirm, and arms with these alone, don't enter."""
    for seed in (3, 4, 5):
        write_arm(study, "focal", seed, better=3)
    for seed in range(3):
        write_arm(study, "lsoftmax:margin=2,tau=1", seed, better=2, weight_decay=0.5)
    [rows], below = command(
        "choose", study, "--baseline", "softmax", "--among", "lsoft*", "--among", "bal*"
    )
    assert [row["arm"] for row in rows] == [
        "softmax",
        "balanced-softmax",
        "lsoftmax:margin=2,tau=1",
        "lsoftmax:margin=2,tau=1 weight_decay=0.5",
    ]
    assert below[-2:] == [
        "Chosen among `lsoft*`, 2 arms: lsoftmax:margin=2,tau=1 weight_decay=0.5",
        "Chosen among `bal*`, 1 arm: balanced-softmax",
    ]
    message = command("choose", study, "--baseline", "softmax", "--among", "focal", code=2)
    assert "--among focal: no arm with these seeds" in message


def test_an_arm_is_judged_on_the_verdict_half_with_fresh_seeds(module, study, command):
    """Each score of both, their paired difference and interval; then on all images, said so."""
    options = ("--arm", "lsoftmax", "--baseline", "balanced-softmax", "--seeds", "3-6")
    [cells, _], below = command("judge", study, *options)
    assert len(cells) == 10
    for half, where in (("verdict", "verdict half, 120"), ("all", "all 240, those of the choice")):
        own, baseline = (
            [recalls(module, run, half) for run in runs_of(study, loss, range(3, 7))]
            for loss in ("lsoftmax:margin=2,tau=1", "balanced-softmax")
        )
        shown = {row["score"]: row for row in cells if row["test images"].startswith(where)}
        assert list(shown) == ["few", "medium", "many", "balanced", "accuracy"]
        for place, group in enumerate(("many", "medium", "few")):
            sides = [[by_class[place] for by_class, _ in side] for side in (own, baseline)]
            row = shown[group]
            assert (row["arm"], row["baseline"]) == (told(sides[0]), told(sides[1]))
            assert (row["difference"], row["over seeds"]) == interval(*sides)
        sides = [[accuracy for _, accuracy in side] for side in (own, baseline)]
        assert (shown["accuracy"]["difference"], shown["accuracy"]["over seeds"]) == interval(
            *sides
        )
    assert below[-1] == f"Seeds 3 4 5 6, paired; commit {'ab' * 20}, precision bf16."


def test_the_few_classes_are_judged_over_seeds_and_images(module, study, command):
    """The two-way interval of one class from its definition, and Student's t of both shares."""
    options = ("--arm", "lsoftmax", "--baseline", "balanced-softmax", "--seeds", "3-6")
    [_, rows], _ = command("judge", study, *options)
    halves, record = module("halves"), read_images_record(study / "softmax--s3").of("test")
    own = halves.half_of(record.labels, record.digests) == halves.HALVES.index("verdict")
    own &= record.labels == 2
    right = [
        np.array([read_predictions(run).predicted[own] == 2 for run in runs]).astype(int)
        for runs in (runs_of(study, loss, range(3, 7)) for loss in list(LOSSES)[:0:-1])
    ]
    d = right[0] - right[1]
    seeds, images = d.shape
    assert (seeds, images) == (4, 40)
    residual = d - d.mean(1, keepdims=True) - d.mean(0) + d.mean()
    v_seed = d.mean(1).var(ddof=1) / seeds
    v_both = (residual**2).sum() / ((seeds - 1) * (images - 1)) / (seeds * images)
    v_image = d.mean(0).var(ddof=1) / images - v_both
    t_seed, t_image = stats.t.ppf(0.975, seeds - 1), stats.t.ppf(0.975, images - 1)
    half = (t_seed**2 * v_seed + t_image**2 * v_image) ** 0.5
    assert v_image > 0
    bounds = f"[{100 * (d.mean() - half):+.1f}, {100 * (d.mean() + half):+.1f}]"
    assert rows[0]["question"] == "first: few"
    assert rows[0]["95% interval"] == bounds
    assert rows[0]["verdict"] == ("higher" if d.mean() > half else "not told apart")


def test_further_questions_are_tested_together(module, study, command):
    """The few classes against the first baseline alone; three more by Holm's step-down."""
    options = ("--baseline", "balanced-softmax", "--baseline", "softmax", "--seeds", "3-6")
    tables, _ = command("judge", study, "--arm", "lsoftmax", *options)
    assert len(tables) == 3
    rows = {(row["question"], row["against"]): row for row in tables[-1]}
    assert list(rows) == [
        ("first: few", "balanced-softmax"),
        ("second: few", "softmax"),
        ("second: accuracy", "balanced-softmax"),
        ("second: accuracy", "softmax"),
    ]
    first, *others = rows.values()
    assert first["p after Holm"] == "-"
    others.sort(key=lambda row: float(row["p"]))
    least = 0.0
    for row, times in zip(others, (3, 2, 1), strict=True):
        least = max(least, min(1.0, times * float(row["p"])))
        assert float(row["p after Holm"]) == pytest.approx(least, rel=0.1)  # of two digits
        adjusted = float(row["p after Holm"])
        assert row["verdict"] == ("higher" if adjusted <= 0.05 else "not told apart")
    assert {row["verdict"] for row in others} == {"higher", "not told apart"}


JUDGE = ("--arm", "lsoftmax", "--baseline", "balanced-softmax", "--seeds")


@pytest.mark.parametrize(
    ("seeds", "facts"),
    [
        (["3-8"], ["lsoftmax:margin=2,tau=1 has no completed run of seed 7, 8", "balanced-soft"]),
        (["2-5"], ["was chosen on seed 2"]),
        (["3-6", "--chosen-on", "5,6"], ["was chosen on seed 5, 6"]),
        (["4"], ["seeds are '4'", "3-12"]),
    ],
)
def test_seeds_that_judge_nothing_are_refused(study, command, seeds, facts):
    """Missing ones, those that the arm was chosen on, and a lone number."""
    message = command("judge", study, *JUDGE, *seeds, code=2)
    assert all(fact in message for fact in facts)


@pytest.mark.parametrize(
    ("seeds", "own", "fact"),
    [
        ([4], {"git": {"commit": "cd" * 20, "dirty": False}}, "not of one commit"),
        ([4], {"git": COMMIT | {"dirty": True}}, "not of one commit"),
        ([4], {"git": None}, "not of one commit"),
        (range(7), {"precision": "fp32"}, "not of one precision"),
        (range(7), {"test": range(1000, 1241)}, "not of one set of test images"),
        (range(7), {"training": range(13)}, "not of one set of training images"),
        ([4], {"test": range(1000, 1241)}, "fits 2 arms"),  # no arm of `lmsm compare` has both
    ],
)
def test_runs_that_are_no_samples_of_one_thing_are_refused(study, command, seeds, own, fact):
    """Runs of another commit, of changed code, or on other images, by their names."""
    for seed in seeds:
        shutil.rmtree(study / f"balanced-softmax--s{seed}")
        name = write_arm(study, "balanced-softmax", seed, **own).name
    message = command("judge", study, *JUDGE, "3-6", code=2)
    assert fact in message
    assert name in message or "images=" in message


def test_runs_of_no_commit_are_not_judged(tmp_path, command):
    """All of one changed tree, or all of an unknown one, are no runs that others could repeat."""
    for git in (COMMIT | {"dirty": True}, None):
        for loss in LOSSES:
            for seed in (3, 4, 5):
                write_arm(tmp_path / str(git), loss, seed, git=git)
        message = command("judge", tmp_path / str(git), *JUDGE, "3-5", code=2)
        assert "of no commit" in message
        shutil.rmtree(tmp_path / str(git))


def test_an_arm_is_found_by_words_of_its_config(module, study, command):
    """By its name, or by what fits it alone; else all that fit are listed."""
    for seed in range(3):
        write_arm(study, "softmax", seed, weight_decay=0.5)
    arms = module("tail_arms").arms_in([study])
    called = module("tail_arms").arm_called
    assert called("softmax", arms).name == "softmax"  # a name comes first
    assert called("softmax weight_decay=0.5", arms).runs.keys() == {0, 1, 2}
    assert called("weight_decay=0.5", arms).name == "softmax weight_decay=0.5"
    assert called("lsoftmax:margin=2,tau=1 precision=bf16", arms).name == "lsoftmax:margin=2,tau=1"
    message = command("choose", study, "--baseline", "dataset=digits", code=2)
    assert "'dataset=digits' fits 4 arms: " in message
    message = command("choose", study, "--baseline", "lsoftmx", code=2)
    assert "no arm is called 'lsoftmx'" in message
    assert "softmax weight_decay=0.5" in message


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("0-2", (0, 1, 2)), ("3,5-7", (3, 5, 6, 7)), ("9,4", (4, 9)), ("7-7", (7,))],
)
def test_seeds_are_lists_and_ranges(module, text, seeds):
    """Ascending, whatever their order."""
    assert module("tail_study").seeds_of(text) == seeds


@pytest.mark.parametrize("text", ["", "3", "3-", "-3", "5-3", "1,1", "0-2,2", "0-1-2", "a"])
def test_other_texts_are_no_seeds(module, text):
    """A lone number is how many for `lmsm sweep`; a seed that stands twice is one."""
    with pytest.raises(module("lmsm_cli.errors").LmsmError, match="give a range or a list"):
        module("tail_study").seeds_of(text)


def test_adjusted_answers_are_arms_of_their_own(module, study, command, tmp_path, capsys):
    """They are the largest logits less tau log pi; an archive holds them, and gives the same."""
    assert module("tail_study").main(["adjust", str(study), "--tau", "0.5,2"]) == 0
    assert capsys.readouterr().out == "softmax: 7 runs, adjust=0.5, 2\n"
    prior = np.log(np.array(COUNTS) / sum(COUNTS))
    for seed, run in enumerate(runs_of(study, "softmax", range(7))):
        whole, small = read_predictions(run), read_predictions(run / "adjusted" / "2")
        assert small.logits is None
        assert small.predicted.tolist() == (whole.logits - 2 * prior).argmax(1).tolist(), seed
        assert small.predicted.tolist() != whole.predicted.tolist()
    assert not list(study.glob("*lsoftmax*/adjusted"))
    [rows], _ = command("choose", study, "--baseline", "softmax")
    names = [row["arm"] for row in rows]
    assert names[:3] == ["softmax", "softmax adjust=0.5", "softmax adjust=2"]
    found = [recalls(module, run, "choice", "2")[0] for run in runs_of(study, "softmax", range(3))]
    shown = [rows[2][group] for group in ("many", "medium", "few")]
    assert shown == [told(column) for column in zip(*found, strict=True)]
    called, arms = module("tail_arms").arm_called, module("tail_arms").arms_in([study])
    assert called("precision=bf16 softmax", arms).name == "softmax"
    assert called("adjust=2 precision=bf16", arms).name == "softmax adjust=2"
    judged = command("judge", study, "--arm", "softmax adjust=2", *JUDGE[2:], "3-6")
    keep = module("keep")
    (tmp_path / "archive.tar.xz").write_bytes(keep.archive([study]))
    with tarfile.open(tmp_path / "archive.tar.xz") as archive:
        archive.extractall(tmp_path / "there", filter="data")
    there = tmp_path / "there" / "study"
    assert (there / "softmax--s0" / "adjusted" / "0.5" / PREDICTIONS).is_file()
    assert command("judge", there, "--arm", "softmax adjust=2", *JUDGE[2:], "3-6") == judged
    chosen = command("choose", study, "--baseline", "softmax")
    assert command("choose", there, "--baseline", "softmax") == chosen
    assert module("tail_study").main(["adjust", str(there), "--tau", "1"]) == 2
    assert "has no logits to adjust" in capsys.readouterr().err


def test_predictions_that_are_missing_are_named(study, command):
    """A run of an older lmsm has none; there is nothing to halve."""
    (study / "softmax--s1" / PREDICTIONS).unlink()
    message = command("choose", study, "--baseline", "softmax", code=4)
    assert "softmax--s1 has no predictions.npz" in message


def test_predictions_of_another_run_are_refused(study, command):
    """Those of another seed are of the same images; scores.json tells that they are not its own."""
    shutil.copy(study / "softmax--s2" / PREDICTIONS, study / "softmax--s1")
    message = command("choose", study, "--baseline", "softmax", code=4)
    assert "softmax--s1/predictions.npz holds other answers than scores.json" in message


def test_its_tables_are_kept_up_to_date(module, study, tmp_path, monkeypatch, capsys):
    """A table of RESULTS.md that names its command is what that prints of the archive's runs."""
    results, keep = module("results"), module("keep")
    (tmp_path / "runs" / "kept.tar.xz").write_bytes(keep.archive([study]))
    monkeypatch.setattr(results, "HERE", tmp_path)
    command = "judge runs/study --arm lsoftmax --baseline balanced-softmax --seeds 3-6"
    text = f"<!-- kept: python benchmarks/tail_study.py {command} -->\nold\n<!-- end -->\n"
    fresh = results.refreshed(text)
    monkeypatch.chdir(tmp_path)
    assert module("tail_study").main(command.split()) == 0
    assert capsys.readouterr().out.strip() in fresh
    assert results.refreshed(fresh) == fresh
    assert results.refreshed(fresh.replace("verdict half", "other half")) == fresh
