"""How the help pages read: the commands in panels, no Python types, examples at the end."""

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


class _Plain:
    """A command whose help page shows no Python type beside its switches and arguments."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options and arguments; an argument is known by its name in capitals."""
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if parameter.param_type_name == "argument":
                parameter.metavar = parameter.metavar or parameter.name.upper()
                parameter.display_type_rich = lambda ctx: None  # Typer has no option for it
            elif parameter.is_flag:
                parameter.metavar = ""
        return parameters


class Command(_Plain, TyperCommand):
    """A command."""


class Group(_Plain, TyperGroup):
    """A group of commands."""


def epilog(command: str) -> str | None:
    """Return a command's examples as the end of its page, None where it has none."""
    lines = EXAMPLES.get(command)
    return "\n".join(["Examples:", *(f"$ {line}" for line in lines)]) if lines else None
