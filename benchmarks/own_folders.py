"""Make class folders as people have them, from CIFAR-10: `python benchmarks/own_folders.py FOLDER`

Below FOLDER: `small`, ten classes with 300 to 40 training images, falling geometrically, and 100
test images each; `large`, the same enlarged to 800 x 600 pixels, as photos come; `two`, cats and
ships with 30 training and 100 test images each. The data is that of --data-dir.
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

from lmsm_cli.config import Config
from lmsm_cli.data.sources import ImageSet, load
from lmsm_cli.runtime.display import SILENT

MOST, FEWEST, TEST = 300, 40, 100
PHOTO = (800, 600)


def main() -> int:
    """Write the folders that are not there; return an exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Config.model_validate({}).data_dir)
    given = parser.parse_args()
    sets = {
        split: load("cifar10", given.data_dir, split, display=SILENT) for split in ("train", "test")
    }
    classes = sets["train"].classes
    falling = {
        name: round(MOST * (FEWEST / MOST) ** (place / (len(classes) - 1)))
        for place, name in enumerate(classes)
    }
    two = {"cat": 30, "ship": 30}
    for name, counts, size in (
        ("small", falling, None),
        ("large", falling, PHOTO),
        ("two", two, None),
    ):
        root = given.folder / name
        if not root.exists():
            write(root / "train", sets["train"], counts, size)
            write(root / "test", sets["test"], dict.fromkeys(counts, TEST), size)
        print(f"{root}: {sum(counts.values()):,} training images of {len(counts)} classes")
    return 0


def write(
    root: Path, images: ImageSet, counts: dict[str, int], size: tuple[int, int] | None
) -> None:
    """Write the first images of each class, as PNG at their size, else as JPEG."""
    for name, count in counts.items():
        folder = root / name
        folder.mkdir(parents=True)
        rows = (images.labels == images.classes.index(name)).nonzero()[:count, 0]
        for number, pixels in enumerate(images.images[rows].numpy()):
            image = Image.fromarray(pixels)
            if size is None:
                image.save(folder / f"{number:04}.png")
            else:
                image.resize(size, Image.Resampling.BICUBIC).save(
                    folder / f"{number:04}.jpg", quality=90
                )


if __name__ == "__main__":
    sys.exit(main())
