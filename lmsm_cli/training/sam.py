"""SAM: sharpness-aware minimisation, which takes each step by the gradient from the worst nearby.

Foret et al. 2021, arXiv 2010.01412: weights w move to w + rho g / |g|, with g the gradient over the
batch and |g| its length over all weights together; the gradient there, over the same batch, is the
one that the optimiser gets, at w. Weight decay is left to the optimiser and is no part of g.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

# As in the authors' code: no gradient moves no weight.
_SMALLEST = 1e-12


@contextmanager
def worst_nearby(model: nn.Module, radius: float) -> Iterator[None]:
    """Move the weights `radius` up along their gradients; on leaving, put all back bit for bit.

    That includes the buffers: the running statistics of BatchNorm count a batch once, at the
    weights that are trained.
    """
    moved: list[Tensor] = [
        parameter for parameter in model.parameters() if parameter.grad is not None
    ]
    gradients = [parameter.grad for parameter in moved if parameter.grad is not None]
    kept: list[Tensor] = [*moved, *model.buffers()]
    with torch.no_grad():
        before = [tensor.clone() for tensor in kept]
        length = nn.utils.get_total_norm(gradients)
        steps = torch._foreach_mul(gradients, radius / (length + _SMALLEST))
        torch._foreach_add_(moved, list(steps))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(kept, before, strict=True):
                tensor.copy_(value)
