"""Typer options made from the fields of Config, so that no choice is written twice.

A command that takes a run's choices declares `Preset`, `ConfigFile` and `Margin`, is decorated with
`with_config_flags`, and hands what it got to `resolve_options`.
"""

import inspect
import shlex
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from pydantic.fields import FieldInfo

from lmsm_cli.commands import completion
from lmsm_cli.commands.help import HelpAll
from lmsm_cli.config import Config, dump, flag_name, help_text, panels, type_of
from lmsm_cli.config.by_class import format_by_class
from lmsm_cli.config.keys import NONE, NONE_KEYS
from lmsm_cli.config.post_hoc import METHODS
from lmsm_cli.config.resolve import Layer, Resolved, resolve
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import KNOWN


def switch(name: str, text: str, panel: str | None = None, *, short: str | None = None) -> Any:
    """Return the option of a switch, with its help text."""
    return typer.Option(name, *([short] if short else []), help=text, rich_help_panel=panel)


def value(
    metavar: str,
    text: str,
    panel: str | None = None,
    *,
    name: str | None = None,
    complete: Callable[[str], list[str]] | None = None,
    **more: Any,
) -> Any:
    """Return an option that takes a value; `complete` completes a half-typed one.

    `name` is the flag, if not that of the parameter; `more` goes to `typer.Option`.
    """
    names = [name] if name else []
    return typer.Option(
        *names, metavar=metavar, help=text, rich_help_panel=panel, autocompletion=complete, **more
    )


# Options that several commands have.
Preset = Annotated[
    str | None,
    value("NAME", "Start from a preset; `lmsm presets` lists them.", complete=completion.presets),
]
ConfigFile = Annotated[
    Path | None, value("FILE", "Read settings from a YAML file (overrides the preset).")
]
Margin = Annotated[
    str | None,
    value(
        "M",
        "Margin of the loss, by which an image's own class is to win: a number, or with lsoftmax "
        "tail or auto, larger for rarer classes, of which tail has the prior of logit adjustment "
        "too; short for margin=M in --loss.",
        "Loss",
    ),
]
DataSet = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder of class folders, a list of image files, or the name of a data set.",
    ),
]
Checkpoint = Annotated[
    Path,
    typer.Argument(
        help="A run folder, or a checkpoint of one.", autocompletion=completion.checkpoints
    ),
]
Device = Annotated[str, value("TEXT", "auto, cpu, cuda or cuda:N.", complete=completion.devices)]
FollowLinks = Annotated[
    bool,
    switch(
        "--follow-links",
        "Read images and folders too that links lead to out of the folder that is given.",
    ),
]
Best = Annotated[
    bool, switch("--best", "Take the best epoch on validation, best.pt, instead of the last.")
]
Imports = Annotated[
    list[str] | None,
    value(
        "MODULE:NAME",
        "Import this loss or net of your own, which the run was trained with; repeatable.",
        name="--import",
    ),
]
Quiet = Annotated[
    bool, switch("--quiet", "Show no progress: only results, warnings and errors.", short="-q")
]
Verbose = Annotated[
    bool,
    switch("--verbose", "Show too what computes: threads, number format, layout.", short="-v"),
]
Json = Annotated[bool, switch("--json", "Print the result as JSON.")]

_PICTURES = (".png", ".pdf", ".svg")
# Files beside config.yaml that only a run has.
_OF_A_RUN = ("status.json", "environment.json", "metrics.jsonl", "checkpoint.pt")

_HELP_ALL = inspect.Parameter(
    "help_all", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=HelpAll
)

# What completes values of fields; another field with a fixed list of values offers that list.
_COMPLETIONS = {
    "dataset": completion.data_sets,
    "loss": completion.losses,
    "device": completion.devices,
    "model": completion.nets,
    "pretrained": completion.one_of(["imagenet"]),
    "post_hoc": completion.one_of(METHODS),
}


