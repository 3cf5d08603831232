"""Seeds crossed with test images: who was right where, reduced to sums and mean squares by class.

Every net of a method answers every test image, as every reader of a multi-reader multi-case study
reads every case (Dorfman, Berbaum, Metz 1992). The images are nested in their classes, which are
strata: another test set would have as many images of each. What is reduced is a matrix of integers,
one row a seed and one column an image; its sums of squares are exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.errors import ArgumentError

Answers = NDArray[np.bool_] | NDArray[np.integer[Any]]
"""(S, N): whether the net of a seed was right on a test image, or how many times of `out_of`."""


@dataclass(frozen=True, eq=False)
class Strata:
    """The test images by class. Make it once for all comparisons on these images."""

    counts: NDArray[np.int64]
    """(C,): the test images of each class."""
    order: NDArray[np.intp]
    """(N,): the images, class by class."""

    @classmethod
    def of(cls, labels: NDArray[np.integer[Any]], num_classes: int) -> "Strata":
        """Return the strata of images with these class numbers (N,).

        Raises ArgumentError where there is no image, or a label beyond the classes.
        """
        if labels.ndim != 1 or len(labels) == 0:
            raise ArgumentError(f"labels have shape {labels.shape}: one number a test image")
        if labels.min() < 0 or labels.max() >= num_classes:
            raise ArgumentError(
                f"labels run from {labels.min()} to {labels.max()} for {num_classes} classes"
            )
        counts = np.bincount(labels, minlength=num_classes).astype(np.int64)
        return cls(counts, np.argsort(labels, kind="stable"))

    def image_weights(self) -> NDArray[np.float64]:
        """Return each class's share (C,) of accuracy, in which every image counts alike."""
        weights: NDArray[np.float64] = self.counts / self.counts.sum()
        return weights

    def class_weights(self, classes: NDArray[np.integer[Any]] | list[int]) -> NDArray[np.float64]:
        """Return each class's share (C,) of the mean accuracy of some classes, all alike.

        Balanced accuracy is that of all classes. Raises ArgumentError where there are none.
        """
        if len(classes) == 0:
            raise ArgumentError("a score is a mean over one class at least")
        weights = np.zeros(len(self.counts))
        weights[classes] = 1 / len(classes)
        return weights

    def sums(self, values: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
        """Return the sums (..., C) over each class of values (..., N) in `order`."""
        present = self.counts > 0
        starts = (np.cumsum(self.counts) - self.counts)[present]
        sums = np.zeros((*values.shape[:-1], len(self.counts)), np.int64)
        sums[..., present] = np.add.reduceat(values, starts, axis=-1, dtype=np.int64)
        return sums


@dataclass(frozen=True, eq=False)
class Crossed:
    """What the intervals of all scores need of one comparison.

    A sample of seeds is one of pairs, of a method's own runs, or, where the seeds of two methods
    don't match, of each method's runs, those of the baseline counted negative.
    """

    counts: NDArray[np.int64]
    """(C,): the test images of each class."""
    class_means: tuple[NDArray[np.float64], ...]
    """(S, C) of each sample of seeds; 0 for a class without test images."""
    image: NDArray[np.float64]
    """(C,): variance over a class's images of the means over seeds; nan below 2 images."""
    both: NDArray[np.float64] | None
    """(C,): the residual's part of `image`, its mean square over S; None for a single seed."""

    @property
    def seeds(self) -> tuple[int, ...]:
        """The number of seeds of each sample."""
        return tuple(len(means) for means in self.class_means)


def crossed(own: Answers, strata: Strata, *, out_of: int = 1) -> Crossed:
    """Reduce the answers (S, N) of one method, for an interval of its own score.

    Args:
        own: Whether the net of each seed was right on each image.
        strata: The images by class.
        out_of: How many answers an entry counts, where nets of one seed are taken together.

    Raises:
        ArgumentError: The answers are not of these images, or no number from 0 to `out_of`.
    """
    _check(own, strata, out_of)
    return _of_one_sample(own.astype(_signed(out_of)), strata, out_of)


def paired(own: Answers, baseline: Answers, strata: Strata, *, out_of: int = 1) -> Crossed:
    """Reduce the differences of two methods whose rows (S, N) are paired by seed.

    Args and errors are those of `crossed`; the two matrices are of one shape.
    """
    _check(own, strata, out_of)
    _check(baseline, strata, out_of)
    if len(own) != len(baseline):
        raise ArgumentError(f"{len(own)} and {len(baseline)} seeds make no pairs")
    differences = np.subtract(own, baseline, dtype=_signed(out_of), casting="unsafe")
    return _of_one_sample(differences, strata, out_of)


def unpaired(own: Answers, baseline: Answers, strata: Strata, *, out_of: int = 1) -> Crossed:
    """Reduce the answers of two methods whose seeds don't match, on the same images.

    With independent seeds A and B, an image's difference of means over seeds is its own part plus
    the residuals' means: its variance holds MS_A / S_A + MS_B / S_B beside that of the images, and
    the variances over seeds hold the same over the images. `both` is this sum.

    Args and errors are those of `crossed`; the matrices may have unlike numbers of rows.
    """
    _check(own, strata, out_of)
    _check(baseline, strata, out_of)
    sides = [_Side.of(one.astype(_signed(out_of)), strata) for one in (own, baseline)]
    a, b = (len(side.class_sums) for side in sides)
    # an integer multiple of the difference of the means over seeds
    images = b * sides[0].image_sums - a * sides[1].image_sums
    residuals = [side.mean_squares(strata) for side in sides]
    return Crossed(
        counts=strata.counts,
        class_means=(
            _means(sides[0].class_sums, strata, out_of),
            -_means(sides[1].class_sums, strata, out_of),
        ),
        image=_variances(images, strata) / float(a * b * out_of) ** 2,
        both=(residuals[0] / a + residuals[1] / b) / float(out_of) ** 2 if min(a, b) > 1 else None,
    )


def _of_one_sample(values: NDArray[np.integer[Any]], strata: Strata, out_of: int) -> Crossed:
    side, seeds = _Side.of(values, strata), len(values)
    return Crossed(
        counts=strata.counts,
        class_means=(_means(side.class_sums, strata, out_of),),
        image=_variances(side.image_sums, strata) / float(seeds * out_of) ** 2,
        both=side.mean_squares(strata) / seeds / float(out_of) ** 2 if seeds > 1 else None,
    )


@dataclass(frozen=True, eq=False)
class _Side:
    """The sums of one matrix of integers, its images class by class."""

    class_sums: NDArray[np.int64]  # (S, C)
    image_sums: NDArray[np.int64]  # (N,)
    squares: NDArray[np.int64]  # (C,)

    @classmethod
    def of(cls, values: NDArray[np.integer[Any]], strata: Strata) -> "_Side":
        ordered = np.take(values, strata.order, axis=1)
        squares = np.einsum("si,si->i", ordered, ordered, dtype=np.int64)
        return cls(
            class_sums=strata.sums(ordered),
            image_sums=ordered.sum(axis=0, dtype=np.int64),
            squares=strata.sums(squares),
        )

    def mean_squares(self, strata: Strata) -> NDArray[np.float64]:
        """Return each class's mean square (C,) of d - row - column + mean; nan where it has none.

        The sum of squares of a two-way table with one answer a cell, times S n to stay exact:
        S n sum(d^2) - S sum(row sums^2) - n sum(column sums^2) + total^2.
        """
        seeds = len(self.class_sums)
        # int64 would overflow at a few billion answers; Python's integers don't
        n, squares = strata.counts.astype(object), self.squares.astype(object)
        rows = (self.class_sums**2).sum(axis=0).astype(object)
        columns = strata.sums(self.image_sums**2).astype(object)
        total = self.class_sums.sum(axis=0).astype(object)
        scaled = seeds * n * squares - seeds * rows - n * columns + total**2
        return _share(scaled, seeds * n * (seeds - 1) * (n - 1))


def _variances(sums: NDArray[np.int64], strata: Strata) -> NDArray[np.float64]:
    """Return the sample variance (C,) over each class's images; nan below 2 images."""
    n = strata.counts.astype(object)
    scaled = n * strata.sums(sums**2).astype(object) - strata.sums(sums).astype(object) ** 2
    return _share(scaled, n * (n - 1))


def _means(class_sums: NDArray[np.int64], strata: Strata, out_of: int) -> NDArray[np.float64]:
    means: NDArray[np.float64] = class_sums / (np.maximum(strata.counts, 1) * out_of)
    return means


def _share(above: NDArray[np.object_], below: NDArray[np.object_]) -> NDArray[np.float64]:
    pairs = zip(above.tolist(), below.tolist(), strict=True)
    return np.array([a / b if b > 0 else np.nan for a, b in pairs])


def _signed(out_of: int) -> np.dtype[Any]:
    """Return the smallest type that holds every difference."""
    return np.min_scalar_type(-max(out_of, 1) - 1)


def _check(answers: Answers, strata: Strata, out_of: int) -> None:
    """Raise ArgumentError where the answers are not what they should be."""
    if answers.ndim != 2 or answers.shape[1] != len(strata.order) or len(answers) == 0:
        raise ArgumentError(
            f"answers have shape {answers.shape}: "
            f"a row a seed, with a column for each of {len(strata.order):,} test images"
        )
    if answers.dtype.kind not in "bui":
        raise ArgumentError(f"answers are {answers.dtype}: right or wrong, or counts of right ones")
    low, high = answers.min(), answers.max()
    if low < 0 or high > out_of:
        raise ArgumentError(f"answers run from {low} to {high}, beyond 0 to {out_of}")
