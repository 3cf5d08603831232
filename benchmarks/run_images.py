"""Which test images the predictions of a run are of: of a live run, or of one from an archive.

A live run has images.npz. The runs of an archive that keep.py wrote have one list for each set of
test images, `FOLDER/test-images/DIGEST.npz` with `class`, `digest` and `classes`, in the order of
their predictions; the digest, which is that of the set, stands in the runs' scores.json.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.data.identity import Digests, order_digest, split_digest
from lmsm_cli.errors import MALFORMED, CheckpointError, first_line
from lmsm_cli.runs.images import (
    IMAGES,
    PREDICTIONS,
    Predictions,
    read_images_record,
    read_predictions,
)
from lmsm_cli.runs.record import RunRecord

LISTS = "test-images"
ADJUSTED = "adjusted"
"""In a run folder: TAU/predictions.npz of its answers after post-hoc logit adjustment."""


@dataclass(frozen=True, eq=False)
class ImageList:
    """The test images of a run, in its order."""

    classes: tuple[str, ...]
    labels: NDArray[np.int64]  # (N,)
    digests: Digests  # (N, 16)

    @cached_property
    def digest(self) -> str:
        """The digest of the set, as in scores.json: equal for the same images in any order."""
        return split_digest(self.classes, self.labels, self.digests)

    @cached_property
    def order(self) -> str:
        """The digest of the images in this order, as in scores.json."""
        return order_digest(self.classes, self.labels, self.digests)

    def by_content(self) -> NDArray[np.int64]:
        """Return the order (N,) by class, then digest: equal for all runs on these images."""
        return np.lexsort((*self.digests.T[::-1], self.labels))

    def rows_of(self, other: "ImageList") -> NDArray[np.int64]:
        """Return the row here (N,) of each image of a list of the same images in another order."""
        rows = np.empty(len(self.labels), np.int64)
        rows[other.by_content()] = self.by_content()
        return rows

    def taken(self, rows: NDArray[np.int64]) -> "ImageList":
        """Return the images of these rows, in their order."""
        return ImageList(self.classes, self.labels[rows], self.digests[rows])

    def content(self) -> bytes:
        """Return what a list of an archive holds."""
        names = [name.encode("utf-8", "surrogateescape") for name in self.classes]
        return _npz(
            {
                "class": small(self.labels, len(self.classes)),
                "digest": self.digests,
                "classes": np.array(names),
            }
        )


def small(column: NDArray[np.integer], num_classes: int) -> NDArray[np.unsignedinteger]:
    """Return class numbers in the smallest unsigned type that holds all classes."""
    return column.astype(np.min_scalar_type(num_classes - 1))


def small_predictions(
    labels: NDArray[np.integer], predicted: NDArray[np.integer], num_classes: int
) -> bytes:
    """Return what a predictions.npz without probabilities and logits holds."""
    columns = {"label": labels, "predicted": predicted}
    return _npz({name: small(column, num_classes) for name, column in columns.items()})


def images_tested_on(run: RunRecord) -> ImageList | None:
    """Return the test images of a run with scores; None where nothing tells of them.

    Raises CheckpointError where they are damaged, or not those of its scores.json.
    """
    known = run.scores.images if run.scores else None
    if known is None:
        return None
    path = run.path / IMAGES
    if (record := read_images_record(run.path)) is not None:
        own = record.of("test")
        images = ImageList(own.classes, own.labels, own.digests)
    else:
        path = run.path.parent / LISTS / f"{known.test}.npz"
        if not path.is_file():
            return None
        images = _read_list(path)
    if images.digest != known.test:
        raise CheckpointError(f"{path} tells of other test images than {run.path / 'scores.json'}")
    return images


def predictions_on(images: ImageList, folder: Path) -> Predictions | None:
    """Return the predictions in a folder, checked by the images that they are of; None without.

    Raises CheckpointError where they are damaged or of other images.
    """
    found = read_predictions(folder)
    if found is None:
        return None
    if not np.array_equal(found.labels, images.labels):
        raise CheckpointError(f"{folder / PREDICTIONS} is not of the test images of its run")
    if found.predicted.max(initial=0) >= len(images.classes):
        raise CheckpointError(f"{folder / PREDICTIONS} has a class that there is not")
    return found


def _read_list(path: Path) -> ImageList:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = [name.decode("utf-8", "surrogateescape") for name in arrays["classes"].tolist()]
            images = ImageList(tuple(names), arrays["class"].astype(np.int64), arrays["digest"])
        images.digest  # noqa: B018  computed here, where what is no list fails
    except (*MALFORMED, BadZipFile) as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    return images


def _npz(columns: dict[str, NDArray]) -> bytes:
    """Return an uncompressed .npz: what holds it is compressed, and equal parts only once."""
    file = io.BytesIO()
    np.savez(file, **columns)
    return file.getvalue()
