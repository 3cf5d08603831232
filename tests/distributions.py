"""Build sdist and wheel of the last commit twice: equal to the bit, whole, and with valid metadata.

    python tests/distributions.py FOLDER

Leaves both in FOLDER and prints their SHA-256. Needs the group `release` of pyproject.toml. The
first wheel is made from the sdist, the second from a clone, in another place, time zone and umask.
Ends with 1 where the two builds differ, or where a file is missing, or one too many is in them.
"""

import hashlib
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
BESIDE_THE_PACKAGE = {
    *(".gitignore", "CHANGELOG.md", "CITATION.cff", "LICENSE", "PKG-INFO", "README.md"),
    *("SECURITY.md", "constraints.txt", "pyproject.toml"),
}
"""What an sdist holds but for the package and its presets."""


def main(arguments: Sequence[str]) -> int:
    """Build, compare and look into both; return the exit code."""
    if len(arguments) != 1:
        raise SystemExit("usage: python tests/distributions.py FOLDER")
    folder = Path(arguments[0]).resolve()
    if folder.is_dir() and any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty")
    tracked = set(
        _output("git", "ls-tree", "-r", "--name-only", "HEAD", "lmsm_cli", "presets").splitlines()
    )
    with TemporaryDirectory() as scratch:
        again = Path(scratch, "again")
        _build(Path(scratch, "clone"), folder, umask=0o022, zone="UTC")
        _build(Path(scratch, "b", "clone"), again, "--sdist", "--wheel", umask=0o077, zone="XYZ-7")
        wrong = [*_differences(folder, again), *_contents(folder, tracked)]
    for line in wrong:
        print(line, file=sys.stderr)
    for path in sorted(folder.iterdir()):
        print(_sha256(path), path.name)
    check = ["-m", "twine", "check", "--strict", *map(str, folder.iterdir())]
    return subprocess.run([sys.executable, *check], check=False).returncode or bool(wrong)


def _build(clone: Path, out: Path, *what: str, umask: int, zone: str) -> None:
    """Clone the last commit, and build it there."""
    git = ["git", "clone", "--quiet", "--depth", "1", ROOT.as_uri(), str(clone)]
    subprocess.run(git, check=True, umask=umask)
    build = [sys.executable, "-m", "build", "--no-isolation", *what, "--outdir", str(out)]
    environment = os.environ | {"TZ": zone}
    subprocess.run(
        build, cwd=clone, env=environment, umask=umask, check=True, stdout=subprocess.DEVNULL
    )


def _differences(first: Path, second: Path) -> list[str]:
    """Return a line for each file that is not the same in both folders."""
    names = {path.name for folder in (first, second) for path in folder.iterdir()}
    digests = {
        name: {_sha256(path) for path in (first / name, second / name) if path.is_file()}
        for name in sorted(names)
    }
    return [f"{name} was built as {found}" for name, found in digests.items() if len(found) != 1]


def _contents(folder: Path, tracked: set[str]) -> list[str]:
    """Return a line for each file that an archive lacks, or has and should not have."""
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tarfile.open(sdist) as archive:
        of_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as packed:
        of_wheel = {name for name in packed.namelist() if ".dist-info/" not in name}
    presets = {name for name in tracked if name.startswith("presets/")}
    in_package = (tracked - presets) | {f"lmsm_cli/{name}" for name in presets}
    return [
        f"{path.name} should {'not ' * (name in found)}hold {name}"
        for path, found, wanted in (
            (sdist, of_sdist, tracked | BESIDE_THE_PACKAGE),
            (wheel, of_wheel, in_package),
        )
        for name in sorted(found ^ wanted)
    ]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
