"""From a Config to a finished run: the one road that train, demo and every later command take."""

import shlex
import signal
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

# These two now: the frames that import them are kept alive, and later ones hold a training.
import matplotlib.backends.backend_agg  # noqa: F401
import torch
import torch._dynamo

from lmsm_cli.config import Config, dump_yaml
from lmsm_cli.data import sources
from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.data.splits import Data, check_at_hand, load_again, load_data, planned_counts
from lmsm_cli.distributed.process_group import ProcessGroup, init_distributed
from lmsm_cli.distributed.sync_batch_norm import convert_sync_batchnorm
from lmsm_cli.errors import LmsmError, StoppedError
from lmsm_cli.losses.head import Head
from lmsm_cli.losses.registry import build_head
from lmsm_cli.losses.spec import parse_spec, with_option
from lmsm_cli.models.backbones import check_model
from lmsm_cli.models.classifier import Classifier, ModelSpec, build_classifier
from lmsm_cli.runs import environment
from lmsm_cli.runs.documents import Images
from lmsm_cli.runs.folder import RunFolder, check_folder, run_name
from lmsm_cli.runs.images import write_images, write_predictions
from lmsm_cli.runs.record import is_run, only_run
from lmsm_cli.runs.tensorboard import check_tensorboard, curves
from lmsm_cli.runtime.device import Runtime, check_precision, choose_device, choose_runtime
from lmsm_cli.runtime.display import SILENT, Display, Epoch, WarningLog
from lmsm_cli.runtime.memory import reported_memory
from lmsm_cli.runtime.signals import defer_signals, ignore_sighup
from lmsm_cli.training.loop import PausedError, Position, train
from lmsm_cli.training.outcome import answered, build_scores_json, draw, status_of
from lmsm_cli.training.resume import (
    History,
    ResumeState,
    config_hash,
    pretrained_digest,
    read_resume_state,
    save_checkpoint,
)
from lmsm_cli.training.step import new_optimizer


def check_config(config: Config) -> torch.device:
    """Return the device; raise LmsmError for what cannot work, before any data is read."""
    source = sources.source_of(config.dataset)
    counts = planned_counts(config)
    if counts is not None:
        build_head(config.loss, 2, len(counts), torch.tensor(counts), bias=config.head_bias)
        check_model(
            config.model, config.pretrained, channels=source.channels, image_size=source.size
        )
    check_folder(config.out, "--out")
    if config.tensorboard:
        check_tensorboard()
    device = choose_device(config.device)
    check_precision(config.precision, device)
    return device


def runtime_of(config: Config, model: Classifier, processes: int = 1) -> Runtime:
    """Return the runtime that a config asks for, of one of the `processes` of this host."""
    return choose_runtime(
        config.device,
        config.precision,
        config.layout,
        config.threads,
        net=model,
        processes=processes,
    )


def build_model(config: Config, data: Data) -> Classifier:
    """Return the config's classifier, freshly drawn from its seed, on the CPU."""
    torch.manual_seed(config.seed)
    _, side, _, channels = data.training.images.shape
    check_model(config.model, config.pretrained, channels=channels, image_size=side)
    return build_classifier(
        ModelSpec(config.model, config.neck, config.loss, config.head_bias, config.head_init),
        classes=data.training.classes,
        mean=data.training.mean,
        std=data.training.std,
        class_counts=torch.tensor(data.train_counts),
        pretrained=config.pretrained,
    )


def start_run(config: Config, display: Display, *, with_plots: bool = True) -> RunFolder | None:
    """Train, test and write the run folder; return it, None on all but the first rank.

    Raises LmsmError; from the first epoch on, status.json of the run folder says what happened.
    StoppedError, once a signal has ended the training after a step: `resume_run` goes on from there.
    """
    with init_distributed(config.device) as ranks, ignore_sighup():
        told = WarningLog(display if ranks.is_main else SILENT)
        parts = prepare(config, told, ranks)
        if not ranks.is_main:
            _finish(parts, told, with_plots)
            return None
        folder = _new_folder(parts, asked=config_hash(config))
        with folder.locked():
            told.write_to(folder.log_line)
            told.info(f"{folder.path}: {len(parts.data.training)} training images on {parts.where}")
            _finish(replace(parts, folder=folder), told, with_plots)
        return folder


