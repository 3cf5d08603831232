"""The features of a net whose last layer alone is trained: worked out once, and kept for later.

They stand in the place of the images (`Classifier.embed`), so that an epoch takes milliseconds.
They are kept in the user's cache, by the net, the images and what computed them: a second head on
the same net finds them there. What is kept is an .npz file with a checksum; a run folder brings
none.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from lmsm_cli.config import Config
from lmsm_cli.data.cache import cache_folder, key_of, size_limit, still_there
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.models.nets import library_of
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.files import check_own_folder, replacing
from lmsm_cli.training.evaluate import features_of

# Features are small beside images: so much of what decoded images may take.
_SHARE = 0.1


def stay_the_same(config: Config) -> bool:
    """Return whether an image has the same features in each epoch of a config's training."""
    changes = config.augment != "none" or config.mixup or config.cutmix
    return config.freeze == "features" and not changes


def as_features(images: ImageSet, model: Classifier, config: Config, runtime: Runtime) -> ImageSet:
    """Return a data set whose images are their features (N, 1, 1, D), float32, on the device.

    Args:
        images: uint8 images (N, H, W, C).
        model: on the device; all up to its last layer is frozen.
        config: whose `resize` and `kept_size` the images were brought to their size by.
        runtime: what computes.
    """
    path = _path(images, model, config, runtime)
    found = _read(path, len(images)) if path else None
    if found is None:
        found = features_of(model, images.images, runtime).cpu()
        if path:
            _write(path, found)
    return replace(images, images=found[:, None, None].to(runtime.device))


def _path(images: ImageSet, model: Classifier, config: Config, runtime: Runtime) -> Path | None:
    """Return the file of the features, by all that they follow from.

    None for a net from outside lmsm, torchvision and timm: nobody knows all of its code, and with
    the same weights other code gives other features.
    """
    library, name = library_of(config.model)
    if library == "own":
        return None
    from lmsm_cli import __version__

    code = (library, name, __version__ if library == "lmsm" else version(library))
    net = key_of(*(part for item in _frozen_tensors(model) for part in item))
    order = images.digests.tobytes()
    shape = tuple(images.images.shape)
    how = (*code, str(runtime), torch.__version__, config.resize, config.kept_size)
    return cache_folder() / "features" / f"{key_of('features 2', net, order, shape, *how)}.npz"


def _frozen_tensors(model: Classifier) -> Iterator[tuple[str, bytes]]:
    """Yield the tensors that features follow from: all but the head's, by name."""
    for name, value in model.state_dict().items():
        if not name.startswith("head."):
            whole = value.detach().cpu().contiguous().reshape(-1)
            yield name, whole.view(torch.uint8).numpy().tobytes()


def _read(path: Path, count: int) -> Tensor | None:
    """Return the features that are kept, None where none are."""
    # reading verifies the checksum
    with suppress(OSError, ValueError, KeyError, BadZipFile), np.load(path) as file:
        found = file["features"]
        os.utime(path)
        if found.dtype == np.float32 and found.ndim == 2 and len(found) == count:
            return torch.from_numpy(found)
    return None


def _write(path: Path, features: Tensor) -> None:
    """Keep features, and drop those that were least recently used where there is no room."""
    with suppress(OSError):  # a cache that cannot be used costs time alone
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_own_folder(path.parent)
        values = features.numpy()
        kept = sorted(still_there(path.parent.glob("*.npz")), key=lambda one: one[1].st_mtime)
        room = size_limit(path.parent) * _SHARE - values.nbytes
        held = sum(info.st_size for _, info in kept)
        while kept and held > room:
            oldest, info = kept.pop(0)
            held -= info.st_size
            oldest.unlink(missing_ok=True)
        if room >= 0:
            with replacing(path) as file:
                np.savez(file, features=values)
