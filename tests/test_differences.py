"""Groups held against a baseline: intervals over seeds and test images, Holm, the answer."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lmsm_cli.comparison.conclusion import conclusion_of, seeds_text, short_names
from lmsm_cli.comparison.crossed import Strata, paired
from lmsm_cli.comparison.differences import Question
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.two_way import Over, two_way
from lmsm_cli.reports.verdicts import need_text
from lmsm_cli.runs.documents import Status
from lmsm_cli.runs.images import Predictions
from lmsm_cli.runs.record import RunRecord
from lmsm_cli.scoring import score
from tests.synthetic_runs import document

NAMES = ("cat", "dog", "frog")
COUNTS = (500, 60, 6)
PER_CLASS = 200
LABELS = np.repeat(np.arange(3), PER_CLASS)
CONFIG = {"dataset": "digits", "epochs": 100, "batch_size": 32}


def run(loss, seed, right, *, labels=LABELS, predicts=True, counts=COUNTS, **config):
    """Return a run that is right where `right` (N,) says so, and else names the next class."""
    predicted = np.where(right, labels, (labels + 1) % len(NAMES))
    scores = score(NAMES, labels, predicted, counts).to_json()
    held = Predictions(labels, predicted, None, None) if predicts else None
    choices = CONFIG | {"loss": loss, "seed": seed} | config
    return RunRecord(
        Path("runs") / f"{loss}-{seed}",
        choices,
        Status(state="completed"),
        [],
        document(scores | {"checkpoint": "checkpoint.pt"}),
        None,
        held,
    )


def draws(shares, seeds, *, start=0, labels=LABELS):
    """Return which images are right (S, N), with such a chance for each class, by image."""
    chance = np.array(shares)[labels] + np.random.default_rng(900 + start).normal(
        0, 0.35, len(labels)
    )
    rows = [np.random.default_rng(start + seed).random(len(labels)) < chance for seed in seeds]
    return np.stack(rows)


def group_of(comparison, loss):
    """Return the group of a loss."""
    (found,) = [group for group in comparison.groups if group.differs["loss"] == loss]
    return found


def of_losses(answers, **options):
    """Compare losses, given as {loss: {seed: right (N,)}}."""
    records = [run(loss, s, right) for loss, rows in answers.items() for s, right in rows.items()]
    return compare_runs(records, **options)


def arms(shares, seeds=(0, 1, 2), **more):
    """Return rows by seed."""
    return dict(zip(seeds, draws(shares, seeds, **more), strict=True))


@pytest.mark.parametrize("seeds", [(0, 1, 2), (0, 1, 2, 3, 4)])
def test_differences_are_over_seeds_and_test_images(seeds):
    """They are those of the two-way interval of the runs' answers, and wider than over seeds."""
    own, base = arms((0.9, 0.8, 0.6), seeds, start=50), arms((0.9, 0.7, 0.2), seeds)
    answers = {"softmax": base, "vs": own}
    found = group_of(of_losses(answers), "vs").differences
    strata = Strata.of(LABELS, 3)
    both = paired(np.stack(list(own.values())), np.stack(list(base.values())), strata)
    weights = {
        "few": [0, 0, 1],
        "many": [1, 0, 0],
        "accuracy": [1 / 3] * 3,
        "balanced_accuracy": [1 / 3] * 3,
    }
    for key, shares in weights.items():
        wanted = two_way(both, np.array(shares))
        assert (found[key].mean, found[key].low, found[key].high) == pytest.approx(
            (wanted.mean, wanted.low, wanted.high), abs=1e-12
        )
        assert found[key].over == "seeds and test images"
    assert found["macro_f1"].over == "seeds"  # it is no mean of right answers
    narrow = group_of(of_losses(answers, question=Question(Over.SEEDS)), "vs").differences["few"]
    assert narrow.over == "seeds"
    assert narrow.mean == pytest.approx(found["few"].mean, abs=1e-12)
    assert narrow.high - narrow.low < found["few"].high - found["few"].low


