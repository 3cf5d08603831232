"""How an arm of the training benchmark is run: a fresh process, in turns, its failure kept.

A child's peak memory counts its parent's from before the exec, so nothing here imports torch.
"""

import argparse
import json
import os
import select
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from subprocess import Popen
from typing import Any

from train_rows import Numbers, first_error

ROOT = Path(__file__).resolve().parents[1]
GIB = 2**20  # KiB, the unit of ru_maxrss on Linux
TRY_OUT = (
    "--dataset",
    "digits",
    "--model",
    "resnet18",
    "--batch-size",
    "64",
    "--epochs",
    "1",
    "--warmup",
    "0",
)
LONGEST = 1800  # seconds; no arm takes half of it
GRACE = 40  # seconds; torchrun gives its ranks 30

Arm = Callable[[int], dict[str, float]]
"""Turn, counted from 0 -> name of a number -> number; raises ArmError."""


class ArmError(Exception):
    """An arm gave no numbers; the message is one line."""


@dataclass(frozen=True)
class Done:
    """What a child left: wall seconds, peak resident GiB, and its output."""

    seconds: float
    peak: float
    output: str


def run_child(arguments: Sequence[str]) -> Done:
    """Run Python with the arguments; raise ArmError with the first line of its error."""
    command, given = [sys.executable, *arguments], os.environ.get("PYTHONPATH")
    own = {"PYTHONPATH": f"{ROOT}:{given}" if given else str(ROOT)}  # measures this checkout
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        start = time.perf_counter()
        # a session of its own, so that it can be ended together with its children
        child = Popen(
            command,
            env={**os.environ, **own},
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        usage = _wait(child)
        seconds = time.perf_counter() - start
        output.seek(0)
        errors.seek(0)
        if child.returncode:
            raise ArmError(first_error(errors.read()) or f"exit code {child.returncode}")
        return Done(seconds, usage.ru_maxrss / GIB, output.read())


def _wait(child: Popen[bytes]) -> Any:
    """Wait for a child; return its usage, which is its own and not that of all children."""
    in_time = False
    try:
        in_time = _ends_within(child, LONGEST)
    finally:  # also on Ctrl-C, which does not reach another session
        if not in_time:
            _end(child)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if not in_time:
        raise ArmError(f"stopped after {LONGEST} s")
    return usage


def _ends_within(child: Popen[bytes], seconds: float) -> bool:
    """Say whether a child ends in that time, without taking processor time from it."""
    descriptor = os.pidfd_open(child.pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)


def _end(child: Popen[bytes]) -> None:
    """End a child and its children; torchrun's ranks are in other sessions, but it ends them."""
    os.killpg(child.pid, signal.SIGTERM)
    if not _ends_within(child, GRACE):
        os.killpg(child.pid, signal.SIGKILL)


def in_turns(
    arms: Mapping[str, Arm],
    turns: int,
    thrown_away: int = 0,
    is_over: Callable[[], bool] = lambda: False,
) -> Numbers:
    """Run the arms one after the other, turn after turn; leave out an arm once it has failed.

    Numbers of the first `thrown_away` turns are not kept. Once it `is_over` no turn begins, but the
    first one does.
    """
    numbers = Numbers()
    for turn in range(thrown_away + turns):
        if turn > thrown_away and is_over():
            break
        for name, arm in arms.items():
            if name in numbers.failures:
                continue
            try:
                given = arm(turn)
            except ArmError as error:
                numbers.failures[name] = str(error)
                print(f"{name}: failed: {error}", file=sys.stderr)
                continue
            kept = turn >= thrown_away
            shown = ", ".join(f"{key} {value:.5g}" for key, value in given.items())
            print(f"{name}{'' if kept else ' (warm-up)'}: {shown}", file=sys.stderr)
            for key, value in given.items() if kept else ():
                numbers.values.setdefault(f"{name}.{key}", []).append(value)
    return numbers


def fresh(name: str, options: argparse.Namespace) -> Arm:
    """Return the arm that runs an arm of train_arms.py or train_gpu_arms.py in a fresh process."""

    def run(turn: int) -> dict[str, float]:
        arguments = [str(Path(__file__).with_name("train.py")), "--arm", name, "--turn", str(turn)]
        arguments += ["--seconds-per-arm", str(options.seconds_per_arm)]
        arguments += ["--steps", str(options.steps)] if options.steps else []
        numbers: dict[str, float] = json.loads(run_child(arguments).output.splitlines()[-1])
        return numbers

    return run


def trained(options: argparse.Namespace, *flags: str) -> Arm:
    """Return the arm of an `lmsm train` whose seed is the turn; in a try-out, on a few digits."""

    def run(turn: int) -> dict[str, float]:
        all_flags = [*flags, *(TRY_OUT if options.steps else ()), "--seed", str(turn)]
        return lmsm_train(all_flags)

    return run


def lmsm_train(flags: Sequence[str]) -> dict[str, float]:
    """Run `lmsm train` in a fresh process and return its numbers, most of them from the run folder.

    wall: seconds from start to finished run folder; peak: resident GiB of the process;
    seconds: of training, all epochs; images_per_second: median epoch after the first; accuracy:
    test.
    """
    with tempfile.TemporaryDirectory() as out:
        done = run_child(["-m", "lmsm_cli", "train", *flags, "--out", out])
        return {"wall": done.seconds, "peak": done.peak, **_numbers_of_run(Path(out))}


def _numbers_of_run(out: Path) -> dict[str, float]:
    """Return what the only run folder in `out` tells."""
    folders = list(out.iterdir())
    if len(folders) != 1:
        raise ArmError(f"{len(folders)} run folders where one was expected")
    try:
        lines = (folders[0] / "metrics.jsonl").read_text().splitlines()
        epochs = [json.loads(line) for line in lines]
        return {
            "seconds": sum(epoch["seconds"] for epoch in epochs),
            "images_per_second": median(row["images_per_second"] for row in epochs[1:] or epochs),
            "accuracy": json.loads((folders[0] / "scores.json").read_text())["accuracy"],
        }
    except (OSError, KeyError, ValueError) as error:
        raise ArmError(f"run folder not as expected: {error!r}") from None


def lmsm_help(turn: int) -> dict[str, float]:
    """Return the wall time of `lmsm --help`."""
    return {"wall": run_child(["-m", "lmsm_cli", "--help"]).seconds}
