"""A function of tensors as a CUDA graph: one launch for the hundreds of kernels of a step.

What changes from call to call must be in the argument tensors or be changed in place; Python
numbers are frozen when the graph is captured. Where capture fails, the calls go on eagerly.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmsm_cli.errors import first_line

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

    A kind is a key together with the shapes of the arguments; each kind has its own graph. `say`
    gets one text where capture failed.
    """

    def __init__(self, function: Function, capture: Capture, say: Callable[[str], None]) -> None:
        self._function, self._capture, self._say = function, capture, say
        self._calls: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, _Captured] = {}
        self._works = True

    def __call__(self, key: Hashable, *arguments: Tensor) -> None:
        """Call the function of `key`'s kind on the arguments."""
        kind = (key, *(tensor.shape for tensor in arguments))
        self._calls[kind] += 1
        if self._works and kind not in self._graphs and self._calls[kind] > _WARM_UP:
            self._graphs |= self._captured(kind, key, arguments)
        if kind not in self._graphs:
            self._function(key, *arguments)
            return
        graph = self._graphs[kind]
        for static, given in zip(graph.arguments, arguments, strict=True):
            static.copy_(given, non_blocking=True)
        graph.replay()

    def _captured(
        self, kind: Hashable, key: Hashable, arguments: tuple[Tensor, ...]
    ) -> dict[Hashable, _Captured]:
        """Return the kind's graph, or nothing and give up where the device refuses to capture."""
        static = tuple(tensor.clone() for tensor in arguments)  # keeps layouts
        try:
            return {kind: _Captured(static, self._capture(lambda: self._function(key, *static)))}
        except RuntimeError as error:  # torch reports a refused capture as nothing more special
            self._works = False
            self._say(
                f"the training step could not be captured as a CUDA graph ({first_line(error)}); "
                "it goes on without, more slowly"
            )
            return {}


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
