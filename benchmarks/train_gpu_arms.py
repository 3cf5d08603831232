"""What a child process of the training benchmark runs on a CUDA device: one arm each.

As train_arms.py: torch is imported in the functions; to add an arm, name it in `ARMS`.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

from train_arms import (
    RESNET,
    WARM_UP,
    Plan,
    config_of,
    endless_labels,
    scaling,
    seed_loop,
    training_images,
)

MODELS = ("resnet18-cifar", "vgg16", "resnet18", "resnet32")
SIDE = 8192  # of the square matrices that the peak is measured on
GEMMS = 50  # the first 20 let the clock of the device settle
EPOCHS = 10  # of each size in the scaling; one alone takes 0.02 s
BATCHES = 200


def gemm_peak(plan: Plan) -> dict[str, float]:
    """Return TFLOP/s of a large bf16 product of random numbers: of zeros it would be faster."""
    import torch

    cuda: Any = torch.cuda  # partly without types
    side = 64 if plan.steps else SIDE
    left, right = (torch.randn(side, side, device="cuda").bfloat16() for _ in range(2))
    product = torch.empty_like(left)
    start, end = (cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(GEMMS):
        start.record()
        torch.mm(left, right, out=product)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return {"tflops": 2 * side**3 / statistics.median(times[20:]) / 1e9}  # times are in ms


def training_flops(plan: Plan) -> dict[str, float]:
    """Return the GFLOP of training each model on one 32x32 image, forward and backward."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from lmsm_cli.config import Config
    from lmsm_cli.models.classifier import ModelSpec, build_classifier

    images, labels = torch.zeros(4, 3, 32, 32, dtype=torch.uint8), torch.arange(4)
    classes, half = tuple("0123456789"), (0.5, 0.5, 0.5)
    numbers: dict[str, float] = {}
    for model in MODELS:
        neck = Config.model_validate({"model": model}).neck
        net = build_classifier(
            ModelSpec(model, neck, "softmax"), classes=classes, mean=half, std=half
        )
        with FlopCounterMode(display=False) as counter:
            net.head(net.embed(images), labels).backward()
        numbers[model] = counter.get_total_flops() / len(labels) / 1e9
    return numbers


def batch_making(plan: Plan, device: str = "cuda", batch_size: int = 512) -> dict[str, float]:
    """Return the milliseconds of making one augmented batch, nothing else running."""
    import torch

    config = config_of(
        "balanced-resnet18", device=device, batch_size=batch_size, augment="crop-flip"
    )
    labels = endless_labels(training_images(config), config, device)
    wait = torch.cuda.synchronize if device == "cuda" else (lambda: None)
    number = plan.steps or BATCHES
    list(islice(labels, WARM_UP))
    wait()
    start = time.perf_counter()
    list(islice(labels, number))
    wait()
    return {"milliseconds": 1000 * (time.perf_counter() - start) / number}


ARMS: dict[str, Callable[[Plan], dict[str, float]]] = {
    "gpu-peak": gemm_peak,
    "gpu-flops": training_flops,
    "gpu-seed-128": partial(seed_loop, preset=RESNET, batch_size=128, device="cuda"),
    "gpu-batch": batch_making,
    "gpu-scaling": partial(scaling, device="cuda", epochs=EPOCHS),
}
