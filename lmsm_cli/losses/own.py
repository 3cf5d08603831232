"""Own losses and nets: code outside this package, named `module:Name`, and how it is imported.

Whoever types a name wants it imported. What a run folder names is another matter, since it can come
from anybody: see runs/own_code.py. Nothing here needs torch.
"""

import hashlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from pathlib import Path
from typing import Any

from lmsm_cli.errors import LmsmError, RunError, did_you_mean, first_line

# The groups of entry points by which an installed package offers losses and nets.
LOSSES_GROUP, MODELS_GROUP = "lmsm.losses", "lmsm.models"
_PLACE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
# Prefixes of the nets of libraries, which are no modules here.
_LIBRARIES = ("timm", "torchvision")
# The digests of the sources that were imported, as they were then: a file may change later.
_imported: dict[str, str] = {}
# The places whose objects were asked for by name.
_loaded: set[str] = set()


@dataclass(frozen=True)
class Offer:
    """A loss or net that an installed package offers under a plain name."""

    name: str
    place: str
    """`module:Name`."""
    package: str
    version: str


@dataclass(frozen=True)
class OwnCode:
    """What a run records of a loss or net that is not of this package."""

    place: str
    """`module:Name`."""
    sha256: str
    """Of the module's source file, not of what that imports."""
    package: str | None = None
    version: str | None = None
    """Of the installed package that the module is of; None for a file of the user's."""


def is_place(name: str) -> bool:
    """Return whether a name is `module:Name` or `package.module:Name`."""
    return _PLACE.fullmatch(name) is not None and name.partition(":")[0] not in _LIBRARIES


def offers(group: str) -> dict[str, Offer]:
    """Return what installed packages offer, by name.

    Raises LmsmError where two packages offer one name.
    """
    from importlib.metadata import entry_points  # help and completion seldom need it

    found: dict[str, Offer] = {}
    for point in entry_points(group=group):
        package, version = (point.dist.name, point.dist.version) if point.dist else ("?", "?")
        offer = Offer(point.name, point.value.replace(" ", ""), package, version)
        other = found.setdefault(point.name, offer)
        if other.place != offer.place:
            raise LmsmError(
                f"two packages offer {point.name!r}, {other.package} and {package}: name one as "
                f"{other.place} or {offer.place}"
            )
    return found


def place_of(name: str, group: str) -> str | None:
    """Return the place of an own loss or net by its name; None for a name that is none."""
    if is_place(name):
        return name
    offer = offers(group).get(name)
    return offer.place if offer else None


def source_of(module: str) -> Path | None:
    """Return the source file of a module, found without importing anything; None without one."""
    path: Any = None
    spec = None
    with _current_folder():
        for end in range(1, module.count(".") + 2):
            name = ".".join(module.split(".")[:end])
            finders = (getattr(finder, "find_spec", None) for finder in sys.meta_path)
            specs = (find(name, path) for find in finders if find)
            spec = next((found for found in specs if found), None)
            if spec is None:
                return None
            path = spec.submodule_search_locations or []
    file = Path(spec.origin) if spec and spec.has_location and spec.origin else None
    return file.resolve() if file and file.is_file() else None


def digest_of(module: str) -> str | None:
    """Return the SHA-256 of a module's source file, as it was imported if it was; None without."""
    if module in _imported:
        return _imported[module]
    file = source_of(module)
    with suppress(OSError):
        return hashlib.sha256(file.read_bytes()).hexdigest() if file else None
    return None


def load(place: str, what: str) -> Any:
    """Return the object that `module:Name` names. It runs the module.

    The current folder is searched last, and only while the module is imported. Raises LmsmError,
    which begins with `what` and the place, where that cannot be.
    """
    module, _, name = place.partition(":")
    digest = digest_of(module)
    try:
        with _current_folder():
            found = import_module(module)
    except (Exception, SystemExit) as error:  # whatever a foreign module raises
        raise LmsmError(f"{what} {place}: module {module!r} {_why_not(error, module)}") from None
    if digest is None:
        raise LmsmError(f"{what} {place}: module {module!r} has no source file to be known by")
    _imported.setdefault(module, digest)
    if not hasattr(found, name):
        names = [key for key, value in vars(found).items() if callable(value) and key[0] != "_"]
        hint = did_you_mean(name, names) if names else " (it defines none)"
        raise LmsmError(f"{what} {place}: {found.__file__} has no {name!r}{hint}")
    _loaded.add(place)
    return getattr(found, name)


def is_loaded(place: str) -> bool:
    """Return whether this process has loaded what is at `module:Name` already."""
    return place in _loaded


def _why_not(error: BaseException, module: str) -> str:
    """Return why a module cannot be imported."""
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and f"{module}.".startswith(f"{error.name}.")
    ):
        if module.endswith(".py"):
            return f"is no module: leave the .py out, as in {module.removesuffix('.py')}:NAME"
        here = [file.stem for file in Path().glob("*.py")]
        hint = did_you_mean(module, here) if here else ""
        return f"is neither in the current folder nor installed{hint}"
    return f"cannot be imported: {raised(error, module)}"


def calling(what: str, doing: str, call: Callable[[], Any]) -> Any:
    """Return what a call of foreign code returns; raise LmsmError for whatever that raises.

    `what` names the code, as `loss module:Class`, and `doing` what is called.
    """
    try:
        return call()
    except LmsmError as error:
        raise LmsmError(f"{what}: {doing} fails: {error}") from None
    except (Exception, SystemExit) as error:  # whatever foreign code raises
        module = what.rpartition(" ")[2].partition(":")[0]
        raise LmsmError(f"{what}: {doing} raises {raised(error, module)}") from None


@contextmanager
def blamed() -> Iterator[None]:
    """Raise RunError, with file and line, for what own losses and nets raise in the body."""
    try:
        yield
    except LmsmError:
        raise
    except (Exception, SystemExit) as error:
        files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
        for place in sorted(_loaded):
            module = place.partition(":")[0]
            if str(source_of(module)) in files:
                raise RunError(f"{place} raises {raised(error, module)}") from None
        raise


def raised(error: BaseException, module: str) -> str:
    """Return an error of foreign code in words, with the last of its lines that is in a module."""
    file = source_of(module)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in frames
        if file and Path(frame.filename) == file
    ]
    return f"{type(error).__name__}: {first_line(error)}{lines[-1] if lines else ''}"


@contextmanager
def _current_folder() -> Iterator[None]:
    """Let modules of the current folder be found in the body, after all others."""
    here = str(Path.cwd())
    invalidate_caches()  # a file may be new
    if here in sys.path or "" in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(here)


def record_of(place: str, group: str) -> OwnCode:
    """Return what a run records of own code that was imported."""
    module = place.partition(":")[0]
    offer = next((offer for offer in offers(group).values() if offer.place == place), None)
    package, version = (offer.package, offer.version) if offer else _distribution_of(module)
    return OwnCode(place, digest_of(module) or "", package, version)


def _distribution_of(module: str) -> tuple[str | None, str | None]:
    """Return name and version of the installed package that a module's file is of."""
    from importlib.metadata import distribution, packages_distributions

    file = source_of(module)
    for name in packages_distributions().get(module.partition(".")[0], ()):
        found = distribution(name)
        if file and file.is_relative_to(Path(str(found.locate_file(""))).resolve()):
            return name, found.version
    return None, None
