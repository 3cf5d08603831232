"""What a run needs from this machine, piece by piece: what is there, and what mends what is not.

A piece that is broken is reported and the others are still looked at, so everything that can fail
to import is imported inside. To add a check, write a function that returns its `Check`s and name it
in `diagnose`.
"""

import os
import platform
import re
import shlex
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from lmsm_cli import __version__
from lmsm_cli.errors import (
    MALFORMED,
    LmsmError,
    first_line,
    os_errors_as_data_errors,
    packages_of,
    visible,
)
from lmsm_cli.reports.tables_checks import megabytes
from lmsm_cli.runs.folder import folder_above

# What importing a broken package raises: a missing library, two that do not fit, half an install.
_BROKEN = (ImportError, SyntaxError, NameError, *MALFORMED)
_TORCH, _TORCH_FIX = (2, 11), "pip install --upgrade torch torchvision"
_OTHERS = {
    "numpy": "numpy",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "matplotlib": "matplotlib",
    "PIL": "pillow",
    "jinja2": "jinja2",
}
_EXTRAS = {
    "export": "lmsm export --format onnx",
    "search": "lmsm sweep --trials",
    "tensorboard": "lmsm train --tensorboard",
}
# Bytes below which a disk is called full: a few checkpoints of a ResNet-18, or an unpacked CIFAR.
_LITTLE = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: how it is, and the command or place that mends it, if any."""

    status: Literal["ok", "note", "problem"]
    name: str
    found: str
    fix: str = ""


def diagnose(data_dir: Path, out: Path) -> list[Check]:
    """Return the checks in the order in which a run needs the pieces; never raises for a broken one.

    A problem stops every run; a note stops some, or makes them slow. Nothing is downloaded.
    """
    torch, torchvision = _torch(), _torchvision()
    works = [check.status == "ok" for check in (torch, torchvision)]
    looks: list[tuple[str, bool, Callable[[], Iterable[Check]]]] = [
        ("packages", True, _packages),
        ("extras", True, _extras),
        ("GPU", works[0], _devices),
        ("CPU", works[0], _cpu),
        ("arithmetic", all(works), _arithmetic),
        ("data", works[0], lambda: _data(data_dir)),
        ("run folders", True, lambda: [_disk("run folders", out, "--out")]),
        ("data folder", True, lambda: [_disk("data folder", data_dir, "--data-dir")]),
        ("cache", True, _cache),
    ]
    checks = [_lmsm(), torch, torchvision]
    for name, can_look, look in looks:
        try:
            checks += look() if can_look else ()
        except (LmsmError, *_BROKEN) as error:
            checks.append(Check("problem", name, f"cannot be checked: {first_line(error)}"))
    return checks


def _lmsm() -> Check:
    system = f"Python {platform.python_version()}, {platform.platform()}"
    return Check("ok", "lmsm", f"{__version__}, {system}")


def _version(name: str) -> str:
    """Return a package's version, which may be of no installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _torch() -> Check:
    try:
        import torch

        built = (
            f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        )
        number = tuple(int(part) for part in torch.__version__.split(".")[:2])
    except _BROKEN as error:
        return Check("problem", "torch", f"cannot be imported: {first_line(error)}", _TORCH_FIX)
    if number < _TORCH:
        return Check(
            "problem",
            "torch",
            f"{torch.__version__}: lmsm needs {_TORCH[0]}.{_TORCH[1]} or newer",
            _TORCH_FIX,
        )
    return Check("ok", "torch", f"{torch.__version__}, {built}")


def _torchvision() -> Check:
    """Import what is used of torchvision; it must be built for the very torch that is there."""
    try:
        import torchvision.datasets
        import torchvision.models

        return Check("ok", "torchvision", str(torchvision.__version__))
    except _BROKEN as error:
        return Check(
            "problem", "torchvision", f"cannot be imported: {first_line(error)}", _TORCH_FIX
        )