def with_config_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return the command with one option for each field of Config, passed on as `**flags`.

    Options arrive as the texts that were typed, None where not given: Config alone checks them, so
    that all mistakes are found together.
    """
    return _with_parameters(command, [_HELP_ALL], panels())


def with_flags_of(
    keys: Iterable[str], **helps: str
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that does for some keys of Config what `with_config_flags` does for all.

    All of them are on --help, with the text in `helps` where a command means something else.
    """
    shown_in = panels()
    chosen = {key: shown_in[key] for key in keys}
    return lambda command: _with_parameters(command, [], chosen, helps)


def _with_parameters(
    command: Callable[..., None],
    more: Sequence[inspect.Parameter],
    keys: Mapping[str, str],
    helps: Mapping[str, str] | None = None,
) -> Callable[..., None]:
    """Return the command with more parameters, and one for each of the keys in its panel."""
    helps = helps or {}
    own = [p for p in inspect.signature(command).parameters.values() if p.kind is not p.VAR_KEYWORD]
    fields = [
        _parameter(key, Config.model_fields[key], panel, helps.get(key))
        for key, panel in keys.items()
    ]

    def wrapped(*, help_all: bool = False, **options: Any) -> None:
        command(**options)

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    signature = inspect.Signature(_in_panels([*own, *more, *fields]))
    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    return wrapped


def check_picture(flag: str, path: Path) -> None:
    """Raise LmsmError for a format that is not drawn and in place of a picture that lmsm did not
    draw, DiskError for a place that takes no file.
    """
    from lmsm_cli.reports.figures import check_drawn
    from lmsm_cli.runs.folder import check_folder

    if path.suffix.lower() not in _PICTURES:
        raise LmsmError(f"{flag} is {str(path)!r}: end the name in {', '.join(_PICTURES)}")
    check_folder(path.parent, flag)
    check_drawn(path)


def resolve_options(
    preset: str | None, config: Path | None, margin: str | None, flags: Mapping[str, Any]
) -> Resolved:
    """Return the config of default < preset < config file < flags, with the origin of each value.

    Raises LmsmError that lists every mistake.
    """
    # they import torch, which --help must not wait for
    from lmsm_cli.losses.registry import check_loss
    from lmsm_cli.runs.start import facts_with_start

    layers = layers_of(preset, config, margin, flags)
    return resolve(layers, check_loss, facts_of=facts_with_start)


def layers_of(
    preset: str | None,
    config: Path | None,
    margin: str | None,
    flags: Mapping[str, Any],
    replaced: Collection[str] = (),
) -> list[Layer]:
    """Return what a command was given, lowest first.

    `replaced` are the keys that a sweep gives a value in every run, whatever the layers have.
    """
    layers = [*base_layers(preset, config), Layer.of_flags({**flags, "margin": margin})]
    if config:
        _check_named(config, flags, replaced)
    return layers


def _check_named(config: Path, flags: Mapping[str, Any], replaced: Collection[str]) -> None:
    """Raise LmsmError where config.yaml of a run names a loss or net from outside this package, no
    flag does, and no sweep replaces it: a run folder can come from anybody, and to import a module
    is to run it."""
    from lmsm_cli.losses import own
    from lmsm_cli.runs.own_code import is_named

    if not any((config.parent / name).exists() for name in _OF_A_RUN):
        return
    values = Layer.of_file(config).values
    for key in ("loss", "model"):
        given = str(values.get(key, ""))
        place = ":".join(given.split(":")[:2])
        if not own.is_place(place) or place.partition(":")[0] in KNOWN or is_named(place):
            continue
        if flags.get(key) is None and key not in replaced:
            way_out = f"give a file without the key {key}"
            if key in flags:
                named = f"{flag_name(key)} {shlex.quote(given)}"
                way_out = f"if you trust it, name it here too, {named}"
            raise LmsmError(f"{config} is of a run, and its {key} is from outside lmsm: {way_out}")


def base_layers(preset: str | None, config: Path | None) -> list[Layer]:
    """Return what lies below the flags."""
    layers = [Layer.of_preset(preset)] if preset else []
    if config and config.is_dir():  # a run, most likely
        own = config / "config.yaml"
        way_out = f"give {own}" if own.exists() else "give a file, such as config.yaml of a run"
        raise LmsmError(f"--config {config} is a folder: {way_out}")
    return layers + ([Layer.of_file(config)] if config else [])


