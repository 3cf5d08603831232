"""The order of the house: a file imports only from rooms above its own, and never in a circle."""

import ast
import shutil
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import lmsm_cli

PACKAGE = Path(lmsm_cli.__file__).parent

# design: a room may import from itself and from earlier levels, not from others of its own level.
LEVELS = (
    ("errors", "shot_groups"),
    ("metrics", "losses", "runtime"),
    ("scoring", "models", "config"),
    ("data",),
    ("runs",),
    ("distributed", "comparison"),
    ("reports",),
    ("training",),
    ("inference",),
    ("sweeps",),
    ("commands",),
)
LEVEL_OF = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
# Only these files of data/ know the config; all else there could serve any program.
KNOW_THE_CONFIG = tuple(Path("data", name) for name in ("splits.py", "find_again.py", "facts.py"))


def files_imported_by(path: Path, package: Path) -> set[Path]:
    """Return the files of the package that a file imports from, lazily or for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {
            file_of(name, package) for name in names if name.partition(".")[0] == package.name
        }
    return found - {path, package / "__init__.py"}


def file_of(name: str, package: Path) -> Path:
    """Return the file of a dotted name: of a module, of a folder, or where an object is defined."""
    path = package.parent.joinpath(*name.split("."))
    if path.with_suffix(".py").is_file():
        return path.with_suffix(".py")
    return path / "__init__.py" if path.is_dir() else file_of(name.rpartition(".")[0], package)


def room_of(path: Path, package: Path = PACKAGE) -> str:
    """Return the module or folder directly in the package that a file is or lies in."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def check_circles(package: Path) -> None:
    """Raise CycleError where files of the package import each other in a circle."""
    graph = {path: files_imported_by(path, package) for path in package.rglob("*.py")}
    TopologicalSorter(graph).prepare()


FILES = sorted(path for path in PACKAGE.rglob("*.py") if not room_of(path).startswith("__"))


def test_every_room_has_its_level():
    """The order names each module and folder of the package, and nothing else."""
    assert {room_of(path) for path in FILES} - {"presets"} == set(LEVEL_OF)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    """No file imports from a room that stands at the level of its own or below it."""
    room = room_of(path)
    for imported in sorted(files_imported_by(path, PACKAGE)):
        other = room_of(imported)
        assert other == room or LEVEL_OF[other] < LEVEL_OF[room], f"{path} imports {imported}"
        if room == "data" and path.relative_to(PACKAGE) not in KNOW_THE_CONFIG:
            assert other != "config", f"{path} imports {imported}"


def test_no_file_is_in_a_circle():
    """No file needs, through others, itself: neither between rooms nor inside one."""
    check_circles(PACKAGE)


def test_a_circle_inside_a_room_is_noticed(tmp_path):
    """A planted import that closes a circle of two files of one room is a CycleError."""
    package = Path(shutil.copytree(PACKAGE, tmp_path / "lmsm_cli"))
    with (package / "comparison" / "samples.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef late():\n    from lmsm_cli.comparison.grouping import Group\n")
    with pytest.raises(CycleError):
        check_circles(package)


@pytest.mark.parametrize(
    "module",
    [
        "lmsm_cli",
        "lmsm_cli.runtime.display",
        "lmsm_cli.commands.app",
        "lmsm_cli.config",
        "lmsm_cli.losses.registry",
        "lmsm_cli.comparison.grouping",
        "lmsm_cli.comparison.planning",
        "lmsm_cli.comparison.verdicts",
    ],
)
def test_start_up_needs_no_torch(module):
    """Help and compare must answer at once: importing them loads neither torch nor matplotlib."""
    heavy = {"torch", "matplotlib", "sklearn"}
    code = f"import sys, {module}; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_load_on_first_use():
    """Every public name of the package can be had, and a misspelt one is an AttributeError."""
    for name in lmsm_cli.__all__:
        assert getattr(lmsm_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'psy'"):
        _ = lmsm_cli.psy
