"""L-Softmax: the large-margin softmax loss with annealing, as a function and as a head."""

from typing import Any, Literal, final

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.annealing import effective_margin, lambda_for, power_law
from lmsm_cli.losses.head import Head, full_precision, new_weight
from lmsm_cli.losses.margins import check_margin, psi_and_slope

# On long tails the full margin lets rare classes die (benchmarks/LOG.md). There lambda stays where
# this much margin is left; for margin 4 that is lambda 5, the authors' own value for hard data.
_EFFECTIVE_MARGIN_IMBALANCED = 1.5
# Class sizes further apart than this are a long tail; MNIST's own 1.24 is none.
_BALANCED_RATIO = 2.0
# Up to this margin the classes of a long tail were seen to live with norms of their own.
_LARGEST_FREE_MARGIN = 2
# Below this norm a vector counts as having no angle; 1 / 1e-12 times any sane weight stays finite.
_SMALLEST_NORM = 1e-12


def l_softmax_loss(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: int,
    *,
    lam: float | Tensor = 0.0,
    reduction: Literal["mean", "sum", "none"] = "mean",
) -> Tensor:
    """Return the L-Softmax loss of features (N, D) under class weights (C, D) and labels (N,).

    The target logit |w||x| cos(theta) becomes |w||x| (lam cos(theta) + psi(theta)) / (1 + lam), the
    others stay: margin 1 is softmax. `margin` is an integer >= 1, `lam` >= 0. Only the N target
    entries are bent, and the gradient is written in closed form on those N entries, so the cost
    over softmax is O(N D). Zero features and cosines of +-1 have finite gradients. Half-precision
    inputs are computed in float32. Can be differentiated once. Liu et al. 2016, arXiv 1612.02295.
    Raises LmsmError for a margin or a reduction that is none.
    """
    check_margin(margin)
    with torch.autocast(features.device.type, enabled=False):
        inputs = full_precision(features), full_precision(weight)
        losses: Tensor = _LSoftmax.apply(*inputs, labels, margin, lam)
    match reduction:
        case "none":
            return losses
        case "mean":
            return losses.mean()
        case "sum":
            return losses.sum()
    raise LmsmError(f"reduction {reduction!r} is not mean, sum or none")


class _LSoftmax(torch.autograd.Function):
    """The loss of each image, with the gradient carried by the two matrix products of softmax.

    With g(c) = (lam c + psi(c)) / (1 + lam), target logit |w||x| g(c), q = softmax of the bent
    logits and e = q_y - 1:
        dx   = G W + e (g - c g') |w| x / |x|     G = q, but e g' in the target column
        dW_y = (G^T x)_y + sum over its images of e (g - c g') |x| w / |w|
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, labels: Tensor, margin: int, lam: float | Tensor) -> Tensor:  # fmt: skip
        """Return the losses (N,)."""
        targets = labels[:, None]
        logits = features @ weight.T
        feature_norms = features.norm(dim=1)
        weight_norms = weight.norm(dim=1)[labels]
        scale = feature_norms * weight_norms
        # A zero feature has no angle: its cosine counts as 0, and its target logit is 0 regardless.
        cos = (logits.gather(1, targets)[:, 0] / scale.clamp_min(_SMALLEST_NORM)).clamp(-1, 1)
        bent, slope = psi_and_slope(cos, margin)
        bent, slope = (lam * cos + bent) / (1 + lam), (lam + slope) / (1 + lam)
        logits.scatter_(1, targets, (scale * bent)[:, None])
        normaliser: Tensor = logits.logsumexp(dim=1)
        ctx.save_for_backward(
            features, weight, labels, logits, normaliser, slope,
            (bent - cos * slope) * weight_norms / feature_norms.clamp_min(_SMALLEST_NORM),
            (bent - cos * slope) * feature_norms / weight_norms.clamp_min(_SMALLEST_NORM),
        )  # fmt: skip
        losses: Tensor = normaliser - scale * bent
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features and weight."""
        if torch.is_grad_enabled():  # create_graph=True: a silent zero would follow
            raise LmsmError("the L-Softmax loss can be differentiated only once")
        with torch.autocast(grad.device.type, enabled=False):
            return _gradients(ctx, grad)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    features, weight, labels, logits, normaliser, slope, pull_x, pull_w = ctx.saved_tensors
    targets = labels[:, None]
    share = (logits - normaliser[:, None]).exp_()
    excess = (share.gather(1, targets)[:, 0] - 1) * grad
    share.mul_(grad[:, None]).scatter_(1, targets, (excess * slope)[:, None])
    grad_features = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_features = torch.addcmul(share @ weight, features, (excess * pull_x)[:, None])
    if ctx.needs_input_grad[1]:
        radial = torch.zeros_like(weight[:, 0]).index_add_(0, labels, excess * pull_w)
        grad_weight = torch.addcmul(share.T @ features, weight, radial[:, None])
    return grad_features, grad_weight, None, None, None


