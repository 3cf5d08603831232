"""Softmax cross-entropy with a margin on the target logits, and its gradient in closed form.

The loss of an image is softplus(r - t): r is the log-sum-exp of its other logits, t its target
logit with the margin. Only t depends on the margin, and t costs O(N D); r is two matrix products,
as in plain softmax. With a = sigmoid(r - t) and q the softmax over the other classes,
    dx   = a (q W - dt/dx),    dW = q^T (a x) - sum over images of a dt/dw_y.
Masking the target before the log-sum-exp keeps a and the loss exact where the target has won:
correcting the full log-sum-exp afterwards would cancel, down to losses of the wrong sign.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.losses.checks import refuse_second_derivative, refuse_transforms
from lmsm_cli.losses.chunked import ChunkedCrossEntropy, ChunkedLogits
from lmsm_cli.losses.margins import ByDifficulty, Margin, MarginFunction
from lmsm_cli.losses.precision import full_precision, without_autocast

# Below this norm a vector counts as having no angle; 1 / 1e-12 times any usual weight is finite.
_SMALLEST_NORM = 1e-12
# Up to this many classes per image, a pass over all class weights costs less than gathering and
# adding the batch's rows, which are not in the cache (benchmarks/LOG.md).
_FEW = 16


class Target(NamedTuple):
    """Target logits and their differential, all (N,).

    d logit = slope d(x . w_y) + pull_features x . dx + pull_weight w_y . dw_y.
    """

    logit: Tensor
    slope: Tensor
    pull_features: Tensor
    pull_weight: Tensor


def target_logits_with_margin(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: MarginFunction,
    product: Tensor | None = None,
    *,
    detached_norms: bool = False,
) -> Target:
    """Return the targets |w||x| g(cos) without a graph, and their differential in closed form.

    Args:
        features, weight, labels: (N, D), (C, D) and (N,).
        margin: gives g(cos) and its slope.
        product: the x . w_y (N,) where they are known.
        detached_norms: the differential is that of x . w_y + |w||x| (g(cos) - cos) with |w| as a
            constant in the second term: the margin turns a class weight but does not change its
            length.
    """
    with torch.no_grad():
        # A zero feature has no angle: its cosine counts as 0, and its target logit is 0 regardless.
        feature_norms = torch.linalg.vector_norm(features, dim=1).clamp_min_(_SMALLEST_NORM)
        if product is None or len(weight) > _FEW * len(labels):
            rows = full_precision(weight.index_select(0, labels))
            weight_norms = torch.linalg.vector_norm(rows, dim=1)
            product = torch.linalg.vecdot(features, rows) if product is None else product
        else:
            weight_norms = torch.linalg.vector_norm(weight, dim=1).index_select(0, labels)
        weight_norms.clamp_min_(_SMALLEST_NORM)
        scale = feature_norms * weight_norms
        cos = (product / scale).clamp_(-1, 1)
        value, slope = margin(cos)
        radial = torch.addcmul(value, cos, slope, value=-1)
        ratio = weight_norms / feature_norms
        along_weight = cos - cos * slope if detached_norms else radial
        return Target(scale * value, slope, radial * ratio, along_weight / ratio)


def margin_losses(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: Margin,
    *,
    offset: Tensor | None = None,
    class_chunk: int | None = None,
    detached_norms: bool = False,
) -> Tensor:
    """Return the losses (N,) with a margin on the target logits.

    Args:
        features, weight, labels: (N, D), (C, D) and (N,), checked.
        margin: what the cosine of the target becomes, such as `cosface_margin` of a margin. One by
            difficulty judges an image by its logits without the offset, and takes a tie for wrong.
        offset: (C,), added to all logits, the target's too.
        class_chunk: how many classes' logits are held at a time, None for all (see `chunked`).
        detached_norms: as in `target_logits_with_margin`.

    Half precision is computed in float32 and gives float32 losses. They can be differentiated once,
    in reverse mode: raises ArgumentError under a transform of torch.func.
    """
    refuse_transforms("a margin loss", features, weight)
    with without_autocast(features):
        features = full_precision(features)
        logits = product = None
        if class_chunk is None:
            # Chunks are converted one by one: converting all weights would copy them.
            weight = full_precision(weight)
            with torch.no_grad():
                logits = functional.linear(features, weight)
                product = logits.gather(1, labels[:, None])[:, 0]
                if isinstance(margin, ByDifficulty):
                    # The target is among those that are no smaller than itself.
                    margin = margin.where((logits >= product[:, None]).sum(dim=1) > 1)
                logits = logits if offset is None else logits.add_(offset)
        elif isinstance(margin, ByDifficulty):
            with torch.no_grad():
                rows = full_precision(weight.index_select(0, labels))
                product = torch.linalg.vecdot(features, rows)
                others = ChunkedLogits(features, weight, labels, None, class_chunk)
                margin = margin.where(others.largest() >= product)
        target = target_logits_with_margin(
            features.detach(),
            weight.detach(),
            labels,
            margin,
            product,
            detached_norms=detached_norms,
        )
        if offset is not None:
            target = target._replace(logit=target.logit + offset.index_select(0, labels))
        losses: Tensor
        if logits is not None:
            losses = _MarginCrossEntropy.apply(features, weight, labels, logits, *target)
        else:
            assert class_chunk is not None
            with torch.no_grad():
                rest = ChunkedLogits(features, weight, labels, offset, class_chunk).rest()
            known = (class_chunk, None, rest, *target)
            losses = ChunkedCrossEntropy.apply(features, weight, labels, offset, *known)
        return losses


class _MarginCrossEntropy(torch.autograd.Function):
    """softplus(r - t) and its gradient; the `logits` (N, C) are overwritten."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, labels: Tensor, logits: Tensor, *target: Tensor
    ) -> Tensor:
        logit, slope, *pulls = target
        rest, weights, total = _weigh(logits, labels, slope)
        gap = rest - logit
        ctx.save_for_backward(features, weight, labels, gap, *pulls, weights, total)
        return functional.softplus(gap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        features, weight, labels, gap, pull_features, pull_weight, weights, total = (
            ctx.saved_tensors
        )
        excess = gap.sigmoid().mul_(grad)
        with without_autocast(grad):
            pull_features, pull_weight = excess * pull_features, excess * pull_weight
            grad_features, grad_weight = _products(weights, features, weight, excess / total)
            _pull(grad_weight, weight, labels, pull_weight)
            grad_features.addcmul_(features, pull_features[:, None], value=-1)
        return grad_features, grad_weight, *[None] * 6


def _products(
    weights: Tensor, features: Tensor, weight: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """Return (s q) W (N, D) and (s q)^T x (C, D) for weights q (N, C) and s (N,)."""
    if weights.shape[1] <= features.shape[1]:
        weights = weights * scale[:, None]
        return weights @ weight, weights.T @ features
    return (weights @ weight).mul_(scale[:, None]), weights.T @ (features * scale[:, None])


def _pull(grad_weight: Tensor, weight: Tensor, labels: Tensor, pulls: Tensor) -> None:
    """Subtract each image's pull (N,) times its class weight from the gradient (C, D), in place."""
    if len(weight) <= _FEW * len(labels):
        by_class = torch.zeros_like(weight[:, 0]).index_add_(0, labels, pulls)
        grad_weight.addcmul_(weight, by_class[:, None], value=-1)
    else:
        rows = weight.index_select(0, labels).mul_(pulls[:, None])
        grad_weight.index_add_(0, labels, rows, alpha=-1)


def _weigh(logits: Tensor, labels: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the log-sum-exp of the other logits (N,), q times `total` (N, C), and `total` (N,).

    q is their softmax, with -slope (N,) in the labels' places, so that the products of the gradient
    include the target. q overwrites `logits`, since a second (N, C) costs page faults; it is not
    divided by `total`, which would be another pass.
    """
    targets = labels[:, None]
    logits.scatter_(1, targets, float("-inf"))
    top = logits.amax(dim=1)
    weights = logits.sub_(top[:, None]).exp_()
    total = weights.sum(dim=1)
    weights.scatter_(1, targets, (-slope * total)[:, None])
    return top + total.log(), weights, total
