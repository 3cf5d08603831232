"""L-Softmax: the large-margin softmax loss with annealing, as a function and as a head."""

import math
from typing import Literal, final

import torch
from torch import Tensor

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.annealing import USUAL_EFFECTIVE_MARGIN, Annealing, Form, is_number, lambda_for
from lmsm_cli.losses.class_priors import log_prior, rarity
from lmsm_cli.losses.cross_entropy import check_batch, margin_losses
from lmsm_cli.losses.head import (
    AnnealedHead,
    Init,
    checked_chunk,
    checked_counts,
    in_range,
    largest,
    unit,
)
from lmsm_cli.losses.margins import (
    LARGEST_MARGIN,
    annealed_margin,
    check_margin,
    readable,
    single_number,
)

# Class sizes further apart than this are a long tail; MNIST's own 1.24 is none.
_BALANCED_RATIO = 2.0
# The margin of all classes alike, where they are about as large; on a long tail it can cost rare classes.
_USUAL_MARGIN = 2
# Under margin=auto the rarest classes live with more than the effective margin that one for all leaves.
_USUAL_LAMBDA_OF_AUTO = 1.0

Reduction = Literal["mean", "sum", "none"]


def l_softmax_loss(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: float | Tensor,
    *,
    lam: float | Tensor = 0.0,
    class_chunk: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the L-Softmax loss of features (N, D) under class weights (C, D) and labels (N,).

    The target logit |w||x| cos(theta) becomes |w||x| (lam cos(theta) + psi(theta)) / (1 + lam), the
    others stay: margin 1 is softmax. `margin` is a number from 1 to 1000 or a tensor (C,) of them,
    `lam` >= 0. `class_chunk` holds the logits of that many classes at a time, for very many of
    them; None holds all, (N, C). `reduction` is "mean" (), "sum" () or "none" (N,).

    The margin costs O(N D) over softmax: the gradient is written in closed form on the N target
    entries. Zero features, zero weights and cosines of +-1 have finite losses and gradients. Half
    precision inputs are computed in float32 and give float32 losses and gradients of their own
    type. Can be differentiated once. On CUDA the gradient of repeated labels is summed in no fixed
    order, unless torch.use_deterministic_algorithms asks for one. Liu et al. 2016, arXiv 1612.02295.
    Raises ArgumentError, a ValueError, for margins, shapes, labels and reductions that it cannot
    take.

    >>> features, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> l_softmax_loss(features, weight, torch.tensor([0]), margin=2)  # ln(1 + e^4)
    tensor(4.0181)
    """
    try:
        check_batch(features, weight, labels)
        margin, lam, class_chunk = checked_options(margin, weight, lam, class_chunk, reduction)
        losses = l_softmax_losses(features, weight, labels, margin, lam, None, class_chunk)
    except ArgumentError as error:
        raise ArgumentError(f"l_softmax_loss: {error}") from None
    return reduced(losses, reduction)


def checked_options(
    margin: float | Tensor,
    weight: Tensor,
    lam: float | Tensor,
    class_chunk: int | None,
    reduction: str,
) -> tuple[int | float | Tensor, float | Tensor, int | None]:
    """Return the margin, whole ones as int, lambda and the chunk of class weights (C, D).

    Raises ArgumentError for what `l_softmax_loss` refuses.
    """
    margin = check_margin(margin, len(weight))
    if isinstance(margin, Tensor) and margin.ndim and margin.device != weight.device:
        raise ArgumentError(
            f"margin is on {margin.device}, the class weights on {weight.device}: bring them to one device"
        )
    if not isinstance(reduction, str) or reduction not in ("mean", "sum", "none"):
        raise ArgumentError(f"reduction is {reduction!r}: give mean, sum or none")
    return margin, _checked_lambda(lam), checked_chunk(class_chunk)


def _checked_lambda(lam: float | Tensor) -> float | Tensor:
    if isinstance(lam, Tensor):
        lam = single_number("lam", lam)
        if not readable(lam):
            return lam
    elif not is_number(lam):
        raise ArgumentError(
            f"lam is of type {type(lam).__name__}: give a finite number of at least 0"
        )
    if not 0 <= float(lam) < math.inf:
        raise ArgumentError(f"lam is {float(lam):g}: give a finite number of at least 0")
    return lam


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Return the losses (N,) as they are for "none", else their mean or sum, ()."""
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def l_softmax_losses(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: float | Tensor,
    lam: float | Tensor,
    offset: Tensor | None,
    class_chunk: int | None,
    *,
    detached_norms: bool = False,
) -> Tensor:
    """Return the loss of each image, (N,), for checked arguments; `offset` (C,) is on all logits."""
    if isinstance(margin, Tensor) and margin.ndim:
        margin = margin.index_select(0, labels)
    return margin_losses(
        features,
        weight,
        labels,
        lambda cos: annealed_margin(cos, margin, lam),
        offset=offset,
        class_chunk=class_chunk,
        detached_norms=detached_norms,
    )


def margins_by_rarity(class_counts: Tensor, low: float, high: float) -> Tensor:
    """Return margins (C,) that rise with n_c^(-1/4) from `low`, the largest class's, to `high`.

    m_c = low + (high - low) (n_c^(-1/4) - n_max^(-1/4)) / (n_min^(-1/4) - n_max^(-1/4)), and `high`
    for all where all classes are as large. Cao et al. 2019 (LDAM) derive the exponent: a class of n
    images has a generalisation error of order 1 / (margin sqrt(n)), and the sum of them over the
    classes, at a given sum of margins, is least for margins in proportion to n^(-1/4). Theirs are
    distances in the logit; these are L-Softmax's multiples of the angle.
    """
    rare = rarity(class_counts)
    spread = rare.max() - rare.min()
    if spread == 0:
        return torch.full_like(rare, high)
    return low + (high - low) * (rare - rare.min()) / spread


@final
class LSoftmaxLoss(AnnealedHead):
    """L-Softmax, the large-margin softmax loss: the target's angle counts m times (Liu et al. 2016).

    `margin`: from 1 to 1000; a tensor (C,) of one per class; or `auto`, which gives rare classes the
    larger ones, from `margin_min` (1) to `margin_max` (4) (`margins_by_rarity`; needs class_counts).
    By default 2, and `auto` with one of these or on a long tail, where 2 for all can cost rare classes.
    Lambda: `anneal` is power, exponential, cosine, linear, constant or none, with `lambda_start` (1000;
    10 for cosine and linear), `lambda_min`, `anneal_end` (1), `gamma` (0.36) and `power` (45) (see
    `Annealing`); `none` is the full margin from the first step, which collapses on real images.
    `weight_norm`: `free` as in the paper, or `shared` for one learned norm s of all classes, W_c = s
    w_c / |w_c|: a class whose target logit is negative is else relieved by shrinking |W_c|, until it
    is never predicted. Equal norms are also what tau-normalisation restores on long tails. With
    `detached` the norms are free, and the margin turns class weights without a say in their length.
    `tau`: adds tau ln pi to every logit, the bent one included, with pi the classes' shares of the
    training images (needs class_counts): the margin asks for the same distance from everybody, the
    prior for more from whoever is common (logit adjustment, Menon et al. 2021).
    `class_chunk`: hold the logits of that many classes at a time.
    `total_steps`: in the place of a progress at each call, as `AnnealedHead` tells.
    On a long tail, the largest of `class_counts` over twice the smallest, `lambda_min` leaves an effective
    margin of 1.5 by default (2 margin - 3; under `auto` it is 1, which leaves 2.5 to the rarest of
    margins up to 4), and `weight_norm` is shared beyond margin 1; else they are 0 and free
    (measured: benchmarks/LOG.md). The state dict holds `weight` alone, `shared_norm` where there is
    one, and with `total_steps` the `calls` so far.
    Raises ArgumentError, a ValueError, for values out of range.

    >>> head = LSoftmaxLoss(64, 10, margin=1.5)
    >>> features, labels = torch.randn(32, 64), torch.randint(10, (32,))
    >>> head(features, labels, progress=0.5).shape, head.logits(features).shape
    (torch.Size([]), torch.Size([32, 10]))
    """

    prior: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        margin: float | Tensor | Literal["auto"] | None = None,
        margin_min: float | None = None,
        margin_max: float | None = None,
        anneal: Form = "power",
        lambda_start: float | None = None,
        lambda_min: float | None = None,
        anneal_end: float | None = None,
        gamma: float | None = None,
        power: float | None = None,
        weight_norm: Literal["free", "shared", "detached"] | None = None,
        tau: float = 0.0,
        class_chunk: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        if class_counts is not None:
            class_counts = checked_counts(class_counts, num_classes, "lsoftmax")
        tailed = class_counts is not None and bool(
            class_counts.max() > _BALANCED_RATIO * class_counts.min()
        )
        if margin is None:
            is_bounded = margin_min is not None or margin_max is not None
            margin = "auto" if tailed or is_bounded else _USUAL_MARGIN
        margins = _margins(margin, margin_min, margin_max, class_counts, num_classes)
        if lambda_min is None and anneal != "none":
            lambda_min = _usual_lambda(margin, margins) if tailed else 0.0
        if weight_norm is None:
            weight_norm = "shared" if tailed and largest(margins) > 1 else "free"
        if weight_norm not in ("free", "shared", "detached"):
            raise ArgumentError(f"weight_norm is {weight_norm!r}: give free, shared or detached")
        annealing = Annealing.of(
            anneal, start=lambda_start, minimum=lambda_min, end=anneal_end, gamma=gamma, power=power
        )
        super().__init__(num_features, num_classes, margins, annealing, total_steps)
        self.spec_margin, self.margin_min, self.margin_max = margin, margin_min, margin_max
        self.weight_norm = weight_norm
        self.shared_norm = (
            torch.nn.Parameter(self._mean_norm()) if weight_norm == "shared" else None
        )
        self.tau = in_range("tau", tau, 0)
        prior = tau * log_prior(class_counts, num_classes, "lsoftmax with tau") if tau else None
        self.keep("prior", prior)
        self.class_chunk = checked_chunk(class_chunk)

    def class_weights(self) -> Tensor:
        """Return the class weights in force, (C, D)."""
        weight = super().class_weights()
        if self.shared_norm is None:
            return weight
        return self.shared_norm * unit(weight)

    def start_as(self, init: Init) -> None:
        """Draw the class weights anew; a shared norm is the mean of theirs again."""
        super().start_as(init)
        if self.shared_norm is not None:
            with torch.no_grad():
                self.shared_norm.copy_(self._mean_norm())

    def _mean_norm(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.weight.detach(), dim=1)
        return norms.mean()

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        lam = self.annealing(progress)
        return l_softmax_losses(
            features,
            self.class_weights(),
            labels,
            self.margin,
            lam,
            self.prior,
            self.class_chunk,
            detached_norms=self.weight_norm == "detached",
        )

    def prior_strength(self) -> float:
        """Return the tau of the prior in the loss."""
        return self.tau

    def resolved_options(self) -> dict[str, object]:
        """Return the margin as it was given or chosen, lambda_min and weight_norm as they are in force."""
        named = {} if isinstance(self.spec_margin, Tensor) else {"margin": self.spec_margin}
        return named | super().resolved_options() | {"weight_norm": self.weight_norm}


def _usual_lambda(margin: float | Tensor | str, margins: float | Tensor) -> float:
    """Return the lambda_min of a long tail where none is given."""
    if isinstance(margin, str):
        return _USUAL_LAMBDA_OF_AUTO
    return lambda_for(largest(margins), USUAL_EFFECTIVE_MARGIN)


def _margins(
    margin: float | Tensor | str,
    low: float | None,
    high: float | None,
    class_counts: Tensor | None,
    num_classes: int,
) -> int | float | Tensor:
    """Return the margin, or the margins (C,) that `auto` works out from the class counts."""
    if isinstance(margin, str) and margin == "auto":
        low = in_range("margin_min", 1.0 if low is None else low, 1, LARGEST_MARGIN)
        high = in_range("margin_max", max(4.0, low) if high is None else high, low, LARGEST_MARGIN)
        return margins_by_rarity(
            checked_counts(class_counts, num_classes, "lsoftmax with margin=auto"), low, high
        )
    if low is not None or high is not None:
        raise ArgumentError(
            f"margin_min and margin_max are the bounds of margin=auto; margin is {margin}"
        )
    return check_margin(margin, num_classes)
