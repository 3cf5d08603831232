"""The margins on normalised class weights, as in face recognition."""

import math
from typing import final

from torch import Tensor

from lmsm_cli.losses.annealing import USUAL_EFFECTIVE_MARGIN, Annealing, Form, lambda_for
from lmsm_cli.losses.cross_entropy import margin_losses
from lmsm_cli.losses.head import (
    AnnealedHead,
    NormalisedHead,
    checked_chunk,
    in_range,
    largest,
    unit,
)
from lmsm_cli.losses.lsoftmax import l_softmax_losses
from lmsm_cli.losses.margins import arcface_margin, check_margin, cosface_margin


@final
class ASoftmaxLoss(AnnealedHead):
    """A-Softmax, SphereFace: L-Softmax on class weights of length 1 (Liu et al. 2017).

    `margin`: a number from 1 to 1000, 4 as published, or a tensor (C,) of one per class; lambda as in
    `lsoftmax`, with lambda_min 2 margin - 3 by default, which for margin 4 is the authors' 5.
    `total_steps`: in the place of a progress at each call, as `AnnealedHead` tells.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        margin: float | Tensor = 4,
        anneal: Form = "power",
        lambda_start: float | None = None,
        lambda_min: float | None = None,
        anneal_end: float | None = None,
        gamma: float | None = None,
        power: float | None = None,
        class_chunk: int | None = None,
        total_steps: int | None = None,
    ) -> None:
        checked = check_margin(margin, num_classes)
        if lambda_min is None and anneal != "none":
            lambda_min = lambda_for(largest(checked), USUAL_EFFECTIVE_MARGIN)
        annealing = Annealing.of(
            anneal, start=lambda_start, minimum=lambda_min, end=anneal_end, gamma=gamma, power=power
        )
        super().__init__(num_features, num_classes, checked, annealing, total_steps)
        self.class_chunk = checked_chunk(class_chunk)

    def class_weights(self) -> Tensor:
        """Return the class weights at length 1, (C, D)."""
        return unit(super().class_weights())

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        lam = self.annealing(progress)
        return l_softmax_losses(
            features, self.class_weights(), labels, self.margin, lam, None, self.class_chunk
        )


@final
class CosFaceLoss(NormalisedHead):
    """CosFace: s (cos - margin) for the target, everything normalised (Wang et al. 2018).

    `margin` in [0, 2], 0.35 as published; `scale` is s: 30 for few classes, 64 for faces.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        margin: float = 0.35,
        scale: float = 30.0,
        class_chunk: int | None = None,
    ) -> None:
        super().__init__(num_features, num_classes, scale)
        self.margin = in_range("margin", margin, 0, 2)
        self.class_chunk = checked_chunk(class_chunk)

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return margin_losses(
            features,
            self.class_weights(),
            labels,
            lambda cos: cosface_margin(cos, self.margin),
            class_chunk=self.class_chunk,
        )


@final
class ArcFaceLoss(NormalisedHead):
    """ArcFace: s cos(theta + margin) for the target, everything normalised (Deng et al. 2019).

    `margin` in radians within [0, pi/2], 0.5 as published; past theta = pi - margin the target is
    cos - margin sin(margin), as in the authors' code. `scale` is s: 30 for few classes, 64 for
    faces.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        margin: float = 0.5,
        scale: float = 30.0,
        class_chunk: int | None = None,
    ) -> None:
        super().__init__(num_features, num_classes, scale)
        self.margin = in_range("margin", margin, 0, math.pi / 2)
        self.class_chunk = checked_chunk(class_chunk)

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return margin_losses(
            features,
            self.class_weights(),
            labels,
            lambda cos: arcface_margin(cos, self.margin),
            class_chunk=self.class_chunk,
        )
