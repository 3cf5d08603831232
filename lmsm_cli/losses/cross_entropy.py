"""Softmax cross-entropy whose target logits are bent by a margin, with the gradient in closed form.

The loss of an image is softplus(r - t): r is the log-sum-exp of its other logits, t its bent target
logit. Only t knows the margin, and t costs O(N D); r is two matrix products, as in plain softmax.
With a = sigmoid(r - t) and q the softmax over the other classes,
    dx   = a (q W - dt/dx),    dW = q^T (a x) - sum over images of a dt/dw_y.
Masking the target before the log-sum-exp keeps a and the loss exact where the target has won:
correcting the full log-sum-exp afterwards would cancel, down to losses of the wrong sign.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.errors import ArgumentError, LmsmError
from lmsm_cli.losses import chunked
from lmsm_cli.losses.margins import Bend

# Below this norm a vector counts as having no angle; 1 / 1e-12 times any sane weight stays finite.
_SMALLEST_NORM = 1e-12
# The types that losses do not compute in, and the one they are computed in instead.
_HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class Target(NamedTuple):
    """Target logits and their differential, all (N,).

    d logit = slope d(x . w_y) + pull_features x . dx + pull_weight w_y . dw_y.
    """

    logit: Tensor
    slope: Tensor
    pull_features: Tensor
    pull_weight: Tensor


def bent_target(features: Tensor, rows: Tensor, bend: Bend) -> Target:
    """Return the target |w||x| g(cos) for features (N, D) and their class weights `rows` (N, D).

    Carries no graph: its differential is given in closed form.
    """
    with torch.no_grad():
        # A zero feature has no angle: its cosine counts as 0, and its target logit is 0 regardless.
        feature_norms = torch.linalg.vector_norm(features, dim=1).clamp_min_(_SMALLEST_NORM)
        row_norms = torch.linalg.vector_norm(rows, dim=1).clamp_min_(_SMALLEST_NORM)
        scale = feature_norms * row_norms
        cos = (torch.linalg.vecdot(features, rows) / scale).clamp_(-1, 1)
        value, slope = bend(cos)
        radial = value - cos * slope
        return Target(
            scale * value,
            slope,
            radial * row_norms / feature_norms,
            radial * feature_norms / row_norms,
        )


def margin_losses(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    bend: Bend,
    *,
    offset: Tensor | None = None,
    class_chunk: int | None = None,
) -> Tensor:
    """Return the loss (N,) of features (N, D) under class weights (C, D) with bent target logits.

    `offset` (C,) is added to all logits, the bent ones included. `class_chunk` classes at a time are
    held as logits, None for all (see `chunked`). Half precision is computed in float32, and the
    losses are float32. Can be differentiated once.
    """
    with without_autocast(features):
        features = full_precision(features)
        rows = full_precision(weight.detach().index_select(0, labels))
        target = bent_target(features.detach(), rows, bend)
        if offset is not None:
            target = target._replace(logit=target.logit + offset.index_select(0, labels))
        if class_chunk is None:
            # A chunk is brought to full precision by itself: of all weights it would be a copy.
            weight = full_precision(weight)
        losses: Tensor = _MarginCrossEntropy.apply(
            features, weight, labels, rows, offset, class_chunk, *target
        )
        return losses


class _MarginCrossEntropy(torch.autograd.Function):
    """softplus(r - t) and its gradient; rows are the targets' class weights, without a graph."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, labels: Tensor, rows: Tensor, offset: Tensor | None,
        class_chunk: int | None, *target: Tensor,
    ) -> Tensor:  # fmt: skip
        """Return the losses (N,)."""
        logit, slope, *pulls = target
        shares = None
        if class_chunk is None:
            rest, shares = rest_and_shares(features, weight, labels, offset)
            # The target's share of both products, put in here where it costs no product of its own.
            shares.scatter_(1, labels[:, None], -slope[:, None])
        else:
            rest = chunked.rest(features, weight, labels, offset, class_chunk)
        gap = rest - logit
        ctx.class_chunk = class_chunk
        ctx.save_for_backward(features, weight, labels, rows, gap, *pulls, *([rest, slope, offset] if shares is None else [shares]))  # fmt: skip
        return functional.softplus(gap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features and weight."""
        refuse_second_derivative()
        features, weight, labels, rows, gap, pull_features, pull_weight, *more = ctx.saved_tensors
        excess = gap.sigmoid().mul_(grad)
        with without_autocast(grad):
            scaled = features * excess[:, None]
            pulls = rows * (excess * pull_weight)[:, None]
            if ctx.class_chunk is None:
                grad_features, grad_weight = more[0] @ weight, more[0].T @ scaled
                grad_weight.index_add_(0, labels, pulls, alpha=-1)
            else:
                rest, slope, offset = more
                grad_features, grad_weight = chunked.products(features, weight, labels, scaled, pulls, rest, slope, offset, ctx.class_chunk)  # fmt: skip
            grad_features.mul_(excess[:, None]).addcmul_(scaled, pull_features[:, None], value=-1)
        return grad_features, grad_weight, *[None] * 8


def refuse_second_derivative() -> None:
    """Raise LmsmError in a backward pass with create_graph=True: a silent zero would follow."""
    if torch.is_grad_enabled():
        raise LmsmError("a margin loss can be differentiated only once")


def rest_and_shares(features: Tensor, weight: Tensor, labels: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the log-sum-exp (N,) of the other classes' logits, and their softmax (N, C)."""
    logits = functional.linear(features, weight, offset)
    logits.scatter_(1, labels[:, None], float("-inf"))
    shares = logits.softmax(dim=1)
    # The largest share is exp(top - rest): cheaper than a pass of logsumexp over all logits.
    return logits.amax(dim=1) - shares.amax(dim=1).log(), shares


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Return the context in which a loss computes: autocast would round its products to bfloat16."""
    if torch.is_autocast_enabled(tensor.device.type):
        return torch.autocast(tensor.device.type, enabled=False)
    return nullcontext()


def full_precision(values: Tensor) -> Tensor:
    """Return the values in at least float32, in which every loss computes."""
    return values.to(_HALF.get(values.dtype, values.dtype))


def check_features(features: Tensor, weight: Tensor) -> None:
    """Raise ArgumentError where features are not (N, D), in half precision or the weight's type."""
    if features.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ArgumentError(f"features have shape {tuple(features.shape)}: expected (N, {weight.shape[1]}), as wide as the class weights")  # fmt: skip
    wanted = _HALF.get(weight.dtype, weight.dtype)
    if _HALF.get(features.dtype, features.dtype) != wanted:
        raise ArgumentError(f"features are {features.dtype}: expected {wanted} as the class weights, or half precision")  # fmt: skip


def check_batch(features: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise ArgumentError where features are not (N, D) with N > 0, labels not (N,) in 0..C-1.

    The labels' range is looked at on the CPU; an accelerator reports it by its own assertion, since
    looking would make every step wait.
    """
    if weight.ndim != 2 or len(weight) < 2:
        raise ArgumentError(f"class weights have shape {tuple(weight.shape)}: expected (C, D), two classes at least")  # fmt: skip
    check_images(features, weight, labels)
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = (int(extreme) for extreme in labels.aminmax())
        if low < 0 or high >= len(weight):
            raise ArgumentError(f"labels run from {low} to {high}: expected 0 to {len(weight) - 1}, there are {len(weight)} classes")  # fmt: skip


def check_images(features: Tensor, weight: Tensor, labels: Tensor) -> None:
    """Raise ArgumentError for features that `check_features` refuses or N = 0, or labels not int64 (N,)."""
    check_features(features, weight)
    if not features.shape[0]:
        raise ArgumentError(f"the batch is empty: features have shape {tuple(features.shape)}")
    if labels.shape != features.shape[:1]:
        raise ArgumentError(f"labels have shape {tuple(labels.shape)}: expected ({features.shape[0]},), one per image")  # fmt: skip
    if labels.dtype != torch.int64:
        raise ArgumentError(f"labels are {labels.dtype}: expected torch.int64 class numbers")
