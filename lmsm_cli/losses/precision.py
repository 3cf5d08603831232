"""The precision in which losses compute: float32 at least, whatever features and autocast have."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

# The types that losses do not compute in, and what they compute in instead.
HALF = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


def full_precision(values: Tensor) -> Tensor:
    """Return the values in at least float32, in which every loss computes."""
    return values.to(HALF.get(values.dtype, values.dtype))


def without_autocast(tensor: Tensor) -> AbstractContextManager[None]:
    """Return the context of a loss: without autocast, which would round products to bfloat16."""
    if torch.is_autocast_enabled(tensor.device.type):
        return torch.autocast(tensor.device.type, enabled=False)
    return nullcontext()
