"""Which arithmetic this CPU trains a model in fastest: measured once, then remembered.

The choice is kept in the user's cache folder for each machine, model and version, so that the runs
of a comparison never differ in it. It is of the kind that changes results by rounding only.
"""

import copy
import hashlib
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from filelock import Timeout
from pydantic import Field, TypeAdapter
from torch import Tensor

from lmsm_cli.data.cache import cache_folder
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.device import ALL_THREADS, Layout, Precision, Runtime, has_fast_bf16
from lmsm_cli.runtime.files import lock_of, own_folder, read_text, replacing
from lmsm_cli.training.step import LossModule

# Seconds for everything; an arm that is not reached is not taken.
_BUDGET = 2.0
# Seconds that one step may take; larger batches are probed by a part.
_STEP = 0.04
# What another arithmetic must save over a plainer one to be taken: less is noise.
_CLEARLY = 0.95
# Times the best so far after which an arm is not measured any better.
_HOPELESS = 1.3
_VERSION = 1


@dataclass(frozen=True)
class Choice:
    """The arithmetic that won, and the milliseconds of a step in each that was tried."""

    precision: Precision
    layout: Layout
    threads: Annotated[int, Field(ge=1)]
    milliseconds: dict[str, float]
    remembered: bool = False


def probe(
    model: Classifier,
    image_shape: tuple[int, ...],
    batch_size: int,
    *,
    name: str,
    wanted: dict[str, Any],
    say: Callable[[str], None],
) -> Choice:
    """Return the fastest arithmetic for a model on the CPU over images (H, W, C).

    `name` tells the model from others in the cache. `wanted` has `precision`, `layout` or `threads`
    where the user chose. `say` is told where the choice can't be kept.
    """
    machine = _machine() | {
        "model": name,
        "image": list(image_shape),
        "batch": batch_size,
        "wanted": wanted,
    }
    key = hashlib.sha256(json.dumps(machine, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / "arithmetic" / f"{key}.json"
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        own_folder(path.parent)
        # Runs that start together wait for the first one's measurement and share it.
        with lock_of(path.with_suffix(".lock"), timeout=30):
            known = _read(path)
            if known is None:
                known = measure(model, image_shape, batch_size, wanted)
                _write(path, {"machine": machine, "choice": asdict(known)})
            return known
    except (OSError, Timeout) as error:
        say(
            f"the choice of arithmetic cannot be kept in {path.parent} ({error}); another run may choose otherwise, unless you give --precision"
        )
        return measure(model, image_shape, batch_size, wanted)


def measure(
    model: Classifier, image_shape: tuple[int, ...], batch_size: int, wanted: dict[str, Any]
) -> Choice:
    """Return the fastest arithmetic, tried one change at a time within two seconds.

    Works on copies; draws no random numbers that others would draw.
    """
    started = time.perf_counter()
    plain = Runtime(torch.device("cpu"), **({"threads": ALL_THREADS} | wanted))
    with torch.random.fork_rng(devices=[]):
        images, labels = _batch(model, image_shape, batch_size)
        images, labels = _affordable(model, plain, images, labels)
        best, times = plain, {str(plain): _milliseconds(model, plain, images, labels)}
        for change in _changes(wanted):
            arm = replace(best, **change)
            if str(arm) in times or time.perf_counter() - started > _BUDGET * 0.8:
                continue
            times[str(arm)] = _milliseconds(
                model, arm, images, labels, hopeless=_HOPELESS * times[str(best)]
            )
            if times[str(arm)] < _CLEARLY * times[str(best)]:
                best = arm
    return Choice(best.precision, best.layout, best.threads, times)


def _changes(wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what is tried instead of the best so far, the likeliest gains first."""
    rounds = "precision" not in wanted and has_fast_bf16(torch.device("cpu"))
    if rounds:
        yield {"precision": "bf16"}
    if "threads" not in wanted and ALL_THREADS > 1:
        yield {"threads": max(1, ALL_THREADS // 2)}
    if rounds:
        yield {"precision": "bf16-conv"}
    if "layout" not in wanted:
        yield {"layout": "contiguous"}


def _batch(
    model: Classifier, image_shape: tuple[int, ...], batch_size: int
) -> tuple[Tensor, Tensor]:
    images = torch.randint(256, (batch_size, *image_shape), dtype=torch.uint8)
    return images.permute(0, 3, 1, 2), torch.randint(len(model.classes), (batch_size,))


def _affordable(
    model: Classifier, runtime: Runtime, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """Return as much of the batch as a step has time for."""
    few = min(8, len(labels))
    seconds = _milliseconds(model, runtime, images[:few], labels[:few], hopeless=0) / 1000
    count = max(few, min(len(labels), int(few * _STEP / seconds)))
    return images[:count], labels[:count]


def _milliseconds(
    model: Classifier, runtime: Runtime, images: Tensor, labels: Tensor, hopeless: float = math.inf
) -> float:
    """Return the median time of a forward and backward pass, after one to warm up.

    The first time is enough where it is more than `hopeless`.
    """
    runtime.apply()
    objective = LossModule(runtime.place(copy.deepcopy(model)), runtime).train()
    progress, total = torch.tensor(0.5), torch.tensor(float(len(labels)))
    times: list[float] = []
    for n in range(4):
        started = time.perf_counter()
        objective(images, labels, progress, None, total)[0].backward()
        if n:
            times.append(1000 * (time.perf_counter() - started))
        if times and times[0] > hopeless:
            break
    return statistics.median(times)


def _machine() -> dict[str, Any]:
    from lmsm_cli import __version__

    return {
        "probe": _VERSION,
        "lmsm": __version__,
        "torch": str(torch.__version__),
        "cpu": _cpu_name(),
        "threads": ALL_THREADS,
    }


def _cpu_name() -> str:
    """Return the processor's name and abilities as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    wanted = ("model name", "flags", "Features")
    return "; ".join(sorted({line for line in lines if line.startswith(wanted)}))


def _read(path: Path) -> Choice | None:
    """Return the kept choice; None where there is none or it cannot be read."""
    try:
        document = json.loads(read_text(path))
        return TypeAdapter(Choice).validate_python(document["choice"] | {"remembered": True})
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _write(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as file:
        file.write(json.dumps(document, indent=2).encode())
