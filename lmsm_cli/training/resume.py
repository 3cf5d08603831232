"""The training state of a run, saved in checkpoints and read again to resume it.

A checkpoint has everything: weights, optimizer, position, random generators, and the rows of
metrics.jsonl. The other files of a run folder are made from it again where they are behind.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lmsm_cli.config import ADDED_KEYS, CHANGEABLE_KEYS, RUNTIME_KEYS, Config, dump
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.identity import ImagesRecord, file_digest
from lmsm_cli.data.splits import Data
from lmsm_cli.errors import MALFORMED, CheckpointError, DataError, LmsmError, first_line
from lmsm_cli.losses.registry import (
    USUAL_ON_TAILS,
    check_known_loss,
    has_usual_margin,
    normal_spec,
)
from lmsm_cli.runs import checkpoint, committed, own_code
from lmsm_cli.runs.contents import CheckpointState, Position
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.images import read_images_record, recorded_images
from lmsm_cli.runs.one_run import TELLING, check_own
from lmsm_cli.runs.own_code import train_again
from lmsm_cli.runs.record import read_run
from lmsm_cli.runs.start import weights_file
from lmsm_cli.runs.weights import check_kept
from lmsm_cli.runs.writer import Snapshot, checkpoint_writer
from lmsm_cli.runtime.display import Epoch
from lmsm_cli.runtime.memory import is_out_of_memory
from lmsm_cli.training.loop import Trainer
from lmsm_cli.training.step import optimizer_state, restore_optimizer

# Keys of a checkpoint that a run can go on from, and their names in CheckpointState.
_TO_GO_ON = {key: key for key in ("position", "fingerprint", "versions", "optimizer")}
_TO_GO_ON["journal"] = "history"


@dataclass
class History:
    """The epochs of a run, and what follows from all of them."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of metrics.jsonl."""
    best: dict[str, Any] | None = None
    """Epoch and val_balanced_accuracy of best.pt; None where nothing was held out."""
    warned: list[str] = field(default_factory=list)
    """The signs of a collapse that the user was warned of."""
    lengthened_from: list[int] = field(default_factory=list)
    """Earlier values of `epochs` of an extended run; its schedules were computed for those."""
    patient_from: int = 0
    """The epochs that were done when the run was last extended: patience counts from there."""

    def add(self, epoch: Epoch, tolerance: float) -> None:
        """Add an epoch; it is the best where its validation is better by more than `tolerance`."""
        self.rows.append(epoch.to_row())
        value = epoch.val_balanced_accuracy
        if value is None:
            return
        if self.best is None or value > self.best["val_balanced_accuracy"] + tolerance:
            self.best = {"epoch": epoch.epoch, "val_balanced_accuracy": value}

    def lengthen(self, epochs: int) -> None:
        """Note that the run, which was to have so many epochs, is to have more."""
        self.lengthened_from.append(epochs)
        self.patient_from = len(self.rows)

    @property
    def is_at_best(self) -> bool:
        """Whether the last finished epoch is the best."""
        return self.best is not None and self.best["epoch"] == len(self.rows)


