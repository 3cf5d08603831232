"""AnnealedHead: a head whose margin arrives during the training, as lambda falls."""

from abc import ABC
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lmsm_cli.errors import ArgumentError, did_you_mean
from lmsm_cli.losses.annealing import (
    Annealing,
    AnnealingOptions,
    effective_margin,
    scalar_progress,
    unused_options,
)
from lmsm_cli.losses.calls import calls_before
from lmsm_cli.losses.checks import whole
from lmsm_cli.losses.head import MarginHead
from lmsm_cli.losses.margins import LSoftmaxMargin, Margin, largest
from lmsm_cli.losses.options import options_of


class AnnealedHead(MarginHead, ABC):
    """A head whose margin, a number or one per class (C,), arrives as lambda falls.

    The full margin from the first step on collapses on real images, so each call in training needs
    a `progress`, or the head `total_steps`, the number of calls of the whole training. It then
    counts its calls in training mode with gradients on, in the buffer `calls` of its state dict,
    and the progress is calls / total_steps, at most 1. If you accumulate gradients, count each of
    the calls of a step; what activation checkpointing repeats is no call of its own. A progress
    that is given has precedence. State dicts with and without the count load into heads with and
    without it.
    """

    margin: int | float | Tensor
    calls: Tensor | None
    was_counted: Tensor | None
    """What `calls_before` keeps beside the calls."""

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        margin: int | float | Tensor,
        options: AnnealingOptions,
        usual_minimum: float,
        class_chunk: int | None,
        total_steps: int | None,
    ) -> None:
        for name in options.keys() - AnnealingOptions.__annotations__.keys():
            hint = did_you_mean(name, options_of(type(self)))
            raise TypeError(f"{type(self).__name__} has no argument {name!r}{hint}")
        annealing = Annealing.of(options, usual_minimum)
        super().__init__(num_features, num_classes, class_chunk)
        if isinstance(margin, Tensor):
            self.register_constant("margin", margin)
        else:
            self.margin = margin
        self.total_steps = None if total_steps is None else whole("total_steps", total_steps, 1)
        calls = None if total_steps is None else torch.zeros((), dtype=torch.int64)
        self.register_buffer("calls", calls)
        was_counted = None if calls is None else calls.clone()
        self.register_buffer("was_counted", was_counted, persistent=False)
        self.annealing = annealing
        self.anneal, self.anneal_end = annealing.form, annealing.end
        self.lambda_start, self.lambda_min = annealing.start, annealing.minimum
        self.gamma, self.power = annealing.gamma, annealing.power

    def margin_function(self, labels: Tensor, progress: float | Tensor) -> Margin:
        """Return L-Softmax's margin under the lambda of a progress."""
        return LSoftmaxMargin(self.margin, labels, progress, self.annealing)

    def _progress(self, progress: float | Tensor | None) -> float | Tensor:
        given = None if progress is None else scalar_progress(progress)
        counted = self._counted() if self.training else 1.0
        if given is not None:
            return given
        if counted is None:
            raise ArgumentError(
                "progress is not given, and a margin in training needs it: give progress=, the "
                "share of the training that is done (0 to 1), with each call, or total_steps=, the "
                "calls of the whole training, when the head is made"
            )
        return counted

    def _counted(self) -> Tensor | None:
        """Return the progress by the count of calls, None if there is no count; count this call.

        It computes in tensors: a Python number would be frozen in a compiled or captured step.
        """
        if self.calls is None or self.was_counted is None or self.total_steps is None:
            return None
        return (calls_before(self.calls, self.was_counted) / self.total_steps).clamp(max=1.0)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Load as nn.Module does, a state without the count too."""
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

    def _idle_options(self) -> Mapping[str, object]:
        unused = unused_options(self.anneal)
        return dict.fromkeys(unused) | {"anneal_end": None if "anneal_end" in unused else 1.0}

    def resolved_options(self) -> dict[str, object]:
        """Return lambda_min in force, where lambda is annealed."""
        return {} if self.anneal == "none" else {"lambda_min": self.lambda_min}
