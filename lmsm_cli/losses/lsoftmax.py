"""L-Softmax, the large-margin softmax loss, as a function and as a head; A-Softmax."""

import math
from collections.abc import Mapping
from typing import Literal, Unpack, final, get_args

import torch
from torch import Tensor

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.annealed_head import AnnealedHead
from lmsm_cli.losses.annealing import USUAL_EFFECTIVE_MARGIN, AnnealingOptions, lambda_for
from lmsm_cli.losses.checks import (
    LARGEST_MARGIN,
    check_batch,
    check_device,
    check_margin,
    checked_chunk,
    checked_counts,
    in_range,
    is_number,
    one_of,
    readable,
    single_number,
    with_class_margins,
    wrong_type,
)
from lmsm_cli.losses.cross_entropy import margin_losses
from lmsm_cli.losses.head import STEEPEST, is_long_tail, log_prior, rarity
from lmsm_cli.losses.margins import LSoftmaxMargin, Margin, OnHardImages, largest
from lmsm_cli.losses.registry import BY_RARITY, SHAPES, USUAL_ON_TAILS, ByRarity
from lmsm_cli.losses.weights import Init, RisingNorms, unit

# The margin where classes are about as large; on a long tail one for all can cost rare classes.
_USUAL_MARGIN = 2
# With margin=auto, rare classes tolerate a larger effective margin.
_USUAL_LAMBDA_OF_AUTO = 1.0

Reduction = Literal["mean", "sum", "none"]
WeightNorm = Literal["free", "shared", "detached", "monotone"]


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
    """Return the L-Softmax loss of features under class weights and labels.

    The target logit |w||x| cos(theta) becomes |w||x| (lam cos(theta) + psi(theta)) / (1 + lam), the
    others stay: margin 1 is softmax. The margin costs O(N D) over softmax. Zero features, zero
    weights and cosines of +-1 have finite losses and gradients. Half precision is computed in
    float32 and gives float32 losses and gradients of its own type. The loss can be differentiated
    once. On CUDA the gradient of repeated labels is summed in no fixed order, unless
    torch.use_deterministic_algorithms asks for one.

    Args:
        features, weight, labels: (N, D), (C, D) and (N,).
        margin: a number from 1 to 1000, or a tensor (C,) of them.
        lam: the annealing lambda, >= 0.
        class_chunk: how many classes' logits are held at a time; None for all.
        reduction: "mean" or "sum" for (), "none" for (N,).

    Raises ArgumentError, a ValueError, for values, shapes and types that it cannot take.
    Liu et al. 2016, arXiv 1612.02295.

    >>> features, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> l_softmax_loss(features, weight, torch.tensor([0]), margin=2)  # ln(1 + e^4)
    tensor(4.0181)
    """
    try:
        check_batch(features, weight, labels)
        margin, lam, class_chunk = checked_options(margin, weight, lam, class_chunk, reduction)
        margin_function = LSoftmaxMargin(margin, labels, lam)
        losses = margin_losses(features, weight, labels, margin_function, class_chunk=class_chunk)
    except ArgumentError as error:
        raise ArgumentError(f"l_softmax_loss: {error}") from None
    return reduced(losses, reduction)


def checked_options(
    margin: float | Tensor,
    weight: Tensor,
    lam: float | Tensor = 0.0,
    class_chunk: int | None = None,
    reduction: str = "mean",
) -> tuple[int | float | Tensor, float | Tensor, int | None]:
    """Return the margin, as an int where it is whole, lambda and the chunk.

    Args:
        margin, lam, class_chunk, reduction: as in `l_softmax_loss`.
        weight: the class weights (C, D); a margin for each class must lie on their device.

    Raises ArgumentError for what `l_softmax_loss` refuses.
    """
    margin = check_margin(margin, len(weight))
    if isinstance(margin, Tensor) and margin.ndim:
        check_device("margin is", margin, "the class weights", weight)
    one_of("reduction", reduction, get_args(Reduction))
    return margin, _checked_lambda(lam), checked_chunk(class_chunk)


