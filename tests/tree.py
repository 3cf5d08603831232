"""The tree of CONTRIBUTING.md: a line for each file, from the first sentence of its docstring.

    python tests/tree.py

Writes it between the marks of CONTRIBUTING.md.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
BLOCK = re.compile(r"(?<=^```text\n)lmsm_cli/\n.*?(?=^```$)", re.DOTALL | re.MULTILINE)


def tree(package: Path) -> str:
    """Return the tree of a package, files before folders."""
    return "\n".join([f"{package.name}/", *_below(package, 1), ""])


def _below(folder: Path, depth: int) -> Iterator[str]:
    for path in sorted(folder.glob("*.py")):
        if not path.stem.startswith("__"):
            yield _line(path.name, path, depth)
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield _line(f"{inner.name}/", inner / "__init__.py", depth)
        yield from _below(inner, depth + 1)


def _line(name: str, path: Path, depth: int) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first = docstring.partition("\n\n")[0].replace("\n", " ").removesuffix(".")
    return f"{'  ' * depth + name:28}{first}"


def main() -> None:
    """Write the tree into CONTRIBUTING.md."""
    text = CONTRIBUTING.read_text(encoding="utf-8")
    new = tree(ROOT / "lmsm_cli")
    CONTRIBUTING.write_text(BLOCK.sub(lambda _: new, text), encoding="utf-8")


if __name__ == "__main__":
    main()
