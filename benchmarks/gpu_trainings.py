"""The rows of `gpu.sh` about whole trainings, all of a section in one process.

A part is a function of the `Way` that yields what it measured. The arms are those of train_gpu.py,
which `Arms` runs here where train.py starts a process for each turn.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch
import train_children
import train_gpu
import train_gpu_arms
from gpu_lines import Measured
from gpu_way import TINY, NotHereError, Way
from train_arms import Plan, build, config_of, trainer_of
from train_children import ROOT, Arm, ArmError, lmsm_train
from train_rows import Numbers, Row, first_error

from lmsm_cli.commands.app import main as lmsm
from lmsm_cli.data.splits import Data, load_data
from lmsm_cli.runtime.display import SILENT
from lmsm_cli.training.loop import train, validate

TURNS, SECONDS = 3, 4.0  # of an arm, and of one that trains for a time
RECIPE = ("--preset", "imbalanced-resnet18", "--validation", "0", "--batch-size", "128")
TAIL_ARMS = "softmax lsoftmax-auto balanced-softmax ldam-drw"
TAIL_SEEDS = 5


class Arms:
    """How arms run in this process, one after the other; the images of a data set are read once."""

    def __init__(self, way: Way, turns: int = TURNS) -> None:
        self.way, self._data = way, dict[str, Data]()
        self.options = argparse.Namespace(
            no_gpu="",
            rounds=1 if way.is_try else turns,
            steps=1 if way.is_try else None,
            seconds_per_arm=SECONDS,
            fresh=self.fresh,
            trained=self.trained,
            in_turns=self.in_turns,
        )

    def fresh(self, name: str, options: argparse.Namespace) -> Arm:
        """Return an arm of train_gpu_arms.py."""
        arm = TRIED.get(name) if self.way.is_try else None
        arm = arm or train_gpu_arms.ARMS[name]
        return lambda turn: _with_own_flags(arm, Plan(SECONDS, options.steps, turn))

    def trained(self, options: argparse.Namespace, *flags: str) -> Arm:
        """Return the arm of a training with the flags of `lmsm train`, whose seed is the turn."""
        return lambda turn: self.train(flags, turn)

    def in_turns(self, arms: Mapping[str, Arm], turns: int) -> Numbers:
        """Run the arms in turns while there is time."""
        return train_children.in_turns(arms, turns, is_over=self.way.is_over)

    def train(self, flags: Sequence[str], seed: int) -> dict[str, float]:
        """Train and test; return the seconds of training, images/s and accuracy."""
        choices: dict[str, Any] = {
            flag.removeprefix("--").replace("-", "_"): value
            for flag, value in zip(flags[::2], flags[1::2], strict=True)
        }
        preset = choices.pop("preset", "")
        config = config_of(preset, **choices | {"device": "cuda", "seed": seed})
        data = self._data_of(config)
        trainer = trainer_of(*build(config, data.training))
        epochs = list(train(trainer))
        rates = [epoch.images_per_second for epoch in epochs]
        return {
            "seconds": sum(epoch.seconds for epoch in epochs),
            "images_per_second": median(rates[1:] or rates),
            "accuracy": validate(trainer, data.test)["val_accuracy"],
        }

    def _data_of(self, config: Any) -> Data:
        """Return the data of a config; long tails and validation are drawn by the first seed."""
        key = repr((config.dataset, config.imbalance, config.factor, config.validation))
        if key not in self._data:
            self._data[key] = load_data(config, SILENT)
        return self._data[key]


def _with_own_flags(arm: Callable[[Plan], dict[str, float]], plan: Plan) -> dict[str, float]:
    """Run an arm with torch's own choice of kernels, and leave the choices as they were."""
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32
    cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32 = True, False, False
    try:
        return arm(plan)
    finally:
        cudnn.allow_tf32, cudnn.benchmark, products.allow_tf32 = before


TRIED: dict[str, Callable[[Plan], dict[str, float]]] = {
    "gpu-flops": lambda plan: dict.fromkeys(train_gpu.MFU_TARGETS, 1.0),
    "gpu-seed-128": partial(
        train_gpu_arms.seed_loop, preset=train_gpu_arms.RESNET, batch_size=2, device="cuda"
    ),
    "gpu-batch": partial(train_gpu_arms.batch_making, batch_size=8),
    "gpu-scaling": partial(train_gpu_arms.scaling, device="cuda", epochs=1, batch_size=2),
}
"""What a try-out runs instead of an arm, since its sizes are arguments."""


def of_training(row: Row, name: str = "") -> Measured:
    """Return a row of train_gpu.py under its planned name."""
    name = name or row.name
    if row.value is None:
        return Measured(name, None, failure=row.failure or row.unmeasured)
    value = row.value if row.ratio is None else row.ratio
    found = Measured.of(name, row.values, value)
    return found if row.reference is None else Measured(name, value, n=len(row.values))


def recipe(way: Way) -> Iterator[Measured]:
    """Time the command of a user, from its start to the run folder, twice."""
    flags = (*RECIPE, "--device", "cuda")
    runs = [_command_here()] if way.is_try else [lmsm_train(flags) for _ in range(2)]
    yield Measured.of("10 epochs of training", [run["seconds"] for run in runs])
    walls = [run["wall"] for run in runs]
    yield Measured.of("start to run folder", walls)


def _command_here() -> dict[str, float]:
    """Return the numbers of a short run that this process makes, since it has the device."""
    with tempfile.TemporaryDirectory() as out:
        flags = [f"--{key.replace('_', '-')}={value}" for key, value in TINY.items()]
        start = time.perf_counter()
        code = lmsm(["train", *RECIPE, *flags, "--device", "cuda", "--quiet", "--out", out])
        if code:
            raise ArmError(f"exit code {code}")
        return {"wall": time.perf_counter() - start, **train_children._numbers_of_run(Path(out))}


def mfu(way: Way) -> Iterator[Measured]:
    """Measure what share of the card's peak steady training reaches."""
    model = ""
    for row in train_gpu.mfu(Arms(way).options):
        model = row.name.partition(",")[0] if row.unit == "img/s" else model
        if row.name == "of the peak here":
            yield of_training(row, f"{model}: share of the peak here")
        elif row.unit != "share":  # the share of another card's peak is left out
            yield of_training(row)


def recipes(way: Way) -> Iterator[Measured]:
    """Measure the seed's 10 epochs."""
    arms = Arms(way)
    # the row after them is of the whole command, which `recipe` measures
    yield from map(of_training, islice(train_gpu.recipes(arms.options), len(train_gpu.RECIPES)))


def loop(way: Way) -> Iterator[Measured]:
    """Measure the seed's loop against lmsm's, and what making the batches takes."""
    seed, ours, step, share = train_gpu.loop(Arms(way, turns=2).options)
    yield of_training(seed, "seed's loop, batch 128")
    yield Measured.of("lmsm, batch 128", ours.values) if ours.values else of_training(ours)
    yield of_training(ours, "lmsm / seed's loop")
    yield of_training(step)
    yield of_training(share)


def accuracy(way: Way, epochs: int, seeds: Sequence[int], text: str) -> Iterator[Measured]:
    """Train a CIFAR ResNet-18 with some seeds; the means of seconds and accuracies."""
    arms = Arms(way)
    flags = (*train_gpu.ACCURACY_FLAGS, "--epochs", str(epochs))
    seeds = seeds[:1] if way.is_try else seeds
    runs = [arms.train(flags, seed) for seed in seeds if seed == seeds[0] or not way.is_over()]
    for key, name in (("seconds", "training"), ("accuracy", "test accuracy")):
        values = [run[key] for run in runs]
        mean = sum(values) / len(values)
        yield Measured.of(f"{epochs} epochs, {text}: {name}", values, mean)


def scaling(way: Way) -> Iterator[Measured]:
    """Measure whether the time of a training is a line over the number of images."""
    a, b, r2 = train_gpu.gpu_scaling(Arms(way, turns=2).options)
    yield of_training(a)
    yield of_training(b)
    yield of_training(r2)


def airbench(way: Way) -> Iterator[Measured]:
    """Run airbench94_muon.py on this card for context, on our CIFAR-10."""
    script = os.environ.get("AIRBENCH")
    if way.is_try or not script:
        raise NotHereError("give AIRBENCH=airbench94_muon.py: it compiles for minutes")
    there = Path(script).resolve()
    _data_for_airbench(there.parent / "cifar10")
    means = train_gpu.airbench_means(there)
    for key, name in (("seconds", "training"), ("accuracy", "test accuracy")):
        yield Measured(f"airbench94_muon: {name}", means[key], n=train_gpu.AIRBENCH_RUNS)


def _data_for_airbench(folder: Path) -> None:
    """Write our images where that script looks for its own before it downloads."""
    data = load_data(config_of("balanced-resnet18", validation=0), SILENT)
    folder.mkdir(exist_ok=True)
    for name, part in (("train", data.training), ("test", data.test)):
        values = {"images": part.images[:], "labels": part.labels, "classes": list(part.classes)}
        torch.save(values, folder / f"{name}.pt")


def long_tail(way: Way) -> Iterator[Measured]:
    """Train long-tailed CIFAR-10 seed after seed, so that whole comparisons are left."""
    if way.is_try:
        raise NotHereError("takes an hour: no part of a try-out")
    (way.out / "bin").mkdir(exist_ok=True)
    command = way.out / "bin" / "lmsm"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmsm_cli "$@"\n')
    command.chmod(0o755)
    paths = os.environ["PATH"], os.environ.get("PYTHONPATH", "")
    known = os.environ | {
        "PATH": f"{command.parent.resolve()}:{paths[0]}",
        "PYTHONPATH": f"{ROOT}:{paths[1]}",
        "EPOCHS": "200",
        "TAILS": "exp-0.01",
        "NECKS": "bn",
        "PRECISION": "bf16",
        "ARMS": TAIL_ARMS,
    }
    study = ROOT / "benchmarks" / "studies" / "cifar10-lt.sh"
    for seeds in range(1, TAIL_SEEDS + 1):
        _run_until(["sh", str(study)], known | {"SEEDS": str(seeds)}, way)
    name = "long-tailed CIFAR-10, resnet32, 200 epochs: runs finished"
    done = len(list((way.out / "runs").glob("*/*/scores.json")))
    yield Measured(name, done, note="CIFAR-10 (JPEG copy); benchmarks/keep.py keeps them")


def _run_until(command: Sequence[str], known: Mapping[str, str], way: Way) -> None:
    """Run a command in OUT while there is time. Raises ArmError where it fails."""
    if way.is_over():
        return
    log = way.out / "long-tail.log"
    with (
        log.open("a") as file,
        subprocess.Popen(
            command, cwd=way.out, env=known, stdout=file, stderr=file, start_new_session=True
        ) as child,
    ):
        try:
            child.wait(timeout=max(1.0, way.ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            train_children._end(child)
            return
    if child.returncode:
        raise ArmError(first_error(log.read_text()))
