"""The backbones of lmsm's own: images to features.

A backbone maps normalised images (N, C, H, W) to features (N, num_features). To add one, write a
function `channels -> Backbone` and name it in `BACKBONES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Backbone:
    """A feature extractor and the shapes around it."""

    module: nn.Module
    num_features: int
    """Width of what `module` returns, (N, num_features)."""
    embedding: int
    """Width that a neck brings the features to."""
    smallest_image: int
    """Side in pixels below which the pooling stages run out of image."""


def _seed_resnet18(channels: int) -> Backbone:
    """torchvision's ResNet-18 with a 3x3 stem of stride 1, max-pool kept, as the seed adapts it."""
    return Backbone(_resnet18(channels, pool=True), 512, 64, 8)


def _cifar_resnet18(channels: int) -> Backbone:
    """The field's CIFAR ResNet-18: 3x3 stem and no max-pool."""
    return Backbone(_resnet18(channels, pool=False), 512, 512, 8)


def _resnet18(channels: int, *, pool: bool) -> nn.Module:
    from torchvision.models import resnet18

    net: nn.Module = resnet18(weights=None)
    net.conv1 = nn.Conv2d(channels, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    if not pool:
        net.maxpool = nn.Identity()
    net.fc = nn.Identity()
    return net


def _vgg16(channels: int, *, batch_norm: bool) -> Backbone:
    """torchvision's VGG-16 features and the seed's first hidden layer, 512 -> 128.

    Without BatchNorm it starts from He et al.'s fan-in initialisation (2015), which keeps the size
    of the features from layer to layer. torchvision's counts the outputs, and shrinks them to a
    thirteenth.
    """
    from torchvision.models import vgg16, vgg16_bn

    features = (vgg16_bn if batch_norm else vgg16)(weights=None).features
    if channels != 3:
        features[0] = nn.Conv2d(channels, 64, 3, padding=1)
    # Pooling to 1x1 changes nothing at 32x32 (five halvings) and admits larger images.
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    hidden = nn.Sequential(nn.Linear(512, 128), nn.ReLU(), nn.Dropout())
    if not batch_norm:
        for layer in (*features, *hidden):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
    return Backbone(nn.Sequential(features, pool, hidden), 128, 32, 32)


class Block(nn.Module):
    """Basic residual block whose shortcut is parameter-free (He et al. 2016, option A)."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.stride, self.padding = stride, (after - before) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output; the shortcut subsamples and pads channels with zeros."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride != 1:
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return torch.relu(y + x)


def _resnet32(channels: int) -> Backbone:
    """He et al.'s ResNet-32 for CIFAR as LDAM-DRW trains it: 0.46 million parameters."""
    widths = [(16, 16, 1)] * 5
    for width in (32, 64):
        widths += [(width // 2, width, 2), *[(width, width, 1)] * 4]
    net = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        *[Block(*width) for width in widths],
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return Backbone(net, 64, 64, 8)


def _paper_net(
    stem: int, stages: tuple[tuple[int, int], ...], embedding: int, kernel: int = 3
) -> Callable[[int], Backbone]:
    """Return a net of Liu et al. 2016, table 1: `stages` of (width, convolutions), each pooled.

    Convolution-BatchNorm-PReLU, MSRA initialisation, average pooling at the end only where an
    image larger than the paper's leaves more than the paper's 4x4 (CIFAR) or 3x3 (MNIST) grid.
    """

    def build(channels: int) -> Backbone:
        layers: list[nn.Module] = []
        width = channels
        for after, repeats in ((stem, 1 if stem else 0), *stages):
            for _ in range(repeats):
                conv = nn.Conv2d(width, after, kernel, padding=kernel // 2, bias=False)
                nn.init.kaiming_normal_(conv.weight)
                layers += [conv, nn.BatchNorm2d(after), nn.PReLU()]
                width = after
            if (after, repeats) in stages:
                layers.append(nn.MaxPool2d(2))
        grid = 4 if channels == 3 else 3
        layers += [nn.AdaptiveAvgPool2d(grid), nn.Flatten()]
        return Backbone(nn.Sequential(*layers), width * grid * grid, embedding, 8)

    return build


BACKBONES: Mapping[str, Callable[[int], Backbone]] = {
    "resnet18": _seed_resnet18,
    "vgg16": lambda channels: _vgg16(channels, batch_norm=False),
    "vgg16_bn": lambda channels: _vgg16(channels, batch_norm=True),
    "resnet18-cifar": _cifar_resnet18,
    "resnet32": _resnet32,
    "paper-mnist": _paper_net(64, ((64, 3), (64, 3), (64, 3)), 256),
    "paper-cifar10": _paper_net(64, ((64, 4), (96, 4), (128, 4)), 256),
    "paper-cifar100": _paper_net(96, ((96, 4), (192, 4), (384, 4)), 512),
    "paper-2d": _paper_net(0, ((32, 2), (64, 2), (128, 2)), 2, kernel=5),
}


def first_non_finite(state: Mapping[str, Any]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity, None if all are finite."""
    for name, value in state.items():
        if isinstance(value, Tensor) and not bool(value.isfinite().all()):
            return name
    return None
