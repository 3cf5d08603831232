"""Measure what issue 2 promises of speed and size, on real CIFAR-10 and the CPU, in one run.

`python benchmarks/speed.py`; see README.md beside this file. The arms of a comparison take turns,
each in a fresh process: `lmsm` tunes malloc for its whole process, and the seed's loop must not
profit. This process imports no torch, because a child's peak memory counts its parent's from
before the exec. To add a measurement, write an arm, name it in `ARMS`, and give it a `Row`.
"""

import argparse
import json
import operator
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PRESET = "imbalanced-resnet18"  # the seed's recipe: resnet18, neck relu, softmax, Adam
WARM_UP = 5  # steps; oneDNN chooses its kernels and malloc grows its heap in the first ones
LOSS_STEPS = 40  # timed steps of each loss in a round
# Softmax twice: how far its two medians lie apart is the noise of the comparison. Margin 4, not
# the preset's 2: the one with more arithmetic of the two that the issue names.
LOSSES = {"softmax": "softmax", "lsoftmax": "lsoftmax:margin=4", "softmax_again": "softmax"}
GIB = 2**20  # KiB, the unit of ru_maxrss on Linux
CHILD = os.environ | {"PYTHONPATH": str(ROOT)}  # children measure this checkout


class EnoughError(Exception):
    """Ends a training from its step callback."""


class Clock:
    """Notes when each step ends; raises EnoughError after `steps` timed steps, else `seconds`."""

    def __init__(self, seconds: float, steps: int | None) -> None:
        self.seconds, self.steps = seconds, steps
        self.ends: list[float] = []
        self.images: list[int] = []

    def tick(self, num_images: int) -> None:
        """Note the end of a step over `num_images` images."""
        self.ends.append(time.perf_counter())
        self.images.append(num_images)
        timed = len(self.ends) - WARM_UP
        if timed < 1:
            return
        if timed >= self.steps if self.steps else self._elapsed() >= self.seconds:
            raise EnoughError

    def images_per_second(self) -> float:
        """Return the throughput after the warm-up."""
        return sum(self.images[WARM_UP:]) / self._elapsed()

    def durations(self) -> list[float]:
        """Return the milliseconds of each step after the warm-up."""
        ends = self.ends[WARM_UP - 1 :]
        return [1000 * (end - start) for start, end in pairwise(ends)]

    def _elapsed(self) -> float:
        return self.ends[-1] - self.ends[WARM_UP - 1]


class SeedImages:
    """What torchvision's CIFAR10 was to the seed: an array, and a PIL image made at each access."""

    def __init__(self, images: Any, labels: list[int], transform: Callable[..., Any]) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def seed_net() -> Any:
    """Return the seed's ResNet-18, from torchvision and torch alone."""
    from torch import nn
    from torchvision.models import resnet18

    net = resnet18(weights=None)
    net.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    net.fc = nn.Sequential(
        nn.Linear(512, 64), nn.ReLU(), nn.Dropout(0.25), nn.Linear(64, 10, bias=False)
    )
    return net.train()


def seed_loop(clock: Clock) -> dict[str, float]:
    """Train as the seed does: PIL, per-image transforms, no workers, fp32, a sync every step."""
    import torch
    from torchvision import transforms

    data = training_images(config_of())
    steps = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    images = SeedImages(data.images.numpy(), data.labels.tolist(), transforms.Compose(steps))
    loader = torch.utils.data.DataLoader(images, batch_size=32, shuffle=True, num_workers=0)
    net, criterion = seed_net(), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=5e-4)
    total_loss = total_hits = 0.0
    with suppress(EnoughError):
        while True:
            for batch, labels in loader:
                optimizer.zero_grad()
                outputs = net(batch)
                loss = criterion(outputs, labels)
                loss.backward()
                optimizer.step()
                total_loss += loss.item()
                total_hits += (outputs.argmax(dim=1) == labels).sum().item()
                clock.tick(len(labels))
    return {"seed": clock.images_per_second()}


def config_of(**choices: Any) -> Any:
    """Return the Config of `lmsm train --preset ... --device cpu` with the given flags."""
    from lmsm_cli.layers import Layer, resolve
    from lmsm_cli.losses import check_loss

    flags = Layer.of_flags({"device": "cpu", **choices})
    return resolve([Layer.of_preset(PRESET), flags], check_loss).config


def training_images(config: Any) -> Any:
    """Return the training images of a config's run, decoded."""
    from lmsm_cli.data.fetch import silent
    from lmsm_cli.experiment import load_training

    return load_training(config, silent)[0]


def build(**choices: Any) -> tuple[Any, ...]:
    """Return (model, config, training images, runtime) as experiment.run makes them."""
    from lmsm_cli import experiment

    config = config_of(**choices)
    runtime = experiment.choose_runtime(config.device, config.precision)
    training = training_images(config)
    model = experiment.build_model(config, experiment.Data(training, None, training), runtime)
    return model, config, training, runtime


def drive(clock: Clock, model: Any, config: Any, training: Any, runtime: Any, after: Callable[[], None] = lambda: None) -> None:  # fmt: skip
    """Run lmsm's own training loop until the clock has enough, calling `after` after each step."""
    from lmsm_cli.engine.train import Step, new_optimizer, train

    def on_step(step: Step) -> None:
        clock.tick(step.num_images - (step.step - 1) * config.batch_size)
        after()

    optimizer = new_optimizer(model, config)
    with suppress(EnoughError):
        for _ in train(model, optimizer, config, training, None, runtime, on_step=on_step):
            pass


def lmsm_loop(clock: Clock, batch_size: int) -> dict[str, float]:
    """Train as `lmsm train` does."""
    drive(clock, *build(batch_size=batch_size))
    return {f"lmsm-{batch_size}": clock.images_per_second()}


def loss_steps(clock: Clock) -> dict[str, float]:
    """Let the losses take turns, step by step, on one model; return each one's median step (ms)."""
    from torch import nn, tensor

    from lmsm_cli.losses import build_head

    clock.steps = len(LOSSES) * (clock.steps or LOSS_STEPS)
    model, config, training, runtime = build(batch_size=128, neck="bn")
    width, counts = model.head.weight.shape[1], tensor(training.counts())
    heads = [build_head(spec, width, len(training.classes), counts) for spec in LOSSES.values()]
    model.all_heads = nn.ModuleList(heads)  # so that the optimiser has the weights of each
    model.head = heads[0]

    def change_head() -> None:
        model.head = heads[len(clock.ends) % len(heads)]

    drive(clock, model, config, training, runtime, change_head)
    times = clock.durations()
    firsts = [(i - WARM_UP) % len(heads) for i in range(len(heads))]  # timed step 0 is step WARM_UP
    return {name: statistics.median(times[first :: len(heads)]) for name, first in zip(LOSSES, firsts, strict=True)}  # fmt: skip


def augmentation(clock: Clock) -> dict[str, float]:
    """Return the median step (ms) with crop-flip, and of that what making the batch takes."""
    from lmsm_cli.data.batches import batches, plan_epoch

    clock.steps = clock.steps or LOSS_STEPS
    model, config, training, runtime = build(batch_size=128, augment="crop-flip")
    drive(clock, model, config, training, runtime)
    plan = plan_epoch(len(training.labels), config.augment, seed=config.seed, epoch=0)
    alone = Clock(clock.seconds, clock.steps)
    with suppress(EnoughError):
        for _, labels in batches(training.images, training.labels, plan, config.batch_size):
            alone.tick(len(labels))
    return {"step": statistics.median(clock.durations()), "batch": statistics.median(alone.durations())}  # fmt: skip


ARMS: dict[str, Callable[[Clock], dict[str, float]]] = {
    "seed": seed_loop,
    "lmsm-32": partial(lmsm_loop, batch_size=32),
    "lmsm-128": partial(lmsm_loop, batch_size=128),
    "losses": loss_steps,
    "augmentation": augmentation,
}
SECTIONS = ("speed", "loss", "augment", "memory", "help")


@dataclass
class Row:
    """A measured thing; the target bounds its ratio to `reference`, or its median without one."""

    name: str
    unit: str
    values: list[float]
    reference: list[float] | None = None
    target: str = ""

    def summary(self) -> dict[str, Any]:
        """Return the median, the extremes, the ratio of the medians and the verdict."""
        median = statistics.median(self.values)
        ratio = median / statistics.median(self.reference) if self.reference else None
        met = None
        if self.target:
            sign, bound = self.target.split()
            met = {">=": operator.ge, "<=": operator.le}[sign](ratio or median, float(bound))
        return {"median": median, "min": min(self.values), "max": max(self.values), "ratio": ratio, "met": met}  # fmt: skip


