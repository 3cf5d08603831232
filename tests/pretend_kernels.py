"""Operators that CUDA alone has, as formulas of the CPU: those of BatchNorm over several ranks.

They stand in for `aten::batch_norm_stats` and what follows it, by the documentation of
torch.nn.SyncBatchNorm and its paper: statistics of a part, of all parts, and the gradients.
"""

import torch


class Kernel:
    """A formula in the place of an operator, whose schema it has."""

    def __init__(self, operator, formula):
        self._schema, self._formula = operator._schema, formula

    def __call__(self, *args, **kwargs):
        """Compute on the tensors of the CPU."""
        return self._formula(*args, **kwargs)


def _stats(images, eps):
    """Return mean and 1 / sqrt(var + eps) (C,) of images (N, C, ...), in float32."""
    var, mean = torch.var_mean(_by_channel(images), dim=1, correction=0)
    return mean, (var + eps).rsqrt()


def _by_channel(images):
    """Return (C, values), in float32 at least."""
    values = images.transpose(0, 1).flatten(1)
    return values if values.dtype == torch.float64 else values.float()


def _gathered(images, means, invstds, running_mean, running_var, momentum, eps, counts):
    """Return mean and 1 / sqrt(var + eps) of parts (R, C) together; move the running statistics."""
    counts, total = counts[:, None], counts.sum()
    mean = (means * counts).sum(0) / total
    squares = (invstds**-2 - eps + (means - mean).square()) * counts
    var = squares.sum(0) / total
    if running_mean is not None:
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * total / (total - 1), momentum)
    return mean, (var + eps).rsqrt()


def _along(values, images):
    return values.view(-1, *[1] * (images.ndim - 2))


def _normalised(images, weight, bias, mean, invstd, eps):
    """Return the images normalised, in their type."""
    scaled = (images - _along(mean, images)) * _along(invstd, images)
    if weight is not None:
        scaled = scaled * _along(weight, images) + _along(bias, images)
    return scaled.to(images.dtype)


def _sums(grad, images, mean, invstd, weight, *needs):
    """Return the sums over a part of dy and dy (x - mean), and the gradients of weight and bias."""
    dy = _by_channel(grad)
    sum_dy = dy.sum(1)
    sum_dy_xmu = (dy * (_by_channel(images) - mean[:, None])).sum(1)
    return sum_dy, sum_dy_xmu, sum_dy_xmu * invstd, sum_dy.clone()


def _gradient(grad, images, mean, invstd, weight, sum_dy, sum_dy_xmu, counts):
    """Return the gradient of the images, from the sums over all parts."""
    total = counts.sum()
    factor = invstd if weight is None else invstd * weight
    centred = (images - _along(mean, images)) * _along(invstd**2 * sum_dy_xmu / total, images)
    inner = grad - _along(sum_dy / total, images) - centred
    return (inner * _along(factor, images)).to(images.dtype)


KERNELS = {
    "batch_norm_stats": _stats,
    "batch_norm_gather_stats_with_counts": _gathered,
    "batch_norm_elemt": _normalised,
    "batch_norm_backward_reduce": _sums,
    "batch_norm_backward_elemt": _gradient,
}
