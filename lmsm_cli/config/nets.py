"""What may be chosen of the net, without torch: its name, what is frozen, its learning rate.

A name of lmsm's own comes first, so that it keeps its meaning; `torchvision:` and `timm:` before a
name say whose net is meant.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from lmsm_cli.errors import LmsmError, did_you_mean
from lmsm_cli.losses import own

OWN_NETS = (
    "resnet18", "vgg16", "vgg16_bn", "resnet18-cifar", "resnet32", "paper-mnist", "paper-cifar10",
    "paper-cifar100", "paper-2d",
)  # fmt: skip
# torchvision's classification nets; those of a newer torchvision go with `torchvision:` before.
TORCHVISION_NETS = (
    "alexnet", "convnext_base", "convnext_large", "convnext_small", "convnext_tiny", "densenet121",
    "densenet161", "densenet169", "densenet201", "efficientnet_b0", "efficientnet_b1",
    "efficientnet_b2", "efficientnet_b3", "efficientnet_b4", "efficientnet_b5", "efficientnet_b6",
    "efficientnet_b7", "efficientnet_v2_l", "efficientnet_v2_m", "efficientnet_v2_s", "googlenet",
    "inception_v3", "maxvit_t", "mnasnet0_5", "mnasnet0_75", "mnasnet1_0", "mnasnet1_3",
    "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small", "regnet_x_16gf", "regnet_x_1_6gf",
    "regnet_x_32gf", "regnet_x_3_2gf", "regnet_x_400mf", "regnet_x_800mf", "regnet_x_8gf",
    "regnet_y_128gf", "regnet_y_16gf", "regnet_y_1_6gf", "regnet_y_32gf", "regnet_y_3_2gf",
    "regnet_y_400mf", "regnet_y_800mf", "regnet_y_8gf", "resnet101", "resnet152", "resnet34",
    "resnet50", "resnext101_32x8d", "resnext101_64x4d", "resnext50_32x4d", "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0", "shufflenet_v2_x1_5", "shufflenet_v2_x2_0", "squeezenet1_0",
    "squeezenet1_1", "swin_b", "swin_s", "swin_t", "swin_v2_b", "swin_v2_s", "swin_v2_t", "vgg11",
    "vgg11_bn", "vgg13", "vgg13_bn", "vgg19", "vgg19_bn", "vit_b_16", "vit_b_32", "vit_h_14",
    "vit_l_16", "vit_l_32", "wide_resnet101_2", "wide_resnet50_2",
)  # fmt: skip
NETS = (*OWN_NETS, *TORCHVISION_NETS)
# A name as a library has it, with timm's tag of weights: `resnet50.a1_in1k`. No hub and no path:
# building a net must load nothing.
LIBRARY_NET = r"(torchvision|timm):[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?"
# A function of the user's that makes a net, or a name under which an installed package offers one.
OWN_NET = r"(?!(torchvision|timm):)[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*"


def check_net_name(name: str) -> str:
    """Return the name of a net. Raises ValueError, with the nearest right one, for what is none."""
    try:
        if name in NETS or re.fullmatch(LIBRARY_NET, name) or own_net_place(name):
            return name
    except LmsmError as error:  # of two packages that offer it
        raise ValueError(str(error)) from None
    library, colon, _ = name.partition(":")
    if colon:
        where = "" if library in ("torchvision", "timm") else f"of {library!r} "
        raise ValueError(
            f"no net {where}has such a name; give torchvision:NAME or timm:NAME, or "
            "your own as module:function"
        )
    hint = did_you_mean(name, NETS)
    if hint.startswith(" (known:"):
        own = ", ".join(OWN_NETS)
        hint = f" (known: {own}, torchvision's as in resnet50, and timm:NAME)"
    raise ValueError(f"there is no such net{hint}")


def own_net_place(name: str) -> str | None:
    """Return the `module:function` of a net that is of no library; None for all other names.

    Raises LmsmError where two packages offer one name.
    """
    if name in NETS or re.fullmatch(LIBRARY_NET, name):
        return None
    return own.place_of(name, own.MODELS_GROUP)


def _check_frozen(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or re.fullmatch("backbone|features|[1-9][0-9]*", str(value)):
        return value if value is None else str(value)
    raise ValueError("give backbone, features, or a number of stages from 1 on")


def _check_backbone_lr(value: Any) -> Any:
    """Name the way to what a rate of 0 is for: weights that stay, and cost no gradient."""
    if isinstance(value, bool):  # pydantic would take true for 1
        raise ValueError("true and false are not numbers")
    try:
        rate = float(value)
    except (TypeError, ValueError):
        return value
    if rate <= 0:
        raise ValueError("give a number above 0; --freeze backbone keeps the weights as they are")
    return value


Model = Annotated[
    str,
    AfterValidator(check_net_name),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(NETS)},
                {"type": "string", "pattern": f"^({LIBRARY_NET}|{OWN_NET})$"},
            ]
        }
    ),
]
Frozen = Annotated[
    str,
    BeforeValidator(_check_frozen),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": "^(backbone|features|[1-9][0-9]*)$"},
                {"type": "integer", "minimum": 1},
            ]
        }
    ),
]
BackboneLr = Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_check_backbone_lr)]
