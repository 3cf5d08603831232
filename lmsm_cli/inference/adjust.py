"""Post-hoc corrections for long tails: other answers from a trained classifier, without retraining.

Each is a family of affine maps of the margin-free logits, one for each strength tau; tau 0 leaves
the answers as trained. A log prior is commensurate with the logits of softmax; where a margin, or
cosines, gave logits another scale, tau can be in its units. To add one, write a function that
returns a `ByTau`, and give it a flag (correction.py, commands/corrections.py) or a name among
those of `post_hoc` (config/post_hoc.py).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lmsm_cli.errors import DivergedError, LmsmError
from lmsm_cli.models.affine import Affine
from lmsm_cli.runs.documents import Method
from lmsm_cli.scoring import balanced_accuracy

# Values of tau that `choose_tau` tries in each unit: 0, 0.05, 0.1, ...
_STEPS = 20
# Those in units of the scale S of the logits, where theory's tau is 1/S: 20 a decade, two digits
# each. They are the same for every S: a factor on all logits changes no answer, so it must not
# change what is tried. The smallest is theory's tau for S = 10,000. Cosines differ by 2 at most, so
# at the largest the counts alone decide between classes whose counts differ by a factor of e.
_SCALED_TAUS = (0.0, *(float(f"{10 ** (step / 20):.2g}") for step in range(-80, 7)))
# Norms that differ by less are equal: normalised float32 rows differ by about 1e-7.
_SAME_NORM = 1e-5
# A class whose weight is 0 has no direction; its logits are 0 and stay 0.
_SMALLEST_NORM = 1e-12


@dataclass(frozen=True)
class ByTau:
    """A correction of one classifier, of a strength tau."""

    method: Method
    plain: Callable[[float], Affine]  # by a tau that is a plain number
    taus: Sequence[float]  # that `choose_tau` tries, 0 first
    theory: float = 1.0  # the right tau where the training did nothing about the long tail
    scale: float | None = None  # of the logits, where tau is in its units

    def in_units_of(self, scale: float) -> "ByTau":
        """Return the correction whose tau is in units of the logits' scale (`Head.score_scale`).

        It is that of the plain one at tau times the scale. Raises LmsmError for a scale of 0,
        DivergedError for one that is infinite or not a number.
        """
        if not math.isfinite(scale):
            raise DivergedError("the classifier's features are infinite or not a number")
        if scale == 0:
            raise LmsmError(
                "the scale of the logits is 0, since all features or all weights of the last layer "
                "are zero, so tau cannot be in its units; give a plain number or auto"
            )
        return replace(self, taus=_SCALED_TAUS, theory=self.theory / scale, scale=scale)

    def at(self, tau: float) -> Affine:
        """Return the map of the logits. Raises LmsmError for a tau that leads beyond float32."""
        try:
            return self.plain(tau if self.scale is None else tau * self.scale)
        except LmsmError as error:
            raise LmsmError(f"tau is {tau:g}: {error}; give a smaller one") from None

    def predict(self, logits: Tensor, tau: float) -> NDArray[np.int64]:
        """Return the class numbers (N,) that corrected logits (N, C) name."""
        predictions: NDArray[np.int64] = self.at(tau).of(logits).argmax(dim=1).cpu().numpy()
        return predictions


@dataclass(frozen=True)
class Choice:
    """A chosen tau and the balanced accuracy on the images it was chosen on."""

    tau: float
    balanced_accuracy: float
    balanced_accuracy_unadjusted: float


def log_shares(train_counts: Sequence[int]) -> Tensor:
    """Return ln pi (C,) in float64: the shares of the classes of the training images.

    Raises LmsmError for a class without training images.
    """
    if min(train_counts) < 1:
        raise LmsmError(
            f"class {list(train_counts).index(min(train_counts))} has no training image, "
            "hence no prior to adjust by"
        )
    counts = torch.tensor(train_counts, dtype=torch.float64)
    return (counts / counts.sum()).log()


def logit_adjustment(train_counts: Sequence[int], done: float = 0.0) -> ByTau:
    """Return the correction that takes tau ln pi_c from the logits of class c.

    For logits of softmax cross-entropy tau 1 is Fisher-consistent for balanced accuracy. Menon et
    al. 2021, arXiv 2007.07314.

    Args:
        train_counts: The training images of each class, (C,).
        done: How much of it the training did already, from 0 to 1: theory's tau is what is left.

    Raises:
        LmsmError: It can change nothing, or a class has no training images.
    """
    prior = log_shares(train_counts)
    if min(train_counts) == max(train_counts):
        raise LmsmError(
            f"logit adjustment changes nothing here: every class has {train_counts[0]} "
            "training images; leave --adjust out"
        )
    return ByTau(
        "adjust", lambda tau: Affine.shifted(-tau * prior), _even_taus(2), max(0.0, 1.0 - done)
    )


def multiplicative_adjustment(train_counts: Sequence[int]) -> ByTau:
    """Return the correction that multiplies the logits of class c by (n_max / n_c)^tau.

    Kim and Kim 2020, arXiv 1912.01857, scale class weights so, and leave the largest class as it
    is; Hasegawa and Sato 2025, arXiv 2409.17582. The right tau depends on how far apart the classes
    lie, so of several that do as well the middle one is taken.

    Raises LmsmError where it can change nothing, or a class has no training images.
    """
    log_ratio = log_shares(train_counts)
    log_ratio = log_ratio.max() - log_ratio
    if not log_ratio.any():
        raise LmsmError(
            "multiplicative logit adjustment changes nothing here: every class has "
            f"{train_counts[0]} training images"
        )
    return ByTau("mla", lambda tau: Affine.scaled((tau * log_ratio).exp()), _even_taus(1), 0.5)


def tau_normalisation(class_weights: Tensor, bias: Tensor | None = None) -> ByTau:
    """Return the correction that divides class weights W_c by |W_c|^tau.

    At 1 only their directions count. Kang et al. 2020, arXiv 1910.09217, have no bias. Here one
    stays as it is, since it is no part of a class weight, so that tau 0 changes nothing.

    Args:
        class_weights: Those in force, (C, D).
        bias: (C,), if there is one.

    Raises:
        LmsmError: All have the same norm, so that it can change nothing.
    """
    norms = class_weights.detach().cpu().double().norm(dim=1)
    if norms.max() - norms.min() <= _SAME_NORM * norms.max():
        raise LmsmError(
            "tau-normalisation changes nothing here: the loss gives the weights of all classes the "
            f"same norm ({norms[0]:.3g}); use --adjust"
        )
    kept = torch.zeros_like(norms) if bias is None else bias.detach().cpu().double()

    def plain(tau: float) -> Affine:
        scale = norms.clamp_min(_SMALLEST_NORM) ** -tau
        return Affine(scale, kept - scale * kept)

    return ByTau("tau-norm", plain, _even_taus(1))


def choose_tau(correction: ByTau, logits: Tensor, labels: NDArray[np.int64]) -> Choice:
    """Return the tau of `correction.taus` with the best balanced accuracy on these images.

    `logits` (N, C) and `labels` (N,) are of validation images; classes without one do not count.
    Among equals the tau nearest to theory's wins.
    """
    taus = correction.taus
    reached = [balanced_accuracy(labels, correction.predict(logits, tau)) for tau in taus]
    # Many values tie, because a rare class has one or two validation images; then theory decides.
    # Logit adjustment is Fisher-consistent at 1, less what the loss did itself. Norms grow with a
    # class's images, and have no say at 1. The smallest of equals would keep a bias that validation
    # is too small to see (benchmarks/LOG.md). Means of the same recalls differ by rounding.
    tied = [place for place, share in enumerate(reached) if share > max(reached) - 1e-9]
    chosen = min(tied, key=lambda place: abs(taus[place] - correction.theory))
    return Choice(taus[chosen], reached[chosen], reached[0])


def _even_taus(largest: int) -> tuple[float, ...]:
    """Return 0, 0.05, ... `largest`."""
    return tuple(step / _STEPS for step in range(_STEPS * largest + 1))
