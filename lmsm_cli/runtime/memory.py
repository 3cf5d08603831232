"""Out of memory, as an error that names the batch, the peak, and what to try."""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lmsm_cli.errors import OutOfMemoryError, first_line

# How torch's CPU allocator, the C++ library and oneDNN say it (which lacks memory for a kernel's
# code); CUDA has an exception of its own.
_WORDS = (
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "could not create a",
)


@contextmanager
def reported_memory(device: torch.device, batch_size: int) -> Iterator[None]:
    """Turn out of memory inside into OutOfMemoryError, which names half the batch to try."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the memory of the failed step
        can_halve = batch_size >= 4  # BatchNorm takes two images
        half = f"--batch-size {batch_size // 2}" if can_halve else "a smaller model or image size"
        peak = peak_memory(device) / 2**30
        raise OutOfMemoryError(
            f"out of memory with batch_size {batch_size}, at a peak of {peak:.2f} GiB "
            f"({first_line(error)}); try {half}"
        ) from None


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
