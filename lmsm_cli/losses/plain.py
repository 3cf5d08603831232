"""The heads without a margin: softmax cross-entropy."""

from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.losses.head import Head, full_precision, new_weight


@final
class SoftmaxLoss(Head):
    """Softmax cross-entropy on a bias-free linear layer: the baseline of every comparison."""

    def __init__(
        self, num_features: int, num_classes: int, *, class_counts: Tensor | None = None
    ) -> None:
        super().__init__()
        self.weight = new_weight(num_classes, num_features)

    def logits(self, features: Tensor) -> Tensor:
        """Return features (N, D) times the class weights, (N, C)."""
        with torch.autocast(features.device.type, enabled=False):
            return functional.linear(full_precision(features), self.weight)

    def losses(self, features: Tensor, labels: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """Return the cross-entropy of each image, (N,)."""
        return functional.cross_entropy(self.logits(features), labels, reduction="none")
