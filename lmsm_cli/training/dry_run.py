"""A run tried out before it starts: everything that it does, once, and what the whole will take."""

import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lmsm_cli.config import Config, dump
from lmsm_cli.config.in_words import augmentation_text
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.distributed.process_group import SINGLE_PROCESS, ProcessGroup, init_distributed
from lmsm_cli.errors import DiskError, RunError
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.contents import Position
from lmsm_cli.runs.folder import RunFolder, folder_above, reason_of
from lmsm_cli.runs.writer import INTERVAL
from lmsm_cli.runtime.display import SILENT, Display, Step
from lmsm_cli.runtime.memory import peak_memory, reported_memory
from lmsm_cli.runtime.signals import ignore_sighup
from lmsm_cli.training.finish import build_scores_json, draw_plots, net_facts, score_images
from lmsm_cli.training.loop import Trainer, train, validate
from lmsm_cli.training.prepare import prepare
from lmsm_cli.training.resume import History, snapshot_of
from lmsm_cli.training.step import new_optimizer, restore_optimizer

# Steps that are not timed: the first, and on a GPU those until the CUDA graph is there.
_WARM_UP = {"cpu": 1, "cuda": 8}
# Steps that are timed together: to wait for a GPU after each would leave it idle before the next.
_TOGETHER = {"cpu": 1, "cuda": 10}
# Seconds of timed steps: two steps alone are noise.
_TIMED_SECONDS = 1.5
# Images of a batch in evaluation; the second of two batches is timed.
_EVALUATED = 250
# Epochs of the history that is drawn to see how long that takes.
_MOST_DRAWN = 200
# Plots, logs and scores of a run folder, and a row of metrics.jsonl.
_OTHER_FILES, _ROW = 1_000_000, 1_500


class _EnoughError(Exception):
    """Enough steps were timed."""


class _Clock:
    """Times the steps of a training on all its ranks, and ends it after at least two.

    Steps are timed in blocks, of which none goes beyond an epoch.
    """

    def __init__(self, device: torch.device, ranks: ProcessGroup) -> None:
        self._device, self._ranks = device, ranks
        self.num_steps = 0
        self.first = 0.0
        self._times: list[float] = []
        self._timed = 0.0
        self._before, self._in_block = time.perf_counter(), 0

    @property
    def seconds(self) -> float:
        """The time of a warm step; of the first, where there was only one."""
        return statistics.median(self._times or [self.first])

    @property
    def first_extra(self) -> float:
        """What the first step takes longer."""
        return max(0.0, self.first - self.seconds)

    def __call__(self, step: Step) -> None:
        """Note that a step was taken. Raises _EnoughError on all ranks alike."""
        self.num_steps += 1
        self._in_block += 1
        warm_up = _WARM_UP[self._device.type]
        is_edge = step.step in (1, step.num_steps) or self.num_steps == warm_up
        if not is_edge and self._in_block < _TOGETHER[self._device.type]:
            return
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        took = time.perf_counter() - self._before
        if self.num_steps == 1:
            self.first = took
        elif self.num_steps > warm_up and (step.step > 1 or step.num_steps == 1):
            self._times.append(took / self._in_block)  # not what follows the end of an epoch
            self._timed += took
        too_few = not self._times or self._timed < _TIMED_SECONDS
        if not self._ranks.all_reduce_max(int(too_few)):
            raise _EnoughError
        self._before, self._in_block = time.perf_counter(), 0


def dry_run(config: Config, display: Display) -> dict[str, Any] | None:
    """Try out a run: train and evaluate a little, save and read back; return what all will take.

    At least two real batches are trained and two of each other split are evaluated; the checkpoint
    is removed again. Downloads and decoded images stay for the run. Returns None on all but the
    first rank. Raises what the run would raise, and DiskError where it would fill the disk.
    """
    with init_distributed(config.device) as ranks, ignore_sighup():
        started = time.perf_counter()
        trainer = prepare(config, display if ranks.is_main else SILENT, ranks).trainer
        preparing = time.perf_counter() - started
        with reported_memory(trainer.runtime.device, config.batch_size):
            document = _measured(trainer, preparing, display if ranks.is_main else SILENT)
        return document if ranks.is_main else None


def needed_disk(config: Config, display: Display) -> dict[str, int]:
    """Return the bytes that a run leaves, by its checkpoint after one step, and those free there.

    Raises as `dry_run`.
    """

    def is_enough(_: Step) -> None:
        raise _EnoughError

    with init_distributed(config.device) as ranks, ignore_sighup():
        trainer = prepare(config, display, ranks).trainer
        with reported_memory(trainer.runtime.device, config.batch_size):
            with suppress(_EnoughError):
                for _ in train(trainer, on_step=is_enough, warn=display.warning):
                    pass
            with _trial_folder(config.out) as folder:
                size, _ = _save_and_read_back(trainer, folder)
        return _disk(config, size * _copies(trainer))


def _copies(trainer: Trainer) -> int:
    """Return how many checkpoints a run has in the end."""
    return 3 if trainer.data.validation else 2


