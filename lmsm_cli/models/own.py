"""Own nets: a function of the user's, `module:function`, as a backbone, tried on blank images."""

from typing import Any

import torch
from torch import Tensor, nn

from lmsm_cli.errors import LmsmError
from lmsm_cli.losses import own
from lmsm_cli.models.backbones import Backbone

_TRIED = 2  # images of the trial


def own_net(place: str, channels: int, image_size: int) -> Backbone:
    """Return the net that `module:function` makes of a number of channels.

    It maps images (N, C, H, W) to features (N, D). D is its attribute `num_features`, or what it
    gives for blank images.

    Args:
        place: `module:function`; a class does as well.
        channels, image_size: of the images; the size is their side in pixels.

    Raises LmsmError where the function cannot be imported, raises, or makes no such net.
    """
    make = own.load(place, "net")
    if not callable(make):
        raise LmsmError(f"net {place} is no function but of type {type(make).__name__}")
    net = own.calling(f"net {place}", f"called with {channels}, it", lambda: make(channels))
    if not isinstance(net, nn.Module):
        raise LmsmError(f"net {place} returns a {type(net).__name__}, expected a torch.nn.Module")
    images = torch.zeros(_TRIED, channels, image_size, image_size)
    net.eval()
    features = own.calling(
        f"net {place}", f"for images of {image_size} pixels it", lambda: net(images)
    )
    width = _width(place, net, features)
    return Backbone(net.train(), width, width, 1)


def _width(place: str, net: nn.Module, features: Any) -> int:
    """Return D of the features of a trial; raise LmsmError for what are no such features."""
    if not isinstance(features, Tensor) or features.ndim != 2 or len(features) != _TRIED:
        shape = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise LmsmError(
            f"net {place} gives {shape} for {_TRIED} images, expected ({_TRIED}, D): a row of "
            "features for each image, as nn.Flatten() gives after pooling, without the last layer"
        )
    width = getattr(net, "num_features", features.shape[1])
    if width != features.shape[1]:
        raise LmsmError(
            f"net {place} has num_features {width}, and gives {features.shape[1]} features"
        )
    if not features.is_meta and not bool(features.isfinite().all()):
        raise LmsmError(f"net {place} gives features with NaN or infinity for blank images")
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in net.parameters())
    if learns and not features.requires_grad:
        raise LmsmError(f"net {place} gives features without a gradient: look for detach()")
    return int(width)
