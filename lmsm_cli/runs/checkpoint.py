"""Checkpoints: saved whole or not at all, verified before they replace anything, plain data only.

torch.save alone leaves a broken file when it is killed, and torch.load takes a flipped byte for
data. So: write beside the target, flush to the disk, verify every CRC, add a digest, then rename.
The digest of all bytes before it is the comment of the zip archive that torch.save makes: one file,
so that it is never the digest of another, and torch.load reads it as before.
"""

import hashlib
import os
import pickle
import shutil
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from lmsm_cli.errors import (
    MALFORMED,
    ArgumentError,
    CheckpointError,
    DiskError,
    LmsmError,
    first_line,
    listed,
)
from lmsm_cli.models.classifier import Classifier, ModelSpec, build_classifier, head_width
from lmsm_cli.models.nets import check_model
from lmsm_cli.runs import contents, own_code
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.one_run import check_own
from lmsm_cli.runs.record import RunRecord, ending_of, only_run, read_run
from lmsm_cli.runs.weights import check_kept
from lmsm_cli.runtime.files import open_regular, replacing, sync_folder, temporary_of

BEST = "best.pt"
ADJUSTED = "adjusted.pt"
"""What `lmsm adjust` writes: a checkpoint with a correction built in."""
SCHEMA = 2
CORRECTED = 3  # SCHEMA with a correction built in, which an older lmsm would leave out unsaid
_READABLE = (1, 2, 3)  # 1 had no digest, and nothing to resume from
_MARK = b"lmsm-sha256:"
_BLOCK = 1 << 20
_COMMENT = len(_MARK) + 64  # bytes, after two that hold this number, which end an archive
_KEYS = ("config", "classes", "mean", "std", "model", "train_counts", "image_shape", "epoch")


def save(state: dict[str, Any], path: Path) -> None:
    """Write `state`, tensors and plain types only, to `path` by way of a verified temporary file.

    Raises DiskError where the file cannot be written; what stood at `path` is then untouched.
    """
    temporary = temporary_of(path)
    try:
        with replacing(path) as file:
            torch.save(state, file)
            file.flush()
            with ThreadPoolExecutor(1) as thread:  # half the time of a ResNet-18's checkpoint
                digest = thread.submit(_digest, temporary, file.tell() - 2)
                os.fsync(file.fileno())
                _verify_records(temporary)
            file.seek(-2, os.SEEK_END)
            file.write(struct.pack("<H", _COMMENT) + _MARK + digest.result())
    except (OSError, RuntimeError, CheckpointError) as error:
        # torch reports a full disk as RuntimeError
        raise DiskError(
            f"checkpoint {path} could not be saved: {_why(error, path)}; the one before is kept"
        ) from None


def _why(error: Exception, path: Path) -> str:
    """Return an error in words; of a write that failed, also how much room there is.

    torch closes its archive after a write has failed, and then complains of that archive.
    """
    first: BaseException | None = error
    while first is not None and not isinstance(first, OSError):
        first = first.__context__
    reason = getattr(first, "strerror", None) or first_line(error)
    with suppress(OSError):
        reason += f" ({shutil.disk_usage(path.parent).free / 1e6:,.0f} MB are free there)"
    return reason


