"""Scores: what is computed from labels and predictions."""

import numpy as np
import pytest
from sklearn import metrics

from lmsm_cli import scoring
from lmsm_cli.errors import DataError
from lmsm_cli.scoring import (
    balanced_accuracy,
    log_odds,
    probabilities,
    reliability_bounds,
    score,
)

# 4 cats: 3 right, 1 called dog; 2 dogs: 1 right, 1 called owl; 4 owls: all right
LABELS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTIONS = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2, 2])


def test_scores_equal_a_hand_worked_confusion_matrix():
    """Accuracy of a class is its recall; precision divides by how often the class was guessed."""
    scores = score(["cat", "dog", "owl"], LABELS, PREDICTIONS, [30, 20, 10])
    assert scores.confusion == ((3, 1, 0), (0, 1, 1), (0, 0, 4))
    assert scores.accuracy == 8 / 10
    assert [one.accuracy for one in scores.per_class] == [3 / 4, 1 / 2, 4 / 4]
    assert [one.precision for one in scores.per_class] == [3 / 3, 1 / 2, 4 / 5]
    assert [one.f1 for one in scores.per_class] == pytest.approx([6 / 7, 1 / 2, 8 / 9])
    assert scores.balanced_accuracy == scores.macro_recall == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert scores.macro_precision == pytest.approx((1 + 1 / 2 + 4 / 5) / 3)
    assert scores.macro_f1 == pytest.approx((6 / 7 + 1 / 2 + 8 / 9) / 3)
    assert [one.train_count for one in scores.per_class] == [30, 20, 10]
    assert [one.test_count for one in scores.per_class] == [4, 2, 4]
    assert scores.groups == {"many": 3 / 4, "medium": 1 / 2, "few": 1.0}


def logs(shares):
    """Return logits of probabilities; of 0 one that gives hardly any."""
    return np.log(np.maximum(shares, 1e-30))


def test_logits_give_top_k_and_calibration():
    """Worked by hand: 2 bins hold 1 and 3 images, and top-k counts the true class's place."""
    shares = np.array(
        [[0.4, 0.3, 0.2, 0.1], [0.9, 0.05, 0.03, 0.02], [0.1, 0.9, 0, 0], [0.9, 0.04, 0.01, 0.05]]
    )
    labels = np.array([2, 0, 1, 3])
    scores = score(list("abcd"), labels, shares.argmax(1), [4, 3, 2, 1], logs(shares))
    assert scores.accuracy == 2 / 4
    assert scores.top_k == {"2": 3 / 4, "3": 4 / 4}
    low, high = scores.reliability
    assert (low.count, low.confidence, low.accuracy) == (1, pytest.approx(0.4), 0)
    assert (high.count, high.confidence) == (3, pytest.approx(0.9))
    assert high.accuracy == pytest.approx(2 / 3)
    assert scores.calibration_error == pytest.approx((1 * 0.4 + 3 * (0.9 - 2 / 3)) / 4)


def test_calibration_of_certain_and_right_answers_is_perfect():
    """Probability 1 for the right class each time: one bin, no error."""
    labels = np.array([0, 1, 1])
    scores = score(["a", "b"], labels, labels, [1, 1], logs(np.eye(2)[labels]))
    assert scores.calibration_error == 0
    assert [one.count for one in scores.reliability] == [3]
    assert scores.top_k == {}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1, 100, 10_000])
def test_top_k_goes_by_the_order_of_logits_however_large(dtype, scale):
    """Larger logits are in the same order, also where all probabilities but one round to 0."""
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 10, 400)
    logits = (draws.normal(size=(400, 10)) + 0.8 * np.eye(10)[labels]).astype(dtype)
    places = (logits > logits[np.arange(400), labels, None]).sum(axis=1)
    classes = list("abcdefghij")
    found = score(classes, labels, logits.argmax(1), [1] * 10, logits * dtype(scale)).top_k
    assert found == {str(k): pytest.approx((places < k).mean()) for k in (2, 3, 5)}


def test_log_odds_tell_apart_what_probabilities_round():
    """By hand: ln(p / (1 - p)) of two classes is their gap; the probability keeps its digits."""
    logits = np.array([[40.0, 0], [50, 0], [-800, 0], [0, 800]])
    classes = np.array([0, 0, 0, 0])
    assert log_odds(logits, classes).tolist() == [40, 50, -800, -800]
    assert probabilities(logits, classes).tolist() == [1, 1, 0, 0]
    three = np.log([[0.2, 0.3, 0.5]])
    assert log_odds(three, np.array([2])) == pytest.approx([0])
    assert probabilities(three, np.array([1])) == pytest.approx([0.3])
    far = np.array([[1.7e308, -1.7e308], [-1.7e308, 1.7e308]])
    assert probabilities(far, np.array([0, 0])).tolist() == [1, 0]


