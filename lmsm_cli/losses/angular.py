"""The margins on normalised class weights and features, as in face recognition."""

import math
from typing import final

from torch import Tensor

from lmsm_cli.losses.cross_entropy import margin_losses
from lmsm_cli.losses.head import NormalisedHead
from lmsm_cli.losses.margins import arcface_margin, cosface_margin
from lmsm_cli.losses.options import checked_chunk, in_range


@final
class CosFaceLoss(NormalisedHead):
    """CosFace: s (cos - margin) for the target, everything normalised (Wang et al. 2018).

    `margin` in [0, 2], 0.35 as published; `scale` is s: 30 for few classes, 64 for many.
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

    `margin` in radians within [0, pi/2], 0.5 as published; above theta = pi - margin the target is
    cos - margin sin(margin), as in the authors' code. `scale` is s, as for `cosface`.
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
