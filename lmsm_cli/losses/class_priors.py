"""The losses with margins or logit offsets from the class counts."""

import math
from collections.abc import Mapping
from typing import final

from torch import Tensor

from lmsm_cli.losses.checks import checked_counts, in_range, with_class_margins
from lmsm_cli.losses.cross_entropy import plain_losses
from lmsm_cli.losses.head import STEEPEST, LinearHead, NormalisedHead, log_prior, rarity
from lmsm_cli.losses.margins import DBMMargin, FixedMargin


@final
class LogitAdjustedLoss(LinearHead):
    """Logit-adjusted softmax: cross-entropy of z + tau ln pi (Menon et al. 2021).

    In training a rare class must win by more, so that plain z suits a balanced test. `tau` >= 0.
    """

    needs_counts = True

    prior: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        bias: bool = False,
        tau: float = 1.0,
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        self.tau = self.prior_strength = in_range("tau", tau, 0)
        self.register_constant("prior", log_prior(class_counts, num_classes, "logit-adjusted"))

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return plain_losses(self._raised(features), labels)

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        return -self._raised(features).log_softmax(dim=1)

    def _raised(self, features: Tensor) -> Tensor:
        """Return the scores (N, C) that the loss is the cross-entropy of."""
        return self._scores(features, self.tau * self.prior)


@final
class BalancedSoftmaxLoss(LinearHead):
    """Balanced softmax: cross-entropy of z + ln n (Ren et al. 2020): logit adjustment of tau 1."""

    needs_counts = True

    log_counts: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        bias: bool = False,
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        counts = checked_counts(class_counts, num_classes, "balanced-softmax")
        self.prior_strength = 1.0
        self.register_constant("log_counts", counts.log())

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return plain_losses(self._raised(features), labels)

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        return -self._raised(features).log_softmax(dim=1)

    def _raised(self, features: Tensor) -> Tensor:
        """Return the scores (N, C) that the loss is the cross-entropy of."""
        return self._scores(features, self.log_counts)


@final
class VSLoss(LinearHead):
    """Vector scaling: cross-entropy of z (n_c / n_max)^gamma + tau ln pi (Kini et al. 2021).

    `gamma` >= 0 and `tau` >= 0; 0.3 and 1 in the authors' code. gamma 0 is logit adjustment, tau 0
    is CDT (Ye et al. 2020).
    """

    needs_counts = True

    factors: Tensor
    prior: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        bias: bool = False,
        gamma: float = 0.3,
        tau: float = 1.0,
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        self.gamma = in_range("gamma", gamma, 0)
        self.tau = self.prior_strength = in_range("tau", tau, 0)
        counts = checked_counts(class_counts, num_classes, "vs")
        self.register_constant("factors", (counts / counts.max()) ** gamma)
        self.register_constant("prior", log_prior(counts, num_classes, "vs"))

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return plain_losses(self._raised(features), labels)

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        return -self._raised(features).log_softmax(dim=1)

    def _raised(self, features: Tensor) -> Tensor:
        """Return the scores (N, C) that the loss is the cross-entropy of."""
        return self._scores(features) * self.factors + self.tau * self.prior


@final
class LDAMLoss(NormalisedHead):
    """LDAM: s (cos - margin_c) for the target, margin_c = max_margin (n_min / n_c)^(1/4).

    Label-distribution-aware margins (Cao et al. 2019): features and class weights are normalised,
    the rarest class has `max_margin`, 0.5 as published; `scale` is s, 30 as published.
    """

    needs_counts = True

    margins: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        class_margins: Mapping[int, float] | None = None,
        max_margin: float = 0.5,
        scale: float = 30.0,
    ) -> None:
        super().__init__(num_features, num_classes, scale)
        self.max_margin = in_range("max_margin", max_margin, 0, 2)
        counts = checked_counts(class_counts, num_classes, "ldam")
        usual = max_margin * rarity(counts)
        margins = with_class_margins(usual, class_margins, num_classes, 0, 2)
        self.register_constant("margins", usual if margins is None else margins)

    def margin_function(self, labels: Tensor, progress: float | Tensor) -> FixedMargin:
        """Return the margin of each image's class."""
        return FixedMargin("cosface", self.margins, labels)


@final
class DBMLoss(NormalisedHead):
    """DBM: s cos(theta + margin_c) for the target, and the log prior on all scores.

    Difficulty-aware balancing margins (Son et al. 2025, arXiv 2412.15477): features and class
    weights are normalised, margin_c = max_margin (n_min / n_c)^margin_power in radians, and where
    the cosines name another class it grows by margin_c (1 - cos) / 2. `tau` ln pi is added to all
    scores from the first step. As published: `max_margin` 0.1, `margin_power` 1, `tau` 1, `scale`
    32 for s. Above theta = pi - margin the target goes on to fall (see `dbm_margin`).
    """

    needs_counts = True

    margins: Tensor

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        class_counts: Tensor | None = None,
        class_margins: Mapping[int, float] | None = None,
        max_margin: float = 0.1,
        margin_power: float = 1.0,
        tau: float = 1.0,
        scale: float = 32.0,
    ) -> None:
        super().__init__(num_features, num_classes, scale)
        self.max_margin = in_range("max_margin", max_margin, 0, math.pi / 2)
        self.margin_power = in_range("margin_power", margin_power, 0, STEEPEST)
        self.tau = self.prior_strength = in_range("tau", tau, 0)
        counts = checked_counts(class_counts, num_classes, "dbm")
        usual = max_margin * rarity(counts, margin_power)
        margins = with_class_margins(usual, class_margins, num_classes, 0, math.pi / 2)
        self.register_constant("margins", usual if margins is None else margins)
        self.register_constant("prior", tau * log_prior(counts, num_classes, "dbm"))

    def margin_function(self, labels: Tensor, progress: float | Tensor) -> DBMMargin:
        """Return the margin of each image's class, and the larger one of an image that is wrong."""
        return DBMMargin(self.margins, labels)
