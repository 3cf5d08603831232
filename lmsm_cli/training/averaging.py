"""The exponential moving average of a net's weights, kept beside those that are trained.

It is a net of its own: what is validated, scored, saved as the model and exported.
"""

import copy

import torch
from torch import Tensor
from torch.optim import Optimizer

from lmsm_cli.models.classifier import Classifier


class WeightAverage:
    """The average of a net's weights over the steps; `model` has it, in eval mode.

    At step t the average keeps min(decay, (1 + t) / (10 + t)) of itself, as TensorFlow's
    ExponentialMovingAverage with its number of updates: so the random start is soon forgotten.
    BatchNorm's statistics, which are averages already, and other buffers are copied.
    """

    def __init__(self, trained: Classifier, decay: float) -> None:
        self.model = copy.deepcopy(trained).eval().requires_grad_(requires_grad=False)
        weight = trained.head.weight
        self.steps = torch.zeros((), dtype=weight.dtype, device=weight.device)
        self._decay = torch.full_like(self.steps, decay)
        self._trained = [p.detach() for p in trained.parameters()]
        self._averaged = [p.detach() for p in self.model.parameters()]
        self._buffers = list(trained.buffers())
        self._copies = list(self.model.buffers())

    def follow(self, optimizer: Optimizer) -> None:
        """Update the average after every step of an optimiser; it is then a part of the step."""
        optimizer.register_step_post_hook(lambda *_: self.update())

    @torch.no_grad()
    def update(self) -> None:
        """Take a step's weights in; tensors only, so that a CUDA graph can capture it."""
        self.steps += 1
        kept = torch.minimum(self._decay, (1 + self.steps) / (10 + self.steps))
        changes = torch._foreach_sub(self._trained, self._averaged)
        torch._foreach_mul_(changes, 1 - kept)
        torch._foreach_add_(self._averaged, changes)
        torch._foreach_copy_(self._copies, self._buffers)

    @torch.no_grad()
    def restore(self, averaged: dict[str, Tensor], steps: int) -> None:
        """Take over a saved average."""
        self.model.load_state_dict(averaged)
        self.steps.fill_(steps)
