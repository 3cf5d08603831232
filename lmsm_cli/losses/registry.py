"""The losses, by name: `build_head("lsoftmax:margin=4", num_features, num_classes)`.

`HEADS` is the list of what there is; the options of a spec are the keyword-only arguments of the
head's own constructor, converted and checked by their annotations.
"""

from collections.abc import Callable
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from lmsm_cli.errors import ArgumentError, LmsmError, did_you_mean
from lmsm_cli.losses.angular import ArcFaceLoss, ASoftmaxLoss, CosFaceLoss
from lmsm_cli.losses.class_priors import BalancedSoftmaxLoss, LDAMLoss, LogitAdjustedLoss, VSLoss
from lmsm_cli.losses.head import AnnealedHead, Head, Init, LinearHead, options_of, whole
from lmsm_cli.losses.lsoftmax import LSoftmaxLoss
from lmsm_cli.losses.softmax import FocalLoss, LargeMarginInSoftmaxLoss, SoftmaxLoss
from lmsm_cli.losses.spec import parse_spec

HEADS: dict[str, type[Head]] = {
    "softmax": SoftmaxLoss,
    "lsoftmax": LSoftmaxLoss,
    "asoftmax": ASoftmaxLoss,
    "cosface": CosFaceLoss,
    "arcface": ArcFaceLoss,
    "large-margin-in-softmax": LargeMarginInSoftmaxLoss,
    "ldam": LDAMLoss,
    "balanced-softmax": BalancedSoftmaxLoss,
    "logit-adjusted": LogitAdjustedLoss,
    "vs": VSLoss,
    "focal": FocalLoss,
}


def build_head(
    spec: str,
    num_features: int,
    num_classes: int,
    class_counts: Tensor | None = None,
    *,
    bias: bool = False,
    init: Init = "default",
    total_steps: int | None = None,
) -> Head:
    """Return the head that a spec such as `lsoftmax:margin=4` names.

    `class_counts` (C,) are the training images per class. `bias` adds one to the scores of a loss that
    is not on angles; `init` is how the class weights start (see `Head.start_as`). `total_steps` takes
    the place of a progress at each call (see `AnnealedHead`); as a progress, it is taken by losses
    without annealing too, which need neither. Raises ArgumentError, a ValueError, for an unknown name or
    option, with the nearest one, and for values out of range.

    >>> build_head("cosface:scale=20", num_features=64, num_classes=10)
    CosFaceLoss(num_features=64, num_classes=10, margin=0.35, scale=20.0, class_chunk=None)
    """
    if not isinstance(spec, str):
        raise ArgumentError(
            f"the loss is of type {type(spec).__name__}: give a text such as lsoftmax:margin=4"
        )
    try:
        name, texts = parse_spec(spec)
    except LmsmError as error:
        raise ArgumentError(str(error)) from None
    if name not in HEADS:
        raise ArgumentError(f"no loss {name!r}{did_you_mean(name, HEADS)}")
    known = options_of(HEADS[name])
    own: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in known:
            hint = did_you_mean(key, known) if known else " (it has none)"
            raise ArgumentError(f"loss {name!r} has no option {key!r}{hint}")
        own[key] = _convert(text, known[key].annotation, f"{name}:{key}")
    if bias and not issubclass(HEADS[name], LinearHead):
        takers = ", ".join(other for other, kind in HEADS.items() if issubclass(kind, LinearHead))
        raise ArgumentError(
            f"loss {name!r} takes no bias: its margin is on angles, and a bias has none; a bias goes with {takers}"
        )
    more: dict[str, Any] = {"bias": bias} if issubclass(HEADS[name], LinearHead) else {}
    if issubclass(HEADS[name], AnnealedHead):
        more["total_steps"] = total_steps
    make: Callable[..., Head] = HEADS[name]
    try:
        head = make(num_features, num_classes, class_counts=class_counts, **own, **more)
        if total_steps is not None:
            whole("total_steps", total_steps, 1)
        if init != "default":  # which is drawn already
            head.start_as(init)
        return head
    except LmsmError as error:
        raise ArgumentError(f"loss {spec!r}: {error}") from None


def check_loss(spec: str) -> None:
    """Raise LmsmError where `build_head` would, by building a tiny head and dropping it."""
    build_head(spec, 2, 2, torch.tensor([2, 1]))


def _convert(text: str, annotation: Any, place: str) -> Any:
    """Return the text as the annotated type: a number, or one of a Literal's names."""
    kinds = set(get_args(annotation) or (annotation,)) - {NoneType, Tensor}
    if get_origin(annotation) is Literal:
        kinds = {annotation}
    names = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    if text in names:
        return text
    numbers = kinds & {int, float}
    for number in numbers:
        try:
            return number(text)
        except ValueError:
            kind = {int: "an integer", float: "a number"}[number]
            or_name = f" or {', '.join(names)}" if names else ""
            raise ArgumentError(f"{place} is {text!r}: give {kind}{or_name}") from None
    raise ArgumentError(f"{place} has no value {text!r}{did_you_mean(text, names)}")
