"""How long do ten last layers take on 12,406 x 64 features? Target: a minute on two cores.

    LMSM_DATA_DIR=DATA python benchmarks/heads.py [--threads N]

Long-tailed CIFAR-10 (exp 0.01, nothing held out) through an untrained resnet32: what a head takes
does not depend on what the net has learned. `lmsm retrain` is timed as a user starts it: once with
one head, which works the features out and keeps them, and then with ten. Nothing stays on the disk.
Use an idle machine.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from lmsm_cli.config import Config
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.decoded import Images
from lmsm_cli.distributed.process_group import SINGLE_PROCESS
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs.contents import Position
from lmsm_cli.runtime.display import SILENT
from lmsm_cli.sweeps.second_stage import USUAL
from lmsm_cli.training.prepare import prepare
from lmsm_cli.training.resume import History, config_hash, snapshot_of
from lmsm_cli.training.run import new_folder

TARGET = 60.0
NET = {
    "dataset": "cifar10",
    "imbalance": "exp",
    "factor": 0.01,
    "validation": 0,
    "model": "resnet32",
    "neck": "bn",
    "loss": "softmax",
    "head_bias": True,
    "augment": "none",
    "device": "cpu",
    "precision": "fp32",
    "epochs": 1,
}


def untrained_run(out: Path, threads: int) -> tuple[Path, int, int]:
    """Write a run whose net is as it was drawn; return it, its training images and features."""
    flags = {**NET, "threads": threads, "out": out}
    config: Config = resolve([Layer.of_flags(flags)], check_loss).config
    run = prepare(config, SILENT, SINGLE_PROCESS)
    settle(run.trainer.model, run.trainer.data.training.images[:5000])
    folder = new_folder(run, config_hash(config))
    digests = run.images.all_digests if run.images else None
    snapshot_of(run.trainer, History(), Position(), digests).write(folder)
    folder.write_status("completed", exit_code=0)
    width = run.trainer.model.head.weight.shape[1]
    return folder.path, len(run.trainer.data.training), width


@torch.no_grad()
def settle(model: Classifier, images: Images) -> None:
    """Give BatchNorm the statistics of images, so that features are of a usual size."""
    model.train()
    for start in range(0, len(images), 250):
        model.embed(images[start : start + 250].permute(0, 3, 1, 2))


def timed(run: Path, heads: Sequence[str], out: Path, threads: int) -> float:
    """Return the seconds that `lmsm retrain` takes with these heads, from start to end."""
    words = [sys.executable, "-m", "lmsm_cli", "retrain", str(run), "--out", str(out), "--quiet"]
    words += ["--threads", str(threads), "--device", "cpu", "--json"]
    words += [word for head in heads for word in ("--head", head)]
    started = time.perf_counter()
    cache = os.environ | {"LMSM_CACHE_DIR": str(out / "cache")}
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env=cache)
    return time.perf_counter() - started


def main() -> None:
    """Print the load of the machine, and a row for each of the two commands."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    threads = parser.parse_args().threads
    print(f"load at start: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as scratch:
        run, images, width = untrained_run(Path(scratch, "run"), threads)
        print(f"{images:,} x {width} features, {os.cpu_count()} cores")
        features = timed(run, ["ncm"], Path(scratch, "heads"), threads)
        print(f"one head without a training, the features worked out: {features:.1f} s", flush=True)
        seconds = timed(run, USUAL, Path(scratch, "heads"), threads)
        verdict = "met" if seconds < TARGET else "MISSED"
        print(
            f"{len(USUAL)} heads trained: {seconds:.1f} s (target: under {TARGET:g} s, {verdict})"
        )


if __name__ == "__main__":
    main()
