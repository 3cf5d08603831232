"""How the help pages read: examples first, the common flags on --help, all of them on --help-all.

A command names its common flags in `COMMON`; one that is not there shows all on --help.
"""

import inspect
from itertools import zip_longest
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from lmsm_cli.commands import words
from lmsm_cli.commands.console import print_line, stdout_console

TRAIN, LOOK, USE, PREPARE = (
    "Train",
    "Look at the results",
    "Use a trained classifier",
    "Before a training",
)

# What a command is for, on the page of `lmsm` alone, in two columns: a terminal has 24 rows.
SHORT: dict[str, str] = {
    "demo": "try it on small images",
    "train": "train and test a model",
    "resume": "continue a run",
    "sweep": "many runs, compared",
    "study": "which loss for your images",
    "retrain": "new last layers on a run",
    "eval": "scores of every class",
    "compare": "which differences are real",
    "report": "one run as an HTML page",
    "predict": "classes of image files",
    "adjust": "build a correction in",
    "export": "write ONNX or torch.export",
    "data": "check your images",
    "schedule": "learning rate and margin",
    "losses": "list or explain losses",
    "presets": "list ready-made configs",
    "bench": "measure this machine",
    "doctor": "check the installation",
}

# The examples of `lmsm` alone; each fits a line with what it does.
FRONT: tuple[tuple[str, str], ...] = (
    ("Try it: no data, no GPU", "lmsm demo"),
    ("Train on your photos", "lmsm train --dataset photos/"),
    ("Repeat over five seeds", "lmsm train --preset digits --seeds 5"),
    ("Compare the runs of a folder", "lmsm compare runs/"),
)

# What each example does, and its command; a test reads each as the command would.
EXAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "demo": (
        ("Compare three losses on small images", "lmsm demo"),
        ("See smaller differences, by more seeds", "lmsm demo --seeds 8"),
    ),
    "train": (
        ("Train on embedded digits, without a download", "lmsm train --preset digits"),
        (
            "Train with L-Softmax on long-tailed CIFAR-10",
            "lmsm train --dataset imbalanced --loss lsoftmax --seed 1",
        ),
        (
            "Train on your own photos, a folder for each class",
            "lmsm train --dataset photos/ --image-size 64",
        ),
        ("Repeat a run over five seeds", "lmsm train --preset digits --seeds 5"),
        ("See every choice and where it comes from", "lmsm train --config my.yaml --show-config"),
    ),
    "resume": (
        ("Continue a run that was stopped", "lmsm resume runs/NAME"),
        ("Train a finished run for longer", "lmsm resume runs/NAME --epochs 20"),
    ),
    "sweep": (
        (
            "Compare two losses over five seeds",
            "lmsm sweep --preset digits --grid loss=softmax,lsoftmax --seeds 5",
        ),
        (
            "Try every combination of two choices",
            "lmsm sweep --preset digits --grid lr=0.05,0.01 --grid batch_size=32,64",
        ),
        (
            "Search a range for the best validation score",
            "lmsm sweep --preset digits --grid lr=0.001..0.1:log --trials 20",
        ),
    ),
    "study": (
        ("Find the loss for your photos, and train the model", "lmsm study photos/ --budget 2h"),
        ("See first what it would do and could show", "lmsm study photos/ --dry-run"),
        (
            "Try it on long-tailed digits",
            "lmsm study digits --imbalance exp --factor 0.05 --budget 5m",
        ),
    ),
    "retrain": (
        ("Try up to fourteen last layers on a run", "lmsm retrain runs/NAME"),
        (
            "Try two on runs of several seeds",
            "lmsm retrain runs/NAME-s0 runs/NAME-s1 --head crt --head lws",
        ),
    ),
    "eval": (
        ("Score a run on its test images", "lmsm eval runs/NAME"),
        ("Score its best epoch, with confusions", "lmsm eval runs/NAME --best --confusion"),
        ("Correct it for rare classes", "lmsm eval runs/NAME --adjust auto"),
        ("Score it on other images", "lmsm eval runs/NAME --images photos --json"),
    ),
    "compare": (
        ("Compare the runs of a folder", "lmsm compare runs/"),
        ("Compare two runs", "lmsm compare runs/NAME-s0 runs/NAME-s1"),
        ("Hand the numbers to another program", "lmsm compare runs/ --json > comparison.json"),
        ("Set results made elsewhere beside them", "lmsm compare runs/ mine-s0.csv mine-s1.csv"),
    ),
    "report": (
        ("Write a page of a run", "lmsm report runs/NAME"),
        ("Choose its file", "lmsm report runs/NAME --out page.html"),
    ),
    "predict": (
        ("Name the classes of all images of a folder", "lmsm predict runs/NAME photos"),
        ("Show the three likeliest of one image", "lmsm predict runs/NAME photo.jpg --top 3"),
        ("Write a table for a spreadsheet", "lmsm predict runs/NAME photos --csv classes.csv"),
        ("Correct the answers for rare classes", "lmsm predict runs/NAME photos --adjust 1"),
    ),
    "adjust": (
        ("Correct a run for rare classes", "lmsm adjust runs/NAME --adjust 1"),
        ("Make its probabilities what they claim", "lmsm adjust runs/NAME --temperature auto"),
        (
            "Correct it for other class shares",
            "lmsm adjust runs/NAME --prior uniform --out even.pt",
        ),
    ),
    "export": (
        ("Write model.onnx beside the checkpoint", "lmsm export runs/NAME"),
        (
            "Export the best epoch for torch",
            "lmsm export runs/NAME --best --format torch --out net.pt2",
        ),
    ),
    "data": (
        ("Check a folder of class folders", "lmsm data photos"),
        ("See what a long tail leaves of digits", "lmsm data digits --imbalance exp --factor 0.05"),
        ("Draw its classes with samples", "lmsm data photos --plot classes.png"),
    ),
    "schedule": (
        (
            "Show learning rate and margin of every epoch",
            "lmsm schedule --preset digits --margin 4",
        ),
        (
            "Draw them",
            "lmsm schedule --preset lsoftmax-resnet18 --margin 4 --plot schedule.png",
        ),
    ),
    "losses": (
        ("List all losses with their options", "lmsm losses"),
        ("Explain one", "lmsm losses lsoftmax"),
    ),
    "presets": (
        ("List them", "lmsm presets"),
        ("Copy one to change it", "lmsm presets copy digits mine.yaml"),
    ),
    "bench": (
        ("Measure the usual models", "lmsm bench"),
        (
            "Find the fastest setting for one model",
            "lmsm bench --models resnet18 --precision fp32,bf16 --threads 1,2,0",
        ),
    ),
    "doctor": (
        ("Check this machine", "lmsm doctor"),
        ("Check where the data is, too", "lmsm doctor --data-dir DATA"),
    ),
}

