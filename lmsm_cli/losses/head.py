"""Head: the contract that every loss keeps.

A head is the last layer together with its loss. It owns the class weights and knows nothing about
the backbone. To add a loss, write a final subclass in the file of its family and name it in
`HEADS` (losses/__init__.py); its keyword-only arguments are its options on the command line, and
each is kept as an attribute of the same name.
"""

import inspect
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.annealing import LARGEST_OPTION, Annealing, effective_margin
from lmsm_cli.losses.cross_entropy import (
    check_batch,
    check_features,
    full_precision,
    without_autocast,
)


class Head(nn.Module, ABC):
    """The classifier layer and its loss; `weight` is (num_classes, num_features), float32.

    Computes and returns float32, for half-precision features and under autocast too; float64 after
    `head.double()`, for float64 features. Labels, features and options that it cannot take raise
    ArgumentError, a ValueError.
    """

    weight: nn.Parameter

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = new_weight(num_classes, num_features)

    def logits(self, features: Tensor) -> Tensor:
        """Return plain class scores (N, C) of features (N, D): no labels, hence no margin."""
        try:
            check_features(features, self.weight)
        except ArgumentError as error:
            raise ArgumentError(f"{type(self).__name__}: {error}") from None
        with without_autocast(features):
            return functional.linear(self._scaled(full_precision(features)), self.class_weights())

    def losses(self, features: Tensor, labels: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """Return the loss of each image, (N,), for features (N, D) and labels (N,).

        `progress` runs from 0 at the start of the training to 1 at its end.
        """
        try:
            check_batch(features, self.weight, labels)
        except ArgumentError as error:
            raise ArgumentError(f"{type(self).__name__}: {error}") from None
        with without_autocast(features):
            return self._losses(self._scaled(full_precision(features)), labels, progress)

    def forward(self, features: Tensor, labels: Tensor, progress: float | Tensor = 1.0) -> Tensor:
        """Return the mean of `losses`."""
        return self.losses(features, labels, progress).mean()

    @abstractmethod
    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        """Return the loss of each image, (N,), for checked and scaled features."""

    def class_weights(self) -> Tensor:
        """Return the class weights in force, (C, D), in full precision."""
        return full_precision(self.weight)

    def _scaled(self, features: Tensor) -> Tensor:
        """Return the features as the class weights meet them; a normalising head scales them."""
        return features

    def resolved_options(self) -> dict[str, object]:
        """Return the options whose defaults depend on the data, as they are in force."""
        return {}

    def prior_strength(self) -> float:
        """Return the tau with which the loss itself adds tau ln pi to the logits, 0 for none."""
        return 0.0

    def lambda_at(self, progress: float) -> float | None:
        """Return the annealing lambda, None for a loss that has none."""
        return None

    def effective_margin_at(self, progress: float) -> float | None:
        """Return the margin that is in force, None for a loss that has none."""
        return None

    def extra_repr(self) -> str:
        """Return the sizes and options for `print(head)`."""
        num_classes, num_features = self.weight.shape
        shown = {"num_features": num_features, "num_classes": num_classes}
        shown |= {name: getattr(self, name) for name in options_of(type(self))}
        return ", ".join(f"{name}={_brief(value)}" for name, value in shown.items())


class NormalisedHead(Head, ABC):
    """A head on cosines: class weights at length 1, features at length `scale`."""

    def __init__(self, num_features: int, num_classes: int, scale: float) -> None:
        super().__init__(num_features, num_classes)
        self.scale = in_range("scale", scale, 1e-3)

    def class_weights(self) -> Tensor:
        """Return the class weights at length 1, (C, D)."""
        return unit(super().class_weights())

    def _scaled(self, features: Tensor) -> Tensor:
        return self.scale * unit(features)


class AnnealedHead(Head, ABC):
    """A head whose margin, a number or one per class (C,), arrives as lambda falls."""

    margin: int | float | Tensor

    def __init__(self, num_features: int, num_classes: int, margin: int | float | Tensor, annealing: Annealing) -> None:  # fmt: skip
        super().__init__(num_features, num_classes)
        if isinstance(margin, Tensor):
            self.register_buffer("margin", margin, persistent=False)
        else:
            self.margin = margin
        self.annealing = annealing
        self.anneal, self.anneal_end = annealing.form, annealing.end
        self.lambda_start, self.lambda_min = annealing.start, annealing.minimum
        self.gamma, self.power = annealing.gamma, annealing.power

    def lambda_at(self, progress: float) -> float:
        """Return lambda at a point of the training."""
        return float(self.annealing(progress))

    def effective_margin_at(self, progress: float) -> float:
        """Return the margin that is left under lambda; of several, the largest."""
        return effective_margin(largest(self.margin), self.lambda_at(progress))

    def resolved_options(self) -> dict[str, object]:
        """Return lambda_min as it is in force, where lambda is annealed."""
        return {} if self.anneal == "none" else {"lambda_min": self.lambda_min}


def largest(margin: int | float | Tensor) -> float:
    """Return the margin, of several the largest."""
    return float(margin.max()) if isinstance(margin, Tensor) else float(margin)


def options_of(head: type[Head]) -> dict[str, inspect.Parameter]:
    """Return the options of a head: its constructor's own keyword-only parameters, by name."""
    parameters = inspect.signature(head.__init__, eval_str=True).parameters.values()
    return {
        parameter.name: parameter
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "class_counts"
    }


def _brief(value: object) -> object:
    if isinstance(value, Tensor) and value.ndim:
        return f"{value.min():.3g}..{value.max():.3g}"
    return value


def new_weight(num_classes: int, num_features: int) -> nn.Parameter:
    """Return class weights as nn.Linear starts them: uniform within 1 / sqrt(num_features).

    Rows of norm about 0.6 whatever the width. N(0, 1) rows, as some margin losses have them, start
    at losses of hundreds.
    """
    if num_classes < 2 or num_features < 1:
        raise ArgumentError(f"a head of {num_classes} classes and {num_features} features")
    bound = 1 / math.sqrt(num_features)
    return nn.Parameter(torch.empty(num_classes, num_features).uniform_(-bound, bound))


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) at length 1; a zero vector has no direction, stays zero, gets no gradient."""
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    there = norms > 1e-12
    return torch.where(there, vectors / norms.where(there, torch.ones_like(norms)), 0.0)


def checked_counts(class_counts: Tensor | None, num_classes: int, loss: str) -> Tensor:
    """Return the training images per class (C,) as float32. Raises ArgumentError without them."""
    if class_counts is None:
        raise ArgumentError(f"{loss} needs class_counts: the training images of each class, ({num_classes},)")  # fmt: skip
    counts = torch.as_tensor(class_counts)
    if counts.shape != (num_classes,):
        raise ArgumentError(f"{loss}: class_counts has shape {tuple(counts.shape)}: expected ({num_classes},), one per class")  # fmt: skip
    wrong = counts[~((counts >= 1) & counts.isfinite())]
    if len(wrong):
        raise ArgumentError(f"{loss}: class_counts holds {wrong[0].item():g}: expected training images, at least 1 of each class")  # fmt: skip
    return counts.to(torch.float32)


def in_range(name: str, value: float, low: float, high: float = LARGEST_OPTION) -> float:
    """Return the option's value. Raises ArgumentError where it is not within [low, high]."""
    if not low <= value <= high:
        raise ArgumentError(
            f"{name} is {value}: give a finite number of at least {low:g} and at most {high:g}"
        )
    return value


def checked_chunk(class_chunk: int | None) -> int | None:
    """Return the classes of a chunk, None for all. Raises ArgumentError for none or fewer."""
    if class_chunk is not None and class_chunk < 1:
        raise ArgumentError(f"class_chunk is {class_chunk}: give a number of classes, at least 1")
    return class_chunk
