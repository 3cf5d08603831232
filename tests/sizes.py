"""How long are the functions, and how many parameters do they take? The limits of the house.

    python tests/sizes.py [PART OF A PATH ...]

Prints what is over a limit, and the sizes of the package. Ends with 1 where a limit is passed.
"""

import ast
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "lmsm_cli"
if not PACKAGE.is_dir():  # the tests of an installed package
    PACKAGE = Path(find_spec("lmsm_cli").submodule_search_locations[0])
LONGEST = 50
"""Lines of a function, from `def` to its end, without its docstring."""
MEDIAN, NINE_IN_TEN = 8, 22
MOST_PARAMETERS = 7
"""Of a function, `self` not counted; commands, constructors of heads and `record_run`, which
scripts call by keywords, may take more, and kernels, which take one by one what they read."""
MOST_MODULES, MOST_ROOMS = 5, 13


@dataclass(frozen=True)
class Function:
    """A function or method of the package."""

    place: str
    name: str
    lines: int
    parameters: int
    may_take_more: bool


def functions(path: Path, package: Path = PACKAGE) -> Iterator[Function]:
    """Yield the functions of a file, those inside others too."""
    relative = path.relative_to(package)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield Function(
                f"{relative}:{node.lineno}",
                node.name,
                _length(node),
                len([a for a in taken if a.arg not in ("self", "cls")]),
                relative.parts[0] == "commands"
                or (relative.parts[0] == "losses" and node.name == "__init__")
                or relative.name == "triton_kernels.py"
                or node.name == "record_run",
            )


def _length(node: ast.FunctionDef) -> int:
    """Return the lines of a function without those of its docstring."""
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    first = node.body[0]
    if ast.get_docstring(node) is not None:
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def over_the_limits(found: Sequence[Function]) -> list[str]:
    """Return a line for each function that is too long or takes too much."""
    return [
        f"{one.place} {one.name}: {one.lines} lines, {one.parameters} parameters"
        for one in found
        if one.lines > LONGEST or (one.parameters > MOST_PARAMETERS and not one.may_take_more)
    ]


def rooms(package: Path = PACKAGE) -> tuple[list[str], list[str]]:
    """Return the modules and the folders that lie directly in the package."""
    modules = [p.stem for p in package.glob("*.py") if not p.stem.startswith("__")]
    folders = [p.parent.name for p in package.glob("*/__init__.py")]
    return sorted(modules), sorted(folders)


def main(parts: Sequence[str]) -> int:
    """Print the sizes of the files whose path contains one of the parts, or of all files."""
    files = [
        p for p in sorted(PACKAGE.rglob("*.py")) if not parts or any(x in str(p) for x in parts)
    ]
    found = [function for path in files for function in functions(path)]
    wrong = over_the_limits(found)
    lengths = sorted(function.lines for function in found)
    median, tenth = statistics.median(lengths), lengths[int(0.9 * (len(lengths) - 1))]
    if not parts and (median > MEDIAN or tenth > NINE_IN_TEN):
        wrong.append(f"the median must be at most {MEDIAN} lines, nine in ten {NINE_IN_TEN}")
    modules, folders = rooms()
    if len(modules) > MOST_MODULES or len(folders) > MOST_ROOMS:
        wrong.append(f"at most {MOST_MODULES} modules and {MOST_ROOMS} folders")
    total = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files)
    print(*wrong, sep="\n")
    print(f"{len(modules)} modules, {len(folders)} folders, {len(files)} files, {total:,} lines")
    print(f"{len(found)} functions: median {median:g} lines, nine in ten at most {tenth}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
