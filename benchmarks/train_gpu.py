"""The rows of the training benchmark that need a CUDA device; `unmeasured` where there is none.

Targets are those for one H200. To add a section, write a function that yields rows, name it in
`SECTIONS`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from train_children import Arm, ArmError, in_turns
from train_gpu_arms import EPOCHS
from train_rows import Numbers, Row, scaling_rows

DEVICE = "cuda"
H200 = 788  # TFLOP/s of bf16 products of 8192^2 matrices, measured on such a machine
BALANCED = ("--dataset", "cifar10", "--device", DEVICE)
MFU_TARGETS = {
    "resnet18-cifar": ">= 0.40",
    "vgg16": ">= 0.50",
    "resnet18": ">= 0.30",
    "resnet32": ">= 0.12",
}
# Name -> flags, target (s of training). The long-tailed set with all its 20,431 images; of the
# balanced one, validation leaves 45,000.
LONG_TAIL = ("--validation", "0")
CIFAR_NET = ("--model", "resnet18-cifar", "--neck", "none")
RECIPES: dict[str, tuple[tuple[str, ...], str]] = {
    "resnet18, long tail, batch 128": (
        ("--preset", "imbalanced-resnet18", *LONG_TAIL, "--batch-size", "128"),
        "<= 1.0",
    ),
    "resnet18, long tail, batch 512": (
        ("--preset", "imbalanced-resnet18", *LONG_TAIL, "--batch-size", "512"),
        "<= 0.7",
    ),
    "resnet18, balanced, batch 128": (
        ("--preset", "balanced-resnet18", "--batch-size", "128"),
        "<= 2.2",
    ),
    "resnet18, balanced, batch 512": (
        ("--preset", "balanced-resnet18", "--batch-size", "512"),
        "<= 1.6",
    ),
    "resnet18-cifar, long tail, batch 512": (
        ("--preset", "imbalanced-resnet18", *CIFAR_NET, *LONG_TAIL, "--batch-size", "512"),
        "<= 2.2",
    ),
    "resnet18-cifar, balanced, batch 512": (
        ("--preset", "balanced-resnet18", *CIFAR_NET, "--batch-size", "512"),
        "<= 4.8",
    ),
    "vgg16, long tail, batch 512": (
        ("--preset", "imbalanced-vgg16", *LONG_TAIL, "--batch-size", "512"),
        "<= 1.0",
    ),
    "vgg16, balanced, batch 512": (("--preset", "balanced-vgg16", "--batch-size", "512"), "<= 2.2"),
}
# Accuracy -> epochs, target (s of training). The epochs are what the targets leave time for at 40%
# of the peak, not a tuned recipe.
TIME_TO = {0.94: (16, "<= 10"), 0.95: (30, "<= 20")}
AIRBENCH_RUNS = 10


def gpu_turns(arms: Mapping[str, Arm], options: argparse.Namespace, turns: int) -> Numbers:
    """Run arms in turns where there is a CUDA device.

    `options.fresh`, `trained` and `in_turns` say how an arm runs: those of train_children.py in
    processes of their own, gpu_trainings.py's in this one.
    """
    if options.no_gpu:
        return Numbers(unmeasured=options.no_gpu)
    numbers: Numbers = options.in_turns(arms, turns)
    return numbers


def mfu(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the share of the device's own bf16 peak that steady training at batch 512 reaches."""
    arms = {
        "peak": options.fresh("gpu-peak", options),
        "flops": options.fresh("gpu-flops", options),
    }
    arms |= {
        model: options.trained(
            options,
            *BALANCED,
            "--model",
            model,
            "--batch-size",
            "512",
            "--optimizer",
            "sgd",
            "--lr",
            "0.01",
            "--epochs",
            "6",
        )
        for model in MFU_TARGETS
    }
    got = gpu_turns(arms, options, options.rounds)
    yield got.row("bf16 peak, 8192^3", "TFLOP/s", "peak.tflops")
    for model, target in MFU_TARGETS.items():
        keys = [f"{model}.images_per_second", f"flops.{model}"]
        yield got.row(f"{model}, batch 512", "img/s", keys[0])
        yield got.derived(
            "of the peak here", "share", [*keys, "peak.tflops"], share_of_peak, target
        )
        yield got.derived(
            f"of {H200} TFLOP/s",
            "share",
            keys,
            partial(share_of_peak, peaks=[H200] * options.rounds),
        )


def share_of_peak(rates: list[float], gflops: list[float], peaks: list[float]) -> list[float]:
    """Return images/s times GFLOP an image over TFLOP/s, turn by turn."""
    return [
        rate * gflop / (1000 * peak) for rate, gflop, peak in zip(rates, gflops, peaks, strict=True)
    ]


