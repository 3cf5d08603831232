"""The losses without a margin on the target logit: softmax and losses that are built on it."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from lmsm_cli.losses.checks import in_range
from lmsm_cli.losses.cross_entropy import plain_losses
from lmsm_cli.losses.head import PlainHead


@final
class SoftmaxLoss(PlainHead):
    """Softmax cross-entropy on a linear layer: the baseline of every comparison.

    The layer has no bias, as every margin loss, unless `bias`: a bias can learn the classes' shares
    of the training images. `label_smoothing` in [0, 1] mixes the label with the uniform
    distribution (Szegedy et al. 2016).
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        bias: bool = False,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        self.label_smoothing = in_range("label_smoothing", label_smoothing, 0, 1)

    def _idle_options(self) -> Mapping[str, object]:
        return {"label_smoothing": 0.0}

    def _losses_of_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        return plain_losses(scores, labels, self.label_smoothing)

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        losses = -self._scores(features).log_softmax(dim=1)
        return torch.lerp(losses, losses.mean(dim=1, keepdim=True), self.label_smoothing)


@final
class FocalLoss(PlainHead):
    """Focal loss: (1 - p_y)^gamma times cross-entropy, which lowers the loss of easy images.

    `gamma` >= 0, 2 in Lin et al. 2017 (RetinaNet), 1 in LDAM-DRW's code; 0 is softmax. Class
    weights (--reweight) multiply the loss, as Lin's alpha does. LDAM-DRW's code computes the p of
    (1 - p) from the weighted loss, p_y to the power of the weight: its losses differ by up to 12
    times.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        bias: bool = False,
        gamma: float = 2.0,
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        self.gamma = in_range("gamma", gamma, 0)

    def _losses_of_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        return self._focused(plain_losses(scores, labels))

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        return self._focused(-self._scores(features).log_softmax(dim=1))

    def _focused(self, losses: Tensor) -> Tensor:
        """Return (1 - p)^gamma times cross-entropies, which are -log p."""
        # 1 - p by expm1 keeps its digits as p -> 1; at 0 a power below 1 would have a slope of inf.
        missing = (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny)
        return missing**self.gamma * losses


@final
class LargeMarginInSoftmaxLoss(PlainHead):
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
        bias: bool = False,
        strength: float = 0.3,
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        self.strength = in_range("strength", strength, 0)

    def _losses_of_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        target = torch.arange(scores.shape[1], device=labels.device) == labels[:, None]
        others = scores.masked_fill(target, float("-inf")).log_softmax(dim=1)
        excess = others.exp() - 1 / (scores.shape[1] - 1)
        # Replace the target's -inf last, since -inf times 0 is NaN.
        spread = (excess * others.masked_fill(target, 0.0)).sum(dim=1)
        losses = plain_losses(scores, labels)
        return losses + self.strength / 2 * spread