@dataclass(frozen=True)
class ResumeState:
    """A run read back: its config as it is to go on, its position, and what it has done."""

    folder: RunFolder
    config: Config
    position: Position
    history: History
    state: CheckpointState | None
    """The checkpoint; None where the run was ended before its first."""
    is_finished: bool = False
    images: ImagesRecord | None = None
    """images.npz; None where it is not there."""

    def check_data(self, data: Data) -> None:
        """Raise DataError where the images are not those that the checkpoint has digests of."""
        if self.state is None or self.images is not None:
            return
        recorded = self.state.images
        if recorded is None:
            is_same = list(data.training.classes) == self.state.classes
            is_same = is_same and data.train_counts == self.state.train_counts
        else:
            is_same = data.record().all_digests == recorded
        if not is_same:
            raise DataError(
                f"{self.config.data_dir} holds other images than the run had; give the run's data "
                "with --data-dir"
            )

    def difference_to(self, runtime: str) -> str:
        """Return how torch or the runtime differ from before, in words; "" if they do not."""
        versions = _versions(runtime)
        before = (self.state and self.state.versions) or versions
        # an older lmsm wrote it so
        before = {name: text.replace(" 1 threads", " 1 thread") for name, text in before.items()}
        pairs = [(before.get(name), now) for name, now in versions.items()]
        return "; ".join(f"{old} before, {now} now" for old, now in pairs if old != now)

    def restore(self, trainer: Trainer) -> None:
        """Give a freshly built model and optimizer what was saved of them.

        Raises CheckpointError where they don't fit, torch's own error where memory does not do.
        """
        if self.state is None:
            return
        try:
            trainer.model.load_state_dict(self.state.model)
            if trainer.average and self.state.averaging:
                trainer.average.restore(self.state.model, self.state.averaging.steps)
                trained = self.state.model | self.state.averaging.trained
                trainer.model.load_state_dict(trained)
            restore_optimizer(trainer.model, trainer.optimizer, self.state.optimizer or {})
        except MALFORMED as error:
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                f"{self.folder.checkpoint} does not fit its own config: {first_line(error)}"
            ) from None


@contextmanager
def saves(
    folder: RunFolder | None,
    trainer: Trainer,
    history: History,
    images: Mapping[str, str | None] | None,
) -> Iterator[Callable[[Position], None]]:
    """Give a function that saves a training into its folder, if any, while the training goes on.

    The last epoch is waited for, and all at the end of the body. Raises DiskError, perhaps later.
    """
    if folder is None:
        yield lambda position: None
        return
    with checkpoint_writer(folder) as writer:

        def save(position: Position) -> None:
            writer.put(snapshot_of(trainer, history, position, images))
            if position.epoch == trainer.config.epochs:
                writer.flush()  # now: a signal that comes meanwhile is still asked for

        yield save


def snapshot_of(
    trainer: Trainer,
    history: History,
    position: Position,
    images: Mapping[str, str | None] | None = None,
) -> Snapshot:
    """Return what a checkpoint is to hold of a training that stands at a position.

    `images` are the digests of the run's images by part.
    """
    choices = dump(trainer.config)
    state = checkpoint.state_of(
        trainer.tested,
        choices,
        train_counts=trainer.data.train_counts,
        image_shape=trainer.image_shape,
        epoch=position.epoch,
        optimizer=optimizer_state(trainer.model, trainer.optimizer),
        position=dict(position),
        journal=vars(history),
        fingerprint=fingerprint(choices),
        versions=_versions(trainer.device_text),
        images=images,
        metrics=committed.digest_of(history.rows),
        own_code=own_code.records_of(trainer.config),
        **_averaging(trainer),
    )
    is_best = history.is_at_best and not position.step
    return Snapshot.of(state, is_best=is_best, device=trainer.runtime.device)


def _averaging(trainer: Trainer) -> dict[str, Any]:
    """Return what goes on below averaged weights; the buffers of both nets are the same."""
    if trainer.average is None:
        return {}
    trained = {name: p.detach() for name, p in trainer.model.named_parameters()}
    return {"averaging": {"steps": int(trainer.average.steps), "trained": trained}}


def _versions(runtime: str) -> dict[str, str]:
    """Return what the bits of a training depend on, beside its config."""
    return {"torch": f"torch {torch.__version__}", "runtime": runtime}


def fingerprint(choices: dict[str, Any]) -> str:
    """Return the SHA-256 of a config as plain types: equal configs, equal fingerprints."""
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()


def pretrained_digest(config: Config) -> str | None:
    """Return the digest of the file of weights to start from, of a run that of its checkpoint.

    None where there is no such file.
    """
    with suppress(OSError, LmsmError):
        file = weights_file(config.pretrained)
        return file_digest(file) if file else None
    return None


