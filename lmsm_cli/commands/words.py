"""What is wrong with the words of a command line: an empty one, a mistyped flag, one too many."""

import shlex
from collections.abc import Collection, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import get_args

from lmsm_cli.config.data_path import choices_at
from lmsm_cli.config.resolve import preset_names
from lmsm_cli.config.value_types import Dataset
from lmsm_cli.errors import LmsmError, visible
from lmsm_cli.runs.folder import is_run

# How alike a mistyped flag and a suggestion are, without their dashes: --adjust is no --out.
_ALIKE = 0.75


def check_not_empty(words: Sequence[str]) -> None:
    """Raise LmsmError for a word without a letter: as a path it would be the current folder."""
    way_out = "leave it out, or give it a value; `$NAME` of a variable that is not set is empty"
    for before, word in pairwise(["lmsm", *words]):
        flag, equals, value = word.partition("=")
        if not word:
            raise LmsmError(f"the word after {before} is empty: {way_out}")
        if flag.startswith("--") and equals and not value:
            raise LmsmError(f"{flag} is empty: {way_out}")


def alike(flag: str, flags: Collection[str]) -> list[str]:
    """Return the flags that a mistyped one can have meant."""
    bare = {flag.removeprefix("--"): flag for flag in flags if flag.startswith("--")}
    near = get_close_matches(flag.removeprefix("--").lower(), bare, cutoff=_ALIKE)
    return [bare[name] for name in near]


def check_no_more(words: Sequence[str], command: str, flags: Collection[str]) -> None:
    """Check that no words of a command line are left over.

    Args:
        words: Those that no flag and no argument of the command takes.
        command: What the user typed before them, such as `lmsm train`.
        flags: What the command has.

    Raises:
        LmsmError: There are some; it says which flag the first may be for.
    """
    if not words:
        return
    more = f" and {len(words) - 1:,} more" if len(words) > 1 else ""
    raise LmsmError(
        f"{command} takes no {visible(words[0])!r}{more} here: {_way_out(words, command, flags)}"
    )


def _way_out(words: Sequence[str], command: str, flags: Collection[str]) -> str:
    path = Path(words[0])
    with suppress(OSError):  # of a word that is too long for a path
        if len(words) > 1 and len({Path(word).parent for word in words}) == 1 and path.exists():
            return f"a * in a path becomes many words; give the folder, {path.parent}"
        for flag, value in _meant(words[0]):
            if flag in flags:
                return f"did you mean {flag} {shlex.quote(value)}?"
    return (
        f"a value stands after its flag, in quotes if it has spaces; `{command} --help` shows the "
        "flags"
    )


def _meant(word: str) -> list[tuple[str, str]]:
    """Return the flags that a word may be the value of, the likeliest first."""
    path = Path(word)  # which has no ./ any more: ./digits is no data set with a name
    if is_run(path):
        return [("--config", str(path / "config.yaml"))]
    if path.suffix in (".yaml", ".yml"):
        return [("--config", word)]
    if word in get_args(Dataset) or (choices_at(word, ()) and path.exists()):
        return [("--dataset", word)]
    return [("--preset", word)] if word in preset_names() else []
