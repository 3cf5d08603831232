"""What a run needs from this machine, piece by piece, and what mends what is missing.

A piece that is broken is reported and the others are still checked, so everything that can fail to
import is imported inside. To add a check, write a function that yields its `Check`s and name it in
`diagnose`.
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
from lmsm_cli.commands.libraries import BROKEN, OTHERS, distribution, fix_of
from lmsm_cli.errors import (
    LmsmError,
    counted,
    first_line,
    os_errors_as_data_errors,
    packages_of,
    visible,
)

_TORCH = (2, 11)
_EXTRAS = {
    "export": "lmsm export --format onnx",
    "search": "lmsm sweep --trials",
    "tensorboard": "lmsm train --tensorboard",
    "timm": "lmsm train --model timm:NAME",
}
# Bytes below which a disk is called full: a few checkpoints of a ResNet-18, or an unpacked CIFAR.
_LITTLE = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing that was checked: its status, and the command or place that mends it, if any."""

    status: Literal["ok", "note", "problem"]
    name: str
    found: str
    fix: str = ""


def diagnose(data_dir: Path, out: Path) -> list[Check]:
    """Return the checks in the order in which a run needs the pieces; a broken piece never raises.

    A problem stops every run; a note stops some, or makes them slow. Nothing is downloaded.
    """
    torch, torchvision = _torch(), _torchvision()
    works = [check.status == "ok" for check in (torch, torchvision)]
    steps: list[tuple[str, bool, Callable[[], Iterable[Check]]]] = [
        ("packages", True, _packages),
        ("extras", True, _extras),
        ("GPU", works[0], _devices),
        ("CPU", works[0], _cpu),
        ("arithmetic", all(works), _arithmetic),
        ("data", works[0], lambda: _data(data_dir)),
        ("run folders", True, lambda: [_disk("run folders", out, "--out")]),
        ("data folder", True, lambda: [_disk("data folder", data_dir, "--data-dir")]),
        ("cache", True, lambda: [_cache()]),
    ]
    system = f"Python {platform.python_version()}, {platform.platform()}"
    checks = [Check("ok", "lmsm", f"{__version__}, {system}"), torch, torchvision]
    for name, is_possible, step in steps:
        try:
            checks += step() if is_possible else ()
        except (LmsmError, *BROKEN) as error:
            checks.append(Check("problem", name, f"cannot be checked: {first_line(error)}"))
    return checks


def _not_imported(name: str, error: BaseException, fix: str) -> Check:
    return Check("problem", name, f"cannot be imported: {first_line(error)}", fix)


def _torch() -> Check:
    try:
        import torch

        cuda, rocm = torch.version.cuda, torch.version.hip
        number = tuple(int(part) for part in torch.__version__.split(".")[:2])
    except BROKEN as error:
        return _not_imported("torch", error, fix_of("torch"))
    if number < _TORCH:
        wanted = ".".join(map(str, _TORCH))
        text = f"{torch.__version__}: lmsm needs {wanted} or newer"
        return Check("problem", "torch", text, fix_of("torch"))
    built = f"built for CUDA {cuda}" if cuda else "built without CUDA"
    if rocm:
        built = f"built for ROCm {rocm}, which lmsm does not support: runs compute on the CPU"
    return Check("ok", "torch", f"{torch.__version__}, {built}")


def _torchvision() -> Check:
    """Import what is used of torchvision; it must be built for the very torch that is there."""
    try:
        import torchvision.datasets
        import torchvision.models

        return Check("ok", "torchvision", str(torchvision.__version__))
    except BROKEN as error:
        return _not_imported("torchvision", error, fix_of("torchvision"))


