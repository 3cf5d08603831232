"""Measure what a folder of ImageNet-LT's size costs: memory, decoding, gathering, disk.

`python benchmarks/large_folder.py` makes 115,000 JPEGs of 224 x 224 in 1,000 class folders, from
1,280 images in the largest to 5 in the smallest, decodes them and reads one epoch of batches, in a
fresh process. The JPEGs are links to 256 distinct ones, so they take little disk; decoded they take
17 GB below `--folder`, which is removed at the end. Numbers go to stdout as JSON. Needs Linux.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

NUM_CLASSES = 1000
NUM_DISTINCT = 256  # a file system allows 65,000 links to a file, and a decoder can't tell
LARGEST, SMALLEST = 1280, 5  # images a class of ImageNet-LT (Liu et al. 2019)
TARGET_GIB = 4
GIB = 2**20  # KiB, the unit of VmHWM


def counts(num_images: int) -> list[int]:
    """Return images a class for about so many in all, at least two: training and test want one."""
    # with this power the sizes add up to ImageNet-LT's 115,846 images, within 1%
    sizes = SMALLEST + (LARGEST - SMALLEST) * np.linspace(1, 0, NUM_CLASSES) ** 10.6
    return [max(2, round(size)) for size in sizes * num_images / sizes.sum()]


def make(root: Path, num_images: int, size: int) -> None:
    """Write the class folders, with roughly a photograph's frequencies: JPEGs of usual size."""
    draws, distinct = np.random.default_rng(0), []
    (root / "distinct").mkdir(parents=True)
    for number in range(NUM_DISTINCT):
        pixels = np.zeros((size, size, 3))
        for side in (4, 16, 64, size):
            noise = draws.integers(0, 256, (side, side, 3), dtype=np.uint8)
            pixels += np.asarray(Image.fromarray(noise).resize((size, size)), float) / side**0.5
        pixels *= 255 / pixels.max()
        distinct.append(root / "distinct" / f"{number}.jpg")
        Image.fromarray(pixels.astype(np.uint8)).save(distinct[-1], quality=90)
    for label, count in enumerate(counts(num_images)):
        folder = root / "images" / f"{label:04}"
        folder.mkdir(parents=True)
        for number in range(count):
            (folder / f"{number:05}.jpg").hardlink_to(distinct[(label + number) % NUM_DISTINCT])


def measure(root: Path, size: int) -> dict[str, float]:
    """Decode the folder, load both splits, read one epoch; return the numbers of this process."""
    import torch

    from lmsm_cli.data import cache, decoding
    from lmsm_cli.data.batches import batches, plan_epoch
    from lmsm_cli.data.class_folders import FolderOptions, list_class_folders
    from lmsm_cli.data.decoding import read_images
    from lmsm_cli.data.sources import load

    decoding.IN_MEMORY_BYTES = 0  # so that a short trial takes the road of the large folder
    torch.set_num_threads(1)
    at_start, started = peak_gib(), time.perf_counter()
    listing = list_class_folders(root)
    listed = time.perf_counter()
    read_images(listing, FolderOptions(size))
    decoded = time.perf_counter()
    read_images(listing, FolderOptions(size))
    found = time.perf_counter()
    training = load("folder", root, "train", options=FolderOptions(size))
    loaded = time.perf_counter()
    test = load("folder", root, "test", options=FolderOptions(size))
    plan = plan_epoch(len(training), "none", seed=0, epoch=0)
    before = time.perf_counter()
    seen = sum(len(batch.labels) for batch in batches(training.images, training.labels, plan, 128))
    gathered = time.perf_counter()
    return {
        "images": len(listing.files),
        "training_images": len(training),
        "test_images": len(test),
        "list_seconds": listed - started,
        "decode_images_per_second": len(listing.files) / (decoded - listed),
        "find_decoded_seconds": found - decoded,
        "later_start_seconds": loaded - found,
        "gather_images_per_second": seen / (gathered - before),
        "decoded_gib_on_disk": sum(e.num_bytes for e in cache.entries(cache.decoded_folder()))
        / 2**30,
        "peak_gib_after_imports": at_start,
        "peak_gib": peak_gib(),
        "target_gib": TARGET_GIB,
    }


def peak_gib() -> float:
    """Return the peak resident memory of this process; ru_maxrss would count its parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / GIB


def main() -> None:
    """Make the folder, measure it in a child, remove it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--images", type=int, default=115_000)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument(
        "--folder", type=Path, help="where to make it; default: the temporary folder"
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.size), indent=2))
        return
    with tempfile.TemporaryDirectory(prefix="lmsm-large-", dir=given.folder) as folder:
        make(Path(folder), given.images, given.size)
        # Files that were made in the last two seconds before they are decoded are compared by
        # content at the next start, since a file system's clock may be that coarse; a user's folder
        # is older.
        time.sleep(3)
        command = [sys.executable, __file__, "--size", str(given.size)]
        environment = os.environ | {"LMSM_CACHE_DIR": str(Path(folder) / "cache")}
        command += ["--measure", str(Path(folder) / "images")]
        subprocess.run(command, env=environment, check=True)


if __name__ == "__main__":
    main()