def config_hash(
    config: Config,
    *,
    knows_images: bool = True,
    knows_spellings: bool = True,
    knows_tails: bool = True,
) -> str:
    """Return the fingerprint of a config as the user gave it, before anything is resolved.

    The hash ignores where a run computes and where its data lies, since the run folder records
    which images they are. Weights to start from count by their content. With `knows_images` False
    it is the hash of an older lmsm, to which the paths of a `folder` and of weights counted; with
    `knows_spellings` False of one to which the loss counted as it was written, and with
    `knows_tails` False of one whose lsoftmax was margin=auto on a long tail.
    A value of None, or the default of a key that was added later, leaves no trace, so that an lmsm
    with more keys finds the run again. A default that was changed does, or runs of the older one
    would be taken for runs of today's.
    """
    without = set(RUNTIME_KEYS)
    if config.dataset == "folder" and not knows_images:
        without.remove("data_dir")
    usual = {key: Config.model_fields[key].default for key in ADDED_KEYS}
    made = {
        key: value
        for key, value in dump(config).items()
        if value is not None and value != usual.get(key)
    }
    if knows_spellings:
        made["loss"] = normal_spec(config.loss)
    if knows_tails and has_usual_margin(config.loss):  # which was another one before 0.2
        made["usual_margin"] = USUAL_ON_TAILS
    if knows_images and (weights := pretrained_digest(config)):
        made["pretrained"] = weights
    if digests := own_code.digests_of(config):
        made["own_code"] = digests
    return fingerprint({key: value for key, value in made.items() if key not in without})


def read_resume_state(
    folder: RunFolder, changes: dict[str, Any], warn: Callable[[str], None], *, strict: bool = False
) -> ResumeState:
    """Return a run from its folder, with changed values of its config.

    A damaged checkpoint is renamed to `*.corrupt` with a warning, and the one before is taken;
    with `strict` it is an error. Call this with the folder's lock.

    Raises CheckpointError where no checkpoint is good, it is of another run, or rows of
    metrics.jsonl were lost or edited, LmsmError for a change that would make it another run.
    """
    folder.remove_left_over()
    state, file = _newest_of_training(folder, warn, strict=strict)
    if state is None:
        config = _changed(_written_config(folder), changes)
        own_code.check_allowed(config, _recorded_code(folder), folder.path)
        return ResumeState(
            folder, config, Position(), History(), None, images=read_images_record(folder.path)
        )
    if state.correction:
        raise CheckpointError(
            f"{file} has a correction built in, and no training goes on from it: put the run's own "
            f"{file.name} back, or start a new run from it with --pretrained {file}"
        )
    if missing := [key for key, name in _TO_GO_ON.items() if getattr(state, name) is None]:
        raise CheckpointError(
            f"{file} was saved by an older lmsm, and holds nothing to resume from: it lacks "
            + ", ".join(missing)
        )
    assert state.position
    assert state.history
    position = state.position
    try:
        history = History(**dict(state.history))
    except MALFORMED as error:
        raise CheckpointError(f"{file} does not fit this lmsm: {first_line(error)}") from None
    # a key that this lmsm has and that one had not is at its default, which changes nothing
    known = {key: value for key, value in dump(state.config).items() if key in state.choices}
    if fingerprint(known) != state.fingerprint:
        raise CheckpointError(
            f"{file} holds a config that this lmsm reads otherwise: resume it with the lmsm that "
            "saved it"
        )
    # first, since rows of another run are no rows to put back
    images = recorded_images(folder.path, state.images, file)
    check_own(state, file, TELLING)
    config = _changed(state.config, _edited(folder, state) | changes)
    if state.metrics:  # an older lmsm kept no digest
        committed.check_rows(
            folder, history.rows, state.metrics, is_last_appended=position.step > 0
        )
    own_code.check_allowed(config, state.own_code, folder.path)
    if config.epochs > state.config.epochs:
        history.lengthen(state.config.epochs)
    if history.is_at_best and not position.step:
        _mend_best(folder, file, state.epoch)
    is_finished = _is_completed(folder, position.epoch, config.epochs)
    return ResumeState(folder, config, position, history, state, is_finished, images)


def _edited(folder: RunFolder, state: CheckpointState) -> dict[str, Any]:
    """Return what config.yaml says otherwise than the checkpoint. Raises as `_written_config`."""
    written = dump(_written_config(folder))
    return {key: value for key, value in written.items() if value != state.choices.get(key)}