def resume_run(
    path: Path,
    display: Display,
    changes: dict[str, Any] | None = None,
    *,
    strict: bool = False,
    with_plots: bool = True,
) -> RunFolder | None:
    """Go on with a run from its folder, with changed values of its config; finish as `start_run` does.

    On the same machine's CPU, in as many processes, the end has the bits of a run that nobody
    stopped. A finished run is returned as it is, unless it gets more epochs. With `strict` a
    damaged checkpoint is an error, else the one before is taken. Raises LmsmError for a change
    that would make it another run, CheckpointError where no checkpoint is good.
    """
    if path.is_file() and is_run(path.parent):
        raise LmsmError(f"{path} is a file of a run: give its folder, {path.parent}")
    if not path.is_dir():
        raise LmsmError(f"there is no run folder {path}")
    path = only_run(path)
    folder = RunFolder(path)
    with init_distributed((changes or {}).get("device") or "auto") as ranks, ignore_sighup():
        told = WarningLog(display if ranks.is_main else SILENT)
        with folder.locked() if ranks.is_main else nullcontext():
            saved = ranks.broadcast_object(
                read_resume_state(folder, changes or {}, told.warning, strict=strict)
                if ranks.is_main
                else None
            )
            assert saved is not None
            if ranks.is_main:
                told.write_to(folder.log_line)
            if saved.is_finished:
                told.info(
                    f"{path} is finished: nothing to do; --epochs with more than {saved.config.epochs} goes on"
                )
                return folder if ranks.is_main else None
            if not (changes or {}).get("data_dir"):
                check_at_hand(saved.config)
            parts = replace(prepare(saved.config, told, ranks, saved.images), saved=saved)
            saved.check_data(parts.data)
            if saved.state and saved.state.images is None:  # an older lmsm recorded none
                parts = replace(parts, images=None)
            if not ranks.is_main:
                _finish(parts, told, with_plots)
                return None
            _note_resumption(folder, saved, parts, told)
            if parts.images and saved.images is None:
                write_images(folder.path, parts.images)  # ended before it was there, or lost since
            _finish(replace(parts, folder=folder), told, with_plots)
    return folder


