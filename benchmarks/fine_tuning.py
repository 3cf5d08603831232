"""Whether a run that starts from another run's net beats one from scratch on few images.

    python benchmarks/fine_tuning.py OUT [SEEDS]

A net learns scikit-learn's digits 0 to 4. From it, and from scratch, nets learn the digits 5 to 9
from a few images of each. All are tested on the same images; the runs stay in OUT, so that
`lmsm compare OUT/target` says which differences are real. It takes a minute or two on two cores.
"""

import sys
from pathlib import Path
from statistics import mean, stdev

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.losses.registry import check_loss
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.display import SILENT
from lmsm_cli.training.run import start_run

# Images of each new class that a run learns from.
FEW = 5
COMMON = {
    "dataset": "folder",
    "image_size": 8,
    "model": "resnet32",
    "loss": "softmax",
    "optimizer": "sgd",
    "lr": 0.05,
    "schedule": "cosine",
    "device": "cpu",
    "precision": "fp32",
    "layout": "channels-last",
    "threads": 1,
}
SOURCE = {"epochs": 15, "batch_size": 32}
TARGET = {"epochs": 40, "batch_size": 5, "images_per_class": FEW, "validation": 0, "lr": 0.01}


def write_digits(root: Path, digits: range) -> Path:
    """Write some digits as class folders, a third of each in test/; return the folder."""
    data = load_digits()
    pixels = (data.images * (255 / 16)).round().astype(np.uint8)
    train, _ = train_test_split(
        np.arange(len(data.target)), test_size=1 / 3, random_state=0, stratify=data.target
    )
    for number, (image, label) in enumerate(zip(pixels, data.target, strict=True)):
        if label in digits:
            part = "train" if number in set(train) else "test"
            file = root / part / str(label) / f"{number:04}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
    return root


def run(out: Path, data: Path, seed: int, **choices: object) -> Path:
    """Train once; return the run folder."""
    flags = {**COMMON, **choices, "out": out, "data_dir": data, "seed": seed}
    folder = start_run(
        resolve([Layer.of_flags(flags)], check_loss).config, SILENT, with_plots=False
    )
    assert folder is not None
    return folder.path


def main() -> None:
    """Train all, and print a row for each way to start."""
    out, seeds = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 3
    old = write_digits(out / "digits-0-4", range(5))
    new = write_digits(out / "digits-5-9", range(5, 10))
    source = run(out / "source", old, 0, **SOURCE)
    scores: dict[str, list[float]] = {}
    for seed in range(seeds):
        arms: dict[str, dict[str, object]] = {
            "from scratch": {},
            "from the run": {"pretrained": str(source)},
            "from the run, --freeze 12": {"pretrained": str(source), "freeze": "12"},
            "from the run, --freeze backbone": {"pretrained": str(source), "freeze": "backbone"},
        }
        for name, choices in arms.items():
            record = read_run(run(out / "target", new, seed, **{**TARGET, **choices}))
            assert record.scores is not None
            scores.setdefault(name, []).append(record.scores.balanced_accuracy)
            print(f"seed {seed}, {name}: {scores[name][-1]:.4f}", flush=True)
    for name, values in scores.items():
        spread = f" +- {100 * stdev(values):.1f}" if len(values) > 1 else ""
        print(f"| {name} | {100 * mean(values):.1f}{spread} |")


if __name__ == "__main__":
    main()