def _checked_lambda(lam: float | Tensor) -> float | Tensor:
    if isinstance(lam, Tensor):
        lam = single_number("lam", lam)
        if not readable(lam):
            return lam
    elif not is_number(lam):
        raise wrong_type("lam is", lam, "give a finite number of at least 0")
    if not 0 <= float(lam) < math.inf:
        raise ArgumentError(f"lam is {float(lam):g}: give a finite number of at least 0")
    return lam


def reduced(losses: Tensor, reduction: Reduction) -> Tensor:
    """Return the losses (N,) as they are for "none", else their mean or sum, ()."""
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def margins_by_rarity(class_counts: Tensor, low: float, high: float, power: float = 0.25) -> Tensor:
    """Return margins (C,) that rise with n_c^-p from `low`, the largest class's, to `high`.

    m_c = low + (high - low) (n_c^-p - n_max^-p) / (n_min^-p - n_max^-p), and `high` for all where
    all classes are as large. Cao et al. 2019 (LDAM) derive p = 1/4: a class of n images has a
    generalisation error of order 1 / (margin sqrt(n)), and the sum of these errors, at a given sum
    of margins, is least for margins in proportion to n^(-1/4). Their margins are distances in the
    logit, these are multiples of the angle. Son et al. 2025 (DBM) take p = 1.
    """
    rare = rarity(class_counts, power)
    spread = rare.max() - rare.min()
    if spread == 0:
        return torch.full_like(rare, high)
    return low + (high - low) * (rare - rare.min()) / spread


