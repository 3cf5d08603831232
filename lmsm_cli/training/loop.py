"""The training loop: a generator that yields one Epoch record at a time.

The loop knows no files and no screen: the caller saves, shows and stops. Progress display is a
callable argument. Everything random in an epoch follows from (seed, epoch), and whether classes are
rebalanced in it from the epoch alone. Re-weighting and re-sampling are here, once, for every loss.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor
from torch.optim import Optimizer

from lmsm_cli.config import Config
from lmsm_cli.data.batches import EpochPlan, batches, num_batches, plan_epoch
from lmsm_cli.data.sources import ImageSet
from lmsm_cli.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from lmsm_cli.errors import DivergedError
from lmsm_cli.losses.class_weights import loss_weights
from lmsm_cli.metrics import balanced_accuracy
from lmsm_cli.models.backbones import first_non_finite
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.cuda_graph import side_stream
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.display import Epoch, EpochStats, RunningMetrics, Step
from lmsm_cli.training.collapse import Start, collapse_warnings, has_learned
from lmsm_cli.training.evaluate import mean_cross_entropy, scores_of
from lmsm_cli.training.lr_schedule import learning_rate
from lmsm_cli.training.step import TrainStep, set_learning_rate

_cuda: Any = torch.cuda  # typed in some releases only
# Steps between two questions whether any of several ranks was told to stop: each is a wait.
_ASK_EVERY = 16


@dataclass(frozen=True)
class Position:
    """Where a training stands: after `epoch` epochs, and `step` steps of the next."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    """Spent in the epoch under way."""
    watch: dict[str, Any] | None = None
    """What was seen of the epoch under way."""
    generators: dict[str, Tensor] | None = None
    """State of the random generators in the epoch under way, of each rank (R, bytes)."""


class PausedError(Exception):
    """The training was asked to stop, by a signal, and stands at a position."""

    def __init__(self, position: Position, signal: int) -> None:
        super().__init__(position, signal)
        self.position, self.signal = position, signal


def train(
    model: Classifier,
    optimizer: Optimizer,
    config: Config,
    training: ImageSet,
    validation: ImageSet | None,
    runtime: Runtime,
    *,
    on_step: Callable[[Step], None] = lambda step: None,
    say: Callable[[str], None] = lambda text: None,
    ranks: ProcessGroup = SINGLE_PROCESS,
    start: Position = Position(),
    stop: Callable[[], int] = lambda: 0,
) -> Iterator[Epoch]:
    """Train `model` in place, yielding after every epoch; stop by not asking for more.

    `start` is where model and optimiser stand; the end has the same bits wherever it was left and
    entered again (on the CPU, with as many ranks). `stop` is asked after each step, of several ranks
    now and then; once it returns a signal's number on any of them, PausedError tells where.
    Of several `ranks` each computes its part of every batch, and all yield the same epochs.
    `say` is told of compiling and of a CUDA graph that could not be made. Raises DivergedError when
    the loss or, at the end of an epoch, a tensor of the net is no longer finite, LmsmError before the first step for a class without images that
    the config wants re-weighted.
    """
    counts = training.counts()
    weights = _class_weights(config, counts, runtime.device)
    training, validation = training.to(runtime.device), validation and validation.to(runtime.device)
    stream = side_stream(runtime.device)
    with stream():
        stepper = TrainStep(model, optimizer, config, weights, runtime, say, ranks)
    for epoch in range(start.epoch, config.epochs):
        position = start if epoch == start.epoch else Position(epoch)
        started = time.perf_counter() - position.seconds
        with stream():
            seen, stats = _one_epoch(
                stepper,
                optimizer,
                config,
                training,
                position,
                on_step,
                ranks,
                lambda: ranks.all_reduce_max(stop()),
            )
        seconds = time.perf_counter() - started
        end = (epoch + 1) / config.epochs
        yield Epoch(
            epoch=epoch + 1,
            train_loss=seen.loss,
            train_accuracy=seen.accuracy,
            **validate(model, validation, runtime, ranks),
            lam=model.head.lambda_at(end),
            effective_margin=model.head.effective_margin_at(end),
            lr=learning_rate(config, epoch),
            images_per_second=seen.num_images / seconds,
            seconds=seconds,
            stats=stats,
            signs=_signs(stats, seen, model.classes, config, counts, epoch),
        )
        if signal := ranks.all_reduce_max(stop()):
            raise PausedError(Position(epoch + 1), signal)


def validate(
    model: Classifier,
    held_out: ImageSet | None,
    runtime: Runtime,
    ranks: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, Any]:
    """Return val_loss, val_accuracy and val_balanced_accuracy; None each without images."""
    names = ("val_loss", "val_accuracy", "val_balanced_accuracy")
    if held_out is None:
        return dict.fromkeys(names)
    logits = scores_of(model, held_out.images, runtime, ranks).cpu()
    labels = held_out.labels.numpy(force=True)
    predicted = logits.argmax(dim=1).numpy()
    # over the held-out classes: a class of one image has none to hold out
    balanced = balanced_accuracy(labels, predicted)
    loss = mean_cross_entropy(logits, held_out.labels)
    return dict(zip(names, (loss, accuracy_score(labels, predicted), balanced), strict=True))


def _is_rebalanced(config: Config, epoch: int) -> bool:
    """Say whether re-weighting and re-sampling hold in an epoch, counted from 0."""
    return epoch + 1 >= config.rebalance_from


def _signs(
    stats: EpochStats,
    seen: RunningMetrics,
    classes: tuple[str, ...],
    config: Config,
    counts: list[int],
    epoch: int,
) -> dict[str, str]:
    """Return the signs of a collapse in an epoch, counted from 0, over `counts` images of each class."""
    since = max(0, epoch + 1 - config.warmup)
    is_balanced = config.sampling == "balanced" and _is_rebalanced(config, epoch)
    drawn = [sum(counts) / len(counts)] * len(counts) if is_balanced else counts
    start = Start(
        since * num_batches(sum(counts), config.batch_size),
        has_learned(seen.accuracy, seen.num_images, max(drawn) / sum(drawn)),
        tuple(since * number for number in drawn),
    )
    progress = since / (config.epochs - config.warmup)
    return collapse_warnings(stats, classes, progress=progress, start=start)


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
        len(labels),
        config.augment,
        seed=config.seed,
        epoch=epoch,
        balanced_over=labels if balanced else None,
    )


def _one_epoch(
    stepper: TrainStep,
    optimizer: Optimizer,
    config: Config,
    training: ImageSet,
    position: Position,
    on_step: Callable[[Step], None],
    ranks: ProcessGroup,
    stop: Callable[[], int],
) -> tuple[RunningMetrics, EpochStats]:
    """Run one epoch, or the rest of it; return its sums and its stats. Raises PausedError."""
    epoch, started = position.epoch, time.perf_counter() - position.seconds
    model, watch = stepper.model.train(), stepper.watch
    num_steps, lr = num_batches(len(training), config.batch_size), learning_rate(config, epoch)
    set_learning_rate(optimizer, lr)
    watch.start(num_steps)
    # Dropout draws from the global generator; apart from the plan's stream and the other ranks'.
    torch.manual_seed(
        int(np.random.SeedSequence((config.seed, epoch, 1 + ranks.rank)).generate_state(1)[0])
    )
    if position.watch and position.generators:
        watch.restore(position.watch, ranks)
        _restore_generators(position.generators, ranks)
    plan, num_images = _plan(config, training.labels, epoch), position.step * config.batch_size
    rest = batches(
        training.images,
        training.labels,
        plan,
        config.batch_size,
        start=position.step,
        share=ranks.local_slice,
    )
    for n, batch in enumerate(rest, position.step):
        progress = (epoch + n / num_steps) / config.epochs
        stepper.step(batch, progress, weighted=_is_rebalanced(config, epoch))
        num_images += len(batch.all_labels)
        seen = _checked(watch.glance(), epoch)
        on_step(
            Step(epoch + 1, n + 1, num_steps, num_images, seen, model.head.lambda_at(progress), lr)
        )
        is_asked = n + 1 < num_steps and (ranks.size == 1 or n % _ASK_EVERY == 0)
        if is_asked and (signal := stop()):
            _checked(watch.total(), epoch)
            _check_weights(model, epoch)
            seconds = time.perf_counter() - started
            raise PausedError(
                Position(epoch, n + 1, seconds, watch.state(ranks), _generators(ranks)), signal
            )
    ranks.all_reduce(watch.sums)
    ranks.any_rank(watch.predicted)
    total = _checked(watch.total(), epoch)
    assert total is not None
    _check_weights(model, epoch)
    return total, watch.vitals(model.head.class_weights())


def _generators(ranks: ProcessGroup) -> dict[str, Tensor]:
    """Return the states of each rank's generators, that of its device and the CPU's (R, bytes)."""
    states = {"cpu": torch.get_rng_state()}
    if _cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    return {kind: ranks.all_gather(state) for kind, state in states.items()}


def _restore_generators(states: dict[str, Tensor], ranks: ProcessGroup) -> None:
    """Take over this rank's generators; as freshly seeded where there were other ranks."""
    if len(states["cpu"]) != ranks.size:
        return
    torch.set_rng_state(states["cpu"][ranks.rank].clone())  # it takes no part of another
    if "cuda" in states and _cuda.is_initialized():
        torch.cuda.set_rng_state(states["cuda"][ranks.rank].clone())


def _checked(seen: RunningMetrics | None, epoch: int) -> RunningMetrics | None:
    """Return what was seen of an epoch, counted from 0. Raises DivergedError for what is not finite."""
    if seen is not None and not seen.is_finite:
        raise DivergedError(
            f"the loss is no longer finite in epoch {epoch + 1}, at or before step {seen.step}; lower --lr, or raise the loss's lambda_min"
        )
    return seen


@torch.no_grad()
def _check_weights(model: Classifier, epoch: int) -> None:
    """Raise DivergedError, in an epoch counted from 0, where a weight or a statistic is not finite.

    A loss can stay finite over such a net. All tensors are looked at by one wait for the device.
    """
    state = {
        name: value
        for name, value in model.state_dict().items()
        if value.is_floating_point() and value.numel()
    }
    largest = torch._foreach_norm(list(state.values()), math.inf)
    if not torch.stack([value.double() for value in largest]).isfinite().all():
        raise DivergedError(
            f"the tensor {first_non_finite(state)!r} of the net is no longer finite (NaN or infinity) after epoch {epoch + 1}; lower --lr, or raise the loss's lambda_min"
        )
