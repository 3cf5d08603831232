"""How a failure of one rank ends all of them, and is shown once.

A rank that fails writes its error into the store that all ranks share. The others learn of it when
a collective breaks, or while they wait in `ProcessGroup.main_process_first`. A rank that wrote
nothing was lost: killed, or cut off. A failed rank must exit, since that closes its sockets.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import torch.distributed as dist

from lmsm_cli.errors import LmsmError, RankError, first_line

if TYPE_CHECKING:  # a torch built without distributed has none
    from torch.distributed.distributed_c10d import Store

# Keys of the store: the first failure, who shows a text, who knows of it, who is alive, who left.
_FAILURE, _SHOWN, _KNOWS, _HERE, _LEFT = "failure", "shown/", "knows/", "here/", "left/"
# Seconds in which rank 0 must fail with the same text to be the one that shows it.
_ALIKE_WITHIN = 1.0
# Seconds for which a silent rank stays: torchrun ends all others as soon as one of them has exited.
_HEAD_START = 2.0
# Seconds for which rank 0, which may hold the store, lets slower ranks learn who shows the failure.
_PATIENCE = 5.0
_POLL = 0.05


@contextmanager
def shared_failure(store: "Store", rank: int, size: int) -> Iterator[None]:
    """Tell the other ranks what ended the body; raise RankError where another rank ended it.

    Where all ranks fail alike, rank 0 shows the LmsmError, else the rank that failed does; it is
    `shown_elsewhere` on the others.
    """
    try:
        yield
    except RankError:
        raise
    except BaseException as error:
        if _is_broken(error):
            raise _failure_of_another(store, rank, size, first_line(error)) from None
        is_ours = isinstance(error, LmsmError)
        text = str(error) if is_ours else f"{type(error).__name__}: {first_line(error)}"
        with suppress(dist.DistError):  # no other rank can be reached
            failure = f"rank {rank} failed: {text}"
            store.compare_set(_FAILURE, "", failure)
            store.compare_set(f"{_SHOWN}{failure}", "", str(rank))
            if isinstance(error, LmsmError):
                _let_one_show(store, rank, error)
            store.set(f"{_KNOWS}{rank}", "")
        raise


def wait_for(store: "Store", key: str, rank: int, size: int) -> None:
    """Wait, for as long as it takes, until a key is set; raise RankError once a rank has failed."""
    while not store.check([key]):
        if store.check([_FAILURE]):
            raise _failure_of_another(store, rank, size, "")
        time.sleep(_POLL)


def leave(store: "Store", rank: int) -> None:
    """Tell the store that this rank no longer needs it."""
    with suppress(dist.DistError):
        store.set(f"{_LEFT}{rank}", "")


def wait_for_leave(store: "Store", ranks: Iterable[int], seconds: float) -> None:
    """Wait until the ranks have left, for some seconds at most: rank 0 may hold their store."""
    _wait_for_all(store, _LEFT, ranks, seconds)


def wait_until_known(store: "Store", ranks: Iterable[int]) -> None:
    """Wait until the ranks know of a failure, for a few seconds at most, since some may be lost."""
    _wait_for_all(store, _KNOWS, ranks, _PATIENCE)


def _wait_for_all(store: "Store", key: str, ranks: Iterable[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with suppress(dist.DistError):
        all(_appears(store, f"{key}{rank}", deadline - time.monotonic()) for rank in ranks)


def _is_broken(error: BaseException) -> bool:
    """Return whether an error says that a collective, or the store, has lost a rank."""
    # gloo raises plain RuntimeErrors, each opening with the place in its source.
    is_gloo = isinstance(error, RuntimeError) and "gloo/" in str(error)
    return is_gloo or isinstance(error, dist.DistError)


def _failure_of_another(store: "Store", rank: int, size: int, symptom: str) -> RankError:
    """Return the error of a rank that another one ended; `symptom` is what its collective said."""
    try:
        if not store.check([_FAILURE]):
            store.compare_set(_FAILURE, "", _loss(store, rank, size, symptom))
        error = RankError(store.get(_FAILURE).decode())
        _let_one_show(store, rank, error)
        return error
    except dist.DistError:
        # Rank 0 holds the store, unless torchrun does, which ends its ranks when it ends.
        return RankError("rank 0 was lost")


def _loss(store: "Store", rank: int, size: int, symptom: str) -> str:
    """Return who is lost: ranks that died do not report the broken collective within a second."""
    store.set(f"{_HERE}{rank}", "")
    lost = [str(r) for r in range(size) if not _appears(store, f"{_HERE}{r}", _ALIKE_WITHIN)]
    if not lost:
        return f"the ranks lost each other: {symptom}"
    # In a ring of many, those far from the gap notice nothing until their neighbours end.
    return (
        f"rank {lost[0]} was lost" if len(lost) == 1 else f"one of ranks {', '.join(lost)} was lost"
    )


def _let_one_show(store: "Store", rank: int, error: LmsmError) -> None:
    """Mark the error as shown elsewhere on all ranks that end with its text but one."""
    key = f"{_SHOWN}{error}"
    if rank:  # rank 0 goes first
        _appears(store, key, _ALIKE_WITHIN)
    error.shown_elsewhere = store.compare_set(key, "", str(rank)) != str(rank).encode()
    store.set(f"{_KNOWS}{rank}", "")
    if error.shown_elsewhere:
        time.sleep(_HEAD_START)


def _appears(store: "Store", key: str, seconds: float) -> bool:
    """Return whether a key is set within some seconds."""
    deadline = time.monotonic() + seconds
    while not store.check([key]):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
