"""The training loop: a generator that yields one Epoch record at a time.

The loop knows no files and no screen: the caller saves, shows and stops. Progress display is a
callable argument. Everything random in an epoch follows from (seed, epoch), and whether classes are
rebalanced in it from the epoch alone. Re-weighting and re-sampling are here, once, for every loss.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer

from lmsm_cli.config import Config
from lmsm_cli.data.batches import EpochPlan, batches, num_batches, plan_epoch
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.engine.device import Runtime
from lmsm_cli.engine.evaluate import mean_cross_entropy, scores_of
from lmsm_cli.engine.schedule import learning_rate
from lmsm_cli.engine.watch import Vitals, Watch, as_row, collapse_signs
from lmsm_cli.errors import DivergedError
from lmsm_cli.losses.reweighting import loss_weights, weighted_mean
from lmsm_cli.models import Classifier
from lmsm_cli.scores import balanced_accuracy

# Steps between looks at the loss. A look waits for the device, and a non-finite loss can wait.
_LOOK_EVERY = 16


@dataclass(frozen=True)
class Step:
    """What the display may show after a step; tensors, so that only a look costs a wait."""

    epoch: int
    step: int
    num_steps: int
    num_images: int
    """Images of the epoch so far."""
    loss: Tensor
    """Margin-free loss of the step."""
    hits: Tensor
    """Images of the epoch so far that were taken for their own class."""
    lam: float | None
    lr: float


@dataclass(frozen=True)
class Epoch:
    """One finished epoch, counted from 1. Losses and accuracies are margin-free and unweighted.

    Those of the training are over the images as they were drawn.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    val_balanced_accuracy: float | None
    lam: float | None
    effective_margin: float | None
    lr: float
    images_per_second: float
    seconds: float
    vitals: Vitals
    signs: dict[str, str]
    """What looks collapsed: sign -> words."""

    def to_row(self) -> dict[str, Any]:
        """Return the row of metrics.jsonl."""
        row = {key: value for key, value in vars(self).items() if key not in ("lam", "vitals", "signs")}  # fmt: skip
        return row | {"lambda": self.lam, **as_row(self.vitals), "collapse": list(self.signs)}


