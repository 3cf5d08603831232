"""Measure what lmsm promises of whole trainings, on real CIFAR-10, in one run.

`python benchmarks/train.py`; see README.md beside this file. The arms of a comparison take turns,
each in a fresh process: `lmsm` tunes malloc for its whole process, and the seed's loop must not
profit. An arm that fails marks its rows and nothing else. To add a measurement, write an arm
(train_arms.py) or flags of `lmsm train`, and a function that yields its rows, named in `SECTIONS`.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import train_arms
import train_gpu
import train_gpu_arms
from train_children import ROOT, ArmError, fresh, in_turns, lmsm_help, run_child, trained
from train_rows import HEADING, Row, difference_of_means, scaling_rows

ARMS = train_arms.ARMS | train_gpu_arms.ARMS
PRESET = ("--preset", "imbalanced-resnet18", "--batch-size", "128", "--device", "cpu")
DIGITS = ("--dataset", "digits", "--epochs", "1", "--device", "cpu")
SEEDS = 3  # of each precision
STARTS = 5


def speed(options: argparse.Namespace) -> Iterator[Row]:
    """Compare the throughput of ResNet-18 with that of the seed's loop."""
    arms = ("seed-32", "lmsm-32", "lmsm-128", "seed-128")
    got = in_turns({name: fresh(name, options) for name in arms}, options.rounds)
    seed, larger, ours, ours_larger = (
        f"{name}.images_per_second" for name in ("seed-32", "seed-128", "lmsm-32", "lmsm-128")
    )
    yield got.row("seed's loop, batch 32", "img/s", seed)
    yield got.row("lmsm, batch 32", "img/s", ours, seed, ">= 2.0")
    yield got.row("lmsm, batch 128", "img/s", ours_larger, seed, ">= 3.0")
    yield got.row("seed's loop, batch 128", "img/s", larger, seed)
    yield got.row("lmsm / seed's loop, both batch 128", "img/s", ours_larger, larger)


def speed_vgg(options: argparse.Namespace) -> Iterator[Row]:
    """Compare the throughput of VGG-16 with that of the seed's loop."""
    arms = ("seed-vgg-32", "lmsm-vgg-128", "seed-vgg-128")
    got = in_turns({name: fresh(name, options) for name in arms}, options.rounds)
    seed, ours, larger = (f"{name}.images_per_second" for name in arms)
    yield got.row("seed's VGG-16 loop, batch 32", "img/s", seed)
    yield got.row("lmsm VGG-16, batch 128", "img/s", ours, seed, ">= 2.0")
    yield got.row("seed's VGG-16 loop, batch 128", "img/s", larger, seed)
    yield got.row("lmsm / seed's VGG-16, both batch 128", "img/s", ours, larger)


def accuracy(options: argparse.Namespace) -> Iterator[Row]:
    """Compare the test accuracy after two epochs in bf16 and in fp32, over the same seeds."""
    flags = (*PRESET, "--neck", "bn", "--epochs", "2", "--precision")
    arms = {precision: trained(options, *flags, precision) for precision in ("bf16", "fp32")}
    got = in_turns(arms, 1 if options.steps else SEEDS)
    for precision in arms:
        yield got.row(
            f"test accuracy, {precision}", "share", f"{precision}.accuracy", average="mean"
        )
    yield got.derived(
        "difference of the means",
        "share",
        ["bf16.accuracy", "fp32.accuracy"],
        difference_of_means,
        "<= 0.01",
    )


def start(options: argparse.Namespace) -> Iterator[Row]:
    """Time the shortest training, from process start to finished run folder, and the help."""
    turns, thrown_away = (1, 0) if options.steps else (STARTS, 1)  # bytecode, files, caches
    got = in_turns({"digits": trained(options, *DIGITS), "help": lmsm_help}, turns, thrown_away)
    yield got.row("lmsm train on digits, 1 epoch", "s", "digits.wall", target="< 8")
    yield got.row("lmsm --help", "s", "help.wall", target="<= 0.4")


def scaling(options: argparse.Namespace) -> Iterator[Row]:
    """Measure whether the seconds of an epoch are a line over the number of images."""
    got = in_turns({"scaling": fresh("scaling", options)}, min(options.rounds, 2))
    yield from scaling_rows(got, "an epoch", ("", "> 0.99"))


def augment(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the share of making an augmented batch in a step."""
    got = in_turns({"arm": fresh("augmentation", options)}, options.rounds)
    yield got.row("crop-flip step, batch 128", "ms", "arm.step")
    yield got.row("of it: making the batch", "ms", "arm.batch", "arm.step", "<= 0.03")


def loss(options: argparse.Namespace) -> Iterator[Row]:
    """Compare a training step with L-Softmax and with softmax."""
    got = in_turns({"arm": fresh("losses", options)}, options.rounds)
    yield got.row("softmax step, batch 128", "ms", "arm.softmax")
    yield got.row("L-Softmax step", "ms", "arm.lsoftmax", "arm.softmax", "<= 1.02")
    yield got.row("softmax step again (noise)", "ms", "arm.softmax_again", "arm.softmax")


def save(options: argparse.Namespace) -> Iterator[Row]:
    """Measure a checkpoint: written, flushed to the disk, verified, digested and renamed."""
    got = in_turns({"arm": fresh("saves", options)}, options.rounds)
    yield got.row("checkpoint of ResNet-18 with Adam", "MB", "arm.megabytes")
    yield got.row("saving it", "s", "arm.seconds", target="<= 0.2")


def memory(options: argparse.Namespace) -> Iterator[Row]:
    """Measure the peak memory of a whole run, test and plots included."""
    got = in_turns({"arm": trained(options, *PRESET, "--epochs", "1")}, 1)
    yield got.row("peak memory, batch 128", "GiB", "arm.peak", target="<= 2.5")


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "speed": speed,
    "speed-vgg": speed_vgg,
    "accuracy": accuracy,
    "start": start,
    "scaling": scaling,
    "augment": augment,
    "loss": loss,
    "save": save,
    "memory": memory,
} | train_gpu.SECTIONS


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    names = re.findall(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    load = round(os.getloadavg()[0], 2)
    gpu = (
        "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'none')"
    )
    git = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"],
        capture_output=True,
        text=True,
    )
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "gpu": run_child(["-c", gpu]).output.strip(),
        "load_at_start": load,
        "lmsm_computes_on": computes_on(),
        "torch": version("torch"),
        "torchvision": version("torchvision"),
        "python": platform.python_version(),
        "commit": git.stdout.strip() or "unknown",
        "date": datetime.now().astimezone().isoformat(timespec="minutes"),
    }


def computes_on() -> str:
    """Return the runtime of ResNet-18 on this CPU."""
    ask = (
        "from torchvision.models import resnet18; "
        "from lmsm_cli.runtime.device import choose_runtime; "
        "print(choose_runtime('cpu', 'auto', net=resnet18()))"
    )
    try:
        return run_child(["-c", ask]).output.strip()
    except ArmError as error:
        return f"unknown: {error}"


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns that each arm takes (default 3)"
    )
    parser.add_argument(
        "--seconds-per-arm",
        type=float,
        default=20,
        help="timed seconds of a throughput arm in a round (default 20)",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=SECTIONS,
        metavar="SECTION",
        help=f"sections to measure (default all): {', '.join(SECTIONS)}",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument(
        "--steps",
        type=int,
        help="this many timed steps instead, and whole trainings on a few digits: "
        "tries the script, measures nothing",
    )
    parser.add_argument(
        "--airbench",
        type=Path,
        metavar="FILE",
        help="airbench94_muon.py of KellerJordan/cifar10-airbench, for its row",
    )
    parser.set_defaults(fresh=fresh, trained=trained, in_turns=in_turns)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    parser.add_argument("--turn", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace) -> list[Row]:
    """Measure the chosen sections, printing each row as it comes: so they outlive a crash."""
    print(HEADING, flush=True)
    measured = []
    for name in options.only:
        print(f"section {name}", file=sys.stderr)
        for row in SECTIONS[name](options):
            print(row.line(), flush=True)
            measured.append(row)
    return measured


def main() -> None:
    """Run one arm (in a child), or all of the benchmark."""
    options = parse()
    if options.arm:
        plan = train_arms.Plan(options.seconds_per_arm, options.steps, options.turn)
        print(json.dumps(ARMS[options.arm](plan)))
        return
    facts = machine()
    options.no_gpu = "no CUDA device here" if facts["gpu"] == "none" else ""
    measured = measure(options)
    print("\n" + "\n".join(f"{key}: {value}" for key, value in facts.items()))
    if options.steps:
        print(f"\n{options.steps} steps an arm: this tries the script, the numbers mean nothing")
    if options.json:
        document = {
            "machine": facts,
            "rounds": options.rounds,
            "seconds_per_arm": options.seconds_per_arm,
            "steps": options.steps,
            "rows": [row.to_json() for row in measured],
        }
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
