"""The ranks of a run: the processes that `torchrun --nproc-per-node N -m lmsm_cli ...` starts.

Each rank takes a part of every batch; together they compute what one process would.
`init_distributed` gives a process its ProcessGroup: `SINGLE_PROCESS`, whose methods do nothing,
where there is only one.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import signature
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from lmsm_cli.distributed.failures import (
    leave,
    shared_failure,
    wait_for,
    wait_for_leave,
    wait_until_known,
)
from lmsm_cli.errors import LmsmError, RunError, first_line
from lmsm_cli.runtime.cpu import threads_for
from lmsm_cli.runtime.device import has_cuda

if TYPE_CHECKING:  # a torch built without distributed has none
    from torch.distributed.distributed_c10d import Store


T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among those of a run; by default it is the only one.

    Methods are collectives unless they say otherwise: every rank must call them, in the same order.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """The number of this process among those of its host."""
    local_size: int = 1
    _store: "Store | None" = field(default=None, repr=False)
    _turns: Iterator[int] = field(default_factory=count, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes the files and talks to the user."""
        return self.rank == 0

    def check_batch_size(self, batch_size: int) -> None:
        """Raise LmsmError where the ranks cannot share a batch equally; no collective."""
        lower = batch_size - batch_size % self.size
        if lower != batch_size:
            nearest = f"{lower} or {lower + self.size}" if lower else f"{self.size}"
            raise LmsmError(
                f"batch_size is {batch_size}: {self.size} processes cannot share it equally; "
                f"use {nearest}"
            )

    def take_device(self, device: torch.device) -> torch.device:
        """Return this rank's device, of the kind that was chosen for all, and make it current.

        No collective. Raises LmsmError where a host has fewer CUDA devices than ranks, or where its
        ranks would share a CUDA device that the user named by number.
        """
        if device.type != "cuda" or self.size == 1:
            return device
        if device.index is not None and self.local_size > 1:
            raise LmsmError(
                f"device is '{device}': {self.local_size} processes cannot share it; "
                "use --device cuda"
            )
        available = torch.cuda.device_count()
        if available < self.local_size:
            raise LmsmError(
                f"{self.local_size} processes were started on a host with {available} CUDA "
                f"devices; use torchrun --nproc-per-node {available}"
            )
        own = torch.device("cuda", device.index or self.local_rank)
        torch.cuda.set_device(own)
        return own

    def local_slice(self, num_images: int) -> slice:
        """Return this rank's part of a batch; parts differ by one image at most; no collective.

        As numpy.array_split divides. It is empty where there are fewer images than ranks: the rank
        must still take part in every collective, and in the backward pass (`zero_loss`).
        """
        least, larger = divmod(num_images, self.size)
        start = self.rank * least + min(self.rank, larger)
        return slice(start, start + least + (self.rank < larger))

    def all_reduce(self, values: Tensor) -> Tensor:
        """Replace a contiguous tensor by its sum over the ranks; return it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def all_gather(self, values: Tensor) -> Tensor:
        """Return the values of all ranks (R, ...), which must have the same shape and type."""
        if self.size == 1:
            return values[None]
        stacked = values.new_empty(self.size, *values.shape)
        dist.all_gather(list(stacked), values.contiguous())
        return stacked

    def any_rank(self, flags: Tensor) -> Tensor:
        """Replace a contiguous bool tensor by what is true on any rank; return it."""
        if self.size > 1:
            # gloo and nccl know the maximum of bytes, not of bools.
            dist.all_reduce(flags.view(torch.uint8), dist.ReduceOp.MAX)
        return flags

    def all_reduce_max(self, number: int) -> int:
        """Return the largest of the ranks' numbers."""
        if self.size == 1:
            return number
        return int(self.all_gather(torch.tensor([number])).max())

    def all_gather_uneven(self, rows: Tensor) -> Tensor:
        """Return the rows (N, ...) of all ranks, one rank's after the other's; N may differ."""
        if self.size == 1:
            return rows
        lengths = rows.new_zeros(self.size, dtype=torch.int64)
        lengths[self.rank] = len(rows)
        *each, longest = [*self.all_reduce(lengths).tolist(), int(lengths.max())]
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = zip(self.all_gather(padded), each, strict=True)
        return torch.cat([part[:length] for part, length in parts])

    def broadcast_object(self, value: T) -> T:
        """Return rank 0's value, of plain types."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.all_reduce(torch.zeros(1))

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let rank 0 run the body before all others, and the first rank of a host before the rest.

        This serves downloads and caches, whether hosts share a disk or not. There is no time limit.
        Raises RankError where a rank fails that others wait for.
        """
        if self._store is None:
            yield
            return
        turn = f"turn/{next(self._turns)}/"
        ahead = self.rank - self.local_rank if self.local_rank else 0
        if not self.is_main:
            wait_for(self._store, f"{turn}{ahead}", self.rank, self.size)
        yield
        self._store.set(f"{turn}{self.rank}", "")


