"""Are the packages here that `gpu.sh` needs? What lacks is named, with the command that brings it.

`python benchmarks/gpu_wheels.py` ends with 1 where a package is missing or too old. A machine with
a GPU often has torch and no network: bring wheels, and name their folder in WHEELS.
"""

import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
RIVALS = ("pytorch-metric-learning", "liger-kernel", "cut-cross-entropy")
"""Without them their rows say so."""
# What pydantic itself needs: `--no-deps` brings none of it.
BEHIND = ("pydantic-core", "annotated-types", "typing-inspection", "typing-extensions")
_BOUND = re.compile(r"^([\w.-]+)\s*>=\s*([\d.]+)$")


def lacking(
    requirements: Iterable[str], version_of: Callable[[str], str] = version
) -> Iterator[tuple[str, str]]:
    """Yield the requirements (`name` or `name>=1.2`) that are not met, and what is there."""
    for requirement in requirements:
        match = _BOUND.match(requirement)
        name, bound = match.groups() if match else (requirement, "0")
        try:
            found = version_of(name)
        except PackageNotFoundError:
            yield requirement, "is not installed"
            continue
        if _numbers(found) < _numbers(bound):
            yield requirement, f"is {found} here"


def _numbers(text: str) -> list[int]:
    """Return the release of a version, without what follows it: 2.11.0+cu130 is 2, 11, 0."""
    release = re.match(r"[\d.]+", text)
    return [int(part) for part in (release[0] if release else "0").split(".") if part]


def required() -> list[str]:
    """Return what the project depends on, with its lower bounds."""
    wanted: list[str] = tomllib.loads(PROJECT.read_text())["project"]["dependencies"]
    return [*wanted, *BEHIND]


def main() -> int:
    """Say what lacks; return an exit code."""
    missing = list(lacking(required()))
    for requirement, why in missing:
        print(f"{requirement}: {why}", file=sys.stderr)
    for rival, why in lacking(RIVALS):
        print(f"{rival}: {why}; its rows will say so", file=sys.stderr)
    if missing:
        names = " ".join(f"'{requirement}'" for requirement, _ in missing)
        print(
            f"where there is a network: pip download --no-deps -d WHEELS {names}\n"
            "then here: WHEELS=WHEELS sh benchmarks/gpu.sh OUT",
            file=sys.stderr,
        )
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main())
