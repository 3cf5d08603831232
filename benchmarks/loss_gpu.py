"""The rows of the loss benchmark that need a GPU: CUDA events and graphs, caching allocator."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from loss_arms import (
    MARGINS,
    MIB,
    WARM_UP,
    Row,
    Size,
    Step,
    Values,
    losses_of,
    over_softmax,
    slower,
    steps_of,
    take_turns,
    value_row,
)

from lmsm_cli.config import Config
from lmsm_cli.data.batches import Batch
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runtime.cuda_graph import side_stream
from lmsm_cli.runtime.device import Runtime, choose_runtime
from lmsm_cli.training.step import TrainStep, new_optimizer

REPLAYS = 20  # of a small graph between two events, which resolve half a microsecond
cuda: Any = torch.cuda  # partly without types


def gpu_small(size: Size) -> Iterator[Row]:
    """Measure a head of few classes, where only launches count."""
    steps, clear = steps_of(losses_of(), size)
    eager = gpu_times(steps, clear, size.turns)
    graphs = {name: graphed(step, clear) for name, step in steps.items()}
    times = gpu_times(graphs, clear, size.turns, calls=REPLAYS)
    yield over_softmax("graph: time / softmax", "<= 1.3", times)
    yield value_row("graph: time - softmax", "us", "<= 15", microseconds_more(times))
    yield value_row("eager: time - softmax", "us", "<= 120", microseconds_more(eager))


def gpu_step(size: Size, model: str = "resnet18") -> Iterator[Row]:
    """Measure lmsm's own training step of the seed's ResNet-18 (bf16, SGD), as a CUDA graph."""
    specs = {f"margin {margin}": f"lsoftmax:margin={margin}" for margin in MARGINS}
    specs = {"softmax": "softmax", **specs, "softmax again": "softmax"}
    runtime = choose_runtime(size.device, "bf16")
    runtime.apply()
    with side_stream(runtime.device)():
        steps = {name: training_step(spec, size, runtime, model) for name, spec in specs.items()}
        times = gpu_times(steps, lambda: None, size.turns)
    yield over_softmax("graph: step / softmax step", "<= 1.01", times)


def training_step(spec: str, size: Size, runtime: Runtime, model: str = "resnet18") -> Step:
    """Return what takes a step of a training on a drawn batch; the next one captures its graph."""
    config = Config(loss=spec, batch_size=size.batch, optimizer="sgd", lr=0.0001)
    half = (0.5, 0.5, 0.5)
    parts = ModelSpec(model, "bn", spec)
    names = map(str, range(size.classes))
    net = runtime.place(build_classifier(parts, classes=names, mean=half, std=half)).train()
    stepper = TrainStep(net, new_optimizer(net, config), config, None, runtime, print)
    stepper.watch.start(1)
    images = torch.randint(256, (size.batch, 32, 32, 3), dtype=torch.uint8, device=size.device)
    labels = torch.arange(size.batch, device=size.device) % size.classes
    batch = Batch(images.permute(0, 3, 1, 2), labels, labels)
    step = partial(stepper.step, batch, 0.5, weighted=False)
    for _ in range(WARM_UP):
        step()
    return step


def gpu_dense(size: Size) -> Iterator[Row]:
    """Measure time and peak memory (inputs and gradients included) with the (N, C) logits."""
    steps, clear = steps_of(losses_of(), size)
    yield over_softmax("time / softmax", "<= 1.03", gpu_times(steps, clear, size.turns))
    peaks = {name: [peak_of(step, clear)[1] / MIB] for name, step in steps.items()}
    yield over_softmax("peak memory / softmax", "<= 1.01", peaks, "MiB")


def gpu_chunked(size: Size, chunk: int) -> Iterator[Row]:
    """Measure time and transient memory without the (N, C) logits."""
    steps, clear = steps_of(losses_of(class_chunk=chunk), size)
    times = gpu_times(steps, clear, size.turns)
    yield over_softmax("time / softmax", "<= 0.75", times)
    yield value_row("time", "ms", "<= 1.0", slower(times))
    peaks = {name: peak_of(step, clear) for name, step in steps.items()}
    transient = {
        name: [(peak - before - size.gradient_bytes) / MIB]
        for name, (before, peak) in peaks.items()
    }
    yield over_softmax("transient memory / softmax", "<= 0.1", transient, "MiB")


def gpu_times(steps: Mapping[str, Step], clear: Step, turns: int, calls: int = 1) -> Values:
    """Return the milliseconds of each step on the GPU, turn after turn."""
    return take_turns(
        {name: event_timer(step, clear, calls) for name, step in steps.items()}, turns
    )


def event_timer(step: Step, clear: Step, calls: int) -> Callable[[], float]:
    """Return a function that clears, makes `calls` steps, and returns the milliseconds of one."""
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))

    def timed() -> float:
        clear()
        cuda.synchronize()
        start.record()
        for _ in range(calls):
            step()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / calls

    return timed


def graphed(step: Step, clear: Step) -> Step:
    """Return the replay of a step that is captured as a CUDA graph."""
    stream = cuda.Stream()
    stream.wait_stream(cuda.current_stream())
    with cuda.stream(stream):
        for _ in range(WARM_UP):
            clear()
            step()
    cuda.current_stream().wait_stream(stream)
    clear()  # the captured pass makes gradients of its own, and so adds to none
    graph = cuda.CUDAGraph()
    with cuda.graph(graph):
        step()
    clear()
    replay: Step = graph.replay
    return replay


def microseconds_more(arms: Values) -> list[float]:
    """Return how much longer than softmax the slower margin took in each turn."""
    return [1000 * (a - b) for a, b in zip(slower(arms), arms["softmax"], strict=True)]


def peak_of(step: Step, clear: Step) -> tuple[int, int]:
    """Return the bytes allocated before a step and at its peak."""
    step()  # cuBLAS takes its workspace in the first call
    clear()
    before = cuda.memory_allocated()
    cuda.reset_peak_memory_stats()
    step()
    peak = cuda.max_memory_allocated()
    clear()
    return before, peak
