"""One optimisation step: eager, compiled, or captured as a CUDA graph, on one rank or on several.

A step reads and writes tensors only: the weights, the optimiser's state and the epoch's metrics.
Hence it never waits for the device.
"""

import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer

from lmsm_cli.config import Config
from lmsm_cli.data.batches import Batch
from lmsm_cli.distributed.process_group import (
    SINGLE_PROCESS,
    ProcessGroup,
    data_parallel,
    zero_loss,
)
from lmsm_cli.losses.soft_labels import Second, soft_losses_and_logits
from lmsm_cli.losses.trial import told_to
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.cuda_graph import Graphed, cuda_capture
from lmsm_cli.runtime.device import Runtime, fastest_kernels
from lmsm_cli.training.batch_counts import counted_at_once, layers_that_count
from lmsm_cli.training.collapse import MetricAccumulator
from lmsm_cli.training.sam import worst_nearby

# Key of an optimiser's group: its learning rate by that of the others.
_LR_FACTOR = "lr_factor"


class LossModule(nn.Module):
    """The loss that a step minimises, as one module that can be compiled or run in parallel."""

    def __init__(self, model: Classifier, runtime: Runtime, label_smoothing: float) -> None:
        super().__init__()
        self.model, self._runtime, self._smoothing = model, runtime, label_smoothing

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        progress: Tensor,
        weights: Tensor | None,
        total: Tensor,
        *second: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return sum(w_y loss) / total () of uint8 images, their features (N, D) and logits (N, C).

        The logits are without a margin, and without a graph. No images give 0, for ranks that have
        none left.

        Args:
            images, labels: this rank's part of a batch; the labels are class numbers (N,).
            progress: () of the training, from 0 to 1.
            weights: one for each class (C,), or None for 1.
            total: (), the sum of the weights over the whole batch, all ranks together.
            second: of mixed images the second labels (N,) and the share of the first ().
        """
        with self._runtime.arithmetic():
            features = self.model.embed(images)
        if not len(labels):
            zero = zero_loss(features, self.model.head.parameters())
            return zero, features, self.model.head.logits(features).detach()
        losses, logits = soft_losses_and_logits(
            self.model.head,
            features,
            labels,
            progress,
            second=Second(*second) if second else None,
            label_smoothing=self._smoothing,
            weights=weights,
        )
        return losses.sum() / total, features, logits


class Part(NamedTuple):
    """Which part of an optimisation step a batch is; a step is captured once for each kind."""

    weighted: bool
    """Whether class weights apply."""
    first: bool = True
    last: bool = True
    batches: int = 1
    """Of the step."""


class _Step:
    """One step on a batch, or a part of a larger one; what changes is in tensors.

    Of mixed images the metrics count the first label, that of the larger share.
    """

    def __init__(
        self,
        objective: nn.Module,
        model: Classifier,
        optimizer: Optimizer,
        watch: MetricAccumulator,
        weights: Tensor | None,
        config: Config,
    ) -> None:
        self._objective, self._model, self._weights = objective, model, weights
        self.optimizer, self._watch = optimizer, watch
        self._norms = layers_that_count(model)
        self._sam, self._accumulates = config.sam, config.accumulate > 1
        optimised = [p for group in optimizer.param_groups for p in group["params"]]
        self._views = [
            (p, view)
            for p, view in zip(model.parameters(), optimised, strict=True)
            if p is not view and p.requires_grad
        ]
        if (
            self._accumulates
        ):  # at the same place for all CUDA graphs, whichever of them adds to them
            for parameter in model.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None

    def __call__(
        self,
        part: Part,
        images: Tensor,
        labels: Tensor,
        progress: Tensor,
        total: Tensor,
        *second: Tensor,
    ) -> None:
        """Add to the gradient and the metrics; at the last part update weights and optimiser."""
        weights = self._weights if part.weighted else None
        inputs = (images, labels, progress, weights, total, *second)
        before = torch.get_rng_state() if self._sam else None
        objective, features, logits = self._backward(part, *inputs)
        if self._sam:
            with worst_nearby(self._model, self._sam):
                # The same dropout again. A GPU's generator, which a captured step cannot turn back,
                # draws anew.
                if before is not None:
                    torch.set_rng_state(before)
                self._backward(part, *inputs)
        if part.last:
            for parameter, view in self._views:
                grad = parameter.grad  # none of a layer that the net holds and does not use
                view.grad = None if grad is None else grad.permute(0, 2, 3, 1)
            self.optimizer.step()
        with torch.no_grad():
            features = features.detach()
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            predicted = logits.argmax(dim=1)
            self._watch.update(
                features,
                predicted,
                loss,
                (predicted == labels).sum(),
                objective.detach() * part.batches,  # so that the mean over batches is a step's
            )

    def _backward(self, part: Part, *inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Add a batch's gradient to that of its step; return what the objective module does."""
        with counted_at_once(self._norms):
            objective, features, logits = self._objective(*inputs)
        if part.first:
            self._model.zero_grad(set_to_none=not self._accumulates)
        objective.backward()
        return objective, features, logits


