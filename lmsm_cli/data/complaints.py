"""What Pillow warns of while it decodes, told in our words with the names of the files.

Pillow warns through Python's `warnings`, which know no files and are one for all threads. So the
thread that decodes says which file it is at, and one hook for all threads notes both.
"""

import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from lmsm_cli.data.walk import counted, few
from lmsm_cli.runtime.display import Display

_at = threading.local()
# Python's filters are the process's: two hooks at once would put back each other's.
_one_at_a_time = threading.RLock()


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Let what is warned of in this thread be of that file."""
    before = getattr(_at, "path", None)
    _at.path = path
    try:
        yield
    finally:
        _at.path = before


@contextmanager
def complaints_told(display: Display, root: Path | None = None) -> Iterator[None]:
    """Warn `display` at the end, once for each kind, of what Pillow said of files, in any thread.

    Files below `root` are named from there on. Warnings that are about no file go their usual way.
    """
    heard: list[tuple[Path, type[Warning], str]] = []
    with _one_at_a_time, warnings.catch_warnings():
        shown = warnings.showwarning

        def hear(message: Any, category: type[Warning], *rest: Any, **more: Any) -> None:
            path = getattr(_at, "path", None)
            if path is None:
                shown(message, category, *rest, **more)
            else:
                heard.append((path, category, str(message)))

        warnings.filterwarnings("always", module=r"PIL\.")
        warnings.filterwarnings("always", category=Image.DecompressionBombWarning)
        warnings.showwarning = hear
        try:
            yield
        finally:
            for text in _in_words(heard, root):
                display.warning(text)


def _in_words(heard: list[tuple[Path, type[Warning], str]], root: Path | None) -> list[str]:
    """Return a sentence for each kind of warning; those that differ in numbers alone are one kind."""
    kinds: dict[tuple[type[Warning], str], tuple[str, dict[str, None]]] = {}
    for path, category, said in heard:
        kind = (category, re.sub(r"\d+", "0", said))
        names = kinds.setdefault(kind, (said, {}))[1]
        names[_name(path, root)] = None
    return [
        f"{counted(len(names), 'image')}: {_meaning(category, said)}: {few(sorted(names))}"
        for (category, _), (said, names) in kinds.items()
    ]


def _name(path: Path, root: Path | None) -> str:
    return str(path.relative_to(root) if root and path.is_relative_to(root) else path)


def _meaning(category: type[Warning], said: str) -> str:
    if issubclass(category, Image.DecompressionBombWarning):
        return f"more than {int(Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels, which are decoded whole"
    return f"Pillow says '{' '.join(said.split()).rstrip('.')}'"
