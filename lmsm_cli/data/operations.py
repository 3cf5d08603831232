"""The operations of the learned policies, on batches whose images differ in operation and strength.

Images with operations of one kind go through one kernel together. The results are torchvision's,
to rounding: its kernels where they take no strength, or make the table of a change by pixel value.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lmsm_cli.data.policies import Operation, policy_of
from lmsm_cli.runtime.device import sent

# The kind of each operation: what goes through one kernel together. Kind 0 changes nothing.
_TABLE, _AFFINE, _COLOR, _CONTRAST, _SHARPNESS, _AUTOCONTRAST, _EQUALIZE = range(1, 8)
_KINDS = {
    "Identity": 0,
    **dict.fromkeys(("Brightness", "Posterize", "Solarize", "Invert"), _TABLE),
    **dict.fromkeys(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"), _AFFINE),
    "Color": _COLOR,
    "Contrast": _CONTRAST,
    "Sharpness": _SHARPNESS,
    "AutoContrast": _AUTOCONTRAST,
    "Equalize": _EQUALIZE,
}
# Red, green and blue in a grey value, as torchvision has them.
_GREY = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Operations:
    """The operations of a policy on a device; each row of a tensor is one operation."""

    kinds: NDArray[np.int64]  # (K,), on the host
    tables: Tensor  # uint8 (K, 256): the new value of each pixel value
    matrices: Tensor  # (K, 3, 2): from (x, y, 1) in the new image to the place in the old one
    factors: Tensor  # (K,), of colour, contrast and sharpness

    def __call__(self, images: Tensor, choices: Tensor) -> Tensor:
        """Return changed uint8 images (B, C, H, W); `choices` (B, S) are S changes in turn, by row.

        The choices lie on the host: they say how many images each kernel gets, so that nothing
        waits for the device.
        """
        images = images.clone(memory_format=torch.contiguous_format)
        for chosen in choices.numpy().T:
            kinds = self.kinds[chosen]
            order = np.argsort(kinds, kind="stable")
            rows = sent(torch.from_numpy(np.stack([order, chosen[order]])), images.device)
            ends = np.bincount(kinds, minlength=len(_KERNELS) + 1).cumsum().tolist()
            for start, end, kernel in zip(ends, ends[1:], _KERNELS, strict=False):
                if start < end:
                    places, which = rows[:, start:end]
                    images[places] = kernel(self, images[places], which)
        return images


@cache
def operations_of(augment: str, height: int, width: int, device: torch.device) -> Operations:
    """Return the operations of a policy, for images of one size, on a device."""
    policy = policy_of(augment, height, width)
    tables = torch.stack([_table(operation) for operation in policy.operations])
    matrices = torch.tensor([_matrix(operation, height, width) for operation in policy.operations])
    # grid_sample counts from -1 to 1
    matrices = matrices.mT / torch.tensor([0.5 * width, 0.5 * height])
    factors = [1.0 + operation.magnitude for operation in policy.operations]
    return Operations(
        np.array([_KINDS[operation.name] for operation in policy.operations]),
        tables.to(device),
        matrices.to(device),
        torch.tensor(factors).to(device),
    )


def _table(operation: Operation) -> Tensor:
    """Return the new value of each pixel value, uint8 (256,), by torchvision's kernel."""
    from torchvision.transforms.v2 import functional as kernels

    name, strength = operation
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    match name:
        case "Brightness":
            values = kernels.adjust_brightness(values, 1.0 + strength)
        case "Posterize":
            values = kernels.posterize(values, int(strength))
        case "Solarize":
            values = kernels.solarize(values, 255 * strength)
        case "Invert":
            values = kernels.invert(values)
    return values.flatten()


