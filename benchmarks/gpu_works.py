"""Whether lmsm is right on a GPU: heads, graphs, going on, and memory that ends.

The rows of `gpu.sh` before any time is measured; a part is a function of the `Way`.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from gpu_lines import Measured
from gpu_losses import of_loss
from gpu_way import Way
from loss_numerics import numerics
from torch import Tensor
from train_arms import build, config_of, trainer_of

from lmsm_cli.commands.app import main as lmsm
from lmsm_cli.data.identity import pixel_digests
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.losses.head import Head
from lmsm_cli.losses.registry import HEADS, build_head
from lmsm_cli.training.loop import PausedError, train
from lmsm_cli.training.step import optimizer_state, restore_optimizer

CLASSES, IMAGES = 3, 26  # in batches of 4: the last one has 2
STOP_AFTER = 10  # steps: in the second epoch, when the graph is there


def numbers(way: Way) -> Iterator[Measured]:
    """Measure the errors of L-Softmax against its definition in float64."""
    for row in numerics(way.size(1_000, 1, 256)):
        if row.target:
            yield of_loss(row)


def heads(way: Way) -> Iterator[Measured]:
    """Measure losses and gradients of every head against the same head in float64 on the CPU."""
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        errors = {head: error_of(head, dtype) for head in HEADS}
        worst = max(errors, key=lambda head: errors[head])
        yield Measured(f"every head, {name} features: worst error", errors[worst], note=worst)


def error_of(spec: str, dtype: torch.dtype) -> float:
    """Return the largest relative error of a head's losses and of its gradients."""
    torch.manual_seed(0)
    head = build_head(spec, 16, 5, torch.tensor([50, 40, 30, 20, 10])).train()
    features, labels = torch.randn(32, 16).to(dtype), torch.arange(32) % 5
    exact = _results(copy.deepcopy(head).double(), features.double(), labels)
    found = _results(head.to("cuda"), features.to("cuda"), labels.to("cuda"))
    return max(_difference([one], [other]) for one, other in zip(found, exact, strict=True))


def _results(head: Head, features: Tensor, labels: Tensor) -> list[Tensor]:
    """Return the losses (N,) and the gradients of their mean, on the CPU."""
    features = features.requires_grad_()
    kind = torch.float64 if features.dtype == torch.float64 else torch.float32
    losses = head(features, labels, torch.tensor(0.5, dtype=kind, device=features.device))
    inputs = [features, *head.parameters()]
    gradients = torch.autograd.grad(losses.mean(), inputs, allow_unused=True)
    return [losses.detach().cpu(), *(one.cpu() for one in gradients if one is not None)]


def _difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """Return |found - wanted| / |wanted| of all tensors together."""
    pairs = [(a.double(), b.double()) for a, b in zip(found, wanted, strict=True)]
    missing = sum(float((a - b).square().sum()) for a, b in pairs)
    return float((missing / sum(float(b.square().sum()) for _, b in pairs)) ** 0.5)


def trainings(way: Way) -> Iterator[Measured]:
    """Compare trainings as a graph, without one, and stopped on the way."""
    torch.backends.cudnn.deterministic = True
    warned: list[str] = []
    optimizers = ("sgd", "adam", "adamw")
    graphs, eager, gone_on = (
        [weights_after(warned.append, **given, optimizer=name) for name in optimizers]
        for given in ({}, {"cuda_graph": False}, {"stop_after": STOP_AFTER})
    )
    apart = [max(map(_difference, graphs, others)) for others in (eager, gone_on)]
    yield Measured("graph against eager: weights differ by", apart[0], n=len(optimizers))
    yield Measured("stopped and gone on: weights differ by", apart[1], n=len(optimizers))
    yield Measured("warnings of these trainings", len(warned), note="; ".join(warned[:1]))


def weights_after(
    warn: Callable[[str], None], stop_after: int | None = None, **choices: Any
) -> list[Tensor]:
    """Train a small net on noise, stopped and gone on where that is asked; return its tensors."""
    small = {"model": "paper-2d", "neck": "none", "warmup": 0, "lr": 0.01, "precision": "fp32"}
    config = config_of("", device="cuda", **small | choices)
    few = {"epochs": 2, "batch_size": 4, "loss": "lsoftmax:margin=2", "augment": "crop-flip"}
    config = config.model_copy(update=few | small | choices)
    trainer = _new_trainer(config)
    if stop_after is None:
        list(train(trainer, warn=warn))
    else:
        taken: list[Any] = []
        try:
            stop = lambda: 15 * (len(taken) == stop_after)  # noqa: E731
            list(train(trainer, on_step=taken.append, warn=warn, stop=stop))
        except PausedError as paused:
            left, trainer = trainer, _new_trainer(config)
            trainer.model.load_state_dict(left.model.state_dict())
            state = optimizer_state(left.model, left.optimizer)
            restore_optimizer(trainer.model, trainer.optimizer, state)
            list(train(trainer, start=paused.position, warn=warn))
    return [value.cpu() for value in trainer.model.state_dict().values()]


def _new_trainer(config: Any) -> Any:
    """Return what trains a fresh net on noise."""
    torch.manual_seed(0)
    pixels = torch.randint(256, (IMAGES, 32, 32, 3), dtype=torch.uint8)
    labels, half = torch.arange(IMAGES) % CLASSES, (0.5,) * 3
    digests = pixel_digests(pixels.numpy())
    images = ImageSet(pixels, labels, tuple("abc"), half, half, digests, np.arange(IMAGES))
    return trainer_of(*build(config, images))


def memory(way: Way) -> Iterator[Measured]:
    """See a run end as it is documented where the device has no memory left."""
    flags = [
        *("--dataset", "digits", "--model", "paper-mnist" if way.is_try else "resnet18"),
        *("--batch-size", "1024", "--epochs", "1", "--warmup", "0", "--device", "cuda"),
    ]
    with tempfile.TemporaryDirectory() as out, way.little_memory():
        code = lmsm(["train", *flags, "--quiet", "--out", out])
    yield Measured("out of memory: exit code", code)
