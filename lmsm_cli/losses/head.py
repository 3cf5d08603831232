"""Head: the contract that every loss keeps.

A head is the last layer together with its loss. It owns the class weights and knows nothing about
the backbone. To add a loss, write a final subclass in the file of its family and name it in
`HEADS` (losses/__init__.py); its keyword-only arguments are its options on the command line, and
each is kept as an attribute of the same name.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from numbers import Integral
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.annealing import (
    LARGEST_OPTION,
    Annealing,
    checked_progress,
    effective_margin,
    is_number,
)
from lmsm_cli.losses.cross_entropy import (
    check_batch,
    check_features,
    full_precision,
    margin_losses,
    without_autocast,
)
from lmsm_cli.losses.margins import single_number, unbent

# How class weights start: as nn.Linear's, as LDAM-DRW's linear layer (He et al. 2015), or at length 1
# in a random direction, as LDAM-DRW's normalised layer.
Init = Literal["default", "kaiming", "unit"]

# Keyword-only arguments of a head that are no options of its spec.
_NO_OPTIONS = ("class_counts", "bias", "total_steps")


class Head(nn.Module, ABC):
    """The classifier layer and its loss; `weight` is (num_classes, num_features), float32.

    In training mode `losses` and `forward` are the loss of the head's name; after `eval()` they are the
    cross-entropy of `logits`, without a margin, a prior or a smoothed label, so that they can be
    compared between heads. Computes and returns float32, for half-precision features and under autocast too; float64 after
    `head.double()`, for float64 features. Labels, features and options that it cannot take raise
    ArgumentError, a ValueError.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    class_chunk: int | None = None
    """How many classes' logits a loss holds at a time, None for all."""

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.weight = new_weight(num_classes, num_features)
        self.register_parameter("bias", None)
        self._exact: dict[str, Tensor] = {}

    def start_as(self, init: Init) -> None:
        """Draw the class weights anew: `default` as nn.Linear does, `kaiming` and `unit` as LDAM-DRW.

        `kaiming` is the start of LDAM-DRW's linear layer, N(0, 2 / num_features), hence rows of norm
        about 1.4; `unit` that of its normalised one, rows of norm 1. A bias keeps its start.
        """
        if init not in get_args(Init):
            raise ArgumentError(f"init is {init!r}: give {', '.join(get_args(Init))}")
        num_classes, num_features = self.weight.shape
        with torch.no_grad():
            if init == "default":
                self.weight.copy_(new_weight(num_classes, num_features))
            elif init == "kaiming":
                nn.init.kaiming_normal_(self.weight)
            else:
                self.weight.copy_(unit(self.weight.uniform_(-1, 1)))

    def keep(self, name: str, values: Tensor | None) -> None:
        """Keep constants (C,), given in float64, as a buffer in the precision that the loss computes in.

        It follows the class weights to another device and to float64, and is not saved.
        """
        if values is None:
            self.register_buffer(name, None, persistent=False)
            return
        self._exact[name] = values
        self.register_buffer(name, values.to(full_precision(self.weight)), persistent=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "Head":
        """Convert as nn.Module does, but take constants from their exact values anew."""
        before = {name: getattr(self, name) for name in self._exact}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, exact in self._exact.items():
            converted, known = getattr(self, name), before[name]
            # A user may have put others in their place.
            if converted is not known and (known.is_meta or torch.equal(known, exact.to(known))):
                dtype = torch.float64 if self.weight.dtype == torch.float64 else torch.float32
                setattr(self, name, exact.to(converted.device, dtype))
        return self

    def logits(self, features: Tensor) -> Tensor:
        """Return plain class scores (N, C) of features (N, D): no labels, hence no margin."""
        try:
            check_features(features, self.weight)
        except ArgumentError as error:
            raise ArgumentError(f"{type(self).__name__}: {error}") from None
        with without_autocast(features):
            return self._scores(self._scaled(full_precision(features)))

    def losses(
        self, features: Tensor, labels: Tensor, progress: float | Tensor | None = None
    ) -> Tensor:
        """Return the loss of each image, (N,), for features (N, D) and labels (N,).

        `progress` runs from 0 at the start of the training to 1 at its end; a head whose margin is
        annealed must be told it in training (see `AnnealedHead`), the others need none. After `eval()`
        the cross-entropy of `logits`, which needs none either.
        """
        try:
            check_batch(features, self.weight, labels)
            share_done = self._share_done(progress)
            with without_autocast(features):
                scaled = self._scaled(full_precision(features))
                if self.training:
                    return self._losses(scaled, labels, share_done)
                return self._plain_losses(scaled, labels)
        except ArgumentError as error:
            raise ArgumentError(f"{type(self).__name__}: {error}") from None

    def forward(
        self, features: Tensor, labels: Tensor, progress: float | Tensor | None = None
    ) -> Tensor:
        """Return the mean of `losses`."""
        return self.losses(features, labels, progress).mean()

    def _plain_losses(self, features: Tensor, labels: Tensor) -> Tensor:
        """Return the cross-entropy (N,) of the scores of scaled features, by chunks where the loss is."""
        if self.class_chunk is None:
            return functional.cross_entropy(self._scores(features), labels, reduction="none")
        weights = self.class_weights()
        return margin_losses(features, weights, labels, unbent, class_chunk=self.class_chunk)

    def _share_done(self, progress: float | Tensor | None) -> float | Tensor:
        """Return the progress of a call, checked; without one the end of the training."""
        return 1.0 if progress is None else _one_progress(progress)

    def _scores(self, features: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return w.x + b (N, C), plus an offset (C,), of scaled features (N, D)."""
        bias = None if self.bias is None else full_precision(self.bias)
        if offset is not None:
            bias = offset if bias is None else bias + offset
        return functional.linear(features, self.class_weights(), bias)

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
        shown |= {"bias": True} if self.bias is not None else {}
        steps = getattr(self, "total_steps", None)
        shown |= {"total_steps": steps} if steps is not None else {}
        return ", ".join(f"{name}={_brief(value)}" for name, value in shown.items())


class LinearHead(Head, ABC):
    """A head on the scores w.x of a linear layer, or w.x + b with `bias`.

    The code of LDAM-DRW (for cross-entropy and focal loss) and of VS-Loss has a bias, which can learn
    the classes' shares of the training images; here it is there on request.
    """

    def __init__(self, num_features: int, num_classes: int, bias: bool) -> None:
        super().__init__(num_features, num_classes)
        if not isinstance(bias, bool):
            raise ArgumentError(f"bias is {bias!r}: give True or False")
        if bias:
            self.bias = nn.Parameter(_drawn(num_features, num_classes))


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
    """A head whose margin, a number or one per class (C,), arrives as lambda falls.

    In training each call must be told how far the training is, since the full margin from the first
    step on collapses on real images: by its `progress`, or by `total_steps` here, the calls of the whole
    training. The head then counts its calls in training mode with gradients on, in the buffer `calls`
    of its state dict, and the progress is calls / total_steps, at most 1. One that accumulates
    gradients calls it several times a step: multiply total_steps. A progress that is given goes before.
    State dicts with and without the count fit both kinds of head.
    """

    margin: int | float | Tensor
    calls: Tensor | None

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        margin: int | float | Tensor,
        annealing: Annealing,
        total_steps: int | None,
    ) -> None:
        super().__init__(num_features, num_classes)
        if isinstance(margin, Tensor):
            self.keep("margin", margin)
        else:
            self.margin = margin
        self.total_steps = None if total_steps is None else whole("total_steps", total_steps, 1)
        calls = None if total_steps is None else torch.zeros((), dtype=torch.int64)
        self.register_buffer("calls", calls)
        self.annealing = annealing
        self.anneal, self.anneal_end = annealing.form, annealing.end
        self.lambda_start, self.lambda_min = annealing.start, annealing.minimum
        self.gamma, self.power = annealing.gamma, annealing.power

    def _share_done(self, progress: float | Tensor | None) -> float | Tensor:
        given = None if progress is None else _one_progress(progress)
        counted = self._counted() if self.training else 1.0
        if given is not None:
            return given
        if counted is None:
            raise ArgumentError(
                "progress is not given, and a margin in training needs it: give progress=, the share of the training that is done (0 to 1), with each call, or total_steps=, the calls of the whole training, when the head is made"
            )
        return counted

    def _counted(self) -> Tensor | None:
        """Return the progress of this call by the count, None without one, and count the call.

        All in tensors: a number of the host would be frozen in a compiled or captured step.
        """
        if self.calls is None or self.total_steps is None:
            return None
        share = (self.calls / self.total_steps).clamp(max=1.0)
        if torch.is_grad_enabled():
            self.calls.add_(1)
        return share

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load as nn.Module does, but a state with the count and one without fit both."""
        name = f"{prefix}calls"
        if self.calls is None:
            state_dict = {key: value for key, value in state_dict.items() if key != name}
        elif name not in state_dict:
            state_dict = state_dict | {name: self.calls}
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def lambda_at(self, progress: float) -> float:
        """Return lambda at a point of the training."""
        return float(self.annealing(progress))

    def effective_margin_at(self, progress: float) -> float:
        """Return the margin that is left under lambda; of several, the largest."""
        return effective_margin(largest(self.margin), self.lambda_at(progress))

    def resolved_options(self) -> dict[str, object]:
        """Return lambda_min as it is in force, where lambda is annealed."""
        return {} if self.anneal == "none" else {"lambda_min": self.lambda_min}


def _one_progress(progress: float | Tensor) -> float | Tensor:
    """Return a checked progress, a tensor of one number as ()."""
    if isinstance(progress, Tensor):
        progress = single_number("progress", progress)
    return checked_progress(progress)


def largest(margin: int | float | Tensor) -> float:
    """Return the margin, of several the largest."""
    return float(margin.max()) if isinstance(margin, Tensor) else float(margin)


def options_of(head: type[Head]) -> dict[str, inspect.Parameter]:
    """Return the options of a head: its constructor's own keyword-only parameters, by name."""
    parameters = inspect.signature(head.__init__, eval_str=True).parameters.values()
    return {
        parameter.name: parameter
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _NO_OPTIONS
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
    whole("num_features", num_features, 1)
    if whole("num_classes", num_classes, 1) < 2:
        raise ArgumentError("a classifier needs two classes at least, and there is one")
    return nn.Parameter(_drawn(num_features, num_classes, num_features))


def _drawn(num_features: int, *shape: int) -> Tensor:
    """Return what nn.Linear draws for so many features: uniform within 1 / sqrt(num_features)."""
    bound = 1 / math.sqrt(num_features)
    return torch.empty(*shape).uniform_(-bound, bound)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors (N, D) at length 1; a zero vector has no direction, stays zero, gets no gradient.

    A vector with NaN, infinity or a norm beyond its type's range has NaN.
    """
    norms = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    # The norm of what has NaN is NaN, for which no comparison holds: it must not count as zero.
    is_zero = norms <= 1e-12
    norms = norms.masked_fill(is_zero, 1.0)
    norms = norms.masked_fill(norms == math.inf, math.nan)
    directions: Tensor = vectors / norms
    return directions.masked_fill(is_zero, 0.0)


def checked_counts(class_counts: Tensor | None, num_classes: int, loss: str) -> Tensor:
    """Return the training images per class (C,) as float64. Raises ArgumentError without them."""
    if class_counts is None:
        raise ArgumentError(
            f"{loss} needs class_counts: the training images of each class, ({num_classes},)"
        )
    try:
        counts = torch.as_tensor(class_counts)
    except (TypeError, ValueError, RuntimeError):
        raise ArgumentError(
            f"{loss}: class_counts is of type {type(class_counts).__name__}: expected the training images of each class, ({num_classes},)"
        ) from None
    if counts.is_complex() or counts.dtype == torch.bool:
        raise ArgumentError(
            f"{loss}: class_counts are {counts.dtype}: expected numbers of training images"
        )
    if counts.shape != (num_classes,):
        raise ArgumentError(
            f"{loss}: class_counts has shape {tuple(counts.shape)}: expected ({num_classes},), one per class"
        )
    wrong = counts[~((counts >= 1) & counts.isfinite())]
    if len(wrong):
        raise ArgumentError(
            f"{loss}: class_counts holds {wrong[0].item():g}: expected training images, at least 1 of each class"
        )
    return counts.detach().to("cpu", torch.float64)


def in_range(name: str, value: float, low: float, high: float = LARGEST_OPTION) -> float:
    """Return the option's value. Raises ArgumentError where it is not within [low, high]."""
    if not is_number(value) or not low <= value <= high:
        raise ArgumentError(
            f"{name} is {value!r}: give a finite number of at least {low:g} and at most {high:g}"
        )
    return value


def whole(name: str, value: int, low: int) -> int:
    """Return a whole number. Raises ArgumentError where it is none, or below `low`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ArgumentError(f"{name} is {value!r}: give a whole number of at least {low}")
    return int(value)


def checked_chunk(class_chunk: int | None) -> int | None:
    """Return the classes of a chunk, None for all. Raises ArgumentError for none or fewer."""
    if class_chunk is None:
        return None
    if isinstance(class_chunk, bool) or not isinstance(class_chunk, Integral) or class_chunk < 1:
        raise ArgumentError(f"class_chunk is {class_chunk!r}: give a number of classes, at least 1")
    return int(class_chunk)