def _matrix(operation: Operation, height: int, width: int) -> list[list[float]]:
    """Return where a pixel comes from, (2, 3), in pixels from the centre of the image."""
    name, strength = operation
    match name:
        case "ShearX":  # the first row stays
            return [[1.0, strength, strength * height / 2], [0.0, 1.0, 0.0]]
        case "ShearY":  # the first column stays
            return [[1.0, 0.0, 0.0], [strength, 1.0, strength * width / 2]]
        case "TranslateX":
            return [[1.0, 0.0, -float(int(strength))], [0.0, 1.0, 0.0]]
        case "TranslateY":
            return [[1.0, 0.0, 0.0], [0.0, 1.0, -float(int(strength))]]
        case "Rotate":
            cos, sin = math.cos(math.radians(strength)), math.sin(math.radians(strength))
            return [[cos, -sin, 0.0], [sin, cos, 0.0]]
    return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]


def _by_table(operations: Operations, images: Tensor, which: Tensor) -> Tensor:
    pixels = images.flatten(1).long()
    return operations.tables[which].gather(1, pixels).view_as(images)


def _affine(operations: Operations, images: Tensor, which: Tensor) -> Tensor:
    """Take the nearest pixel; black from outside."""
    height, width = images.shape[-2:]
    grid = _pixel_grid(height, width, images.device).view(1, -1, 3)
    places = (grid @ operations.matrices[which]).view(-1, height, width, 2)
    taken = functional.grid_sample(images.float(), places, mode="nearest", align_corners=False)
    return taken.to(torch.uint8)


def _pixel_grid(height: int, width: int, device: torch.device) -> Tensor:
    """Return (x, y, 1) of each pixel (H, W, 3), in pixels from the centre of the image."""
    x = torch.arange(width, device=device) - (width - 1) / 2
    y = torch.arange(height, device=device) - (height - 1) / 2
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns, rows, torch.ones_like(rows)], dim=-1)


def _color(operations: Operations, images: Tensor, which: Tensor) -> Tensor:
    return _blend(images, _grey(images), operations.factors[which])


def _contrast(operations: Operations, images: Tensor, which: Tensor) -> Tensor:
    mean = _grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return _blend(images, mean, operations.factors[which])


def _sharpness(operations: Operations, images: Tensor, which: Tensor) -> Tensor:
    """Blend with the blurred image, but for the outermost pixels."""
    if min(images.shape[-2:]) <= 2:
        return images
    kernel = torch.full((1, 1, 3, 3), 1 / 13, device=images.device)
    kernel[0, 0, 1, 1].fill_(5 / 13)  # a number that is assigned may be sent, with a wait
    blurred = images.float()
    inner = functional.conv2d(blurred.flatten(0, 1)[:, None], kernel).round_()
    blurred[:, :, 1:-1, 1:-1] = inner.view(*images.shape[:2], *inner.shape[-2:])
    return _blend(images, blurred, operations.factors[which])


def _grey(images: Tensor) -> Tensor:
    """Return the grey values (B, 1, H, W), in float32 but whole."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.tensor_split(3, dim=1)
    grey: Tensor = red.mul(_GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
    return grey.floor_()


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    """Return others + factor (images - others), one factor for each image, cut to 0..255."""
    mixed = torch.lerp(others.expand(images.shape), images.float(), factors.view(-1, 1, 1, 1))
    return mixed.clamp_(0, 255).to(torch.uint8)


def _autocontrast(operations: Operations, images: Tensor, which: Tensor) -> Tensor:
    """Stretch each channel to 0..255, as torchvision, whose kernel waits for the device."""
    values = images.float()
    darkest = values.amin(dim=(2, 3), keepdim=True)
    extent = values.amax(dim=(2, 3), keepdim=True) - darkest
    is_flat = extent == 0
    scale = torch.where(is_flat, 1.0, extent * (1 / 255))
    stretched = (values - torch.where(is_flat, 0.0, darkest)) / scale
    return stretched.clamp_(0, 255).to(torch.uint8)


def _equalize(operations: Operations, images: Tensor, which: Tensor) -> Tensor:
    from torchvision.transforms.v2 import functional as kernels

    changed: Tensor = kernels.equalize(images)
    return changed


# In the order of the kinds, from 1 on.
_KERNELS: tuple[Callable[[Operations, Tensor, Tensor], Tensor], ...] = (
    *(_by_table, _affine, _color, _contrast, _sharpness, _autocontrast, _equalize),
)
