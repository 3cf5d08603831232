"""The command line: ties the subcommands together and turns errors into messages and exit codes."""

import contextlib
import errno
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, TypeVar

import typer

from lmsm_cli import __version__
from lmsm_cli.commands import help as pages
from lmsm_cli.commands import limits
from lmsm_cli.commands.adjust import adjust
from lmsm_cli.commands.bench import bench
from lmsm_cli.commands.compare import compare
from lmsm_cli.commands.completion import answering_shells
from lmsm_cli.commands.console import print_line, spell_out, stderr_console
from lmsm_cli.commands.data import data
from lmsm_cli.commands.demo import demo
from lmsm_cli.commands.doctor import doctor
from lmsm_cli.commands.evaluate import evaluate
from lmsm_cli.commands.export import export
from lmsm_cli.commands.libraries import BROKEN, broken_library
from lmsm_cli.commands.losses import losses
from lmsm_cli.commands.predict import predict
from lmsm_cli.commands.presets import presets
from lmsm_cli.commands.report import report
from lmsm_cli.commands.retrain import retrain
from lmsm_cli.commands.schedule import schedule
from lmsm_cli.commands.study import study
from lmsm_cli.commands.sweep import sweep
from lmsm_cli.commands.train import resume, train
from lmsm_cli.errors import (
    DiskError,
    LmsmError,
    StoppedError,
    UnnamedCodeError,
)
from lmsm_cli.runtime.signals import raise_on_signals

E = TypeVar("E", bound=BaseException)

app = typer.Typer(
    name="lmsm",
    cls=pages.Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_COMMANDS = (
    ("demo", demo, pages.TRAIN),
    ("train", train, pages.TRAIN),
    ("resume", resume, pages.TRAIN),
    ("sweep", sweep, pages.TRAIN),
    ("study", study, pages.TRAIN),
    ("retrain", retrain, pages.TRAIN),
    ("eval", evaluate, pages.LOOK),
    ("compare", compare, pages.LOOK),
    ("report", report, pages.LOOK),
    ("predict", predict, pages.USE),
    ("adjust", adjust, pages.USE),
    ("export", export, pages.USE),
    ("data", data, pages.PREPARE),
    ("schedule", schedule, pages.PREPARE),
    ("losses", losses, pages.PREPARE),
    ("bench", bench, pages.PREPARE),
    ("doctor", doctor, pages.PREPARE),
)
for _name, _command, _panel in _COMMANDS:
    _help = pages.with_examples(_name, _command.__doc__)
    app.command(_name, cls=pages.Command, rich_help_panel=_panel, help=_help)(_command)
app.add_typer(presets, name="presets", rich_help_panel=pages.PREPARE)


# The commands that import what a run was trained with, where they are told so.
_TAKE_IMPORTS = ("adjust", "eval", "export", "predict", "resume", "retrain", "train")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"lmsm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
    help_all: pages.HelpAll = False,
) -> None:
    """Train image classifiers whose rare classes work, and find the loss for that."""


def script() -> None:
    """Run the command line as the `lmsm` program."""
    sys.exit(main())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (see lmsm_cli.errors)."""
    _fill_closed_streams()
    for stream in (sys.stdout, sys.stderr):  # for the help pages too
        spell_out(stream)
    with answering_shells(os.environ), raise_on_signals() as came, limits.checked_before_torch():
        try:
            return _run(arguments)
        except BaseException as error:  # whatever a library made of the signal
            if isinstance(error, KeyboardInterrupt) or came():
                return 128 + (came() or signal.SIGINT)
            raise


def _run(arguments: Sequence[str] | None) -> int:
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        app(args=words, prog_name="lmsm", standalone_mode=True)
    except SystemExit as done:
        # Typer turns these into exits: the signal is lost, a reader that left becomes a failure.
        if _cause(done, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        if _cause(done, BrokenPipeError):
            return 0
        return done.code if isinstance(done.code, int) else int(done.code is not None)
    except StoppedError as stopped:
        if not stopped.shown_elsewhere:
            print_line(str(stopped), stderr_console())
        if stopped.by_same_command:
            print_line("the same command continues all of it:", stderr_console())
            print_line(f"  {shlex.join(['lmsm', *words])}", stderr_console())
        return stopped.exit_code
    except LmsmError as error:
        if not error.shown_elsewhere:
            _print_error(error)
        if isinstance(error, UnnamedCodeError) and words[0] in _TAKE_IMPORTS:
            more = [word for place in error.places for word in ("--import", place)]
            print_line(f"  {shlex.join(['lmsm', *words, *more])}", stderr_console())
        return error.exit_code
    except BROKEN as error:
        told = limits.out_of_memory(error) if limits.is_memory(error) else broken_library(error)
        if told is not None:
            _print_error(told)
            return told.exit_code
        if not isinstance(error, OSError):
            raise
        if error.errno != errno.EPIPE:
            place = "" if error.filename is None else f"{error.filename}: "
            _print_error(DiskError(f"{place}{error.strerror or error}"))
            return DiskError.exit_code
        # The reader has gone, as in `lmsm compare runs | head`; say nothing when Python flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _cause(error: BaseException, kind: type[E]) -> E | None:
    """Return what an error was made of, where that is of a kind."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, kind):
        cause = cause.__context__
    return cause


def _fill_closed_streams() -> None:
    """Put /dev/null where a standard stream is closed, before a checkpoint gets its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                os.fstat(number)
                continue
            mode = "r" if number == 0 else "w"
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _print_error(error: LmsmError) -> None:
    console = stderr_console()
    lines = str(error).splitlines() or [type(error).__name__]
    console.print("[bold red]error:[/] ", end="")
    if len(lines) > 1:
        console.print(f"{len(lines)} problems")
    for line in lines:
        print_line(("  " if len(lines) > 1 else "") + line, console)
