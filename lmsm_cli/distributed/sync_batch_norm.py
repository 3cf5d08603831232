"""BatchNorm whose statistics are those of the global batch, of which each rank has a part.

On CUDA it is torch.nn.SyncBatchNorm, which has no kernels for the CPU; there it is put together from
the native kernels of nn.BatchNorm. One collective crosses the ranks in each direction. Parameters,
buffers and state dict are those of nn.BatchNorm.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from lmsm_cli.distributed.process_group import ProcessGroup
from lmsm_cli.errors import ArgumentError

_native = torch.ops.aten


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
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        images = _dense(input)
        count, mean, var = global_statistics(images, self._ranks)
        if self.training and self.running_mean is not None:
            self._remember(mean, var * (count / (count - 1)))
        output: Tensor = _Normalise.apply(
            images, self.weight, self.bias, mean, var, count, self.eps, self._ranks
        )
        return output

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


@torch.no_grad()
def global_statistics(images: Tensor, ranks: ProcessGroup) -> tuple[int, Tensor, Tensor]:
    """Return the values a channel, their mean (C,) and biased variance (C,), over all ranks.

    `images` (N, C, ...) are the rank's own, N may be 0. float32 at least. Every rank gets the same
    bits. Raises ArgumentError, on every rank, for fewer than two values.
    """
    channels = images.shape[1]
    own = images.numel() // channels
    wide = torch.float64 if images.dtype == torch.float64 else torch.float32
    packed = torch.zeros(2 * channels + 1, dtype=wide, device=images.device)
    if own:
        # Given running statistics in float32, the kernel sums half precision in float32 too.
        unused = packed[:channels]
        mean, var = _native.batch_norm_update_stats(images, unused, unused, 0.0)
        packed[:channels], packed[channels:-1], packed[-1] = mean, var, own
    means, variances, counts = torch.split(ranks.all_gather(packed), [channels, channels, 1], dim=1)
    count = int(counts.sum())
    if count < 2:
        raise ArgumentError(
            f"BatchNorm has {count} values a channel in training: give it at least 2 over all ranks"
        )
    # Chan, Golub and LeVeque 1983: unlike the sum of squares it does not cancel.
    shares = counts / count
    mean = (means * shares).sum(0)
    var = ((means - mean).square_().add_(variances).mul_(shares)).sum(0)
    return count, mean, var


class _Normalise(torch.autograd.Function):
    """The normalisation by statistics that depend on the images of all ranks, and its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean: Tensor,
        var: Tensor,
        count: int,
        eps: float,
        ranks: ProcessGroup,
    ) -> Tensor:
        """Return (images - mean) / sqrt(var + eps) * weight + bias."""
        ctx.save_for_backward(images, weight, mean, var)
        ctx.count, ctx.eps, ctx.ranks = count, eps, ranks
        if not images.numel():
            return torch.empty_like(images)
        return functional.batch_norm(images, mean, var, weight, bias, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of images, weight and bias; the latter two of this rank's images.

        With sums S1 of dy and S2 of dy xhat over all ranks, dx = w / std (dy - (S1 + xhat S2) / n),
        here as a dy + b x + c with numbers a channel.
        """
        images, weight, mean, var = ctx.saved_tensors
        grad = _dense(grad, like=images)
        own = mean.new_zeros(2, len(mean))
        if images.numel():
            _, own[1], own[0] = _native.native_batch_norm_backward(
                grad, images, weight, mean, var, None, None, False, ctx.eps, [False, True, True]
            )
        total = ctx.ranks.all_reduce(own.clone())
        inverse = (var + ctx.eps).rsqrt()
        a = inverse if weight is None else inverse * weight
        b = -a * inverse * total[1] / ctx.count
        c = -a * total[0] / ctx.count - b * mean
        grad_weight, grad_bias = (None, None) if weight is None else (own[1], own[0])
        return _combined(grad, a, images, b, c), grad_weight, grad_bias, *[None] * 5


def _combined(grad: Tensor, a: Tensor, images: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return a grad + b images + c for images (N, C, ...) and numbers a channel (C,)."""
    if not images.numel():
        return torch.empty_like(images)
    if images.dtype == a.dtype:
        a, b, c = (each.view(-1, *[1] * (images.ndim - 2)) for each in (a, b, c))
        return torch.addcmul(c, images, b).addcmul_(grad, a)
    # The only kernel of a line a channel that takes half precision with float32 numbers.
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    line = functional.batch_norm(images, zero, one, b, c, eps=0.0)
    return line.add_(functional.batch_norm(grad, zero, one, a, zero, eps=0.0))


def _dense(images: Tensor, like: Tensor | None = None) -> Tensor:
    """Return the images in a layout that the kernels are fast in: their own, or that of `like`."""
    model = images if like is None else like
    last = model.ndim == 4 and model.is_contiguous(memory_format=torch.channels_last)
    return images.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
