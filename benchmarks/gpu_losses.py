"""The rows of `gpu.sh` about the loss: its time, kernels, memory and rivals on one device.

A part is a function of the `Way` that yields what it measured.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

import loss_gpu
import numpy as np
import torch
from gpu_lines import Measured
from gpu_way import NotHereError, Way
from loss import CHUNK, GPU
from loss_arms import MARGINS, Loss, Row, Size, Step, inputs, l_softmax, slower, steps_of
from loss_gpu import gpu_times, peak_of
from torch import Tensor
from torch.nn import functional

from lmsm_cli.runtime.cuda_graph import side_stream
from lmsm_cli.runtime.device import choose_runtime

GB = 1e9
MILLION = 1_000_000
SLOPE = (10_000, 100_000, MILLION, 2 * MILLION)  # classes
SMALL_TURNS, LARGE_TURNS, FEW_TURNS = 200, 50, 30
FROZEN = 6  # calls of a training's step, after which its graph is there


def of_loss(row: Row, name: str = "", *, target: str | None = None) -> Measured:
    """Return a row of loss_gpu.py or loss_numerics.py under its planned name."""
    asked = row.target if target is None else target
    return Measured(name or row.what, row.value, row.low, row.high, row.turns or 1, row.note, asked)


def facts(way: Way) -> Iterator[Measured]:
    """Measure what floors are worked out from: products of matrices, and copies."""
    import train_gpu_arms
    from train_arms import Plan

    steps = 1 if way.is_try else None
    peak = train_gpu_arms.gemm_peak(Plan(0, steps, 0))["tflops"]
    yield Measured("bf16 peak, 8192^3", peak)
    size = 2**10 if way.is_try else 2**30
    source = torch.zeros(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    timed = loss_gpu.event_timer(partial(target.copy_, source), lambda: None, calls=10)
    rates = [2 * size / (timed() / 1000) / 1e12 for _ in range(12)][2:]
    yield Measured.of("copy, read and write", rates)


def times(way: Way) -> Iterator[Measured]:
    """Measure a head of few classes, where only launches count."""
    yield from map(of_loss, loss_gpu.gpu_small(way.size(10, SMALL_TURNS, 128)))


def kernels(way: Way) -> Iterator[Measured]:
    """Count the kernels of a forward and a backward pass."""
    from loss_arms import losses_of

    steps, clear = steps_of(losses_of(), way.size(10, 1, 128))
    counts = {}
    for name, step in steps.items():
        counts[name] = way.kernels_of(step)
        clear()
    yield Measured("kernels, the more of two margins", max(counts[f"margin {m}"] for m in MARGINS))
    yield Measured("kernels of softmax", counts["softmax"])


def step_times(way: Way) -> Iterator[Measured]:
    """Measure the step of a training, as a graph."""
    yield from map(of_loss, loss_gpu.gpu_step(*_of_step(way)))


def _of_step(way: Way) -> tuple[Size, str]:
    """Return the size and the net of a training's step."""
    if way.is_try:
        return Size(10, 1, batch=2, device="cuda"), "paper-2d"
    return GPU, "resnet18"


def step_kernels(way: Way) -> Iterator[Measured]:
    """Count the kernels in the graph of a training's step."""
    size, model = _of_step(way)
    runtime = choose_runtime("cuda", "bf16")
    runtime.apply()
    counts = {}
    with side_stream(runtime.device)():
        for spec in ("softmax", *(f"lsoftmax:margin={margin}" for margin in MARGINS)):
            step = loss_gpu.training_step(spec, size, runtime, model)
            for _ in range(FROZEN):
                step()
            counts[spec] = way.kernels_of(step)
    plain = counts.pop("softmax")
    yield Measured("kernels of a step of softmax", plain)
    yield Measured("kernels more with a margin", max(counts.values()) - plain)


def dense(way: Way) -> Iterator[Measured]:
    """Measure time and memory with the (N, C) logits."""
    for classes in (1_000, 10_000, 100_000):
        for row in loss_gpu.gpu_dense(way.size(classes, LARGE_TURNS, 1024)):
            yield of_loss(row, f"C = {classes:,}: {row.what}")


def chunked(way: Way) -> Iterator[Measured]:
    """Measure time and memory without them, in bf16: float32's products alone take longer."""
    size = way.size(100_000, LARGE_TURNS, 1024, dtype=torch.bfloat16)
    for row in loss_gpu.gpu_chunked(size, way.chunk(CHUNK)):
        yield of_loss(row, f"C = 100,000 in chunks: {row.what}")


def in_chunks(way: Way, size: Size, lam: float = 0.7) -> dict[str, Loss]:
    """Return the loss of each margin in chunks of classes."""
    chunk = way.chunk(CHUNK)
    return {f"margin {m}": l_softmax(m, lam=lam, class_chunk=chunk) for m in MARGINS}


def transient(step: Step, clear: Step, size: Size) -> float:
    """Return the GB that a call takes beyond its inputs and gradients."""
    before, peak = peak_of(step, clear)
    return (peak - before - size.gradient_bytes) / GB


def measured(way: Way, classes: int) -> tuple[list[float], float]:
    """Return the milliseconds of the slower margin in each turn, and the larger transient GB."""
    size = way.size(classes, FEW_TURNS, 1024, dtype=torch.bfloat16)
    steps, clear = steps_of(in_chunks(way, size), size)
    found = gpu_times(steps, clear, size.turns)
    return slower(found), max(transient(step, clear, size) for step in steps.values())


