"""Own losses: a class of the user's as a head, tried out before it is trained with.

It is a subclass of `Head`, or a plain module that takes class scores: see `kind_of`.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn

from lmsm_cli.errors import ArgumentError, LmsmError, did_you_mean
from lmsm_cli.losses import own
from lmsm_cli.losses.head import Head, LinearHead, MarginHead
from lmsm_cli.losses.options import convert

# What a constructor is given beside the options of the spec.
_GIVEN = ("self", "num_features", "num_classes", "class_counts", "class_margins", "bias")
_WAY_OUT = (
    "write `class MyLoss(lmsm_cli.LinearHead)` with a method `_losses(self, features, labels, "
    "progress)` that returns one loss an image of `self._scores(features)`, as in docs/extend.md"
)


class ScoresLoss(LinearHead):
    """A linear layer under a plain module: `module(scores, labels)` gives one loss per image."""

    def __init__(
        self, num_features: int, num_classes: int, module: nn.Module, *, bias: bool = False
    ) -> None:
        super().__init__(num_features, num_classes, bias)
        self.module = module

    def _losses(self, features: Tensor, labels: Tensor, progress: float | Tensor) -> Tensor:
        losses: Tensor = self.module(self._scores(features), labels)
        if "reduction" in _parameters(type(self.module)) and getattr(losses, "ndim", None) == 0:
            raise ArgumentError(
                "one loss for all images, expected one for each: give it reduction=none, as in "
                "torch.nn:CrossEntropyLoss:reduction=none"
            )
        return losses

    def _class_name(self) -> str:
        return type(self.module).__name__

    def extra_repr(self) -> str:
        """Return the sizes for `print(head)`; the module shows its own options."""
        num_classes, num_features = self.weight.shape
        return f"num_features={num_features}, num_classes={num_classes}"


def kind_of(place: str) -> type[nn.Module]:
    """Return the class at `module:Class`: a subclass of Head, or a plain module on class scores.

    A plain module has `forward(scores, labels)`, which returns the loss of each image (N,), and its
    constructor takes neither sizes nor class weights; a linear layer is put under it. Raises
    LmsmError for anything else, with what to write.
    """
    found = own.load(place, "loss")
    what = f"loss {place}"
    if not isinstance(found, type):
        raise LmsmError(f"{what} is no class but of type {type(found).__name__}: {_WAY_OUT}")
    if issubclass(found, Head):
        if missing := sorted(found.__abstractmethods__):
            raise LmsmError(f"{what} lacks the method {', '.join(missing)}")
        return found
    if not issubclass(found, nn.Module):
        raise LmsmError(f"{what} is neither a Head nor a torch.nn.Module: {_WAY_OUT}")
    if {"num_features", "num_classes", "in_features"} & _parameters(found).keys():
        raise LmsmError(
            f"{what} is a module with class weights of its own, but no Head, so nothing says what "
            f"its scores without a margin are: {_WAY_OUT}"
        )
    return found


def _parameters(kind: type) -> dict[str, inspect.Parameter]:
    try:
        signature = inspect.signature(cast(Any, kind).__init__, eval_str=True)
    except (NameError, TypeError, ValueError, SyntaxError):  # an annotation that cannot be read
        signature = inspect.signature(cast(Any, kind).__init__)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {key: one for key, one in signature.parameters.items() if one.kind not in kinds}


def options_of_own(kind: type) -> dict[str, inspect.Parameter]:
    """Return the options of an own loss: its constructor's parameters but those all are given."""
    given = (*_GIVEN, "total_steps")
    return {name: one for name, one in _parameters(kind).items() if name not in given}


def usual_options(place: str) -> dict[str, Any]:
    """Return what the options of an own loss are where they are not given, as specs write them."""
    usual = {key: one.default for key, one in options_of_own(kind_of(place)).items()}
    return {
        key: str(value).lower() if isinstance(value, bool | NoneType) else value
        for key, value in usual.items()
    }


def build_own(
    place: str,
    texts: Mapping[str, str],
    num_features: int,
    num_classes: int,
    class_counts: Tensor | None,
    choices: Mapping[str, Any],
) -> Head:
    """Return the head of an own loss.

    Args:
        place: `module:Class`.
        texts: the options of its spec, as they are written.
        num_features, num_classes: the sizes of the class weights.
        class_counts: the training images of each class (C,), for a constructor that takes them.
        choices: as in `HeadChoices`.

    Raises LmsmError where that cannot be.
    """
    kind = kind_of(place)
    options = _converted(place, kind, texts)
    takes = _parameters(kind)
    more = {"class_counts": class_counts, **choices}
    keys = (more.keys() & takes.keys()) - {"init", "class_names"}
    given = {key: more[key] for key in keys}
    if isinstance_head := issubclass(kind, Head):
        arguments: tuple[Any, ...] = (num_features, num_classes)
    else:
        arguments, given = (), {k: v for k, v in given.items() if k == "class_counts"}
    for key in ("bias", "class_margins"):
        if choices.get(key) and key not in takes and (isinstance_head or key != "bias"):
            raise LmsmError(f"loss {place}: its constructor takes no {key}")
    make: Callable[..., Any] = kind
    made = own.calling(
        f"loss {place}", "its constructor", lambda: make(*arguments, **given, **options)
    )
    bias = bool(choices.get("bias"))
    head: Head = made if isinstance_head else ScoresLoss(num_features, num_classes, made, bias=bias)
    shape = tuple(getattr(head, "weight", torch.empty(0)).shape)
    if shape != (num_classes, num_features):
        raise LmsmError(
            f"loss {place}: its `weight` has shape {shape}, expected (num_classes, num_features); "
            "give both to super().__init__, in the order num_features, num_classes"
        )
    return head