@final
class LSoftmaxLoss(Head):
    """The large-margin softmax loss as a last layer: `loss = LSoftmaxLoss(64, 10)(features, labels, progress)`.

    `margin`: integer >= 1. `anneal`: `power` lowers lambda from `lambda_start` by the authors' law
    start (1 + gamma progress)^-power to `lambda_min`; `none` keeps lambda at 0, the full margin
    from the first step, which collapses on real images. `weight_norm`: `free` as in the paper, or
    `shared` for one learned norm s of all classes, W_c = s w_c / |w_c|, so that no class is relieved
    of its margin by shrinking. Where the largest of `class_counts` is over twice the smallest, `lambda_min` is 2 margin - 3 by
    default (an effective margin of 1.5), and `weight_norm` is shared beyond margin 2; else they are
    0 and free.
    Raises LmsmError for values out of range.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        margin: int = 2,
        anneal: Literal["power", "none"] = "power",
        lambda_start: float = 1000.0,
        gamma: float = 0.36,
        power: float = 45.0,
        lambda_min: float | None = None,
        weight_norm: Literal["free", "shared"] | None = None,
    ) -> None:
        super().__init__()
        check_margin(margin)
        imbalanced = class_counts is not None and bool(class_counts.max() > _BALANCED_RATIO * class_counts.min())  # fmt: skip
        if lambda_min is None:
            floor = lambda_for(margin, _EFFECTIVE_MARGIN_IMBALANCED) if margin > 1 else 0.0
            lambda_min = floor if imbalanced else 0.0
        if weight_norm is None:
            weight_norm = "shared" if imbalanced and margin > _LARGEST_FREE_MARGIN else "free"
        for name, value in (("lambda_start", lambda_start), ("gamma", gamma), ("power", power), ("lambda_min", lambda_min)):  # fmt: skip
            if not 0 <= value < float("inf"):
                raise LmsmError(f"{name} is {value}: give a finite number of at least 0")
        self.margin, self.anneal = margin, anneal
        self.lambda_start, self.gamma, self.power, self.lambda_min = (
            lambda_start,
            gamma,
            power,
            lambda_min,
        )
        self.weight_norm = weight_norm
        self.weight = new_weight(num_classes, num_features)
        mean_norm = self.weight.detach().norm(dim=1).mean()
        self.shared_norm = torch.nn.Parameter(mean_norm) if weight_norm == "shared" else None

    def class_weights(self) -> Tensor:
        """Return the class weights in force, (C, D)."""
        if self.shared_norm is None:
            return self.weight
        return self.shared_norm * functional.normalize(self.weight, dim=1)

    def logits(self, features: Tensor) -> Tensor:
        """Return features (N, D) times the class weights, (N, C): no margin."""
        with torch.autocast(features.device.type, enabled=False):
            return functional.linear(full_precision(features), self.class_weights())

    def losses(self, features: Tensor, labels: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """Return the annealed L-Softmax loss of each image, (N,)."""
        with torch.autocast(features.device.type, enabled=False):
            weight = self.class_weights()
        lam = self._lambda(progress)
        return l_softmax_loss(features, weight, labels, self.margin, lam=lam, reduction="none")

    def resolved_options(self) -> dict[str, object]:
        """Return margin, lambda_min (where lambda is annealed) and weight_norm as they are in force."""
        floor = {} if self.anneal == "none" else {"lambda_min": self.lambda_min}
        return {"margin": self.margin, **floor, "weight_norm": self.weight_norm}

    def lambda_at(self, progress: float) -> float:
        """Return lambda at a point of the training."""
        return float(self._lambda(progress))

    def effective_margin_at(self, progress: float) -> float:
        """Return the margin that is left under lambda at a point of the training."""
        return effective_margin(self.margin, self.lambda_at(progress))

    def _lambda(self, progress: float | Tensor) -> float | Tensor:
        if self.anneal == "none":
            return 0.0
        return power_law(progress, start=self.lambda_start, gamma=self.gamma, power=self.power, minimum=self.lambda_min)  # fmt: skip
