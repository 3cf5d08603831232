"""From a Config to a finished run: the one road that train, demo and every later command take."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import torch

from lmsm_cli import config as configs
from lmsm_cli.config import Config
from lmsm_cli.data import sources
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.engine.arithmetic import runtime_of, settle
from lmsm_cli.engine.device import Runtime, check_precision, choose_device
from lmsm_cli.engine.distributed import ALONE, Ranks, joined
from lmsm_cli.engine.evaluate import scores_of
from lmsm_cli.engine.global_batch_norm import synchronised
from lmsm_cli.engine.memory import reported_memory
from lmsm_cli.engine.step import new_optimizer
from lmsm_cli.engine.train import Epoch, Step, train
from lmsm_cli.errors import DiskError, LmsmError
from lmsm_cli.losses import Head, build_head
from lmsm_cli.models import Classifier, build_classifier, check_model
from lmsm_cli.reports import plots
from lmsm_cli.runs import checkpoint, environment
from lmsm_cli.runs.folder import RunFolder, run_name
from lmsm_cli.runs.record import read_run
from lmsm_cli.scores import Scores, score
from lmsm_cli.spec import parse_spec, with_option
from lmsm_cli.splits import load_test, load_training, planned_counts


class Display(Protocol):
    """What a run tells while it goes; the loop knows no screen."""

    def report(self, what: str, done: int, total: int) -> None:
        """Show progress before the training; `total` 0 means unknown."""

    def say(self, text: str) -> None:
        """Show a message."""

    def warn(self, text: str) -> None:
        """Show a message that must not be overlooked."""

    def step(self, step: Step) -> None:
        """Show a finished step."""

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Show a finished epoch."""