@final
class LSoftmaxLoss(AnnealedHead):
    """L-Softmax, the large-margin softmax loss: the target's angle counts m times.

    Cross-entropy with the target logit |w||x| (lambda cos(theta) + psi(theta)) / (1 + lambda), and
    lambda falls during the training (Liu et al. 2016, arXiv 1612.02295).
    * `margin`: from 1 to 1000; a tensor (C,) of one per class; or by rarity, which needs
      class_counts: from `margin_min` (1) for the commonest class to `margin_max` for the rarest, in
      a straight line by n_c to the power of -`margin_power`. `auto` goes to 4 by the power 1/4.
      `tail` goes to 1.3 by the power 1, and has the prior in full. On the rare classes of CIFAR-10,
      exp 0.01, it was 3.5 points above the prior alone (95% interval 2.0 to 5.1, ten seeds, shared
      norms; benchmarks/RESULTS.md). By default 2, `tail` on a long tail, where 2 for all can cost
      rare classes, and `auto` with one of these three options.
    * `class_margins` (--class-margins frog=3): margins of single classes, in the place of these.
    * `margin_on`: `all` images, or `hard` for those that the logits without margin and prior
      classify wrongly, as DBM's second margin.
    * `weight_norm`: `free` as in the paper, or `shared` for one learned norm s of all classes,
      W_c = s w_c / |w_c|. With free norms a class whose target logit is negative lowers its loss by
      shrinking |W_c|, until it is never predicted. With `detached` the norms are free, but the
      margin turns class weights without changing their length. With `monotone` each class size
      has a learned norm, which never falls as classes get rarer (see `RisingNorms`; needs
      class_counts).
    * `feature_norm`: the length that all features are brought to, such as 16 or 32: logits are then
      cosines times that length and the norm of the class weight, so that margin and prior have a
      scale.
    * `tau`: adds tau ln pi to every logit, with pi the classes' shares of the training images, for
      a larger distance from common classes (needs class_counts; Menon et al. 2021). By default 0,
      and 1 with `margin=tail`.
    * `class_chunk`: hold the logits of that many classes at a time.
    * `anneal`: power, exponential, cosine, linear, constant or none, with `lambda_start` (1000; 10
      for cosine and linear), `lambda_min`, `anneal_end` (1), `gamma` (0.36) and `power` (45), see
      `Annealing`; `none` is the full margin from the first step, which collapses on real images.
    * `total_steps`: in the place of a progress at each call (see `AnnealedHead`).

    On a long tail, the largest of `class_counts` over twice the smallest, `lambda_min` leaves an
    effective margin of at most 1.5 by default (2 margin - 3 from 1.5 on, 0 below; with `auto` it is
    1, which leaves 2.5 to the rarest of margins up to 4), and `weight_norm` is shared beyond margin
    1. Else they are 0 and free (measured: benchmarks/LOG.md). The state dict holds `weight`,
    `shared_norm` or `rising.norms` where there are such norms, and with `total_steps` the number of
    `calls`.

    Raises ArgumentError, a ValueError, for values out of range.

    >>> head = LSoftmaxLoss(64, 10, margin=1.5)
    >>> features, labels = torch.randn(32, 64), torch.randint(10, (32,))
    >>> head(features, labels, progress=0.5).shape, head.logits(features).shape
    (torch.Size([]), torch.Size([32, 10]))
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        class_margins: Mapping[int, float] | None = None,
        margin: float | Tensor | ByRarity | None = None,
        margin_min: float | None = None,
        margin_max: float | None = None,
        margin_power: float | None = None,
        margin_on: Literal["all", "hard"] = "all",
        weight_norm: WeightNorm | None = None,
        feature_norm: float | None = None,
        tau: float | None = None,
        class_chunk: int | None = None,
        total_steps: int | None = None,
        **annealing: Unpack[AnnealingOptions],
    ) -> None:
        if class_counts is not None:
            class_counts = checked_counts(class_counts, num_classes, "lsoftmax")
        tailed = class_counts is not None and is_long_tail(
            class_counts.max().item(), class_counts.min().item()
        )
        asked = dict(zip(SHAPES, (margin_min, margin_max, margin_power), strict=True))
        given = {name: value for name, value in asked.items() if value is not None}
        if margin is None:
            margin = "auto" if given else USUAL_ON_TAILS if tailed else _USUAL_MARGIN
        shape = _shape_of(margin, given)
        margins = _margins(margin, shape, class_counts, num_classes)
        margins = _with_own(margins, class_margins, num_classes)
        if weight_norm is None:
            weight_norm = "shared" if tailed and largest(margins) > 1 else "free"
        one_of("weight_norm", weight_norm, get_args(WeightNorm))
        usual = _usual_lambda(margin, margins) if tailed else 0.0
        others = (annealing, usual, class_chunk, total_steps)
        super().__init__(num_features, num_classes, margins, *others)
        self.spec_margin = margin
        self.margin_min, self.margin_max, self.margin_power = map(shape.get, SHAPES)
        self.margin_on = one_of("margin_on", margin_on, ("all", "hard"))
        self.weight_norm, self.detached_norms = weight_norm, weight_norm == "detached"
        self._start_norms(class_counts)
        if feature_norm is not None:
            self.feature_norm = in_range("feature_norm", feature_norm, 1e-3)
        if tau is None:
            tau = BY_RARITY[margin]["tau"] if isinstance(margin, str) else 0.0
        self.tau = self.prior_strength = in_range("tau", tau, 0)
        if tau:
            prior = tau * log_prior(class_counts, num_classes, "lsoftmax with tau")
            self.register_constant("prior", prior)

    def _idle_options(self) -> Mapping[str, object]:
        annealing = super()._idle_options()
        return {"margin_on": "all", "weight_norm": "free", "tau": 0.0, **annealing}

    def _start_norms(self, class_counts: Tensor | None) -> None:
        """Make the learned norms that are no lengths of `weight`."""
        self.shared_norm = self.rising = None
        if self.weight_norm == "shared":
            self.shared_norm = torch.nn.Parameter(self._mean_norm())
        elif self.weight_norm == "monotone":
            what = "lsoftmax with weight_norm=monotone"
            self.rising = RisingNorms(checked_counts(class_counts, len(self.weight), what))
            self.rising.start_at(self._mean_norm())

    def margin_function(self, labels: Tensor, progress: float | Tensor) -> Margin:
        """Return L-Softmax's margin under the lambda of a progress, on all or on hard images."""
        margin = LSoftmaxMargin(self.margin, labels, progress, self.annealing)
        return margin if self.margin_on == "all" else OnHardImages(margin)

    def class_weights(self) -> Tensor:
        """Return the class weights in force, (C, D)."""
        weight = super().class_weights()
        norms = self.rising() if self.rising is not None else self.shared_norm
        return weight if norms is None else norms * unit(weight)

    def reset_weight(self, init: Init) -> None:
        """Draw the class weights again; the mean of learned norms becomes that of their norms."""
        super().reset_weight(init)
        if self.rising is not None:
            self.rising.start_at(self._mean_norm())
        if self.shared_norm is not None:
            with torch.no_grad():
                self.shared_norm.copy_(self._mean_norm())

    def _mean_norm(self) -> Tensor:
        norms: Tensor = torch.linalg.vector_norm(self.weight.detach(), dim=1)
        return norms.mean()

    def resolved_options(self) -> dict[str, object]:
        """Return the margin as it was given or chosen, and lambda_min and weight_norm in force."""
        named = {} if isinstance(self.spec_margin, Tensor) else {"margin": self.spec_margin}
        return named | super().resolved_options() | {"weight_norm": self.weight_norm}


