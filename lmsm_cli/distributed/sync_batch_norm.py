"""BatchNorm whose statistics are those of the global batch, of which each rank has a part.

On CUDA it is made of the kernels of torch.nn.SyncBatchNorm, which there are none of for the CPU;
there it is made of two sums over the ranks, which autograd can differentiate. Parameters, buffers
and state dict are those of nn.BatchNorm.
"""

from abc import abstractmethod
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
        kind = partial(CudaBatchNorm if device.type == "cuda" else GlobalBatchNorm, ranks)
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


class _OverRanks(torch.autograd.Function):
    """Images normalised by the statistics of all ranks, by torch's kernels for the purpose."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        norm: "CudaBatchNorm",
        share: float,
    ) -> Tensor:
        images, channels = _dense(images), images.shape[1]
        count = images.numel() // channels
        if count:
            mean, invstd = torch.batch_norm_stats(images, norm.eps)
        else:  # Any statistics will do that are finite: the count takes them out.
            mean = images.new_zeros(channels, dtype=_sum_type(images))
            invstd = torch.ones_like(mean)
        own = torch.cat([mean, invstd, mean.new_full((1,), count)])
        means, invstds, counts = torch.split(
            norm.ranks.all_gather(own), [channels, channels, 1], dim=1
        )
        counts = counts.reshape(-1)
        mean, invstd = torch.batch_norm_gather_stats_with_counts(
            images,
            means,
            invstds,
            norm.running_mean if norm.training else None,
            norm.running_var if norm.training else None,
            share,
            norm.eps,
            counts,
        )
        ctx.save_for_backward(images, weight, mean, invstd, counts.to(torch.int32))
        ctx.ranks = norm.ranks
        if not count:
            return torch.empty_like(images)
        return torch.batch_norm_elemt(images, weight, bias, mean, invstd, norm.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        images, weight, mean, invstd, counts = ctx.saved_tensors
        for_images, for_weight, for_bias = ctx.needs_input_grad[:3]
        channels, of_weight, of_bias = len(mean), None, None
        grad = _dense(grad)
        sums = mean.new_zeros(2 * channels)
        if images.numel():
            *both, of_weight, of_bias = torch.batch_norm_backward_reduce(
                grad, images, mean, invstd, weight, for_images, for_weight, for_bias
            )
            sums = torch.cat(both) if for_images else sums
        elif weight is not None:
            of_weight, of_bias = torch.zeros_like(weight), torch.zeros_like(weight)
        of_images = torch.zeros_like(images) if for_images else None
        if for_images:
            sums = ctx.ranks.all_reduce(sums)
            if images.numel():
                sum_dy, sum_dy_xmu = torch.split(sums, channels)
                of_images = torch.batch_norm_backward_elemt(
                    grad, images, mean, invstd, weight, sum_dy, sum_dy_xmu, counts
                )
        return (
            of_images,
            of_weight if for_weight else None,
            of_bias if for_bias else None,
            None,
            None,
        )


def _dense(images: Tensor) -> Tensor:
    """Return images in a layout that the kernels take."""
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    layout = layouts.get(images.ndim, torch.contiguous_format)
    return images if images.is_contiguous(memory_format=layout) else images.contiguous()


def _sum_type(images: Tensor) -> torch.dtype:
    """Return the type that the kernels add images up in."""
    return torch.float64 if images.dtype == torch.float64 else torch.float32


class _RanksBatchNorm(_BatchNorm):
    """nn.BatchNorm over the images of all ranks; a rank's part may be empty."""

    def __init__(self, ranks: ProcessGroup, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.ranks = ranks

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ArgumentError(f"BatchNorm takes (N, C, ...), not {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised images (N, C, ...), in their type."""
        self._check_input_dim(input)
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        return self._over_ranks(input)

    @abstractmethod
    def _over_ranks(self, input: Tensor) -> Tensor:
        """Return the images normalised by the statistics of all ranks."""


class CudaBatchNorm(_RanksBatchNorm):
    """nn.BatchNorm over the images of all ranks, on CUDA; a rank's part may be empty.

    nn.SyncBatchNorm waits for the device in each layer, to leave empty parts out; here they have no
    weight. Where all ranks together have less than two values a channel, what comes out is not
    finite. The first rank's part must not be empty.
    """

    def _over_ranks(self, input: Tensor) -> Tensor:
        share = self.momentum or 0.0
        if self.training and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                share = 1 / int(self.num_batches_tracked)
        normalised: Tensor = _OverRanks.apply(input, self.weight, self.bias, self, share)
        return normalised


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


class GlobalBatchNorm(_RanksBatchNorm):
    """nn.BatchNorm over the images of all ranks; a rank's part may be empty.

    All ranks must call it in training, go backward through it, and have the same weight. The
    gradients of weight and bias are those of the rank's own images: their sum over the ranks is
    nn.BatchNorm's. Raises ArgumentError on every rank where a channel has fewer than two values.
    """

    def _over_ranks(self, input: Tensor) -> Tensor:
        images = input.double() if input.dtype == torch.float64 else input.float()
        axes, shape = [0, *range(2, input.ndim)], (-1, *[1] * (input.ndim - 2))
        own = images.new_tensor([images.numel() // images.shape[1]])
        sums: Tensor = _Sum.apply(torch.cat([images.sum(axes), own]), self.ranks)
        count = int(sums[-1])
        if count < 2:
            raise ArgumentError(
                f"BatchNorm has {count} values a channel in training: "
                "give it at least 2 over all ranks"
            )
        mean = sums[:-1] / count
        centred = images - mean.view(shape)
        var: Tensor = _Sum.apply(centred.square().sum(axes), self.ranks) / count
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