def train_command(wanted: Config, preset: str | None = None, config: Path | None = None) -> str:
    """Return the `lmsm train` command line that repeats a config, on a preset and a config file.

    Where those two make no config of their own, or have a value that no flag takes back, they are
    left out.
    """
    try:
        resolve(base_layers(preset, config))
        flags = _flags_to(wanted, base_layers(preset, config))
    except LmsmError:
        flags = None
    if flags is None or any(one is None and key not in NONE_KEYS for key, one in flags.items()):
        preset = config = None
        flags = _flags_to(wanted, [])
    words = [
        "lmsm",
        "train",
        *(["--preset", preset] if preset else []),
        *(["--config", str(config)] if config else []),
    ]
    return shlex.join([*words, *flag_words(flags)])


def flag_words(values: Mapping[str, Any]) -> list[str]:
    """Return the words of a command line that give values of a config."""
    words = []
    for key, value in values.items():
        flag = flag_name(key)
        if isinstance(value, bool):
            words.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            words += [flag, _as_typed(value)]
    return words


def _flags_to(wanted: Config, layers: Sequence[Layer]) -> dict[str, Any]:
    """Return the values that make layers a config: each moves the defaults that follow from it."""
    from lmsm_cli.data.facts import remembered
    from lmsm_cli.runs.start import facts_with_start

    facts, flags = remembered(facts_with_start), dict[str, Any]()
    while True:
        given = Layer(flags, dict.fromkeys(flags, "flag"))
        found = dump(resolve([*layers, given], facts_of=facts).config)
        unlike = {key: value for key, value in dump(wanted).items() if value != found[key]}
        if unlike.keys() <= flags.keys():
            return flags
        flags |= unlike


def _as_typed(value: Any) -> str:
    """Return a value of a config as the text of its flag."""
    if value is None:
        return NONE
    if isinstance(value, dict):
        return format_by_class(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _in_panels(parameters: Sequence[inspect.Parameter]) -> list[inspect.Parameter]:
    """Return the parameters by panels: none first, then a command's own, then those of Config.

    Of a panel the field `loss` comes first: --margin, a command's own, follows it.
    """
    shown_in = {p.name: get_args(p.annotation)[-1].rich_help_panel for p in parameters}
    of_fields = dict.fromkeys(panels().values())
    own = [panel for panel in shown_in.values() if panel not in of_fields]
    order = list(dict.fromkeys([None, *own, *of_fields]))
    return sorted(parameters, key=lambda p: (order.index(shown_in[p.name]), p.name != "loss"))


def _parameter(
    name: str, field: FieldInfo, panel: str, text: str | None = None
) -> inspect.Parameter:
    flag = flag_name(name)
    is_switch = field.annotation is bool
    choices = _choices(field)
    option = typer.Option(
        f"{flag}/--no-{flag.removeprefix('--')}" if is_switch else flag,
        help=text or _help(field),
        metavar=None if is_switch else _metavar(name, field),
        rich_help_panel=panel,
        show_default=False,
        autocompletion=_COMPLETIONS.get(name) or (completion.one_of(choices) if choices else None),
    )
    kind = bool if is_switch else str
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, option],
    )


def _help(field: FieldInfo) -> str:
    text, opening, default = help_text(field).partition(" (default:")
    choices = _choices(field)
    values = f" One of: {', '.join(choices)}." if choices else ""
    if not opening and field.default is not None:
        opening, default = " (default:", f" {_shown(field.default)})"
    return f"{text.removesuffix('.')}.{values}{opening}{default.removesuffix('.')}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _choices(field: FieldInfo) -> tuple[str, ...]:
    choices = get_args(field.annotation)
    return choices if all(isinstance(choice, str) for choice in choices) else ()


def _metavar(name: str, field: FieldInfo) -> str:
    if name == "dataset":
        return "NAME|PATH"
    if _choices(field) or name == "model":
        return "NAME"
    kind = type_of(name)
    return "INTEGER" if kind is int else "NUMBER" if kind is float else "TEXT"
