"""The code blocks of Markdown pages, and their `lmsm` lines as tests run them."""

import re
import shlex
from pathlib import Path


def fenced(text: str) -> list[tuple[str, str]]:
    """Return a page's code blocks, each with its language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(block: str) -> list[str]:
    """Return the `lmsm` lines of a console block, a continued one as one line."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("lmsm ")]


def typed(command: str, folder: Path) -> list[str]:
    """Return the words after `lmsm`; runs/NAME is the newest of the runs in a folder."""
    runs = sorted(path.parent for path in folder.glob("runs/*/config.yaml"))
    return [
        str(runs[-1]) + word.removeprefix("runs/NAME") if word.startswith("runs/NAME") else word
        for word in shlex.split(command)[1:]
    ]
