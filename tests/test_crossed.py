"""Answers reduced to sums: means and mean squares are those of the definitions."""

from fractions import Fraction

import numpy as np
import pytest

from lmsm_cli.comparison.crossed import Strata, crossed, paired, unpaired
from lmsm_cli.errors import ArgumentError

# 3 seeds, of class 0 the images 1 and 3, of class 1 the images 0, 2 and 4
LABELS = np.array([1, 0, 1, 0, 1])
DIFFERENCES = np.array([[1, 1, 0, 0, 0], [1, 1, 0, 1, -1], [1, 0, 1, 1, -1]])
OWN, BASELINE = DIFFERENCES > 0, DIFFERENCES < 0


def by_definition(d, labels, num_classes):
    """Return variance over images and mean square of the residuals (C,), element by element."""
    image, residual = [], []
    for number in range(num_classes):
        block = d[:, labels == number].astype(float)
        seeds, n = block.shape
        grand = block.mean()
        squares = [
            (block[s, i] - block[s].mean() - block[:, i].mean() + grand) ** 2
            for s in range(seeds)
            for i in range(n)
        ]
        residual.append(sum(squares) / ((seeds - 1) * (n - 1)))
        image.append(np.var([block[:, i].mean() for i in range(n)], ddof=1))
    return np.array(image), np.array(residual)


def random_answers(seeds, labels, rng, out_of=1):
    """Return answers with effects of seed and image, so that nothing cancels."""
    chance = rng.random((seeds, 1)) / 2 + rng.random(len(labels)) / 2
    return rng.binomial(out_of, chance).astype(np.uint8)


def test_a_small_case_is_that_worked_by_hand():
    """Column means 2/3, 2/3 | 1, 1/3, -2/3: no variance in class 0, 19/27 in class 1.

    The residuals of class 0 are 0 or 1/2, with squares of 1 in all over 2 x 1 degrees of freedom;
    those of class 1 are ninths (1, 4, 5 | 2, 1, 1 | 1, 5, 4), 90/81 over 2 x 2.
    """
    found = paired(OWN, BASELINE, Strata.of(LABELS, 2))
    means = [[Fraction(1, 2), Fraction(1, 3)], [1, 0], [Fraction(1, 2), Fraction(1, 3)]]
    np.testing.assert_allclose(found.class_means[0], np.array(means, float), rtol=1e-12)
    np.testing.assert_allclose(found.image, [0, 19 / 27], rtol=1e-12)
    np.testing.assert_allclose(found.both, [1 / 2 / 3, 5 / 18 / 3], rtol=1e-12)
    assert (found.counts.tolist(), found.seeds) == ([2, 3], (3,))


@pytest.mark.parametrize("out_of", [1, 5, 200])
def test_mean_squares_are_those_of_a_two_way_table(out_of):
    """Of any labels and counts, pairs have the definition's variance and residual mean square."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(4), (30, 2, 11, 7)))
    own, baseline = (random_answers(6, labels, rng, out_of) for _ in range(2))
    found = paired(own, baseline, Strata.of(labels, 4), out_of=out_of)
    d = (own.astype(float) - baseline) / out_of
    image, residual = by_definition(d, labels, 4)
    np.testing.assert_allclose(found.image, image, rtol=1e-10)
    np.testing.assert_allclose(found.both, residual / 6, rtol=1e-10)
    wanted = np.stack([d[:, labels == number].mean(axis=1) for number in range(4)], axis=1)
    np.testing.assert_allclose(found.class_means[0], wanted, rtol=1e-10)


def test_seeds_that_do_not_match_keep_the_images_paired():
    """The images' variance is that of the difference of the means over seeds; residuals add."""
    rng = np.random.default_rng(1)
    labels = rng.permutation(np.repeat(np.arange(3), (20, 9, 5)))
    own, baseline = (random_answers(seeds, labels, rng) for seeds in (4, 7))
    found = unpaired(own, baseline, Strata.of(labels, 3))
    change = own.mean(axis=0) - baseline.mean(axis=0)
    wanted = [change[labels == number].var(ddof=1) for number in range(3)]
    np.testing.assert_allclose(found.image, wanted, rtol=1e-10)
    residuals = [by_definition(one, labels, 3)[1] / len(one) for one in (own, baseline)]
    np.testing.assert_allclose(found.both, sum(residuals), rtol=1e-10)
    total = sum(means.mean(axis=0) for means in found.class_means)
    np.testing.assert_allclose(total, [change[labels == n].mean() for n in range(3)], rtol=1e-10)
    assert found.seeds == (4, 7)


