"""Where and in which arithmetic to compute: device, precision, memory layout."""

import ctypes
import re
import sys
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from lmsm_cli.errors import LmsmError

M = TypeVar("M", bound=nn.Module)

# From glibc's malloc.h.
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1


@dataclass(frozen=True)
class Runtime:
    """A device and the arithmetic of the backbone on it; heads compute in float32 regardless."""

    device: torch.device
    bf16: bool

    def autocast(self) -> AbstractContextManager[None]:
        """Return the context in which the backbone computes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def place(self, model: M) -> M:
        """Return the model on the device, in the layout that its convolutions are fastest in."""
        return model.to(self.device).to(memory_format=torch.channels_last)

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"  # fmt: skip
        return f"{name}, {'bf16' if self.bf16 else 'fp32'}"


def choose_runtime(device: str, precision: str) -> Runtime:
    """Return the runtime that a config's `device` and `precision` ask for.

    Raises LmsmError where CUDA is asked for and there is none.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise LmsmError(f"device is {device!r}: give auto, cpu, cuda or cuda:N")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise LmsmError(f"device is {device!r}: torch {torch.__version__} finds no CUDA device here; use --device cpu or auto")  # fmt: skip
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise LmsmError(f"device is {device!r}: there are {torch.cuda.device_count()} CUDA devices")
    if chosen.type == "cpu":
        _keep_freed_memory()
        # Numbers below 1e-38, as in the second moments of dead weights, cost microcode each.
        torch.set_flush_denormal(True)
    return Runtime(chosen, precision == "bf16" or (precision == "auto" and _has_fast_bf16(chosen)))


def _has_fast_bf16(device: torch.device) -> bool:
    """Return whether the hardware multiplies bf16; emulated bf16 is slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # AVX512_BF16 or AMX, the two that oneDNN has kernels for.
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def _keep_freed_memory() -> None:
    """Let glibc reuse freed blocks of any size instead of returning them to the system.

    A step frees and takes activations of tens of megabytes; each return costs their page faults
    again (benchmarks/LOG.md). Does nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
