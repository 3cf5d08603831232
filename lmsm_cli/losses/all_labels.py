"""The losses of images under every label in turn, with a margin on each label's logit.

A smoothed label needs them all. As in `cross_entropy`, the loss under label c is
softplus(r_c - t_c), with r_c the log-sum-exp of the other logits and t_c the logit with the margin;
here both are (N, C), and autograd takes the gradient of all but the margin.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.losses.margins import ByDifficulty, Margin

# As in cross_entropy: below this norm a vector counts as having no angle.
_SMALLEST_NORM = 1e-12


def margin_losses_of_all_labels(
    features: Tensor,
    weight: Tensor,
    margin: Margin,
    *,
    offset: Tensor | None = None,
    detached_norms: bool = False,
) -> Tensor:
    """Return the losses (N, C), those of `margin_losses` under each label in turn.

    Args:
        features, weight: (N, D) and (C, D), checked and in full precision.
        margin: what the cosines (N * C,) become, image by image, each with the margin of its class.
        offset, detached_norms: as in `margin_losses`.
    """
    product = functional.linear(features, weight)
    norms = [
        torch.linalg.vector_norm(vectors, dim=1).clamp_min(_SMALLEST_NORM)
        for vectors in (features, weight)
    ]
    scale = torch.outer(*norms)
    with torch.no_grad():
        cos = (product / scale).clamp_(-1, 1)
        if isinstance(margin, ByDifficulty):
            first, next_one = product.topk(2, dim=1).values.split_with_sizes([1, 1], dim=1)
            is_right = (product == first) & (next_one < first)
            margin = margin.where(~is_right.flatten())
        value, slope = (values.view_as(cos) for values in margin(cos.flatten()))
        radial = torch.addcmul(value, cos, slope, value=-1)
    # The differential of |w||x| g(cos) is that of these two, whose sum has its value, too.
    along = scale * radial
    if detached_norms:
        turned = scale - norms[0][:, None] * (norms[1] - norms[1].detach())
        along = turned * radial + (scale - turned) * (cos - cos * slope)
    target = slope * product + along
    logits = product
    if offset is not None:
        target, logits = target + offset, logits + offset
    # -logsigmoid is softplus, whose gradient torch rounds to 1 from 20 on.
    return -functional.logsigmoid(target - log_sum_of_others(logits))


def log_sum_of_others(logits: Tensor) -> Tensor:
    """Return the log-sum-exp of all logits of an image but one, for each of them in turn (N, C).

    Subtracting one from the sum would leave no digits where it is nearly all of it, which only the
    largest can be: of that one, the others are summed anew.
    """
    largest = logits.argmax(dim=1, keepdim=True)
    is_largest = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, largest, value=True)
    without = logits.masked_fill(is_largest, float("-inf")).logsumexp(dim=1, keepdim=True)
    total = logits.logsumexp(dim=1, keepdim=True)
    # where() hands NaN back from the branch that is not taken: no zero gets into the logarithm
    share = torch.where(is_largest, 0.0, (logits - total).exp())
    return torch.where(is_largest, without, total + torch.log1p(-share))
