"""Head: the contract that every loss keeps.

A head is the last layer together with its loss. It owns the class weights and knows nothing about
the backbone. To add a loss, write a final subclass in the file of its family and name it in
`HEADS` (losses/__init__.py); its keyword-only arguments are its options on the command line.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from lmsm_cli.errors import LmsmError


class Head(nn.Module, ABC):
    """The classifier layer and its loss; `weight` is (num_classes, num_features), float32."""

    weight: nn.Parameter

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """Return plain class scores (N, C) of features (N, D): no labels, hence no margin."""

    @abstractmethod
    def losses(self, features: Tensor, labels: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """Return the loss of each image, (N,), for features (N, D) and labels (N,).

        `progress` runs from 0 at the start of the training to 1 at its end.
        """

    def forward(self, features: Tensor, labels: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """Return the mean of `losses`."""
        return self.losses(features, labels, progress).mean()

    def class_weights(self) -> Tensor:
        """Return the class weights in force, (C, D), where they are not `weight` itself."""
        return self.weight

    def resolved_options(self) -> dict[str, object]:
        """Return the options whose defaults depend on the data, as they are in force."""
        return {}

    def lambda_at(self, progress: float) -> float | None:
        """Return the annealing lambda, None for a loss that has none."""
        return None

    def effective_margin_at(self, progress: float) -> float | None:
        """Return the margin that is in force, None for a loss that has none."""
        return None


def new_weight(num_classes: int, num_features: int) -> nn.Parameter:
    """Return class weights as nn.Linear starts them: uniform within 1 / sqrt(num_features).

    Rows of norm about 0.6 whatever the width. N(0, 1) rows, as some margin losses have them, start
    at losses of hundreds.
    """
    if num_classes < 2 or num_features < 1:
        raise LmsmError(f"a head of {num_classes} classes and {num_features} features")
    bound = 1 / math.sqrt(num_features)
    return nn.Parameter(torch.empty(num_classes, num_features).uniform_(-bound, bound))


def full_precision(features: Tensor) -> Tensor:
    """Return the features in at least float32, in which every head computes."""
    return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features