def _version(name: str) -> str:
    """Return a package's version, which may be of no installed distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "of unknown version"


def _packages() -> Iterator[Check]:
    there = []
    for module in OTHERS:
        name = distribution(module)
        try:
            import_module(module)
            there.append(f"{name} {_version(name)}")
        except BROKEN as error:
            yield _not_imported(name, error, fix_of(module))
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
            except BROKEN as error:
                missing.append(f"{name} cannot be imported: {first_line(error)}")
        found = ", ".join(missing or there)
        fix = f"pip install {' '.join(map(shlex.quote, packages))}  (for {use})" if missing else ""
        yield Check("note" if missing else "ok", f"extra {extra}", found, fix)


def _devices() -> Iterator[Check]:
    import torch

    from lmsm_cli.runtime.device import has_cuda

    with warnings.catch_warnings(record=True) as said:  # of a driver that does not fit
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if has_cuda() else 0
    if not count:
        yield _no_gpu(
            "; ".join(first_line(w.message) for w in said if isinstance(w.message, Warning))
        )
    for number in range(count):
        name = f"GPU {number}"
        try:
            free, total = (size / 2**30 for size in torch.cuda.mem_get_info(number))
            card = torch.cuda.get_device_name(number)
            yield Check("ok", name, f"{card}, {free:.1f} of {total:.1f} GiB free")
        except RuntimeError as error:
            fix = "nvidia-smi tells who uses it; --device cpu does without"
            yield Check("note", name, f"cannot be used: {first_line(error)}", fix)


def _no_gpu(why: str) -> Check:
    """Return the check of a machine without a usable GPU; `why` is what torch warned of."""
    import torch

    has_one = Path("/proc/driver/nvidia/gpus").is_dir() or Path("/dev/nvidia0").exists()
    if not (why or has_one):
        return Check("ok", "GPU", "none here: runs compute on the CPU")
    if torch.version.cuda:
        found = f"there is one that torch cannot use{why and ': ' + why}"
        fix = (
            "nvidia-smi tells whether its driver works; "
            "a driver older than torch's CUDA must be renewed"
        )
    else:
        found = "there is one, but this torch was built without CUDA"
        fix = "pip install --force-reinstall torch torchvision, from an index with CUDA builds"
    return Check("note", "GPU", found, fix)


def _cpu() -> Iterator[Check]:
    from lmsm_cli.runtime.cpu import num_cores
    from lmsm_cli.runtime.device import ALL_THREADS

    cores = num_cores()
    pieces = [f"{counted(cores, 'core')} for this process", counted(ALL_THREADS, "thread")]
    if limit := os.environ.get("OMP_NUM_THREADS"):
        pieces.append(f"OMP_NUM_THREADS is {visible(limit)}")
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        pieces.append(f"{memory / 2**30:.1f} GiB of memory")
    fix = f"export OMP_NUM_THREADS={cores}: more threads than cores slow each other down"
    is_slow = cores < ALL_THREADS
    yield Check("note" if is_slow else "ok", "CPU", ", ".join(pieces), fix if is_slow else "")


def _arithmetic() -> Iterator[Check]:
    from lmsm_cli.config import Config
    from lmsm_cli.models.classifier import ModelSpec, build_classifier
    from lmsm_cli.runtime.device import choose_runtime

    config, half = Config.model_validate({}), (0.5,) * 3
    spec = ModelSpec(config.model, config.neck, config.loss)
    model = build_classifier(spec, classes=map(str, range(10)), mean=half, std=half)
    runtime = choose_runtime("auto", "auto", net=model)
    yield Check("ok", "arithmetic", f"{config.model} trains on {runtime}")


def _data(data_dir: Path) -> Iterator[Check]:
    """Yield a check for each data set: where it is, or how it comes there; none is read."""
    from lmsm_cli.data.sources import OWN, SOURCES

    for name in dict.fromkeys(source.name for source in SOURCES.values()):
        if name == "digits":
            yield Check("ok", name, "in scikit-learn")
        elif name not in OWN:
            try:
                yield _published(name, data_dir)
            except (LmsmError, *BROKEN) as error:
                fix = "mend what is said above, or choose another folder with --data-dir"
                yield Check("note", name, f"cannot be looked for: {first_line(error)}", fix)
    yield from _own_folders(data_dir)


def _published(name: str, data_dir: Path) -> Check:
    from lmsm_cli.data.class_folders import has_folders
    from lmsm_cli.data.published import PUBLISHED
    from lmsm_cli.data.sources import find_dataset

    published = PUBLISHED[name]
    with os_errors_as_data_errors(data_dir):
        place = find_dataset(name, data_dir)
        if place is None:
            roots = published.roots(data_dir, name)
            there = [file for root in roots for file in published.files(root) if file.is_file()]
        elif not published.is_complete(place):
            for split in ("train", "test"):
                if not has_folders(place / split):
                    fix = f"put the class folders in {place / split}"
                    return Check("note", name, f"in {place}, without {split}/", fix)
    if place is not None:
        return Check("ok", name, f"in {place}")
    found = f"incomplete: there is {there[0]}, but not all beside it" if there else ""
    fix = (
        f"lmsm train --dataset {name} --data-dir {shlex.quote(str(data_dir))} downloads it; "
        f"or put class folders in {data_dir / name}/train and {data_dir / name}/test"
    )
    return Check("note", name, found or f"not in {data_dir}", fix)


def _own_folders(data_dir: Path) -> Iterator[Check]:
    from lmsm_cli.data.layout import roles_in

    try:
        there = [root.name for root in roles_in(data_dir).values()]
    except (LmsmError, OSError) as error:
        fix = "mend it, or choose another folder with --data-dir"
        yield Check("note", "folder", first_line(error), fix)
        return
    if there:
        yield Check("ok", "folder", f"class folders in {data_dir}/{' and '.join(there)}")


def _disk(name: str, folder: Path, flag: str) -> Check:
    """Return how much room there is; a folder that does not exist yet will be made."""
    above = _writable_above(folder)
    if above is None:
        status: Literal["note", "problem"] = "problem" if flag == "--out" else "note"
        return Check(status, name, f"{folder} cannot be written to", f"choose another with {flag}")
    free = shutil.disk_usage(above).free
    found = f"{folder}: {free / 1e9:,.1f} GB free"
    if free < _LITTLE:
        return Check("note", name, found, f"make room, or choose another with {flag}")
    return Check("ok", name, found)


def _writable_above(folder: Path) -> Path | None:
    """Return the folder, or the nearest above it that exists; None if it cannot be written to."""
    from lmsm_cli.runs.folder import folder_above

    above = folder_above(folder)
    return above if above.is_dir() and os.access(above, os.W_OK | os.X_OK) else None


def _cache() -> Check:
    """Return where decoded images are kept, how many bytes they take, and how many they may."""
    from lmsm_cli.data.cache import cache_folder, decoded_folder, entries, size_limit
    from lmsm_cli.reports.tables_checks import megabytes

    folder = cache_folder()
    above = _writable_above(folder)
    if above is None:
        found = f"{folder} cannot be written to: images are decoded at each start"
        return Check("note", "cache", found, "export LMSM_CACHE_DIR=FOLDER, one that can be")
    decoded = folder / "decoded"
    try:
        there = decoded_folder() if os.path.lexists(decoded) else above
    except OSError as error:
        fix = "remove it, or export LMSM_CACHE_DIR=FOLDER, another one"
        return Check("note", "cache", f"{decoded} is not used: {error.strerror}", fix)
    held, limit = sum(entry.num_bytes for entry in entries(decoded)), size_limit(there)
    found = f"{decoded}: {megabytes(held)} of decoded images, {megabytes(limit)} at most"
    fix = "lmsm doctor --clear-cache empties it" if held else ""
    return Check("ok", "cache", f"{found} (LMSM_CACHE_SIZE)", fix)
