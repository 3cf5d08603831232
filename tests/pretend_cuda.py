"""A pretended CUDA device for machines without one: tensors say cuda:0, the CPU has their numbers.

    with PretendCuda() as cuda:  # torch.cuda looks like one GPU
        ...  # train, resume, evaluate with device "cuda"
    cuda.launches, cuda.captured, cuda.waits

It refuses what CUDA refuses: operands on two devices; in a capture, to look at values, to copy
memory that is not pinned, or to freeze a number of the host; fused optimisers on gradients of other
strides; numpy of a device tensor. A capture writes the operations down and undoes them; a replay
repeats just these on the same tensors, so Python's numbers are frozen in it, as on the device. The
device has a random generator of its own.

It cannot show: kernels, time, memory, races between streams, what autocast casts on CUDA alone,
operators that CUDA lacks or that refuse capture by themselves, the offsets of dropout in a graph,
more than one device. To C++ all tensors are the CPU's. A launch is one call of an operator, which
on CUDA may be none, or two or three kernels. `torch.inference_mode` is replaced by `no_grad`.
"""

import traceback
import weakref
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import torch
import torch._dynamo  # imported later, it would take what stands in for torch's functions for them
from torch import Tensor
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from tests.pretend_kernels import KERNELS, Kernel
from tests.pretend_objects import (
    DEVICE,
    Capture,
    CaptureError,
    Event,
    Graph,
    OnDevice,
    Stream,
    inner_of,
    kind_of_result,
    mapped,
    plainly,
    tensors_in,
)

# What makes the host wait, whatever it is given; indexing does with masks, and copies do at times.
WAITING = {
    "_local_scalar_dense",
    "_unique",
    "_unique2",
    "bincount",
    "equal",
    "histc",
    "is_nonzero",
    "masked_select",
    "nonzero",
    "repeat_interleave",
    "unique_consecutive",
    "unique_dim",
}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
# What launches no kernel, beside views.
FREE = {
    "_unsafe_view",
    "as_strided_",
    "empty",
    "empty_like",
    "empty_strided",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "resize_",
    "set_",
}
FUSED = {"_fused_adam_", "_fused_adamw_", "_fused_sgd_"}
# What the CPU lacks: products of bf16 with float32 sums, which are exact in float32.
LACKING = torch.library.Library("aten", "IMPL")
LACKING.impl("mm.dtype", lambda left, right, kind: left.to(kind) @ right.to(kind), "CPU")
# Functions of torch that take a device.
FACTORIES = (
    "arange",
    "as_tensor",
    "empty",
    "empty_strided",
    "eye",
    "full",
    "linspace",
    "ones",
    "rand",
    "randint",
    "randn",
    "randperm",
    "scalar_tensor",
    "tensor",
    "zeros",
)


_device_constructors()  # kept from its first call on: it must not keep what stands in for them


