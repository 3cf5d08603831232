"""Out of memory, as an error that names the batch, the peak, and what to try."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lmsm_cli.errors import OutOfMemoryError, first_line

# How torch's CPU allocator, the C++ library, oneDNN (which lacks memory for a kernel's code), and
# cuBLAS and cuDNN say it; torch's allocator on CUDA has an exception of its own.
_WORDS = (
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "could not create a",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "unable to find an engine",
)


@contextmanager
def reported_memory(
    device: torch.device, batch_size: int, *, goes_on: bool = False
) -> Iterator[None]:
    """Turn out of memory in a training into OutOfMemoryError, which names half the batch to try.

    A run that `goes_on` cannot change its batch.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)  # else it is that of an earlier run
    can_halve = batch_size >= 4  # BatchNorm takes two images
    half = f"--batch-size {batch_size // 2}" if can_halve else "a smaller model or image size"
    with memory_told(device, f"with batch_size {batch_size}", None if goes_on else half):
        yield


@contextmanager
def memory_told(device: torch.device, doing: str, way_out: str | None = None) -> Iterator[None]:
    """Turn out of memory inside into OutOfMemoryError.

    Args:
        device: Where it happens.
        doing: What needs the memory, as in `out of memory while ...`.
        way_out: What to try; None for what helps whatever it is.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the memory of what failed
        peak = peak_memory(device) / 2**30
        raise OutOfMemoryError(
            f"out of memory {doing}, at a peak of {peak:.2f} GiB ({first_line(error)}); "
            f"try {way_out or _less_crowded(device)}"
        ) from None


def _less_crowded(device: torch.device) -> str:
    """Return what to try where nothing that is asked for can be made smaller."""
    if device.type == "cuda":
        return "to free memory of the GPU (nvidia-smi tells who uses it), or --device cpu"
    return "to close other programs, or a machine with more"


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, of a device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _WORDS)


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that were in use: on CUDA of the device, else of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "linux":
        # Not getrusage's maximum: that begins with the parent's, from before the exec.
        kib = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        return int(kib[1]) * 1024 if kib else 0
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return 0
