"""From a Config to a finished run, as train, demo, sweep and resume make it."""

import copy
import shlex
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

# These two now: the frames that import them are kept alive, and later ones hold a training.
import matplotlib.backends.backend_agg  # noqa: F401
import torch
import torch._dynamo

from lmsm_cli.config import Config, dump_yaml
from lmsm_cli.data import sources
from lmsm_cli.data.find_again import check_at_hand, load_again
from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.data.splits import Data, division_of, load_data, planned_counts
from lmsm_cli.distributed.process_group import ProcessGroup, init_distributed
from lmsm_cli.errors import LmsmError, StoppedError
from lmsm_cli.losses.class_weights import by_index
from lmsm_cli.losses.head import Head
from lmsm_cli.losses.own import blamed
from lmsm_cli.losses.own_head import try_out
from lmsm_cli.losses.registry import build_head, normal_spec, own_place
from lmsm_cli.losses.spec import parse_spec, with_option
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.models.freezing import freeze, frozen_stages
from lmsm_cli.models.nets import check_model, without_memory
from lmsm_cli.runs import environment, own_code
from lmsm_cli.runs.checkpoint import check_has_net
from lmsm_cli.runs.contents import Position
from lmsm_cli.runs.documents import Images
from lmsm_cli.runs.folder import RunFolder, check_folder, run_name
from lmsm_cli.runs.images import write_images, write_predictions
from lmsm_cli.runs.record import is_run, only_run, read_run
from lmsm_cli.runs.start import check_start, drawn_and_frozen, first_stage_of, new_classifier
from lmsm_cli.runs.tensorboard import check_tensorboard, curves
from lmsm_cli.runtime.device import Runtime, check_precision, choose_device, choose_runtime
from lmsm_cli.runtime.display import SILENT, Display, Epoch, WarningLog
from lmsm_cli.runtime.memory import reported_memory
from lmsm_cli.runtime.signals import defer_signals, ignore_sighup
from lmsm_cli.training.finish import (
    build_scores_json,
    draw_plots,
    net_words,
    score_images,
    status_of,
)
from lmsm_cli.training.loop import PausedError, Trainer, class_weights, train
from lmsm_cli.training.patience import hopeless_patience, is_out_of_patience
from lmsm_cli.training.resume import (
    History,
    ResumeState,
    config_hash,
    pretrained_digest,
    read_resume_state,
    saves,
)


def check_config(config: Config, *, starts: bool = True) -> torch.device:
    """Return the device; raise LmsmError for what cannot work, before any data is read.

    A run that does not start, but goes on, needs no weights to start from any more.
    """
    source = sources.source_of(config.dataset)
    counts = planned_counts(config)
    division_of(config)
    if counts is not None:
        build_head(config.loss, 2, len(counts), torch.tensor(counts), bias=config.head_bias)
    size = source.size if counts is not None else config.image_size
    check_model(config.model, channels=source.channels, image_size=size)
    if config.freeze:
        net = without_memory(config.model, source.channels, size).module
        frozen_stages(net, config.freeze)
    if starts:
        check_start(config)
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


def build_model(config: Config, data: Data, *, starts: bool = True) -> tuple[Classifier, str]:
    """Return the config's classifier, drawn from its seed, on the CPU; in words, what is special.

    That is, what it starts from, and what of it is frozen: a line each.

    Where the run does not start, but goes on, its weights are read later.
    """
    torch.manual_seed(config.seed)
    side, _, channels = data.image_shape
    check_model(config.model, channels=channels, image_size=side)
    model, origin = new_classifier(
        config if starts else config.model_copy(update={"pretrained": None}),
        classes=data.training.classes,
        train_counts=data.train_counts,
        normalisation=(data.training.mean, data.training.std),
        image_size=side,
    )
    if place := own_place(parse_spec(config.loss)[0]):
        try_out(copy.deepcopy(model.head), place)
    frozen = freeze(model, config.freeze) if config.freeze else ""
    return model, "\n".join(filter(None, (origin, frozen)))


