"""Keep the small files of finished runs, without weights.

    python benchmarks/keep.py NAME runs/FOLDER...

Writes benchmarks/runs/NAME.tar.xz, in which `FOLDER/RUN/` holds config, environment, metrics,
scores and status; unpacked below runs/ it is what `lmsm compare runs/FOLDER` reads. config.yaml
gets the default folders for this machine's; of an absolute path in the command the last part is
kept. Runs that did not complete are left out. The same runs give the same bytes.
"""

import argparse
import io
import json
import lzma
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import yaml

KEPT = Path(__file__).parent / "runs"
_DEFAULT_PLACES = {"data_dir": "data", "out": "runs"}
# In a command, as a word of its own or after `--flag=`; what follows the last slash is kept.
_ABSOLUTE = re.compile(r"(^|=)/.*/")


def main(arguments: list[str] | None = None) -> int:
    """Write the archive; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="of the archive")
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs")
    given = parser.parse_args(arguments)
    empty = [str(folder) for folder in given.folders if not list(completed(folder))]
    if empty:
        print(f"error: no completed run in {', '.join(empty)}", file=sys.stderr)
        return 2
    target = KEPT / f"{given.name}.tar.xz"
    target.write_bytes(archive(given.folders))
    print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")
    return 0


def archive(folders: list[Path]) -> bytes:
    """Return the compressed archive of the completed runs in the folders."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for folder in sorted(folders):
            for run in completed(folder):
                for name, content in kept_files(run):
                    entry = tarfile.TarInfo(f"{folder.name}/{run.name}/{name}")
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
    return lzma.compress(packed.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def completed(folder: Path) -> Iterator[Path]:
    """Yield the completed runs of a folder, by name."""
    for status in sorted(folder.glob("*/status.json")):
        if json.loads(status.read_text())["state"] == "completed":
            yield status.parent


def kept_files(run: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of a run's small files, without the places of this machine."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    yield "config.yaml", yaml.safe_dump(config | _DEFAULT_PLACES, sort_keys=False).encode()
    environment = json.loads((run / "environment.json").read_text())
    environment["command"] = [_ABSOLUTE.sub(r"\1", word) for word in environment["command"]]
    yield "environment.json", json.dumps(environment, indent=1).encode()
    for name in ("metrics.jsonl", "scores.json", "status.json"):
        yield name, (run / name).read_bytes()


if __name__ == "__main__":
    sys.exit(main())
