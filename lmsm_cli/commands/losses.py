"""`lmsm losses`: list the losses with their options, or explain one."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import asdict
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmsm_cli.commands import completion
from lmsm_cli.commands.console import print_json, stdout_console

if TYPE_CHECKING:
    from lmsm_cli.losses.own import Offer

_FOR_PYTHON = re.compile(r"Raises |>{3} ")


def losses(
    name: Annotated[
        str | None, typer.Argument(help="Explain this loss.", autocompletion=completion.loss_names)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the losses with their options, or explain one."""
    from lmsm_cli.config.post_hoc import METHODS
    from lmsm_cli.losses import own
    from lmsm_cli.losses.registry import HEADS, SECOND_STAGES, head_class, own_place

    offers = {key: one for key, one in own.offers(own.LOSSES_GROUP).items() if key not in HEADS}
    chosen: dict[str, type[Any]] = {}
    if name is None:
        chosen = dict(HEADS)
    elif place := own_place(name):  # named by the call, so it is imported
        from lmsm_cli.losses.own_head import kind_of

        chosen[name] = kind_of(place)
    else:
        chosen[name] = head_class(name)
    if json:
        _print_json(chosen, {} if name else offers)
        return
    console = stdout_console()
    for key, head in chosen.items():
        options = ", ".join(
            f"{option}={_shown(value)}" for option, value in _options(key, head).items()
        )
        console.print(f"[bold]{key}[/]" + (f"  {options}" if options else ""), soft_wrap=True)
        for line in _explanation(head) if name else [_description(head)]:
            console.print(f"  {line}", markup=False, soft_wrap=True)
    if not name:
        for key, offer in offers.items():  # listed without being imported
            console.print(f"[bold]{key}[/]  of the package {offer.package} {offer.version}")
            console.print(f"  {offer.place}", markup=False, soft_wrap=True)
    console.print("- follows from the data and the other options")
    if not name:
        console.print(
            f"second stages, for --pretrained RUN --freeze features: {', '.join(SECOND_STAGES)}; "
            f"or without a training, --post-hoc: {', '.join(METHODS)}"
        )
        console.print("as in --loss lsoftmax:margin=4,lambda_min=5; more: lmsm losses NAME")
        console.print("a loss of your own: --loss module:Class:option=value")


def _print_json(chosen: Mapping[str, type[Any]], offers: "Mapping[str, Offer]") -> None:
    of_classes = {
        key: {"description": _description(head), "options": _options(key, head)}
        for key, head in chosen.items()
    }
    print_json(of_classes | {key: asdict(offer) for key, offer in offers.items()})


def _explanation(head: type[Any]) -> list[str]:
    """Return the lines on the loss and its options, without those for Python alone."""
    lines = (inspect.getdoc(head) or "").splitlines()
    return list(takewhile(lambda line: not _FOR_PYTHON.match(line), lines))


def _description(head: type[Any]) -> str:
    return (inspect.getdoc(head) or "").partition("\n")[0]


def _options(name: str, head: type[Any]) -> dict[str, Any]:
    """Return the options with their defaults; None stands for one that depends on the data."""
    from lmsm_cli.losses.options import options_of
    from lmsm_cli.losses.own_head import options_of_own
    from lmsm_cli.losses.registry import KNOWN

    is_ours = head.__module__.partition(".")[0] == "lmsm_cli"
    found = (options_of if is_ours else options_of_own)(head)
    # None where the class must tell whether it was given
    usual = KNOWN[name].options if name in KNOWN else {}
    return {
        key: usual.get(key) if option.default in (None, option.empty) else option.default
        for key, option in found.items()
    }


def _shown(value: Any) -> str:
    return "-" if value is None else str(value)
