"""images.npz and predictions.npz: which images a run used, and its predictions for the test images.

Plain arrays, read without pickle, with names as bytes. To add a column, add it to a record and to
its table here; files without it stay readable where it has a default.
"""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.data.identity import DIGEST_BYTES, PARTS, ImagesRecord
from lmsm_cli.errors import MALFORMED, CheckpointError, first_line
from lmsm_cli.metrics import Scores
from lmsm_cli.runs.folder import write_whole
from lmsm_cli.runtime.files import open_regular

IMAGES, PREDICTIONS = "images.npz", "predictions.npz"

_Kind = tuple[str, int, bool]
"""Of a column: the kinds of its dtype, its number of axes, and whether it must be there."""
_OF_IMAGES: dict[str, _Kind] = {
    "split": ("u", 1, True),
    "class": ("iu", 1, True),
    "digest": ("u", 2, True),
    "classes": ("S", 1, True),
    "mean": ("f", 1, True),
    "std": ("f", 1, True),
    "divided": ("S", 0, False),
    "seen_before": ("u", 2, False),
}
_OF_PREDICTIONS: dict[str, _Kind] = {
    "label": ("iu", 1, True),
    "predicted": ("iu", 1, True),
    "probability": ("f", 1, False),
    "logits": ("f", 2, False),
}
# Logits are kept up to this many numbers, 20 MB: CIFAR-10 has 100,000, ImageNet 50 million.
MOST_LOGITS = 5_000_000
# A file that claims more is no run's: 100 million images of long names.
_MOST_BYTES = 1 << 36


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run's net said of its test images, in the order of its images.npz.

    The small form, for runs that are kept as evidence, has the classes alone.
    """

    labels: NDArray[np.int64]  # (N,)
    predicted: NDArray[np.int64]  # (N,)
    probabilities: NDArray[np.float32] | None  # (N,): of the true class; None in the small form
    logits: NDArray[np.float32] | None  # (N, C); None for more than MOST_LOGITS numbers

    def in_order(self, order: NDArray[np.int64]) -> "Predictions":
        """Return those of the images at these places (N,)."""
        return Predictions(
            self.labels[order],
            self.predicted[order],
            None if self.probabilities is None else self.probabilities[order],
            None if self.logits is None else self.logits[order],
        )


def write_images(run: Path, record: ImagesRecord) -> None:
    """Write images.npz of a run folder. Raises DiskError."""
    by_name = record.places.dtype.kind == "S"
    arrays: dict[str, NDArray[Any]] = {
        "split": record.split,
        "class": record.labels,
        "digest": record.digests,
        "name" if by_name else "index": record.places,
        "classes": np.array([name.encode("utf-8", "surrogateescape") for name in record.classes]),
        "mean": np.array(record.mean),
        "std": np.array(record.std),
    }
    if record.divided:
        arrays["divided"] = np.array(record.divided.encode())
    if record.seen_before is not None:
        arrays["seen_before"] = record.seen_before
    _write(run / IMAGES, arrays)


def read_images_record(run: Path) -> ImagesRecord | None:
    """Return images.npz of a run folder; None where there is none, as of an older lmsm.

    Raises CheckpointError where it is damaged.
    """
    path = run / IMAGES
    arrays = _read(path)
    if arrays is None:
        return None
    try:
        _check_columns(arrays, _OF_IMAGES)
        places = arrays["name"] if "name" in arrays else arrays.get("index")
        record = ImagesRecord(
            tuple(name.decode("utf-8", "surrogateescape") for name in arrays["classes"].tolist()),
            arrays["split"],
            arrays["class"].astype(np.int64),
            arrays["digest"],
            np.asarray(places),
            tuple(map(float, arrays["mean"])),
            tuple(map(float, arrays["std"])),
            bytes(arrays["divided"].item()).decode() if "divided" in arrays else None,
            arrays.get("seen_before"),
        )
        _check(record)
    except MALFORMED as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    return record


def recorded_images(
    run: Path, digests: Mapping[str, str | None] | None, file: Path
) -> ImagesRecord | None:
    """Return images.npz of a run folder, None where there is none, checked by a checkpoint.

    Args:
        run: The run folder.
        digests: The digests of the images that the checkpoint has.
        file: The checkpoint, for messages.

    Raises CheckpointError where images.npz is damaged or is not of the checkpoint's images:
    training images could then be taken for test images.
    """
    record = read_images_record(run)
    if record is not None and record.all_digests != digests:
        raise CheckpointError(
            f"{run / IMAGES} tells of other images than those that {file.name} was trained on, "
            "or of another order; they are not of one run"
        )
    return record


def write_predictions(run: Path, predictions: Predictions) -> None:
    """Write predictions.npz of a run folder. Raises DiskError."""
    arrays: dict[str, NDArray[Any]] = {
        "label": predictions.labels,
        "predicted": predictions.predicted,
    }
    more = {"probability": predictions.probabilities, "logits": predictions.logits}
    arrays |= {name: column for name, column in more.items() if column is not None}
    _write(run / PREDICTIONS, arrays)


def read_predictions(run: Path) -> Predictions | None:
    """Return predictions.npz of a run folder, None where there is none.

    Raises CheckpointError where it is damaged.
    """
    path = run / PREDICTIONS
    arrays = _read(path)
    if arrays is None:
        return None
    try:
        _check_columns(arrays, _OF_PREDICTIONS)
        probabilities = arrays.get("probability")
        found = Predictions(
            _class_numbers(arrays["label"]),
            _class_numbers(arrays["predicted"]),
            None if probabilities is None else probabilities.astype(np.float32),
            arrays.get("logits"),
        )
        _check_predictions(found)
    except MALFORMED as error:
        raise CheckpointError(f"{path} is damaged: {first_line(error)}") from None
    return found


def check_scored(found: Predictions, scores: Scores, run: Path) -> None:
    """Raise CheckpointError where predictions are not those that scores are of.

    They are where each class has as many test images, and as many right ones.
    """
    right = found.labels[found.labels == found.predicted]
    rows = scores.per_class
    for labels, expected in (
        (found.labels, [row.test_count for row in rows]),
        (right, [round((row.accuracy or 0) * row.test_count) for row in rows]),
    ):
        if np.bincount(labels, minlength=len(rows)).tolist() != expected:
            raise CheckpointError(f"{run / PREDICTIONS} holds other answers than scores.json")


def _check_columns(arrays: Mapping[str, NDArray[Any]], wanted: Mapping[str, _Kind]) -> None:
    """Raise ValueError where a column is missing, or is none of a run's: another program's file."""
    for name, (kinds, num_axes, is_needed) in wanted.items():
        if name not in arrays:
            if is_needed:
                raise ValueError(f"it has no column {name}, as that of a run has")
            continue
        column = arrays[name]
        if column.dtype.kind not in kinds or column.ndim != num_axes:
            raise ValueError(
                f"its column {name} is of {column.dtype} in {column.ndim} axes, which no run writes"
            )


def _class_numbers(column: NDArray[Any]) -> NDArray[np.int64]:
    """Return a column of class numbers. Raises ValueError for what can be none."""
    if column.min(initial=0) < 0:
        raise ValueError("a column holds no class numbers")
    return column.astype(np.int64)


def _check_predictions(found: Predictions) -> None:
    """Raise ValueError where the columns don't fit each other."""
    count, logits, probabilities = len(found.labels), found.logits, found.probabilities
    if len(found.predicted) != count:
        raise ValueError("its columns are of unequal length")
    if probabilities is not None and probabilities.shape != (count,):
        raise ValueError("its probabilities are not of its images")
    if logits is not None and len(logits) != count:
        raise ValueError("its logits are not of its images")
    if logits is not None and probabilities is None:
        raise ValueError("it has logits and no probabilities, and no run writes that")


