"""The order of the house: a module imports only from what stands above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lmsm_cli

PACKAGE = Path(lmsm_cli.__file__).parent

# design: each name may import from those before it, and from its own room.
ORDER = ["errors", "regular", "display", "spec", "strict_yaml", "config", "layers", "schema", "grid", "scores", "losses", "models", "data", "splits", "engine", "runs", "reports", "journal", "outcome", "experiment", "rehearsal", "plan", "sweep", "study", "search", "evaluation", "evaluation_files", "prediction", "export", "diagnosis", "commands"]  # fmt: skip
# The losses are anybody's, so they know nothing of ours but the errors and the spec syntax.
ONLY = {"losses": {"errors", "spec", "losses"}, "data": {"errors", "regular", "display", "data"}}
# What a display hears of is the loop's, and only type checkers need to know it.
NAMED_ONLY = {"display": {"engine"}}


def rooms_imported_by(path: Path) -> set[str]:
    """Return the rooms of lmsm_cli that a file imports from, lazy imports included."""
    return rooms_in(ast.parse(path.read_text()), path)


def rooms_named_by(path: Path) -> set[str]:
    """Return the rooms of lmsm_cli that a file imports from for type checkers alone."""
    tree = ast.parse(path.read_text())
    tests = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]  # fmt: skip
    others = ast.Module([node for node in tree.body if node not in tests], [])
    return rooms_in(tree, path) - rooms_in(others, path)


def rooms_in(tree: ast.AST, path: Path) -> set[str]:
    """Return the rooms of lmsm_cli that the statements import from."""
    rooms = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{a.name}" for a in node.names] if node.module == "lmsm_cli" else [node.module]  # fmt: skip
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name and name.startswith("lmsm_cli.")}
    return rooms - {"__version__"}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))  # fmt: skip
def test_imports_point_one_way(path):
    """No module imports from a room that stands below its own."""
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room in ("__init__", "__main__"):
        return
    imported = rooms_imported_by(path) - (NAMED_ONLY.get(room, set()) & rooms_named_by(path))
    allowed = set(ORDER[: ORDER.index(room) + 1]) & ONLY.get(room, set(ORDER))
    assert imported <= allowed, f"{path} imports {imported - allowed}"


@pytest.mark.parametrize("module", ["lmsm_cli", "lmsm_cli.display", "lmsm_cli.commands.app", "lmsm_cli.config", "lmsm_cli.reports.comparison"])  # fmt: skip
def test_start_up_needs_no_torch(module):
    """Help and compare must answer at once: importing them loads neither torch nor matplotlib."""
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'matplotlib', 'sklearn'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_public_names_load_on_first_use():
    """Every public name of the package can be had, and a misspelt one is an AttributeError."""
    for name in lmsm_cli.__all__:
        assert getattr(lmsm_cli, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'psy'"):
        _ = lmsm_cli.psy