def train(
    model: Classifier,
    optimizer: Optimizer,
    config: Config,
    training: ImageSet,
    validation: ImageSet | None,
    runtime: Runtime,
    *,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Iterator[Epoch]:
    """Train `model` in place, yielding after every epoch; stop by not asking for more.

    Raises DivergedError when the loss is no longer finite, LmsmError before the first step for a
    class without images that the config wants re-weighted.
    """
    images, labels = training.images.to(runtime.device), training.labels.to(runtime.device)
    weights = _class_weights(config, training.counts(), runtime.device)
    for epoch in range(config.epochs):
        started = time.perf_counter()
        plan = _plan(config, training.labels, epoch)
        in_force = weights if _is_rebalanced(config, epoch) else None
        sums, vitals = _one_epoch(model, optimizer, config, images, labels, plan, in_force, runtime, epoch, on_step)  # fmt: skip
        seconds = time.perf_counter() - started
        loss, accuracy, num_images = sums
        end = (epoch + 1) / config.epochs
        yield Epoch(
            epoch=epoch + 1,
            train_loss=loss / num_images,
            train_accuracy=accuracy / num_images,
            **validate(model, validation, runtime),
            lam=model.head.lambda_at(end),
            effective_margin=model.head.effective_margin_at(end),
            lr=learning_rate(config, epoch),
            images_per_second=num_images / seconds,
            seconds=seconds,
            vitals=vitals,
            signs=collapse_signs(vitals, model.classes, progress=end),
        )


def new_optimizer(model: Classifier, config: Config) -> Optimizer:
    """Return the config's optimiser over all parameters, in its fused form."""
    parameters, decay = model.parameters(), config.weight_decay
    match config.optimizer:
        case "sgd":
            return SGD(parameters, config.lr, config.momentum, weight_decay=decay, fused=True)
        case "adam":
            return Adam(parameters, config.lr, weight_decay=decay, fused=True)
        case "adamw":
            return AdamW(parameters, config.lr, weight_decay=decay, fused=True)


def validate(model: Classifier, held_out: ImageSet | None, runtime: Runtime) -> dict[str, Any]:
    """Return val_loss, val_accuracy and val_balanced_accuracy; None each without images."""
    names = ("val_loss", "val_accuracy", "val_balanced_accuracy")
    if held_out is None:
        return dict.fromkeys(names)
    logits = scores_of(model, held_out.images, runtime).cpu()
    labels = held_out.labels.numpy()
    predicted = logits.argmax(dim=1).numpy()
    # over the held-out classes: a class of one image has none to hold out
    balanced = balanced_accuracy(labels, predicted)
    loss = mean_cross_entropy(logits, held_out.labels)
    return dict(zip(names, (loss, accuracy_score(labels, predicted), balanced), strict=True))


def _is_rebalanced(config: Config, epoch: int) -> bool:
    """Say whether re-weighting and re-sampling hold in an epoch, counted from 0."""
    return epoch + 1 >= config.rebalance_from


def _class_weights(config: Config, class_counts: list[int], device: torch.device) -> Tensor | None:
    """Return the class weights of the loss (C,), None where all count alike."""
    if config.reweight == "none":
        return None
    counts = torch.tensor(class_counts)
    return loss_weights(counts, config.reweight, beta=config.reweight_beta).to(device)


def _plan(config: Config, labels: Tensor, epoch: int) -> EpochPlan:
    """Draw the choices of an epoch, counted from 0, over the training labels (N,)."""
    balanced = config.sampling == "balanced" and _is_rebalanced(config, epoch)
    return plan_epoch(
        len(labels), config.augment, seed=config.seed, epoch=epoch,
        balanced_over=labels if balanced else None,
    )  # fmt: skip


def _one_epoch(
    model: Classifier, optimizer: Optimizer, config: Config, images: Tensor, labels: Tensor,
    plan: EpochPlan, weights: Tensor | None, runtime: Runtime, epoch: int, on_step: Callable[[Step], None],
) -> tuple[tuple[float, float, int], Vitals]:  # fmt: skip
    """Run one epoch under class weights (C,); return (sum of losses, hits, images) and the vitals."""
    # Dropout draws from the global generator; apart from the plan's stream.
    torch.manual_seed(int(np.random.SeedSequence((config.seed, epoch, 1)).generate_state(1)[0]))
    num_steps = num_batches(len(labels), config.batch_size)
    lr = learning_rate(config, epoch)
    for group in optimizer.param_groups:
        group["lr"] = lr
    watch = Watch(len(model.classes), num_steps, runtime.device)
    sums = torch.zeros(3, device=runtime.device)
    seen = 0
    model.train()
    for step, (batch, targets) in enumerate(batches(images, labels, plan, config.batch_size)):
        progress = (epoch + step / num_steps) / config.epochs
        with runtime.autocast():
            features = model.embed(batch)
        if weights is None:
            objective = model.head(features, targets, progress)
        else:
            objective = weighted_mean(model.head.losses(features, targets, progress), targets, weights)  # fmt: skip
        optimizer.zero_grad(set_to_none=True)
        objective.backward()
        optimizer.step()
        loss, predicted = _margin_free(model, features.detach(), targets)
        sums += torch.stack([loss * len(targets), (predicted == targets).sum(), objective.detach()])
        watch.see(step, features.detach(), objective.detach(), predicted)
        seen += len(targets)
        if step % _LOOK_EVERY == 0 or step == num_steps - 1:
            _check_finite(sums, epoch, step)
        lam = model.head.lambda_at(progress)
        on_step(Step(epoch + 1, step + 1, num_steps, seen, loss, sums[1], lam, lr))
    total_loss, hits, _ = sums.tolist()
    return (total_loss, hits, seen), watch.vitals(model.head.class_weights())


@torch.no_grad()
def _margin_free(model: Classifier, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the plain cross-entropy () and the predicted classes (N,) of training features."""
    logits = model.head.logits(features)
    return functional.cross_entropy(logits, labels), logits.argmax(dim=1)


def _check_finite(sums: Tensor, epoch: int, step: int) -> None:
    if not bool(sums.isfinite().all()):
        raise DivergedError(f"the loss is no longer finite in epoch {epoch + 1}, at or before step {step + 1}; lower --lr, or raise the loss's lambda_min")  # fmt: skip