def duplicate(source: Path, target: Path) -> None:
    """Make `target` the same checkpoint as the verified `source`, replacing it whole."""
    try:
        if not _linked(source, target):
            with open_regular(source) as read, replacing(target) as file:
                shutil.copyfileobj(read, file, _BLOCK)
    except OSError as error:
        raise DiskError(f"checkpoint {target} could not be written: {error}") from None


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name; return whether that can be: not on every disk, nor of a link."""
    temporary = temporary_of(target)
    if source.is_symlink() or not source.is_file():
        return False
    try:
        temporary.unlink(missing_ok=True)
        os.link(source, temporary)
    except OSError:
        return False
    try:
        temporary.replace(target)
        sync_folder(target.parent)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def load(path: Path) -> CheckpointState:
    """Return the checked contents of a checkpoint file; nothing in it is executed.

    Raises CheckpointError where the file is missing, damaged, no checkpoint, or holds objects.
    """
    if not path.is_file():
        check_kept(path.parent)
        raise CheckpointError(f"no checkpoint at {path}")
    has_digest = _verify(path)
    with _about(path):
        contents.check_structure(_structure(path))
    try:
        with warnings.catch_warnings():  # torch's words on what it then reads or refuses
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds objects that are no plain data; nothing was executed"
        ) from None
    except MALFORMED as error:
        raise CheckpointError(f"{path} is no lmsm checkpoint: {first_line(error)}") from None
    if not isinstance(state, dict) or not isinstance(state.get("schema"), int):
        raise CheckpointError(f"{path} is no lmsm checkpoint: it holds no schema number")
    if state["schema"] not in _READABLE:
        raise CheckpointError(
            f"{path} has schema {state['schema']}, this lmsm reads "
            + listed([str(number) for number in _READABLE])
        )
    if state["schema"] > 1 and not has_digest:
        raise CheckpointError(f"{path} is damaged: its digest is missing")
    if missing := [key for key in _KEYS if key not in state]:
        raise CheckpointError(f"{path} is incomplete: it lacks {', '.join(missing)}")
    with _about(path):
        return contents.check(state, path.stat().st_size)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Begin the message of a CheckpointError with the name of the file."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None


def is_checkpoint(path: Path) -> bool:
    """Return whether a file is a checkpoint of lmsm's own, by its digest; it may be damaged."""
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _COMMENT))
        return file.read(len(_MARK)) == _MARK
    return False


def find(path: Path, *, best: bool = False) -> Path:
    """Return the checkpoint file that a path names: itself, or checkpoint.pt of a run folder.

    The run may be the only one in the folder. With `best` it is best.pt of the run folder. Raises
    LmsmError where there are several runs, or a file is given and the best is asked for, and
    CheckpointError that says why there is none where the run has no such checkpoint.
    """
    if not path.is_dir():
        if best and path.exists() and path.name != BEST:
            raise LmsmError(
                f"--best takes {BEST} of a run folder, and {path} is a file: give the folder, "
                f"{path.parent}, or leave --best out"
            )
        return path
    run = only_run(path)
    if best:
        return _best_of(run)
    file = run / "checkpoint.pt"
    if _is_there(file):
        return file
    check_kept(run)
    record = read_run(run, with_metrics=False)
    check_has_net(record)
    if record.status is not None:
        raise CheckpointError(f"no checkpoint at {file}; the run is {ending_of(record.status)}")
    return file


def _is_there(file: Path) -> bool:
    """Return whether there is such a file. Raises CheckpointError where a folder has its name."""
    if file.is_dir():  # which `find` would look for a run in, where its answer is looked up again
        raise CheckpointError(f"{file} cannot be read: it is a folder")
    return file.exists()


def _best_of(run: Path) -> Path:
    """Return best.pt of a run folder. Raises CheckpointError that says why there is none."""
    file = run / BEST
    if _is_there(file):
        return file
    check_kept(run)
    record = read_run(run, with_metrics=False)
    check_has_net(record)
    if (record.config or {}).get("validation") == 0:
        why = "the run held out no validation images (validation 0), by which to tell the best"
    else:
        why = f"the run is {ending_of(record.status)}" if record.status else f"{run} is no run"
    raise CheckpointError(f"no {BEST} in {run}: {why}; without --best the last epoch is taken")


def epochs_of(state: CheckpointState, file: Path) -> int:
    """Return the epochs of a checkpoint's run: more than it knew where the run was made longer."""
    epochs = (read_run(file.parent, with_metrics=False).config or {}).get("epochs")
    return max(state.config.epochs, epochs if isinstance(epochs, int) else 0)


def check_has_net(record: RunRecord) -> None:
    """Raise CheckpointError for the results of another program, which has kept its net."""
    if record.is_outside:
        raise CheckpointError(
            f"{record.path} holds no net: it has the results of another program, to compare them"
        )


def state_of(
    model: Classifier,
    config: dict[str, Any],
    *,
    train_counts: list[int],
    image_shape: list[int],
    epoch: int,
    **more: Any,
) -> dict[str, Any]:
    """Return what a checkpoint holds: the model, all that is needed to rebuild it, and `more`.

    `image_shape` is (H, W, C); `train_counts` has the training images of each class.
    """
    return {
        "schema": SCHEMA,
        "config": config,
        "classes": list(model.classes),
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "train_counts": train_counts,
        "image_shape": image_shape,
        "epoch": epoch,
        "model": {key: value.detach() for key, value in model.state_dict().items()},
        **more,
    }