class TrainStep:
    """Takes the steps of a training; `watch` accumulates their metrics.

    `compile_seconds` is what compiling took, None before and without; `warn` is told where there is
    no graph, or no kernel of the loss. Nothing refers back to a TrainStep, so that model, optimiser
    and graphs are freed as soon as it is.
    """

    def __init__(
        self,
        model: Classifier,
        optimizer: Optimizer,
        config: Config,
        weights: Tensor | None,
        runtime: Runtime,
        warn: Callable[[str], None],
        ranks: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.model, self._weights, self._compiles = model, weights, config.compile
        self._batch_size, self._warn = config.batch_size, warn
        self.watch = MetricAccumulator(len(model.classes), runtime.device)
        self._progress = torch.zeros((), device=runtime.device)
        self.compile_seconds: float | None = None
        objective: nn.Module = LossModule(model, runtime, config.label_smoothing)
        if config.compile:
            # Not `objective.compile()`: that keeps in the module a bound method of itself.
            objective = cast(nn.Module, torch.compile(objective, dynamic=False))
        if ranks.size > 1:
            objective = data_parallel(objective, runtime.device)
        self._step = _Step(objective, model, optimizer, self.watch, weights, config)
        self._run: Callable[..., None] = self._step
        # Several ranks go without a graph: a capture of DistributedDataParallel wants NCCL's errors
        # left alone, by which a rank learns that another is gone, eleven eager steps before, and a
        # hook that is no callback of Python's. It is for who has two GPUs to try it on.
        if runtime.device.type == "cuda" and config.cuda_graph and ranks.size == 1:
            self._run = Graphed(self._step, cuda_capture(torch.cuda.current_stream()), warn)

    def step(
        self, batch: Batch, progress: float, *, weighted: bool, group: Sequence[Batch] = ()
    ) -> None:
        """Take a step on a batch, or a part of one.

        Args:
            batch: the images.
            progress: of the training; the same for a whole group.
            weighted: whether class weights apply.
            group: all batches of the step, where it has several, this one among them. Their loss
                is the mean over all their images.
        """
        self._progress.fill_(progress)
        group = group or (batch,)
        if batch is group[0]:
            self._total = sum(
                (self._total_of(one, weighted) for one in group[1:]),
                self._total_of(batch, weighted),
            )
        total = self._total
        part = Part(weighted, batch is group[0], batch is group[-1], len(group))
        second = () if batch.mixed is None else (batch.mixed.labels, batch.mixed.share)
        started = time.perf_counter()
        self.watch.next(len(batch.all_labels), len(batch.labels))
        with self._kernels_of(batch), told_to(self._warn):
            self._run(part, batch.images, batch.labels, self._progress, total, *second)
        if self._compiles and self.compile_seconds is None:
            self.compile_seconds = time.perf_counter() - started

    def _kernels_of(self, batch: Batch) -> AbstractContextManager[None]:
        """Return the context of a batch: cuDNN tries out its kernels for full ones."""
        is_full = len(batch.all_labels) == self._batch_size
        is_on_cuda = batch.labels.device.type == "cuda"
        return fastest_kernels() if is_full and is_on_cuda else nullcontext()

    def _total_of(self, batch: Batch, weighted: bool) -> Tensor:
        """Return () the sum of the class weights of a batch, of all ranks; 1 for each image."""
        if not weighted or self._weights is None:
            return self._progress.new_full((), len(batch.all_labels))
        total = self._weights[batch.all_labels].sum()
        if batch.mixed is None:
            return total
        return torch.lerp(self._weights[batch.mixed.all_labels].sum(), total, batch.mixed.share)


def new_optimizer(model: Classifier, config: Config) -> Optimizer:
    """Return the config's optimiser over all parameters, in its fused form.

    On CUDA the learning rate is a tensor there, which a captured step reads anew at each replay.
    """
    parameters, decay = _groups(model, config), config.weight_decay
    device = model.head.weight.device
    on_cuda = device.type == "cuda"
    lr = torch.tensor(config.lr, device=device) if on_cuda else config.lr
    for group in parameters:
        group["lr"] = lr.clone() if isinstance(lr, Tensor) else lr  # each group has its own
    if on_cuda:  # the first steps are taken without a graph on purpose
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable")
    match config.optimizer:
        case "sgd":
            return SGD(parameters, lr, config.momentum, weight_decay=decay, fused=True)
        case "adam":
            return Adam(parameters, lr, weight_decay=decay, fused=True, capturable=on_cuda)
        case "adamw":
            return AdamW(parameters, lr, weight_decay=decay, fused=True, capturable=on_cuda)


def _groups(model: Classifier, config: Config) -> list[dict[str, Any]]:
    """Return all parameters in the model's order, by what they may have of their own.

    That is a learning rate of the backbone, as a factor of the others', and a weight decay of the
    head. Frozen parameters are among them; without a gradient no optimiser touches them.
    """
    backbone, neck = (
        {"params": [_in_memory_order(p) for p in part.parameters()]}
        for part in (model.backbone, model.neck)
    )
    groups: list[dict[str, Any]] = [backbone, neck, {"params": list(model.head.parameters())}]
    if config.backbone_lr is not None:
        groups[0][_LR_FACTOR] = config.backbone_lr / config.lr
    if config.head_weight_decay is not None:
        groups[2]["weight_decay"] = config.head_weight_decay
    return groups


def _in_memory_order(parameter: nn.Parameter) -> nn.Parameter:
    """Return a CPU convolution's weight as the optimiser is given it: (O, H, W, I), without gaps.

    It shares the weight's memory. Given (O, I, H, W) in channels-last order, torch's fused
    optimisers copy each gradient first, a third of their time (benchmarks/LOG.md).
    """
    last = parameter.ndim == 4 and parameter.is_contiguous(memory_format=torch.channels_last)
    if parameter.device.type != "cpu" or not last or parameter.is_contiguous():
        return parameter
    return nn.Parameter(parameter.detach().permute(0, 2, 3, 1))


def optimizer_state(model: Classifier, optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    """Return the optimiser's state of each parameter, by its place, in the parameter's own layout.

    So it fits the parameters on any device. Learning rates and the like follow from the config.
    """
    return _reordered(optimizer.state_dict()["state"], (0, 3, 1, 2), model, optimizer)


def restore_optimizer(
    model: Classifier, optimizer: Optimizer, state: dict[int, dict[str, Any]]
) -> None:
    """Give an optimiser what `optimizer_state` returned of one over the same parameters.

    Raises ValueError where it is of another optimiser or of other parameters, which torch finds in
    the first step only.
    """
    own = _reordered(state, (0, 2, 3, 1), model, optimizer)
    optimizer.load_state_dict(optimizer.state_dict() | {"state": own})
    names = {"momentum_buffer"} if isinstance(optimizer, SGD) else {"step", "exp_avg", "exp_avg_sq"}
    for parameter, values in optimizer.state.items():
        shapes = {name: () if name == "step" else parameter.shape for name in names if values}
        if {name: value.shape for name, value in values.items()} != shapes:
            raise ValueError("the optimiser's state is of other parameters")


def _reordered(
    state: dict[int, dict[str, Any]],
    order: tuple[int, ...],
    model: Classifier,
    optimizer: Optimizer,
) -> dict[int, dict[str, Any]]:
    """Return the state with another order of axes where the optimiser was given (O, H, W, I)."""
    optimised = [p for group in optimizer.param_groups for p in group["params"]]
    views = {n for n, p in enumerate(model.parameters()) if p is not optimised[n]}
    return {
        place: {
            name: value.permute(order) if place in views and value.ndim == 4 else value
            for name, value in values.items()
        }
        for place, values in state.items()
    }


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate, of a backbone its own, in place where it is a tensor."""
    for group in optimizer.param_groups:
        own = lr * group.get(_LR_FACTOR, 1.0)
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(own)
        else:
            group["lr"] = own
