"""The losses, by name: `build_head("lsoftmax:margin=4", num_features, num_classes)`.

`HEADS` is the list of what there is; the options of a spec are the keyword-only arguments of the
head's own constructor, converted and checked by their annotations.
"""

import inspect
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from torch import Tensor

from lmsm_cli.errors import LmsmError, did_you_mean
from lmsm_cli.losses.head import Head
from lmsm_cli.losses.lsoftmax import LSoftmaxLoss, l_softmax_loss
from lmsm_cli.losses.margins import psi
from lmsm_cli.losses.plain import SoftmaxLoss
from lmsm_cli.spec import parse_spec

HEADS: dict[str, type[Head]] = {"softmax": SoftmaxLoss, "lsoftmax": LSoftmaxLoss}

__all__ = ["HEADS", "Head", "LSoftmaxLoss", "SoftmaxLoss", "build_head", "check_loss", "l_softmax_loss", "psi"]  # fmt: skip


def build_head(
    spec: str, num_features: int, num_classes: int, class_counts: Tensor | None = None
) -> Head:
    """Return the head that a spec such as `lsoftmax:margin=4` names.

    `class_counts` (C,) are the training images per class. Raises LmsmError for an unknown name or
    option, with the nearest one, and for values out of range.
    """
    name, texts = parse_spec(spec)
    if name not in HEADS:
        raise LmsmError(f"no loss {name!r}{did_you_mean(name, HEADS)}")
    known = _options(HEADS[name])
    own: dict[str, Any] = {}
    for key, text in texts.items():
        if key not in known:
            hint = did_you_mean(key, known) if known else " (it has none)"
            raise LmsmError(f"loss {name!r} has no option {key!r}{hint}")
        own[key] = _convert(text, known[key], f"{name}:{key}")
    return HEADS[name](num_features, num_classes, class_counts=class_counts, **own)


def check_loss(spec: str) -> None:
    """Raise LmsmError where `build_head` would, by building a tiny head and dropping it."""
    build_head(spec, 2, 2)


def _options(head: type[Head]) -> dict[str, Any]:
    parameters = inspect.signature(head.__init__, eval_str=True).parameters.values()
    return {
        parameter.name: parameter.annotation
        for parameter in parameters
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name != "class_counts"
    }


def _convert(text: str, annotation: Any, place: str) -> Any:
    """Return the text as the annotated type: a number, or one of a Literal's names."""
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(kind for kind in get_args(annotation) if kind is not NoneType)
    if get_origin(annotation) is Literal:
        if text not in get_args(annotation):
            raise LmsmError(
                f"{place} has no value {text!r}{did_you_mean(text, get_args(annotation))}"
            )
        return text
    try:
        return annotation(text)
    except ValueError:
        kind = {int: "an integer", float: "a number"}[annotation]
        raise LmsmError(f"{place} is {text!r}: give {kind}") from None