def test_rare_classes_of_some_runs_have_the_interval_of_both_beside_runs_without():
    """A run on as many images of each class, first by name, takes nobody's test images away."""
    rows = {"softmax": arms((0.9, 0.7, 0.2)), "vs": arms((0.9, 0.7, 0.6), start=50)}
    tailed = [run(loss, seed, one) for loss, some in rows.items() for seed, one in some.items()]
    even = [
        run("dbm", seed, one, counts=(500, 500, 500), imbalance="none")
        for seed, one in arms((0.9, 0.8, 0.7), start=90).items()
    ]
    alone = group_of(compare_runs(tailed), "vs").differences["few"]
    beside = group_of(compare_runs(even + tailed), "vs").differences["few"]
    assert beside.over == "seeds and test images"
    assert (beside.low, beside.high) == pytest.approx((alone.low, alone.high))


def test_runs_without_counts_are_asked_about_the_rare_classes_of_the_others():
    """Another program may not say how many images of each class it had."""
    rows = {"softmax": arms((0.9, 0.7, 0.2)), "vs": arms((0.9, 0.7, 0.6), start=50)}
    known, unknown = (
        [
            run(loss, seed, one, counts=counts if loss == "vs" else COUNTS)
            for loss, some in rows.items()
            for seed, one in some.items()
        ]
        for counts in (COUNTS, (None, None, None))
    )
    few, same = (group_of(compare_runs(some), "vs").differences["few"] for some in (unknown, known))
    assert few.over == "seeds and test images"
    assert (few.mean, few.low, few.high) == (same.mean, same.low, same.high)


def test_rows_of_another_long_tail_are_held_on_their_own_rare_classes():
    """The classes that are rare in another row are not asked of these, in whatever order."""
    tails = {"exp": (500, 60, 6), "step": (6, 60, 500)}
    shares = {
        "exp": {"softmax": (0.2, 0.7, 0.2), "vs": (0.2, 0.7, 0.2)},
        "step": {"softmax": (0.2, 0.7, 0.2), "vs": (0.9, 0.7, 0.2)},
    }
    records = {
        imbalance: [
            replace(
                run(loss, seed, right, counts=counts, imbalance=imbalance),
                path=Path(imbalance, f"{loss}-{seed}"),
            )
            for loss, own in shares[imbalance].items()
            for seed, right in arms(own, range(5), start=len(imbalance + loss)).items()
        ]
        for imbalance, counts in tails.items()
    }
    for first, second in (tails, reversed(tails)):
        found = compare_runs([*records[first], *records[second]])
        few = {
            group.differs["imbalance"]: group.differences["few"].mean
            for group in found.groups
            if group.differs["loss"] == "vs"
        }
        for imbalance, own in records.items():
            (alone,) = [one for one in compare_runs(own).groups if one.differences]
            assert few[imbalance] == pytest.approx(alone.differences["few"].mean)
        assert few["step"] - few["exp"] > 0.4
        assert not any("few" in group.best for group in found.groups)


def test_one_pair_of_runs_is_over_test_images_alone():
    """Of 200 frogs 60 became right and 20 wrong: McNemar's difference 0.2, its variance by hand."""
    base = np.ones(len(LABELS), bool)
    own = base.copy()
    frogs = np.flatnonzero(LABELS == 2)
    base[frogs[:100]] = False
    own[frogs[60:120]] = False
    few = group_of(of_losses({"softmax": {0: base}, "vs": {0: own}}), "vs").differences["few"]
    # 60 images of +1, 20 of -1, 120 of 0: mean 0.2, sum of squares 80 - 200 x 0.04 = 72
    from scipy.stats import t

    half = t.ppf(0.975, 199) * (72 / 199 / 200) ** 0.5
    assert (few.mean, few.low, few.high) == pytest.approx((0.2, 0.2 - half, 0.2 + half))
    assert (few.over, few.verdict, few.n) == ("test images", "better", 1)


