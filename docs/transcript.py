"""Make transcripts anew: run their commands, and put what they print below them.

    python docs/transcript.py [data | docs/PAGE.md]

A transcript is a `text` block whose lines that start with `$ ` are the commands. Without a word
those of the README are made: that of the comparison, and the short one of `lmsm data`, which is
made alone with `data`; with a page all of its own. The commands of a file run one after another in
a folder that is empty at first, and print as on a terminal of 100 columns without colours. Of a
report page that the README's write, docs/report-1280.png and docs/report-390.png are made (with
Chromium).
"""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"(?<=^```text\n)\$ (?!lmsm data).*?(?=^```$)", flags=re.DOTALL | re.MULTILINE)
DATA_BLOCK = re.compile(r"(?<=^```text\n)\$ lmsm data.*?(?=^```$)", flags=re.DOTALL | re.MULTILINE)
ANY_BLOCK = re.compile(r"(?<=^```text\n)\$ .*?(?=^```$)", flags=re.DOTALL | re.MULTILINE)
_COLUMNS = 100


def commands(readme: str) -> list[str]:
    """Return the transcript's commands, a continued one as one line."""
    (block,) = BLOCK.findall(readme)
    joined = block.replace("\\\n", " ")
    return [" ".join(line[2:].split()) for line in joined.splitlines() if line.startswith("$ ")]


def printed_by(command: str, folder: Path) -> str:
    """Return what a shell command prints on a terminal, messages on stderr apart."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, _COLUMNS, 0, 0))
    here = str(Path(sys.executable).parent)
    environment = os.environ | {"NO_COLOR": "1", "PATH": f"{here}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(["bash", "-c", command], cwd=folder, stdout=theirs, env=environment)
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    if process.wait():
        raise SystemExit(f"{command} ended with {process.returncode}")
    lines = b"".join(pieces).decode().replace("\r\n", "\n").splitlines()
    return "\n".join(line.rstrip() for line in lines)


def made_anew(pattern: re.Pattern[str], folder: Path, page: Path = README) -> None:
    """Run the commands of a page's transcripts in a folder and write the page."""
    old = page.read_text(encoding="utf-8")
    if not pattern.search(old):
        raise SystemExit(f"{page} has no transcript")
    page.write_text(pattern.sub(lambda block: _run(block[0], folder), old), encoding="utf-8")


def _run(block: str, folder: Path) -> str:
    """Return a transcript with what its commands print now."""
    parts = []
    for shown in re.findall(r"^\$ (?:.*\\\n)*.*$", block, flags=re.MULTILINE):
        command = shown[2:].replace("\\\n", " ")
        start = time.monotonic()
        parts += [shown, printed_by(command, folder)]
        print(f"{time.monotonic() - start:.0f} s: {command}", file=sys.stderr)
    return "\n".join(part for part in parts if part) + "\n"


def main(asked: list[str]) -> None:
    """Make the transcripts of the README, that of `lmsm data` alone, or those of a page."""
    folder = Path(tempfile.mkdtemp())
    pages = [Path(word) for word in asked if word != "data"]
    for page in pages:
        made_anew(ANY_BLOCK, folder, page)
    if not pages:
        made_anew(DATA_BLOCK, folder)
    if not asked:
        made_anew(BLOCK, folder)
        _draw_reports(folder)
    shutil.rmtree(folder)


def _draw_reports(folder: Path) -> None:
    pictures = README.parent / "docs"
    for page in folder.glob("*.html"):
        subprocess.run(
            [sys.executable, pictures / "screenshot.py", page, pictures / "report", "1700"],
            check=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
