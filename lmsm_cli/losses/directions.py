"""Vectors at length 1 as operators of torch: one kernel a pass on CUDA, in the place of two dozen.

What `weights.unit` says holds here too. As kernels are, these can be differentiated once.
"""

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

from lmsm_cli.losses.checks import is_transformed
from lmsm_cli.losses.trial import Results, agrees, works

# As in `weights.unit`: up to this norm a vector has no direction.
_SMALLEST_NORM = 1e-12
_TRIED = 256  # vectors


def directions_by_kernel(vectors: Tensor) -> Tensor | None:
    """Return vectors (N, D) at length 1 by the kernels; None where torch's operations do the work.

    That is on the CPU, for all types but float32, and for torch's compiler and transforms.
    """
    # The device first: what a compiler or an export sees of a size becomes a condition on it.
    if vectors.device.type != "cuda" or torch.compiler.is_compiling():
        return None
    is_plain = vectors.dtype == torch.float32 and len(vectors) > 0 and vectors.stride(-1) == 1
    if not is_plain or is_transformed() or forward_ad._current_level >= 0:
        return None
    kind = "directions", vectors.device, vectors.shape[1], vectors.stride(0)
    if not works(kind, partial(_is_right, vectors.detach())):
        return None
    found: Tensor = _Directions.apply(vectors)
    return found


class _Directions(torch.autograd.Function):
    """v / |v|, and (g - u (u . g)) / |v| for the gradient g of u."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        found, inverses = directions(vectors)
        ctx.save_for_backward(found, inverses)
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        found, inverses = ctx.saved_tensors
        return directions_backward(grad, found, inverses)


def directions(vectors: Tensor) -> Results:
    """Return vectors (N, D) at length 1, and their inverse norms (N,): 0 and 0 for those of 0."""
    return cast(Results, torch.ops.lmsm.directions(vectors))


def directions_backward(grads: Tensor, found: Tensor, inverses: Tensor) -> Tensor:
    """Return the gradient of vectors (N, D) from that of their directions."""
    gradients: Tensor = torch.ops.lmsm.directions_backward(grads, found, inverses)
    return gradients


def _by_torch(vectors: Tensor) -> Results:
    norms = torch.linalg.vector_norm(vectors, dim=1)
    is_zero = norms <= _SMALLEST_NORM
    inverses = norms.masked_fill(norms == math.inf, math.nan).reciprocal()
    inverses = inverses.masked_fill(is_zero, 0.0)
    return (vectors * inverses[:, None]).masked_fill(is_zero[:, None], 0.0), inverses


def _backward_by_torch(grads: Tensor, found: Tensor, inverses: Tensor) -> Tensor:
    along: Tensor = torch.linalg.vecdot(grads, found)[:, None]
    return (grads - found * along) * inverses[:, None]


def _by_triton(vectors: Tensor) -> Results:
    # imported late: there is no Triton beside torch for the CPU, for macOS and for Windows
    from lmsm_cli.losses import triton_kernels

    return triton_kernels.directions(vectors)


def _backward_by_triton(grads: Tensor, found: Tensor, inverses: Tensor) -> Tensor:
    from lmsm_cli.losses import triton_kernels

    return triton_kernels.directions_backward(grads, found, inverses)


_library: Any = cast(Any, torch.library.Library)("lmsm", "FRAGMENT")
_library.define("directions(Tensor vectors) -> (Tensor, Tensor)")
_library.define("directions_backward(Tensor grads, Tensor found, Tensor inverses) -> Tensor")
_library.impl("directions", _by_torch, "CPU")
_library.impl("directions", _by_triton, "CUDA")
_library.impl("directions_backward", _backward_by_torch, "CPU")
_library.impl("directions_backward", _backward_by_triton, "CUDA")


def _is_right(vectors: Tensor) -> bool | None:
    """Return whether the kernels are right for the first of some vectors, see `agrees`."""
    vectors = vectors[:_TRIED]
    grads = vectors.flip(1)
    plain, exact = (
        (*results, _backward_by_torch(of, *results))
        for of, results in (
            (grads, _by_torch(vectors)),
            (grads.double(), _by_torch(vectors.double())),
        )
    )
    found, inverses = directions(vectors)
    ours = found, inverses, directions_backward(grads, found, inverses)
    return agrees(ours, plain, exact, torch.zeros_like(inverses, dtype=torch.bool))
