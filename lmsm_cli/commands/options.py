"""Typer options made from the fields of Config, so that no choice is written twice."""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from lmsm_cli.config import Config, flag_name


def with_config_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with one option for each field of Config, passed on as `**flags`.

    Options arrive as the texts that were typed, None where not given: Config alone checks them, so
    that all mistakes are found together.
    """
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = [_parameter(name, field) for name, field in Config.model_fields.items()]

    def wrapped(**options: Any) -> None:
        command(**options)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature([*own, *fields])  # type: ignore[attr-defined]
    return wrapped


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    text = field.description or ""
    default = (
        ""
        if field.default is None or "(default:" in text
        else f" (default: {_shown(field.default)})"
    )
    option = typer.Option(
        flag_name(name),
        help=text + default,
        metavar=_metavar(field),
        rich_help_panel=str(extra["panel"]),
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _metavar(field: FieldInfo) -> str:
    choices = get_args(field.annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return "|".join(choices)
    if field.annotation is int:
        return "INTEGER"
    return "NUMBER" if field.annotation is float else "TEXT"
