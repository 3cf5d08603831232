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


def multiplies_bf16(tensor: Tensor) -> bool:
    """Return whether a tensor lies where `product` is to be had: on a GPU that multiplies bf16."""
    if tensor.device.type != "cuda" or torch.compiler.is_compiling():
        return False
    return torch.cuda.get_device_capability(tensor.device) >= (8, 0)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of two bf16 matrices with float32 sums, on CUDA.

    Products of bf16 numbers are exact in float32: it is the float32 product but for its order.
    """
    result: Tensor = torch.mm(left, right, out_dtype=torch.float32)
    return result


def product_in_two(left: Tensor, right: Tensor) -> Tensor:
    """Return the product of a float32 and a bf16 matrix as two of bf16, to 17 bits of each factor.

    One alone would have 8 bits of `left`, too few where what it is added to nearly cancels it.
    """
    high = left.bfloat16()
    return product(high, right).add_(product((left - high).bfloat16(), right))