def test_two_seeds_have_an_interval_and_no_verdict():
    """Student's t of two seeds is no base for a verdict, and the way out is said."""
    answers = {"softmax": arms((0.9, 0.7, 0.1), (0, 1)), "vs": arms((0.9, 0.7, 0.9), (0, 1))}
    few = group_of(of_losses(answers), "vs").differences["few"]
    assert few.low is not None
    assert (few.verdict, few.reason) == ("can't tell", "two seeds: give a third")


def test_seeds_that_do_not_match_are_unpaired():
    """With other seeds the images are still paired, the seeds are Welch's."""
    answers = {
        "softmax": arms((0.9, 0.7, 0.1), (0, 1, 2)),
        "vs": arms((0.9, 0.7, 0.9), (7, 8, 9, 10)),
    }
    few = group_of(of_losses(answers), "vs").differences["few"]
    assert (few.paired, few.n, few.over) == (False, 3, "seeds and test images")
    assert few.verdict == "better"


def test_runs_without_predictions_are_over_seeds_and_said_so():
    """Old runs keep their interval, and a note says what it leaves out."""
    records = [run("softmax", s, row) for s, row in arms((0.9, 0.7, 0.1)).items()]
    records += [
        run("vs", s, row, predicts=False) for s, row in arms((0.9, 0.7, 0.9), start=9).items()
    ]
    comparison = compare_runs(records)
    assert group_of(comparison, "vs").differences["few"].over == "seeds"
    assert any("vs: over seeds alone, since" in note for note in comparison.notes)


def test_where_no_run_is_above_chance_there_is_no_verdict():
    """All arms guess frogs: the reason says so, though the interval excludes 0."""
    answers = {"softmax": arms((0.9, 0.7, 0.02)), "vs": arms((0.9, 0.7, 0.2), start=9)}
    for over in (Over.BOTH, Over.SEEDS):
        vs = group_of(of_losses(answers, question=Question(over)), "vs")
        few = vs.differences["few"]
        assert few.low > 0
        assert (few.verdict, few.reason) == (
            "can't tell",
            "no run is clearly better than guessing on the rare classes: train longer first",
        )
        assert vs.differences["many"].reason == ""  # dogs and cats are known
    above = answers | {"focal": arms((0.9, 0.7, 0.9), start=40)}
    assert group_of(of_losses(above), "vs").differences["few"].verdict == "better"


def test_few_test_images_forbid_a_verdict():
    """A group of 19 test images is shown, with their number in place of a verdict."""
    labels = np.repeat(np.arange(3), (200, 200, 19))
    records = [
        run(loss, seed, draws(shares, [seed], start=start, labels=labels)[0], labels=labels)
        for loss, shares, start in (
            ("softmax", (0.9, 0.7, 0.05), 0),
            ("vs", (0.9, 0.7, 0.99), 9),
        )
        for seed in range(3)
    ]
    for over in (Over.BOTH, Over.SEEDS):
        comparison = compare_runs(records, question=Question(over))
        few = group_of(comparison, "vs").differences["few"]
        assert few.low > 0
        assert (few.verdict, few.reason) == ("can't tell", "19 test images, and a verdict needs 20")


def slight_among_six():
    """Return a comparison of six losses with softmax, of which one would be told by itself."""
    others = {
        loss: arms((0.9, 0.7, 0.5), range(5), start=1000 + 100 * number)
        for number, loss in enumerate(("focal", "ldam", "cosface", "arcface", "asoftmax"))
    }
    base = arms((0.9, 0.7, 0.5), range(5))
    slight = arms((0.9, 0.7, 0.6), range(5), start=400)
    return of_losses({"softmax": base, "vs": slight} | others)


def test_holm_takes_a_verdict_that_stands_alone():
    """A difference that alone excludes 0 is not told beside enough others; the row says why."""
    base = arms((0.9, 0.7, 0.5), range(5))
    slight = arms((0.9, 0.7, 0.6), range(5), start=400)
    alone = group_of(of_losses({"softmax": base, "vs": slight}), "vs").differences["few"]
    assert 0.01 < alone.p_value < 0.05
    assert (alone.verdict, alone.p_holm, alone.family) == ("better", alone.p_value, 1)
    group = group_of(slight_among_six(), "vs")
    beside = group.differences["few"]
    assert (beside.p_value, beside.low) == (alone.p_value, alone.low)
    assert beside.p_holm > 0.05
    assert beside.family == 6
    assert (beside.verdict, beside.reason) == ("can't tell", "not after Holm")
    assert "few" not in group.best


