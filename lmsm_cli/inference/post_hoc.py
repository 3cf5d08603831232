"""The last layer of a finished run, corrected without a training, as a run of its own.

It takes the place of a training where the config has `post_hoc`: `begin` starts either. Features
are worked out once, as in trainings of the last layer, and kept for both.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.config import Config, dump
from lmsm_cli.config.post_hoc import NCM, parse_post_hoc
from lmsm_cli.data.identity import PARTS
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.distributed.process_group import init_distributed
from lmsm_cli.errors import DataError, LmsmError
from lmsm_cli.inference.correction import (
    AUTO,
    Checked,
    RequestedCorrection,
    RequestedTau,
    check,
    made,
)
from lmsm_cli.inference.own_images import HeldOut
from lmsm_cli.inference.trained import Correction, Trained, read_trained
from lmsm_cli.metrics import Training
from lmsm_cli.runs import checkpoint, own_code
from lmsm_cli.runs.documents import Images, ScoresDocument, build
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import write_predictions
from lmsm_cli.runs.start import check_start
from lmsm_cli.runtime.display import Display, WarningLog
from lmsm_cli.runtime.signals import ignore_sighup
from lmsm_cli.scoring import balanced_accuracy
from lmsm_cli.training.evaluate import scores_and_scale_of
from lmsm_cli.training.features import as_features
from lmsm_cli.training.finish import draw_plots, net_facts, score_images, status_of
from lmsm_cli.training.loop import Trainer
from lmsm_cli.training.prepare import Run, prepare
from lmsm_cli.training.resume import config_hash
from lmsm_cli.training.run import new_folder, note_start, start_run

# What would keep a second net, or warn of a training that there is none of.
_OF_A_TRAINING = {"ema": None, "patience": None}
# A class whose features are all 0 has no direction, and keeps a score of 0.
_SMALLEST_NORM = 1e-12


def begin(config: Config, display: Display, *, with_plots: bool = True) -> RunFolder | None:
    """Make the run of a config: train it, or correct the last layer that it names.

    Raises LmsmError as `start_run` does.
    """
    start = _start_post_hoc if config.post_hoc else start_run
    return start(config, display, with_plots=with_plots)


def check_post_hoc(trained: Trained, spec: str, display: Display) -> Checked | None:
    """Return a correction that is possible, None for the nearest class mean, which always is.

    Warns where the training corrected for rare classes already. Raises LmsmError for what cannot
    be, as where tau is to be chosen and no validation images were held out.
    """
    method, tau = parse_post_hoc(spec)
    if method == NCM:
        return None
    if tau is None and trained.config.validation == 0:
        raise LmsmError(
            f"{trained.file.parent} held out no validation images (validation 0) to choose the tau "
            f"of {method} on: give one, as in {method}:1, or train with --validation 0.1"
        )
    chosen: float | Literal["auto"] = AUTO if tau is None else tau
    return check(trained, RequestedCorrection(RequestedTau(method, chosen)), display)


def nearest_class_mean(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return the directions of the mean features of each class, (C, D), as class weights.

    The largest product with a feature is the largest cosine: the nearest class mean of Kang et al.
    2020, arXiv 1910.09217.

    Args:
        features: (N, D), of the training images.
        labels: (N,).
        num_classes: C.

    Raises:
        LmsmError: A class has no training images.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if not counts.all():
        raise LmsmError(f"class {int(counts.argmin())} has no training image, hence no mean")
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels.cpu(), features.double().cpu())
    return functional.normalize(sums / counts.cpu()[:, None], dim=1, eps=_SMALLEST_NORM)


def _start_post_hoc(config: Config, display: Display, *, with_plots: bool = True) -> RunFolder:
    """Correct the last layer of a run, test, and write the run folder."""
    assert config.post_hoc
    assert config.pretrained
    with init_distributed(config.device) as ranks, ignore_sighup():
        if ranks.size > 1:
            raise LmsmError(
                f"post_hoc {config.post_hoc!r} is no training, and takes one process: leave "
                "torchrun out"
            )
        log = WarningLog(display)
        check_start(config)
        checked = None
        if parse_post_hoc(config.post_hoc).method != NCM:
            checked = check_post_hoc(read_trained(Path(config.pretrained)), config.post_hoc, log)
        run = prepare(config.model_copy(update=_OF_A_TRAINING), log, ranks)
        is_known = run.images is not None and run.images.seen_before is not None
        if checked and checked.wanted.chooses and not is_known:
            _check_held_out(run, config)
        run = replace(run, folder=new_folder(run, config_hash(config)))
        folder = run.folder
        assert folder is not None
        with folder.locked(), status_of(folder):
            log.write_to(folder.log_line)
            note_start(run, folder, log)
            _finish(run, folder, checked, log)
            if with_plots:
                draw_plots(folder, run.trainer)
        return folder


def _check_held_out(run: Run, config: Config) -> None:
    """Raise DataError where other images are held out than the net was trained without.

    It is for a start without images.npz, of which no more than that can be told.
    """
    start = checkpoint.load(checkpoint.find(Path(str(config.pretrained))))
    recorded, now = start.images, run.trainer.data.record().all_digests
    if recorded is not None and recorded.get(PARTS[1]) != now.get(PARTS[1]):
        raise DataError(
            f"the validation images are not those that {config.pretrained} held out, so its net "
            "may have been trained on some of them; give its data with --data-dir, or a tau, as "
            f"in {config.post_hoc}:1"
        )


def _finish(run: Run, folder: RunFolder, checked: Checked | None, display: Display) -> None:
    """Set the last layer, save it, and write the scores."""
    trainer, started = run.trainer, time.perf_counter()
    held_out = _held_out(trainer, display)
    correction = None
    if checked is None:
        _set_class_means(trainer)
    else:
        correction = made(checked, held_out)
        trainer.model.correct_by(correction.affine)
    seconds = time.perf_counter() - started
    checkpoint.save(_state(run, correction), folder.checkpoint)
    scores, predictions = score_images(trainer, trainer.data.test, display)
    write_predictions(folder.path, predictions)
    values: dict[str, Any] = {
        "checkpoint": folder.checkpoint.name,
        "epoch": trainer.config.epochs,
        "effective_margin": trainer.model.head.effective_margin_at(1.0),
        "lambda": trainer.model.head.lambda_at(1.0),
        "test_images_per_class": trainer.config.test_images_per_class,
        "net": net_facts(trainer),
        "training": Training(seconds=seconds),
        "images": run.images and Images.model_validate(run.images.scored),
    }
    if held_out is not None:
        checkpoint.duplicate(folder.checkpoint, folder.best_checkpoint)
        values["best_on_validation"] = {
            "epoch": trainer.config.epochs,
            "val_balanced_accuracy": _balanced_accuracy(trainer, held_out.images),
            "accuracy": scores.accuracy,
            "balanced_accuracy": scores.balanced_accuracy,
        }
    folder.write_metrics([])
    folder.write_scores(build(ScoresDocument, scores.parts() | values))


def _held_out(trainer: Trainer, display: Display) -> HeldOut | None:
    """Return the validation images, whose logits are those of the last layer as it was."""
    if trainer.data.validation is None:
        return None

    def look(images: ImageSet) -> tuple[Tensor, float | None]:
        return scores_and_scale_of(trainer.model, _features(trainer, images), trainer.runtime)

    return HeldOut(trainer.data.validation, look, display)


def _features(trainer: Trainer, images: ImageSet) -> Tensor:
    """Return what stands in the place of images: their features (N, 1, 1, D)."""
    found = as_features(images, trainer.model, trainer.config, trainer.runtime).images
    assert isinstance(found, Tensor)
    return found


def _set_class_means(trainer: Trainer) -> None:
    training, weight = trainer.data.training, trainer.model.head.weight
    features = _features(trainer, training).flatten(1)
    with torch.no_grad():
        weight.copy_(nearest_class_mean(features, training.labels.cpu(), len(weight)))


def _balanced_accuracy(trainer: Trainer, images: ImageSet) -> float:
    """Return the balanced accuracy on validation images, corrected."""
    logits, _ = scores_and_scale_of(trainer.model, _features(trainer, images), trainer.runtime)
    return balanced_accuracy(images.labels.cpu().numpy(), logits.argmax(dim=1).cpu().numpy())


def _state(run: Run, correction: Correction | None) -> dict[str, Any]:
    """Return what the checkpoint holds, from which no training goes on."""
    trainer = run.trainer
    more: dict[str, Any] = {}
    if correction is not None:
        more = {"schema": checkpoint.CORRECTED, "correction": correction.built_in()}
    return checkpoint.state_of(
        trainer.model,
        dump(trainer.config),
        train_counts=trainer.data.train_counts,
        image_shape=trainer.image_shape,
        epoch=trainer.config.epochs,
        images=run.images.all_digests if run.images else None,
        own_code=own_code.records_of(trainer.config),
        **more,
    )
