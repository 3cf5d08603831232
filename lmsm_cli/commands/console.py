"""The two consoles: results go to stdout, progress and messages to stderr.

On a terminal rich may draw; piped, in CI, without UTF-8, with NO_COLOR or TERM=dumb there are plain
lines, and a pipe is so wide that nothing is wrapped or cut. Tables that can be parted by columns
are laid out for whom the pipe is read by, as far as that is known. Numbers are not coloured and
`:name:` is no emoji; markup works, so text of a user's goes through `print_line`,
`rich.markup.escape` or a rich Text.
"""

import codecs
import contextlib
import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

# Wider than any table of ours; tables and lines are not stretched to it.
_PIPE_WIDTH = 4000

# What rich and our tables write beyond ASCII; anything else becomes a question mark.
_ASCII = {"±": "+-", "…": "...", "→": "->", "•": "*", "━": "-"}


def _spell_in_ascii(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_ASCII.get(character, "?") for character in lost), error.end


codecs.register_error("lmsm", _spell_in_ascii)


def stdout_console() -> "Console":
    """Return a console for results."""
    return _console(sys.stdout)


def stderr_console() -> "Console":
    """Return a console for progress and messages; a terminal that has gone does no harm."""
    return _console(cast(TextIO, _Lasting(sys.stderr)))


def layout_width(console: "Console") -> int:
    """Return the characters of a line for which tables are parted by columns.

    They are those of the terminal; of a pipe those of COLUMNS, or of the terminal that messages go
    to, as for `lmsm ... | less`. Where there is neither, as in a log, rows stay whole.
    """
    if console.file.isatty():
        return console.width
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    with contextlib.suppress(OSError, ValueError):  # ValueError: closed
        if sys.stderr.isatty():
            return os.get_terminal_size(sys.stderr.fileno()).columns or console.width
    return console.width


class _Lasting:
    """A text stream whose writes come to nothing once nobody reads it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write if anybody reads: a training outlives its terminal, and the log has it all."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: closed
            return self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush if anybody reads."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def print_line(text: str, console: "Console | None" = None) -> None:
    """Print a text as it is, without markup and unwrapped; on stdout where no console is given."""
    (console or stdout_console()).print(text, markup=False, soft_wrap=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout, in ASCII. Raises ValueError for NaN and infinities."""
    text = json.dumps(document, indent=2, allow_nan=False)
    print(text, file=stdout_console().file, flush=True)  # rich would measure every character


def is_plain(stream: TextIO) -> bool:
    """Return whether the stream gets plain lines: no colour, no cursor movement, no bars."""
    wishes = ("NO_COLOR", "CI")
    return (
        not stream.isatty()
        or any(os.environ.get(name) for name in wishes)
        or os.environ.get("TERM") in ("dumb", "unknown")
        or not _is_utf8(stream)
    )


def spell_out(stream: TextIO | None) -> None:
    """Let a stream that cannot write all characters spell the others, instead of failing."""
    if isinstance(stream, io.TextIOWrapper) and not _is_utf8(stream):
        stream.reconfigure(errors="lmsm")


def _console(stream: TextIO) -> "Console":
    from lmsm_cli.commands.calm import CalmConsole

    spell_out(stream._stream if isinstance(stream, _Lasting) else stream)
    plain = is_plain(stream)
    return CalmConsole(
        file=stream,
        force_terminal=False if plain else None,
        width=None if stream.isatty() else _PIPE_WIDTH,
        highlight=False,
        emoji=False,
    )


def _is_utf8(stream: TextIO) -> bool:
    # a stream without an encoding holds text, as io.StringIO does
    return (stream.encoding or "utf-8").lower().replace("_", "-").startswith("utf")