def _check(record: ImagesRecord) -> None:
    """Raise ValueError where the columns don't fit each other."""
    count = record.split.shape[0] if record.split.ndim == 1 else -1
    if record.split.dtype != np.uint8 or record.split.max(initial=0) >= len(PARTS):
        raise ValueError("a part is none of training, validation and test")
    if record.digests.dtype != np.uint8 or record.digests.shape != (count, DIGEST_BYTES):
        raise ValueError("its digests are not 16 bytes an image")
    seen = record.digests if record.seen_before is None else record.seen_before
    if seen.dtype != np.uint8 or seen.shape[1:] != (DIGEST_BYTES,):
        raise ValueError("its digests of images seen before are not 16 bytes an image")
    if record.labels.shape != (count,) or record.places.shape != (count,):
        raise ValueError("its columns are of unequal length")
    if record.places.dtype.kind not in "Siu":
        raise ValueError("its places are neither names nor numbers")
    known = range(len(record.classes))
    if count and not (record.labels.min() in known and record.labels.max() in known):
        raise ValueError("an image is of a class that there is not")
    numbers = np.array([*record.mean, *record.std])
    if len(record.mean) != len(record.std) or not np.isfinite(numbers).all():
        raise ValueError("its mean and deviation are no normalisation")


def _write(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]  # none is named allow_pickle
    write_whole(path, file.getvalue())


def _read(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a file, None where there is none; nothing in it is executed."""
    try:
        with open_regular(path) as file:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
            if any(one.compress_type for one in members):
                raise ValueError("it is compressed, and no run writes it so")
            if sum(one.file_size for one in members) > _MOST_BYTES:
                raise ValueError("it claims to be larger than any run's")
            file.seek(0)
            with np.load(file, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
            if others := [name for name, one in found.items() if not isinstance(one, np.ndarray)]:
                raise ValueError(f"it holds {others[0]}, which is no array")
            return found
    except FileNotFoundError:
        return None
    except (*MALFORMED, zipfile.BadZipFile) as error:  # RuntimeError: an encrypted or newer archive
        has_objects = "allow_pickle" in str(error)
        why = "it holds objects, which are not read" if has_objects else first_line(error)
        raise CheckpointError(f"{path} is damaged: {why}") from None
