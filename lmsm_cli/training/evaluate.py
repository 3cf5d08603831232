"""Logits and features of images, without any margin."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lmsm_cli.data.decoded import Images, StoredImages
from lmsm_cli.data.prefetch import ahead
from lmsm_cli.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from lmsm_cli.errors import DivergedError
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.memory import memory_told

# Larger than a training batch, since no activations are kept for a backward pass; fewer of large
# images, since the memory of a batch grows with its pixels.
_BATCH, _BATCH_BYTES = 250, 1 << 21

# On a GPU, where so many images keep it busier than the launches of a batch take, so that a graph
# would gain nothing: it would hold the memory of such a batch beside the training's.
_LARGEST = 4096
# Bytes of an image in the net for one of its pixels' (twice what resnet18-cifar holds), and of its
# scores for a class; a quarter of the free memory is used.
_NET_BYTES, _SCORE_BYTES, _SHARE = 512, 16, 4

# Is told how many images are done, of how many.
Shown = Callable[[int, int], None]


def _unseen(done: int, total: int) -> None:
    """Show nothing."""


@torch.inference_mode()
def scores_of(
    model: Classifier,
    images: Images,
    runtime: Runtime,
    ranks: ProcessGroup = SINGLE_PROCESS,
    *,
    shown: Shown = _unseen,
) -> Tensor:
    """Return the logits (N, C) of uint8 images (N, H, W, C), on the model's device.

    Several `ranks` with the same model share the images; each returns all logits, and tells `shown`
    of its own.
    """
    own = ranks.local_slice(len(images))
    features_by_batch = _embedded(model, images, runtime, own, shown)
    logits = [model.logits(features) for features in features_by_batch]
    return ranks.all_gather_uneven(torch.cat(logits))


@torch.inference_mode()
def scores_and_scale_of(
    model: Classifier, images: Images, runtime: Runtime, *, shown: Shown = _unseen
) -> tuple[Tensor, float]:
    """Return the logits (N, C), those of `scores_of` to the bit, and their `Head.score_scale`."""
    batches = list(_embedded(model, images, runtime, slice(0, len(images)), shown))
    # by the same batches as in scores_of, since a product of matrices rounds by its size
    logits = torch.cat([model.logits(features) for features in batches])
    return logits, model.head.score_scale(torch.cat(batches)).item()


@torch.inference_mode()
def features_of(model: Classifier, images: Images, runtime: Runtime) -> Tensor:
    """Return the head's input features (N, D) of uint8 images (N, H, W, C)."""
    return torch.cat(
        [features.float() for features in _embedded(model, images, runtime, slice(0, len(images)))]
    )


def _embedded(
    model: Classifier, images: Images, runtime: Runtime, part: slice, shown: Shown = _unseen
) -> Iterator[Tensor]:
    """Yield the features of a part of the images by batches; for an empty part, one of no rows.

    Raises OutOfMemoryError.
    """
    was_training = model.training
    model.eval()
    try:
        step = _batch_size(images, model, runtime)
        starts = range(part.start, max(part.stop, part.start + 1), step)
        parts = [slice(start, min(start + step, part.stop)) for start in starts]
        on_disk = isinstance(images, StoredImages)
        read = ahead(images.__getitem__, parts) if on_disk else (images[one] for one in parts)
        for one, batch in zip(parts, read, strict=True):
            told = memory_told(runtime.device, f"while {len(batch)} images were evaluated")
            with told, runtime.arithmetic():
                features = model.embed(batch.to(runtime.device).permute(0, 3, 1, 2))
            yield features
            shown(one.stop - part.start, part.stop - part.start)
    finally:
        model.train(was_training)


def _batch_size(images: Images, model: Classifier, runtime: Runtime) -> int:
    """Return how many images are evaluated at a time; on a GPU a power of two, by its memory."""
    pixels = math.prod(images.shape[1:])
    if runtime.device.type != "cuda":
        return max(1, min(_BATCH, _BATCH_BYTES // pixels))
    free, _ = torch.cuda.mem_get_info(runtime.device)
    needed = _NET_BYTES * pixels + _SCORE_BYTES * len(model.classes)
    fitting = max(1, min(_LARGEST, free // _SHARE // needed))
    return 1 << fitting.bit_length() - 1


def answers(logits: Tensor) -> tuple[NDArray[np.int64], NDArray[np.floating[Any]]]:
    """Return the predicted classes (N,) of logits (N, C), and these as an array.

    Raises DivergedError for logits that are infinite or not a number.
    """
    array = logits.cpu().numpy()
    if not np.isfinite(array).all():
        raise DivergedError("the classifier's logits are infinite or not a number")
    return logits.argmax(dim=1).cpu().numpy(), array


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Return the margin-free loss of logits (N, C) against labels (N,)."""
    return functional.cross_entropy(logits, labels.to(logits.device)).item()
