"""Make the two reference pages of the documentation, and tables of a third, from the code.

    python docs/references.py [--check]

docs/commands.md is made from the command line itself, docs/configuration.md from `Config`, its JSON
Schema and the defaults by the data. Of docs/losses.md the tables between `<!-- made of the code:
NAME -->` and `<!-- end -->` are made, from the classes of the losses. With `--check` nothing is
written, and a page that is not what the code says now ends it with 1.
"""

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import torch
from typer.main import get_command

from lmsm_cli.commands.app import app
from lmsm_cli.commands.help import EXAMPLES
from lmsm_cli.config import Config, flag_name, help_text, panels
from lmsm_cli.config.defaults import (
    EPOCHS,
    LARGEST_FROM_SCRATCH,
    LEAST_BATCH,
    LEAST_STEPS,
    PHOTO_NET,
    SIDES,
    STEPS,
    USUAL_BATCH,
    Facts,
    defaults_by_data,
    usual_batch,
)
from lmsm_cli.config.json_schema import config_schema
from lmsm_cli.config.keys import DEPENDENT_OPTIONS, RUNTIME_KEYS
from lmsm_cli.data.facts import facts_of
from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.checks import LARGEST_OPTION
from lmsm_cli.losses.options import options_of
from lmsm_cli.losses.registry import LOSSES, SECOND_STAGES, Loss, build_head

