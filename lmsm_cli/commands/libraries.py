"""Which library of an install is missing or broken, as an error tells it, and what mends that."""

import traceback
from types import FrameType

from lmsm_cli.errors import MALFORMED, LmsmError, first_line

# What importing a broken package raises: a missing library, two that do not fit, half an install.
BROKEN = (ImportError, SyntaxError, NameError, *MALFORMED)

OTHERS = ("numpy", "sklearn", "scipy", "matplotlib", "PIL", "jinja2")
"""What every run needs beside torch and torchvision."""

_TORCH = ("torch", "torchvision")
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow"}
_CPU_BUILDS = "--index-url https://download.pytorch.org/whl/cpu"


def distribution(module: str) -> str:
    """Return the name by which pip knows the package of a module."""
    return _DISTRIBUTIONS.get(module, module)


def fix_of(module: str) -> str:
    """Return the command that installs a library anew."""
    if module in _TORCH:
        return "pip install --upgrade torch torchvision"
    return f"pip install --force-reinstall {distribution(module)}"


def broken_library(error: BaseException) -> LmsmError | None:
    """Return the error for a library that lmsm needs and that could not be imported.

    None where the error has another cause, as a full disk, which has a number of the system. The
    innermost library counts: of a torchvision that finds no torch, torch.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return None
    frames = reversed([frame for frame, _ in traceback.walk_tb(error.__traceback__)])
    modules = [str(frame.f_globals.get("__name__")) for frame in frames if _is_import(frame)]
    if isinstance(error, ImportError) and error.name:
        modules.insert(0, error.name)
    roots = (module.partition(".")[0] for module in modules)
    library = next((root for root in roots if _is_needed(root)), None)
    if library is None:
        return None
    more = f" (without a GPU: add {_CPU_BUILDS})" if library in _TORCH else ""
    return LmsmError(
        f"{library}, which lmsm needs, cannot be imported ({first_line(error)}): "
        f"{fix_of(library)}{more}; `lmsm doctor` checks the rest"
    )


def _is_import(frame: FrameType) -> bool:
    """Return whether a frame is the body of a module, which runs while that is imported."""
    return frame.f_code.co_name == "<module>"


def _is_needed(module: str) -> bool:
    return module in (*_TORCH, *OTHERS)
