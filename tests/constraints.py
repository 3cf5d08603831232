"""The versions that were tested: a line for each package that `pip install '.[dev]'` brings.

    python tests/constraints.py [--diff]

Writes constraints.txt from the versions that are installed, or with `--diff` shows what is other
than there. Run it where all tests have passed; a test of every run holds it to pyproject.toml.
"""

import platform
import sys
import tomllib
from collections.abc import Iterable, Sequence
from difflib import unified_diff
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
HEAD = """\
# The versions with which all tests passed, under Python {python} on {system}:
#     pip install -c constraints.txt .
# `python tests/constraints.py` writes this file. The lowest versions are in pyproject.toml.
"""


def direct() -> list[Requirement]:
    """Return what `pip install '.[dev]'` names: the dependencies, and those of the extras in it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found, waiting = [], [*project["dependencies"], f"{project['name']}[dev]"]
    while waiting:
        requirement = Requirement(waiting.pop())
        if requirement.name == project["name"]:
            extras = project["optional-dependencies"]
            waiting += [listed for extra in requirement.extras for listed in extras[extra]]
        else:
            found.append(requirement)
    return found


def installed(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Return the versions of these packages and of all that they require, by name.

    Raises SystemExit where one is not installed.
    """
    waiting, seen, versions = list(requirements), set(), {}
    while waiting:
        requirement = waiting.pop()
        key = (canonicalize_name(requirement.name), frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        try:
            package = distribution(requirement.name)
        except PackageNotFoundError:
            raise SystemExit(f"{requirement} is not installed: pip install -e '.[dev]'") from None
        versions[key[0]] = Version(package.version).public  # without +cpu
        waiting += [
            further
            for further in map(Requirement, package.requires or ())
            if _wanted(further, requirement.extras)
        ]
    return versions


def _wanted(requirement: Requirement, extras: Iterable[str]) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def constraints() -> str:
    """Return the text of constraints.txt for what is installed."""
    head = HEAD.format(python=platform.python_version(), system=platform.system())
    lines = (f"{name}=={version}\n" for name, version in sorted(installed(direct()).items()))
    return head + "".join(lines)


def main(arguments: Sequence[str]) -> None:
    """Write the file, or show what is other than in it."""
    if list(arguments) == ["--diff"]:
        old, new = CONSTRAINTS.read_text(encoding="utf-8"), constraints()
        sys.stdout.writelines(
            unified_diff(
                old.splitlines(keepends=True), new.splitlines(keepends=True), "tested", "here", n=0
            )
        )
    elif arguments:
        raise SystemExit(f"unknown arguments: {' '.join(arguments)}; there is --diff")
    else:
        CONSTRAINTS.write_text(constraints(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
