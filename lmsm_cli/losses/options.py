"""The options of the losses, as the signatures of their constructors have them."""

import inspect
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from torch import Tensor

from lmsm_cli.errors import ArgumentError, did_you_mean

# Keyword-only arguments of a head that are no options of its spec.
_NO_OPTIONS = ("class_counts", "class_margins", "bias", "total_steps")


def options_of(head: type) -> dict[str, inspect.Parameter]:
    """Return the options of a head: the keyword-only parameters of its constructor, by name.

    A parameter `**some: Unpack[SomeOptions]` stands for the keys of that TypedDict. The default of
    a key is the one that it is annotated with, as in `Annotated[int, 3]`, and else None.
    """
    found: dict[str, inspect.Parameter] = {}
    for parameter in inspect.signature(head.__init__, eval_str=True).parameters.values():  # type: ignore[misc]
        if parameter.kind is parameter.KEYWORD_ONLY and parameter.name not in _NO_OPTIONS:
            found[parameter.name] = parameter
        if parameter.kind is parameter.VAR_KEYWORD and get_args(parameter.annotation):
            (options,) = get_args(parameter.annotation)
            found |= _of_typed_dict(options)
    return found


def _of_typed_dict(options: type) -> dict[str, inspect.Parameter]:
    found = {}
    for name, hint in get_type_hints(options, include_extras=True).items():
        kind, default = get_args(hint) if get_origin(hint) is Annotated else (hint, None)
        found[name] = inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
        )
    return found


def convert(text: str, annotation: Any, place: str) -> Any:
    """Return a text as the annotated type: a number, or one of a Literal's names.

    Args:
        text: the value as the user wrote it.
        annotation: int, float, a Literal, or a union of these; None and Tensor in it do not count.
        place: names the option; an error begins with it.

    Raises ArgumentError where the text is neither.
    """
    kinds = {annotation} if get_origin(annotation) is Literal else set(get_args(annotation))
    kinds = (kinds or {annotation}) - {NoneType, Tensor}
    names = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    if text in names:
        return text
    for number in kinds & {int, float}:
        try:
            return number(text)
        except ValueError:
            *others, last = {int: "an integer", float: "a number"}[number], *names
            given = f"{', '.join(others)} or {last}" if others else last
            raise ArgumentError(f"{place} is {text!r}: give {given}") from None
    raise ArgumentError(f"{place} has no value {text!r}{did_you_mean(text, names)}")