def _newest_of_training(
    folder: RunFolder, warn: Callable[[str], None], *, strict: bool
) -> tuple[CheckpointState | None, Path]:
    """Return what `_newest` does.

    Raises CheckpointError for a run that was no training, and for one whose weights were dropped.
    """
    state, file = _newest(folder, warn, strict=strict)
    if state is None:
        check_kept(folder.path)
    config = state.config if state else _written_config(folder)
    if config.post_hoc:
        raise CheckpointError(
            f"{folder.path} was made without a training (post_hoc {config.post_hoc!r}), so there "
            f"is nothing to resume; train another last layer on {config.pretrained} with "
            "`lmsm retrain`"
        )
    return state, file


def _recorded_code(folder: RunFolder) -> dict[str, Any]:
    """Return what environment.json says of code outside this package."""
    environment = read_run(folder.path, with_metrics=False).environment
    found = (environment and environment.own_code) or {}
    return {kind: one.to_json() for kind, one in found.items()}


def _is_completed(folder: RunFolder, epoch: int, epochs: int) -> bool:
    """Return whether the run ended with scores of that epoch, and with all that is made of them.

    That is its last, or the one after which it had no patience for the rest of its epochs.
    """
    record = read_run(folder.path)
    scores = record.scores
    if record.state != "completed" or scores is None or scores.epoch != epoch:
        return False
    return epochs in (epoch, scores.stopped_before)


def _newest(
    folder: RunFolder, warn: Callable[[str], None], *, strict: bool
) -> tuple[CheckpointState | None, Path]:
    """Return the newest good checkpoint, and its file; None where none was ever saved."""
    files = [folder.checkpoint, folder.previous_checkpoint]
    damaged: list[str] = []
    for file in filter(Path.exists, files):
        try:
            state = checkpoint.load(file)
        except CheckpointError as error:
            if strict:
                raise
            damaged.append(str(error))
            continue
        for text in damaged:
            aside = folder.checkpoint.with_name(f"{folder.checkpoint.name}.corrupt")
            with suppress(OSError):
                folder.checkpoint.replace(aside)
            warn(f"{text}; it is now {aside.name}, and {file.name} is taken: epoch {state.epoch}")
        return state, file
    if damaged:
        raise CheckpointError(
            "; ".join(damaged) + f"; start again with `{train_again(folder.path)}`"
        )
    return None, folder.checkpoint


def _mend_best(folder: RunFolder, file: Path, epoch: int) -> None:
    """Make best.pt again from a checkpoint, where the run was ended between the two."""
    try:
        is_there = checkpoint.load(folder.best_checkpoint).epoch == epoch
    except CheckpointError:
        is_there = False
    if not is_there:
        checkpoint.duplicate(file, folder.best_checkpoint)


def _written_config(folder: RunFolder) -> Config:
    """Return config.yaml. Raises LmsmError where it is missing or damaged."""
    file = folder.path / "config.yaml"
    if not file.is_file():
        raise LmsmError(f"{folder.path} is no run folder: it has no config.yaml")
    return resolve([Layer.of_file(file)], check_known_loss, is_saved=True).config


def _changed(config: Config, changes: dict[str, Any]) -> Config:
    """Return the config with the changes; raise LmsmError that lists those that can't be made."""
    before = dump(config)
    layers = [Layer(before, dict.fromkeys(before, "the run")), Layer.of_flags(changes)]
    changed = resolve(layers, check_known_loss, is_saved=True).config
    after = dump(changed)
    is_longer = changed.epochs > config.epochs
    changeable = (*CHANGEABLE_KEYS, "epochs") if is_longer else CHANGEABLE_KEYS
    refused = [
        f"{key} was {before[key]!r}, and {value!r} is asked for"
        for key, value in after.items()
        if value != before[key] and key not in changeable
    ]
    if refused:
        raise LmsmError(
            f"{'; '.join(refused)}; a resumed run keeps its choices, but for "
            f"{', '.join(CHANGEABLE_KEYS)} and more epochs: start a new one with `lmsm train`"
        )
    return changed
