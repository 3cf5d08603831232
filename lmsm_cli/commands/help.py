"""How the help pages read: the commands in panels, kinds of values in words, examples at the end."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

TRAIN, LOOK, USE, PREPARE = (
    "Train",
    "Look at the results",
    "Use a trained classifier",
    "Before a training",
)

# Shown at the end of a command's page; a test reads each line as the command would.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "lmsm train --preset digits",
        "lmsm train --dataset imbalanced --loss lsoftmax:margin=4 --seed 1",
        "lmsm train --dataset folder --data-dir photos --image-size 64",
        "lmsm train --config my.yaml --show-config",
    ),
    "resume": ("lmsm resume runs/NAME", "lmsm resume runs/NAME --epochs 20"),
    "sweep": (
        "lmsm sweep --preset digits --arm loss=softmax --arm loss=lsoftmax --seeds 5",
        "lmsm sweep --preset digits --grid lr=0.05,0.01 --grid batch_size=32,64",
        "lmsm sweep --preset digits --grid lr=0.001..0.1:log --trials 20",
    ),
    "eval": (
        "lmsm eval runs/NAME",
        "lmsm eval runs/NAME/best.pt --confusion",
        "lmsm eval runs/NAME --adjust auto",
        "lmsm eval runs/NAME --images photos --json",
    ),
    "compare": (
        "lmsm compare runs/",
        "lmsm compare runs/NAME-s0 runs/NAME-s1",
        "lmsm compare runs/ --json > comparison.json",
    ),
    "schedule": ("lmsm schedule --preset digits --margin 4 --plot schedule.png",),
    "losses": ("lmsm losses lsoftmax",),
}

_KINDS = {
    "<str>": "TEXT",
    "<path>": "PATH",
    "<file>": "PATH",
    "<int>": "INTEGER",
    "<int range>": "INTEGER",
    "<float>": "NUMBER",
    "<float range>": "NUMBER",
}


class Command(TyperCommand):
    """A command whose help page names the kinds of values in words, and none for a switch."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments, the kind of each in words."""
        return [_in_words(parameter, ctx) for parameter in super().get_params(ctx)]


class Group(TyperGroup):
    """A group of commands whose help page reads as that of a `Command`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options, the kind of each in words."""
        return [_in_words(parameter, ctx) for parameter in super().get_params(ctx)]


def _in_words(parameter: Any, ctx: Any) -> Any:
    """Return the parameter, with words for its kind where the page would show a Python type."""
    if getattr(parameter, "is_flag", False):
        parameter.metavar = ""
    elif parameter.metavar is None:
        kind = parameter.display_type(ctx)
        is_option = parameter.param_type_name == "option"
        parameter.metavar = (
            _KINDS.get(kind, kind.strip("<>")) if is_option else parameter.name.upper()
        )
    if parameter.param_type_name == "argument":
        parameter.display_type_rich = _no_kind  # its name says it
    return parameter


def _no_kind(ctx: Any) -> None:
    """Return no kind of value."""


def epilog(command: str) -> str | None:
    """Return a command's examples as the end of its page, None where it has none."""
    lines = EXAMPLES.get(command)
    return "\n".join(["Examples:", *(f"$ {line}" for line in lines)]) if lines else None
