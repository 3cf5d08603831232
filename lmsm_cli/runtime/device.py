"""Where and in which arithmetic to compute: device, precision, memory layout, threads."""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, nn

from lmsm_cli.errors import LmsmError, counted
from lmsm_cli.runtime.cpu import threads_for
from lmsm_cli.runtime.small_conv import with_window_convolutions

M = TypeVar("M", bound=nn.Module)
Precision = Literal["fp32", "bf16", "bf16-conv"]
Layout = Literal["channels-last", "contiguous"]


def _all_threads() -> int:
    """Return the threads of a host: what torch found, or OMP_NUM_THREADS.

    torchrun sets that to 1 where the user did not; here its processes share all cores instead.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        return threads_for(1)
    return torch.get_num_threads()


# Read at import: a run may set fewer later.
ALL_THREADS = _all_threads()

# Output channels of a convolution from which bf16 pays on a CPU: resnet18, vgg16 and paper-cifar10
# gained by it, the digits' net (64) did not (benchmarks/LOG.md).
_WIDE = 128

# From glibc's malloc.h.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1


@dataclass(frozen=True)
class Runtime:
    """A device and the arithmetic of the backbone on it; heads compute in float32 regardless.

    `fp32` is IEEE's, on a GPU too, whose TF32 keeps ten bits of a factor. `bf16` is autocast;
    `bf16-conv` keeps float32 tensors and rounds inside the convolutions (CPU).
    `threads` counts on the CPU only.
    """

    device: torch.device
    precision: Precision = "fp32"
    layout: Layout = "channels-last"
    threads: int = ALL_THREADS

    def apply(self) -> None:
        """Set what holds for the whole process; call it before computing."""
        if self.device.type == "cuda":
            # By their older names: after the newer ones whatever reads an older one fails, such as
            # torch.export, which then leaves oneDNN off.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.benchmark = False  # but see `fastest_kernels`
            return
        torch.set_num_threads(self.threads)
        multiplied_in = "bf16" if self.precision == "bf16-conv" else "ieee"
        torch.backends.mkldnn.conv.fp32_precision = multiplied_in  # type: ignore[attr-defined]
        # Numbers below 1e-38, as in the second moments of dead weights, cost microcode each.
        torch.set_flush_denormal(True)
        _keep_freed_memory()

    def arithmetic(self) -> AbstractContextManager[None]:
        """Return the context in which the backbone computes."""
        if self.precision == "bf16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return nullcontext()

    def place(self, model: M) -> M:
        """Return the model on the device, in the runtime's layout, with its fast convolutions."""
        model = model.to(self.device)
        if self.layout == "channels-last":
            model = model.to(memory_format=torch.channels_last)
        return with_window_convolutions(model) if self.device.type == "cpu" else model

    def to_config(self) -> dict[str, Any]:
        """Return the keys of a config that ask for this arithmetic on another machine too."""
        threads = self.threads if self.device.type == "cpu" else 0
        return {"precision": self.precision, "layout": self.layout, "threads": threads}

    def __str__(self) -> str:
        if self.device.type == "cuda":
            return f"{torch.cuda.get_device_name(self.device)}, {self.precision}"
        return f"CPU, {counted(self.threads, 'thread')}, {self.precision}, {self.layout}"


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Let cuDNN try out its kernels, for seconds, on each new shape of a convolution.

    That pays for a shape that comes again and again, as the full batches of a training do.
    """
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


def has_cuda() -> bool:
    """Return whether there is a GPU that runs can compute on: Nvidia's, as nobody tried others."""
    return torch.cuda.is_available() and torch.version.hip is None


def choose_device(device: str) -> torch.device:
    """Return the device that a config's `device` asks for.

    Raises LmsmError where CUDA is asked for and there is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        apple = ", Apple's GPU, is not supported" if device.startswith("mps") else ""
        raise LmsmError(f"device is {device!r}{apple}: give auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not has_cuda():
        raise LmsmError(
            f"device is {device!r}: torch {torch.__version__} finds no CUDA device here"
            f"{_built_for()}; use --device cpu or auto"
        )
    if device == "auto":
        device = "cuda" if has_cuda() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise LmsmError(f"device is {device!r}: there are {torch.cuda.device_count()} CUDA devices")
    return chosen


def choose_runtime(
    device: str,
    precision: str,
    layout: str = "auto",
    threads: int = 0,
    *,
    net: nn.Module | None = None,
    processes: int = 1,
) -> Runtime:
    """Return the runtime that a config's values ask for.

    Args:
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16, bf16-conv, or auto for what `resolve_precision` says of `net`.
        layout: channels-last, contiguous, or auto for channels-last.
        threads: of the CPU; 0 takes all.
        net: what is to be trained; without one, auto is fp32 on the CPU.
        processes: of this host, which share the threads.

    Raises LmsmError for a device or a precision that is not to be had.
    """
    chosen = choose_device(device)
    check_precision(precision, chosen)
    return Runtime(
        chosen,
        resolve_precision(chosen, net) if precision == "auto" else cast(Precision, precision),
        "channels-last" if layout == "auto" else cast(Layout, layout),
        max(1, (threads or ALL_THREADS) // processes),
    )


def resolve_precision(device: torch.device, net: nn.Module | None) -> Precision:
    """Return what precision auto is: bf16 where the device multiplies it and it pays, else fp32.

    It pays on any GPU that has it, and on the CPU for nets with a convolution of at least 128
    output channels. The answer depends on the machine and the net alone.
    """
    if not has_fast_bf16(device):
        return "fp32"
    if device.type == "cuda":
        return "bf16"
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)] if net else []
    return "bf16" if max((c.out_channels for c in convolutions), default=0) >= _WIDE else "fp32"


def check_precision(precision: str, device: torch.device) -> None:
    """Raise LmsmError where a device has no such arithmetic."""
    if precision == "bf16-conv" and device.type != "cpu":
        raise LmsmError(
            "precision is 'bf16-conv': that is oneDNN's, for the CPU; take bf16 or fp32 on CUDA"
        )


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # AVX512_BF16 or AMX, the two that oneDNN has kernels for.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _built_for() -> str:
    if torch.version.hip:
        return f" (it was built for ROCm {torch.version.hip}, which lmsm does not support)"
    return (
        f" (it was built for CUDA {torch.version.cuda}: is there a GPU and its driver?)"
        if torch.version.cuda
        else " (it was built without CUDA)"
    )


def _keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of any size instead of returning them to the system.

    A step frees and takes activations of tens of megabytes; each return costs their page faults
    again (benchmarks/LOG.md). Does nothing where there is no glibc.
    """
    if mallopt := _of_libc("mallopt"):
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _of_libc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Return values of the host on the device; CUDA takes them while the host goes on."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values
