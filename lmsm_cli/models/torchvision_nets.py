"""Any classification net of torchvision as a backbone: its last layer is replaced by identity."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from lmsm_cli.errors import LmsmError, did_you_mean
from lmsm_cli.models.backbones import Backbone

# Their auxiliary classifiers help a training from scratch at 299 pixels; ours have one loss.
_WITH_AUXILIARY = ("googlenet", "inception_v3")
# Widest embedding that a neck makes of a library's net: 4,096 features of a VGG would cost more
# than the net.
WIDEST_EMBEDDING = 512


def torchvision_net(name: str, channels: int, image_size: int) -> Backbone:
    """Return a classification net of torchvision, freshly drawn, without its last layer.

    Args:
        name: as in torchvision.models, such as `resnet50`.
        channels: 1 or 3; a net takes a grey image as it takes one that is grey in all channels.
        image_size: the images' side in pixels, for which a vision transformer is built.
    """
    net = full_net(name, image_size)
    num_features = _cut_last_layer(net)
    if channels != 3:
        take_channels(net, channels)
    return Backbone(net, num_features, min(num_features, WIDEST_EMBEDDING), 1)


def is_torchvision(name: str) -> bool:
    """Return whether torchvision has such a classification net."""
    from torchvision import models

    return name in models.list_models(module=models)


def check_torchvision_name(name: str) -> None:
    """Raise LmsmError, with the nearest right one, where torchvision has no such net."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise LmsmError(
            f"torchvision has no classification net {name!r}{did_you_mean(name, known)}"
        )


def full_net(name: str, image_size: int | None = None) -> nn.Module:
    """Return a net as torchvision has it; of its usual size where no size is given."""
    from torchvision import models

    options: dict[str, Any] = {}
    if name in _WITH_AUXILIARY:
        options = {"aux_logits": False, "init_weights": True}
    if image_size is not None and name.startswith("vit_"):
        options["image_size"] = image_size
    net: nn.Module = models.get_model(name, weights=None, **options)
    return net


def _cut_last_layer(net: nn.Module) -> int:
    """Replace the layer that gives the classes by identity; return the number of its inputs."""
    *_, (path, last) = [
        (path, layer)
        for path, layer in net.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    ]
    parent, _, child = path.rpartition(".")
    setattr(net.get_submodule(parent), child, nn.Identity())
    return last.in_channels if isinstance(last, nn.Conv2d) else last.in_features


def take_channels(net: nn.Module, channels: int) -> None:
    """Let a net for colour images take grey ones, or the other way round, in place."""
    path, first = first_convolution(net)
    parent, _, child = path.rpartition(".")
    options = {
        name: getattr(first, name)
        for name in inspect.signature(nn.Conv2d).parameters
        if name not in ("in_channels", "bias", "device", "dtype")
    }
    new = nn.Conv2d(channels, bias=first.bias is not None, device=first.weight.device, **options)
    with torch.no_grad():
        new.weight.copy_(in_channels(first.weight, channels))
        if first.bias is not None and new.bias is not None:
            new.bias.copy_(first.bias)
    setattr(net.get_submodule(parent), child, new)


def first_convolution(net: nn.Module) -> tuple[str, nn.Conv2d]:
    """Return the convolution that takes the image, and its name."""
    return next((path, one) for path, one in net.named_modules() if isinstance(one, nn.Conv2d))


def in_channels(weight: Tensor, channels: int) -> Tensor:
    """Return the weight (O, I, H, W) of a first convolution for images of other channels.

    For grey images it is the sum over the colours: the answers are those to the image with all
    three channels alike. For colour images each channel gets a third of the grey weight.
    """
    if weight.shape[1] == channels:
        return weight
    return weight.sum(1, keepdim=True).expand(-1, channels, -1, -1) / channels
