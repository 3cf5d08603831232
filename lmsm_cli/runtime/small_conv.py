"""Convolutions with a handful of outputs, as matrix products: for the last stages on the CPU.

A 3x3 kernel over a 2x2 image meets padding with 20 of its 36 taps, and oneDNN multiplies it all the
same, at half its usual rate (benchmarks/LOG.md). Here each output is the product of the pixels that
it sees with the part of the kernel that meets them.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

M = TypeVar("M", bound=nn.Module)

# Outputs, height times width, up to which this was faster than oneDNN; 16 were not.
_MOST_OUTPUTS = 4

Spans = tuple[slice, slice]  # along the height and along the width


@dataclass(frozen=True)
class _Group:
    """Outputs that see the same window of the image, and the taps by which each sees it."""

    window: Spans
    outputs: list[tuple[int, int]]
    taps: list[Spans]


class WindowConv2d(nn.Conv2d):
    """nn.Conv2d, equal up to rounding and of the same state dict, faster where outputs are few."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the convolution (N, O, H', W') of images (N, I, H, W)."""
        sides = [_side(images.shape[2 + d], self, d) for d in (0, 1)]
        if sides[0] * sides[1] > _MOST_OUTPUTS:
            return super().forward(images)
        spans = [_spans(images.shape[2 + d], sides[d], self, d) for d in (0, 1)]
        outputs: Tensor = _WindowConv.apply(
            images.to(_product_type(images)), self.weight, _groups(*spans), sides
        )
        if not torch.is_autocast_enabled("cpu"):
            outputs = outputs.to(images.dtype)
        return (
            outputs if self.bias is None else outputs + self.bias.to(outputs.dtype)[:, None, None]
        )


def with_window_convolutions(model: M) -> M:
    """Return the model with its plain convolutions replaced in place; parameters stay the same."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.Conv2d and _is_plain(child):
                setattr(parent, name, _converted(child))
    return model


def _product_type(images: Tensor) -> torch.dtype:
    """Return the type in which oneDNN would multiply."""
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu")
    rounds = torch.backends.mkldnn.conv.fp32_precision == "bf16"  # type: ignore[attr-defined]
    return torch.bfloat16 if rounds else images.dtype


def _is_plain(conv: nn.Conv2d) -> bool:
    return (
        max(conv.kernel_size) > 1  # a kernel of one tap meets no padding
        and conv.groups == 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def _converted(conv: nn.Conv2d) -> WindowConv2d:
    with torch.device("meta"):
        new = WindowConv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
    new.weight, new.bias = conv.weight, conv.bias
    return new.train(conv.training)


def _side(side: int, conv: nn.Conv2d, d: int) -> int:
    return (side + 2 * int(conv.padding[d]) - conv.kernel_size[d]) // conv.stride[d] + 1


def _spans(side: int, outputs: int, conv: nn.Conv2d, d: int) -> list[tuple[slice, slice]]:
    """Return, for each output along a dimension, the pixels that it sees and their taps."""
    kernel, stride, padding = conv.kernel_size[d], conv.stride[d], int(conv.padding[d])
    starts = [output * stride - padding for output in range(outputs)]
    seen = [slice(max(0, start), min(side, start + kernel)) for start in starts]
    return [
        (pixels, slice(pixels.start - start, pixels.stop - start))
        for pixels, start in zip(seen, starts, strict=True)
    ]


def _groups(rows: list[tuple[slice, slice]], columns: list[tuple[slice, slice]]) -> list[_Group]:
    """Return the outputs by their windows: for a 3x3 kernel over 2x2 all four see everything."""
    groups: dict[tuple[int, ...], _Group] = {}
    for i, (row, row_taps) in enumerate(rows):
        for j, (column, column_taps) in enumerate(columns):
            key = (row.start, row.stop, column.start, column.stop)
            group = groups.setdefault(key, _Group((row, column), [], []))
            group.outputs.append((i, j))
            group.taps.append((row_taps, column_taps))
    return list(groups.values())


class _WindowConv(torch.autograd.Function):
    """The convolution in channels-last order; products in the images' type, as autocast rounds."""

    @staticmethod
    def forward(
        ctx: Any, images: Tensor, weight: Tensor, groups: list[_Group], sides: list[int]
    ) -> Tensor:
        images, kernel = images.permute(0, 2, 3, 1), weight.permute(0, 2, 3, 1)
        num_images, num_outputs = len(images), len(kernel)
        result = images.new_empty(num_images, *sides, num_outputs)
        operands = []
        for group in groups:
            window = images[:, *group.window].reshape(num_images, -1)
            taps = window.new_empty(len(group.taps), num_outputs, window.shape[1])
            for to, spans in zip(taps, group.taps, strict=True):
                part = kernel[:, *spans]
                to.view(part.shape).copy_(part)  # rounds and gathers in one pass
            products = (window @ taps.flatten(0, 1).T).view(num_images, -1, num_outputs)
            for n, (i, j) in enumerate(group.outputs):
                result[:, i, j] = products[:, n]
            operands += [window, taps]
        ctx.save_for_backward(weight, *operands)
        ctx.groups, ctx.image_shape = groups, images.shape
        return result.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weight, *operands = ctx.saved_tensors
        grad = grad.permute(0, 2, 3, 1)
        # sums over groups in the precision of the weights
        grad_images = weight.new_zeros(ctx.image_shape)
        grad_kernel = weight.new_zeros(weight.permute(0, 2, 3, 1).shape)
        for group, window, taps in zip(ctx.groups, operands[::2], operands[1::2], strict=True):
            parts = torch.stack([grad[:, i, j] for i, j in group.outputs], dim=1).flatten(1)
            to = grad_images[:, *group.window]
            to += (parts @ taps.flatten(0, 1)).view(to.shape)
            products = (parts.T @ window).view(taps.shape)
            for product, spans in zip(products, group.taps, strict=True):
                to = grad_kernel[:, *spans]
                to += product.view(to.shape)
        return (
            grad_images.to(grad.dtype).permute(0, 3, 1, 2),
            grad_kernel.permute(0, 3, 1, 2),
            None,
            None,
        )