class PretendCuda(TorchDispatchMode):
    """The device, while it is entered.

    `launches`: operations with a kernel, outside graphs, by name. `captured`: those of each graph.
    `graphs`: the graphs that are alive. `waits`: what made the host wait, and the line of lmsm_cli
    that did. A test may set `allocated`, `peak` and `memory` (bytes), and `disturb`: a function
    that is told each operation's name beforehand, `to` for a move between host and device, and may
    raise what a device would. `capturing` is the graph that is being captured, or None, and
    `capture_failed` says whether a capture has.
    """

    def __init__(self, memory=80 << 30):
        super().__init__()
        self.launches, self.captured, self.waits = Counter(), [], []
        self.graphs = weakref.WeakSet()
        self.memory, self.allocated, self.peak = memory, 0, 0
        self.disturb = lambda name: None
        self.default = self.current = Stream()
        self.capturing, self.capture_failed = None, False
        self._random = torch.Generator().manual_seed(0).get_state()
        self._making_on_host = 0

    def __enter__(self):
        assert not DEVICE, "there is one pretended device at a time"
        self._patches = list(self._stand_ins())
        for patch in self._patches:
            patch.start()
        DEVICE.append(self)
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        for patch in reversed(self._patches):
            patch.stop()
        DEVICE.clear()

    # -- torch, as it looks where there is a GPU -------------------------------------------------

    def _stand_ins(self):
        """Yield patches of torch's functions."""
        made = {name: self._made(getattr(torch, name)) for name in FACTORIES}
        autocast, is_enabled = torch.autocast, torch.is_autocast_enabled
        made["autocast"] = lambda kind, *args, **options: autocast(_on_host(kind), *args, **options)
        made["is_autocast_enabled"] = lambda kind="cuda": is_enabled(_on_host(kind))
        yield mock.patch.multiple(torch, **made)
        yield mock.patch.multiple(torch.cuda, **self._memory_and_random(), **self._streams())
        yield mock.patch.multiple(
            Tensor,
            to=self._moved(Tensor.to),
            cpu=lambda tensor: tensor.to("cpu"),
            pin_memory=lambda tensor: self._pinned(tensor),
        )
        grouped = staticmethod(_grouped(torch.optim.Optimizer._group_tensors_by_device_and_dtype))
        yield mock.patch.multiple(torch.optim.Optimizer, _group_tensors_by_device_and_dtype=grouped)
        # Wrapped tensors have no version counter in inference mode.
        yield mock.patch.multiple(
            torch.inference_mode, __enter__=_enter_no_grad, __exit__=_leave_no_grad
        )
        # Module.to puts new parameters in place: wrapped tensors can't take the data of others.
        yield mock.patch.object(torch.__future__, "_overwrite_module_params_on_conversion", True)
        stream = mock.Mock(is_capturing=lambda: self.capturing is not None)
        yield mock.patch.multiple(
            torch.accelerator,
            current_accelerator=lambda check_available=False: torch.device("cuda"),
            current_stream=lambda device=None: stream,
        )

    def _memory_and_random(self):
        """Return what stands in for functions of torch.cuda that tell of the card."""
        return {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "device_count": lambda: 1,
            "set_device": lambda device: None,
            "get_device_name": lambda device=None: "Pretended GPU",
            "get_device_capability": lambda device=None: (9, 0),
            "mem_get_info": lambda device=None: (self.memory - self.allocated, self.memory),
            "memory_allocated": lambda device=None: self.allocated,
            "max_memory_allocated": lambda device=None: self.peak,
            "reset_peak_memory_stats": lambda device=None: setattr(self, "peak", self.allocated),
            "empty_cache": lambda: None,
            "manual_seed": self._seed,
            "manual_seed_all": self._seed,
            "get_rng_state": lambda device=None: self._random.clone(),
            "set_rng_state": lambda state, device=None: setattr(self, "_random", state.clone()),
        }

    def _streams(self):
        """Return what stands in for functions of torch.cuda about streams and graphs."""
        return {
            "synchronize": lambda device=None: self.wait("synchronize"),
            "Stream": Stream,
            "Event": Event,
            "CUDAGraph": Graph,
            "graph": Capture,
            "graph_pool_handle": lambda: (0, 1),
            "stream": self.on,
            "current_stream": lambda device=None: self.current,
            "is_current_stream_capturing": lambda: self.capturing is not None,
        }

    def _seed(self, seed):
        """Seed the device's generator, as torch.manual_seed does."""
        self._random = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def own_random(self):
        """Let random numbers be drawn from the device's generator."""
        of_host = torch.default_generator.get_state()
        torch.default_generator.set_state(self._random)
        try:
            yield
        finally:
            self._random = torch.default_generator.get_state()
            torch.default_generator.set_state(of_host)

    @contextmanager
    def on(self, stream):
        """Return the context of another current stream."""
        before, self.current = self.current, stream
        try:
            yield stream
        finally:
            self.current = before

    def _made(self, factory):
        """Return what stands in for a function that makes tensors."""

        def made(*args, device=None, pin_memory=False, **options):
            if device is not None and torch.device(device).type == "cuda":
                return self._made_here(factory, args, options)
            self._making_on_host += 1
            try:
                options |= {} if device is None else {"device": device}
                tensor = factory(*args, **options)
            finally:
                self._making_on_host -= 1
            return self._pinned(tensor) if pin_memory else tensor

        return made

    def _made_here(self, factory, args, options):
        """Make a tensor on the device."""
        name, needs_grad = factory.__name__, options.pop("requires_grad", False)
        with plainly(), self.own_random():
            inner = factory(*inner_of(args), **inner_of(options))
        if name in ("tensor", "as_tensor"):
            self.wait(f"torch.{name} copies a value of the host")
        elif name not in FREE:
            self.launches[name] += 1
        if self.capturing is not None:
            if name.startswith("rand"):
                raise NotImplementedError(f"torch.{name} in a capture")
            self._note_born(inner)
            if name not in FREE:
                copy = torch.ops.aten.copy_.default
                self.capturing.tape.append((copy, (inner, inner.clone()), {}, inner))
        return OnDevice(inner).requires_grad_(needs_grad)

    def _pinned(self, tensor):
        """Return a copy that is in pinned memory."""
        self.refuse_in_capture("cudaHostAlloc")
        copy = tensor.clone()
        copy.is_pinned_here = True
        return copy

    def _moved(self, original):
        """Return what stands in for `Tensor.to`."""

        def to(tensor, *args, copy=False, **options):
            if args and isinstance(args[0], Tensor):
                options |= {"device": args[0].device, "dtype": args[0].dtype}
                args = args[1:]
            device, dtype, is_async, layout = torch._C._nn._parse_to(*args, **options)
            kind = {"dtype": dtype or tensor.dtype}
            kind["memory_format"] = layout or torch.preserve_format
            is_here = isinstance(tensor, OnDevice)
            stays = device is None or device.type == ("cuda" if is_here else "cpu")
            if stays:
                return original(tensor, **kind, copy=copy)
            if device.type != "cuda" and not is_here:
                return original(tensor, device, **kind, copy=copy)
            self.disturb("to")
            if device.type != "meta" and not (is_async and hasattr(tensor, "is_pinned_here")):
                self.wait(f"to({device})")
            with plainly():
                moved = original((tensor.inner if is_here else tensor).detach().clone(), **kind)
                if device.type != "cuda":
                    return original(moved, device)
            self._note_born(moved)
            return OnDevice(moved)

        return to

    # -- rules -----------------------------------------------------------------------------------

    def refuse_in_capture(self, what):
        """Raise CaptureError while a stream captures."""
        if self.capturing is not None:
            raise CaptureError(what)

    def wait(self, what):
        """Note that the host waits for the device, and where; no capture allows it."""
        self.refuse_in_capture(what)
        self.waits.append((what, _line_of_lmsm()))

    def begin_capture(self, graph):
        """Write down from now on what is done."""
        self.refuse_in_capture("cudaStreamBeginCapture")
        self.capturing, self._born, self._before = graph, {}, {}
        self._random_before = self._random
        self._launches_outside, self.launches = self.launches, Counter()

    def end_capture(self, failed):
        """Undo what was done since the capture began."""
        self.capturing = None
        if not failed:
            self.captured.append(self.launches)
        self.capture_failed |= failed
        self.launches = self._launches_outside
        with plainly():
            for storage, before in self._before.values():
                storage.copy_(before)
        self._random = self._random_before

    def _check(self, name, args, kwargs, given):
        """Refuse what CUDA refuses, and note where the host waits."""
        self.disturb(name)
        if name == "copy_":
            self._check_copy(*args)
        else:
            self._check_devices(name, given)
        is_masked = name in INDEXING and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in WAITING or is_masked:
            self.wait(name)
        if name in FUSED:
            self._check_fused(name, args, kwargs)

    def _check_copy(self, to, source, is_async=False):
        """Note that the host waits for a copy from or to it, unless it need not and is told so."""
        if isinstance(to, OnDevice) == isinstance(source, OnDevice):
            return
        host = source if isinstance(to, OnDevice) else to
        if not (is_async and hasattr(host, "is_pinned_here")):
            way, how = "to" if host is source else "from", "pageable" if is_async else "blocking"
            self.wait(f"copy_ {way} the device, {how}")

    def _check_devices(self, name, given):
        """Refuse tensors of the host, but indices, and outside of graphs single numbers."""
        for tensor in given:
            if isinstance(tensor, OnDevice) or hasattr(tensor, "is_anywhere"):
                continue
            if name.startswith("index") and tensor.dtype == torch.int64:
                self.wait(f"{name} with indices of the host")
            elif tensor.ndim:
                raise RuntimeError(
                    f"{name}: expected all tensors on the same device, found cuda:0 and cpu"
                )
            else:
                self.refuse_in_capture(f"{name} would freeze a number of the host's tensor")

    def _check_fused(self, name, args, kwargs):
        """Refuse gradients and states of other types or strides than the parameters'."""
        lists = [each for each in args if isinstance(each, list | tuple) and each]
        for parameter, *others in zip(*lists, strict=False):
            for other in others:
                if other.shape == parameter.shape and not _is_laid_out_as(other, parameter):
                    kinds = [f"{each.dtype} {each.stride()}" for each in (other, parameter)]
                    raise RuntimeError(f"{name}: {kinds[0]} beside {kinds[1]}")
        if not isinstance(kwargs.get("lr"), OnDevice):
            self.refuse_in_capture(f"{name} would freeze a learning rate of the host")

    # -- operations ------------------------------------------------------------------------------

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.call(func, args, kwargs or {})

    def call(self, func, args, kwargs):
        """Do an operation as the device would, on the numbers that its tensors hold."""
        name, given = func._schema.name.partition("::")[2], tensors_in((args, kwargs))
        run = Kernel(func, KERNELS[name]) if name in KERNELS else func
        if not any(isinstance(tensor, OnDevice) for tensor in given):
            return self._call_on_host(func, args, kwargs, given)
        self._check(name, args, kwargs, given)
        inner_args, inner_kwargs = inner_of(args), inner_of(kwargs)
        if self.capturing is not None:
            self._keep_what_changes(func, inner_args, inner_kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            with self.own_random():
                result = run(*inner_args, **inner_kwargs)
        else:
            result = run(*inner_args, **inner_kwargs)
        kind = kind_of_result(func)
        if kind != "view" and name not in FREE:
            self.launches[name] += 1
        if self.capturing is not None:
            for tensor in tensors_in(result) if kind == "new" else ():
                self._note_born(tensor)
            self.capturing.tape.append((run, inner_args, inner_kwargs, result))
        if name == "copy_" and not isinstance(args[0], OnDevice):
            return args[0]
        return return_and_correct_aliasing(func, args, kwargs, mapped(OnDevice, result))

    def _call_on_host(self, func, args, kwargs, given):
        """Do an operation of the host; what C++ makes from nothing is where it is needed."""
        result = func(*args, **kwargs)
        if not given and not self._making_on_host:
            for tensor in tensors_in(result):
                tensor.is_anywhere = True
        return result

    def _note_born(self, tensor):
        """Keep a tensor that a capture made: what is done to it need not be undone."""
        if self.capturing is not None:
            self._born.setdefault(tensor.untyped_storage()._cdata, tensor)

    def _keep_what_changes(self, func, args, kwargs):
        """Keep the values that an operation of a capture is about to change."""
        changed = []
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info and argument.alias_info.is_write:
                given = args[place] if place < len(args) else kwargs.get(argument.name)
                changed += tensors_in(given)
        name = func._schema.name
        # Its schema does not tell that it changes the running statistics.
        if "batch_norm" in name and "backward" not in name:
            changed += tensors_in(args[3:5])
        for tensor in changed:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._born and storage._cdata not in self._before:
                self._before[storage._cdata] = (storage, storage.clone())


def _is_laid_out_as(tensor, other):
    """Return whether two tensors of one shape have the same type and strides."""
    strides = zip(tensor.shape, tensor.stride(), other.stride(), strict=True)
    return tensor.dtype == other.dtype and all(a == b for size, a, b in strides if size > 1)


def _line_of_lmsm():
    """Return file:line of the innermost call in lmsm_cli, ? where there is none."""
    for frame, line in traceback.walk_stack(None):
        _, package, path = frame.f_code.co_filename.rpartition("lmsm_cli/")
        if package:
            return f"{path}:{line}"
    return "?"


def _on_host(kind):
    """Return the device type whose autocast stands in for that of `kind`."""
    return "cpu" if kind == "cuda" else kind


def _grouped(original):
    """Return what stands in for an optimiser's grouping of tensors, which C++ does by device."""

    def grouped(lists, with_indices=False):
        groups = original(lists, with_indices).items()
        return {
            (tensors[0][0].device, dtype): (tensors, places)
            for (_, dtype), (tensors, places) in groups
        }

    return grouped


def _enter_no_grad(mode):
    mode.instead = torch.no_grad()
    mode.instead.__enter__()


def _leave_no_grad(mode, *error):
    mode.instead.__exit__(*error)
