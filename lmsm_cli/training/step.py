"""One optimisation step: eager, compiled, or captured as a CUDA graph, on one rank or on several.

A step reads and writes tensors only: the weights, the optimiser's state and the epoch's metrics.
Hence it never waits for the device.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any, cast

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
from lmsm_cli.losses.soft_labels import Second, soft_losses
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.cuda_graph import Graphed, cuda_capture
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.training.collapse import MetricAccumulator
from lmsm_cli.training.sam import worst_nearby


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
    ) -> tuple[Tensor, Tensor]:
        """Return sum(w_y loss) / total () and the features (N, D) of uint8 images (N, C, H, W).

        No images give 0, for ranks that have none left.

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
            return zero_loss(features, self.model.head.parameters()), features
        losses = soft_losses(
            self.model.head,
            features,
            labels,
            progress,
            second=Second(*second) if second else None,
            label_smoothing=self._smoothing,
            weights=weights,
        )
        return losses.sum() / total, features


class _Step:
    """One step on a batch; what changes from step to step is in tensors.

    Of mixed images the metrics count the first label, that of the larger share.
    """

    def __init__(
        self,
        objective: nn.Module,
        model: Classifier,
        optimizer: Optimizer,
        watch: MetricAccumulator,
        weights: Tensor | None,
        sam: float,
    ) -> None:
        self._objective, self._model, self._weights = objective, model, weights
        self._sam = sam
        self.optimizer, self._watch = optimizer, watch
        optimised = [p for group in optimizer.param_groups for p in group["params"]]
        self._views = [
            (p, view)
            for p, view in zip(model.parameters(), optimised, strict=True)
            if p is not view
        ]

    def __call__(
        self,
        weighted: bool,
        images: Tensor,
        labels: Tensor,
        progress: Tensor,
        total: Tensor,
        *second: Tensor,
    ) -> None:
        """Update the weights, the optimiser's state and the metrics."""
        weights = self._weights if weighted else None
        inputs = (images, labels, progress, weights, total, *second)
        before = torch.get_rng_state() if self._sam else None
        objective, features = self._backward(*inputs)
        if self._sam:
            with worst_nearby(self._model, self._sam):
                # The same dropout again. A GPU's generator, which a captured step cannot turn back,
                # draws anew.
                if before is not None:
                    torch.set_rng_state(before)
                self._backward(*inputs)
        for parameter, view in self._views:
            assert parameter.grad is not None
            view.grad = parameter.grad.permute(0, 2, 3, 1)
        self.optimizer.step()
        with torch.no_grad():
            features = features.detach()
            logits = self._model.head.logits(features)
            loss = functional.cross_entropy(logits, labels, reduction="sum")
            predicted = logits.argmax(dim=1)
            self._watch.update(
                features, predicted, loss, (predicted == labels).sum(), objective.detach()
            )

    def _backward(self, *inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """Give the parameters the gradient of a batch; return its objective and features."""
        objective, features = self._objective(*inputs)
        self._model.zero_grad(set_to_none=True)
        objective.backward()
        return objective, features


class TrainStep:
    """Takes the steps of a training; `watch` accumulates their metrics.

    `say` gets what a user should know: what compiling took, and that there is no graph. Nothing
    refers back to a TrainStep, so that model, optimiser and graphs are freed as soon as it is.
    """

    def __init__(
        self,
        model: Classifier,
        optimizer: Optimizer,
        config: Config,
        weights: Tensor | None,
        runtime: Runtime,
        say: Callable[[str], None],
        ranks: ProcessGroup = SINGLE_PROCESS,
    ) -> None:
        self.model, self._weights = model, weights
        self.watch = MetricAccumulator(len(model.classes), runtime.device)
        self._progress = torch.zeros((), device=runtime.device)
        self._say, self._uncompiled = say, config.compile
        objective: nn.Module = LossModule(model, runtime, config.label_smoothing)
        if config.compile:
            # Not `objective.compile()`: that keeps in the module a bound method of itself.
            objective = cast(nn.Module, torch.compile(objective, dynamic=False))
        if ranks.size > 1:
            objective = data_parallel(objective, runtime.device)
        self._step = _Step(objective, model, optimizer, self.watch, weights, config.sam)
        self._run: Callable[..., None] = self._step
        # Capturing the exchange of gradients is for the day when it can be tried.
        if runtime.device.type == "cuda" and config.cuda_graph and ranks.size == 1:
            self._run = Graphed(self._step, cuda_capture(torch.cuda.current_stream()), say)

    def step(self, batch: Batch, progress: float, *, weighted: bool) -> None:
        """Take a step at a progress of the training; `weighted` applies the class weights."""
        self._progress.fill_(progress)
        total = self._progress.new_full((), len(batch.all_labels))
        if weighted and self._weights is not None:
            total = self._weights[batch.all_labels].sum()
            if batch.mixed is not None:
                of_second = self._weights[batch.mixed.all_labels].sum()
                total = torch.lerp(of_second, total, batch.mixed.share)
        second = () if batch.mixed is None else (batch.mixed.labels, batch.mixed.share)
        started = time.perf_counter()
        self.watch.next(len(batch.all_labels), len(batch.labels))
        self._run(weighted, batch.images, batch.labels, self._progress, total, *second)
        if self._uncompiled:
            self._uncompiled = False
            self._say(
                f"compiled in {time.perf_counter() - started:.1f} s, "
                "which the first epoch's time contains"
            )


def new_optimizer(model: Classifier, config: Config) -> Optimizer:
    """Return the config's optimiser over all parameters, in its fused form.

    On CUDA the learning rate is a tensor there, which a captured step reads anew at each replay.
    """
    parameters, decay = _by_decay(model, config), config.weight_decay
    device = model.head.weight.device
    on_cuda = device.type == "cuda"
    lr = torch.tensor(config.lr, device=device) if on_cuda else config.lr
    if on_cuda:  # the first steps are taken without a graph on purpose
        warnings.filterwarnings("ignore", message="This instance was constructed with capturable")
    match config.optimizer:
        case "sgd":
            return SGD(parameters, lr, config.momentum, weight_decay=decay, fused=True)
        case "adam":
            return Adam(parameters, lr, weight_decay=decay, fused=True, capturable=on_cuda)
        case "adamw":
            return AdamW(parameters, lr, weight_decay=decay, fused=True, capturable=on_cuda)


def _by_decay(model: Classifier, config: Config) -> list[dict[str, Any]]:
    """Return all parameters in the model's order; the head's may have their own weight decay."""
    body = [_in_memory_order(p) for part in (model.backbone, model.neck) for p in part.parameters()]
    head: dict[str, Any] = {"params": list(model.head.parameters())}
    if config.head_weight_decay is not None:
        head["weight_decay"] = config.head_weight_decay
    return [{"params": body}, head]


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
    """Set the learning rate of all parameters, in place where it is a tensor."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr
