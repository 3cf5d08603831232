"""Weights to start a net from: torchvision's and timm's, downloaded on request or from a file.

Layers that a net does not share with the weights stay fresh: a ResNet's stem for small images, and
the layer that gave the classes. A run of lmsm's own as a start is in runs/start.py.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lmsm_cli.errors import MALFORMED, CheckpointError, LmsmError, first_line, missing_extra
from lmsm_cli.models import timm_nets
from lmsm_cli.models.backbones import first_non_finite
from lmsm_cli.models.nets import library_of
from lmsm_cli.models.torchvision_nets import first_convolution, in_channels

IMAGENET = "imagenet"
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]

# Our own nets that share weights with a net of torchvision, and its name.
_SHARED = {
    "resnet18": "resnet18",
    "resnet18-cifar": "resnet18",
    "vgg16": "vgg16",
    "vgg16_bn": "vgg16_bn",
}
# Trained on ((image - ImageNet's mean) / deviation) that they themselves brought to these.
_OTHERWISE_NORMALISED = ("googlenet", "inception_v3")
_POSITIONS = "encoder.pos_embedding"  # of torchvision's vision transformers
# DenseNets were saved with other names: denselayer1.norm.1.weight is now denselayer1.norm1.weight.
_DENSE = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.\w+)$")


def check_pretrained(model: str, source: str | None) -> None:
    """Raise LmsmError where there are no such weights for a net; nothing is downloaded or read."""
    if source is None:
        return
    if library_of(model)[0] in ("lmsm", "own") and model not in _SHARED:
        raise LmsmError(
            f"model {model!r} has no pretrained weights but those of a run: {', '.join(_SHARED)} "
            "have, and the nets of torchvision and timm"
        )
    if source != IMAGENET and not Path(source).is_file():
        what = "is a folder, no file" if Path(source).is_dir() else "does not exist"
        raise LmsmError(f"pretrained file {source} {what}")


def normalisation_of(model: str, channels: int) -> Normalisation:
    """Return mean and standard deviation of each channel with which a net's weights were trained.

    For grey images it is the mean over the colours.
    """
    library, name = library_of(model)
    if library == "timm":
        mean, std = timm_nets.timm_normalisation(name)
    elif name in _OTHERWISE_NORMALISED:
        mean, std = (0.5,) * 3, (0.5,) * 3
    else:
        preparation = _weights_of(_SHARED.get(name, name)).transforms()
        mean, std = tuple(preparation.mean), tuple(preparation.std)
    return of_channels((mean, std), channels)


def of_channels(normalisation: Normalisation, channels: int) -> Normalisation:
    """Return a normalisation for images of other channels: of each the mean over those known."""
    mean, std = normalisation
    if channels == len(mean):
        return normalisation
    return (sum(mean) / len(mean),) * channels, (sum(std) / len(std),) * channels


def load_pretrained(
    backbone: nn.Module, model: str, source: str, *, channels: int, image_size: int
) -> None:
    """Load weights into a freshly built backbone, in place.

    Args:
        backbone: as `build_backbone` makes it of the other arguments.
        model: its name.
        source: `imagenet`, or the path of a state-dict file.
        channels, image_size: of the images.

    Raises LmsmError where the file does not hold this net's weights, and CheckpointError where a
    number of them is not finite.
    """
    library, name = library_of(model)
    given = _read_weights(Path(source)) if source != IMAGENET else None
    if library == "timm":
        state = _timm_weights(name, source, given, channels, image_size)
    else:
        state = given or _imagenet_weights(_SHARED.get(name, name))
    _check_finite(state, source)
    fresh: tuple[str, ...] = ()
    if library == "lmsm":
        state, fresh = _by_our_names(state), _fresh_layers(backbone, model)
    elif library == "torchvision":
        state = adapted(backbone, state, image_size)
    fitting = fitting_weights(backbone, state, model, source, fresh)
    backbone.load_state_dict(fitting, strict=False)


def _check_finite(state: Mapping[str, Tensor], source: str) -> None:
    damaged = first_non_finite(state)
    if damaged is not None:
        raise CheckpointError(
            f"pretrained {source!r} holds numbers that are not finite (NaN or infinity), first in "
            f"the tensor {damaged!r}: a training cannot start from them; take another file"
        )


def fitting_weights(
    net: nn.Module,
    given: Mapping[str, Tensor],
    model: str,
    source: str,
    fresh: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """Return the given tensors that a net has.

    Counters of BatchNorm, which older files lack and which change nothing, may be missing.

    Args:
        net: a backbone.
        given: tensors by the net's names; others among them are left out.
        model, source: of both, for messages.
        fresh: how the names of those tensors begin that the net need not be given.

    Raises LmsmError where one is missing or of another shape.
    """
    own = net.state_dict()
    names = {key for key in own if not key.startswith(fresh)}
    needed = {key for key in names if not key.endswith("num_batches_tracked")}
    fitting = {key for key in names & given.keys() if given[key].shape == own[key].shape}
    if unusable := sorted(needed - fitting):
        first = unusable[0]
        there = f"has {tuple(given[first].shape)} there" if first in given else "is not there"
        raise LmsmError(
            f"pretrained {source!r} does not fit {model}: {len(unusable)} of {len(needed)} tensors "
            f"are missing or of another shape, first {first!r} of {tuple(own[first].shape)}, which "
            f"{there}"
        )
    return {key: given[key] for key in fitting}


def _fresh_layers(net: nn.Module, model: str) -> tuple[str, ...]:
    """Return how the names of layers begin that our own nets have in another form."""
    if model not in _SHARED:
        return ()
    if not model.startswith("vgg"):
        return ("conv1.",)
    grey = first_convolution(net)[1].in_channels != 3
    return ("2.", "0.0.") if grey else ("2.",)


def _by_our_names(given: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return the tensors by our names: the features of our VGGs sit one level deeper."""
    prefix = "features."
    if not any(key.startswith(prefix) for key in given):
        return given
    return {f"0.{k[len(prefix) :]}": v for k, v in given.items() if k.startswith(prefix)}


