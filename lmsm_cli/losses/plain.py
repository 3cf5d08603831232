"""The losses without a margin on the target logit: softmax cross-entropy and what is built on it."""

from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.losses.head import Head, in_range


@final
class SoftmaxLoss(Head):
    """Softmax cross-entropy on a bias-free linear layer: the baseline of every comparison.

    `label_smoothing` in [0, 1] mixes the label with the uniform distribution (Szegedy et al. 2016).
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_features, num_classes)
        self.label_smoothing = in_range("label_smoothing", label_smoothing, 0, 1)

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        logits = functional.linear(features, self.class_weights())
        return functional.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)  # fmt: skip


@final
class FocalLoss(Head):
    """Focal loss: (1 - p_y)^gamma times cross-entropy, which pays less for what is known already.

    `gamma` >= 0, 2 in Lin et al. 2017 (RetinaNet), 1 in LDAM-DRW's code; 0 is softmax.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        gamma: float = 2.0,
    ) -> None:
        super().__init__(num_features, num_classes)
        self.gamma = in_range("gamma", gamma, 0)

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        logits = functional.linear(features, self.class_weights())
        losses = functional.cross_entropy(logits, labels, reduction="none")
        # 1 - p by expm1 keeps its digits as p -> 1; at 0 a power below 1 would have a slope of inf.
        missing = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
        return missing**self.gamma * losses


@final
class LargeMarginInSoftmaxLoss(Head):
    """Kobayashi's regulariser: cross-entropy that also evens out the scores of the other classes.

    CE + strength / 2 sum_{j != y} (q_j - 1/(C-1)) log q_j, with q the softmax over the classes but
    y. `strength` >= 0, 0.3 in Kobayashi 2019, "Large Margin In Softmax Cross-Entropy Loss".
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        strength: float = 0.3,
    ) -> None:
        super().__init__(num_features, num_classes)
        self.strength = in_range("strength", strength, 0)

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        logits = functional.linear(features, self.class_weights())
        target = torch.arange(logits.shape[1], device=labels.device) == labels[:, None]
        others = logits.masked_fill(target, float("-inf")).log_softmax(dim=1)
        excess = others.exp() - 1 / (logits.shape[1] - 1)
        # Only then is 0 put for the target's -inf: times 0 it would be no number.
        spread = (excess * others.masked_fill(target, 0.0)).sum(dim=1)
        losses = functional.cross_entropy(logits, labels, reduction="none")
        return losses + self.strength / 2 * spread
