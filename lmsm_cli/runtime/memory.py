"""Out of memory, told as what a user can mend: the batch, the peak, and the batch that would fit."""

import copy
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lmsm_cli.errors import OutOfMemoryError, first_line
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.device import Runtime

# How torch's CPU allocator, the C++ library and oneDNN say it (which lacks memory for a kernel's
# code); CUDA has an exception of its own.
_WORDS = (
    "allocate memory",
    "not enough memory",
    "bad_alloc",
    "out of memory",
    "could not create a",
)
# Gradients, work space and what allocators waste, on top of what is kept for the backward pass:
# a batch that is named must fit.
_OVERHEAD = 3.0
# Gradients and an optimiser's two moments, each as large as the parameters.
_COPIES = 3


@contextmanager
def reported_memory(
    runtime: Runtime,
    model: Classifier,
    batch_size: int,
    image_shape: tuple[int, ...],
    ranks: int = 1,
) -> Iterator[None]:
    """Turn out of memory inside into OutOfMemoryError, which names a batch that would have fitted.

    It follows from the memory that there was, and from what an image takes in training. Nothing is
    tried: so near the limit libraries crash. Images are (H, W, C), a batch is shared by `ranks`.
    """
    before = memory_in_use(runtime.device)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # they hold the memory of the failed step
        peak = peak_memory(runtime.device)
        once = _COPIES * sum(p.numel() * p.element_size() for p in model.parameters())
        fitting = fitting_batch(
            batch_size, peak - before - once, training_bytes(model, runtime, image_shape) / ranks
        )
        advice = (
            f"--batch-size {fitting} would have fitted"
            if fitting
            else "take a smaller --batch-size, model or image size"
        )
        raise OutOfMemoryError(
            f"out of memory with batch_size {batch_size}, at a peak of {peak / 2**30:.2f} GiB ({first_line(error)}); {advice}"
        ) from None


def fitting_batch(batch_size: int, available: float, bytes_per_image: float) -> int | None:
    """Return the largest half, quarter, ... of a batch that fits into so many bytes; None for none."""
    halves = (batch_size // 2**n for n in range(1, batch_size.bit_length()))
    return next((n for n in halves if n >= 2 and n * bytes_per_image <= available), None)


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that memory ran out, of a device or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _WORDS)


def memory_in_use(device: torch.device) -> int:
    """Return the bytes in use now; on the CPU the most until now, which is no less."""
    return (
        int(torch.cuda.memory_allocated(device)) if device.type == "cuda" else peak_memory(device)
    )


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


def training_bytes(model: Classifier, runtime: Runtime, image_shape: tuple[int, ...]) -> float:
    """Return the bytes that an image (H, W, C) takes in a step: what its backward pass needs.

    Computed on shapes alone, without memory.
    """
    shapes: dict[int, Tensor] = {
        id(p): nn.Parameter(p.detach().to("meta")) for p in model.parameters()
    }
    shapes |= {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    # Not in training: BatchNorm keeps as much, and would wait for other ranks.
    model = copy.deepcopy(model, dict(shapes)).eval()
    kept = [_kept(model, image_shape, count) for count in (2, 4)]
    size = 0.5 if runtime.precision == "bf16" else 1.0  # of the float32 that shapes are counted in
    return _OVERHEAD * size * (kept[1] - kept[0]) / 2


def _kept(model: Classifier, image_shape: tuple[int, ...], count: int) -> int:
    """Return the bytes that autograd keeps of a batch."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[id(tensor.untyped_storage())] = tensor.numel() * tensor.element_size()
        return tensor

    images = torch.empty(count, *image_shape, dtype=torch.uint8, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        alive = model.embed(images.permute(0, 3, 1, 2))
    del alive  # until here, so that no storage's number was given anew
    return sum(kept.values())
