"""What a program holds of the pretended CUDA device: tensors, streams, events and graphs.

`pretend_cuda.PretendCuda` is the device itself. While it is entered it stands in `DEVICE`.
"""

import torch
from torch import Tensor, nn

CUDA = torch.device("cuda:0")
DEVICE = []
"""The PretendCuda that is entered, if any."""
plainly = torch._C._DisableTorchDispatch
"""A context in which nothing is noted."""


class CaptureError(RuntimeError):
    """An operation that no graph can hold."""

    def __init__(self, what):
        super().__init__(f"operation not permitted when stream is capturing: {what}")


class OnDevice(Tensor):
    """A tensor that says it is on cuda:0; `inner` is the CPU's tensor with its numbers."""

    __torch_function__ = torch._C._disabled_torch_function_impl
    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)

    def __new__(cls, inner):
        """Return a tensor without memory of its own, shaped and typed as `inner`."""
        return Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device="cpu",
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return DEVICE[0].call(func, args, kwargs or {})

    def tolist(self):
        """Return the values; the host waits."""
        DEVICE[0].wait("tolist")
        return self.inner.tolist()

    def numpy(self, force=False):
        """Return the values as an array where that is forced; the host waits."""
        if not force:
            raise TypeError("can't convert a cuda:0 tensor to numpy: copy it to the host first")
        DEVICE[0].wait("numpy(force=True)")
        return self.inner.detach().numpy(force=True).copy()

    def __deepcopy__(self, memo):
        if id(self) not in memo:
            with plainly():
                copy = OnDevice(self.inner.detach().clone())
            is_parameter = isinstance(self, nn.Parameter)
            memo[id(self)] = nn.Parameter(copy, self.requires_grad) if is_parameter else copy
        return memo[id(self)]

    def __reduce_ex__(self, protocol):  # what torch.load(map_location="cpu") would give back
        DEVICE[0].wait("torch.save")
        return self.inner.detach().__reduce_ex__(protocol)

    def __repr__(self):
        return f"OnDevice({tuple(self.shape)}, {self.dtype})"


class Stream:
    """A stream that does its work at once."""

    def __init__(self, device=None):
        self.device = CUDA

    def wait_stream(self, other):
        """Do nothing: the other stream's work is done."""

    def synchronize(self):
        """Note that the host waits."""
        DEVICE[0].wait("Stream.synchronize")


class Event:
    """An event that has not happened yet the first time it is asked: copies take a while."""

    def __init__(self, enable_timing=False):
        self._asked = 0

    def record(self, stream=None):
        """Begin anew."""
        self._asked = 0

    def query(self):
        """Say whether it has happened."""
        DEVICE[0].refuse_in_capture("cudaEventQuery")
        self._asked += 1
        return self._asked > 1

    def synchronize(self):
        """Note that the host waits."""
        DEVICE[0].wait("Event.synchronize")

    def elapsed_time(self, other):
        """Return a millisecond: no time is pretended."""
        return 1.0


class Graph:
    """Operations that were written down."""

    def __init__(self):
        self.tape = []
        DEVICE[0].graphs.add(self)

    def replay(self):
        """Repeat the operations on the tensors of the capture, into the results of the capture."""
        DEVICE[0].refuse_in_capture("cudaGraphLaunch")
        DEVICE[0].launches["cudaGraphLaunch"] += 1
        with plainly(), torch._C._AutoDispatchBelowAutograd(), DEVICE[0].own_random():
            for func, args, kwargs, results in self.tape:
                kind = kind_of_result(func)
                if kind == "view":  # it is one still
                    continue
                again = func(*args, **kwargs)
                if kind == "new":
                    for old, new in zip(tensors_in(results), tensors_in(again), strict=True):
                        old.copy_(new)


class Capture:
    """What stands in for `torch.cuda.graph`."""

    def __init__(self, graph, pool=None, stream=None):
        self._graph, self._stream = graph, stream or Stream()

    def __enter__(self):
        DEVICE[0].wait("torch.cuda.graph")
        assert self._stream is not DEVICE[0].default, "the default stream can't capture"
        self._on_stream = DEVICE[0].on(self._stream)
        self._on_stream.__enter__()
        DEVICE[0].begin_capture(self._graph)

    def __exit__(self, error, *details):
        DEVICE[0].end_capture(failed=error is not None)
        self._on_stream.__exit__(None, None, None)


def tensors_in(tree):
    """Return the tensors of nested lists, tuples and dicts."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = tree.values()
    elif not isinstance(tree, list | tuple):
        return []
    return [tensor for part in tree for tensor in tensors_in(part)]


def mapped(function, tree):
    """Return nested lists, tuples and dicts with what a function makes of each tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)([mapped(function, part) for part in tree])
    return tree


def inner_of(tree):
    """Return nested lists, tuples and dicts with the tensors that hold the numbers."""
    return mapped(lambda leaf: leaf.inner if isinstance(leaf, OnDevice) else leaf, tree)


def kind_of_result(func):
    """Return what an operation gives back: `view`, `in place` or `new`."""
    aliases = [result.alias_info for result in func._schema.returns if result.alias_info]
    if not aliases:
        return "new"
    return "in place" if any(alias.is_write for alias in aliases) else "view"
