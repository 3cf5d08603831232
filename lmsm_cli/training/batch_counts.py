"""BatchNorm's counts of batches, added to all at once: each alone would be a kernel on a GPU.

The counts are kept for the state dict, in which torch has them; with a momentum nothing reads them.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lmsm_cli.distributed.sync_batch_norm import CudaBatchNorm

_KINDS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, CudaBatchNorm)
_COUNT = "num_batches_tracked"


def layers_that_count(model: nn.Module) -> list[_BatchNorm]:
    """Return the layers whose counts nothing depends on; those of other kinds count as they do."""
    return [
        layer
        for layer in model.modules()
        if type(layer) in _KINDS
        and isinstance(layer, _BatchNorm)
        and layer.momentum is not None
        and layer.num_batches_tracked is not None
    ]


@contextmanager
def counted_at_once(layers: list[_BatchNorm]) -> Iterator[None]:
    """Keep the layers from counting a batch, and count it for those in training afterwards."""
    training = [layer for layer in layers if layer.training]
    counts = [layer._buffers[_COUNT] for layer in training]
    for layer in training:
        layer._buffers[_COUNT] = None
    try:
        yield
    finally:
        for layer, count in zip(training, counts, strict=True):
            layer._buffers[_COUNT] = count
    if counts:
        torch._foreach_add_([count for count in counts if count is not None], 1)
