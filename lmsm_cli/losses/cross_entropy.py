"""Softmax cross-entropy with a margin on the target logits, and its gradient in closed form.

The loss of an image is softplus(r - t): r is the log-sum-exp of its other logits, t its target
logit with the margin. Only t depends on the margin, and t costs O(N D); r is two matrix products,
as in plain softmax. With a = sigmoid(r - t) and q the softmax over the other classes,
    dx   = a (q W - dt/dx),    dW = q^T (a x) - sum over images of a dt/dw_y.
Masking the target before the log-sum-exp keeps a and the loss exact where the target has won:
correcting the full log-sum-exp afterwards would cancel, down to losses of the wrong sign.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.chunked import ChunkedLogits
from lmsm_cli.losses.margins import MarginFunction, readable, refuse_transforms

# Below this norm a vector counts as having no angle; 1 / 1e-12 times any usual weight is finite.
_SMALLEST_NORM = 1e-12
# Up to this many classes per image, a pass over all class weights costs less than gathering and
# adding the batch's rows, which are not in the cache (benchmarks/LOG.md).
_FEW = 16
# The types that losses do not compute in, and what they compute in instead.
_HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


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
    margin: MarginFunction,
    *,
    offset: Tensor | None = None,
    class_chunk: int | None = None,
    detached_norms: bool = False,
) -> Tensor:
    """Return the losses (N,) with a margin on the target logits.

    Args:
        features, weight, labels: (N, D), (C, D) and (N,), checked.
        margin: what the cosine of the target becomes, such as `cosface_margin` of a margin.
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
                logits = logits if offset is None else logits.add_(offset)
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
        losses: Tensor = _MarginCrossEntropy.apply(
            features, weight, labels, logits, offset, class_chunk, *target
        )
        return losses


class _MarginCrossEntropy(torch.autograd.Function):
    """softplus(r - t) and its gradient; `logits` (N, C), None with chunks, are overwritten."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        logits: Tensor | None,
        offset: Tensor | None,
        class_chunk: int | None,
        *target: Tensor,
    ) -> Tensor:
        """Return the losses (N,)."""
        logit, slope, *pulls = target
        if logits is None:
            assert class_chunk is not None
            rest = ChunkedLogits(features, weight, labels, offset, class_chunk).rest()
            kept: list[Tensor | None] = [rest, slope, offset]
        else:
            rest, weights, total = _weigh(logits, labels, slope)
            kept = [weights, total]
        gap = rest - logit
        ctx.class_chunk = class_chunk
        ctx.save_for_backward(features, weight, labels, gap, *pulls, *kept)
        return functional.softplus(gap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features and weight."""
        refuse_second_derivative()
        features, weight, labels, gap, pull_features, pull_weight, *kept = ctx.saved_tensors
        excess = gap.sigmoid().mul_(grad)
        with without_autocast(grad):
            pull_features, pull_weight = excess * pull_features, excess * pull_weight
            if ctx.class_chunk is None:
                weights, total = kept
                grad_features, grad_weight = _products(weights, features, weight, excess / total)
                _pull(grad_weight, weight, labels, pull_weight)
            else:
                rest, slope, offset = kept
                rows = full_precision(weight.index_select(0, labels))
                logits = ChunkedLogits(features, weight, labels, offset, ctx.class_chunk)
                grad_features, grad_weight = logits.products(
                    features * excess[:, None], rows * pull_weight[:, None], rest, slope
                )
                grad_features.mul_(excess[:, None])
            grad_features.addcmul_(features, pull_features[:, None], value=-1)
        return grad_features, grad_weight, *[None] * 8


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


