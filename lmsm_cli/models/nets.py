"""A net by its name: lmsm's own, torchvision's, timm's, the user's; and which images it takes.

Own names come first. `torchvision:` and `timm:` before a name say whose net is meant.
"""

from functools import lru_cache

import torch
from torch import nn

from lmsm_cli.errors import MALFORMED, LmsmError, first_line
from lmsm_cli.losses import own
from lmsm_cli.models.backbones import BACKBONES, Backbone
from lmsm_cli.models.own import own_net
from lmsm_cli.models.timm_nets import check_timm_name, timm_net
from lmsm_cli.models.torchvision_nets import check_torchvision_name, is_torchvision, torchvision_net

# What a forward pass raises for images of a size that it cannot take.
_UNFIT = (*MALFORMED, LmsmError)
# Sides in pixels that are tried for the nearest right one; 14 is the patch of some transformers.
_SIDES = sorted({*range(16, 513, 16), *range(14, 519, 14)})
_MOST_TRIED = 12


def library_of(model: str) -> tuple[str, str]:
    """Return whose net a name means, and its name there: `lmsm`, `torchvision`, `timm`, or `own`
    for a `module:function`."""
    if model in BACKBONES:
        return "lmsm", model
    if own.is_place(model):
        return "own", model
    library, colon, name = model.partition(":")
    if colon:
        return library, name
    place = None if is_torchvision(model) else own.place_of(model, own.MODELS_GROUP)
    return ("own", place) if place else ("torchvision", model)


def build_backbone(model: str, channels: int, image_size: int) -> Backbone:
    """Return a fresh backbone, its weights drawn from torch's global generator.

    Args:
        model: a name as `--model` takes it.
        channels, image_size: of the images; the size is their side in pixels.
    """
    library, name = library_of(model)
    if library == "lmsm":
        return BACKBONES[name](channels)
    if library == "own":
        return own_net(name, channels, image_size)
    return (timm_net if library == "timm" else torchvision_net)(name, channels, image_size)


def without_memory(model: str, channels: int, image_size: int) -> Backbone:
    """Return a backbone whose tensors have shapes alone; it draws nothing."""
    try:
        if library_of(model)[0] != "own":  # whose functions may do anything
            with torch.device("meta"):
                return build_backbone(model, channels, image_size)
    except (NotImplementedError, RuntimeError) as error:
        if "meta" not in str(error):
            raise
    with torch.random.fork_rng(devices=[]):  # torchvision's RegNets compute with tensors
        made = build_backbone(model, channels, image_size)
    return Backbone(made.module.to("meta"), made.num_features, made.embedding, made.smallest_image)


def check_model(model: str, *, channels: int, image_size: int) -> None:
    """Raise LmsmError where there is no such net, or it cannot take such images.

    It builds the net without memory, so that it can be checked before any data is read.

    Args:
        model: a name as `--model` takes it.
        channels, image_size: of the images; the size is their side in pixels.
    """
    library, name = library_of(model)
    if library == "own":
        without_memory(model, channels, image_size)
        return
    if library != "lmsm":
        (check_timm_name if library == "timm" else check_torchvision_name)(name)
        if reason := _unfit(model, channels, image_size):
            _refuse_size(model, channels, image_size, reason)
        return
    smallest = without_memory(model, channels, image_size).smallest_image
    if image_size < smallest:
        raise LmsmError(
            f"{model} needs images of at least {smallest} pixels, these have {image_size}; "
            f"take resnet18 or a paper- net"
        )


@lru_cache(maxsize=64)
def _unfit(model: str, channels: int, image_size: int) -> str:
    """Return why a library's net cannot take images of a size; "" where it can."""
    try:
        net = without_memory(model, channels, image_size)
        return _unfit_features(net, channels, image_size)
    except _UNFIT as error:
        return first_line(error)


@torch.no_grad()
def _unfit_features(net: Backbone, channels: int, image_size: int) -> str:
    images = torch.empty(2, channels, image_size, image_size, device="meta")
    features = net.module.eval()(images)
    if not isinstance(features, torch.Tensor) or features.shape != (2, net.num_features):
        shape = tuple(getattr(features, "shape", ()))
        return f"it gives no row of {net.num_features} features for an image, but {shape}"
    return ""


def _refuse_size(model: str, channels: int, image_size: int, reason: str) -> None:
    """Raise LmsmError with the nearest size that the net takes."""
    nearest = sorted(_SIDES, key=lambda side: (abs(side - image_size), side))
    tried = (*nearest[:_MOST_TRIED], 224, 256, 299, 384)
    fitting = next((side for side in tried if not _unfit(model, channels, side)), None)
    way_out = "take another net"
    if fitting is not None:
        way_out = f"it takes {fitting} (--image-size {fitting}, for class folders)"
    raise LmsmError(f"{model} takes no images of {image_size} pixels ({reason}); {way_out}")


def parameter_count(module: nn.Module) -> int:
    """Return the number of weights of a module."""
    return sum(parameter.numel() for parameter in module.parameters())