def _measured(trainer: Trainer, preparing: float, display: Display) -> dict[str, Any]:
    """Do everything once; return what it took, and what follows for the run.

    `preparing` are the seconds in which the data was read and the net built.
    """
    config, data = trainer.config, trainer.data
    clock = _Clock(trainer.runtime.device, trainer.ranks)
    with suppress(_EnoughError):
        for _ in train(trainer, on_step=clock, warn=display.warning):
            pass
    num_validation = len(data.validation or ())
    validation = num_validation * _seconds_an_image(trainer, data.validation, is_test=False)
    test = len(data.test) * _seconds_an_image(trainer, data.test, is_test=True)
    num_bytes, saving, plotting = _try_files(trainer) if trainer.ranks.is_main else (0, 0.0, 0.0)
    epoch = trainer.num_steps * clock.seconds + validation
    # The first, the last, and every few seconds; of the best between them nothing is known.
    saves = min(config.epochs, 2 + config.epochs * epoch / INTERVAL)
    phases = {
        "preparing": preparing,
        "training": clock.first_extra + config.epochs * trainer.num_steps * clock.seconds,
        "validation": config.epochs * validation,
        "checkpoints": saves * saving,
        "testing": test * (2 if data.validation else 1),  # best.pt too, if of another epoch
        # the features of a net that can be drawn are those of all test images
        "plots": plotting + (test if trainer.model.head.weight.shape[1] == 2 else 0.0),
    }
    document = {
        "device": trainer.device_text,
        "model": config.model,
        **net_facts(trainer),
        "training_images": len(data.training),
        "validation_images": num_validation,
        "test_images": len(data.test),
        "augmentation": augmentation_text(dump(config)),
        "trained_steps": clock.num_steps,
        "steps_per_epoch": trainer.num_steps,
        "epochs": config.epochs,
        "first_step_seconds": clock.first,
        "step_seconds": clock.seconds,
        "images_per_second": config.batch_size / clock.seconds,
        "save_seconds": saving,
        "epoch_seconds": epoch + saves * saving / config.epochs,
        "phases": phases,
        "total_seconds": sum(phases.values()),
        "peak_memory_bytes": peak_memory(trainer.runtime.device),
        "checkpoint_bytes": num_bytes,
    }
    return document | _disk(config, num_bytes * _copies(trainer))


def _seconds_an_image(trainer: Trainer, images: ImageSet | None, *, is_test: bool) -> float:
    """Evaluate two batches of images as the run would; return the seconds that one image takes."""
    if images is None:
        return 0.0
    chosen = torch.linspace(0, len(images) - 1, min(2 * _EVALUATED, len(images))).long()
    seconds = 0.0
    for part in chosen.tensor_split(2):  # the first warms up
        started = time.perf_counter()
        if is_test:
            score_images(trainer, images.subset(part))
        else:
            validate(trainer, images.subset(part))
        seconds = (time.perf_counter() - started) / max(1, len(part))
    return seconds


def _try_files(trainer: Trainer) -> tuple[int, float, float]:
    """Write and draw where the run would; return a checkpoint's bytes, the seconds of both.

    Raises DiskError, and RunError where reading the checkpoint back gives something else.
    """
    with _trial_folder(trainer.config.out) as folder:
        size, saving = _save_and_read_back(trainer, folder)
        return size, saving, _seconds_of_plots(trainer, folder)


@contextmanager
def _trial_folder(out: Path) -> Iterator[RunFolder]:
    """Give a run folder where `out` is, or will be, which is removed after the body.

    Raises DiskError where nothing can be written there.
    """
    above = folder_above(out)
    try:
        with TemporaryDirectory(prefix=".lmsm-dry-run-", dir=above) as name:
            yield RunFolder(Path(name))
    except OSError as error:
        raise DiskError(
            f"cannot write in {above}: {reason_of(error)}; choose another folder with --out"
        ) from None


def _save_and_read_back(trainer: Trainer, folder: RunFolder) -> tuple[int, float]:
    """Save a checkpoint; return its bytes and the seconds of saving it.

    Raises RunError where reading it back gives something else.
    """
    model, config = trainer.model, trainer.config
    started = time.perf_counter()
    snapshot_of(trainer, History(), Position()).write(folder)
    seconds = time.perf_counter() - started
    state = checkpoint.load(folder.checkpoint)
    saved = checkpoint.restore(state, folder.checkpoint).state_dict()
    restore_optimizer(model, new_optimizer(model, config), state.optimizer or {})
    kept = trainer.tested.state_dict().items()
    if not all(torch.equal(value.cpu(), saved[key]) for key, value in kept):
        raise RunError("the checkpoint does not give back the weights that were saved")
    return folder.checkpoint.stat().st_size, seconds


def _seconds_of_plots(trainer: Trainer, folder: RunFolder) -> float:
    """Draw the plots of a made-up history and of a batch of test images; return the seconds."""
    part = torch.linspace(0, len(trainer.data.test) - 1, min(_EVALUATED, len(trainer.data.test)))
    few = replace(trainer.data, test=trainer.data.test.subset(part.long()))
    briefly = replace(trainer, data=few, ranks=SINGLE_PROCESS)
    row = dict.fromkeys(("train_loss", "train_accuracy", "lr", "seconds", "images_per_second"), 1.0)
    epochs = range(1, min(trainer.config.epochs, _MOST_DRAWN) + 1)
    history = History([row | {"epoch": epoch} for epoch in epochs])
    scores, _ = score_images(briefly, few.test)
    folder.write_scores(build_scores_json(scores, briefly, history, folder, SILENT))
    folder.write_metrics(history.rows)
    started = time.perf_counter()
    draw_plots(folder, briefly)
    return time.perf_counter() - started


def _disk(config: Config, checkpoints: int) -> dict[str, int]:
    """Return the bytes that the run needs, and those free. Raises DiskError for too few."""
    needed = checkpoints + _OTHER_FILES + config.epochs * _ROW
    free = shutil.disk_usage(folder_above(config.out)).free
    if needed > free:
        raise DiskError(
            f"the run needs about {needed / 1e6:,.0f} MB in {config.out}, and {free / 1e6:,.0f} MB "
            "are free there; choose another folder with --out"
        )
    return {"disk_bytes": needed, "free_disk_bytes": free}
