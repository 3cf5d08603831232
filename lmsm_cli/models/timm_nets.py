"""Any net of timm as a backbone, `timm:NAME`: timm leaves out its last layer itself."""

from types import ModuleType
from typing import Any

from torch import nn

from lmsm_cli.errors import LmsmError, did_you_mean, missing_extra
from lmsm_cli.models.backbones import Backbone
from lmsm_cli.models.torchvision_nets import WIDEST_EMBEDDING


def timm_library() -> ModuleType:
    """Return timm. Raises LmsmError with the command that installs it where it is missing."""
    try:
        import timm
    except ImportError as error:
        raise missing_extra("a net of timm", error, "timm") from None
    library: ModuleType = timm
    return library


def timm_net(name: str, channels: int, image_size: int) -> Backbone:
    """Return a net of timm, freshly drawn, without its last layer.

    Args:
        name: as in timm.list_models(), such as `convnext_atto`, with a tag of weights or without.
        channels: of the images.
        image_size: their side in pixels, for which a net of a fixed size is built.

    Raises LmsmError where timm is not installed, or patches do not fill the images.
    """
    net = full_net(name, channels, image_size)
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    side = patch[0] if isinstance(patch, tuple) else patch
    if isinstance(side, int) and image_size % side:  # the pixels beyond would be cut off
        raise LmsmError(f"its patches of {side} pixels do not fill images of {image_size}")
    width = int(getattr(net, "head_hidden_size", None) or net.num_features)  # type: ignore[arg-type]
    return Backbone(net, width, min(width, WIDEST_EMBEDDING), 1)


def check_timm_name(name: str) -> None:
    """Raise LmsmError, with the nearest right one, where timm is missing or has no such net."""
    timm = timm_library()
    if not timm.is_model(name.partition(".")[0]):
        known = timm.list_models()
        near = did_you_mean(name, known)
        hint = "" if near.startswith(" (known:") else near
        raise LmsmError(f"timm has no net {name!r}{hint}; timm.list_models() names all")
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError:
        net, _, tag = name.partition(".")
        tags = [one.partition(".")[2] for one in timm.list_pretrained(f"{net}.*")]
        raise LmsmError(f"timm has no weights {tag!r} of {net}{did_you_mean(tag, tags)}") from None


def full_net(
    name: str, channels: int = 3, image_size: int | None = None, **pretrained: Any
) -> nn.Module:
    """Return a net of timm without its last layer; of its usual size where no size is given."""
    timm = timm_library()
    options = {"num_classes": 0, "in_chans": channels, **pretrained}
    known = timm.get_pretrained_cfg(name)
    if image_size is not None and known is not None and known.fixed_input_size:
        options["img_size"] = image_size
    net: nn.Module = timm.create_model(name, **options)
    return net


def timm_normalisation(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation, per colour, that a net's weights were trained with."""
    known = timm_library().get_pretrained_cfg(name)
    if known is None:
        raise LmsmError(f"timm knows no weights of {name}")
    return tuple(known.mean), tuple(known.std)
