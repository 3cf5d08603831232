"""`lmsm presets`: list the shipped presets, or print one."""

from typing import Annotated

import typer

from lmsm_cli.commands.console import print_json, stdout_console
from lmsm_cli.layers import preset_names, preset_path


def presets(
    name: Annotated[str | None, typer.Argument(help="Print this preset.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the presets with their commands and outcomes, or print one."""
    console = stdout_console()
    if name:
        text = preset_path(name).read_text(encoding="utf-8")
        console.print(text, end="", markup=False, highlight=False, soft_wrap=True)
        return
    comments = {preset: _comment(preset) for preset in preset_names()}
    if json:
        print_json(comments)
        return
    for preset, lines in comments.items():
        console.print(f"[bold]{preset}[/]", highlight=False)
        for line in lines:
            console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)


def _comment(name: str) -> list[str]:
    """Return the comment lines that open a preset: its command and what it gave."""
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("#")]