HERE = Path(__file__).parent
_COLUMNS = 100
_MADE = (
    "This page is made from the code by `python docs/references.py`: change the code, not the page."
)
_PHOTOS = (800, 600)
_MANY = 1800
# The data that the table of defaults is made for: a name, or the facts of somebody's own images.
_EXAMPLES: dict[str, str | Facts] = {
    "digits": "digits",
    "mnist": "mnist",
    "cifar10": "cifar10",
    "500 images of 32 x 32": Facts("own", 500, 32, (32, 32)),
    "1,800 photos of 800 x 600": Facts("own", _MANY, _PHOTOS[1], _PHOTOS),
    "the same, ImageNet weights on the disk": Facts(
        "own", _MANY, _PHOTOS[1], _PHOTOS, frozenset({PHOTO_NET})
    ),
}
# What the JSON Schema says by patterns alone.
_KINDS = {
    "model": "the name of a net",
    "loss": "the name of a loss, with its options after a colon",
    "pretrained": "`imagenet`, a run folder, or a file of weights",
    "post_hoc": "the name of a method, with tau after a colon",
    "freeze": "`backbone`, `features`, or a whole number, at least 1",
    "device": "`auto`, `cpu`, `cuda` or `cuda:N`",
    "group_pattern": "a regular expression with a group",
    "milestones": "whole numbers, at least 1, each above the one before",
    "class_margins": "numbers above 0 by the names of classes",
    "class_weights": "numbers above 0 by the names of classes, or `auto`",
}
_ALSO_WITH = {"crop_from": ", or `freeze` `features`"}
_TYPES = {"integer": "a whole number", "number": "a number", "string": "a text"}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}
_PART = re.compile(r"(<!-- made of the code: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
# Training images of each class, for defaults that follow from them.
_BALANCED, _LONG_TAIL = (100, 100), (100, 10)


def commands_page() -> str:
    """Return the command reference: every command with its help, examples, arguments and flags."""
    root: Any = get_command(app)
    parts = [
        "# Commands",
        _wrapped(
            f"{_MADE} `lmsm COMMAND --help` shows the same on a terminal, and `--help-all` every "
            "flag of a command that has many."
        ),
        "```console\nlmsm --help\n```",
    ]
    titles = dict.fromkeys(command.rich_help_panel for command in root.commands.values())
    for title in titles:
        listed = [
            _item(f"[`lmsm {name}`](#lmsm-{name}): {_marked(_summary(command))}")
            for name, command in root.commands.items()
            if command.rich_help_panel == title
        ]
        parts += [f"**{title}**", "\n".join(listed)]
    for words, command in _commands(root, ("lmsm",)):
        parts += _command(words, command, all_named=words == ("lmsm", "train"))
    return "\n\n".join(parts) + "\n"


def configuration_page() -> str:
    """Return the configuration reference: every key with its flag, values, default and meaning."""
    schema = config_schema()["properties"]
    flags = {p.name: p for p in _flags_of_train()}
    table, decided = _defaults_table()
    parts = [
        "# Configuration",
        _wrapped(
            f"{_MADE} Every key is a flag of `lmsm train`, `lmsm sweep` and `lmsm schedule`, and a "
            "key of the YAML file that `--config` reads. A flag wins over the file, the file over "
            "the preset, and the preset over the default. `none` as a flag takes back a value that "
            "may be missing, such as `--pretrained none`. `--show-config` prints every value with "
            "where it came from:"
        ),
        "```console\nlmsm train --preset digits --show-config\n```",
        _wrapped(
            "Runs that differ only in the following keys, and have the same images, count as the "
            f"same run: {_listed(RUNTIME_KEYS)}."
        ),
        "## Defaults that follow the data",
        *_rules(),
        table,
    ]
    shown_in = panels() | {"margin": "Loss"}
    for title in dict.fromkeys(shown_in.values()):
        parts.append(f"## {title}")
        for key in schema:
            if shown_in[key] == title:
                parts += _key(key, schema[key], flags[key], by_data=key in decided)
    return "\n\n".join(parts) + "\n"


def losses_page() -> str:
    """Return the page of the losses with its tables made anew; the rest is written by hand."""
    page = (HERE / "losses.md").read_text(encoding="utf-8")
    return _PART.sub(lambda part: f"{part[1]}\n{_loss_part(part[2])}\n\n{part[3]}", page)


PAGES = {
    "commands.md": commands_page,
    "configuration.md": configuration_page,
    "losses.md": losses_page,
}


def _commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield a command and, where it is a group, those below it, each with its words."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, (*words, name))


def _command(words: tuple[str, ...], command: Any, *, all_named: bool) -> list[str]:
    """Return the parts of a command's section.

    Flags of the configuration are links; where `all_named` is false and a command has them all,
    they are one sentence.
    """
    shown = [p for p in command.params if p.name != "help_all"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    options = [p for p in shown if p.param_type_name == "option"]
    rest = "COMMAND" if hasattr(command, "commands") else ""
    usage = [*words, rest, *map(_argument, arguments), "[FLAGS]" if options else ""]
    paragraphs = _help_of(command).split("\n\n")
    parts = [
        f"## `{' '.join(words)}`",
        *(_wrapped(_marked(" ".join(paragraph.split()))) for paragraph in paragraphs),
        f"```text\n{' '.join(filter(None, usage))}\n```",
    ]
    if len(words) == 2 and words[1] in EXAMPLES:
        lines = [line for what, line in EXAMPLES[words[1]] for line in (f"# {what}", line)]
        parts.append("\n".join(["```console", *lines, "```"]))
    if arguments:
        listed = [_item(f"`{_argument(p)}`: {_marked(p.help)}") for p in arguments]
        parts += ["**Arguments**", "\n".join(listed)]
    takes_all = {p.name for p in options} >= Config.model_fields.keys()
    for title in dict.fromkeys(_panel(p) for p in options):
        of_panel = [p for p in options if _panel(p) == title]
        keys = [p.name for p in of_panel if takes_all and p.name in Config.model_fields]
        own = [_item(_option(p)) for p in of_panel if p.name not in keys]
        if keys and all_named:
            links = ", ".join(f"[`{flag_name(key)}`](configuration.md#{key})" for key in keys)
            own.append(_item(f"Of the [configuration](configuration.md): {links}."))
        parts += [f"**{title}**", "\n".join(own)] if own else []
    if takes_all and not all_named:
        parts.append(
            "Every key of the [configuration](configuration.md) is a flag here too, as for\n"
            "[`lmsm train`](#lmsm-train)."
        )
    return parts


def _help_of(command: Any) -> str:
    """Return a command's help without its examples."""
    return re.split(r"\n\n ?1\. ", command.help)[0]


def _summary(command: Any) -> str:
    return _help_of(command).partition("\n\n")[0]


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    text = f"{name}..." if parameter.nargs == -1 else name
    return text if parameter.required else f"[{text}]"


def _panel(option: Any) -> str:
    return option.rich_help_panel or "Flags"


def _option(option: Any) -> str:
    """Return a flag's line: its names, its help, its default and bound."""
    values = f" {option.metavar}" if option.metavar else ""
    names = [f"{name}{values}" for name in option.opts] + list(option.secondary_opts)
    notes = []
    if option.min is not None:
        notes.append(f"at least {option.min:g}")
    if option.show_default and option.default not in (None, False):
        shown = option.show_default if isinstance(option.show_default, str) else option.default
        notes.append(f"default: `{_text(shown)}`")
    note = f" ({'; '.join(notes)})" if notes else ""
    return ", ".join(f"`{name}`" for name in names) + f": {_marked(option.help)}{note}"


def _flags_of_train() -> list[Any]:
    root: Any = get_command(app)
    return list(root.commands["train"].params)


def _key(key: str, schema: Mapping[str, Any], flag: Any, *, by_data: bool) -> list[str]:
    """Return the parts of a key's section."""
    meaning, _, how = schema["description"].partition(" (default: ")
    if key in Config.model_fields:
        assert schema["description"] == help_text(Config.model_fields[key])
    after = how.partition(")")[2].strip(". ")
    meaning = meaning.rstrip(".") + "." + (f" {after}." if after else "")
    names = [*flag.opts, *flag.secondary_opts]
    values = f" {flag.metavar}" if flag.metavar else ""
    lines = [
        f"Flag: {' or '.join(f'`{name}{values}`' for name in names)}",
        f"Values: {_values(key, schema)}",
        f"Default: {_default(schema.get('default'), how.partition(')')[0], by_data=by_data)}",
    ]
    if key in DEPENDENT_OPTIONS:
        choice, useful = DEPENDENT_OPTIONS[key]
        also = _ALSO_WITH.get(key, "")
        lines.append(f"Only with: `{choice}` {_listed(useful, 'or')}{also}")
    return [f"### `{key}`", _wrapped(_marked(meaning)), "\n".join(map(_item, lines))]


def _values(key: str, schema: Mapping[str, Any]) -> str:
    """Return the values that a key takes, in words."""
    if key in _KINDS:
        return _KINDS[key]
    if "anyOf" in schema:
        parts = [_values("", part) for part in schema["anyOf"] if part.get("type") != "null"]
        return ", or ".join(parts)
    if "enum" in schema or "const" in schema:
        return _listed(schema.get("enum", [schema.get("const")]), "or")
    if schema["type"] == "boolean":
        return "`true` or `false`"
    if schema.get("format") == "path" or "pattern" in schema:
        return "a path"
    bounds = [f"{word} {schema[bound]:,.12g}" for bound, word in _BOUNDS.items() if bound in schema]
    return ", ".join([_TYPES[schema["type"]], *bounds])


def _default(value: Any, how: str, *, by_data: bool) -> str:
    """Return a default in words: that of the model, and how it follows from other things."""
    shown = "none" if value is None else f"`{_text(value)}`"
    if not how:
        return shown
    whole = f"; with a preset or a file {shown}" if by_data and "in a preset" not in how else ""
    return _marked(how) + whole


def _rules() -> list[str]:
    """Return how the defaults follow from the images, in sentences."""
    fewest, largest = EPOCHS
    digits = _by_data("digits")["epochs"]
    rules = (
        f"`batch_size` is a power of two from {LEAST_BATCH} to {USUAL_BATCH}. It is the largest "
        f"that leaves {LEAST_STEPS} steps in an epoch.",
        f"`epochs` are enough for {STEPS:,} steps, but at least {fewest} and at most {largest}: of "
        f"fewer than {_few_images()} images that is less. `digits` have the {digits} epochs of a "
        "preset of their own.",
        "`lr` follows the optimiser, and falls with the batch. On trained weights it is lower.",
        f"`image_size` is the largest of {_plain(SIDES)} that half of the images have on their "
        f"shorter side. From scratch it is at most {LARGEST_FROM_SCRATCH}.",
        "`pretrained` is `imagenet` where the weights are on the disk already. Nothing is "
        "downloaded unasked.",
    )
    intro = (
        "Without a preset and a file, what nobody chose follows the images. The run says what was "
        "chosen, and `--show-config` says why. A value that you give stays, and the others follow "
        "it. A run that `--pretrained` names gives its own model, neck and loss."
    )
    return [_wrapped(intro), "\n".join(map(_item, rules))]


def _few_images() -> int:
    """Return the least images whose epochs are enough for all steps."""
    steps = -(-STEPS // EPOCHS[1])
    return next(count for count in range(LEAST_BATCH, STEPS) if _steps(count) >= steps)


def _steps(count: int) -> int:
    """Return the steps of an epoch of so many training images."""
    return -(-count // usual_batch(count))


def _defaults_table() -> tuple[str, set[str]]:
    """Return the table of defaults for the example data, and the keys that data decides."""
    found = {title: _by_data(data) for title, data in _EXAMPLES.items()}
    keys = [key for key in Config.model_fields if any(key in values for values in found.values())]
    # digits take what their own preset has, whatever the data says
    decided = {key for title, values in found.items() if title != "digits" for key in values}
    usual = {key: field.default for key, field in Config.model_fields.items()}
    rows = [["key", *found]]
    for key in keys:
        cells = [_text(values.get(key, usual[key])) for values in found.values()]
        rows.append([f"[{key}](#{key})", *cells])
    return _table(rows), decided


def _by_data(data: str | Facts) -> Mapping[str, Any]:
    if isinstance(data, Facts):
        return defaults_by_data(data, {"dataset": "folder"}).values
    facts = facts_of(Config(dataset=data))  # type: ignore[arg-type]
    assert facts is not None
    return defaults_by_data(facts, {"dataset": data}).values


def _loss_part(name: str) -> str:
    """Return what a marker of the page of losses stands for: `losses`, `second stages` or a loss.

    Raises KeyError for any other.
    """
    if name == "losses":
        rows = [
            ["loss", "what it is", "class counts", "`--head-bias`", "`--class-margins`"],
            *(_loss_row(name, loss) for name, loss in LOSSES.items()),
        ]
    elif name == "second stages":
        rows = [["loss", "what it is"]]
        rows += [[f"`{key}`", _what(loss)] for key, loss in SECOND_STAGES.items()]
    elif not LOSSES[name].options:
        return "It has no options."
    else:
        usual, tailed = (_options_for(name, counts) for counts in (_BALANCED, _LONG_TAIL))
        rows = [["option", "values", "default"]]
        for key in usual:
            here, there = (f"`{_text(options[key])}`" for options in (usual, tailed))
            default = here if here == there else f"{here}; on a long tail {there}"
            rows.append([f"`{key}`", _taken(name, key), default])
    return _table(rows)


def _loss_row(name: str, loss: Loss) -> list[str]:
    if loss.load().needs_counts:
        counts = "needed"
    else:
        by_counts = _options_for(name, _BALANCED) != _options_for(name, _LONG_TAIL)
        counts = "for the defaults" if by_counts else "not used"
    takes = (loss.takes_bias, loss.takes_class_margins)
    return [f"[`{name}`](#{name})", _what(loss), counts, *("yes" if one else "no" for one in takes)]


def _what(loss: Loss) -> str:
    """Return the first line of a loss's docstring."""
    return _marked((loss.load().__doc__ or "").partition("\n")[0])


def _options_for(name: str, class_counts: tuple[int, ...]) -> dict[str, Any]:
    """Return what the options of a loss are where nobody gives them."""
    head = build_head(name, 2, len(class_counts), torch.tensor(class_counts))
    in_force = {key: getattr(head, key) for key in LOSSES[name].options} | head.resolved_options()
    known = LOSSES[name].options.items()
    return {key: in_force[key] if value is None else value for key, value in known}


def _taken(name: str, option: str) -> str:
    """Return the values that an option takes: its names, and the numbers that a refusal tells."""
    annotation = options_of(LOSSES[name].load())[option].annotation
    kinds = {annotation} if get_origin(annotation) is Literal else set(get_args(annotation))
    kinds = (kinds or {annotation}) - {NoneType, torch.Tensor}
    words = [_listed(get_args(kind), "or") for kind in kinds if get_origin(kind) is Literal]
    if kinds & {int, float}:
        try:
            build_head(f"{name}:{option}=-1", 2, 2, torch.tensor(_LONG_TAIL))
        except ArgumentError as error:
            numbers = re.sub(r".*: give |finite | \(.*?\)|;.*", "", str(error))
            words.append(numbers.removesuffix(f" and at most {LARGEST_OPTION:g}"))
        else:
            raise AssertionError(f"{name} takes {option}=-1: nothing tells what it refuses")
    return ", or ".join(words)


def _table(rows: Iterable[list[str]]) -> str:
    head, *body = ([cell.replace("|", "\\|") for cell in row] for row in rows)
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])


def _text(value: Any) -> str:
    """Return a value as a config file has it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(values: Iterable[Any], word: str = "and") -> str:
    *most, last = map(str, values)
    return f"{', '.join(most)} {word} {last}" if most else last


def _listed(values: Iterable[Any], word: str = "and") -> str:
    return _plain([f"`{value}`" for value in values], word)


def _marked(text: str) -> str:
    """Return a help text as Markdown: flags as code, and signs that mean something escaped."""
    pieces = re.split(r"(`[^`]*`)", text)
    for i, piece in enumerate(pieces):
        if not piece.startswith("`"):
            escaped = re.sub(r"(?=[\\*<[\]]|(?<!\w)_|_(?!\w))", r"\\", piece)
            pieces[i] = re.sub(r"(?<![\w`-])--[a-z][a-z-]*(?: [A-Z]+\b)?", r"`\g<0>`", escaped)
    return "".join(pieces)


def _item(text: str) -> str:
    return _wrapped(text, first="* ", rest="  ")


def _wrapped(text: str, first: str = "", rest: str = "") -> str:
    """Return a text in lines of at most 100 columns; code and links are not broken."""
    whole = re.sub(r"`[^`]*`", lambda code: code[0].replace(" ", "\0"), text)
    lines = textwrap.fill(
        whole,
        _COLUMNS,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines.replace("\0", " ")


def main(arguments: list[str]) -> int:
    """Write the pages, or tell which of them are not up to date."""
    stale = []
    for name, make in PAGES.items():
        page, text = HERE / name, make()
        if "--check" not in arguments:
            page.write_text(text, encoding="utf-8")
        elif not page.exists() or page.read_text(encoding="utf-8") != text:
            stale.append(f"docs/{name} is not what the code says: python docs/references.py")
    print(*stale, sep="\n", end="\n" if stale else "")
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
