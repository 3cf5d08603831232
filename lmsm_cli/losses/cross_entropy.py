"""Softmax cross-entropy with a margin on the target logits, and its gradient in closed form.

The loss of an image is softplus(r - t): r is the log-sum-exp of its other logits, t its target
logit with the margin. Only t depends on the margin, and t costs O(N D); r is two matrix products,
as in plain softmax. With a = sigmoid(r - t) and q the softmax over the other classes,
    dx   = a (q W - dt/dx),    dW = q^T (a x) - sum over images of a dt/dw_y.
Masking the target before the log-sum-exp keeps a and the loss exact where the target has won:
correcting the full log-sum-exp afterwards would cancel, down to losses of the wrong sign.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.losses.checks import refuse_second_derivative, refuse_transforms
from lmsm_cli.losses.chunked import ChunkedCrossEntropy, ChunkedLogits
from lmsm_cli.losses.kernel import Batch, batch_of, fits, margin_cross_entropy, margin_pulls
from lmsm_cli.losses.margins import ByDifficulty, Margin, MarginFunction
from lmsm_cli.losses.precision import full_precision, without_autocast
from lmsm_cli.losses.target import FEW, Target, target_logits_with_margin, weigh

# The label that torch ignores, -100 as it comes, would be a loss of 0 where no check reads labels.
_NO_LABEL = torch.iinfo(torch.int64).min


def plain_losses(scores: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy (N,) of scores (N, C); every label that is no class is an error."""
    return functional.cross_entropy(
        scores,
        labels,
        reduction="none",
        ignore_index=_NO_LABEL,
        label_smoothing=label_smoothing,
    )


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
        if class_chunk is None:
            features, weight = full_precision(features), full_precision(weight)
            known = features, weight, labels, margin, offset
            return _of_all_classes(*known, detached_norms, keeps_logits=False)[0]
        # Chunks are converted one by one: converting all weights would copy them.
        chosen = class_chunk, detached_norms
        return _in_chunks(features, weight, labels, margin, offset, *chosen)


def margin_losses_and_logits(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: Margin,
    *,
    offset: Tensor | None = None,
    detached_norms: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return `margin_losses`, and the plain logits (N, C) without a graph, worked out once."""
    refuse_transforms("a margin loss", features, weight)
    with without_autocast(features):
        features, weight = full_precision(features), full_precision(weight)
        known = features, weight, labels, margin, offset
        return _of_all_classes(*known, detached_norms, keeps_logits=True)


def _of_all_classes(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: Margin,
    offset: Tensor | None,
    detached_norms: bool,
    *,
    keeps_logits: bool,
) -> tuple[Tensor, Tensor]:
    """Return the losses and the logits, which are overwritten unless they are kept."""
    with torch.no_grad():
        logits = functional.linear(features, weight)
    batch = _of_kernel(features, weight, labels, logits, margin, offset, detached_norms)
    if batch is not None:
        return _KernelCrossEntropy.apply(features, weight, batch), logits
    with torch.no_grad():
        product = logits.gather(1, labels[:, None])[:, 0]
        if isinstance(margin, ByDifficulty):
            # The target is among those that are no smaller than itself.
            margin = margin.where((logits >= product[:, None]).sum(dim=1) > 1)
        own = logits.clone() if keeps_logits else logits
        own = own if offset is None else own.add_(offset)
    target = _target(features, weight, labels, margin, product, offset, detached_norms)
    return _MarginCrossEntropy.apply(features, weight, labels, own, *target), logits


def _in_chunks(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: Margin,
    offset: Tensor | None,
    class_chunk: int,
    detached_norms: bool,
) -> Tensor:
    product = None
    if isinstance(margin, ByDifficulty):
        with torch.no_grad():
            rows = full_precision(weight.index_select(0, labels))
            product = torch.linalg.vecdot(full_precision(features), rows)
            others = ChunkedLogits(features, weight, labels, None, class_chunk)
            margin = margin.where(others.largest() >= product)
    wide = full_precision(features)
    target = _target(wide, weight, labels, margin, product, offset, detached_norms)
    with torch.no_grad():
        rest = ChunkedLogits(features, weight, labels, offset, class_chunk).rest()
    known = (class_chunk, None, rest, *target)
    losses: Tensor = ChunkedCrossEntropy.apply(features, weight, labels, offset, *known)
    return losses


def _target(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: MarginFunction,
    product: Tensor | None,
    offset: Tensor | None,
    detached_norms: bool,
) -> Target:
    """Return the targets of a batch without a graph, with their offsets."""
    target = target_logits_with_margin(
        features.detach(), weight.detach(), labels, margin, product, detached_norms=detached_norms
    )
    if offset is None:
        return target
    return target._replace(logit=target.logit + offset.index_select(0, labels))


class _MarginCrossEntropy(torch.autograd.Function):
    """softplus(r - t) and its gradient; the `logits` (N, C) are overwritten."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, labels: Tensor, logits: Tensor, *target: Tensor
    ) -> Tensor:
        logit, slope, *pulls = target
        rest, weights, total = weigh(logits, labels, slope)
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


def _of_kernel(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    logits: Tensor,
    margin: Margin,
    offset: Tensor | None,
    detached_norms: bool,
) -> Batch | None:
    """Return what the kernels take of a batch on CUDA; None where torch's operations do the work.

    That is on the CPU, and in a compiled step, whose compiler makes kernels of its own.
    """
    if logits.device.type != "cuda" or torch.compiler.is_compiling():
        return None
    tensors = [logits, features.detach(), weight.detach(), labels]
    batch = batch_of(tensors, margin, offset, detached_norms=detached_norms)
    return batch if batch is not None and fits(batch) else None


class _KernelCrossEntropy(torch.autograd.Function):
    """softplus(r - t) and its gradient, by the operators of `kernel`."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, batch: Batch) -> Tensor:
        losses, *known = margin_cross_entropy(*batch)
        ctx.save_for_backward(features, weight, batch.tensors[3], *known)
        return losses

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivative()
        features, weight, labels, gaps, *pulls, shares = ctx.saved_tensors
        with without_autocast(grad):
            excess, pull_features, pull_weight = margin_pulls(gaps, grad, *pulls)
            grad_features, grad_weight = _products(shares, features, weight, excess)
            _pull(grad_weight, weight, labels, pull_weight)
            grad_features.addcmul_(features, pull_features[:, None], value=-1)
        return grad_features, grad_weight, None


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
    if len(weight) <= FEW * len(labels):
        by_class = torch.zeros_like(weight[:, 0]).index_add_(0, labels, pulls)
        grad_weight.addcmul_(weight, by_class[:, None], value=-1)
    else:
        rows = weight.index_select(0, labels).mul_(pulls[:, None])
        grad_weight.index_add_(0, labels, rows, alpha=-1)