def test_no_best_is_marked_that_the_verdict_does_not_tell():
    """The best of all is told from each other one, but not from the baseline after Holm."""
    base = arms((0.9, 0.7, 0.3), range(5))
    best = arms((0.9, 0.7, 0.42), range(5), start=200)
    lower = {
        loss: arms((0.9, 0.7, 0.23), range(5), start=300 + 100 * n)
        for n, loss in enumerate(("focal", "ldam", "cosface"))
    }
    group = group_of(of_losses({"softmax": base, "vs": best} | lower), "vs")
    assert group.differences["few"].low > 0
    assert group.differences["few"].reason == "not after Holm"
    assert "few" not in group.best


def test_a_best_is_told_from_all_others():
    """Of three the best is marked only where it is told from the second best too."""
    base = {"softmax": arms((0.9, 0.7, 0.3))}
    near = base | {
        "vs": arms((0.9, 0.7, 0.8), start=50),
        "focal": arms((0.9, 0.7, 0.79), start=90),
    }
    assert all("few" not in group.best for group in of_losses(near).groups)
    clear = near | {"focal": arms((0.9, 0.7, 0.5), start=90)}
    assert "few" in group_of(of_losses(clear), "vs").best
    assert "many" not in group_of(of_losses(clear), "vs").best


def test_predictions_for_other_images_are_left_out():
    """Runs whose labels are in another order are no pairs of images."""
    records = [run("softmax", s, row) for s, row in arms((0.9, 0.7, 0.1)).items()]
    turned = LABELS[::-1].copy()
    records += [
        run("vs", s, row[::-1], labels=turned) for s, row in arms((0.9, 0.7, 0.9), start=9).items()
    ]
    assert group_of(compare_runs(records), "vs").differences["few"].over == "seeds"


def test_short_trainings_are_said_beside_the_verdict():
    """566 training images in batches of 32 make 18 steps an epoch: 20 epochs are too few."""
    answers = {"softmax": arms((0.9, 0.7, 0.3)), "vs": arms((0.9, 0.7, 0.9), start=9)}
    for epochs, hints in ((20, ("fewer than 500 training steps",)), (28, ())):
        records = [
            run(loss, s, row, epochs=epochs)
            for loss, rows in answers.items()
            for s, row in rows.items()
        ]
        comparison = compare_runs(records)
        vs = group_of(comparison, "vs")
        assert vs.remarks == hints
        said = "Train longer to be sure: fewer than 500 training steps in all of them."
        assert comparison.conclusions[0].text.endswith(said) == bool(hints)
        assert vs.differences["few"].verdict == "better"


def test_the_answer_is_a_sentence():
    """What is better, what is open and what would tell, on the rare classes."""
    answers = {
        "softmax": arms((0.9, 0.7, 0.3)),
        "balanced-softmax": arms((0.9, 0.7, 0.8), start=9),
        "vs": arms((0.9, 0.7, 0.32), start=50),
        "focal": arms((0.9, 0.7, 0.02), start=70),
    }
    (one,) = of_losses(answers).conclusions
    assert one.finding == "better"
    gain, loss = (
        group_of(of_losses(answers), name).differences["few"]
        for name in ("balanced-softmax", "focal")
    )
    assert one.text.startswith(
        "On the rare classes balanced-softmax beats softmax by "
        f"{100 * gain.mean:.1f} points [{100 * gain.low:.1f}, {100 * gain.high:.1f}]; "
        f"focal falls behind softmax by {-100 * loss.mean:.1f} points "
        f"[{-100 * loss.high:.1f}, {-100 * loss.low:.1f}]; "
        "vs shows no clear difference from softmax: "
    )
    assert ": to see a difference of 5 points, " in one.text


_SEE = "to see a difference of 5 points"