_DATA = ("dataset", "data_dir", "imbalance", "factor")
_RUN = ("preset", "config", *_DATA, "model", "loss", "margin", "epochs", "batch_size", "lr")
# What makes a first trial short on a slow machine.
_SHORT_TRIAL = ("images_per_class", "test_images_per_class")
# The flags, by their parameters' names, that --help shows of a command which has dozens.
COMMON: dict[str, tuple[str, ...]] = {
    "train": (*_RUN, *_SHORT_TRIAL, "seed", "seeds", "out"),
    "sweep": (*_RUN, *_SHORT_TRIAL, "grid", "arm", "seeds", "trials", "dry_run", "out"),
    "schedule": (*_RUN, "schedule", "warmup", "plot", "json"),
}

_FULL_PAGE = "lmsm.full_page"


class _Pages:
    """A command whose pages show no Python types, and on --help only the common flags."""

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

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words; an unknown flag is told with the flags that are really alike.

        Raises LmsmError for an empty word.
        """
        if not ctx.resilient_parsing:  # as a shell's completion does
            words.check_not_empty(args)
        try:
            read: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
        except Exception as error:  # goes on; Typer keeps its class private
            if getattr(error, "possibilities", None):
                error.possibilities = words.alike(error.option_name, self._flags(ctx))  # type: ignore[attr-defined]
            raise
        return read

    def _flags(self, ctx: Any) -> list[str]:
        """Return the command's flags, in all their spellings."""
        parameters = self.get_params(ctx)
        return [flag for one in parameters for flag in (*one.opts, *one.secondary_opts)]


class Command(_Pages, TyperCommand):
    """A command; --help shows its flags in `COMMON`, where it has an entry there."""

    allow_extra_args = True  # so that what is said of them is not Typer's

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words. Raises LmsmError, with a way out, for those that nothing takes."""
        left_over = super().parse_args(ctx, args)
        if not ctx.resilient_parsing:
            words.check_no_more(left_over, ctx.command_path, self._flags(ctx))
        return left_over

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Draw the page, and last of all how many flags are left out."""
        common = COMMON.get(self.name or "")
        if common is None or ctx.meta.get(_FULL_PAGE):
            super().format_help(ctx, formatter)
            return
        others: list[Any] = [p for p in self.params if p.name not in (*common, "help_all")]
        for parameter in others:
            parameter.hidden = True
        super().format_help(ctx, formatter)
        for parameter in others:
            parameter.hidden = False
        formatter.write(f" --help-all shows the other {len(others)} flags.")


class Group(_Pages, TyperGroup):
    """A group of commands."""


class Program(Group):
    """The program: its page is a screen of 24 rows, with examples and the commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Draw the screen; on --help-all the page with every flag and whole sentences."""
        if ctx.meta.get(_FULL_PAGE):
            super().format_help(ctx, formatter)
            return
        console = stdout_console()
        wide = max(len(what) for what, _ in FRONT)
        lines = [
            "Usage: lmsm COMMAND [FLAGS]",
            inspect.cleandoc(self.help or "").partition("\n")[0],
            "",
            *(f" {n}. {what:<{wide}}  {command}" for n, (what, command) in enumerate(FRONT, 1)),
            "",
            *_side_by_side(self._panels((TRAIN, LOOK)), self._panels((USE, PREPARE))),
            "",
            "lmsm COMMAND --help: examples and flags of a command.  lmsm --help-all: more.",
        ]
        for line in lines:
            print_line(line, console)

    def _panels(self, titles: tuple[str, ...]) -> list[str]:
        """Return the lines of some panels: a title, and the panel's commands below it."""
        lines: list[str] = []
        for title in titles:
            lines += ["", title] if lines else [title]
            for name in self.commands:
                command: Any = self.commands[name]
                if command.rich_help_panel == title:
                    lines.append(f"  {name:<9} {SHORT[name]}")
        return lines


def _side_by_side(left: list[str], right: list[str]) -> list[str]:
    return [f"{a:<40}{b}".rstrip() for a, b in zip_longest(left, right, fillvalue="")]


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        context.meta[_FULL_PAGE] = True
        typer.echo(context.get_help())
        raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option("--help-all", callback=_show_all, is_eager=True, help="Show every flag and exit."),
]


def with_examples(name: str, text: str | None) -> str:
    """Return a command's help, its docstring, with its numbered examples below it."""
    examples = EXAMPLES.get(name, ())
    lines = [f" {n}. {what}\n    $ {command}" for n, (what, command) in enumerate(examples, 1)]
    return "\n\n".join([inspect.cleandoc(text or ""), *(["\n".join(lines)] if lines else [])])