def recipes(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the seconds of training of the seed's 10 epochs, and one whole command."""
    arms = {
        name: options.trained(options, *flags, "--device", DEVICE)
        for name, (flags, _) in RECIPES.items()
    }
    got = gpu_turns(arms, options, options.rounds)
    for name, (_, target) in RECIPES.items():
        yield got.row(name, "s", f"{name}.seconds", target=target)
    yield got.row(
        "the first, start to run folder", "s", f"{next(iter(RECIPES))}.wall", target="<= 8"
    )


def loop(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the seed's loop against lmsm, and what making the batches takes."""
    arms = {
        "seed": options.fresh("gpu-seed-128", options),
        "lmsm": options.trained(
            options, "--preset", "imbalanced-resnet18", "--batch-size", "128", "--device", DEVICE
        ),
        "batch": options.fresh("gpu-batch", options),
        "augmented": options.trained(
            options,
            *BALANCED,
            "--model",
            "resnet18-cifar",
            "--augment",
            "crop-flip",
            "--batch-size",
            "512",
            "--epochs",
            "4",
        ),
    }
    got = gpu_turns(arms, options, options.rounds)
    yield got.row("seed's loop on the GPU, batch 128", "img/s", "seed.images_per_second")
    yield got.row(
        "lmsm, batch 128", "img/s", "lmsm.images_per_second", "seed.images_per_second", ">= 10"
    )
    keys = ["augmented.images_per_second", "batch.milliseconds"]
    yield got.derived(
        "crop-flip step, batch 512",
        "ms",
        keys[:1],
        lambda rates: [512_000 / rate for rate in rates],
    )
    yield got.derived("share of making its batch", "share", keys, share_of_step, "<= 0.02")


def share_of_step(rates: list[float], milliseconds: list[float]) -> list[float]:
    """Return the share that making a batch of 512 has in a step, turn by turn."""
    return [batch * rate / 512_000 for rate, batch in zip(rates, milliseconds, strict=True)]


ACCURACY_FLAGS = (
    *BALANCED,
    "--validation",
    "0",
    "--model",
    "resnet18-cifar",
    "--batch-size",
    "512",
    "--augment",
    "crop-flip",
    "--optimizer",
    "sgd",
    "--lr",
    "0.2",
    "--schedule",
    "cosine",
    "--warmup",
    "2",
)


def time_to_accuracy(options: argparse.Namespace) -> Iterator[Row]:
    """Measure how long a CIFAR ResNet-18 trains to 94% and 95%, and that it gets there; 5 seeds."""
    arms = {
        f"{epochs} epochs": options.trained(options, *ACCURACY_FLAGS, "--epochs", str(epochs))
        for epochs, _ in TIME_TO.values()
    }
    got = gpu_turns(arms, options, 1 if options.steps else 5)
    for accuracy, (epochs, target) in TIME_TO.items():
        name = f"{epochs} epochs"
        yield got.row(f"{name}: training", "s", f"{name}.seconds", target=target, average="mean")
        yield got.row(
            f"{name}: test accuracy",
            "share",
            f"{name}.accuracy",
            target=f">= {accuracy}",
            average="mean",
        )


def gpu_scaling(options: argparse.Namespace) -> Iterator[Row]:
    """Measure whether the time of a training is a line over the number of images."""
    got = gpu_turns(
        {"scaling": options.fresh("gpu-scaling", options)}, options, min(options.rounds, 2)
    )
    yield from scaling_rows(got, f"{EPOCHS} epochs", ("< 0.2", "> 0.999"))


def airbench(options: argparse.Namespace) -> Iterator[Row]:
    """Run airbench94_muon.py on this device, for context: another net, its own tricks."""
    why = options.no_gpu or ("" if options.airbench else "give --airbench airbench94_muon.py")
    got = Numbers(unmeasured=why)
    if not why:
        got = in_turns({"airbench": lambda turn: airbench_means(options.airbench)}, 1)
    yield got.row("airbench94_muon: training", "s", "airbench.seconds")
    yield got.row("airbench94_muon: test accuracy", "share", "airbench.accuracy")


def airbench_means(script: Path) -> dict[str, float]:
    """Return the mean seconds and accuracy of its first runs; the very first compiles, and is left
    out.

    It prints `|  run  |  epoch  |  train_acc  |  val_acc  |  tta_val_acc  |  time_seconds  |`.
    """
    runs: list[list[str]] = []
    with subprocess.Popen(
        [sys.executable, script.resolve()],
        cwd=script.resolve().parent,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as child:
        for line in child.stdout or ():
            cells = [cell.strip() for cell in line.split("|")]
            if len(cells) == 8 and cells[2] == "eval":
                runs.append(cells)
            if len(runs) > AIRBENCH_RUNS:
                break
        child.kill()
    if len(runs) <= AIRBENCH_RUNS:
        raise ArmError(f"{script} made {len(runs)} runs where {AIRBENCH_RUNS + 1} were expected")
    means = (sum(float(run[place]) for run in runs[1:]) / AIRBENCH_RUNS for place in (6, 5))
    return dict(zip(("seconds", "accuracy"), means, strict=True))


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "gpu-mfu": mfu,
    "gpu-recipes": recipes,
    "gpu-loop": loop,
    "gpu-accuracy": time_to_accuracy,
    "gpu-scaling": gpu_scaling,
    "gpu-airbench": airbench,
}
