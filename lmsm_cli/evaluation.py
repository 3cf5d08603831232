"""What a saved checkpoint says of images: scores for `lmsm eval`, features for pictures."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from lmsm_cli.config import Config
from lmsm_cli.data import sources
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.display import Display
from lmsm_cli.engine.device import Runtime, choose_device, choose_runtime
from lmsm_cli.engine.evaluate import answers, features_of, scores_of
from lmsm_cli.engine.posthoc import Correction, choose_tau, logit_adjustment, tau_normalisation
from lmsm_cli.errors import CheckpointError, DataError, LmsmError
from lmsm_cli.models import Classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.scores import score
from lmsm_cli.splits import load_test, load_training

Tau = float | Literal["auto"]


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


@dataclass(frozen=True)
class _Adjustment:
    """A correction with its tau; `chosen_on` tells of the images that tau was chosen on, if any."""

    correction: Correction
    tau: float
    chosen_on: dict[str, Any] | None


def evaluate(
    path: Path,
    display: Display,
    *,
    split_name: str = "test",
    images: Path | None = None,
    data_dir: Path | None = None,
    device: str = "auto",
    adjust: Tau | None = None,
    tau_norm: Tau | None = None,
) -> dict[str, Any]:
    """Return the scores of a checkpoint file or run folder, on its own data or on class folders.

    `split_name` is `test` or `validation`; `images` are class folders whose names are among the
    checkpoint's classes. `adjust` or `tau_norm` corrects for the long tail with that tau, `auto`
    with the one that is best on the run's validation images; `adjustment` then tells what it did.
    Raises LmsmError for a correction that can't be had, CheckpointError or DataError.
    """
    if adjust is not None and tau_norm is not None:
        raise LmsmError("--adjust and --tau-norm exclude each other; give one of them")
    saved = _read(path, data_dir)
    wanted = _wanted_correction(saved, adjust, tau_norm, display)
    runtime = _runtime(saved.config, device)
    runtime.place(saved.model)
    adjustment = _with_tau(*wanted, saved, runtime, display) if wanted else None
    labelled = _with_labels_of(saved.model, _labelled(saved, split_name, images, display))
    if adjustment and adjustment.chosen_on and images is None and split_name == "validation":
        display.warn("tau was chosen on these same validation images, so their scores flatter it; report those of test images")  # fmt: skip
    return _scores(saved, labelled, runtime, adjustment) | {
        "checkpoint": str(saved.file),
        "epoch": saved.epoch,
        "split": str(images) if images else split_name,
        "effective_margin": saved.model.head.effective_margin_at(saved.epoch / saved.config.epochs),
    }


def _runtime(config: Config, device: str) -> Runtime:
    """Return the arithmetic of the run on a device, as near as that device has it."""
    on_cuda = choose_device(device).type == "cuda"
    precision = "bf16" if on_cuda and config.precision == "bf16-conv" else config.precision
    runtime = choose_runtime(device, precision, config.layout, config.threads)
    runtime.apply()
    return runtime


def _wanted_correction(saved: _Saved, adjust: Tau | None, tau_norm: Tau | None, display: Display) -> tuple[Correction, Tau] | None:  # fmt: skip
    """Return the correction and tau that are asked for; refuse, before any data is read, what can't be had."""
    tau = tau_norm if adjust is None else adjust
    if tau is None:
        return None
    if tau == "auto" and saved.config.validation == 0:
        raise LmsmError("the run held out no validation images (validation 0) to choose tau on; give a number instead of auto")  # fmt: skip
    if tau_norm is None:
        return logit_adjustment(saved.train_counts, _adjusted_in_training(saved, display)), tau
    return tau_normalisation(saved.model.head.class_weights()), tau


def _adjusted_in_training(saved: _Saved, display: Display) -> float:
    """Return how much of the logit adjustment the training did already; say so where it did."""
    config = saved.config
    weighs = config.reweight != "none" and (config.reweight, config.reweight_beta) != ("effective", 0)  # fmt: skip
    if saved.epoch >= config.rebalance_from and (weighs or config.sampling == "balanced"):
        display.warn(
            "the training rebalanced the classes already; theory's tau for its logits is 0"
        )
        return 1.0
    strength = saved.model.head.prior_strength()
    if strength:
        display.warn(f"the loss {config.loss!r} adjusted its logits with tau {strength:g} already; theory's tau for what is left is {max(0.0, 1 - strength):g}")  # fmt: skip
    return strength


def _with_tau(correction: Correction, tau: Tau, saved: _Saved, runtime: Runtime, display: Display) -> _Adjustment:  # fmt: skip
    """Return the correction with its tau, `auto` chosen on the run's validation images alone."""
    if tau != "auto":
        return _Adjustment(correction, tau, None)
    held_out = _held_out(saved, display)
    choice = choose_tau(correction, scores_of(saved.model, held_out.images, runtime), held_out.labels.numpy())  # fmt: skip
    missing = [name for name, n in zip(held_out.classes, held_out.counts(), strict=True) if not n]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        display.warn(f"tau was chosen without {len(missing)} of {len(held_out.classes)} classes, which have no validation image: {', '.join(missing[:5])}{more}")  # fmt: skip
    return _Adjustment(correction, choice.tau, {
        "split": "validation",
        "num_images": len(held_out),
        "classes_without_images": missing,
        "balanced_accuracy": choice.balanced_accuracy,
        "balanced_accuracy_unadjusted": choice.balanced_accuracy_unadjusted,
    })  # fmt: skip


def _scores(saved: _Saved, labelled: ImageSet, runtime: Runtime, adjustment: _Adjustment | None) -> dict[str, Any]:  # fmt: skip
    """Return the scores as JSON; `adjustment` is None, or tells what gave them and the ones without."""

    def of(logits: torch.Tensor) -> dict[str, Any]:
        predictions, probabilities = answers(logits)
        return score(saved.model.classes, labelled.labels.numpy(), predictions, saved.train_counts, probabilities).to_json()  # fmt: skip

    logits = scores_of(saved.model, labelled.images, runtime)
    plain = of(logits)
    if adjustment is None:
        return plain | {"adjustment": None}
    return of(adjustment.correction.correct(logits, adjustment.tau)) | {
        "adjustment": {
            "method": adjustment.correction.method,
            "tau": adjustment.tau,
            "chosen_on": adjustment.chosen_on,
            "unadjusted": {key: plain[key] for key in ("accuracy", "balanced_accuracy", "macro_f1", "groups")},
        }
    }  # fmt: skip


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