def _packages() -> Iterator[Check]:
    """Yield one check for all other packages that are there, and one for each that is not."""
    there = []
    for module, name in _OTHERS.items():
        try:
            import_module(module)
            there.append(f"{name} {_version(name)}")
        except _BROKEN as error:
            yield Check(
                "problem",
                name,
                f"cannot be imported: {first_line(error)}",
                f"pip install --force-reinstall {name}",
            )
    yield Check("ok", "packages", ", ".join(there))


def _extras() -> Iterator[Check]:
    for extra, use in _EXTRAS.items():
        there, missing = [], []
        packages = packages_of(extra)
        for name in (re.split(r"[^\w-]", package)[0] for package in packages):
            try:
                import_module(name)
                there.append(f"{name} {_version(name)}")
            except ModuleNotFoundError:
                missing.append(f"{name} is not installed")
            except _BROKEN as error:
                missing.append(f"{name} cannot be imported: {first_line(error)}")
        found = ", ".join(missing or there)
        fix = f"pip install {' '.join(map(shlex.quote, packages))}  (for {use})" if missing else ""
        yield Check("note" if missing else "ok", f"extra {extra}", found, fix)


def _devices() -> Iterator[Check]:
    """Yield a check for each GPU that torch can use, or one that says why there is none."""
    import torch

    with warnings.catch_warnings(record=True) as said:  # of a driver that does not fit
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        why = "; ".join(first_line(w.message) for w in said if isinstance(w.message, Warning))
        if not (why or _has_nvidia_gpu()):
            yield Check("ok", "GPU", "none here: runs compute on the CPU")
        elif torch.version.cuda:
            yield Check(
                "note",
                "GPU",
                f"there is one that torch cannot use{why and ': ' + why}",
                "nvidia-smi tells whether its driver works; a driver older than torch's CUDA must be renewed",
            )
        else:
            yield Check(
                "note",
                "GPU",
                "there is one, but this torch was built without CUDA",
                "pip install --force-reinstall torch torchvision, from an index with CUDA builds",
            )
    for number in range(count):
        try:
            free, total = torch.cuda.mem_get_info(number)
            name = torch.cuda.get_device_name(number)
            yield Check(
                "ok", f"GPU {number}", f"{name}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
            )
        except RuntimeError as error:
            yield Check(
                "note",
                f"GPU {number}",
                f"cannot be used: {first_line(error)}",
                "nvidia-smi tells who uses it; --device cpu does without",
            )


def _has_nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()


def _cpu() -> Iterator[Check]:
    from lmsm_cli.runtime.cpu import num_cores
    from lmsm_cli.runtime.device import ALL_THREADS

    pieces = [f"{num_cores()} cores for this process", f"{ALL_THREADS} threads"]
    if limit := os.environ.get("OMP_NUM_THREADS"):
        pieces.append(f"OMP_NUM_THREADS is {visible(limit)}")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        pieces.append(
            f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB of memory"
        )
    found = ", ".join(pieces)
    if num_cores() < ALL_THREADS:
        yield Check(
            "note",
            "CPU",
            found,
            f"export OMP_NUM_THREADS={num_cores()}: more threads than cores slow each other down",
        )
    else:
        yield Check("ok", "CPU", found)


def _arithmetic() -> Iterator[Check]:
    """Say what --precision auto is for the default model."""
    from lmsm_cli.config import Config
    from lmsm_cli.models.classifier import ModelSpec, build_classifier
    from lmsm_cli.runtime.device import choose_runtime

    config, half = Config.model_validate({}), (0.5,) * 3
    model = build_classifier(
        ModelSpec(config.model, config.neck, config.loss),
        classes=map(str, range(10)),
        mean=half,
        std=half,
    )
    runtime = choose_runtime("auto", "auto", net=model)
    yield Check("ok", "arithmetic", f"{config.model} trains on {runtime}")


