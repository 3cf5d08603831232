"""Second stages: heads that learn one or two numbers a class on the class weights of a run.

The class weights and a bias stay as the run left them. Each head turns class c's score z_c into
a_c z_c + b_c.
"""

from abc import ABC, abstractmethod
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmsm_cli.losses.checks import checked_counts
from lmsm_cli.losses.cross_entropy import plain_losses
from lmsm_cli.losses.head import LinearHead
from lmsm_cli.losses.precision import full_precision
from lmsm_cli.losses.weights import isotonic

# A class weight of this length or less has no direction to be scaled.
_SMALLEST_NORM = 1e-12


class SecondStage(LinearHead, ABC):
    """Softmax cross-entropy on scores a_c z_c + b_c, where the class weights of z stay."""

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        self.weight.requires_grad_(False)
        if self.bias is not None:
            self.bias.requires_grad_(False)
        self._start(class_counts)

    @abstractmethod
    def _start(self, class_counts: Tensor | None) -> None:
        """Add what is learned, as it is at first."""

    @abstractmethod
    def map(self) -> tuple[Tensor, Tensor]:
        """Return what the class weights are multiplied by and the bias in force, (C,) each."""

    def class_weights(self) -> Tensor:
        """Return the class weights in force, (C, D)."""
        return self.map()[0][:, None] * super().class_weights()

    def norms(self) -> Tensor:
        """Return the lengths of the class weights that stay, (C,)."""
        norms: Tensor = torch.linalg.vector_norm(self.weight, dim=1)
        return norms.clamp_min(_SMALLEST_NORM)

    def own_bias(self) -> Tensor:
        """Return the bias that stays, (C,); zeros where there is none."""
        return self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias

    def _scores(self, features: Tensor, offset: Tensor | None = None) -> Tensor:
        factor, bias = self.map()
        if offset is not None:
            bias = bias + offset
        weights = full_precision(factor[:, None] * self.weight)
        return functional.linear(features, weights, full_precision(bias))

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return plain_losses(self._scores(features), labels)

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        return -self._scores(features).log_softmax(dim=1)


@final
class WeightScaling(SecondStage):
    """Learnable weight scaling (LWS): class weights f_c W_c, from f = 1, on balanced draws.

    A bias is no part of a class weight. Kang et al. 2020, arXiv 1910.09217.
    """

    def _start(self, class_counts: Tensor | None) -> None:
        self.factor = nn.Parameter(torch.ones(len(self.weight)))

    def map(self) -> tuple[Tensor, Tensor]:
        """Return the learned factors and the bias, (C,) each."""
        return self.factor, self.own_bias()


@final
class MarginCalibration(SecondStage):
    """MARC: scores a_c z_c + b_c |W_c|, from a = 1 and b = 0, on balanced draws.

    Wang et al. 2021, arXiv 2112.07225.
    """

    def _start(self, class_counts: Tensor | None) -> None:
        self.factor = nn.Parameter(torch.ones(len(self.weight)))
        self.margin = nn.Parameter(torch.zeros(len(self.weight)))

    def map(self) -> tuple[Tensor, Tensor]:
        """Return a_c and the bias a_c b + b_c |W_c|, (C,) each."""
        return self.factor, self.factor * self.own_bias() + self.margin * self.norms()


@final
class RisingNormsOnly(SecondStage):
    """SAMN: the directions of the class weights stay, their norms rise with rarity.

    norm_c = exp(1 / softplus(u_c)), where u is the isotonic regression over the class sizes of
    learned numbers, one a class size, which start at (n_c - n_min) / (n_max - n_min). The same form
    with numbers of its own is added to the bias (arXiv 2606.02526).
    """

    needs_counts = True
    place: Tensor

    def _start(self, class_counts: Tensor | None) -> None:
        counts = checked_counts(class_counts, len(self.weight), "samn")
        sizes, place = torch.unique(counts, return_inverse=True)
        self.register_buffer("place", place, persistent=False)
        spread = sizes[-1] - sizes[0]
        start = ((sizes - sizes[0]) / torch.where(spread > 0, spread, 1)).float()
        self.of_norms, self.of_bias = nn.Parameter(start), nn.Parameter(start.clone())

    def map(self) -> tuple[Tensor, Tensor]:
        """Return norm_c / |W_c| and the bias in force, (C,) each."""
        return self._form(self.of_norms) / self.norms(), self.own_bias() + self._form(self.of_bias)

    def _form(self, values: Tensor) -> Tensor:
        """Return the numbers of the classes, (C,), from one learned number a class size."""
        return (1 / functional.softplus(isotonic(values))).exp()[self.place]
