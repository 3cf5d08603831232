"""Make transcripts anew: run their commands, and put what they print below them.

    python docs/transcript.py README.md docs/PAGE.md...

A transcript is a `text` block whose lines that start with `$ ` are the commands. Those of a page
run one after another in a folder that is empty at first, and print as on a terminal of 100 columns
without colours. Of a report page that they write, docs/report-1280.png and docs/report-390.png are
made (with Chromium).
"""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

BLOCK = re.compile(r"(?<=^```text\n)\$ .*?(?=^```$)", flags=re.DOTALL | re.MULTILINE)
_COLUMNS = 100


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


def made_anew(page: Path, folder: Path) -> None:
    """Run the commands of a page's transcripts in a folder and write the page."""
    old = page.read_text(encoding="utf-8")
    if not BLOCK.search(old):
        raise SystemExit(f"{page} has no transcript")
    page.write_text(BLOCK.sub(lambda block: _run(block[0], folder), old), encoding="utf-8")


def _run(block: str, folder: Path) -> str:
    """Return a transcript with what its commands print now."""
    parts = []
    for shown in re.findall(r"^\$ (?:.*\\\n)*.*$", block, flags=re.MULTILINE):
        command = shown[2:].replace("\\\n", " ")
        start = time.monotonic()
        parts += [shown, printed_by(command, folder)]
        print(f"{time.monotonic() - start:.0f} s: {command}", file=sys.stderr)
    return "\n".join(part for part in parts if part) + "\n"


def main(pages: list[str]) -> None:
    """Make the transcripts of pages anew."""
    for page in pages:
        with tempfile.TemporaryDirectory() as folder:
            made_anew(Path(page), Path(folder))
            for report in Path(folder).glob("*.html"):
                _draw(report)


def _draw(report: Path) -> None:
    here = Path(__file__).parent
    words = [here / "screenshot.py", report, here / "report", "1700"]
    subprocess.run([sys.executable, *words], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