def refuse_second_derivative() -> None:
    """Raise ArgumentError in a backward pass with create_graph=True: a silent zero would follow."""
    if torch.is_grad_enabled():
        raise ArgumentError("a margin loss can be differentiated only once")


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


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Return the context of a loss: without autocast, which would round products to bfloat16."""
    if torch.is_autocast_enabled(tensor.device.type):
        return torch.autocast(tensor.device.type, enabled=False)
    return nullcontext()


def full_precision(values: Tensor) -> Tensor:
    """Return the values in at least float32, in which every loss computes."""
    return values.to(_HALF.get(values.dtype, values.dtype))


def check_features(features: Tensor, weight: Tensor) -> None:
    """Raise ArgumentError where features are not (N, D), in half precision or the weight's type."""
    _check_dense("features", features)
    if features.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ArgumentError(
            f"features have shape {tuple(features.shape)}: expected (N, {weight.shape[1]}), "
            f"as wide as the class weights"
        )
    wanted = _HALF.get(weight.dtype, weight.dtype)
    if _HALF.get(features.dtype, features.dtype) != wanted:
        raise ArgumentError(
            f"features are {features.dtype}: expected {wanted} as the class weights, "
            f"or half precision"
        )
    if features.device != weight.device:
        raise ArgumentError(
            f"features are on {features.device}, the class weights on {weight.device}: "
            f"bring them to one device"
        )


def check_weight(weight: Tensor, fewest: str, least: int) -> None:
    """Raise ArgumentError where class weights are not floating point (C, D) with C >= `least`."""
    _check_dense("class weights", weight)
    if weight.ndim != 2 or len(weight) < least:
        raise ArgumentError(f"class weights have shape {tuple(weight.shape)}: expected {fewest}")
    if weight.dtype not in (*_HALF, torch.float32, torch.float64):
        raise ArgumentError(f"class weights are {weight.dtype}: expected floating point")


def _check_dense(name: str, values: Any) -> None:
    if not isinstance(values, Tensor):
        raise ArgumentError(
            f"{name} are of type {type(values).__name__}: "
            f"expected a torch tensor, as torch.as_tensor makes one"
        )
    if values.layout is not torch.strided:
        raise ArgumentError(
            f"{name} have the layout {values.layout}: "
            f"expected a dense tensor, as to_dense() makes one"
        )


def check_batch(features: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise ArgumentError where features are not (N, D) with N > 0, labels not (N,) in 0..C-1.

    The range of labels is checked on the CPU alone: reading them from an accelerator would make
    every step wait, and its own assertion reports them.
    """
    check_weight(weight, "(C, D), two classes at least", 2)
    check_images(features, weight, labels)
    if readable(labels):
        low, high = (int(extreme) for extreme in labels.aminmax())
        if low < 0 or high >= len(weight):
            raise ArgumentError(
                f"labels run from {low} to {high}: expected 0 to {len(weight) - 1}, "
                f"there are {len(weight)} classes"
            )


def check_images(features: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise ArgumentError unless `check_features` passes, N > 0 and labels are int64 (N,)."""
    check_features(features, weight)
    num_images = len(features)
    if not num_images:
        raise ArgumentError(f"the batch is empty: features have shape {tuple(features.shape)}")
    _check_dense("labels", labels)
    if labels.shape != (num_images,):
        one_hot = labels.ndim == 2 and len(labels) == num_images and labels.shape[1] > 1
        hint = (
            "; one-hot and soft labels are not taken, "
            "labels.argmax(dim=1) makes class numbers of them"
            if one_hot
            else ""
        )
        raise ArgumentError(
            f"labels have shape {tuple(labels.shape)}: "
            f"expected ({num_images},), one class number per image{hint}"
        )
    if labels.dtype != torch.int64:
        hint = "; soft labels are not taken" if labels.is_floating_point() else ""
        raise ArgumentError(
            f"labels are {labels.dtype}: "
            f"expected torch.int64 class numbers, as labels.long() makes them{hint}"
        )
    if labels.device != features.device:
        raise ArgumentError(
            f"labels are on {labels.device}, the features on {features.device}: "
            f"bring them to one device"
        )
