"""What a saved checkpoint says of single image files, whatever their size and kind."""

import csv
import io
import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from lmsm_cli.data.image_files import DECODING_THREADS, ImageFileError, pillow_warnings, read_image
from lmsm_cli.inference.correction import RequestedCorrection, corrected
from lmsm_cli.inference.trained import Trained
from lmsm_cli.reports.exports import cell
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.display import Display
from lmsm_cli.training.evaluate import answers, scores_of

# Images in memory at once: in bytes of their pixels, 55 of 224 x 224, and for progress in number.
_BATCH_BYTES, _BATCH = 1 << 23, 500


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image file with their probabilities, or why there are none."""

    file: Path
    likeliest: tuple[tuple[str, float], ...]  # (class, probability), likeliest first
    error: str | None = None  # what follows the file's name

    def to_json(self) -> dict[str, Any]:
        """Return the prediction as plain lists and dicts."""
        likeliest = [{"class": name, "probability": share} for name, share in self.likeliest]
        return {"file": str(self.file), "predictions": likeliest, "error": self.error}


@dataclass(frozen=True)
class Predictions:
    """What a checkpoint says of image files, in their order."""

    checkpoint: Path
    epoch_facts: dict[str, Any]  # of which epoch, as in `Trained`
    top: int  # classes given for each image
    images: tuple[Prediction, ...]
    correction: dict[str, Any] | None = None  # what the answers are corrected by

    @property
    def num_failed(self) -> int:
        """The number of files that could not be read."""
        return sum(one.error is not None for one in self.images)

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain lists and dicts."""
        return {
            "checkpoint": str(self.checkpoint),
            **self.epoch_facts,
            "top": self.top,
            "correction": self.correction,
            "num_failed": self.num_failed,
            "images": [one.to_json() for one in self.images],
        }

    def to_csv(self) -> str:
        """Return a header, and per image its file, its classes with probabilities, its error."""
        file = io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        ranks = range(1, self.top + 1)
        names = [f"{name}_{rank}" for rank in ranks for name in ("class", "probability")]
        writer.writerow(["file", *names, "error"])
        for one in self.images:
            pairs = [cell for name, share in one.likeliest for cell in (name, f"{share:.6g}")]
            blanks = [""] * (2 * self.top - len(pairs))
            writer.writerow(map(cell, (str(one.file), *pairs, *blanks, one.error or "")))
        return file.getvalue()


def predict_files(
    trained: Trained,
    files: Sequence[Path],
    display: Display,
    *,
    top: int = 5,
    device: str = "auto",
    correction: RequestedCorrection | None = None,
) -> Predictions:
    """Predict the classes of image files with a checkpoint that was read back.

    Images are read as those of class folders are, in the checkpoint's size and colours, batch by
    batch. A file that cannot be read is warned of at once and has an error instead of classes.

    Args:
        trained: The checkpoint.
        files: The image files.
        display: Where progress and warnings go.
        top: How many classes to give for each image.
        device: auto, cpu, cuda or cuda:N.
        correction: What corrects the answers.

    Raises LmsmError for the device, and for a correction that is impossible here.
    """
    if correction:
        trained = corrected(trained, correction, device, display).trained
        if not correction.chooses:
            display.info(
                "what the correction does to the scores is not checked here: give the same flags "
                f"to `lmsm eval {shlex.quote(str(trained.file))}`"
            )
    runtime = trained.runtime(device)
    top = min(top, len(trained.model.classes))
    images: list[Prediction] = []
    with pillow_warnings(display):
        for batch in _batches(files, trained.state.image_shape):
            display.progress("predicting", len(images), len(files))
            images += _predict(trained, runtime, batch, top, display)
    display.progress("predicting", len(files), len(files))
    return Predictions(
        trained.file, trained.epoch_facts, top, tuple(images), trained.correction_facts
    )


def _batches(files: Sequence[Path], shape: Sequence[int]) -> Iterator[Sequence[Path]]:
    step = max(1, min(_BATCH, _BATCH_BYTES // int(np.prod(shape))))
    for start in range(0, len(files), step):
        yield files[start : start + step]


def _predict(
    trained: Trained, runtime: Runtime, files: Sequence[Path], top: int, display: Display
) -> list[Prediction]:
    """Return the predictions of files that fit into memory together."""
    (size, _, channels), config = trained.state.image_shape, trained.config
    form: dict[str, Any] = {"resize": config.resize, "crop_from": config.kept_size}

    def read(file: Path) -> NDArray[np.uint8] | ImageFileError:
        try:
            return read_image(file, size=size, channels=channels, **form)
        except ImageFileError as error:
            return error

    with ThreadPoolExecutor(DECODING_THREADS) as threads:
        found = list(threads.map(read, files))
    for error in found:
        if isinstance(error, ImageFileError):
            display.warning(str(error))
    pixels = [image for image in found if not isinstance(image, ImageFileError)]
    likeliest = iter(_likeliest(trained, runtime, np.stack(pixels), top) if pixels else ())
    return [
        Prediction(file, (), image.reason)
        if isinstance(image, ImageFileError)
        else Prediction(file, next(likeliest))
        for file, image in zip(files, found, strict=True)
    ]


def _likeliest(
    trained: Trained, runtime: Runtime, pixels: NDArray[np.uint8], top: int
) -> list[tuple[tuple[str, float], ...]]:
    """Return the `top` likeliest classes of each image (N, H, W, C), with their probabilities."""
    _, logits = answers(scores_of(trained.model, torch.from_numpy(pixels), runtime))
    # by logits, since the probabilities of all but the likeliest may round to 0
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top]
    return [
        tuple((trained.model.classes[place], float(row[place])) for place in places)
        for row, places in zip(softmax(logits, axis=1), order, strict=True)
    ]