class Silence:
    """Tells nothing: for the ranks that leave the telling to the first, and for measurements."""

    def report(self, what: str, done: int, total: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def step(self, step: Step) -> None:
        """Do nothing."""

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class Data:
    """The images of a run; `train_counts` are the training images per class."""

    training: ImageSet
    validation: ImageSet | None
    test: ImageSet

    @property
    def train_counts(self) -> list[int]:
        """Training images per class, validation excluded."""
        return self.training.counts()


def check(config: Config) -> torch.device:
    """Return the device; raise LmsmError for what cannot work, before any data is read."""
    source = sources.source_of(config.dataset)
    counts = planned_counts(config)
    if counts is not None:
        build_head(config.loss, 2, len(counts), torch.tensor(counts))
        check_model(
            config.model, config.pretrained, channels=source.channels, image_size=source.size
        )
    check_folder(config.out, "--out")
    device = choose_device(config.device)
    check_precision(config.precision, device)
    return device


def check_folder(folder: Path, flag: str) -> None:
    """Raise DiskError where nothing can be written in `folder`, given by `flag`; make none yet."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise DiskError(f"cannot write in {folder}: {there} is no folder that can be written to; choose another with {flag}")  # fmt: skip


def build_model(config: Config, data: Data) -> Classifier:
    """Return the config's classifier, freshly drawn from its seed, on the CPU."""
    torch.manual_seed(config.seed)
    _, side, _, channels = data.training.images.shape
    check_model(config.model, config.pretrained, channels=channels, image_size=side)
    return build_classifier(
        config.model, config.neck, config.loss,
        classes=data.training.classes, mean=data.training.mean, std=data.training.std,
        class_counts=torch.tensor(data.train_counts), pretrained=config.pretrained,
    )  # fmt: skip


def run(config: Config, display: Display, *, with_plots: bool = True) -> RunFolder | None:
    """Train, test and write the run folder; return it, None on all but the first rank.

    Raises LmsmError; from the first epoch on, status.json of the run folder says what happened.
    """
    with joined(config.device) as ranks:
        return _run(config, display if ranks.is_first else Silence(), ranks, with_plots)


def _run(config: Config, display: Display, ranks: Ranks, with_plots: bool) -> RunFolder | None:
    device = ranks.take_device(check(config))
    ranks.check_batch_size(config.batch_size)
    with ranks.first():  # what it downloads and decodes, the others find
        training, validation = load_training(config, display.report)
        data = Data(training, validation, load_test(config, display.report))
    model = build_model(config, data)
    shape = tuple(training.images.shape[1:])
    config = ranks.agree(settle(config, model, shape, display.say) if ranks.is_first else config)
    config = config.model_copy(update={"loss": resolved_spec(config.loss, model.head)})
    runtime = replace(runtime_of(config, processes=ranks.local_size), device=device)
    runtime.apply()
    model = runtime.place(model)
    where = f"{runtime}, {ranks.size} processes" if ranks.size > 1 else str(runtime)
    folder = _new_folder(config, where) if ranks.is_first else None
    if folder:
        display.say(f"{folder.path}: {len(training)} training images on {where}")
    with _status(folder), reported_memory(runtime, model, config.batch_size, shape, ranks.size):
        last, best = _train(model, config, data, runtime, ranks, folder, display)
        scores = score_images(model, data.test, data.train_counts, runtime, ranks)
        if folder:
            folder.write_scores(_documented(scores, model, data, runtime, folder, last, best))
            if with_plots:
                _draw(folder, data)
    return folder


def resolved_spec(spec: str, head: Head) -> str:
    """Return the loss spec with the options that the head worked out from the data."""
    given = parse_spec(spec)[1]
    for key, value in head.resolved_options().items():
        if key not in given:
            spec = with_option(spec, key, str(value).removesuffix(".0"))
    return spec


def _new_folder(config: Config, where: str) -> RunFolder:
    name = run_name(config.dataset, config.model, parse_spec(config.loss)[0], config.seed, datetime.now())  # fmt: skip
    folder = RunFolder.create(config.out, name)
    folder.write_config(configs.dump_yaml(config))
    folder.write_environment(environment.describe(where))
    return folder


@contextmanager
def _status(folder: RunFolder | None) -> Iterator[None]:
    """Keep status.json true: running, then completed, failed or interrupted."""
    if folder is None:
        yield
        return
    folder.write_status("running")
    try:
        yield
    except LmsmError as error:
        folder.write_status("failed", str(error), error.exit_code)
        raise
    except KeyboardInterrupt:
        folder.write_status("interrupted", "SIGINT", 130)
        raise
    except BaseException as error:
        folder.write_status("failed", f"{type(error).__name__}: {error}", 1)
        raise
    folder.write_status("completed", exit_code=0)


def _train(model: Classifier, config: Config, data: Data, runtime: Runtime, ranks: Ranks, folder: RunFolder | None, display: Display) -> tuple[Epoch, Epoch | None]:  # fmt: skip
    """Train to the end, saving every epoch into the folder; return the last epoch and that of best.pt."""
    if ranks.size > 1:
        synchronised(model, runtime.device, ranks)
    optimizer = new_optimizer(model, config)
    best: Epoch | None = None
    warned: set[str] = set()
    for epoch in train(model, optimizer, config, data.training, data.validation, runtime, on_step=display.step, say=display.say, ranks=ranks):  # fmt: skip
        if folder is None:
            continue
        state = checkpoint.state_of(
            model, configs.dump(config), train_counts=data.train_counts, epoch=epoch.epoch,
            image_shape=list(data.training.images.shape[1:]),
            optimizer=optimizer.state_dict(), versions={"torch": str(torch.__version__)},
        )  # fmt: skip
        if folder.checkpoint.exists():
            checkpoint.duplicate(folder.checkpoint, folder.previous_checkpoint)
        checkpoint.save(state, folder.checkpoint)
        folder.append_metrics(epoch.to_row())
        if _is_better(epoch, best, config.best_tolerance):
            checkpoint.duplicate(folder.checkpoint, folder.best_checkpoint)
            best = epoch
        display.epoch(epoch, config.epochs)
        folder.log_line(f"epoch {epoch.epoch}: {epoch.to_row()}")
        _warn(epoch, warned, folder, display)
    return epoch, best


def _is_better(epoch: Epoch, best: Epoch | None, tolerance: float) -> bool:
    if epoch.val_balanced_accuracy is None:
        return False
    return (
        best is None or epoch.val_balanced_accuracy > (best.val_balanced_accuracy or 0) + tolerance
    )


def _warn(epoch: Epoch, warned: set[str], folder: RunFolder, display: Display) -> None:
    """Say loudly what looks collapsed, the first time that each sign shows."""
    for sign in epoch.signs.keys() - warned:
        warned.add(sign)
        text = f"collapse in epoch {epoch.epoch}: {sign}: {epoch.signs[sign]}"
        folder.log_line(f"WARNING {text}")
        display.warn(text)


def _documented(scores: Scores, model: Classifier, data: Data, runtime: Runtime, folder: RunFolder, last: Epoch, best: Epoch | None) -> dict[str, Any]:  # fmt: skip
    """Return scores.json: the last epoch's test scores, and what best.pt would have given."""
    document = scores.to_json() | {
        "checkpoint": folder.checkpoint.name,
        "epoch": last.epoch,
        "lambda": model.head.lambda_at(1.0),
        "effective_margin": model.head.effective_margin_at(1.0),
        "best_on_validation": None,
    }
    if best is not None:
        chosen = runtime.place(checkpoint.load_checkpoint(folder.best_checkpoint))
        of_best = score_images(chosen, data.test, data.train_counts, runtime)
        document["best_on_validation"] = {
            "epoch": best.epoch,
            "val_balanced_accuracy": best.val_balanced_accuracy,
            "accuracy": of_best.accuracy,
            "balanced_accuracy": of_best.balanced_accuracy,
        }
    return document


def score_images(model: Classifier, images: ImageSet, train_counts: list[int], runtime: Runtime, ranks: Ranks = ALONE) -> Scores:  # fmt: skip
    """Return the scores of a classifier on labelled images, which several ranks share."""
    predicted = scores_of(model, images.images, runtime, ranks).argmax(dim=1).cpu().numpy()
    return score(model.classes, images.labels.numpy(), predicted, train_counts)


def _draw(folder: RunFolder, data: Data) -> None:
    """Draw the plots from the files of the run folder."""
    record = read_run(folder.path)
    assert record.scores is not None
    plots.plot_class_distribution(data.train_counts, data.training.classes, folder.plots)
    plots.plot_training_history(record.metrics, folder.plots)
    plots.plot_confusion(record.scores, folder.plots)
