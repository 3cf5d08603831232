"""Bring the tables of RESULTS.md up to date from the kept runs: `python benchmarks/results.py`

A table stands between two comments, of which the first names its archive and its command:
    <!-- digits: lmsm compare runs/digits-norms --markdown -->
    <!-- end -->
It is what the command prints of the runs of benchmarks/runs/digits.tar.xz unpacked in runs/, but
for the accuracies per class; `python benchmarks/tail_study.py choose` and `judge` are such commands
too, and so are `original.py` and `study_full.py table`. A table that is there keeps its columns: a
metric that is younger than a study is no part of it (empty the table to have them all). Below the
first table of some runs stand their net and recipe, and published figures beside ours (beside.py).
An archive may be missing where its command takes that. The table of `sh benchmarks/gpu.sh OUT`
shows the files of benchmarks/gpu/, each OUT/gpu.jsonl of a card under the card's name. `--check`
changes nothing, and exits with 1 where a table is not what it says.
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
from collections.abc import Container, Sequence
from pathlib import Path

import beside
import gpu_lines
import original
import study_full
import tail_study

from lmsm_cli.commands.app import main as lmsm

HERE = Path(__file__).parent
RESULTS, GPU_RUNS = HERE / "RESULTS.md", HERE / "gpu"
_TABLE = re.compile(
    r"(<!-- (?P<archives>[\w-]+(?: [\w-]+)*): "
    r"(?P<command>(?:lmsm compare|python benchmarks/(?:tail_study|original|study_full).py)"
    r" [^\n]*?) -->\n)"
    r"(?P<table>.*?)(<!-- end -->)",
    re.S,
)
_SCRIPTS = {
    "benchmarks/tail_study.py": tail_study.main,
    "benchmarks/original.py": original.main,
    "benchmarks/study_full.py": study_full.main,
}
_RUNS = re.compile(r"\bruns/[\w./-]+")
_GPU = re.compile(r"(<!-- gpu: sh benchmarks/gpu.sh OUT -->\n)(.*?)(<!-- end -->)", re.S)


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
    text = _GPU.sub(lambda match: match[1] + gpu_lines.results(GPU_RUNS) + match[3], text)
    with tempfile.TemporaryDirectory() as folder:
        names = [found["archives"] for found in _TABLE.finditer(text)]
        for archive in set(" ".join(names).split()):
            unpack(archive, Path(folder))
        told = set[Path]()

        def fresh(match: re.Match[str]) -> str:
            old = match["table"].partition(beside.TITLE)[0]
            made = with_columns_of(old, table(match["command"], Path(folder)))
            runs = [Path(folder, one) for one in _RUNS.findall(match["command"])]
            below = "" if told.issuperset(runs) else beside.below(runs)
            told.update(runs)
            return f"{match[1]}{made}{below}{match[5]}"

        return _TABLE.sub(fresh, text)


def unpack(archive: str, folder: Path) -> None:
    """Unpack an archive of kept runs into `folder/runs`, if it is there already."""
    if (path := HERE / "runs" / f"{archive}.tar.xz").exists():
        with tarfile.open(path) as packed:
            packed.extractall(folder / "runs", filter="data")


def table(command: str, folder: Path) -> str:
    """Return what a command prints in a folder; of `lmsm compare` scores, differences and answer.

    Its tables of classes and of cost are left out, and its notes.
    """
    printed = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        program, *arguments = shlex.split(command)
        code = lmsm(arguments) if program == "lmsm" else _SCRIPTS[arguments[0]](arguments[1:])
    if code:
        raise SystemExit(f"{command}: exit code {code}")
    text = printed.getvalue().rstrip()
    if program != "lmsm":
        return f"{text}\n"
    tables = re.findall(r"^\*\*[^\n]*\n\n(?:\|[^\n]*\n)+", f"{text}\n", flags=re.MULTILINE)
    kept = [one for one in tables if not one.startswith(("**Accuracy per class", "**Margin and"))]
    return "\n".join([*kept, text.splitlines()[-1]]) + "\n"


def with_columns_of(old: str, fresh: str) -> str:
    """Return Markdown tables without the columns that no old one has; a new table is whole."""
    known = {cell for line in old.splitlines() for cell in _cells(line)}
    lines, kept = [], None
    for line in fresh.splitlines():
        cells = _cells(line)
        kept = (kept or _kept(cells, known)) if cells else None
        chosen = [cell for cell, is_kept in zip(cells, kept or (), strict=True) if is_kept]
        lines.append(f"| {' | '.join(chosen)} |" if cells else line)
    return "".join(f"{line}\n" for line in lines)


def _kept(titles: Sequence[str], known: Container[str]) -> list[bool]:
    """Return which columns stay: all of them in a table that is new."""
    kept = [title in known for title in titles]
    return kept if any(kept) else [True] * len(titles)


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


if __name__ == "__main__":
    os.environ.setdefault("NO_COLOR", "1")
    sys.exit(main())
