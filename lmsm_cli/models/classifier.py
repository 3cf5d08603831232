"""The Classifier, which joins a backbone, a neck and a head, and how it is built from names."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import torch
from torch import Tensor, nn

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.class_weights import by_index
from lmsm_cli.losses.head import Head
from lmsm_cli.losses.registry import build_head
from lmsm_cli.losses.weights import Init
from lmsm_cli.models.affine import Affine
from lmsm_cli.models.necks import build_neck
from lmsm_cli.models.nets import build_backbone, without_memory
from lmsm_cli.models.pretrained import load_pretrained


@dataclass(frozen=True)
class ModelSpec:
    """The names of the parts of a classifier, as the config has them."""

    model: str
    neck: str
    loss: str
    head_bias: bool = False
    head_init: Init = "default"
    image_size: int = 32
    """Side in pixels of the images, for which a net of a fixed size is built."""
    class_margins: Mapping[str, float] | None = None

    @classmethod
    def of(cls, config: Any, **more: Any) -> "ModelSpec":
        """Return the names that a Config has, and `more` that it has not."""
        own = {part.name for part in fields(cls)} - more.keys()
        return cls(**{name: getattr(config, name) for name in own}, **more)


class Classifier(nn.Module):
    """Backbone, neck and head over uint8 images; carries class names and normalisation.

    `mean` and `std` are per channel, in units of [0, 1]. A correction of the logits can be built
    in (`correct_by`): it is part of the answers, and of no loss.
    """

    mean: Tensor
    std: Tensor
    logit_scale: Tensor | None
    logit_shift: Tensor | None

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: Head,
        *,
        classes: Iterable[str],
        mean: Iterable[float],
        std: Iterable[float],
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.head = backbone, neck, head
        self.classes = tuple(classes)
        self.frozen: tuple[str, ...] = ()
        """The parts whose weights stay, by their paths, as `backbone` or `backbone.layer1`."""
        self.image_size: int | None = None
        """Side in pixels of the images that a call takes; None, as before it is saved, for any."""
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(1, -1, 1, 1))
        # a checkpoint keeps them apart from the weights, which go on without them
        self.register_buffer("logit_scale", None, persistent=False)
        self.register_buffer("logit_shift", None, persistent=False)

    def correct_by(self, correction: Affine | None) -> None:
        """Build a correction of the logits in, or with None take it out again."""
        weight = self.head.weight.detach()
        self.logit_scale = None if correction is None else correction.scale.to(weight)
        self.logit_shift = None if correction is None else correction.shift.to(weight)

    def train(self, mode: bool = True) -> Self:
        """Set the mode; frozen parts, with their BatchNorm and dropout, stay as in evaluation."""
        super().train(mode)
        for path in self.frozen:
            self.get_submodule(path).eval()
        return self

    def embed(self, images: Tensor) -> Tensor:
        """Return the head's input features (N, D) of uint8 images (N, C, H, W), of any size.

        Floating-point numbers (N, D, 1, 1) are features that are known already.
        """
        if isinstance(images, Tensor) and images.is_floating_point():
            width = self.head.weight.shape[1]
            if images.shape[1:] == (width, 1, 1):
                return images.flatten(1)
        self._check_kind(images)
        normalised = (images.float() / 255 - self.mean) / self.std
        features: Tensor = self.neck(self.backbone(normalised))
        return features

    def logits(self, features: Tensor) -> Tensor:
        """Return margin-free class scores (N, num_classes) of features (N, D), corrected."""
        logits = self.head.logits(features)
        if self.logit_scale is None or self.logit_shift is None:
            return logits
        return logits * self.logit_scale + self.logit_shift

    def forward(self, images: Tensor) -> Tensor:
        """Return margin-free class scores (N, num_classes) of uint8 images (N, C, H, W).

        Raises ArgumentError for what are no such images, and for those of another `image_size`.
        """
        self._check_kind(images)
        self._check_size(images)
        return self.logits(self.embed(images))

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """Return the most likely class of each uint8 image (N, C, H, W) as indices (N,).

        Raises ArgumentError where a call does.
        """
        scores: Tensor = self(images)
        return scores.argmax(dim=1)

    def _check_kind(self, images: Tensor) -> None:
        """Raise ArgumentError for what are no images: numbers from 0 to 1 would all be black."""
        channels = self.mean.shape[1]
        if not isinstance(images, Tensor) or images.dtype != torch.uint8:
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise ArgumentError(
                f"images are of type {kind}: expected a torch tensor of uint8, 0 to 255"
            )
        if images.ndim != 4 or images.shape[1] != channels:
            raise ArgumentError(
                f"images have shape {tuple(images.shape)}: expected (N, {channels}, H, W)"
            )

    def _check_size(self, images: Tensor) -> None:
        """Raise ArgumentError for another size, at which a net answers, and mostly wrongly."""
        height, width = images.shape[2:]
        side = self.image_size
        if side is not None and (height, width) != (side, side):
            raise ArgumentError(
                f"images have {height} x {width} pixels: the classifier was trained with "
                f"{side} x {side}; bring them to that size, as `lmsm predict` does with files"
            )


def build_classifier(
    spec: ModelSpec,
    *,
    classes: Iterable[str],
    mean: Iterable[float],
    std: Iterable[float],
    class_counts: Tensor | None = None,
    pretrained: str | None = None,
) -> Classifier:
    """Return a fresh classifier, its weights drawn from torch's global generator.

    Args:
        spec: the names of its parts; `head_bias` and `head_init` as `build_head` takes them,
            `class_margins` by the names of the classes.
        classes: the names of the classes.
        mean, std: the normalisation, one number a channel, in units of [0, 1].
        class_counts: the training images of each class (C,), for losses that need them.
        pretrained: `imagenet`, or the path of a state dict of the backbone.

    Raises LmsmError for losses and weights that cannot be used.
    """
    classes, mean = tuple(classes), tuple(mean)
    size = {"channels": len(mean), "image_size": spec.image_size}
    backbone = build_backbone(spec.model, **size)
    if pretrained:
        load_pretrained(backbone.module, spec.model, pretrained, **size)
    neck, num_features = build_neck(spec.neck, backbone)
    head = build_head(
        spec.loss,
        num_features,
        len(classes),
        class_counts,
        bias=spec.head_bias,
        init=spec.head_init,
        class_margins=by_index(spec.class_margins or {}, classes, "class_margins"),
        class_names=classes,
    )
    return Classifier(backbone.module, neck, head, classes=classes, mean=mean, std=std)


def head_width(spec: ModelSpec, channels: int) -> int:
    """Return the number of features that a model's head takes; built without memory."""
    backbone = without_memory(spec.model, channels, spec.image_size)
    with torch.device("meta"):
        return build_neck(spec.neck, backbone)[1]