SINGLE_PROCESS = ProcessGroup()

# torch 2.14 has a new name for `broadcast_buffers`, and warns of the old one.
_IS_LATER = "forward_sync_buffers" in signature(DistributedDataParallel).parameters


@contextmanager
def init_distributed(
    device: str = "auto", *, timeout: timedelta = timedelta(minutes=10)
) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started; yield SINGLE_PROCESS where there is only one.

    CUDA tensors go through nccl, tensors of the CPU through gloo. Each rank computes with its share
    of the host's cores, unless OMP_NUM_THREADS says otherwise. `failures.shared_failure` shares the
    body's errors; the process must end after one.

    Args:
        device: of the config: auto, cpu, cuda or cuda:N.
        timeout: how long a rank waits for the others in a collective.

    Raises LmsmError for an incomplete environment, RunError where ranks do not find each other.
    """
    if _number("WORLD_SIZE", 1) == 1:
        yield SINGLE_PROCESS
        return
    uses_cuda = device != "cpu" and has_cuda()
    ranks, store = _start("cpu:gloo,cuda:nccl" if uses_cuda else "gloo", timeout)
    threads = torch.get_num_threads()
    try:
        with shared_failure(store, ranks.rank, ranks.size):
            # torchrun sets 1, so that N processes do not start a thread for each core.
            if os.environ.get("OMP_NUM_THREADS", "1") == "1":
                torch.set_num_threads(threads_for(ranks.local_size))
            yield ranks
    except BaseException:
        _abort(uses_cuda)
        leave(store, ranks.rank)
        if ranks.is_main:
            wait_until_known(store, range(ranks.size))
        raise
    else:
        dist.destroy_process_group()
        leave(store, ranks.rank)
        if ranks.is_main:
            wait_for_leave(store, range(ranks.size), timeout.total_seconds())
    finally:
        torch.set_num_threads(threads)


def _start(backend: str, timeout: timedelta) -> "tuple[ProcessGroup, Store]":
    """Start the process group that the environment describes; return the ranks and their store."""
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    rank, size = _number("RANK"), _number("WORLD_SIZE")
    local_rank, local_size = _number("LOCAL_RANK", rank), _number("LOCAL_WORLD_SIZE", size)
    try:
        shared, _, _ = next(rendezvous("env://", timeout=timeout))
        dist.init_process_group(backend, store=shared, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError) as error:
        raise RunError(
            f"rank {rank} did not find the other {size - 1} processes within {timeout}: "
            f"{first_line(error)}"
        ) from None
    store = PrefixStore("lmsm", shared)
    return ProcessGroup(rank, size, local_rank, local_size, store), store


def _abort(uses_cuda: bool) -> None:
    """End the process group without the others, who may be waiting for this rank."""
    if uses_cuda:
        # destroy_process_group would wait for collectives that can never be finished.
        dist.distributed_c10d._abort_process_group()
    else:
        dist.destroy_process_group()


def _number(name: str, default: int | None = None) -> int:
    """Return a number of torchrun's environment. Raises LmsmError where there is none."""
    text = os.environ.get(name, default)
    try:
        return int(text)  # type: ignore[arg-type]  # None is caught
    except (TypeError, ValueError):
        raise LmsmError(
            f"{name} is {text!r} in the environment: start with torchrun, "
            "or unset WORLD_SIZE for one process"
        ) from None


def data_parallel(objective: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Return an objective module whose parameters get the sum of the ranks' gradients.

    The ranks' parameters become rank 0's. Every parameter must get a gradient in every step.
    """
    buffers = "forward_sync_buffers" if _IS_LATER else "broadcast_buffers"
    options: dict[str, Any] = {
        "device_ids": [device] if device.type == "cuda" else None,
        # Buffers are the same on every rank: batch statistics are those of the global batch.
        buffers: False,
        # True searches the graph in every step, and hides a layer without a gradient.
        "find_unused_parameters": False,
        # The graph changes with an empty part, and where an epoch brings in class weights.
        "static_graph": False,
        # One copy of the gradients instead of two.
        "gradient_as_bucket_view": True,
    }
    parallel = DistributedDataParallel(objective, **options)
    parallel.register_comm_hook(None, lambda _, bucket: _sum(bucket.buffer()))
    return parallel


def _sum(gradients: Tensor) -> Future[Tensor]:
    """Sum a flat bucket of gradients; left to itself, DistributedDataParallel takes the mean."""
    work = dist.all_reduce(gradients, async_op=True)
    return work.get_future().then(lambda future: future.value()[0])


def zero_loss(features: Tensor, parameters: Iterable[Tensor]) -> Tensor:
    """Return the loss () of a rank without images: 0, with a gradient of 0 for every parameter.

    Losses take no empty batch, but the other ranks wait for the gradients. `features` (0, D) lead
    back to the parameters before them, `parameters` are those after.
    """
    return torch.stack([features.float().sum(), *(p.sum() * 0 for p in parameters)]).sum()
