"""`lmsm presets`: the shipped presets listed, shown and copied, and the schema of a config."""

import json as json_format
import shlex
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_json, print_line, stdout_console
from lmsm_cli.commands.help import Command, Group, with_examples
from lmsm_cli.commands.options import switch
from lmsm_cli.config.resolve import preset_names, preset_path
from lmsm_cli.errors import LmsmError, did_you_mean

_Json = Annotated[bool, switch("--json", "Print the list as JSON.")]
_Name = Annotated[str, typer.Argument(help="The preset.", autocompletion=completion.presets)]
_Force = Annotated[bool, switch("--force", "Replace a file that is there already.")]


class _PresetsGroup(Group):
    """The commands on presets; a preset in a command's place gets a hint what to type."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of the first word. Raises LmsmError where there is no such command."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise LmsmError(_what_to_type(args[0], list(self.commands)))
        return super().resolve_command(ctx, args)


def _what_to_type(word: str, commands: list[str]) -> str:
    near = get_close_matches(word.lower(), [*commands, *preset_names()], n=1, cutoff=0.5)
    if near and near[0] not in commands:
        meant = "" if near[0] == word else did_you_mean(word, preset_names())
        return (
            f"presets has no command {word!r}{meant}; "
            f"to print that preset: lmsm presets show {near[0]}"
        )
    return f"presets has no command {word!r}{did_you_mean(word, commands)}"


presets = typer.Typer(cls=_PresetsGroup, invoke_without_command=True)


_HELP = "List ready-made configs, print one, or copy one as a start of your own."


@presets.callback(help=with_examples("presets", _HELP))
def _root(context: typer.Context, json: _Json = False) -> None:
    if context.invoked_subcommand is None:
        list_presets(json)


@presets.command("list", cls=Command)
def list_presets(json: _Json = False) -> None:
    """List the presets, each with its command and what it gave (what `lmsm presets` does alone)."""
    console = stdout_console()
    comments = {preset: _comment(preset) for preset in preset_names()}
    if json:
        print_json(comments)
        return
    for preset, lines in comments.items():
        console.print(f"[bold]{preset}[/]")
        for line in lines:
            print_line(f"  {line}", console)


def _comment(name: str) -> list[str]:
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("#")]


@presets.command("show", cls=Command)
def show_preset(name: _Name) -> None:
    """Print a preset's file."""
    text = preset_path(name).read_text(encoding="utf-8")
    stdout_console().print(text, end="", markup=False, soft_wrap=True)


@presets.command("copy", cls=Command)
def copy_preset(
    name: _Name,
    file: Annotated[
        Path | None,
        typer.Argument(help="The file to write, or a folder for it; NAME.yaml here if left out."),
    ] = None,
    force: _Force = False,
) -> None:
    """Copy a preset into a file of your own, comments and all, to change it."""
    text = preset_path(name).read_text(encoding="utf-8")
    target = file or Path()
    target = target / f"{name}.yaml" if target.is_dir() else target
    _write(target, text, force=force)
    print_line(
        f"{target}: change what you like, then: lmsm train --config {shlex.quote(str(target))}"
    )


@presets.command("schema", cls=Command)
def write_schema(
    file: Annotated[
        Path | None, typer.Argument(help="The file to write; printed if left out.")
    ] = None,
    force: _Force = False,
) -> None:
    """Write the JSON Schema of a config, with which an editor completes and checks one.

    It checks each key alone; `lmsm train --config FILE --show-config` checks the whole.
    """
    from lmsm_cli.config.json_schema import config_schema

    if file is None:
        print_json(config_schema())
        return
    _write(file, json_format.dumps(config_schema(), indent=2) + "\n", force=force)
    print_line(f"{file}: put this line first in a config: # yaml-language-server: $schema={file}")


def _write(file: Path, text: str, *, force: bool) -> None:
    """Write a file. Raises LmsmError where it is there and not to be replaced, DiskError."""
    from lmsm_cli.runs.folder import check_place, write_whole

    check_place(file)
    if file.exists() and not force:
        raise LmsmError(f"{file} is there already: give another name, or --force to replace it")
    write_whole(file, text)