def _usual_lambda(margin: float | Tensor | str, margins: float | Tensor) -> float:
    """Return the lambda_min of a long tail where none is given."""
    if isinstance(margin, str) and margin == "auto":
        return _USUAL_LAMBDA_OF_AUTO
    return lambda_for(largest(margins), USUAL_EFFECTIVE_MARGIN)


def _shape_of(margin: float | Tensor | str, given: Mapping[str, float]) -> dict[str, float]:
    """Return the options of `SHAPES` that are in force, of a margin by rarity; {} of any other."""
    if not isinstance(margin, str) or margin not in BY_RARITY:
        if given:
            raise ArgumentError(
                "margin_min, margin_max and margin_power are choices of margin=auto and "
                f"margin=tail; margin is {margin!r}"
            )
        return {}
    usual = BY_RARITY[margin]
    low = in_range("margin_min", given.get("margin_min", 1.0), 1, LARGEST_MARGIN)
    highest = given.get("margin_max", max(usual["margin_max"], low))
    high = in_range("margin_max", highest, low, LARGEST_MARGIN)
    power = in_range("margin_power", given.get("margin_power", usual["margin_power"]), 0, STEEPEST)
    return dict(zip(SHAPES, (low, high, power), strict=True))


def _margins(
    margin: float | Tensor | str,
    shape: Mapping[str, float],
    class_counts: Tensor | None,
    num_classes: int,
) -> int | float | Tensor:
    """Return the margin, or the margins (C,) of a shape that follow from the class counts."""
    if not shape:
        return check_margin(margin, num_classes)
    counts = checked_counts(class_counts, num_classes, f"lsoftmax with margin={margin}")
    return margins_by_rarity(counts, *shape.values())


def _with_own(
    margin: int | float | Tensor, class_margins: Mapping[int, float] | None, num_classes: int
) -> int | float | Tensor:
    """Return the margin, or margins (C,) where single classes have their own."""
    own = with_class_margins(margin, class_margins, num_classes, 1, LARGEST_MARGIN)
    return margin if own is None else own


@final
class ASoftmaxLoss(AnnealedHead):
    """A-Softmax, SphereFace: L-Softmax on class weights of length 1 (Liu et al. 2017).

    `margin` is a number from 1 to 1000, 4 as published, or a tensor (C,) of one per class.
    `class_chunk`, `total_steps` and lambda are as in `lsoftmax`, with lambda_min 2 margin - 3 by
    default, which for margin 4 is the authors' 5.
    """

    normalises = ("weights",)

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        class_margins: Mapping[int, float] | None = None,
        margin: float | Tensor = 4,
        class_chunk: int | None = None,
        total_steps: int | None = None,
        **annealing: Unpack[AnnealingOptions],
    ) -> None:
        checked = _with_own(check_margin(margin, num_classes), class_margins, num_classes)
        usual = lambda_for(largest(checked), USUAL_EFFECTIVE_MARGIN)
        super().__init__(
            num_features, num_classes, checked, annealing, usual, class_chunk, total_steps
        )
