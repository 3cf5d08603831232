"""Measure time, memory and rounding of the L-Softmax loss against softmax, in one run.

`python benchmarks/loss.py`; see README.md beside this file. The reference is functional.linear and
functional.cross_entropy on the same inputs in the same dtype. The arms of a comparison (softmax,
margin 2, margin 4, softmax again) take turns call by call, in a new order each turn, so that a slow
moment of the machine meets them all. Of the two margins the slower counts.

Transient memory on the CPU is what a call needs beyond its inputs and its two gradients. A fresh
process makes the inputs, makes one call with 256 classes, so that libraries and threads have what
they keep, resets its peak resident memory to the current one (writes 5 to /proc/self/clear_refs),
and makes the call: the peak (VmHWM), less what was resident before, less the bytes of the
gradients, which every implementation has to return (whether or not they exist at the peak: one that
is over before the weight gradient is made counts less). malloc has its default settings in all
arms.

To add a measurement, write a function that yields rows and name it in `MEASUREMENTS`.
"""

import argparse
import importlib.util
import inspect
import json
import os
import platform
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from sys import executable
from typing import Any

import torch
from loss_arms import (
    MIB,
    ROOT,
    Row,
    Size,
    call,
    clear,
    inputs,
    l_softmax,
    losses_of,
    over_softmax,
    ratio_row,
    slower,
    steps_of,
    time_in_turns,
    value_row,
)
from loss_gpu import gpu_chunked, gpu_dense, gpu_small, gpu_step
from loss_numerics import numerics
from torch import Tensor

from lmsm_cli import l_softmax_loss
from lmsm_cli.losses.registry import HEADS, build_head

CHUNK = 8192  # classes: 8 MiB of logits at batch 256
MEMORY_RUNS = 3  # fresh processes of each arm
HEAD_TURNS = 200


def cpu_time(size: Size, target: str, limit: str = "") -> Iterator[Row]:
    """Measure the time with the (N, C) logits; `limit` bounds the milliseconds."""
    steps, clear = steps_of(losses_of(), size)
    times = time_in_turns(steps, clear, size.turns)
    yield over_softmax("time / softmax", target, times)
    if limit:
        yield value_row("time", "ms", limit, slower(times))


def cpu_memory(size: Size, target: str, chunk: int = 0) -> Iterator[Row]:
    """Measure the transient memory, in chunks of classes where `chunk` is given."""
    names = list(losses_of())
    rounds = [{name: transient_of(name, size, chunk) for name in names} for _ in range(MEMORY_RUNS)]
    arms = {name: [each[name] for each in rounds] for name in names}
    yield over_softmax("transient memory / softmax", target, arms, "MiB")


