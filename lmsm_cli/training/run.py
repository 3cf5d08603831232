"""From a Config to a finished run, as train, demo, sweep and resume make it."""

import shlex
import signal
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

# These two now: the frames that import them are kept alive, and later ones hold a training.
import matplotlib.backends.backend_agg  # noqa: F401
import torch._dynamo  # noqa: F401

from lmsm_cli.config import Config, dump_yaml
from lmsm_cli.data.find_again import check_at_hand
from lmsm_cli.distributed.process_group import init_distributed
from lmsm_cli.errors import LmsmError, StoppedError
from lmsm_cli.losses.own import blamed
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.runs import environment, own_code
from lmsm_cli.runs.checkpoint import check_has_net
from lmsm_cli.runs.contents import Position
from lmsm_cli.runs.documents import Images
from lmsm_cli.runs.first_stage import first_stage_of
from lmsm_cli.runs.folder import RunFolder, is_run, run_name
from lmsm_cli.runs.images import write_images, write_predictions
from lmsm_cli.runs.record import only_run, read_run
from lmsm_cli.runs.tensorboard import curves
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
from lmsm_cli.training.loop import PausedError, train
from lmsm_cli.training.patience import is_out_of_patience
from lmsm_cli.training.prepare import Run, prepare, prepare_rest
from lmsm_cli.training.resume import (
    History,
    ResumeState,
    config_hash,
    pretrained_digest,
    read_resume_state,
    saves,
)


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
                    f"--epochs with more than {saved.config.epochs} continues it"
                )
            else:
                if not changes.get("data_dir"):
                    check_at_hand(saved.config)
                run = prepare_rest(saved, log, ranks)
                if ranks.is_main:
                    run = replace(run, folder=folder)
                    _note_resumption(run, folder, saved, log)
                _finish(run, log, with_plots)
        return folder if ranks.is_main else None


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
    text = f"{folder.path}: continues after {place}"
    folder.log_line(text)
    display.info(text)
    _note_device(run, folder, display)
    if difference := saved.difference_to(where):
        display.warning(
            f"{difference}: the end is that of an undisturbed run but for rounding and dropout's "
            "draws"
        )


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
        known_by["first_stage"] = first_stage.name
        known_by["first_stage_steps"] = first_stage.steps
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
    way_on = f"`lmsm resume {shlex.quote(where)}` continues it"
    return StoppedError(f"stopped by {name} {place}, and saved", paused.signal, way_on=way_on)


def _report(
    epoch: Epoch, signs: list[str], config: Config, folder: RunFolder, display: Display
) -> None:
    """Write a finished epoch down and show it; warn of the signs of a collapse that are new."""
    folder.append_metrics(epoch.to_row())
    folder.log_line(f"epoch {epoch.epoch}: {epoch.to_row()}")
    display.epoch(epoch, config.epochs)
    for sign in signs:
        display.warning(f"Epoch {epoch.epoch}: {epoch.signs[sign]}")
