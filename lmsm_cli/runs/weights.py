"""The weights of finished runs: which may go, and what a run without them tells.

Nobody may miss them unsaid. Those stay that another run starts from, and those of a run that
another process is on; and a run notes which command has removed its own, before they go.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lmsm_cli.errors import CheckpointError, LmsmError, writing
from lmsm_cli.runs.documents import Status, pretty_text
from lmsm_cli.runs.folder import RunFolder, write_whole
from lmsm_cli.runs.own_code import train_again
from lmsm_cli.runs.record import find_runs, read_run, runs_below

# Where a training is made without --out; it may start from a run of any other place.
_USUAL_PLACE = Path("runs")


@dataclass(frozen=True)
class Dropped:
    """What became of the weights of some runs."""

    num_runs: int
    """Whose weights were removed now."""
    num_bytes: int
    """That are free now; a file with two names takes its bytes once."""
    left: Mapping[Path, str]
    """The runs whose weights stay all the same, each with the reason."""


def drop_weights(runs: Iterable[Path], by: str) -> Dropped:
    """Remove the weights of runs, each of which notes the command that did it.

    The weights stay of a run that another one names as what it starts from, or that another process
    is on. Where they are gone already, nothing is done.

    Args:
        runs: Their run folders.
        by: The command, such as `lmsm sweep --keep winner`.

    Raises DiskError where a file cannot be written or removed.
    """
    having = [run for run in runs if has_weights(run)]
    starts = _starts_near(having)
    left: dict[Path, str] = {}
    done = num_bytes = 0
    for run in having:
        if user := _user_of(run, starts):
            left[run] = f"{user} starts from them"
            continue
        folder = RunFolder(run)
        try:
            with folder.locked():
                if has_weights(run):  # still, after another process has had the lock
                    num_bytes += _removed(folder, by)
                    done += 1
        except LmsmError as error:
            if type(error) is not LmsmError:
                raise
            left[run] = str(error)  # it is in use
    return Dropped(done, num_bytes, left)


def has_weights(run: Path) -> bool:
    """Return whether a run has a file of weights."""
    return any(file.exists() for file in _files(RunFolder(run)))


def check_kept(run: Path) -> None:
    """Raise CheckpointError where a command has removed the weights of a run, with a way back."""
    record = read_run(run, with_metrics=False)
    if record.status is not None and record.status.dropped_by:
        raise CheckpointError(
            f"{run} has no weights any more: `{record.status.dropped_by}` has dropped them; "
            f"`{train_again(run)}` trains them again"
        )


def _files(folder: RunFolder) -> tuple[Path, ...]:
    return folder.checkpoint, folder.previous_checkpoint, folder.best_checkpoint


def _removed(folder: RunFolder, by: str) -> int:
    """Remove the weights of a run that is locked, and return how many bytes are free by that."""
    place = folder.path / "status.json"
    status = read_run(folder.path, with_metrics=False).status or Status()
    # first: what is still there of a run that notes it is found all the same
    write_whole(place, pretty_text(status.model_copy(update={"dropped_by": by})))
    with writing(folder.path):
        found = {file: file.lstat() for file in _files(folder) if file.exists()}
        for file in found:
            file.unlink()
    names = [(info.st_dev, info.st_ino) for info in found.values()]
    sizes = {
        key: info.st_size
        for key, info in zip(names, found.values(), strict=True)
        if names.count(key) == info.st_nlink
    }
    return sum(sizes.values())


def _starts_near(runs: Sequence[Path]) -> dict[Path, Path]:
    """Return what the runs near some runs start from, by run: both as resolved paths.

    Near is what lies beside them, beside their folder, or where runs are made without --out.
    """
    places = {place for run in runs for place in (run.parent, run.parent.parent)}
    found: dict[Path, Path] = {}
    for place in {one.resolve() for one in (*places, *([_USUAL_PLACE] if runs else []))}:
        for run in _runs_near(place):
            source = (read_run(run, with_metrics=False).config or {}).get("pretrained")
            if isinstance(source, str):
                found[run] = Path(source).resolve()
    return found


def _runs_near(place: Path) -> list[Path]:
    """Return the runs of a folder, and those of the folders in it."""
    found: list[Path] = []
    with suppress(LmsmError, OSError):
        for folder in (place, *runs_below([place])):
            with suppress(LmsmError):
                found += find_runs([folder])
    return found


def _user_of(run: Path, starts: Mapping[Path, Path]) -> Path | None:
    """Return a run that starts from another one, by its folder, its file, or the folder above.

    A name is enough: the path may have been written where another folder was the current one.
    """
    run = run.resolve()
    for user, source in starts.items():
        if user != run and (run.name in (source.name, source.parent.name) or source == run.parent):
            return user
    return None
