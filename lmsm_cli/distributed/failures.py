"""How a failure of one rank ends all of them: with its error, shown once, and its exit code.

Whoever fails first puts its error up in the store that the ranks share. The others learn of it when
a collective breaks, or while they wait for it in `ProcessGroup.main_process_first`. A rank that could put nothing up was
lost: killed, or cut off. Sockets close when a process ends, so a rank that has failed must exit.
"""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch.distributed as dist

from lmsm_cli.errors import LmsmError, RankError, first_line

if TYPE_CHECKING:  # a torch built without distributed has none
    from torch.distributed.distributed_c10d import Store

# Keys of the store: the failure that ends the run, each rank's own, who shows it, who answers, who is done.
_FAILURE, _OWN, _TELLER, _HERE, _LEFT = "failure", "own/", "teller", "here/", "left/"
# Seconds in which rank 0 must fail alike to be the one who shows it.
_ALIKE_WITHIN = 1.0
# Seconds for which a silent rank stays: torchrun ends all others as soon as one of them has exited.
_HEAD_START = 2.0
_POLL = 0.05


@contextmanager
def shared_failure(store: "Store", rank: int, size: int) -> Iterator[None]:
    """Share what ends this rank's body with the others, and take over what ended theirs.

    An LmsmError is raised on as it is; `shown_elsewhere` says whether another rank shows it, which
    is rank 0 where it fails alike. A broken collective becomes the RankError of the rank that broke
    it. Anything else is raised on too, and is a RankError of exit code 1 for the others.
    """
    try:
        yield
    except RankError:
        raise
    except LmsmError as error:
        error.shown_elsewhere = not _publish(store, rank, str(error), error.exit_code)
        raise
    except BaseException as error:
        if is_broken(error):
            raise failure_of_another(store, rank, size, first_line(error)) from None
        if not (isinstance(error, SystemExit) and not error.code):
            _publish(store, rank, *_described(error))
        raise


def is_broken(error: BaseException) -> bool:
    """Return whether an error says that a collective, or the store, has lost a rank."""
    # gloo raises plain RuntimeErrors, each opening with the place in its source.
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo/" in str(error)
    )


def has_failed(store: "Store") -> bool:
    """Return whether a rank has put a failure up."""
    return bool(store.check([_FAILURE]))


def failure_of_another(store: "Store", rank: int, size: int, symptom: str) -> RankError:
    """Return the error that a rank ends with because of another: what was put up, or who is lost.

    `symptom` is told where every rank is still there.
    """
    try:
        if not has_failed(store):
            _put(store, _FAILURE, _loss(store, rank, size, symptom), RankError.exit_code)
        # The rank that failed goes first: it knows most.
        time.sleep(_HEAD_START)
        return _taken_over(store, rank)
    except dist.DistError:
        # Rank 0 holds the store, unless torchrun does, which ends its ranks when it ends.
        return RankError("rank 0 was lost")


def _described(error: BaseException) -> tuple[str, int]:
    """Return what the other ranks say of an error that is not ours, and their exit code."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, SystemExit):
        return f"exit {error.code}", error.code if isinstance(error.code, int) else 1
    return f"{type(error).__name__}: {first_line(error)}", 1


def _put(store: "Store", key: str, text: str, exit_code: int) -> bytes:
    """Put a record up under a key, unless there is one; return the record that is up now."""
    up: bytes = store.compare_set(key, "", json.dumps({"text": text, "exit_code": exit_code}))
    return up


def _publish(store: "Store", rank: int, text: str, exit_code: int) -> bool:
    """Put this rank's own error up; return whether this rank is to show it."""
    try:
        own = _put(store, f"{_OWN}{rank}", text, exit_code)
        _put(store, _FAILURE, f"rank {rank} failed: {text}", exit_code)
        if rank and _appears(store, f"{_OWN}0", _ALIKE_WITHIN) and store.get(f"{_OWN}0") == own:
            time.sleep(_HEAD_START)
            return False
        return _is_teller(store, rank)
    except dist.DistError:  # nobody else can be reached
        return True


def _taken_over(store: "Store", rank: int) -> RankError:
    """Return the failure that is up as this rank's error."""
    record = json.loads(store.get(_FAILURE))
    error = RankError(record["text"])
    error.exit_code = record["exit_code"]
    error.shown_elsewhere = not _is_teller(store, rank)
    return error


def _is_teller(store: "Store", rank: int) -> bool:
    """Return whether this rank is the first that wants to show the failure."""
    return bool(store.compare_set(_TELLER, "", str(rank)) == str(rank).encode())


def _loss(store: "Store", rank: int, size: int, symptom: str) -> str:
    """Return who is lost: the ranks that do not find the broken collective as well."""
    store.set(f"{_HERE}{rank}", "")
    lost = [str(r) for r in range(size) if not _appears(store, f"{_HERE}{r}", _ALIKE_WITHIN)]
    if not lost:
        return f"the ranks lost each other: {symptom}"
    # In a ring of many, those far from the gap notice nothing until their neighbours end.
    return (
        f"rank {lost[0]} was lost" if len(lost) == 1 else f"one of ranks {', '.join(lost)} was lost"
    )


def _appears(store: "Store", key: str, seconds: float) -> bool:
    """Return whether a key is set within some seconds."""
    deadline = time.monotonic() + seconds
    while not store.check([key]):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True


def wait_for(store: "Store", key: str, rank: int, size: int) -> None:
    """Wait, for as long as it takes, until a key is set; raise RankError once a rank has failed."""
    while not store.check([key]):
        if has_failed(store):
            raise failure_of_another(store, rank, size, "")
        time.sleep(_POLL)


def leave(store: "Store", rank: int) -> None:
    """Say that this rank is done with the store."""
    with suppress(dist.DistError):
        store.set(f"{_LEFT}{rank}", "")


def wait_for_leave(store: "Store", ranks: Iterable[int], seconds: float) -> None:
    """Wait until some ranks have left, some seconds at most: rank 0 may hold the store for them."""
    deadline = time.monotonic() + seconds
    with suppress(dist.DistError):
        all(_appears(store, f"{_LEFT}{rank}", deadline - time.monotonic()) for rank in ranks)
