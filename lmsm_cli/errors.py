"""What can go wrong in a way that the user can mend, and the exit code of each kind.

LmsmError (2, usage and config)
|- ArgumentError    2  a value that a function of the library cannot take; a ValueError too
|- RunError         1  the run failed
|  |- RankError     1  another process of the run failed
|  |- PrunedError   1  a search ended the run early, since others were better; it can go on
|  `- StoppedError  *  a signal stopped the run after a step, and its state was saved
|- DataError        3  data missing or bad
|  `- FaultsError   3  all that is wrong with it
|- CheckpointError  4  checkpoint unusable
|  `- UnnamedCodeError  4  it needs code that the call does not name
|- DivergedError    5  the loss or the net is no longer finite
|- DiskError        6  disk or other I/O
`- OutOfMemoryError 7  the host's or the device's memory was not enough

A message is one sentence: the fact, the value given, the way out; lower case, no full stop. It may
name files and folders, whose names may hold anything: control characters are spelled out in it.
Exit codes 130 and 143 are those of SIGINT and SIGTERM.
"""

import pickle
import shlex
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


class LmsmError(Exception):
    """A mistake in usage or configuration, shown as one message without a traceback."""

    exit_code = 2
    has_lines = True
    """Whether each line of the text is a mistake; else a line's end is spelled out too."""
    shown_elsewhere = False
    """Whether another process of the same run shows the message, so that this one need not."""

    def __init__(self, text: str = "") -> None:
        lines = text.split("\n") if self.has_lines else [text]
        super().__init__("\n".join(map(visible, lines)))


class ArgumentError(LmsmError, ValueError):
    """A value that a function of the library cannot take: the loss, the value, what it takes."""


class RunError(LmsmError):
    """A run that could not be finished."""

    exit_code = 1


class RankError(RunError):
    """The failure of another process of the run."""


class PrunedError(RunError):
    """A run that a search ended after an epoch, since it did worse than others had done."""


class StoppedError(RunError):
    """A run that a signal stopped; 128 plus its number is the exit code, as in a shell.

    `way_on` tells how the run alone is continued; it ends the text. Where it is of many runs, the
    command that began them continues them, which `by_same_command` says.
    """

    def __init__(
        self, text: str, signal: int, *, way_on: str = "", by_same_command: bool = False
    ) -> None:
        super().__init__(f"{text}; {way_on}" if way_on else text)
        self.fact, self.by_same_command = text, by_same_command
        self.exit_code = 128 + signal

    def among(self, done: int, total: int, what: str) -> "StoppedError":
        """Return the error of many runs of which this one was stopped, with how many are done."""
        standing = f"{done:,} of {total:,} {what} {'is' if done == 1 else 'are'} done"
        signal = self.exit_code - 128
        return StoppedError(self.fact, signal, way_on=standing, by_same_command=True)


class DataError(LmsmError):
    """Data that is missing or damaged."""

    exit_code, has_lines = 3, False


class FaultsError(DataError):
    """Several things that are wrong with the data, a line each."""

    has_lines = True

    def __init__(self, faults: Iterable[str]) -> None:
        # a line's end in the name of a file begins no line
        super().__init__("\n".join(map(visible, dict.fromkeys(faults))))


class CheckpointError(LmsmError):
    """A checkpoint that cannot be used."""

    exit_code, has_lines = 4, False


class UnnamedCodeError(CheckpointError):
    """A run that needs code from outside lmsm, which is imported only where the call names it."""

    def __init__(self, run: str, places: Sequence[str], way_to_name: str) -> None:
        self.places = tuple(places)
        super().__init__(
            f"{run} was trained with code outside lmsm, {' and '.join(places)}, which is imported "
            f"only where the call names it: if you trust it, {way_to_name}"
        )


class DivergedError(LmsmError):
    """A training whose loss, or a net whose tensor, is infinite or not a number."""

    exit_code = 5


class DiskError(LmsmError):
    """A file that cannot be written."""

    exit_code, has_lines = 6, False


class OutOfMemoryError(LmsmError):
    """A training that needs more memory than there is."""

    exit_code = 7


# What readers of pickles, archives and state dicts raise for content that is not theirs.
MALFORMED = (
    OSError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
    pickle.UnpicklingError,
)


def missing_extra(what: str, error: ImportError, extra: str) -> LmsmError:
    """Return the error for a missing optional package: what needs it, and the command."""
    command = f"pip install {' '.join(map(shlex.quote, packages_of(extra)))}"
    return LmsmError(
        f"{what} needs a package that cannot be imported ({first_line(error)}): {command}"
    )


def packages_of(extra: str) -> list[str]:
    """Return the packages of an extra as pip takes them; this package is in no index to ask for it.

    The extra itself, of the folder that pip is called in, where the package was not installed.
    """
    from importlib.metadata import PackageNotFoundError, requires  # help must not wait for it

    try:
        needs = [need.partition(";") for need in requires("lmsm-cli") or ()]
    except PackageNotFoundError:
        needs = []
    mark = f"extra == {extra!r}"
    known = [need.strip() for need, _, condition in needs if mark in condition.replace('"', "'")]
    return known or [f".[{extra}]"]


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the OSError of a write into a DiskError that names the file or folder."""
    try:
        yield
    except OSError as error:
        raise DiskError(f"cannot write {path}: {error.strerror or error}") from None


@contextmanager
def os_errors_as_data_errors(path: Path) -> Iterator[None]:
    """Turn the OSError of a read into a DataError that names the file or folder."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise DataError(f"cannot read {where}: {error.strerror or error}") from None


def visible(text: str) -> str:
    r"""Return the text with what has no visible form spelled out, as \x1b or \u202e."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return the first of some names, and how many more there are: `cat, dog and 3 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(map(visible, names[:most])) + more


def few(names: Sequence[str], shown: int = 10, separator: str = ", ") -> str:
    """Return the first of some names, made visible, and how many more there are."""
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return visible(separator.join(names[:shown])) + more


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: 1 image, 2 images."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text, or the kind of an error that has none."""
    return str(error).partition("\n")[0] or type(error).__name__


def check_choice(flag: str, value: str, choices: Iterable[str]) -> None:
    """Raise LmsmError, with the nearest right one, for a value that is none of the choices."""
    if value not in choices:
        raise LmsmError(f"{flag}: there is no {value!r}{did_you_mean(value, choices)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return what `name` may have meant, as ` (did you mean 'x'?)`, else the known names.

    It may have meant all known names that begin so, else the nearest one.
    """
    names, typed = sorted(known), name.lower()
    longer = [known for known in names if known.startswith(typed)] if len(typed) > 1 else []
    near = longer or get_close_matches(typed, names, n=1, cutoff=0.5)
    if not near:
        return f" (known: {', '.join(names)})"
    *others, last = map(repr, near)
    return f" (did you mean {', '.join(others)}{' or ' if others else ''}{last}?)"
