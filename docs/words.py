"""Count the words of pages: how long the sentences are, and which lines are too long to read.

    python docs/words.py [FILE.md ...]

Prints a line for each page, of all without a name, and ends with 1 where a limit is passed. Only
prose counts: no code blocks, tables, headings and pictures. A list's entry and a paragraph end a
sentence, and a code span has the words that it shows.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
LONGEST_LINE = 120
MOST_WORDS = 16
"""Of a sentence, on average over a page."""
_FENCE = re.compile(r" *(```|~~~)")
# What is no prose, and ends what stands before it.
_APART = re.compile(r"#{1,6} |\||!\[[^\]]*\]\([^)]*\)$|<[^>]*>$")
_ENTRY = re.compile(r" *([*+-]|\d+[.)]) +")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_END = re.compile(r"[.!?]['\")*_]*(?=\s|$)")


class Words(NamedTuple):
    """What was counted on a page."""

    words: int
    sentences: int
    long_lines: tuple[int, ...]
    """The numbers of prose lines above LONGEST_LINE, from 1."""

    @property
    def average(self) -> float:
        """The words of a sentence; 0 where there is none."""
        return self.words / self.sentences if self.sentences else 0.0


def count(text: str) -> Words:
    """Return the words, sentences and long lines of a page."""
    sentences = [piece for part in _paragraphs(text) for piece in _END.split(part) if _words(piece)]
    return Words(
        sum(map(_words, sentences)),
        len(sentences),
        tuple(number for number, line in _prose(text) if len(line) > LONGEST_LINE),
    )


def problems(name: str, found: Words) -> list[str]:
    """Return what passes a limit, in words."""
    told = [f"{name}:{line}: above {LONGEST_LINE} characters" for line in found.long_lines]
    if found.average > MOST_WORDS:
        told.append(f"{name}: {found.average:.1f} words a sentence, more than {MOST_WORDS}")
    return told


def _words(text: str) -> int:
    """Return how many words a text has: what has a letter or a digit."""
    return sum(any(sign.isalnum() for sign in word) for word in text.split())


def _prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines outside code with their numbers; tables and pictures are empty lines."""
    fence = ""
    for number, line in enumerate(text.splitlines(), 1):
        mark = _FENCE.match(line)
        if mark and (not fence or line.strip() == fence):
            fence = "" if fence else mark[1]
            yield number, ""
        elif not fence:
            yield number, "" if _APART.match(line.strip()) else line


def _paragraphs(text: str) -> Iterator[str]:
    """Yield paragraphs and entries of lists as plain text."""
    lines: list[str] = []
    for _, line in [*_prose(text), (0, "")]:
        entry = _ENTRY.match(line)
        if lines and (entry or not line.strip()):
            yield _LINK.sub(r"\1", " ".join(lines))
            lines = []
        if line.strip():
            lines.append(line[entry.end() :] if entry else line.strip())


def main(files: list[str]) -> int:
    """Print what is counted, and what passes a limit."""
    told = []
    for path in [Path(file).resolve() for file in files] or PAGES:
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
        found = count(path.read_text(encoding="utf-8"))
        print(f"{name}: {found.words} words, {found.average:.1f} a sentence")
        told += problems(name, found)
    print(*told, sep="\n", end="\n" if told else "")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
