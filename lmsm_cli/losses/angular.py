"""The margins on normalised class weights and features, as in face recognition."""

import math
from collections.abc import Mapping
from typing import final

from torch import Tensor

from lmsm_cli.losses.checks import in_range, with_class_margins
from lmsm_cli.losses.head import NormalisedHead
from lmsm_cli.losses.margins import FixedMargin


@final
class CosFaceLoss(NormalisedHead):
    """CosFace: s (cos - margin) for the target, everything normalised (Wang et al. 2018).

    `margin` in [0, 2], 0.35 as published; `scale` is s: 30 for few classes, 64 for many.
    """

    margins: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        class_margins: Mapping[int, float] | None = None,
        margin: float = 0.35,
        scale: float = 30.0,
        class_chunk: int | None = None,
    ) -> None:
        super().__init__(num_features, num_classes, scale, class_chunk)
        self.margin = in_range("margin", margin, 0, 2)
        margins = with_class_margins(margin, class_margins, num_classes, 0, 2)
        self.register_constant("margins", margins)

    def margin_function(self, labels: Tensor, progress: float | Tensor) -> FixedMargin:
        """Return the margin of all classes, or of each image's."""
        margin = self.margin if self.margins is None else self.margins
        return FixedMargin("cosface", margin, labels)


@final
class ArcFaceLoss(NormalisedHead):
    """ArcFace: s cos(theta + margin) for the target, everything normalised (Deng et al. 2019).

    `margin` in radians within [0, pi/2], 0.5 as published; above theta = pi - margin the target is
    cos - margin sin(margin), as in the authors' code. `scale` is s, as for `cosface`.
    """

    margins: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        class_margins: Mapping[int, float] | None = None,
        margin: float = 0.5,
        scale: float = 30.0,
        class_chunk: int | None = None,
    ) -> None:
        super().__init__(num_features, num_classes, scale, class_chunk)
        self.margin = in_range("margin", margin, 0, math.pi / 2)
        margins = with_class_margins(margin, class_margins, num_classes, 0, math.pi / 2)
        self.register_constant("margins", margins)

    def margin_function(self, labels: Tensor, progress: float | Tensor) -> FixedMargin:
        """Return the margin of all classes, or of each image's."""
        margin = self.margin if self.margins is None else self.margins
        return FixedMargin("arcface", margin, labels)