def start_run(config: Config, display: Display, *, with_plots: bool = True) -> RunFolder | None:
    """Train, test and write the run folder; return it, None on all but the first rank.

    Raises LmsmError; status.json of the run folder says what happened. StoppedError means that a
    signal ended the training after a step: `resume_run` goes on from there.
    """
    with init_distributed(config.device) as ranks, ignore_sighup():
        log = WarningLog(display if ranks.is_main else SILENT)
        run = prepare(config, log, ranks)
        if ranks.is_main:
            run = replace(run, folder=new_folder(run, config_hash(config)))
        with run.folder.locked() if run.folder else nullcontext():
            if run.folder:
                log.write_to(run.folder.log_line)
                note_start(run, run.folder, log)
            _finish(run, log, with_plots)
        return run.folder


def resume_run(
    path: Path,
    display: Display,
    changes: dict[str, Any] | None = None,
    *,
    strict: bool = False,
    with_plots: bool = True,
) -> RunFolder | None:
    """Resume a run from its folder, and finish as `start_run` does.

    On the same machine's CPU, in as many processes, the end has the bits of a run that nobody
    stopped. A finished run is returned as it is, unless it gets more epochs.

    Args:
        path: The run folder, or a folder with this run alone.
        display: Shows the progress.
        changes: Keys of the config and their new values.
        strict: Refuse a damaged checkpoint; else the one before is taken.
        with_plots: Whether to draw the plots.

    Raises LmsmError for a change that would make it another run, CheckpointError where no
    checkpoint is good.
    """
    if path.is_file() and is_run(path.parent):
        raise LmsmError(f"{path} is a file of a run: give its folder, {path.parent}")
    if not path.is_dir():
        raise LmsmError(f"there is no run folder {path}")
    folder, changes = RunFolder(only_run(path)), changes or {}
    check_has_net(read_run(folder.path, with_metrics=False))
    with init_distributed(changes.get("device") or "auto") as ranks, ignore_sighup():
        log = WarningLog(display if ranks.is_main else SILENT)
        with folder.locked() if ranks.is_main else nullcontext():
            saved = ranks.broadcast_object(
                read_resume_state(folder, changes, log.warning, strict=strict)
                if ranks.is_main
                else None
            )
            assert saved is not None
            if ranks.is_main:
                log.write_to(folder.log_line)
            if saved.is_finished:
                log.info(
                    f"{folder.path} is finished: nothing to do; "
                    f"--epochs with more than {saved.config.epochs} goes on"
                )
            else:
                if not changes.get("data_dir"):
                    check_at_hand(saved.config)
                run = _prepare_rest(saved, log, ranks)
                if ranks.is_main:
                    run = replace(run, folder=folder)
                    _note_resumption(run, folder, saved, log)
                _finish(run, log, with_plots)
        return folder if ranks.is_main else None


@dataclass(frozen=True)
class Run:
    """A run that can begin or go on."""

    trainer: Trainer
    images: ImagesRecord | None
    """Which images its data holds; None where the lmsm that began the run kept no record."""
    saved: ResumeState | None = None
    folder: RunFolder | None = None
    """None on all ranks but the first."""


def prepare(
    config: Config,
    display: Display,
    ranks: ProcessGroup,
    images: ImagesRecord | None = None,
    *,
    starts: bool = True,
) -> Run:
    """Read the data, build the model, and resolve what the config leaves to them.

    Args:
        config: The config as the user gave it.
        display: Where downloads, decoding and warnings are shown.
        ranks: The processes of the run.
        images: The images of a run that goes on, to be found again.
        starts: Whether its weights are those to start from; else a checkpoint has them.

    Raises LmsmError.
    """
    device = ranks.take_device(check_config(config, starts=starts))
    ranks.check_batch_size(config.batch_size)
    _check_ranks(config, ranks)
    with ranks.main_process_first():  # what it downloads and decodes, the others find
        data = load_again(config, images, display) if images else load_data(config, display)
    if data.usual_counts:  # no fold has defaults of its own
        loss = _spec_by_counts(config, data.training.classes, data.usual_counts)
        config = config.model_copy(update={"loss": loss})
    model, origin = build_model(config, data, starts=starts)
    for line in origin.splitlines():
        display.info(line)
    class_weights(config, data.train_counts, data.training.classes)  # before there is a folder
    settings = ranks.broadcast_object(runtime_of(config, model).to_config())
    config = config.model_copy(update=settings | {"loss": resolved_spec(config.loss, model.head)})
    runtime = replace(runtime_of(config, model, ranks.local_size), device=device)
    runtime.apply()
    trainer = Trainer.create(runtime.place(model), config, data, runtime, ranks)
    if starts and (text := hopeless_patience(config, model.head)):
        display.warning(text)
    if starts and (frozen := drawn_and_frozen(config)):
        display.warning(frozen)
    return Run(trainer, images or data.record())