def million(way: Way) -> Iterator[Measured]:
    """Measure a million classes, and how time and memory grow up to two millions."""
    found = {classes: measured(way, classes) for classes in SLOPE}
    values, memory = found[MILLION]
    yield Measured.of("C = 1,000,000: time", values)
    yield Measured("C = 1,000,000: transient memory", memory)
    for name, place in (
        ("slope of time, C = 10,000 to 2,000,000", 0),
        ("slope of transient memory", 1),
    ):
        # a slope of logarithms; what takes no memory takes a byte
        ends = [
            max(1e-9, median(one[place]) if place == 0 else one[place]) for one in found.values()
        ]
        slope, _ = np.polyfit(np.log(list(found)), np.log(ends), 1)
        yield Measured(name, float(slope), n=len(found))


def ten_million(way: Way) -> Iterator[Measured]:
    """Measure a step on ten million classes: products in bf16, weights and momentum in fp32."""
    size = way.size(10 * MILLION, FEW_TURNS, 512)
    features, weight, labels = inputs(size)
    optimizer = torch.optim.SGD([weight], 0.01, momentum=0.9, fused=True)
    loss = in_chunks(way, size)["margin 4"]

    def step() -> None:
        loss(features.bfloat16(), weight.bfloat16(), labels).backward()
        optimizer.step()
        weight.grad = features.grad = None

    torch.cuda.reset_peak_memory_stats()
    timed = loss_gpu.event_timer(step, lambda: None, calls=1)
    values = [timed() for _ in range(2 + size.turns)][2:]
    yield Measured.of("C = 10,000,000, batch 512: time, SGD included", values)
    yield Measured("peak memory", torch.cuda.max_memory_allocated() / GB)


def pml(way: Way) -> Iterator[Measured]:
    """Compare with pytorch-metric-learning's loss of the same definition."""
    losses = library("pytorch_metric_learning.losses", "pytorch-metric-learning")
    last: tuple[float, float] = (0.0, 0.0)
    for classes, batch, turns in ((10, 128, 100), (100_000, 1024, 20), (MILLION, 1024, 5)):
        size = way.size(classes, turns, batch)
        features, weight, labels = inputs(size)
        theirs = losses.LargeMarginSoftmaxLoss(size.classes, size.width, margin=4).to("cuda")
        theirs.W = torch.nn.Parameter(weight.detach().T.contiguous())
        chunk = {} if classes == 10 else {"class_chunk": way.chunk(CHUNK)}
        ours = partial(l_softmax(4, lam=0.0, **chunk), features, weight, labels)
        found, memory = against(
            partial(theirs, features, labels), ours, size, [features, weight, theirs.W]
        )
        yield replaced(found, f"pytorch-metric-learning / ours, C = {classes:,}")
        last = memory
    yield Measured("its transient memory / ours, C = 1,000,000", last[0] / max(last[1], 1e-9))


def against(
    theirs: Callable[[], Tensor], ours: Callable[[], Tensor], size: Size, leaves: list[Tensor]
) -> tuple[Measured, tuple[float, float]]:
    """Return the ratio of the times of two losses, turn by turn, and the transient GB of both."""
    from loss_arms import call, clear, ratio_row

    steps: Mapping[str, Step] = {
        "theirs": partial(call, theirs),
        "ours": partial(call, ours),
    }
    empty = partial(clear, leaves)
    found = gpu_times(steps, empty, size.turns)
    memory = [transient(step, empty, size) for step in steps.values()]
    row = ratio_row("", "", found["theirs"], found["ours"], found)
    return of_loss(row, "their time / ours"), (memory[0], memory[1])


def replaced(found: Measured, name: str) -> Measured:
    """Return what was measured under another name."""
    return Measured(name, found.value, found.p20, found.p80, found.n, found.note)


def library(module: str, package: str) -> Any:
    """Return a module of another package. Raises NotHereError."""
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise NotHereError(f"{package} is not installed: bring its wheel")
    return importlib.import_module(module)


def liger(way: Way) -> Iterator[Measured]:
    """Compare with Liger's fused linear cross-entropy, which has no margin."""
    found = library("liger_kernel.transformers", "liger-kernel").LigerFusedLinearCrossEntropyLoss()
    yield of_rival(way, "Liger", lambda x, w, y: found(w, x, y))


def cut_cross_entropy(way: Way) -> Iterator[Measured]:
    """Compare with cut-cross-entropy without its filter, which drops the negatives."""
    found = library("cut_cross_entropy", "cut-cross-entropy").linear_cross_entropy
    yield of_rival(
        way, "cut-cross-entropy, exact", lambda x, w, y: found(x, w, y, impl="cce_exact")
    )


def torch_fused(way: Way) -> Iterator[Measured]:
    """Compare with torch's own, in chunks of its choice."""
    fused = getattr(functional, "linear_cross_entropy", None)
    if fused is None:
        raise NotHereError(f"torch {torch.__version__} has no linear_cross_entropy: 2.13 has")
    options = torch.nn.LinearCrossEntropyOptions()
    yield of_rival(
        way,
        "torch's linear_cross_entropy",
        lambda x, w, y: fused(x, w, y, options=options),
    )


def of_rival(way: Way, name: str, theirs: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Measured:
    """Return the ratio of a rival's time to ours on a million classes, in bf16."""
    size = way.size(MILLION, 10, 1024, dtype=torch.bfloat16)
    features, weight, labels = inputs(size)
    ours = partial(in_chunks(way, size, lam=0.0)["margin 4"], features, weight, labels)
    found, _ = against(partial(theirs, features, weight, labels), ours, size, [features, weight])
    return replaced(found, f"{name} / ours, C = 1,000,000")