@dataclass(frozen=True)
class Parts:
    """What a run is put together from; `folder` is the first rank's."""

    config: Config
    data: Data
    images: ImagesRecord | None
    """Which images `data` holds; None where an older lmsm began the run without a record of them."""
    model: Classifier
    runtime: Runtime
    ranks: ProcessGroup
    saved: ResumeState | None = None
    folder: RunFolder | None = None

    @property
    def where(self) -> str:
        """What computes, in words."""
        size = self.ranks.size
        return f"{self.runtime}, {size} processes" if size > 1 else str(self.runtime)

    @cached_property
    def known_by(self) -> dict[str, str | None] | None:
        """The digests of the parts of the data and of their order, where they are recorded."""
        return self.images.known_by if self.images else None

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of an image."""
        return tuple(self.data.training.images.shape[1:])


def prepare(
    config: Config, display: Display, ranks: ProcessGroup, images: ImagesRecord | None = None
) -> Parts:
    """Read the data, build the model, and settle the config; `images` are those of a run that goes on."""
    device = ranks.take_device(check_config(config))
    ranks.check_batch_size(config.batch_size)
    with ranks.main_process_first():  # what it downloads and decodes, the others find
        data = load_again(config, images, display) if images else load_data(config, display)
    model = build_model(config, data)
    settings = ranks.broadcast_object(runtime_of(config, model).to_config())
    config = config.model_copy(update=settings | {"loss": resolved_spec(config.loss, model.head)})
    runtime = replace(runtime_of(config, model, ranks.local_size), device=device)
    runtime.apply()
    return Parts(config, data, images or data.record(), runtime.place(model), runtime, ranks)


def _finish(parts: Parts, display: Display, with_plots: bool) -> None:
    """Train to the end, test, and write what belongs into the run folder."""
    model, runtime, ranks, folder = parts.model, parts.runtime, parts.ranks, parts.folder
    where = ranks.broadcast_object(str(folder.path) if folder else "")
    memory = reported_memory(runtime.device, parts.config.batch_size)
    data = parts.data
    with status_of(folder), memory:
        journal = _train(parts, where, display)
        scores, predictions = answered(model, data.test, data.train_counts, runtime, ranks)
        if folder:
            if parts.images:  # in the order of images.npz, so nothing without it
                write_predictions(folder.path, predictions)
            document = build_scores_json(
                scores, model, journal, folder, data, runtime, display.warning
            )
            images = parts.images and Images.model_validate(parts.images.summaries)
            folder.write_scores(document.model_copy(update={"images": images}))
            if with_plots:
                draw(folder, model, data, runtime)


def _note_resumption(folder: RunFolder, saved: ResumeState, parts: Parts, display: Display) -> None:
    """Bring the other files to where the checkpoint stands, and say where that is."""
    folder.write_metrics(saved.history.rows)
    folder.write_config(dump_yaml(parts.config))
    place = f"epoch {saved.position.epoch}" + (
        f", step {saved.position.step}" if saved.position.step else ""
    )
    text = f"{folder.path}: goes on after {place} on {parts.where}"
    folder.log_line(text)
    display.info(text)
    if difference := saved.difference_to(parts.where):
        display.warning(
            f"{difference}: the end is that of an undisturbed run but for rounding and dropout's draws"
        )


def resolved_spec(spec: str, head: Head) -> str:
    """Return the loss spec with the options that the head worked out from the data."""
    given = parse_spec(spec)[1]
    for key, value in head.resolved_options().items():
        if key not in given:
            spec = with_option(spec, key, str(value).removesuffix(".0"))
    return spec


def _new_folder(parts: Parts, *, asked: str) -> RunFolder:
    config = parts.config
    assert parts.images is not None
    name = run_name(
        config.dataset, config.model, parse_spec(config.loss)[0], config.seed, datetime.now()
    )
    folder = RunFolder.create(config.out, name)
    folder.write_config(dump_yaml(config))
    write_images(folder.path, parts.images)  # before what a sweep finds the run by
    known_by = {"asked": asked, "pretrained": pretrained_digest(config)}
    folder.write_environment(environment.describe(parts.where) | known_by)
    return folder


def _train(parts: Parts, where: str, display: Display) -> History:
    """Train to the end, saving every epoch into the folder; return what was done.

    `where` is the run folder's path on every rank. Raises StoppedError after a signal.
    """
    model, config, data, runtime, ranks = (
        parts.model,
        parts.config,
        parts.data,
        parts.runtime,
        parts.ranks,
    )
    if ranks.size > 1:
        convert_sync_batchnorm(model, runtime.device, ranks)
    optimizer = new_optimizer(model, config)
    journal, start = History(), Position()
    if parts.saved:
        parts.saved.restore(model, optimizer)
        journal, start = parts.saved.history, parts.saved.position

    def save(position: Position) -> None:
        if parts.folder:
            save_checkpoint(
                parts.folder,
                journal,
                model,
                optimizer,
                config,
                position,
                train_counts=data.train_counts,
                image_shape=list(parts.image_shape),
                runtime=parts.where,
                images=parts.known_by,
            )

    drawn = parts.folder.tensorboard if parts.folder and config.tensorboard else None
    with defer_signals(once_more=ranks.size == 1) as stop, curves(drawn, journal.rows) as draw:
        try:
            for epoch in train(
                model,
                optimizer,
                config,
                data.training,
                data.validation,
                runtime,
                on_step=display.step,
                say=display.info,
                ranks=ranks,
                start=start,
                stop=stop,
            ):
                signs = [sign for sign in epoch.signs if sign not in journal.warned]
                journal.add(epoch, config.best_tolerance)
                journal.warned += signs
                save(Position(epoch.epoch))
                draw(journal.rows[-1])
                if parts.folder:
                    _tell(epoch, signs, config, parts.folder, display)
        except PausedError as paused:
            if paused.position.step:
                save(paused.position)
            name = signal.Signals(paused.signal).name
            place = (
                f"in epoch {paused.position.epoch + 1}"
                if paused.position.step
                else f"after epoch {paused.position.epoch}"
            )
            raise StoppedError(
                f"stopped by {name} {place}, and saved; `lmsm resume {shlex.quote(where)}` goes on",
                paused.signal,
            ) from None
    return journal


def _tell(
    epoch: Epoch, signs: list[str], config: Config, folder: RunFolder, display: Display
) -> None:
    """Write a finished epoch down and show it; say loudly what looks collapsed for the first time."""
    folder.append_metrics(epoch.to_row())
    folder.log_line(f"epoch {epoch.epoch}: {epoch.to_row()}")
    display.epoch(epoch, config.epochs)
    for sign in signs:
        display.warning(f"collapse in epoch {epoch.epoch}: {sign}: {epoch.signs[sign]}")