def _check_ranks(config: Config, ranks: ProcessGroup) -> None:
    """Raise LmsmError for choices that several processes do not share yet."""
    if ranks.size == 1:
        return
    if config.accumulate > 1:
        raise LmsmError(
            f"accumulate is {config.accumulate}, and torchrun started {ranks.size} processes: more "
            "processes share a larger --batch-size; leave --accumulate out"
        )
    if config.ema is not None:
        raise LmsmError(
            f"ema is {config.ema:g}, and torchrun started {ranks.size} processes: weights are "
            "averaged in one process alone; leave --ema out"
        )


def _prepare_rest(saved: ResumeState, display: Display, ranks: ProcessGroup) -> Run:
    """Prepare a run that goes on; raise DataError where its images are others now."""
    starts = saved.state is None
    run = prepare(saved.config, display, ranks, saved.images, starts=starts)
    run = replace(run, saved=saved)
    saved.check_data(run.trainer.data)
    if saved.state and saved.state.images is None:  # an older lmsm recorded none
        return replace(run, images=None)
    return run


def _finish(run: Run, display: Display, with_plots: bool) -> None:
    """Train to the end, test, and write what belongs into the run folder."""
    trainer, folder = run.trainer, run.folder
    where = trainer.ranks.broadcast_object(str(folder.path) if folder else "")
    memory = reported_memory(
        trainer.runtime.device, trainer.config.batch_size, goes_on=run.saved is not None
    )
    with status_of(folder), blamed(), memory:
        history = _train(run, where, display)
        scores, predictions = score_images(trainer, trainer.data.test, display)
        if folder:
            if run.images:  # in the order of images.npz, so nothing without it
                write_predictions(folder.path, predictions)
            document = build_scores_json(scores, trainer, history, folder, display)
            images = run.images and Images.model_validate(run.images.scored)
            folder.write_scores(document.model_copy(update={"images": images}))
            if with_plots:
                display.progress("drawing the plots", 0, 0)
                draw_plots(folder, trainer)
                display.progress("drawing the plots", 1, 1)


def note_start(run: Run, folder: RunFolder, display: Display) -> None:
    """Show what a run begins with, and log what computes, which few want to see."""
    sets = run.trainer.data.parts.items()
    numbers = ", ".join(f"{len(images):,} {part}" for part, images in sets)
    display.info(f"{numbers} images")
    display.info(f"run folder: {folder.path}")
    display.info(net_words(run.trainer))
    if run.trainer.average:
        display.info(
            "validation, best.pt, scores, predict and export take averaged weights (--ema)"
        )
    _note_device(run, folder, display)


def _note_device(run: Run, folder: RunFolder, display: Display) -> None:
    text = f"computes on: {run.trainer.device_text}"
    folder.log_line(text)
    display.detail(text)


def _note_resumption(run: Run, folder: RunFolder, saved: ResumeState, display: Display) -> None:
    """Bring the other files to where the checkpoint stands, and show where that is."""
    position, where = saved.position, run.trainer.device_text
    folder.write_metrics(saved.history.rows)
    folder.write_config(dump_yaml(run.trainer.config))
    if run.images and saved.images is None:
        write_images(folder.path, run.images)  # the run ended before it was written, or it was lost
    place = f"epoch {position.epoch}" + (f", step {position.step}" if position.step else "")
    text = f"{folder.path}: goes on after {place}"
    folder.log_line(text)
    display.info(text)
    _note_device(run, folder, display)
    if difference := saved.difference_to(where):
        display.warning(
            f"{difference}: the end is that of an undisturbed run but for rounding and dropout's "
            "draws"
        )


