"""What the shell offers for a half-typed value: presets, losses with their options, runs, files.

Each function takes what is typed so far and returns what it could become. Nothing here loads torch:
a shell waits for the answer. Where nothing fits, the shell offers files.
"""

import os
from collections.abc import Callable, Iterable, MutableMapping
from pathlib import Path

from lmsm_cli.layers import preset_names
from lmsm_cli.spec import LOSSES

_DEVICES = ("auto", "cpu", "cuda")
# At these bash begins a new word, which alone is completed (COMP_WORDBREAKS).
_BASH_BREAKS = (":", "=")


def presets(incomplete: str) -> list[str]:
    """Return the shipped presets that begin so."""
    return _offered(incomplete, preset_names())


def devices(incomplete: str) -> list[str]:
    """Return the devices that begin so."""
    return _offered(incomplete, _DEVICES)


def losses(incomplete: str) -> list[str]:
    """Return the losses that begin so; after the colon, the options that are not given yet."""
    name, colon, options = incomplete.partition(":")
    if not colon:
        return _offered(incomplete, LOSSES)
    *given, typed = options.split(",")
    if "=" in typed:
        return []
    taken = {option.partition("=")[0] for option in given}
    before = incomplete.removesuffix(typed)
    left = (option for option in LOSSES.get(name, ()) if option not in taken)
    return _offered(incomplete, (f"{before}{option}=" for option in left))


def loss_names(incomplete: str) -> list[str]:
    """Return the names of losses that begin so."""
    return _offered(incomplete, LOSSES)


def run_folders(incomplete: str) -> list[str]:
    """Return the run folders below runs/, or below the folder typed so far, that begin so."""
    from lmsm_cli.runs.record import is_run

    return _offered(incomplete, _inside(incomplete, is_run))


def checkpoints(incomplete: str) -> list[str]:
    """Return the run folders that begin so, and the checkpoints of the folder typed so far."""
    from lmsm_cli.runs.record import is_run

    return _offered(incomplete, _inside(incomplete, lambda path: path.suffix == ".pt" or is_run(path)))  # fmt: skip


def one_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Return what offers these values."""
    known = tuple(choices)

    def offer(incomplete: str) -> list[str]:
        return _offered(incomplete, known)

    return offer


def _inside(incomplete: str, wanted: Callable[[Path], bool]) -> list[str]:
    """Return what is wanted of the folder that is being typed, up to the last slash, else of runs/."""
    folder = incomplete[: incomplete.rfind("/") + 1] or "runs/"
    try:
        names = sorted(path.name for path in Path(folder).iterdir() if wanted(path))
    except OSError:
        return []
    return [folder + name for name in names if not name.startswith(".")]


def _offered(incomplete: str, values: Iterable[str]) -> list[str]:
    """Return the values that begin so, for bash without the words before the one it completes."""
    cut = 0
    if os.environ.get("_LMSM_COMPLETE") == "complete_bash":
        cut = max(incomplete.rfind(break_) for break_ in _BASH_BREAKS) + 1
    return [value[cut:] for value in values if value.startswith(incomplete)]


def rejoin_bash_words(environment: MutableMapping[str, str]) -> None:
    """Put the words together again that bash has broken at `:` and `=`, as in lsoftmax:margin=4.

    bash hands over the typed words, a line each, and the number of the one under the cursor.
    """
    if environment.get("_LMSM_COMPLETE") != "complete_bash":
        return
    words = environment.get("COMP_WORDS", "").split("\n")
    cursor = int(environment.get("COMP_CWORD", "0"))
    joined: list[str] = []
    position = cursor
    for number, word in enumerate(words):
        glued = joined and (word in _BASH_BREAKS or joined[-1].endswith(_BASH_BREAKS))
        if glued:
            joined[-1] += word
        else:
            joined.append(word)
        if number == cursor:
            position = len(joined) - 1
    environment["COMP_WORDS"], environment["COMP_CWORD"] = "\n".join(joined), str(position)
