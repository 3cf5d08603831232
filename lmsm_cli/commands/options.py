"""Typer options made from the fields of Config, so that no choice is written twice.

A command that takes a run's choices declares `Preset`, `ConfigFile` and `Margin`, is decorated with
`with_config_flags`, and hands what it got to `resolve_options`.
"""

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from lmsm_cli.config import Config, flag_name
from lmsm_cli.layers import Layer, Resolved, resolve

Preset = Annotated[str | None, typer.Option(help="Start from a shipped preset (`lmsm presets` lists them).")]  # fmt: skip
ConfigFile = Annotated[Path | None, typer.Option(help="Start from a YAML file, over the preset.")]
Margin = Annotated[str | None, typer.Option(metavar="M", help="Short for margin=M in --loss.", rich_help_panel="Loss")]  # fmt: skip


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


def resolve_options(
    preset: str | None, config: Path | None, margin: str | None, flags: Mapping[str, Any]
) -> Resolved:
    """Return the config of default < preset < config file < flags, with the origin of each value.

    Raises LmsmError that lists every mistake.
    """
    layers = [Layer.of_preset(preset)] if preset else []
    layers += [Layer.of_file(config)] if config else []
    layers.append(Layer.of_flags({**flags, "margin": margin}))
    from lmsm_cli.losses import check_loss  # imports torch, which --help must not wait for

    return resolve(layers, check_loss)


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    extra = field.json_schema_extra
    assert isinstance(extra, dict)
    text = field.description or ""
    default = (
        ""
        if field.default is None or "(default:" in text
        else f" (default: {_shown(field.default)})"
    )
    flag = flag_name(name)
    is_switch = field.annotation is bool
    option = typer.Option(
        f"{flag}/--no-{flag.removeprefix('--')}" if is_switch else flag,
        help=text + default,
        metavar=None if is_switch else _metavar(field),
        rich_help_panel=str(extra["panel"]),
        show_default=False,
    )
    kind = bool if is_switch else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
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