def resolved_spec(spec: str, head: Head) -> str:
    """Return the loss spec with the options that the head worked out from the data.

    That of an own loss is in its normal form: what reads a run does not know its defaults.
    """
    name, given = parse_spec(spec)
    if own_place(name):
        spec = normal_spec(spec)
    for key, value in head.resolved_options().items():
        if key not in given:
            spec = with_option(spec, key, str(value).removesuffix(".0"))
    return spec


def _spec_by_counts(config: Config, classes: Sequence[str], counts: list[int]) -> str:
    """Return the loss spec with the options that follow from other class counts than a fold's."""
    margins = by_index(config.class_margins or {}, classes, "class_margins")
    head = build_head(
        config.loss,
        2,
        len(counts),
        torch.tensor(counts),
        bias=config.head_bias,
        class_margins=margins,
        class_names=classes,
    )
    return resolved_spec(config.loss, head)


def new_folder(run: Run, asked: str) -> RunFolder:
    """Make the folder of a run that begins; `asked` is the hash of its config as it was given."""
    config = run.trainer.config
    assert run.images is not None
    name = run_name(
        config.dataset, config.model, parse_spec(config.loss)[0], config.seed, datetime.now()
    )
    if config.fold is not None:
        name += f"-f{config.fold}"
    folder = RunFolder.create(config.out, name)
    folder.write_config(dump_yaml(config))
    write_images(folder.path, run.images)  # before environment.json, by which a sweep finds the run
    known_by: dict[str, Any] = {"asked": asked, "pretrained": pretrained_digest(config)}
    if first_stage := first_stage_of(config):
        known_by["first_stage"] = first_stage
    if records := own_code.records_of(config):
        known_by["own_code"] = records
    folder.write_environment(environment.describe(run.trainer.device_text) | known_by)
    return folder


def _train(run: Run, where: str, display: Display) -> History:
    """Train to the end, saving every epoch into the folder; return what was done.

    `where` is the run folder's path on every rank. Raises StoppedError after a signal.
    """
    trainer, folder = run.trainer, run.folder
    history, start = History(), Position()
    if run.saved:
        run.saved.restore(trainer)
        history, start = run.saved.history, run.saved.position
    digests = run.images.all_digests if run.images else None
    single = trainer.ranks.size == 1
    drawn = folder.tensorboard if folder and trainer.config.tensorboard else None
    with (
        defer_signals(once_more=single) as stop,
        curves(drawn, history.rows) as draw_row,
        saves(folder, trainer, history, digests) as save,
    ):
        if is_out_of_patience(trainer.config, history, trainer.model.head):
            return history  # it had stopped, but was ended before its scores were there
        epochs = train(
            trainer,
            start=start,
            on_step=display.step,
            info=display.info,
            warn=display.warning,
            stop=stop,
        )
        try:
            for epoch in epochs:
                new_signs = [sign for sign in epoch.signs if sign not in history.warned]
                history.add(epoch, trainer.config.best_tolerance)
                history.warned += new_signs
                save(Position(epoch=epoch.epoch))
                draw_row(history.rows[-1])
                if folder:
                    _report(epoch, new_signs, trainer.config, folder, display)
                if is_out_of_patience(trainer.config, history, trainer.model.head):
                    break
        except PausedError as paused:
            if paused.position.step:
                save(paused.position)
            raise _stopped(paused, where) from None
    return history


def _stopped(paused: PausedError, where: str) -> StoppedError:
    name, epoch = signal.Signals(paused.signal).name, paused.position.epoch
    place = f"in epoch {epoch + 1}" if paused.position.step else f"after epoch {epoch}"
    way_on = f"`lmsm resume {shlex.quote(where)}` goes on"
    return StoppedError(f"stopped by {name} {place}, and saved; {way_on}", paused.signal)


def _report(
    epoch: Epoch, signs: list[str], config: Config, folder: RunFolder, display: Display
) -> None:
    """Write a finished epoch down and show it; warn of the signs of a collapse that are new."""
    folder.append_metrics(epoch.to_row())
    folder.log_line(f"epoch {epoch.epoch}: {epoch.to_row()}")
    display.epoch(epoch, config.epochs)
    for sign in signs:
        display.warning(f"Epoch {epoch.epoch}: {epoch.signs[sign]}")
