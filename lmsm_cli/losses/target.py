"""The target logits of a batch with a margin, and the softmax over the other classes.

Both come without a graph, with what the gradient in closed form needs (see `cross_entropy`).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lmsm_cli.losses.margins import MarginFunction
from lmsm_cli.losses.precision import full_precision

# Below this norm a vector counts as having no angle; 1 / 1e-12 times any usual weight is finite.
SMALLEST_NORM = 1e-12
# Up to this many classes per image, a pass over all class weights costs less than gathering and
# adding the batch's rows, which are not in the cache (benchmarks/LOG.md).
FEW = 16


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
        feature_norms = torch.linalg.vector_norm(features, dim=1).clamp_min_(SMALLEST_NORM)
        if product is None or len(weight) > FEW * len(labels):
            rows = full_precision(weight.index_select(0, labels))
            weight_norms = torch.linalg.vector_norm(rows, dim=1)
            product = torch.linalg.vecdot(features, rows) if product is None else product
        else:
            weight_norms = torch.linalg.vector_norm(weight, dim=1).index_select(0, labels)
        weight_norms.clamp_min_(SMALLEST_NORM)
        scale = feature_norms * weight_norms
        cos = (product / scale).clamp_(-1, 1)
        value, slope = margin(cos)
        radial = torch.addcmul(value, cos, slope, value=-1)
        ratio = weight_norms / feature_norms
        along_weight = cos - cos * slope if detached_norms else radial
        return Target(scale * value, slope, radial * ratio, along_weight / ratio)


def weigh(logits: Tensor, labels: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor]:
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