def test_one_method_alone_is_its_difference_to_nothing():
    """A method's own score is reduced as its difference to one that is never right."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, 40)
    own, strata = random_answers(5, labels, rng), Strata.of(labels, 3)
    one, other = crossed(own, strata), paired(own, np.zeros_like(own), strata)
    for name in ("image", "both", "counts"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_array_equal(one.class_means[0], other.class_means[0])


def test_large_studies_stay_exact():
    """Sums of squares whose products overflow 64 bits are exact: one cell of 2e9 answers."""
    own = np.zeros((3, 3), np.uint32)
    own[0, 0] = 2_000_000_000
    found = crossed(own, Strata.of(np.zeros(3, int), 1), out_of=2_000_000_000)
    # one cell of 1 among 9: the residual is 1 - 1/3 - 1/3 + 1/9 there, and so on: 4/9 in all
    np.testing.assert_allclose(found.both, [4 / 9 / 4 / 3], rtol=1e-12)
    np.testing.assert_allclose(found.image, [1 / 9 / 3], rtol=1e-12)


def test_classes_without_variance_say_so():
    """A class of one image and a class of none have no variance, and the others keep theirs."""
    labels = np.array([0, 0, 3, 1, 3])
    rng = np.random.default_rng(3)
    own = random_answers(4, labels, rng)
    found = crossed(own, Strata.of(labels, 4))
    assert np.isnan(found.image).tolist() == [False, True, True, False]
    assert np.isnan(found.both).tolist() == [False, True, True, False]
    np.testing.assert_allclose(found.class_means[0][:, 3], own[:, [2, 4]].mean(axis=1))


def test_weights_are_shares_of_accuracy_and_of_means_over_classes():
    """Accuracy weighs a class by its images; a mean over classes weighs its classes alike."""
    strata = Strata.of(LABELS, 3)
    assert strata.image_weights().tolist() == [2 / 5, 3 / 5, 0]
    assert strata.class_weights([0, 1]).tolist() == [1 / 2, 1 / 2, 0]


@pytest.mark.parametrize(
    ("own", "out_of", "message"),
    [
        (np.ones((2, 4), bool), 1, r"shape \(2, 4\): .* each of 5 test images"),
        (np.ones((0, 5), bool), 1, r"shape \(0, 5\)"),
        (np.ones(5, bool), 1, r"shape \(5,\)"),
        (np.ones((2, 5)), 1, "answers are float64: right or wrong"),
        (np.full((2, 5), 2), 1, "run from 2 to 2, beyond 0 to 1"),
        (np.full((2, 5), -1), 3, "run from -1 to -1, beyond 0 to 3"),
        (np.ones((2, 5), bool), 1, "2 and 3 seeds make no pairs"),
    ],
)
def test_other_answers_are_refused(own, out_of, message):
    """Answers of other images, of no seed, or that are none, are refused with what they are."""
    with pytest.raises(ArgumentError, match=message):
        paired(own, np.ones((3, 5), bool), Strata.of(LABELS, 2), out_of=out_of)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([], r"shape \(0,\)"), ([[0]], r"shape \(1, 1\)"), ([0, 3], "from 0 to 3 for 3 classes")],
)
def test_other_labels_are_refused(labels, message):
    """No image at all, and a class that there is not, are refused."""
    with pytest.raises(ArgumentError, match=message):
        Strata.of(np.array(labels, int), 3)


def test_a_score_of_no_class_is_refused():
    """A mean over no class is none."""
    with pytest.raises(ArgumentError, match="one class at least"):
        Strata.of(LABELS, 2).class_weights([])
