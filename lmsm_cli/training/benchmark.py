"""How fast this machine trains: models, matrix products, cost of losses and of augmentations.

Everything is measured on drawn images through the training's own steps; nothing is read or written.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch._dynamo  # now: the frames that import it are kept alive
from torch import Tensor

from lmsm_cli.config import Config
from lmsm_cli.data.augment import AUGMENTATIONS
from lmsm_cli.data.batches import Batch, EpochPlan, batches, plan_epoch
from lmsm_cli.data.mixing import Mixing
from lmsm_cli.losses.head import Head
from lmsm_cli.losses.registry import HEADS, build_head
from lmsm_cli.models.classifier import Classifier, ModelSpec, build_classifier
from lmsm_cli.runtime.cuda_graph import side_stream
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.memory import is_out_of_memory
from lmsm_cli.training.step import TrainStep, new_optimizer

# CIFAR-10's, and the training images that 10% validation leaves of it.
_SIDE, _CHANNELS, _CLASSES, EPOCH_IMAGES = 32, 3, 10, 45_000
# Long enough that a product runs at its peak: about 0.1 s on two cores, 1 ms on a large GPU.
_PRODUCT = {"cpu": 2048, "cuda": 8192}
_COUNTS = torch.tensor([500 // 2**c + 5 for c in range(_CLASSES)])
# Steps that are not timed: kernels are chosen, and a CUDA graph is captured in the fourth.
_WARM_UP = {"cpu": 2, "cuda": 8}
# Steps that are timed together: to wait for a GPU after each would leave it idle before the next.
_TOGETHER = {"cpu": 1, "cuda": 10}
# Batches that are made for one time of an augmentation.
_BATCHES, _STEP = 4, "a step"


def peak(runtime: Runtime) -> float:
    """Return the GFLOP/s of the best matrix product of random numbers (zeros are faster)."""
    runtime.apply()
    size = _PRODUCT[runtime.device.type]
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    left, right = (torch.randn(size, size, device=runtime.device).to(dtype) for _ in range(2))
    seconds = min(_timed(lambda: left @ right, runtime.device) for _ in range(8))
    return 2 * size**3 / seconds / 1e9


def training_gflop(model: str) -> float:
    """Return the GFLOP of training a model on one image, forward and backward, padding included."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        net = _classifier(model)
        images = torch.zeros(2, _CHANNELS, _SIDE, _SIDE, dtype=torch.uint8)
        with FlopCounterMode(display=False) as counter:
            torch.autograd.backward(net.embed(images).sum())
    return float(counter.get_total_flops()) / 2e9


def throughput(
    model: str, runtime: Runtime, batch_size: int, seconds: float, say: Callable[[str], None]
) -> float | None:
    """Return the images/s of training a model, measured for some seconds.

    `say` gets a text where there is no CUDA graph. None where the model does not fit into memory.
    """
    config = Config.model_validate({"model": model, "batch_size": batch_size})
    runtime.apply()
    try:
        net = runtime.place(_classifier(model)).train()
        with side_stream(runtime.device)():
            stepper = TrainStep(net, new_optimizer(net, config), config, None, runtime, say)
            return batch_size / _median_step(stepper, _batch(runtime.device, batch_size), seconds)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            return None
        raise


def loss_milliseconds(
    runtime: Runtime, batch_size: int, num_features: int = 64
) -> dict[str, float]:
    """Return the median forward and backward time of each loss on features (N, D) of 10 classes.

    The losses take turns, so that a slow moment meets all.
    """
    features = torch.randn(batch_size, num_features, device=runtime.device, requires_grad=True)
    labels = torch.randint(_CLASSES, (batch_size,), device=runtime.device)
    progress = torch.tensor(0.5, device=runtime.device)
    heads = {
        name: build_head(name, num_features, _CLASSES, _COUNTS).to(runtime.device) for name in HEADS
    }
    times: dict[str, list[float]] = {name: [] for name in heads}
    for _ in range(60):
        for name, head in heads.items():
            step = partial(_forward_and_back, head, features, labels, progress)
            times[name].append(_timed(step, runtime.device))
    return {name: 1000 * statistics.median(values[10:]) for name, values in times.items()}