def run_arm(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Run an arm in a fresh process and return its numbers."""
    command = [sys.executable, __file__, "--arm", name, "--seconds-per-arm", str(options.seconds_per_arm)]  # fmt: skip
    command += ["--steps", str(options.steps)] if options.steps else []
    done = subprocess.run(command, env=CHILD, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"arm {name} failed with exit code {done.returncode}")
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(", ".join(f"{key} {value:.4g}" for key, value in numbers.items()), file=sys.stderr)
    return numbers


def in_turns(options: argparse.Namespace, *names: str) -> dict[str, list[float]]:
    """Run the arms one after the other, round after round; return number -> its values."""
    values = defaultdict(list)
    for _ in range(options.rounds):
        for name in names:
            for key, value in run_arm(name, options).items():
                values[key].append(value)
    return values


def peak_memory(smoke: bool) -> float:
    """Return the peak resident GiB of a 1-epoch `lmsm train` at batch 128, from start to scores."""
    command = [sys.executable, "-m", "lmsm_cli", "train", "--preset", PRESET, "--batch-size", "128"]
    command += ["--epochs", "1", "--device", "cpu", *(["--dataset", "digits"] if smoke else [])]
    with tempfile.TemporaryDirectory() as folder, Path(folder, "log").open("w+") as log:
        child = subprocess.Popen([*command, "--out", folder], env=CHILD, stdout=log, stderr=log)  # fmt: skip
        _, status, usage = os.wait4(child.pid, 0)  # this child's usage, not that of all children
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            sys.exit(f"lmsm train failed with exit code {child.returncode}:\n{log.read()}")
    return usage.ru_maxrss / GIB


def help_seconds() -> float:
    """Return the wall time of `lmsm --help` in a fresh process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "lmsm_cli", "--help"], env=CHILD, stdout=subprocess.DEVNULL, check=True)  # fmt: skip
    return time.perf_counter() - start


def rows(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the chosen sections, one after the other."""
    if "speed" in options.only:
        got = in_turns(options, "seed", "lmsm-32", "lmsm-128")
        yield Row("seed's loop, batch 32", "img/s", got["seed"])
        yield Row("lmsm, batch 32", "img/s", got["lmsm-32"], got["seed"], ">= 1.8")
        yield Row("lmsm, batch 128", "img/s", got["lmsm-128"], got["seed"], ">= 2.7")
    if "loss" in options.only:
        got = in_turns(options, "losses")
        yield Row("softmax step, batch 128", "ms", got["softmax"])
        yield Row("L-Softmax step", "ms", got["lsoftmax"], got["softmax"], "<= 1.02")
        yield Row("softmax step again (noise)", "ms", got["softmax_again"], got["softmax"])
    if "augment" in options.only:
        got = in_turns(options, "augmentation")
        yield Row("crop-flip step, batch 128", "ms", got["step"])
        yield Row("of it: making the batch", "ms", got["batch"], got["step"])
    if "memory" in options.only:
        yield Row("peak memory, batch 128", "GiB", [peak_memory(bool(options.steps))], target="<= 2.5")  # fmt: skip
    if "help" in options.only:
        help_seconds()  # the first one may compile bytecode and read from disk
        yield Row("lmsm --help", "s", [help_seconds() for _ in range(10)], target="<= 0.4")


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    ask = "from lmsm_cli.engine.device import choose_runtime; print(choose_runtime('cpu', 'auto'))"
    runtime = subprocess.run([sys.executable, "-c", ask], env=CHILD, capture_output=True, text=True)
    git = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"], capture_output=True, text=True)  # fmt: skip
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "lmsm_computes_on": runtime.stdout.strip(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "commit": git.stdout.strip() or "unknown",
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
    }


def print_table(measured: list[Row]) -> None:
    """Print the rows in aligned columns."""
    line = "{:<28}{:<6}{:>11}{:>11}{:>11}{:>8}  {:<8} {}"
    print(line.format("", "unit", "median", "min", "max", "ratio", "target", "").rstrip())
    for row in measured:
        numbers = row.summary()
        spread = [f"{numbers[key]:.4g}" for key in ("median", "min", "max")]
        ratio = f"{numbers['ratio']:.3f}" if numbers["ratio"] else "-"
        verdict = {True: "met", False: "MISSED", None: ""}[numbers["met"]]
        print(line.format(row.name, row.unit, *spread, ratio, row.target, verdict).rstrip())


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="turns that each arm takes (default 3)")  # fmt: skip
    parser.add_argument("--seconds-per-arm", type=float, default=20, help="timed seconds of a throughput arm in a round (default 20)")  # fmt: skip
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS, help="sections to measure (default all)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--steps", type=int, help="this many timed steps instead: tries the script, measures nothing")  # fmt: skip
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Run one arm (in a child), or all of the benchmark."""
    options = parse()
    if options.arm:
        print(json.dumps(ARMS[options.arm](Clock(options.seconds_per_arm, options.steps))))
        return
    facts = machine()
    measured = list(rows(options))
    print("\n".join(f"{key}: {value}" for key, value in facts.items()), end="\n\n")
    print_table(measured)
    if options.steps:
        print(f"\n{options.steps} steps an arm: this tries the script, the numbers mean nothing")
    if options.json:
        document = {"machine": facts, "rounds": options.rounds, "seconds_per_arm": options.seconds_per_arm, "steps": options.steps, "rows": [asdict(row) | row.summary() for row in measured]}  # fmt: skip
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
