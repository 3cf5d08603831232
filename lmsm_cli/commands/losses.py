"""`lmsm losses`: list the losses with their options, or explain one."""

import inspect
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_json, stdout_console

if TYPE_CHECKING:
    from lmsm_cli.losses.head import Head

_FOR_PYTHON = re.compile(r"Raises |>{3} ")


def losses(
    name: Annotated[
        str | None, typer.Argument(help="Explain this loss.", autocompletion=completion.loss_names)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the losses with their options, or explain one."""
    from lmsm_cli.errors import LmsmError, did_you_mean
    from lmsm_cli.losses.registry import HEADS

    if name is not None and name not in HEADS:
        raise LmsmError(f"no loss {name!r}{did_you_mean(name, HEADS)}")
    chosen = {name: HEADS[name]} if name else HEADS
    if json:
        print_json(
            {
                name: {"description": _description(head), "options": _options(head)}
                for name, head in chosen.items()
            }
        )
        return
    console = stdout_console()
    for key, head in chosen.items():
        options = ", ".join(f"{option}={_shown(value)}" for option, value in _options(head).items())
        console.print(f"[bold]{key}[/]" + (f"  {options}" if options else ""), soft_wrap=True)
        for line in _explanation(head) if name else [_description(head)]:
            console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("- follows from the data and the other options")
    if not name:
        console.print("as in --loss lsoftmax:margin=4,lambda_min=5; more: lmsm losses NAME")


def _explanation(head: "type[Head]") -> list[str]:
    """Return the lines on the loss and its options, without those for Python alone."""
    lines = (inspect.getdoc(head) or "").splitlines()
    return list(takewhile(lambda line: not _FOR_PYTHON.match(line), lines))


def _description(head: "type[Head]") -> str:
    return (inspect.getdoc(head) or "").partition("\n")[0]


def _options(head: "type[Head]") -> dict[str, Any]:
    """Return the options with their defaults; None stands for one that depends on the data."""
    from lmsm_cli.losses.options import options_of

    return {name: option.default for name, option in options_of(head).items()}


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
