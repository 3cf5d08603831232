"""Head: the contract that every loss keeps.

A head is the last layer together with its loss. It owns the class weights and knows nothing about
the backbone. A loss is a final subclass of `LinearHead` (scores w.x), `NormalisedHead` (cosines) or
`AnnealedHead` (an L-Softmax margin that arrives as lambda falls). CONTRIBUTING.md says how to add
one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.all_labels import margin_losses_of_all_labels
from lmsm_cli.losses.annealing import scalar_progress
from lmsm_cli.losses.checks import (
    check_batch,
    check_features,
    checked_chunk,
    checked_counts,
    in_range,
)
from lmsm_cli.losses.cross_entropy import margin_losses, margin_losses_and_logits, plain_losses
from lmsm_cli.losses.margins import Margin, no_margin
from lmsm_cli.losses.options import options_of
from lmsm_cli.losses.precision import full_precision, without_autocast
from lmsm_cli.losses.weights import Init, draw_again, drawn, new_weight, unit

# The margins of a steeper power of rarity hardly differ from a margin for the rarest class alone.
STEEPEST = 10


class Head(nn.Module, ABC):
    """The classifier layer and its loss; `weight` is (num_classes, num_features), float32.

    In training mode `losses` and `forward` are the loss of the head's name. After `eval()` they are
    the cross-entropy of `logits`, without a margin, a prior or a smoothed label, so that heads can
    be compared. Losses are float32, for half-precision features and under autocast too, and float64
    for float64 features after `head.double()`. Labels, features and options that a head cannot take
    raise ArgumentError, a ValueError.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    class_chunk: int | None = None
    """How many classes' logits a loss holds at a time, None for all."""
    prior_strength: float = 0.0
    """The tau with which the loss itself adds tau ln pi to the logits."""
    normalises: ClassVar[tuple[str, ...]] = ()
    """What is always brought to a fixed length before the logits: "features", "weights"."""
    feature_norm: float | None = None
    """The length that features are brought to, None for those that keep theirs."""
    needs_counts: ClassVar[bool] = False
    """Whether it cannot be made without `class_counts`, whatever its options."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = new_weight(num_classes, num_features)
        self.register_parameter("bias", None)
        self._exact: dict[str, Tensor] = {}

    def reset_weight(self, init: Init) -> None:
        """Draw the class weights again: `default` as nn.Linear, `kaiming` and `unit` as LDAM-DRW.

        `kaiming` is the start of LDAM-DRW's linear layer, N(0, 2 / num_features), hence rows of
        norm about 1.4; `unit` that of its normalised one, rows of norm 1. A bias keeps its start.
        """
        draw_again(self.weight, init)

    def register_constant(self, name: str, values: Tensor | None) -> None:
        """Keep constants (C,) of float64 as a buffer, in the precision of the loss.

        The buffer follows the class weights to another device and to float64, and is not saved.
        """
        if values is None:
            self.register_buffer(name, None, persistent=False)
            return
        self._exact[name] = values
        self.register_buffer(name, values.to(full_precision(self.weight)), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Head":
        """Convert as nn.Module does, but round constants from their float64 values."""
        before = {name: getattr(self, name) for name in self._exact}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, exact in self._exact.items():
            converted, known = getattr(self, name), before[name]
            # A user may have replaced a constant: it is then converted as any buffer.
            if converted is not known and (known.is_meta or torch.equal(known, exact.to(known))):
                dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
                setattr(self, name, exact.to(converted.device, dtype))
        return self

    def logits(self, features: Tensor) -> Tensor:
        """Return plain class scores (N, C) of features (N, D): no labels, hence no margin."""
        try:
            check_features(features, self.weight)
        except ArgumentError as error:
            raise ArgumentError(f"{self._class_name()}: {error}") from None
        with without_autocast(features):
            return self._scores(self._scale(full_precision(features)))

    def losses(
        self, features: Tensor, labels: Tensor, progress: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss of each image, (N,).

        Args:
            features, labels: (N, D) and (N,), labels from 0 to C - 1.
            progress: from 0 at the start of the training to 1 at its end. A head whose margin is
                annealed needs it in training mode (see `AnnealedHead`).
        """
        try:
            check_batch(features, self.weight, labels)
            done = self._progress(progress)
            if self.training:
                with without_autocast(features):
                    scaled = self._scale(full_precision(features))
                    return _of_shape(self._losses(scaled, labels, done), labels.shape)
            return self._plain_losses(features, labels)
        except ArgumentError as error:
            raise ArgumentError(f"{self._class_name()}: {error}") from None

    def losses_and_logits(
        self, features: Tensor, labels: Tensor, progress: float | Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the `losses` of training mode, and `logits` (N, C) without a graph.

        Heads that have the logits for their losses work them out once.

        Args:
            features, labels, progress: as for `losses`.
        """
        try:
            check_batch(features, self.weight, labels)
            done = self._progress(progress)
            with without_autocast(features):
                scaled = self._scale(full_precision(features))
                losses, logits = self._losses_and_logits(scaled, labels, done)
                losses = _of_shape(losses, labels.shape)
        except ArgumentError as error:
            raise ArgumentError(f"{self._class_name()}: {error}") from None
        if logits is None or type(self).logits is not Head.logits:  # as a user's own may have them
            with torch.no_grad():
                logits = self.logits(features)
        return losses, logits.detach()

    def losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        """Return the loss of each image under each label in turn, (N, C); `losses` has one of them.

        Raises ArgumentError with `class_chunk`: they need the scores of all classes at once.
        """
        try:
            check_features(features, self.weight)
            if self.class_chunk is not None:
                raise ArgumentError(
                    f"class_chunk is {self.class_chunk}: a smoothed label needs the scores of all "
                    "classes at once; leave class_chunk out"
                )
            done = scalar_progress(progress)
            if not self.training:
                return -self.logits(features).log_softmax(dim=1)
            with without_autocast(features):
                scaled = self._scale(full_precision(features))
                losses = self._losses_of_all_labels(scaled, done)
                return _of_shape(losses, (len(features), len(self.weight)))
        except ArgumentError as error:
            raise ArgumentError(f"{self._class_name()}: {error}") from None

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        """Return (N, C), for checked and scaled features; a head that has a quicker way has it."""
        labels = torch.arange(len(self.weight), device=features.device)
        return torch.stack(
            [self._losses(features, label.expand(len(features)), progress) for label in labels],
            dim=1,
        )

    def forward(
        self, features: Tensor, labels: Tensor, progress: float | Tensor | None = None
    ) -> Tensor:
        """Return the mean of `losses`."""
        return self.losses(features, labels, progress).mean()

    def _plain_losses(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (N,) of `logits`, in chunks of classes if the loss is."""
        with without_autocast(features):
            if self.class_chunk is None:
                return plain_losses(self.logits(features), labels)
            scaled, weights = self._scale(full_precision(features)), self.class_weights()
            return margin_losses(scaled, weights, labels, no_margin, class_chunk=self.class_chunk)

    def _progress(self, progress: float | Tensor | None) -> float | Tensor:
        """Return the checked progress of a call; without one, the end of the training."""
        return 1.0 if progress is None else scalar_progress(progress)

    def _scores(self, features: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return w.x + b (N, C), plus an offset (C,), of scaled features (N, D)."""
        bias = None if self.bias is None else full_precision(self.bias)
        if offset is not None:
            bias = offset if bias is None else bias + offset
        return functional.linear(features, self.class_weights(), bias)

    def _losses_and_logits(
        self, features: Tensor, labels: Tensor, progress: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return `_losses`, and the plain logits (N, C) of a head that works them out for these."""
        return self._losses(features, labels, progress), None

    @abstractmethod
    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        """Return the loss of each image, (N,), for checked and scaled features."""

    def class_weights(self) -> Tensor:
        """Return the class weights in force, (C, D), in full precision."""
        weight = full_precision(self.weight)
        return unit(weight) if "weights" in self.normalises else weight

    def _scale(self, features: Tensor) -> Tensor:
        """Return the features as the class weights meet them."""
        return features if self.feature_norm is None else self.feature_norm * unit(features)

    def score_scale(self, features: Tensor) -> Tensor:
        """Return what the cosines of features (N, D) are multiplied by on average, (), float64.

        It is the mean length of the features, as the class weights meet them, times the mean length
        of the class weights in force: `scale`, to rounding, for a head on cosines. A bias is no
        part of it. Where all of the features or of the class weights are zero it is 0.
        """
        try:
            check_features(features, self.weight)
        except ArgumentError as error:
            raise ArgumentError(f"{self._class_name()}: {error}") from None
        with without_autocast(features):
            met, weights = self._scale(full_precision(features)), self.class_weights()
            # float64, in which no square of a float32 overflows or vanishes
            of_features = torch.linalg.vector_norm(met.double(), dim=1).mean()
            scale: Tensor = of_features * torch.linalg.vector_norm(weights.double(), dim=1).mean()
        return scale

    def resolved_options(self) -> dict[str, object]:
        """Return the options whose defaults depend on the data, as they are in force."""
        return {}

    def lambda_at(self, progress: float) -> float | None:
        """Return the annealing lambda, None for a loss that has none."""
        return None

    def effective_margin_at(self, progress: float) -> float | None:
        """Return the margin that is in force, None for a loss that has none."""
        return None

    def extra_repr(self) -> str:
        """Return the sizes, and the options that are in force, for `print(head)`."""
        num_classes, num_features = self.weight.shape
        shown = {"num_features": num_features, "num_classes": num_classes}
        # of a user's own head some may not be kept
        options = {name: getattr(self, name, None) for name in options_of(type(self))}
        idle = self._idle_options()
        shown |= {
            name: value
            for name, value in options.items()
            if value is not None and not (name in idle and idle[name] in (value, None))
        }
        shown |= {"bias": True} if self.bias is not None else {}
        steps = getattr(self, "total_steps", None)
        shown |= {"total_steps": steps} if steps is not None else {}
        return ", ".join(f"{name}={_brief(value)}" for name, value in shown.items())

    def _idle_options(self) -> Mapping[str, object]:
        """Return the values at which options change nothing, None for any value of one."""
        return {}

    def _class_name(self) -> str:
        """Return the name of the class that errors are about."""
        return type(self).__name__


def _of_shape(losses: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return losses; raise ArgumentError for another shape, which would be spread over a batch."""
    if not isinstance(losses, Tensor):
        raise ArgumentError(
            f"losses of type {type(losses).__name__}, expected a tensor {tuple(shape)}, one loss "
            "for each image"
        )
    if losses.shape != shape:
        averaged = "; do not average them: losses of torch do not with reduction='none'"
        raise ArgumentError(
            f"losses of shape {tuple(losses.shape)}, expected {tuple(shape)}, one for each image"
            f"{'' if losses.ndim else averaged}"
        )
    return losses


class LinearHead(Head, ABC):
    """A head on the scores w.x of a linear layer, or w.x + b with `bias`.

    The code of LDAM-DRW (for cross-entropy and focal loss) and of VS-Loss has a bias, which can
    learn the classes' shares of the training images; here it is there on request.
    """

    def __init__(self, num_features: int, num_classes: int, bias: bool = False) -> None:
        super().__init__(num_features, num_classes)
        if not isinstance(bias, bool):
            raise ArgumentError(f"bias is {bias!r}: give True or False")
        if bias:
            self.bias = nn.Parameter(drawn(num_features, num_classes))


class PlainHead(LinearHead, ABC):
    """A linear head whose loss is one of the plain scores."""

    @abstractmethod
    def _losses_of_scores(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each image, (N,), of scores (N, C)."""

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return self._losses_of_scores(self._scores(features), labels)

    def _losses_and_logits(
        self, features: Tensor, labels: Tensor, progress: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        scores = self._scores(features)
        return self._losses_of_scores(scores, labels), scores


class MarginHead(Head, ABC):
    """A head with a margin on the target logits, on the angle between feature and class weight."""

    prior: Tensor | None
    """Added to all logits, (C,)."""
    detached_norms: bool = False
    """Whether the margin leaves the lengths of class weights alone."""

    def __init__(self, num_features: int, num_classes: int, class_chunk: int | None = None) -> None:
        super().__init__(num_features, num_classes)
        self.class_chunk = checked_chunk(class_chunk)
        self.register_constant("prior", None)

    @abstractmethod
    def margin_function(self, labels: Tensor, progress: float | Tensor) -> Margin:
        """Return what becomes of the cosines (N,) of the targets at a point of the training."""

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        return margin_losses(
            features,
            self.class_weights(),
            labels,
            self.margin_function(labels, progress),
            offset=self.prior,
            class_chunk=self.class_chunk,
            detached_norms=self.detached_norms,
        )

    def _losses_and_logits(
        self, features: Tensor, labels: Tensor, progress: float | Tensor
    ) -> tuple[Tensor, Tensor | None]:
        # A loss of the user's own may have other losses than a margin's.
        if self.class_chunk is not None or type(self)._losses is not MarginHead._losses:
            return super()._losses_and_logits(features, labels, progress)
        return margin_losses_and_logits(
            features,
            self.class_weights(),
            labels,
            self.margin_function(labels, progress),
            offset=self.prior,
            detached_norms=self.detached_norms,
        )

    def _losses_of_all_labels(self, features: Tensor, progress: float | Tensor) -> Tensor:
        labels = torch.arange(len(self.weight), device=features.device).repeat(len(features))
        return margin_losses_of_all_labels(
            features,
            self.class_weights(),
            self.margin_function(labels, progress),
            offset=self.prior,
            detached_norms=self.detached_norms,
        )


class NormalisedHead(MarginHead, ABC):
    """A head on cosines: class weights at length 1, features at length `scale`."""

    normalises = ("features", "weights")

    def __init__(
        self, num_features: int, num_classes: int, scale: float, class_chunk: int | None = None
    ) -> None:
        super().__init__(num_features, num_classes, class_chunk)
        self.scale = self.feature_norm = in_range("scale", scale, 1e-3)


def _brief(value: object) -> object:
    if isinstance(value, Tensor) and value.ndim:
        return f"{value.min():.3g}..{value.max():.3g}"
    return value


def log_prior(class_counts: Tensor | None, num_classes: int, loss: str) -> Tensor:
    """Return ln pi (C,) in float64, the log of each class's share of the training images."""
    counts = checked_counts(class_counts, num_classes, loss)
    return (counts / counts.sum()).log()


def is_long_tail(most: float, fewest: float) -> bool:
    """Return whether classes of so many images are a long tail; MNIST's, 1.24 apart, are not."""
    return most > 2 * fewest


def rarity(class_counts: Tensor, power: float = 0.25) -> Tensor:
    """Return n_c^-power (C,), scaled so that the rarest class has 1.

    The power is 1/4 in LDAM (Cao et al. 2019) and 1 in DBM (Son et al. 2025).
    """
    return (class_counts.min() / class_counts) ** power
