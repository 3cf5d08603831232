"""Make class folders as people have them, from CIFAR-10: `python benchmarks/own_folders.py FOLDER`

Below FOLDER: `small`, ten classes with 300 to 40 training images, falling geometrically, and 100
test images each; `large`, the same enlarged to 800 x 600 pixels, as photos come; `two`, cats and
ships with 30 training and 100 test images each. For studies, with 1,000 test images of each class:
`study-five` with 300, 150, 60, 20 and 8 training images, `study-ten` with 300 to 30, falling
geometrically, and `study-two` with 200 and 10. The data is that of --data-dir.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lmsm_cli.config import Config
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.data.sources import load
from lmsm_cli.runtime.display import SILENT

MOST, FEWEST, TEST = 300, 40, 100
FIVE, STUDY_TEST = (300, 150, 60, 20, 8), 1000
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
    falling = tail(classes, FEWEST)
    for name, counts, size, tests in (
        ("small", falling, None, TEST),
        ("large", falling, PHOTO, TEST),
        ("two", {"cat": 30, "ship": 30}, None, TEST),
        ("study-five", dict(zip(classes, FIVE, strict=False)), None, STUDY_TEST),
        ("study-ten", tail(classes, MOST // 10), None, STUDY_TEST),
        ("study-two", {"ship": 200, "cat": 10}, None, STUDY_TEST),
    ):
        root = given.folder / name
        if not root.exists():
            write(root / "train", sets["train"], counts, size)
            write(root / "test", sets["test"], dict.fromkeys(counts, tests), size)
        print(f"{root}: {sum(counts.values()):,} training images of {len(counts)} classes")
    return 0


def tail(classes: Sequence[str], fewest: int) -> dict[str, int]:
    """Return the images of each class, from MOST to the fewest, falling geometrically."""
    share = fewest / MOST
    return {
        name: round(MOST * share ** (place / (len(classes) - 1)))
        for place, name in enumerate(classes)
    }


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