def augmentation_milliseconds(
    runtime: Runtime, batch_size: int, rounds: int = 10
) -> tuple[dict[str, float], float]:
    """Return what augmentations add to the making of a batch, and the time of a ResNet-18 step.

    All take turns, so that a slow moment meets all; a time is the median over the rounds.
    """
    device = runtime.device
    runtime.apply()
    count = _BATCHES * batch_size
    images = torch.randint(256, (count, _SIDE, _SIDE, _CHANNELS), dtype=torch.uint8).to(device)
    labels = torch.randint(_CLASSES, (count,)).to(device)
    ways: dict[str, dict[str, Any]] = {name: {"augment": name} for name in AUGMENTATIONS}
    for name, alphas in (("mixup", (1.0, 0.0)), ("cutmix", (0.0, 1.0))):
        ways[name] = {"augment": "none", "mixing": Mixing(*alphas, batch_size)}

    def make_batches(plan: EpochPlan) -> None:
        for _ in batches(images, labels, plan, batch_size):
            pass

    times: dict[str, list[float]] = {name: [] for name in (_STEP, *ways)}
    with side_stream(device)():
        step = _steps(runtime, batch_size)
        for epoch in range(rounds):
            times[_STEP].append(_timed(step, device))
            for name, choice in ways.items():
                plan = plan_epoch(count, seed=0, epoch=epoch, size=(_SIDE, _SIDE), **choice)
                times[name].append(_timed(partial(make_batches, plan), device) / _BATCHES)
    medians = {name: 1000 * statistics.median(values[2:]) for name, values in times.items()}
    of_step, plain = medians.pop(_STEP), medians.pop("none")
    return {name: value - plain for name, value in medians.items()}, of_step


def _steps(runtime: Runtime, batch_size: int) -> Callable[[], None]:
    """Return what takes a step of ResNet-18."""
    config = Config.model_validate({"model": "resnet18", "batch_size": batch_size})
    net = runtime.place(_classifier("resnet18")).train()
    stepper = TrainStep(net, new_optimizer(net, config), config, None, runtime, lambda text: None)
    stepper.watch.start(1)
    return partial(stepper.step, _batch(runtime.device, batch_size), 0.5, weighted=False)


def survey(
    models: Sequence[str],
    runtimes: Sequence[Runtime],
    batch_size: int,
    seconds: float,
    report: Callable[[str, int, int], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Return what `lmsm bench` prints, as plain data.

    Args:
        models: names, each measured in every runtime.
        runtimes: precisions, layouts and threads; losses and augmentations are measured in the
            first.
        batch_size: images of a step.
        seconds: timed for each model and runtime.
        report: gets what is measured, what is done, and of how much.
        say: gets what a user should know.
    """
    peaks: dict[str, float] = {}
    for runtime in runtimes:
        peaks[runtime.precision] = max(peak(runtime), peaks.get(runtime.precision, 0.0))
    rows: list[dict[str, Any]] = []
    total = len(models) * len(runtimes)
    for model in models:
        gflop = training_gflop(model)
        for runtime in runtimes:
            report("measuring models", len(rows), total)
            rate = throughput(model, runtime, batch_size, seconds, say)
            rows.append(
                {"model": model}
                | runtime.to_config()
                | {
                    "images_per_second": rate,
                    "gflop_per_image": gflop,
                    "share_of_peak": rate and rate * gflop / peaks[runtime.precision],
                    "seconds_per_epoch": rate and EPOCH_IMAGES / rate,
                }
            )
    report("measuring models", total, total)
    losses = loss_milliseconds(runtimes[0], batch_size)
    augmentations, step = augmentation_milliseconds(runtimes[0], batch_size)
    return {
        "peak_gflops": peaks,
        "models": rows,
        "losses": [
            {"loss": name, "milliseconds": time, "over_softmax": time / losses["softmax"]}
            for name, time in losses.items()
        ],
        "augmentations": [
            {"augment": name, "milliseconds": time, "share_of_step": time / step}
            for name, time in augmentations.items()
        ],
    }


def _classifier(model: str) -> Classifier:
    neck = Config.model_validate({"model": model}).neck
    half = (0.5,) * _CHANNELS
    return build_classifier(
        ModelSpec(model, neck, "softmax"), classes=map(str, range(_CLASSES)), mean=half, std=half
    )


def _batch(device: torch.device, batch_size: int) -> Batch:
    images = torch.randint(256, (batch_size, _SIDE, _SIDE, _CHANNELS), dtype=torch.uint8)
    labels = torch.randint(_CLASSES, (batch_size,)).to(device)
    return Batch(images.to(device).permute(0, 3, 1, 2), labels, labels)


def _median_step(stepper: TrainStep, batch: Batch, seconds: float) -> float:
    """Return the median seconds of a step, over at least three times."""
    device = batch.labels.device
    stepper.watch.start(1)
    together = _TOGETHER[device.type]

    def steps(number: int) -> None:
        for _ in range(number):
            stepper.step(batch, 0.5, weighted=False)

    steps(_WARM_UP[device.type])
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        times.append(_timed(lambda: steps(together), device))
    return statistics.median(times) / together


def _forward_and_back(head: Head, features: Tensor, labels: Tensor, progress: Tensor) -> None:
    head(features, labels, progress).backward()


def _timed(function: Callable[[], Tensor | None], device: torch.device) -> float:
    """Return the seconds of a call, until the device has done it."""
    _wait(device)
    started = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - started


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
