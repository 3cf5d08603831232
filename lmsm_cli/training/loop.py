"""The training loop: a generator that yields one Epoch record at a time.

The loop knows no files and no screen: the caller saves, shows and stops. Progress display is a
callable argument. Everything random in an epoch follows from (seed, epoch), and whether classes are
rebalanced in it from the epoch alone. Re-weighting and re-sampling are here, once, for every loss.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from sklearn.metrics import accuracy_score
from torch import Tensor
from torch.optim import Optimizer

from lmsm_cli.config import Config
from lmsm_cli.data.batches import Batch, batches, num_batches, plan_epoch
from lmsm_cli.data.image_set import ImageSet
from lmsm_cli.data.mixing import Mixing
from lmsm_cli.data.splits import Data
from lmsm_cli.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from lmsm_cli.distributed.sync_batch_norm import convert_sync_batchnorm
from lmsm_cli.errors import DivergedError, LmsmError
from lmsm_cli.losses.class_weights import loss_weights, weights_by_name
from lmsm_cli.models.backbones import first_non_finite
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runs.contents import Position
from lmsm_cli.runtime.cuda_graph import side_stream
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.runtime.display import Epoch, EpochStats, RunningMetrics, Step
from lmsm_cli.runtime.memory import memory_told
from lmsm_cli.scoring import balanced_accuracy
from lmsm_cli.training.averaging import WeightAverage
from lmsm_cli.training.collapse import Start, collapse_warnings, has_learned
from lmsm_cli.training.evaluate import mean_cross_entropy, scores_of
from lmsm_cli.training.features import as_features, stay_the_same
from lmsm_cli.training.lr_schedule import learning_rate
from lmsm_cli.training.step import TrainStep, new_optimizer, set_learning_rate

_cuda: Any = torch.cuda  # typed in some releases only
# With several ranks, poll for a stop signal every 16 steps: the poll blocks.
_POLL_EVERY = 16


class PausedError(Exception):
    """The training was asked to stop, by a signal, and stands at a position."""

    def __init__(self, position: Position, signal: int) -> None:
        super().__init__(position, signal)
        self.position, self.signal = position, signal


@dataclass(frozen=True)
class Trainer:
    """What is trained, on which data and by which processes."""

    model: Classifier
    optimizer: Optimizer
    config: Config
    data: Data
    runtime: Runtime
    ranks: ProcessGroup = SINGLE_PROCESS
    average: WeightAverage | None = None

    @classmethod
    def create(
        cls,
        model: Classifier,
        config: Config,
        data: Data,
        runtime: Runtime,
        ranks: ProcessGroup = SINGLE_PROCESS,
    ) -> "Trainer":
        """Return a trainer with a new optimizer; BatchNorm goes over all `ranks` from now on."""
        if ranks.size > 1:
            convert_sync_batchnorm(model, runtime.device, ranks)
        optimizer = new_optimizer(model, config)
        average = None if config.ema is None else WeightAverage(model, config.ema)
        if average:
            average.follow(optimizer)
        return cls(model, optimizer, config, data, runtime, ranks, average)

    @property
    def tested(self) -> Classifier:
        """The net that is validated, scored and exported: that of the averaged weights, if any."""
        return self.average.model if self.average else self.model

    @property
    def device_text(self) -> str:
        """What computes, in words."""
        size = self.ranks.size
        return f"{self.runtime}, {size} processes" if size > 1 else str(self.runtime)

    @property
    def image_shape(self) -> list[int]:
        """(H, W, C) of an image that the net gets."""
        return list(self.data.image_shape)

    @property
    def num_steps(self) -> int:
        """Steps of an epoch."""
        return num_batches(len(self.data.training), self.config.batch_size)


def train(
    trainer: Trainer,
    *,
    start: Position | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
    info: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = lambda text: None,
    stop: Callable[[], int] = lambda: 0,
) -> Iterator[Epoch]:
    """Train the model in place and yield after every epoch.

    On the CPU the result has the same bits wherever the training was stopped and resumed, with as
    many ranks. Each rank computes its part of every batch, and all yield the same epochs.

    Args:
        trainer: What is trained.
        start: Where model and optimizer stand; at the beginning if None.
        on_step: Called after each step.
        info: Called with a text after the epoch in which the step was compiled.
        warn: Called with a text where the step cannot be captured as a CUDA graph.
        stop: Polled after each step, of several ranks now and then; the number of a signal, or 0.

    Raises:
        PausedError: `stop` returned a signal on any rank.
        DivergedError: The loss, or a tensor of the net at the end of an epoch, is not finite.
        LmsmError: The config wants a class without images re-weighted; before the first step.
        OutOfMemoryError: The images do not fit on the device, or an evaluation does not.
    """
    model, config, ranks = trainer.model, trainer.config, trainer.ranks
    if config.post_hoc:
        raise LmsmError(
            f"post_hoc {config.post_hoc!r} takes the place of a training: leave it out to train"
        )
    device, counts = trainer.runtime.device, trainer.data.train_counts
    weights = class_weights(config, counts, model.classes)
    weights = None if weights is None else weights.to(device)
    trainer = _on_device(trainer)
    stream = side_stream(device)
    with stream():
        stepper = TrainStep(model, trainer.optimizer, config, weights, trainer.runtime, warn, ranks)

    def signal_of_any() -> int:
        return ranks.all_reduce_max(stop())

    start = start or Position()
    for epoch in range(start.epoch, config.epochs):
        position = start if epoch == start.epoch else Position(epoch=epoch)
        started = time.perf_counter() - position.seconds
        with stream():
            seen, stats = _one_epoch(trainer, stepper, position, on_step, signal_of_any)
        seconds = time.perf_counter() - started
        if stepper.compile_seconds and epoch == start.epoch:
            info(f"compiled in {stepper.compile_seconds:.1f} s, which this epoch's time contains")
        end = (epoch + 1) / config.epochs
        yield Epoch(
            epoch=epoch + 1,
            train_loss=seen.loss,
            train_accuracy=seen.accuracy,
            **validate(trainer, trainer.data.validation),
            lam=model.head.lambda_at(end),
            effective_margin=model.head.effective_margin_at(end),
            lr=learning_rate(config, epoch),
            images_per_second=seen.num_images / seconds,
            seconds=seconds,
            stats=stats,
            signs=_signs(stats, seen, trainer, counts, epoch),
        )
        if signal := signal_of_any():
            raise PausedError(Position(epoch=epoch + 1), signal)


def _on_device(trainer: Trainer) -> Trainer:
    """Return the trainer with its images on the device, or what they are to its net there.

    Raises OutOfMemoryError.
    """
    training, validation = trainer.data.training, trainer.data.validation
    config, runtime = trainer.config, trainer.runtime
    if stay_the_same(config):
        training = as_features(training, trainer.model, config, runtime)
        validation = validation and as_features(validation, trainer.model, config, runtime)
    way_out = "fewer or smaller ones, or the CPU"
    with memory_told(runtime.device, "while the images were placed", way_out):
        training = training.to(runtime.device)
        validation = validation and validation.to(runtime.device)
    return replace(trainer, data=replace(trainer.data, training=training, validation=validation))


def validate(trainer: Trainer, held_out: ImageSet | None) -> dict[str, Any]:
    """Return val_loss, val_accuracy and val_balanced_accuracy; None each without images."""
    names = ("val_loss", "val_accuracy", "val_balanced_accuracy")
    if held_out is None:
        return dict.fromkeys(names)
    logits = scores_of(trainer.tested, held_out.images, trainer.runtime, trainer.ranks).cpu()
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
    stats: EpochStats, seen: RunningMetrics, trainer: Trainer, counts: list[int], epoch: int
) -> dict[str, str]:
    """Return the signs of a collapse in an epoch, counted from 0, with `counts` images a class."""
    config = trainer.config
    since = max(0, epoch + 1 - config.warmup)
    is_balanced = config.sampling == "balanced" and _is_rebalanced(config, epoch)
    drawn = [sum(counts) / len(counts)] * len(counts) if is_balanced else counts
    start = Start(
        since * trainer.num_steps,
        has_learned(seen.accuracy, seen.num_images, max(drawn) / sum(drawn)),
        tuple(since * number for number in drawn),
    )
    progress = since / (config.epochs - config.warmup)
    return collapse_warnings(stats, trainer.model.classes, progress=progress, start=start)


def class_weights(config: Config, class_counts: list[int], classes: Sequence[str]) -> Tensor | None:
    """Return the class weights of the loss (C,), None where all count alike.

    Those by hand multiply those by the counts. Raises LmsmError where a class has no images to be
    weighted by, or `class_weights` names none of the classes.
    """
    by_hand = None
    if config.class_weights:
        by_hand = weights_by_name(config.class_weights, classes)
    if config.reweight == "none":
        return by_hand
    counts = torch.tensor(class_counts)
    weights = loss_weights(counts, config.reweight, beta=config.reweight_beta)
    return weights if by_hand is None else weights * by_hand


def _one_epoch(
    trainer: Trainer,
    stepper: TrainStep,
    position: Position,
    on_step: Callable[[Step], None],
    stop: Callable[[], int],
) -> tuple[RunningMetrics, EpochStats]:
    """Run one epoch, or the rest of it; return its sums and statistics. Raises PausedError."""
    config, ranks, epoch = trainer.config, trainer.ranks, position.epoch
    started = time.perf_counter() - position.seconds
    model, watch = trainer.model.train(), stepper.watch
    num_steps, lr = trainer.num_steps, learning_rate(config, epoch)
    set_learning_rate(trainer.optimizer, lr)
    watch.start(num_steps)
    num_images = position.step * config.batch_size
    with closing(_rest_of_epoch(trainer, stepper, position)) as rest:
        for n, (batch, group) in enumerate(_in_groups(rest, config.accumulate), position.step):
            updates = math.ceil(num_steps / config.accumulate)
            progress = (epoch + n // config.accumulate / updates) / config.epochs
            stepper.step(batch, progress, weighted=_is_rebalanced(config, epoch), group=group)
            num_images += len(batch.all_labels)
            seen = _checked(watch.running(), epoch)
            lam = model.head.lambda_at(progress)
            on_step(Step(epoch + 1, n + 1, num_steps, num_images, seen, lam, lr, config.epochs))
            is_polled = n + 1 < num_steps and (ranks.size == 1 or n % _POLL_EVERY == 0)
            is_polled = is_polled and batch is group[-1]
            if is_polled and (signal := stop()):
                _checked(watch.total(), epoch)
                _check_weights(model, epoch)
                seconds = time.perf_counter() - started
                position = Position(
                    epoch=epoch,
                    step=n + 1,
                    seconds=seconds,
                    watch=watch.state(ranks),
                    generators=_generators(ranks),
                )
                raise PausedError(position, signal)
    ranks.all_reduce(watch.sums)
    ranks.any_rank(watch.predicted)
    total = _checked(watch.total(), epoch)
    assert total is not None
    _check_weights(model, epoch)
    return total, watch.epoch_stats(model.head.class_weights())


def _in_groups(batches: Iterator[Batch], size: int) -> Iterator[tuple[Batch, Sequence[Batch]]]:
    """Yield each batch with all batches of its step, so many or what is left of them."""
    while group := tuple(islice(batches, size)):
        yield from ((batch, group) for batch in group)


def _rest_of_epoch(
    trainer: Trainer, stepper: TrainStep, position: Position
) -> Generator[Batch, None, None]:
    """Set the random generators and the sums to a position, and return the batches from there."""
    config, ranks, epoch = trainer.config, trainer.ranks, position.epoch
    # Dropout draws from the global generator; apart from the plan's stream and the other ranks'.
    seeds = np.random.SeedSequence((config.seed, epoch, 1 + ranks.rank))
    torch.manual_seed(int(seeds.generate_state(1)[0]))
    if position.watch and position.generators:
        stepper.watch.restore(position.watch, ranks)
        _restore_generators(position.generators, ranks)
    training, (height, width, _) = trainer.data.training, trainer.data.image_shape
    balanced = config.sampling == "balanced" and _is_rebalanced(config, epoch)
    plan = plan_epoch(
        len(training),
        config.augment,
        seed=config.seed,
        epoch=epoch,
        balanced_over=training.labels if balanced else None,
        size=(training.images.shape[1], training.images.shape[2]),
        mixing=_mixing(config, (height, width)),
    )
    return batches(
        training.images,
        training.labels,
        plan,
        config.batch_size,
        start=position.step,
        share=ranks.local_slice,
        crop_to=(height, width),
    )


def _mixing(config: Config, size: tuple[int, int]) -> Mixing | None:
    """Return how the config wants batches mixed."""
    if not (config.mixup or config.cutmix):
        return None
    return Mixing(config.mixup, config.cutmix, config.batch_size, size)


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
    """Return the metrics of an epoch, counted from 0. Raises DivergedError for an infinite loss."""
    if seen is not None and not seen.is_finite:
        raise DivergedError(
            f"the loss is no longer finite in epoch {epoch + 1}, at or before step {seen.step}; "
            "lower --lr, or raise the loss's lambda_min"
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
            f"the tensor {first_non_finite(state)!r} of the net is no longer finite (NaN or "
            f"infinity) after epoch {epoch + 1}; lower --lr, or raise the loss's lambda_min"
        )
