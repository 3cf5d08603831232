"""Losses of images whose label is smoothed, or that have two labels, for every head.

A loss L(y) of an image under a label y is all that is needed of a head: whatever margin, prior or
class weight it has is that of the label.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lmsm_cli.losses.head import Head


class Second(NamedTuple):
    """The second labels of mixed images."""

    labels: Tensor  # (N,)
    share: Tensor  # (), of the first labels; the second have the rest to 1


def soft_losses_and_logits(
    head: Head,
    features: Tensor,
    labels: Tensor,
    progress: float | Tensor,
    *,
    second: Second | None = None,
    label_smoothing: float = 0.0,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the losses (N,) of images under soft labels, and `logits` (N, C) without a graph.

    With a smoothing of e, the loss under a label is S(y) = (1 - e) L(y) + e / C sum_c L(c): in each
    L(c) class c stands as the label, with its own margin. For softmax this is the cross-entropy
    with smoothed labels (Szegedy et al. 2016). The loss of an image is w_y S(y), and with two
    labels of shares p and 1 - p it is p w_y S(y) + (1 - p) w_z S(z).

    Args:
        head: gives L.
        features, labels: (N, D) and (N,).
        progress: of the training, from 0 to 1.
        second: the other labels of mixed images.
        label_smoothing: e, in [0, 1).
        weights: w, one for each class (C,), or None for 1. They are those of the label: smoothing
            does not bring in the weights of other classes.
    """
    uniform = None
    if label_smoothing:
        uniform = head.losses_of_all_labels(features, progress).mean(dim=1)

    def softened(losses: Tensor, labels: Tensor) -> Tensor:
        if uniform is not None:
            losses = torch.lerp(losses, uniform, label_smoothing)
        return losses if weights is None else weights[labels] * losses

    losses, logits = head.losses_and_logits(features, labels, progress)
    losses = softened(losses, labels)
    if second is None:
        return losses, logits
    others = softened(head.losses(features, second.labels, progress), second.labels)
    return second.share * losses + (1 - second.share) * others, logits