def _data(data_dir: Path) -> Iterator[Check]:
    """Yield a check for each data set: where it is, or how it comes there; none is read."""
    from lmsm_cli.data.sources import SOURCES

    for name in dict.fromkeys(source.name for source in SOURCES.values()):
        if name == "digits":
            yield Check("ok", name, "in scikit-learn")
        elif name != "folder":
            try:
                yield _published(name, data_dir)
            except (LmsmError, *_BROKEN) as error:
                yield Check(
                    "note",
                    name,
                    f"cannot be looked for: {first_line(error)}",
                    "mend what is said above, or choose another folder with --data-dir",
                )
    yield from _own_folders(data_dir)


def _published(name: str, data_dir: Path) -> Check:
    from lmsm_cli.data.class_folders import has_folders
    from lmsm_cli.data.published import PUBLISHED
    from lmsm_cli.data.sources import find_dataset

    published = PUBLISHED[name]
    with os_errors_as_data_errors(data_dir):
        place = find_dataset(name, data_dir)
        if place is None:
            parts = [
                path for root in published.roots(data_dir, name) for path in published.files(root)
            ]
            found = [path for path in parts if path.is_file()]
            what = (
                f"not in {data_dir}"
                if not found
                else f"incomplete: there is {found[0]}, but not all beside it"
            )
            command = f"lmsm train --dataset {name} --data-dir {shlex.quote(str(data_dir))}"
            return Check(
                "note",
                name,
                what,
                f"{command} downloads it; or put class folders in {data_dir / name}/train and {data_dir / name}/test",
            )
        lacking = (
            []
            if published.is_complete(place)
            else [s for s in ("train", "test") if not has_folders(place / s)]
        )
    if lacking:
        return Check(
            "note",
            name,
            f"in {place}, without {lacking[0]}/",
            f"put the class folders in {place / lacking[0]}",
        )
    return Check("ok", name, f"in {place}")


def _own_folders(data_dir: Path) -> Iterator[Check]:
    """Yield a check where --data-dir holds class folders of the user's own."""
    from lmsm_cli.data.layout import roles_in

    try:
        there = [root.name for root in roles_in(data_dir).values()]
    except (LmsmError, OSError) as error:
        yield Check(
            "note", "folder", first_line(error), "mend it, or choose another folder with --data-dir"
        )
        return
    if there:
        yield Check("ok", "folder", f"class folders in {data_dir}/{' and '.join(there)}")


def _disk(name: str, folder: Path, flag: str) -> Check:
    """Say how much room there is; a folder that is not there yet will be made."""
    above = folder_above(folder)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        status: Literal["note", "problem"] = "problem" if flag == "--out" else "note"
        return Check(status, name, f"{folder} cannot be written to", f"choose another with {flag}")
    free = shutil.disk_usage(above).free
    found = f"{folder}: {free / 1e9:,.1f} GB free"
    if free < _LITTLE:
        return Check("note", name, found, f"make room, or choose another with {flag}")
    return Check("ok", name, found)


def _cache() -> Iterator[Check]:
    """Yield a check of where decoded images are kept, how many bytes of them, and of how many at most."""
    from lmsm_cli.data.cache import cache_folder, decoded_folder, entries, size_limit

    folder = cache_folder()
    above = folder_above(folder)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        yield Check(
            "note",
            "cache",
            f"{folder} cannot be written to: images are decoded at each start",
            "export LMSM_CACHE_DIR=FOLDER, one that can be",
        )
        return
    decoded = folder / "decoded"
    try:
        there = decoded_folder() if os.path.lexists(decoded) else above
    except OSError as error:
        yield Check(
            "note",
            "cache",
            f"{decoded} is not used: {error.strerror}",
            "remove it, or export LMSM_CACHE_DIR=FOLDER, another one",
        )
        return
    held, limit = sum(entry.num_bytes for entry in entries(decoded)), size_limit(there)
    found = f"{decoded}: {megabytes(held)} of decoded images, {megabytes(limit)} at most (LMSM_CACHE_SIZE)"
    yield Check("ok", "cache", found, "lmsm doctor --clear-cache empties it" if held else "")