def adapted(net: nn.Module, given: Mapping[str, Tensor], image_size: int) -> Mapping[str, Tensor]:
    """Return a net's weights, which may be for other channels and another size, for this net's."""
    state = {_DENSE.sub(r"\1\2", key): value for key, value in given.items()}
    path, first = first_convolution(net)
    key = f"{path}.weight"
    if key in state and state[key].ndim == 4:
        state[key] = in_channels(state[key], first.in_channels)
    own = net.state_dict().get(_POSITIONS)
    theirs = state.get(_POSITIONS)
    if own is not None and theirs is not None and theirs.shape != own.shape:
        from torchvision.models.vision_transformer import interpolate_embeddings

        patch: Any = net.patch_size
        try:
            state = dict(interpolate_embeddings(image_size, patch, dict(state)))
        except ValueError:  # of no such net: the shapes are compared next
            return state
    return state


def _timm_weights(
    name: str, source: str, given: Mapping[str, Tensor] | None, channels: int, image_size: int
) -> Mapping[str, Tensor]:
    """Return the weights of a net of timm, which itself fits them to channels and size."""
    options: dict[str, Any] = {}
    if given is not None:
        _check_finite(given, source)
        with torch.device("meta"):
            usual = timm_nets.full_net(name)
        fitting_weights(usual, given, f"timm:{name}", source)
        options = {"pretrained_cfg_overlay": {"state_dict": dict(given)}}
    try:
        net = timm_nets.full_net(name, channels, image_size, pretrained=True, **options)
    except MALFORMED as error:
        raise LmsmError(
            f"the weights of timm:{name} cannot be had: {first_line(error)}; "
            f"download them elsewhere and give the file's path to --pretrained"
        ) from None
    state: Mapping[str, Tensor] = net.state_dict()
    return state


def _weights_of(name: str) -> Any:
    """Return torchvision's entry of the best weights of a net."""
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    return weights.DEFAULT


def _imagenet_weights(name: str) -> Mapping[str, Tensor]:
    weights = _weights_of(name)
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise LmsmError(
            f"cannot download {weights.url}: {error}; "
            f"download it elsewhere and give the file's path to --pretrained"
        ) from None
    return state


def has_cached_weights(model: str) -> bool:
    """Return whether torchvision's weights for a net lie on this disk, where torch keeps downloads.

    Those of timm are in a cache of its own, of which nothing is asked here.
    """
    library, name = library_of(model)
    if library == "timm" or (library == "lmsm" and model not in _SHARED):
        return False
    try:
        url: str = _weights_of(_SHARED.get(name, name)).url
    except ValueError:  # no net of torchvision's, which is refused elsewhere
        return False
    return (Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]).is_file()


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a state-dict file; some are saved as the entry of a larger one."""
    try:
        state: Any = _reader_of(path)(path)
    except MALFORMED as error:
        # torch's own words are a number, or end in advice to load whatever a file has
        is_torchs = path.suffix != ".safetensors"
        why = "torch.save(net.state_dict(), FILE) writes one" if is_torchs else first_line(error)
        raise LmsmError(f"pretrained file {path} is no state dict: {why}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise LmsmError(f"pretrained file {path} is no state dict of tensors")
    return state


def _reader_of(path: Path) -> Callable[[Path], Any]:
    if path.suffix != ".safetensors":
        return lambda path: torch.load(path, map_location="cpu", weights_only=True)
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise missing_extra("a .safetensors file", error, "timm") from None
    return load_file
