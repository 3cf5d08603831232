"""What the shell offers for a half-typed value: presets, losses with their options, runs, files.

Each function takes what is typed so far and returns what it could become. Nothing here loads torch:
a shell waits for the answer. Where nothing fits, the shell offers files.
"""

import io
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import get_args

from lmsm_cli.config.nets import NETS
from lmsm_cli.config.resolve import preset_names
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses import own
from lmsm_cli.losses.registry import KNOWN, LOSSES

_ASKED = "_LMSM_COMPLETE"
# Where bash breaks words (COMP_WORDBREAKS), of what stands in our values.
_BREAKS = (":", "=")


def one_of(values: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what offers these values."""
    known = tuple(values)

    def offered(incomplete: str) -> list[str]:
        return _offered(incomplete, known)

    return offered


devices = one_of(("auto", "cpu", "cuda"))


def presets(incomplete: str) -> list[str]:
    """Return the shipped presets that begin so."""
    return _offered(incomplete, preset_names())


def loss_names(incomplete: str) -> list[str]:
    """Return the losses that begin so, those of installed packages too."""
    return _offered(incomplete, [*LOSSES, *_of_packages(own.LOSSES_GROUP)])


def nets(incomplete: str) -> list[str]:
    """Return the nets that begin so, those of installed packages too."""
    known = (*NETS, "torchvision:", "timm:")
    return _offered(incomplete, [*known, *_of_packages(own.MODELS_GROUP)])


def _of_packages(group: str) -> list[str]:
    try:
        return list(own.offers(group))
    except LmsmError:  # two of one name: no time to say so
        return []


def losses(incomplete: str) -> list[str]:
    """Return the losses that begin so; after the colon, the options that are not given yet."""
    name, colon, options = incomplete.partition(":")
    if not colon:
        return loss_names(incomplete)
    *given, typed = options.split(",")
    if "=" in typed:
        return []
    taken = {option.partition("=")[0] for option in given}
    before = incomplete.removesuffix(typed)
    known = KNOWN[name].options if name in KNOWN else ()
    left = (option for option in known if option not in taken)
    return _offered(incomplete, (f"{before}{option}=" for option in left))


def data_sets(incomplete: str) -> list[str]:
    """Return the names of data sets that begin so, and the folders and lists of files."""
    from lmsm_cli.config.data_path import LIST_SUFFIXES
    from lmsm_cli.config.value_types import Dataset

    folder = incomplete[: incomplete.rfind("/") + 1]
    try:
        paths = [
            f"{folder}{path.name}{'/' if path.is_dir() else ''}"
            for path in sorted(Path(folder or ".").iterdir())
            if path.is_dir() or path.suffix.lower() in LIST_SUFFIXES
        ]
    except OSError:
        paths = []
    shown = [path for path in paths if not path.removeprefix(folder).startswith(".")]
    return _offered(incomplete, [*get_args(Dataset), *(shown if incomplete else [])])


def run_folders(incomplete: str) -> list[str]:
    """Return the run folders below runs/, or below the folder typed so far, that begin so."""
    from lmsm_cli.runs.folder import is_run

    return _offered(incomplete, _inside(incomplete, is_run))


def checkpoints(incomplete: str) -> list[str]:
    """Return the run folders that begin so, and the checkpoints of the folder typed so far."""
    from lmsm_cli.runs.folder import is_run

    return _offered(
        incomplete, _inside(incomplete, lambda path: path.suffix == ".pt" or is_run(path))
    )


def _inside(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Return the wanted names in the folder typed so far, up to the last slash, else in runs/."""
    folder = incomplete[: incomplete.rfind("/") + 1] or "runs/"
    try:
        names = sorted(path.name for path in Path(folder).iterdir() if wanted(path))
    except OSError:
        return []
    return [folder + name for name in names if not name.startswith(".")]


def _offered(incomplete: str, values: Iterable[str]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]


@contextmanager
def answering_shells(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Let the body answer a shell in unwrapped lines, and bash as if it kept vs:tau=1 in one word.

    bash breaks words at `:` and `=`, hands over the pieces, a line each, with the number of the one
    under the cursor, and wants only what that piece could become.
    """
    if _ASKED in environment:
        # Typer wraps descriptions, which a shell takes line by line
        environment["COLUMNS"] = "10000"
    if environment.get(_ASKED) != "complete_bash":
        yield
        return
    pieces = environment.get("COMP_WORDS", "").split("\n")
    words, number = _rejoined(pieces, int(environment.get("COMP_CWORD", "0")))
    environment["COMP_WORDS"], environment["COMP_CWORD"] = "\n".join(words), str(number)
    typed = words[number] if number < len(words) else ""
    value = typed.partition("=")[2] if typed.startswith("-") else typed
    before = max(value.rfind(mark) for mark in _BREAKS) + 1
    with redirect_stdout(io.StringIO()) as answer:
        yield
    for line in answer.getvalue().splitlines():
        print(line[before:])


def _rejoined(pieces: Iterable[str], cursor: int) -> tuple[list[str], int]:
    """Return the words that bash has broken, and the number of the word under the cursor."""
    words: list[str] = []
    number = cursor
    for i, piece in enumerate(pieces):
        if words and (piece in _BREAKS or words[-1].endswith(_BREAKS)):
            words[-1] += piece
        else:
            words.append(piece)
        if i == cursor:
            number = len(words) - 1
    return words, number
