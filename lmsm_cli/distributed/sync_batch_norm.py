"""BatchNorm whose statistics are those of the global batch, of which each rank has a part.

On CUDA it is torch.nn.SyncBatchNorm, which has no kernels for the CPU; there it is made of two sums
over the ranks, which autograd can differentiate. Parameters, buffers and state dict are those of
nn.BatchNorm.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from lmsm_cli.distributed.process_group import ProcessGroup
from lmsm_cli.errors import ArgumentError


def convert_sync_batchnorm(
    model: nn.Module, device: torch.device, ranks: ProcessGroup
) -> nn.Module:
    """Return the model with every BatchNorm replaced, in place, by one over all ranks.

    The replacements hold the same parameters and buffers, by the same names: optimisers made before
    and state dicts from before and after fit. The process group must be there when they train.
    """
    if type(model) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
        assert isinstance(model, _BatchNorm)
        kind = CudaBatchNorm if device.type == "cuda" else partial(GlobalBatchNorm, ranks)
        return _replaced(model, kind)
    for name, child in model.named_children():
        setattr(model, name, convert_sync_batchnorm(child, device, ranks))
    return model


def _replaced(norm: _BatchNorm, kind: Callable[..., nn.Module]) -> nn.Module:
    """Return a layer of another kind that shares the parameters and buffers of `norm`."""
    with torch.device("meta"):
        layer = kind(
            norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats
        )
    layer._parameters, layer._buffers = norm._parameters, norm._buffers
    return layer.train(norm.training)


class CudaBatchNorm(nn.SyncBatchNorm):
    """SyncBatchNorm that also takes an empty part in half precision."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised images (N, C, ...)."""
        if input.numel():
            return super().forward(input)
        # SyncBatchNorm sends an empty part's statistics in its own type, the others' in float32.
        return super().forward(input.float()).to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the ranks, and so of its gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, ranks: ProcessGroup) -> Tensor:
        ctx.ranks = ranks
        return ranks.all_reduce(values.clone())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.ranks.all_reduce(grad.clone()), None


class GlobalBatchNorm(_BatchNorm):
    """nn.BatchNorm over the images of all ranks; a rank's part may be empty.

    All ranks must call it in training, go backward through it, and have the same weight. The
    gradients of weight and bias are those of the rank's own images: their sum over the ranks is
    nn.BatchNorm's. Raises ArgumentError on every rank where a channel has fewer than two values.
    """

    def __init__(self, ranks: ProcessGroup, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._ranks = ranks

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ArgumentError(f"BatchNorm takes (N, C, ...), not {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised images (N, C, ...), in their type."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        images = input.double() if input.dtype == torch.float64 else input.float()
        axes, shape = [0, *range(2, input.ndim)], (-1, *[1] * (input.ndim - 2))
        own = images.new_tensor([images.numel() // images.shape[1]])
        sums: Tensor = _Sum.apply(torch.cat([images.sum(axes), own]), self._ranks)
        count = int(sums[-1])
        if count < 2:
            raise ArgumentError(
                f"BatchNorm has {count} values a channel in training: "
                "give it at least 2 over all ranks"
            )
        mean = sums[:-1] / count
        centred = images - mean.view(shape)
        var: Tensor = _Sum.apply(centred.square().sum(axes), self._ranks) / count
        if self.training and self.running_mean is not None:
            self._remember(mean, var * (count / (count - 1)))
        factor = (var + self.eps).rsqrt()
        if self.weight is None:
            return (centred * factor.view(shape)).to(input.dtype)
        factor = factor * self.weight
        return (centred * factor.view(shape) + self.bias.view(shape)).to(input.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased: Tensor) -> None:
        """Move the running statistics towards the batch's (C,)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
