"""The sections of `gpu.sh`: which parts measure their rows, and one section run to its end.

To add a row, plan it (gpu_plan.py) and let a part yield it; a new part stands in `PARTS` with the
number of its rows, in the order of the plan.
"""

import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gpu_losses
import gpu_seeds
import gpu_trainings
import gpu_works
import torch
from gpu_lines import Kept, Measured, line_of, measured_line, with_floor
from gpu_plan import PLAN, Planned, Section
from gpu_way import NotHereError, Way, device
from train_arms import config_of, training_images
from train_gpu import TIME_TO

Part = Callable[[Way], Iterator[Measured]]


def _accuracy(epochs: int, seeds: Sequence[int], text: str) -> tuple[int, Part]:
    return 2, partial(gpu_trainings.accuracy, epochs=epochs, seeds=seeds, text=text)


PARTS: dict[str, tuple[tuple[int, Part], ...]] = {
    "facts": ((2, gpu_losses.facts),),
    "works": (
        (7, gpu_works.numbers),
        (2, gpu_works.heads),
        (3, gpu_works.trainings),
        (1, gpu_works.memory),
    ),
    "loss": ((3, gpu_losses.times), (2, gpu_losses.kernels)),
    "step": ((1, gpu_losses.step_times), (2, gpu_losses.step_kernels)),
    "recipe": ((2, gpu_trainings.recipe),),
    "mfu": ((9, gpu_trainings.mfu),),
    "classes": ((6, gpu_losses.dense), (3, gpu_losses.chunked)),
    "million": ((4, gpu_losses.million),),
    "loop": ((5, gpu_trainings.loop),),
    "accuracy-94": (_accuracy(TIME_TO[0.94][0], range(5), "seeds 0 to 4"),),
    "recipes": ((8, gpu_trainings.recipes),),
    "rivals": (
        (4, gpu_losses.pml),
        (1, gpu_losses.liger),
        (1, gpu_losses.cut_cross_entropy),
        (1, gpu_losses.torch_fused),
    ),
    "ten-million": ((2, gpu_losses.ten_million),),
    "scaling": ((3, gpu_trainings.scaling),),
    "accuracy-95": (_accuracy(TIME_TO[0.95][0], range(3), "seeds 0 to 2"),),
    "accuracy-95-more": (_accuracy(TIME_TO[0.95][0], range(3, 5), "seeds 3 and 4"),),
    "seeds": ((4, gpu_seeds.experiment),),
    "airbench": ((2, gpu_trainings.airbench),),
    "accuracy-96": (_accuracy(200, range(1), "seed 0"),),
    "long-tail": ((1, gpu_trainings.long_tail),),
}


def measure_told(out: Path, told: dict[str, Any], *, is_try: bool) -> None:
    """Measure the section that is told: its name, its seconds, and whether failed rows count."""
    (section,) = (one for one in PLAN if one.name == told["section"])
    wanted = Kept(out).missing(section, again=told["again"])
    measure(section, Way(out, is_try, time.monotonic() + told["seconds"]), wanted)


def measure(section: Section, way: Way, wanted: Sequence[Planned]) -> None:
    """Measure the wanted rows of a section, and write each one as it comes.

    A part that fails leaves its error in the lines of its rows; the others go on.
    """
    rows = list(section.rows)
    with device(way):
        for number, part in PARTS[section.name]:
            own, rows = rows[:number], rows[number:]
            own = [row for row in own if row in wanted]
            if own:
                _write_part(section, way, part, own)


def _write_part(section: Section, way: Way, part: Part, rows: Sequence[Planned]) -> None:
    """Write the rows of one part; what it does not give has its error."""
    kept, left = Kept(way.out), {row.name: row for row in rows}
    started, verdict = time.perf_counter(), "failed: no such row came"
    try:
        for found in part(way):
            planned = left.pop(found.name, None)
            now = time.perf_counter()
            if planned:
                line = line_of(section, planned, seconds=round(now - started, 3))
                line = measured_line(line, found, is_try=way.is_try)
                kept.add(with_floor(line, planned, kept.peaks))
            started = now
    except NotHereError as error:
        verdict = f"unmeasured: {error}"
    except Exception as error:  # whatever it is, the other rows are worth more than its traceback
        traceback.print_exc()
        verdict = f"failed: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    for planned in left.values():
        kept.add(line_of(section, planned, verdict=verdict))


def check_machine(out: Path, *, is_try: bool) -> None:
    """Write what the numbers depend on as the first line.

    Exits where there is no device, or OUT has rows of another one.
    """
    with device(Way(out, is_try, 0.0)):
        if not torch.cuda.is_available():
            sys.exit("no CUDA device here; --try tries the script without one")
        found, kept = machine(is_try), Kept(out)
    if not kept.machine:
        kept.add({"machine": found})
        return
    for key in ("gpu", "torch"):
        if kept.machine[key] != found[key]:
            sys.exit(
                f"{kept.path} has rows of {key} {kept.machine[key]}, and here it is {found[key]}: "
                "give another folder"
            )


def decode() -> None:
    """Decode CIFAR-10."""
    training_images(config_of("balanced-resnet18"))


def machine(is_try: bool) -> dict[str, Any]:
    """Return what the numbers depend on."""
    import loss

    packages = ("torchvision", "triton", "typer", "pydantic")
    known = {name: _version(name) for name in packages}
    cuda = {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    now = datetime.now().astimezone().isoformat(timespec="minutes")
    own = {"python": platform.python_version(), "cores": os.cpu_count(), "date": now}
    kind = {"try-out": "the numbers mean nothing"} if is_try else {}
    return loss.machine() | cuda | known | own | kind


def _version(name: str) -> str:
    try:
        return version(name)
    except ModuleNotFoundError:
        return "none"
