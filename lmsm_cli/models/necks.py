"""The necks: the layers between backbone and head."""

from torch import nn

from lmsm_cli.models.backbones import Backbone


def build_neck(kind: str, backbone: Backbone) -> tuple[nn.Module, int]:
    """Return the layers between backbone and head, and the number of features they give.

    `relu` is the seed project's Linear-ReLU-Dropout. Its features are exactly 0 where the ReLU is
    shut, and a margin loss can shut it for good; `prelu` and `bn` always pass a gradient.
    """
    if kind == "none":
        return nn.Identity(), backbone.num_features
    width = backbone.embedding
    linear = nn.Linear(backbone.num_features, width, bias=kind != "bn")
    follow: dict[str, tuple[nn.Module, ...]] = {
        "linear": (),
        "relu": (nn.ReLU(), nn.Dropout(0.25)),
        "prelu": (nn.PReLU(), nn.Dropout(0.25)),
        "bn": (nn.BatchNorm1d(width),),
    }
    return nn.Sequential(linear, *follow[kind]), width
