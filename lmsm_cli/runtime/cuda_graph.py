"""A function of tensors as a CUDA graph: one launch for the hundreds of kernels of a step.

What changes from call to call must be in the argument tensors or be changed in place; Python
numbers are frozen when the graph is captured. Where capture fails, the calls go on eagerly.
"""

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmsm_cli.errors import OutOfMemoryError, RunError, first_line
from lmsm_cli.runtime.memory import is_out_of_memory

Function = Callable[..., None]  # of tensors, for its effects on other tensors
Capture = Callable[[Callable[[], None]], Callable[[], None]]

_cuda: Any = torch.cuda  # typed in some releases only

# Calls of a kind before it is captured: cuDNN chooses its kernels and the optimiser makes its state
# in the first ones. They are real steps, so nothing has to be undone.
_WARM_UP = 3


@dataclass(frozen=True)
class _Captured:
    arguments: tuple[Tensor, ...]
    replay: Callable[[], None]


class Graphed:
    """Calls `function`, from the fourth call of a kind on as a graph that `capture` makes of it.

    A kind is a key together with the shapes of the arguments; each kind has its own graph. `warn`
    gets one text where capture failed; no other is tried then.
    """

    def __init__(self, function: Function, capture: Capture, warn: Callable[[str], None]) -> None:
        self._function, self._capture, self._warn = function, capture, warn
        self._calls: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _Captured] = {}
        self._works = True

    def __call__(self, key: Hashable, *arguments: Tensor) -> None:
        """Call the function of `key`'s kind on the arguments.

        Raises OutOfMemoryError where a graph does not fit into memory, RunError where the function
        fails after a capture that failed.
        """
        kind = (key, *(tensor.shape for tensor in arguments))
        self._calls[kind] += 1
        if self._works and kind not in self._graphs and self._calls[kind] > _WARM_UP:
            try:
                self._graphs[kind] = self._captured(key, arguments)
            except RuntimeError as error:  # torch reports a refused capture as nothing more special
                self._works = False
                self._go_on_after(error, key, arguments)
                return
        if kind not in self._graphs:
            self._function(key, *arguments)
            return
        graph = self._graphs[kind]
        for static, given in zip(graph.arguments, arguments, strict=True):
            static.copy_(given, non_blocking=True)
        graph.replay()

    def _captured(self, key: Hashable, arguments: tuple[Tensor, ...]) -> _Captured:
        """Return the graph of the function on copies of the arguments. Raises RuntimeError."""
        static = tuple(tensor.clone() for tensor in arguments)  # keeps layouts
        with _without_collector():
            return _Captured(static, self._capture(lambda: self._function(key, *static)))

    def _go_on_after(
        self, failure: RuntimeError, key: Hashable, arguments: tuple[Tensor, ...]
    ) -> None:
        """Call the function eagerly after a capture that failed, and say so.

        torch 2.11 leaves a generator that was drawn from in such a capture unusable, so the call
        can fail although the calls before it did not.
        """
        why = first_line(failure)
        if is_out_of_memory(failure):
            traceback.clear_frames(failure.__traceback__)  # they hold the memory
            raise OutOfMemoryError(
                f"out of memory where the training step was captured as a CUDA graph ({why}), "
                "which takes more than single kernels do; try --no-cuda-graph"
            ) from None
        try:
            self._function(key, *arguments)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            raise RunError(
                f"the training step could not be captured as a CUDA graph ({why}), and fails "
                f"since ({first_line(error)}); start again with --no-cuda-graph"
            ) from error
        self._warn(
            f"the training step could not be captured as a CUDA graph ({why}); it goes on "
            "without, more slowly"
        )


@contextmanager
def _without_collector() -> Iterator[None]:
    """Keep Python's collector out: what it frees in a capture may be a graph, which breaks it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def cuda_capture(stream: torch.cuda.Stream) -> Capture:
    """Return what captures on `stream`, on which the eager calls must have run too.

    Autograd's accumulation nodes belong to the stream that they were made on, and a graph can't
    wait for another. The graphs share one memory pool: they run one after the other and leave
    nothing in it that is needed later.
    """
    pool = torch.cuda.graph_pool_handle()

    def capture(function: Callable[[], None]) -> Callable[[], None]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream):
            function()
        return graph.replay

    return capture


def side_stream(device: torch.device) -> Callable[[], AbstractContextManager[None]]:
    """Return a context in which steps run on a CUDA stream that can be captured; a no-op elsewhere.

    It waits for the default stream's work, as validation. Synchronise with the side stream before
    using its results elsewhere.
    """
    if device.type != "cuda":
        return nullcontext
    side = _cuda.Stream(device)

    def enter() -> AbstractContextManager[None]:
        side.wait_stream(_cuda.current_stream(device))
        context: AbstractContextManager[None] = _cuda.stream(side)
        return context

    return enter