def restore(state: CheckpointState, path: Path) -> Classifier:
    """Return the classifier of a checkpoint's state, in eval mode, on the CPU.

    Raises CheckpointError where it doesn't fit, or names code that must not be imported for it.
    """
    config, weight = state.config, state.model["head.weight"]
    own_code.check_allowed(config, state.own_code, path)
    try:
        side, _, channels = state.image_shape
        check_model(config.model, channels=channels, image_size=side)
        spec = ModelSpec.of(config, image_size=side)
        width = head_width(spec, channels)
        if weight.shape[1] != width:  # before room for so many classes of the right width is made
            raise LmsmError(f"head.weight has {weight.shape[1]} columns, not {width}")
        model = build_classifier(
            spec,
            classes=state.classes,
            mean=state.mean,
            std=state.std,
            class_counts=torch.tensor(state.train_counts),
        )
        model.image_size = side
        model.load_state_dict(state.model)
        model.correct_by(state.correction.affine if state.correction else None)
    except (LmsmError, *MALFORMED) as error:
        raise CheckpointError(f"{path} does not fit this lmsm: {first_line(error)}") from None
    return model.eval()


def load_checkpoint(path: str | Path, imports: str | Sequence[str] | None = None) -> Classifier:
    """Return the classifier of a checkpoint file or run folder, ready to predict.

    It has `.classes`, and `.predict(images)` for uint8 images (N, C, H, W) of the size that it was
    trained with, its `.image_size`. A loss or net from outside this package is imported only where
    `imports` names it, as in `"my_losses:PolyLoss"` or a list of such texts.
    Raises CheckpointError, and ArgumentError for what is no path and no such text.
    """
    if not isinstance(path, str | os.PathLike):
        raise ArgumentError(
            f"load_checkpoint: the path is of type {type(path).__name__}: "
            "give a checkpoint file or a run folder"
        )
    names = [imports] if isinstance(imports, str) else imports or ()
    file = find(Path(path))
    with own_code.named(names, may_be_unused=True, in_python=True):
        state = load(file)
        check_own(state, file)
        return restore(state, file)


def _verify(path: Path) -> bool:
    """Check the digest; return whether there is one, else check the CRC of every record."""
    try:
        with path.open("rb") as file:
            start = file.seek(0, os.SEEK_END) - _COMMENT - 2
            file.seek(max(0, start))
            end = file.read()
        if end[: 2 + len(_MARK)] == struct.pack("<H", _COMMENT) + _MARK:
            if end[2 + len(_MARK) :] != _digest(path, start):
                raise CheckpointError(f"{path} is damaged: its bytes do not give its digest")
            return True
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    _verify_records(path)
    return False


def _structure(path: Path) -> bytes:
    """Return the pickle of all but the tensors; refuse what could fill the memory.

    Compressed records are none of torch.save's, and a small one can hold any number of zeros.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            if any(record.compress_type for record in records):
                raise CheckpointError("is no lmsm checkpoint: its records are compressed")
            # torch finds a record whatever the case of its name
            pickles = [one for one in records if one.filename.lower().endswith("data.pkl")]
            if len(pickles) != 1 or pickles[0].file_size > contents.LARGEST_STRUCTURE:
                raise CheckpointError(
                    "is no lmsm checkpoint: it holds more values than a run has, or none"
                )
            return archive.read(pickles[0])
    except (zipfile.BadZipFile, *MALFORMED) as error:
        raise CheckpointError(f"is damaged or no checkpoint: {first_line(error)}") from None


def _digest(path: Path, size: int) -> bytes:
    """Return the SHA-256, in hexadecimal, of the first `size` bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, _BLOCK))):
            digest.update(block)
            size -= len(block)
    return digest.hexdigest().encode()


def _verify_records(path: Path) -> None:
    """Check every CRC of the archive: torch.load does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, *MALFORMED) as error:
        raise CheckpointError(f"{path} is damaged or no checkpoint: {first_line(error)}") from None
    if damaged:
        raise CheckpointError(f"{path} is damaged: bad checksum in {damaged}")