def test_log_odds_are_the_same_in_blocks(monkeypatch):
    """Of blocks of three rows, the last of one, each row has what it has alone."""
    logits = np.random.default_rng(0).normal(size=(10, 4))
    classes = np.arange(10) % 4
    whole = log_odds(logits, classes)
    monkeypatch.setattr(scoring, "_BLOCK", 12)
    assert log_odds(logits, classes) == pytest.approx(whole)
    shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert probabilities(logits, classes) == pytest.approx(shares[np.arange(10), classes])


def test_calibration_is_the_same_in_whatever_order_the_images_come():
    """To the last digit, so that runs on the same images in another order are equal."""
    draws = np.random.default_rng(0)
    logits, labels, order = (
        draws.normal(size=(300, 4)),
        draws.integers(0, 4, 300),
        range(299, -1, -1),
    )
    one, other = (
        score(list("abcd"), labels[some], logits[some].argmax(1), [1] * 4, logits[some])
        for some in (slice(None), list(order))
    )
    assert (one.calibration_error, one.reliability) == (other.calibration_error, other.reliability)


def test_balanced_accuracy_is_the_mean_recall_of_classes_present():
    """Each class that has an image counts once; a class that is only guessed has no part."""
    assert balanced_accuracy(LABELS, PREDICTIONS) == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert balanced_accuracy(LABELS[:6], PREDICTIONS[:6]) == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_scores_equal_scikit_learn_with_all_classes_present():
    """With every class in the test set, each mean is scikit-learn's of the same name."""
    rng = np.random.default_rng(3)
    labels = np.arange(500) % 10
    predictions = np.where(rng.random(500) < 0.6, labels, rng.integers(0, 10, 500))
    scores = score([str(i) for i in range(10)], labels, predictions, [50] * 10)
    assert scores.balanced_accuracy == pytest.approx(
        metrics.balanced_accuracy_score(labels, predictions)
    )
    assert scores.macro_f1 == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))
    assert scores.groups == {}


def test_class_without_test_images_has_no_scores_and_no_part_in_means():
    """An absent class shows None, and the macro means run over the classes that are present."""
    scores = score(
        ["cat", "dog", "bat", "owl"], np.array([0, 0, 1, 1]), np.array([0, 2, 1, 1]), [4, 3, 2, 1]
    )
    bat = scores.per_class[2]
    assert (bat.test_count, bat.accuracy, bat.precision, bat.f1) == (0, None, None, None)
    assert scores.balanced_accuracy == (1 / 2 + 1) / 2
    assert scores.macro_precision == (1 + 1) / 2
    assert scores.groups == {"many": 1 / 2, "medium": 1.0, "few": None}


def test_class_that_is_never_predicted_has_precision_zero():
    """A class that no image is taken for scores 0, without a warning or NaN."""
    scores = score(["cat", "dog"], np.array([0, 1]), np.array([0, 0]), [1, 1])
    dog = scores.per_class[1]
    assert (dog.accuracy, dog.precision, dog.f1) == (0, 0, 0)


def test_group_without_classes_is_none():
    """A step profile has no medium classes: the group is None, not 0 and not missing."""
    scores = score(["cat", "dog"], np.array([0, 1]), np.array([0, 0]), [10, 1])
    assert scores.groups == {"many": 1.0, "medium": None, "few": 0.0}


@pytest.mark.parametrize(
    ("labels", "message"), [([], "no images"), ([0, 2], "labels run from 0 to 2")]
)
def test_nothing_to_score_is_a_data_error(labels, message):
    """No images, or labels beyond the classes, end in a message instead of a wrong number."""
    labels = np.array(labels, dtype=int)
    with pytest.raises(DataError, match=message):
        score(["cat", "dog"], labels, np.zeros_like(labels), [1, 1])


@pytest.mark.parametrize(
    ("confidence", "number"),
    [(0.0, 0), (0.05, 0), (1 / 15, 0), (0.07, 1), (0.5, 7), (0.999, 14), (1.0, 14)],
)
def test_reliability_bounds_are_the_bin_of_the_confidence(confidence, number):
    """Bins are fifteenths that hold their upper bound, as scikit-learn counts."""
    assert reliability_bounds(confidence) == (number / 15, (number + 1) / 15)


def test_each_reliability_bin_has_bounds_of_its_own():
    """Of many images no two bins are given the same bounds, whatever their confidences."""
    draws = np.random.default_rng(0)
    shares = draws.dirichlet([0.4] * 4, 5000).astype(np.float32)
    labels = draws.integers(0, 4, 5000)
    logits = logs(shares)
    bins = score(list("abcd"), labels, logits.argmax(1), [1] * 4, logits).reliability
    assert len({reliability_bounds(one.confidence) for one in bins}) == len(bins) > 10
