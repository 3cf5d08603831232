"""What a saved checkpoint says of images: scores for `lmsm eval`, features for pictures."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from lmsm_cli.config import Config
from lmsm_cli.data import sources
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.engine.device import choose_runtime
from lmsm_cli.engine.evaluate import features_of
from lmsm_cli.errors import CheckpointError, DataError, LmsmError
from lmsm_cli.experiment import Display, load_test, load_training, score_images
from lmsm_cli.models import Classifier
from lmsm_cli.runs import checkpoint


@dataclass(frozen=True)
class _Saved:
    """A checkpoint file, read back."""

    file: Path
    model: Classifier
    config: Config
    train_counts: list[int]
    image_shape: list[int]
    epoch: int


def _read(path: Path, data_dir: Path | None) -> _Saved:
    file = checkpoint.find(path)
    state = checkpoint.load(file)
    model = checkpoint.restore(state, file)
    override = {"data_dir": data_dir} if data_dir else {}
    try:
        config = Config.model_validate(state["config"] | override)
    except ValidationError as error:
        raise CheckpointError(f"{file} holds a config that this lmsm does not know: {error.errors()[0]['msg']}") from None  # fmt: skip
    return _Saved(file, model, config, state["train_counts"], state["image_shape"], state["epoch"])


def evaluate(
    path: Path,
    display: Display,
    *,
    split_name: str = "test",
    images: Path | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Return the scores of a checkpoint file or run folder, on its own data or on class folders.

    `split_name` is `test` or `validation`; `images` are class folders whose names are among the
    checkpoint's classes. Raises CheckpointError or DataError.
    """
    saved = _read(path, data_dir)
    runtime = choose_runtime(device, saved.config.precision)
    labelled = _with_labels_of(saved.model, _labelled(saved, split_name, images, display))
    model = runtime.place(saved.model)
    document = score_images(model, labelled, saved.train_counts, runtime).to_json()
    return document | {
        "checkpoint": str(saved.file),
        "epoch": saved.epoch,
        "split": str(images) if images else split_name,
        "effective_margin": model.head.effective_margin_at(saved.epoch / saved.config.epochs),
    }


def _labelled(saved: _Saved, split_name: str, images: Path | None, display: Display) -> ImageSet:
    config = saved.config
    if images is not None:
        side, channels = saved.image_shape[0], saved.image_shape[2]
        return sources.load_folder(images, image_size=side, channels=channels, classes=saved.model.classes, report=display.report)  # fmt: skip
    if split_name == "test":
        return load_test(config, display.report)
    if config.validation == 0:
        raise LmsmError("the run held out no validation images (validation 0); evaluate its test images")  # fmt: skip
    return _held_out(saved, display)


def _held_out(saved: _Saved, display: Display) -> ImageSet:
    """Return the validation images of a run that has some, labelled as the model counts.

    Raises DataError where the data is not the run's: its split would be another, and hold out
    images that the run was trained on.
    """
    training, held_out = load_training(saved.config, display.report)
    assert held_out is not None
    if _with_labels_of(saved.model, training).counts() != saved.train_counts:
        raise DataError(f"{saved.config.data_dir} holds other training images than the run had, so which it held out cannot be known; give the run's data with --data-dir")  # fmt: skip
    return _with_labels_of(saved.model, held_out)


def _with_labels_of(model: Classifier, images: ImageSet) -> ImageSet:
    """Return the images with labels counted as the model counts its classes.

    A data set can number its classes differently in another layout: names decide. Raises DataError
    where the names are not the model's.
    """
    if images.classes == model.classes:
        return images
    strange = sorted(set(images.classes) ^ set(model.classes))
    if strange:
        raise DataError(f"the data's classes are not the checkpoint's: only one of them has {', '.join(strange[:5])}; give the run's data with --data-dir")  # fmt: skip
    places = torch.tensor([model.classes.index(name) for name in images.classes])
    return replace(images, labels=places[images.labels], classes=model.classes)


def features(path: Path, display: Display) -> tuple[NDArray[np.float32], NDArray[np.int64], tuple[str, ...]]:  # fmt: skip
    """Return a run's test features (N, D), labels (N,) and class names."""
    saved = _read(path, None)
    test = load_test(saved.config, display.report)
    runtime = choose_runtime("cpu", "fp32")
    test = _with_labels_of(saved.model, test)
    return features_of(saved.model, test.images, runtime).numpy(), test.labels.numpy(), test.classes