@pytest.mark.parametrize(
    ("needed", "here", "text"),
    [
        ((8, 14), (3, 3), f"{_SEE}, 8 to 14 seeds in all are needed (3 are here)"),
        ((4, 4), (3, 3), f"{_SEE}, 4 seeds in all are needed (3 are here)"),
        ((3, 6), (3, 5), f"{_SEE}, 3 to 6 seeds in all are needed (3 to 5 are here)"),
        ((3, 3), (3, 3), f"the seeds that are here are enough {_SEE}"),
        ((3, 4), (4, 9), f"the seeds that are here are enough {_SEE}"),
        ((3, 3), (2, 2), f"{_SEE}, 3 seeds in all are needed (2 are here)"),
        ((40, None), (3, 3), f"{_SEE}, 40 or many more seeds in all are needed (3 are here)"),
        (
            (None, None),
            (3, 3),
            f"{_SEE}, more test images are needed, not seeds: these show none below 7.1",
        ),
    ],
)
def test_what_would_tell(needed, here, text):
    """All seeds for the size asked for, beside those that are here, or that none would do."""
    assert seeds_text(needed, 0.071, 0.05, here) == text


def test_names_in_the_answer_are_as_short_as_they_tell_apart():
    """A name goes as far as no other label does; a label that others go on from stays whole."""
    labels = [
        "softmax",
        "softmax lr=0.1",
        "lsoftmax:margin=2,lambda_min=1,weight_norm=shared",
        "lsoftmax:margin=4,lambda_min=5,weight_norm=shared",
        "ldam reweight=effective rebalance_from=14",
        "lsoftmax:margin=22",
    ]
    assert list(short_names(labels).values()) == [
        "softmax",
        "softmax lr=0.1",
        "lsoftmax:margin=2",
        "lsoftmax:margin=4",
        "ldam",
        "lsoftmax:margin=22",
    ]


def test_undecided_losses_share_a_clause():
    """Those without a verdict stand together, with the seeds that would tell any of them."""
    base = arms((0.9, 0.7, 0.5), range(5))
    open_ones = {
        f"vs:gamma={number}": arms((0.9, 0.7, 0.5), range(5), start=1000 + 100 * number)
        for number in (1, 2, 3, 4)
    }
    comparison = of_losses({"softmax": base} | open_ones, question=Question(size=0.08))
    needed = [group_of(comparison, loss).differences["few"].seeds_needed for loss in open_ones]
    assert all(None not in one for one in needed)
    fewest, most = min(one[0] for one in needed), max(one[1] for one in needed)
    assert comparison.conclusions[0].text == (
        "On the rare classes vs:gamma=1, vs:gamma=2, vs:gamma=3 and 1 more show no clear "
        "difference from softmax: to see a difference of 8 points, "
        f"{fewest} to {most} seeds in all are needed (5 are here)."
    )


@pytest.mark.parametrize(
    ("number", "who"), [(1, "vs:gamma=1 shows"), (2, "vs:gamma=1 and vs:gamma=2 show")]
)
def test_one_loss_shows_and_two_show(number, who):
    """The sentence has the verb of as many losses as it names."""
    base = arms((0.9, 0.7, 0.5), range(5))
    open_ones = {
        f"vs:gamma={n}": arms((0.9, 0.7, 0.5), range(5), start=1000 + 100 * n)
        for n in range(1, number + 1)
    }
    (one,) = of_losses({"softmax": base} | open_ones).conclusions
    labels = [group.label for group in of_losses({"softmax": base} | open_ones).groups]
    said = who if number > 1 else "vs shows"  # as short as it tells
    assert labels[1:] == list(open_ones)
    assert one.text.startswith(f"On the rare classes {said} no clear difference from softmax: ")


def test_what_may_be_chance_among_several_is_said_with_its_size():
    """An interval without 0 that is no verdict has a clause of its own, with what it is one of."""
    comparison = slight_among_six()
    vs = group_of(comparison, "vs").differences["few"]
    (one,) = comparison.conclusions
    assert one.finding == "open"
    assert one.text.startswith(
        f"On the rare classes vs is ahead of softmax by {100 * vs.mean:.1f} points "
        f"[{100 * vs.low:.1f}, {100 * vs.high:.1f}], but among 6 comparisons that may be chance; "
    )
    assert "Holm" not in one.text