def transient_of(arm: str, size: Size, chunk: int) -> float:
    """Return the transient MiB of one call of an arm, made in a fresh process."""
    numbers = (str(number) for number in (size.classes, size.width, chunk))
    command = [executable, __file__, "--transient", arm, *numbers]
    return float(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def transient_here(arm: str, classes: int, width: int, chunk: int) -> float:
    """Return the transient MiB of one call of an arm in this process."""
    losses = losses_of(class_chunk=chunk) if chunk else losses_of()
    size = Size(classes, turns=1, width=width)
    steps, _ = steps_of(losses, size)
    small_steps, _ = steps_of(losses, replace(size, classes=256))
    small_steps[arm]()
    before = memory_here("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    steps[arm]()
    return (memory_here("VmHWM") - before - size.gradient_bytes) / MIB


def memory_here(key: str) -> int:
    """Return an entry of /proc/self/status in bytes."""
    (kib,) = re.findall(rf"^{key}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return 1024 * int(kib)


def cpu_chunked(size: Size, memory_target: str, time_target: str) -> Iterator[Row]:
    """Measure memory and time without the (N, C) logits."""
    yield from cpu_memory(size, memory_target, CHUNK)
    steps, clear = steps_of(losses_of(class_chunk=CHUNK), size)
    times = time_in_turns(steps, clear, size.turns)
    yield over_softmax("time / softmax", time_target, times)


def against_pml(size: Size, target: str) -> Iterator[Row]:
    """Measure how many times longer pytorch-metric-learning takes for the same loss (lambda 0)."""
    pml = importlib.import_module("pytorch_metric_learning.losses")
    features, weight, labels = inputs(size)
    theirs = pml.LargeMarginSoftmaxLoss(size.classes, size.width, margin=4)
    theirs.W.data = weight.detach().T.contiguous()
    ours = partial(l_softmax(4, lam=0.0), features, weight, labels)
    losses: dict[str, Callable[[], Tensor]] = {
        "theirs": partial(theirs, features, labels),
        "ours": ours,
    }
    steps = {name: partial(call, loss) for name, loss in losses.items()}
    times = time_in_turns(steps, partial(clear, [features, weight, theirs.W]), size.turns)
    row = ratio_row("their time / ours", target, times["theirs"], times["ours"], times)
    difference = abs(losses["theirs"]().item() / losses["ours"]().item() - 1)
    yield replace(row, note=f"{row.note}, losses differ by {difference:.0e}")


def time_heads(turns: int) -> Iterator[Row]:
    """Measure every head, with its default options on a long tail, against the softmax head."""
    for classes in (10, 1_000):
        size = Size(classes, turns, batch=128, width=64)
        features, _, labels = inputs(size)
        counts = torch.logspace(3, 1, classes).round().long()
        heads = {name: build_head(name, size.width, classes, counts) for name in HEADS}
        steps = {
            name: partial(call, partial(head, features, labels, 1.0))
            for name, head in heads.items()
        }
        parameters = [parameter for head in heads.values() for parameter in head.parameters()]
        times = time_in_turns(steps, partial(clear, [features, *parameters]), turns)
        for name, values in times.items():
            row = ratio_row(
                f"C = {classes}: time / softmax", "", values, times["softmax"], {name: values}
            )
            yield replace(row, name=name)


GPU = Size(10, 200, batch=128, device="cuda")
LARGE = replace(GPU, batch=1024, turns=50)
MEASUREMENTS: dict[str, tuple[Size, Callable[[Size], Iterator[Row]]]] = {
    "time-10": (Size(10, 500), partial(cpu_time, target="<= 2.5", limit="<= 0.6")),
    "time-1k": (Size(1_000, 200), partial(cpu_time, target="<= 1.10")),
    "time-10k": (Size(10_000, 60), partial(cpu_time, target="<= 1.03")),
    "time-50k": (Size(50_000, 30), partial(cpu_time, target="<= 1.00")),
    "memory-50k": (Size(50_000, 1), partial(cpu_memory, target="<= 1.05")),
    "chunked-200k": (
        Size(200_000, 15, width=128),
        partial(cpu_chunked, memory_target="<= 0.15", time_target="<= 1.35"),
    ),
    "pml-10": (Size(10, 300), partial(against_pml, target=">= 6")),
    "pml-1k": (Size(1_000, 100), partial(against_pml, target=">= 4.5")),
    "pml-10k": (Size(10_000, 30), partial(against_pml, target=">= 2.4")),
    "numerics": (Size(1_000, 1), numerics),
    "gpu-small": (GPU, gpu_small),
    "gpu-step": (GPU, gpu_step),
    "gpu-dense-1k": (replace(LARGE, classes=1_000), gpu_dense),
    "gpu-dense-10k": (replace(LARGE, classes=10_000), gpu_dense),
    "gpu-dense-100k": (replace(LARGE, classes=100_000), gpu_dense),
    # bf16, because its target is below what float32 products alone take
    "gpu-chunked-100k": (
        replace(LARGE, classes=100_000, dtype=torch.bfloat16),
        partial(gpu_chunked, chunk=CHUNK),
    ),
}


def measure(names: list[str], turns: int | None) -> Iterator[Row]:
    """Measure what the names of `--rows` stand for, or say why that cannot be."""
    for name in names:
        size, function = MEASUREMENTS[name]
        lacking = obstacle(name, size)
        if lacking:
            yield Row("", note=lacking, name=name)
            continue
        for row in function(replace(size, turns=turns or size.turns)):
            yield replace(row, name=name)


def obstacle(name: str, size: Size) -> str:
    """Return what a measurement lacks here, nothing where it can be made."""
    if size.device == "cuda" and not torch.cuda.is_available():
        return "no GPU here"
    if "chunked" in name and "class_chunk" not in inspect.signature(l_softmax_loss).parameters:
        return "not available: l_softmax_loss has no class_chunk"
    if "pml" in name and importlib.util.find_spec("pytorch_metric_learning") is None:
        return "pytorch-metric-learning is not installed"
    return ""


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    git = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return {
        "cpu": names[0] if names else platform.machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "threads": torch.get_num_threads(),
        "load at start": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "commit": git.stdout.strip() or "unknown",
    }


def line_of(row: Row) -> str:
    """Return a row in aligned columns."""
    value = "-" if row.value is None else f"{row.value:.3g} {row.unit}"
    between = "" if row.low is None else f"{row.low:.3g} to {row.high:.3g}"
    cells = f"{row.name:<24}{row.what:<33}{value:>16}  {between:<21}{row.target:<9}{row.verdict:<5}"
    return f"{cells}{row.turns or '':>5}  {row.note}".rstrip()


def row_names(text: str) -> list[str]:
    """Return the names of a comma-separated list."""
    names = text.split(",")
    for name in names:
        if name not in MEASUREMENTS:
            raise argparse.ArgumentTypeError(
                f"no row {name!r}; there are {', '.join(MEASUREMENTS)}"
            )
    return names


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rows",
        type=row_names,
        default=list(MEASUREMENTS),
        metavar="NAME,...",
        help=f"measure these alone: {', '.join(MEASUREMENTS)}",
    )
    parser.add_argument(
        "--heads", action="store_true", help="measure every head against the softmax head instead"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON, with the values of all turns"
    )
    parser.add_argument(
        "--turns",
        type=int,
        help="this many timed turns instead: few of them try the script, and measure nothing",
    )
    parser.add_argument("--transient", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the transient memory of one call (in a child), or measure and print rows."""
    options = parse()
    if options.transient:
        arm, *numbers = options.transient
        print(transient_here(arm, *map(int, numbers)))
        return
    facts, measured = machine(), []
    if not options.json:
        print(", ".join(f"{key}: {value}" for key, value in facts.items()), end="\n\n")
        print(f"{'row':<57}{'value':>16}  {'p20 to p80':<21}{'target':<14}turns  medians")
    turns = options.turns
    for row in time_heads(turns or HEAD_TURNS) if options.heads else measure(options.rows, turns):
        measured.append(asdict(row) | {"verdict": row.verdict})
        if not options.json:
            print(line_of(row), flush=True)
    if options.json:
        print(json.dumps({"machine": facts, "rows": measured}, indent=2))


if __name__ == "__main__":
    main()