def _converted(place: str, kind: type, texts: Mapping[str, str]) -> dict[str, Any]:
    known = options_of_own(kind)
    for key in texts.keys() - known.keys():
        hint = did_you_mean(key, known) if known else " (it has none)"
        raise LmsmError(f"loss {place} has no option {key!r}{hint}")
    return {key: _value(text, known[key], f"{place}:{key}") for key, text in texts.items()}


def _value(text: str, option: inspect.Parameter, where: str) -> Any:
    """Return a text as its parameter wants it: by its annotation, else by its default."""
    kind = option.annotation
    if kind is inspect.Parameter.empty or isinstance(kind, str):
        kind = str if option.default in (None, option.empty) else type(option.default)
    members = {kind, *get_args(kind)} - {NoneType}
    if text == "none" and NoneType in get_args(kind):
        return None
    if bool in members and text in ("true", "false"):
        return text == "true"
    if bool in members:
        raise ArgumentError(f"{where} is {text!r}: give true or false")
    if str in members:
        return text
    return convert(text, kind, where)


def try_out(head: Head, place: str) -> None:
    """Raise LmsmError unless the head gives sound losses, scores and gradients of a small batch."""
    num_classes, num_features = head.weight.shape
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(6, num_features, generator=generator, requires_grad=True)
    labels = torch.arange(6) % num_classes
    was_training, state = head.training, torch.get_rng_state()
    try:
        losses = own.calling(
            f"loss {place}",
            "a trial call",
            lambda: _losses_or_place(head.train(), features, labels, place),
        )
        _check_tensor(place, "losses", losses, (6,), "one for each image; do not average them")
        scores = own.calling(f"loss {place}", "`logits`", lambda: head.eval().logits(features))
        _check_tensor(place, "scores", scores, (6, num_classes), "one for each image and class")
        _check_gradient(place, head, features, losses)
    finally:
        head.train(was_training)
        head.zero_grad(set_to_none=True)
        torch.set_rng_state(state)


def _losses_or_place(head: Head, features: Tensor, labels: Tensor, place: str) -> Tensor:
    """Return the losses of a batch; say where they are written where a head refuses them."""
    try:
        return head.losses(features, labels, progress=0.5)
    except ArgumentError as error:
        raise LmsmError(f"{error}{_written_at(head, place)}") from None


def _written_at(head: Head, place: str) -> str:
    """Return where the losses of an own head are worked out, as ` (NAME in FILE, line N)`.

    Empty where that is not in the file of its module.
    """
    kind: Any = type(head.module) if isinstance(head, ScoresLoss) else type(head)
    name = "forward" if isinstance(head, ScoresLoss) else "_losses"
    if isinstance(head, MarginHead) and kind._losses is MarginHead._losses:
        name = "margin_function"
    code = getattr(inspect.unwrap(getattr(kind, name)), "__code__", None)
    file = own.source_of(place.partition(":")[0])
    if code is None or file is None or Path(code.co_filename) != file:
        return ""
    return f" ({name} in {file.name}, line {code.co_firstlineno})"


def _check_tensor(place: str, what: str, values: Any, shape: tuple[int, ...], wanted: str) -> None:
    if not isinstance(values, Tensor):
        raise LmsmError(
            f"loss {place}: a trial call gives {what} of type {type(values).__name__}, expected a "
            f"tensor {shape}, {wanted}"
        )
    if tuple(values.shape) != shape:
        raise LmsmError(
            f"loss {place}: a trial call gives {what} of shape {tuple(values.shape)}, expected "
            f"{shape}, {wanted}"
        )
    if not bool(values.isfinite().all()):
        raise LmsmError(f"loss {place}: a trial call gives {what} with NaN or infinity")


def _check_gradient(place: str, head: Head, features: Tensor, losses: Tensor) -> None:
    if losses.requires_grad:
        own.calling(
            f"loss {place}",
            "the gradient of a trial call",
            lambda: torch.autograd.backward(losses.sum()),
        )
    if features.grad is None:
        raise LmsmError(
            f"loss {place}: no gradient reaches the features, so the net would learn nothing; look "
            "for detach(), no_grad, item() or argmax"
        )
    parameters = (one.grad for one in head.parameters() if one.grad is not None)
    gradients = [features.grad, *parameters]
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise LmsmError(f"loss {place}: the gradient of a trial call has NaN or infinity")
    if not any(bool(gradient.any()) for gradient in gradients):
        raise LmsmError(f"loss {place}: the gradient of a trial call is 0 everywhere")