def test_where_nothing_is_learned_the_answer_is_to_train_longer():
    """No loss stands above another, and no number of seeds is told, where all of them guess."""
    answers = {"softmax": arms((0.9, 0.7, 0.02)), "vs": arms((0.9, 0.7, 0.2), start=9)}
    (one,) = of_losses(answers).conclusions
    assert one.text == (
        "On the rare classes no run of softmax or vs is clearly better than guessing (33.3 %): "
        "train longer, or with another learning rate, before you compare."
    )
    short = compare_runs(
        [run(loss, s, row, epochs=20) for loss, rows in answers.items() for s, row in rows.items()]
    )
    assert short.conclusions[0].text.endswith(
        "before you compare. All of them had fewer than 500 training steps."
    )
    group = group_of(short, "vs")
    assert group.differences["few"].at_chance
    assert need_text(group, "few") == "longer training"
    assert not group.differences["many"].at_chance


def test_a_class_with_one_test_image_says_nothing_of_chance():
    """There is no interval, which is another thing than nets that have learned nothing."""
    labels = np.repeat(np.arange(3), (100, 50, 1))
    answers = {
        "softmax": arms((0.95, 0.9, 0.9), labels=labels),
        "vs": arms((0.95, 0.99, 0.9), labels=labels, start=50),
    }
    found = compare_runs(
        [
            run(loss, seed, row, labels=labels)
            for loss, rows in answers.items()
            for seed, row in rows.items()
        ]
    )
    for key in ("few", "balanced_accuracy", "accuracy"):
        one = group_of(found, "vs").differences[key]
        assert not one.at_chance
        assert one.reason == "one test image of frog, whose share of chance nobody knows"


def test_two_seeds_say_of_their_own_nets_that_these_have_learned():
    """An interval over two seeds is hopelessly wide, and no sign that nets are guessing."""
    answers = {
        "softmax": arms((0.9, 0.7, 0.3), (0,)) | arms((0.9, 0.7, 0.7), (1,)),
        "vs": arms((0.9, 0.7, 0.4), (0,), start=50) | arms((0.9, 0.7, 0.7), (1,), start=50),
    }
    few = group_of(of_losses(answers), "vs").differences["few"]
    assert not few.at_chance
    assert few.reason == "two seeds: give a third"


def test_where_nothing_is_learned_no_row_is_the_best():
    """Nor by a score that is no mean of right answers."""
    answers = {
        "softmax": arms((0.1, 0.1, 0.1), range(5)),
        "vs": arms((-0.3, -0.3, -0.3), range(5), start=9),
    }
    found = of_losses(answers)
    assert group_of(found, "vs").differences["balanced_accuracy"].at_chance
    assert {key for group in found.groups for key in group.best} <= {"calibration_error"}


def test_one_group_has_its_score_and_what_to_do():
    """There is nothing to hold it against: the answer is its score and the way out."""
    comparison = of_losses({"softmax": arms((0.9, 0.7, 0.3))})
    (one,) = comparison.conclusions
    mean = 100 * comparison.groups[0].metrics["few"].mean
    assert one.text.startswith(f"On the rare classes softmax has {mean:.1f} ± ")
    assert one.text.endswith("over 3 runs: train another loss to compare it with.")
    assert conclusion_of([], 0.05).text == "There are no scores."


def test_losses_without_a_baseline_are_named_with_the_flag():
    """The way out is a flag that can be typed as it stands."""
    answers = {"cross entropy": arms((0.9, 0.7, 0.3)), "vs": arms((0.9, 0.7, 0.4), start=9)}
    (one,) = of_losses(answers).conclusions
    scores = r"has \d+\.\d ± \d+\.\d % over 3 runs"
    assert re.fullmatch(
        f"On the rare classes cross {scores} and vs {scores}: say which of them is the "
        "baseline, such as --baseline 'cross entropy'.",
        one.text,
    )
