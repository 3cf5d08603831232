"""Limits of the process under which torch would abort: found before torch is loaded, or after.

A library that finds no memory while it is loaded ends the process, and Intel's MKL does the same in
a folder that was deleted. So a child of this process loads them first, where memory is limited.
"""

import contextlib
import errno
import importlib
import mmap
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from lmsm_cli.errors import DiskError, LmsmError, OutOfMemoryError, first_line

# How the system's loader says that it has no room for a library.
_NO_ROOM = ("failed to map segment", "cannot allocate memory", "cannot create shared object")

# What a training loads, and the room that it needs besides to say that it has too little.
_LIBRARIES = ("torch", "torchvision", "scipy.special", "sklearn.metrics", "matplotlib.pyplot")
_ROOM = 1 << 28

# Processor time in which they are loaded many times over.
_SECONDS = 60


@contextlib.contextmanager
def checked_before_torch() -> Iterator[None]:
    """Raise LmsmError where the body imports torch under limits that would make torch abort."""
    finder = _BeforeTorch()
    if "torch" not in sys.modules:
        sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(finder)


class _BeforeTorch(MetaPathFinder):
    """Finds no module, but runs the checks when torch is imported for the first time."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Look at the limits before the first import of torch."""
        if fullname == "torch":
            sys.meta_path.remove(self)
            _check_working_folder()
            _check_memory()
        return None


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except OSError:
        raise DiskError(
            "the working folder was deleted or cannot be read: "
            "change into another one, and start again there"
        ) from None


def _check_memory() -> None:
    """Raise OutOfMemoryError where memory is limited to less than torch needs to be loaded."""
    limits = memory_limits()
    if limits and not _can_be_loaded():
        raise OutOfMemoryError(
            f"out of memory: the libraries cannot even be loaded within {limits}; raise the limit"
        )


def memory_limits() -> str:
    """Return the limits of this process's memory in words; nothing where there are none."""
    try:
        import resource
    except ImportError:  # not on Windows
        return ""
    flags = {"-v": resource.RLIMIT_AS, "-d": resource.RLIMIT_DATA}
    values = {flag: resource.getrlimit(kind)[0] for flag, kind in flags.items()}
    given = [
        f"{value / 2**30:.2f} GiB (`ulimit {flag}`)"
        for flag, value in values.items()
        if value != resource.RLIM_INFINITY
    ]
    return " and ".join(given)


def _can_be_loaded() -> bool:
    """Return whether a copy of this process can import what a training needs, or lacks a module.

    Short of memory a library may fail in any way; OpenBLAS, which scipy brings, asks for ever.
    """
    import resource

    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the abort's own words
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
        for name in _LIBRARIES:
            importlib.import_module(name)
        mmap.mmap(-1, _ROOM).close()
    except ModuleNotFoundError:
        os._exit(0)
    except BaseException:
        os._exit(1)
    os._exit(0)


def is_memory(error: BaseException) -> bool:
    """Return whether an error, of any library, means that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, ImportError):
        return any(word in str(error).lower() for word in _NO_ROOM)
    if isinstance(error, MemoryError) or "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    try:
        from lmsm_cli.runtime.memory import is_out_of_memory
    except ImportError:  # torch could not be loaded whole
        return False
    return is_out_of_memory(error)


def out_of_memory(error: BaseException) -> LmsmError:
    """Return the error for memory that ran out elsewhere than in a training."""
    limits = memory_limits()
    advice = (
        f"the limit is {limits}: raise it"
        if limits
        else "close other programs, or take a machine with more"
    )
    return OutOfMemoryError(f"out of memory ({first_line(error)}); {advice}")
