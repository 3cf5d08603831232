"""Bring the tables of RESULTS.md up to date from the kept runs: `python benchmarks/results.py`

A table stands between two comments, of which the first names its archive and its command:
    <!-- digits: lmsm compare runs/digits-norms --markdown -->
    <!-- end -->
It is what the command prints of the runs of benchmarks/runs/digits.tar.xz unpacked in runs/, but
for the accuracies per class. `--check` changes nothing, and exits with 1 where a table is not what
it says.
"""

import argparse
import contextlib
import io
import os
import re
import shlex
import sys
import tarfile
import tempfile
from pathlib import Path

from lmsm_cli.commands.app import main as lmsm

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
_TABLE = re.compile(
    r"(<!-- (?P<archive>[\w-]+): (?P<command>lmsm compare [^\n]*?) -->\n)"
    r"(?P<table>.*?)(<!-- end -->)",
    re.S,
)


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check the tables; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    given = parser.parse_args(arguments)
    text = RESULTS.read_text()
    fresh = refreshed(text)
    if not given.check:
        RESULTS.write_text(fresh)
    return int(given.check and fresh != text)


def refreshed(text: str) -> str:
    """Return a text with all its tables made anew."""
    with tempfile.TemporaryDirectory() as folder:
        for archive in {match["archive"] for match in _TABLE.finditer(text)}:
            unpack(archive, Path(folder))
        return _TABLE.sub(
            lambda match: f"{match[1]}{table(match['command'], Path(folder))}{match[5]}", text
        )


def unpack(archive: str, folder: Path) -> None:
    """Unpack an archive of kept runs into `folder/runs`."""
    with tarfile.open(HERE / "runs" / f"{archive}.tar.xz") as packed:
        packed.extractall(folder / "runs", filter="data")


def table(command: str, folder: Path) -> str:
    """Return the tables that a command prints in a folder, the one of classes left out."""
    printed = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        code = lmsm(shlex.split(command)[1:])
    if code:
        raise SystemExit(f"{command}: exit code {code}")
    return printed.getvalue().partition("**Accuracy per class")[0].rstrip() + "\n"


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())
