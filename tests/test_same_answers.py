"""Groups with the same answers in every seed: one hypothesis, named as such in every form."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from lmsm_cli.comparison.differences import Question
from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.two_way import Over
from lmsm_cli.reports.exports import to_csv
from lmsm_cli.reports.verdicts import verdict_text
from tests.synthetic_runs import document
from tests.test_differences import LABELS, arms, group_of, of_losses, run

SEEDS = range(5)
BASE = arms((0.9, 0.7, 0.5), SEEDS)
SLIGHT = arms((0.9, 0.7, 0.6), SEEDS, start=400)
OTHER = arms((0.9, 0.7, 0.55), SEEDS, start=900)
TWINS = {"softmax": BASE, "balanced-softmax": SLIGHT, "vs": SLIGHT}


def few_of(comparison, loss):
    """Return a loss's difference on the rare classes."""
    return group_of(comparison, loss).differences["few"]


@pytest.mark.parametrize("over", [Over.BOTH, Over.SEEDS])
def test_twins_are_one_comparison(over):
    """Holm's step by hand: two losses with the same answers leave the p-value as it is."""
    question = Question(over)
    alone = few_of(of_losses({"softmax": BASE, "vs": SLIGHT}, question=question), "vs")
    comparison = of_losses(TWINS, question=question)
    for loss in ("vs", "balanced-softmax"):
        found = few_of(comparison, loss)
        assert (found.p_value, found.p_holm) == (alone.p_value, alone.p_value)
        assert (found.family, found.verdict) == (1, alone.verdict)


def test_a_third_loss_makes_two_comparisons_of_three_rows():
    """By hand: the smaller p-value by 2, the larger by 1, and none is below the smaller one's."""
    comparison = of_losses(TWINS | {"focal": OTHER})
    twin, other = few_of(comparison, "vs"), few_of(comparison, "focal")
    small, large = sorted([twin.p_value, other.p_value])
    by_hand = {small: 2 * small, large: max(2 * small, large)}
    assert twin.p_holm == pytest.approx(by_hand[twin.p_value])
    assert other.p_holm == pytest.approx(by_hand[other.p_value])
    assert few_of(comparison, "balanced-softmax").p_holm == twin.p_holm
    assert {one.family for one in (twin, other)} == {2}


def test_one_other_answer_makes_two_comparisons():
    """Another answer to one image in one seed is another loss."""
    near = dict(SLIGHT)
    near[4] = near[4].copy()
    near[4][0] = not near[4][0]
    comparison = of_losses(TWINS | {"vs": near})
    assert few_of(comparison, "vs").family == 2
    assert not any(group.same_as for group in comparison.groups)


def test_another_wrong_class_is_another_answer():
    """Which images are right is not enough: losses that err otherwise are not the same."""
    records = [run(loss, s, row) for loss, rows in TWINS.items() for s, row in rows.items()]
    moved = []
    for record in records:
        held = record.held_predictions
        if record.config["loss"] == "vs":
            wrong = held.predicted != held.labels
            held = replace(held, predicted=np.where(wrong, (LABELS + 2) % 3, LABELS))
        moved.append(replace(record, held_predictions=held))
    assert few_of(compare_runs(moved), "vs").family == 2


def test_without_predictions_none_are_the_same():
    """Of runs whose answers are not known nobody can say it."""
    records = [
        run(loss, s, row, predicts=False) for loss, rows in TWINS.items() for s, row in rows.items()
    ]
    comparison = compare_runs(records)
    assert few_of(comparison, "vs").family == 2
    assert not any(group.same_as for group in comparison.groups)


def test_every_form_names_the_twin():
    """The row, the note, JSON, CSV and the answer say which loss it is the same as."""
    comparison = of_losses(TWINS)
    twin = group_of(comparison, "vs")
    assert verdict_text(twin) == "better (the same answers as balanced-softmax in every seed)"
    assert verdict_text(group_of(comparison, "balanced-softmax")) == "better"
    assert (
        "vs and balanced-softmax gave the same answers to every test image in every seed: they "
        "count as one comparison" in comparison.notes
    )
    assert [one["same_as"] for one in comparison.to_json()["groups"]] == [
        "",
        "",
        "balanced-softmax",
    ]
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["same_as"] for row in rows] == ["", "", "balanced-softmax"]
    assert [row["few comparisons"] for row in rows] == ["", "1", "1"]
    (answer,) = comparison.conclusions
    assert answer.text.startswith(
        "On the rare classes balanced-softmax (the same as vs) beats softmax by "
    )


def test_a_twin_of_the_baseline_says_so():
    """There is no difference at all, and the row says of whom."""
    comparison = of_losses({"lsoftmax:margin=1": BASE, "softmax": BASE, "vs": SLIGHT})
    twin = group_of(comparison, "lsoftmax:margin=1")
    assert group_of(comparison, "softmax").same_as == ""
    assert verdict_text(twin) == "no clear difference (the same answers as softmax in every seed)"
    assert few_of(comparison, "vs").family == 1


def test_one_seed_is_no_every_seed():
    """Of one run a side the sentence has no seeds."""
    one = {loss: {0: rows[0]} for loss, rows in TWINS.items()}
    twin = group_of(of_losses(one), "vs")
    assert "(the same answers as balanced-softmax)" in verdict_text(twin)


def calibrated(errors):
    """Compare the twins with these calibration errors, a little other in each seed."""
    records = []
    for loss, rows in TWINS.items():
        for seed, row in rows.items():
            record = run(loss, seed, row)
            more = {"calibration_error": errors[loss] + (0.001 + 0.0002 * errors[loss]) * seed}
            scores = document(record.scores.to_json() | more)
            records.append(replace(record, scores=scores))
    return compare_runs(records)


def test_a_temperature_is_another_method_where_it_counts():
    """It leaves all answers as they are, and the calibration error not: that one counts twice."""
    apart = calibrated({"softmax": 0.3, "balanced-softmax": 0.2, "vs": 0.1})
    found = group_of(apart, "vs")
    assert found.same_as == "balanced-softmax"
    assert found.differences["few"].family == 1
    assert found.differences["calibration_error"].family == 2
    assert "calibration_error" in found.best
    assert "calibration_error" not in group_of(apart, "balanced-softmax").best
    rounded = calibrated({"softmax": 0.3, "vs": 0.1, "balanced-softmax": 0.1 + 1e-9})
    assert few_of(rounded, "vs").family == 1
    for loss in ("vs", "balanced-softmax"):
        group = group_of(rounded, loss)
        assert group.differences["calibration_error"].family == 1
        assert "calibration_error" in group.best
