"""Running metrics of an epoch, and warnings of a collapse.

Under a margin that comes too early, features or class weights shrink to nothing: accuracy falls to
chance, and the loss stays at ln C (benchmarks/LOG.md). Sums stay tensors on the device until the
epoch ends, so that they cost no synchronisation.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lmsm_cli.distributed.process_group import ProcessGroup
from lmsm_cli.errors import listed
from lmsm_cli.runtime.display import EpochStats, RunningMetrics

# ReLU and dropout make up to 3/4 of a healthy layer's features exactly 0; more are dead.
_DEAD_SHARE = 0.95
# Distance of the loss from ln C, in nats, below which nothing has been learned.
_STUCK = 0.01
# A class weight below this share of the median norm no longer competes.
_SHRUNK_SHARE = 0.05
# Means are over the second half of an epoch: the first still shows the epoch before.
_LAST_SHARE = 0.5
# Share of the training, steps, and draws of a class, before which it is too early for a warning: a
# healthy loss starts near ln C, and rare classes are learned late (benchmarks/LOG.md, 2026-11-26).
_FAIR_SHARE, _FAIR_STEPS, _FAIR_DRAWS = 0.5, 100, 1000
# Share of dead features in a net that has learned: what is nearly always 0 can be a sparse code.
_ALL_DEAD = 0.999
# Standard errors above guessing from which an accuracy is no accident.
_BY_CHANCE = 3.0
# Steps between readings of a GPU's sums; on the CPU they cost nothing.
_LOOK_EVERY = 16
_cuda: Any = torch.cuda  # typed in some releases only


@dataclass(frozen=True)
class Start:
    """How far a training has come at the end of an epoch, by which its statistics are judged."""

    num_steps: float
    """Steps since the warm-up."""
    has_learned: bool
    """Whether training accuracy is above guessing."""
    drawn: tuple[float, ...]
    """How often an image of each class was drawn since the warm-up; empty where that is unknown."""


FAIR = Start(math.inf, False, ())
"""A start after which every warning holds."""


class MetricAccumulator:
    """Sums up the metrics of one epoch after the other on the device.

    `update` changes the same tensors in place each time, so that a CUDA graph can capture it. Each
    rank accumulates its own images; the loop all-reduces `sums` and `predicted`.
    """

    def __init__(self, num_classes: int, device: torch.device) -> None:
        # Loss, hits and objective of all steps; objective, zeros and norms of the watched ones.
        self.sums = torch.zeros(6, dtype=torch.float64, device=device)
        self.predicted = torch.zeros(num_classes, dtype=torch.bool, device=device)
        self._watching = torch.zeros((), dtype=torch.float64, device=device)
        self._reader = _reader(device)

    def start(self, num_steps: int) -> None:
        """Forget everything before an epoch of `num_steps` steps."""
        for tensor in (self.sums, self.predicted, self._watching):
            tensor.zero_()
        self._first, self._step = int(num_steps * (1 - _LAST_SHARE)), 0
        self._images = self._own_images = self._watched_images = self._watched_steps = 0
        self._reader = _reader(self.sums.device)

    def state(self, ranks: ProcessGroup) -> dict[str, Any]:
        """Return what all ranks accumulated in the epoch so far, as plain types and tensors."""
        return {
            "sums": ranks.all_reduce(self.sums.clone()).cpu(),
            "predicted": ranks.any_rank(self.predicted.clone()).cpu(),
            "step": self._step,
            "images": self._images,
            "watched_images": self._watched_images,
            "watched_steps": self._watched_steps,
        }

    def restore(self, state: dict[str, Any], ranks: ProcessGroup) -> None:
        """Restore what `state` returned, after `start`; rank 0 alone: sums are all-reduced."""
        self._step, self._images = state["step"], state["images"]
        self._watched_images, self._watched_steps = state["watched_images"], state["watched_steps"]
        self._watching.fill_(self._step > self._first)
        if ranks.is_main:
            self.sums.copy_(state["sums"])
            self.predicted.copy_(state["predicted"])
            self._own_images = self._images

    def next(self, num_images: int, num_own: int) -> None:
        """Count, on the host, a step over `num_images` images, of which this rank has `num_own`."""
        if self._step == self._first:
            self._watching.fill_(1)
        if self._step >= self._first:
            self._watched_images += num_images
            self._watched_steps += 1
        self._images += num_images
        self._own_images += num_own
        self._step += 1

    @torch.no_grad()
    def update(
        self, features: Tensor, predicted: Tensor, loss: Tensor, hits: Tensor, objective: Tensor
    ) -> None:
        """Add a step on this rank's N images.

        Args:
            features: (N, D), the head's input.
            predicted: class numbers (N,).
            loss, hits: sums () of the cross-entropy and of the correct predictions.
            objective: (), this rank's part of what the step minimised.
        """
        self.predicted.index_fill_(0, predicted, True)
        zeros = (features == 0).sum() / features.shape[1]
        norms = features.float().norm(dim=1).sum()
        watched = self._watching * torch.stack([objective, zeros, norms])
        self.sums += torch.cat([torch.stack([loss, hits, objective]), watched])

    def running(self) -> RunningMetrics | None:
        """Return this rank's metrics as far as the host has them; never wait for the device."""
        if self._step % self._reader.every == 0 or self._step == 1:
            self._reader.ask(self.sums, (self._step, self._own_images))
        seen = self._reader.read()
        if seen is None:
            return None
        (loss, hits, objective, *_), (step, images) = seen
        return RunningMetrics(
            step, images, loss / images, hits / images, math.isfinite(loss + objective)
        )

    def total(self) -> RunningMetrics:
        """Return the metrics of the whole epoch, of all-reduced sums; wait for the device."""
        loss, hits, objective, *_ = self.sums.tolist()
        images = self._images
        return RunningMetrics(
            self._step, images, loss / images, hits / images, math.isfinite(loss + objective)
        )

    def epoch_stats(self, weight: Tensor) -> EpochStats:
        """Return the epoch's statistics, given the class weights (C, D) at its end."""
        objective, zeros, norms = self.sums[3:].tolist()
        images, steps = max(1, self._watched_images), max(1, self._watched_steps)
        weight_norms = weight.detach().float().norm(dim=1)
        missing = (~self.predicted).nonzero()[:, 0].tolist()
        return EpochStats(
            zeros / images,
            norms / images,
            weight_norms.min().item(),
            weight_norms.median().item(),
            objective / steps,
            tuple(missing),
        )


class _DirectReader:
    """Reads a tensor of the host, which needs no wait."""

    every = 1

    def ask(self, tensor: Tensor, note: tuple[int, int]) -> None:
        self._seen = tensor.tolist(), note

    def read(self) -> tuple[list[float], tuple[int, int]] | None:
        return self._seen


class _AsyncReader:
    """Reads a tensor of a GPU by a copy without a wait: `read` returns the last that arrived."""

    every = _LOOK_EVERY

    def __init__(self) -> None:
        self._arrived = _cuda.Event()
        self._copy: Tensor | None = None
        self._asked: tuple[int, int] | None = None
        self._seen: tuple[list[float], tuple[int, int]] | None = None

    def ask(self, tensor: Tensor, note: tuple[int, int]) -> None:
        if self._asked is not None:  # the last copy is still on its way
            return
        if self._copy is None:
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        self._copy.copy_(tensor, non_blocking=True)
        self._arrived.record()
        self._asked = note

    def read(self) -> tuple[list[float], tuple[int, int]] | None:
        if self._asked is not None and self._arrived.query():
            assert self._copy is not None
            self._seen, self._asked = (self._copy.tolist(), self._asked), None
        return self._seen


def _reader(device: torch.device) -> _DirectReader | _AsyncReader:
    return _AsyncReader() if device.type == "cuda" else _DirectReader()


def collapse_warnings(
    vitals: EpochStats, classes: tuple[str, ...], *, progress: float, start: Start = FAIR
) -> dict[str, str]:
    """Return what looks collapsed, sign -> sentences: what is wrong, what to do; {} if all is well.

    Args:
        vitals: statistics of an epoch.
        classes: names of the classes.
        progress: share of the training that is done, warm-up left out. Stuck losses and missing
            classes count after half of it only, since healthy trainings show them at first.
        start: how far the training has come, which excuses these two as well.
    """
    signs = {}
    is_fair = progress >= _FAIR_SHARE and start.num_steps >= _FAIR_STEPS
    if vitals.zero_features > (_ALL_DEAD if start.has_learned else _DEAD_SHARE):
        signs["dead features"] = (
            f"{_share_of_zeros(vitals.zero_features)}. Use --neck bn, or a margin that is smaller "
            "or comes later."
        )
    floor = math.log(len(classes))
    if is_fair and not start.has_learned and abs(vitals.objective - floor) < _STUCK:
        signs["stuck loss"] = (
            f"the loss rests at ln {len(classes)} = {floor:.3f}, and training accuracy is no "
            "better than guessing. Try another --lr, or a margin that is smaller or comes later."
        )
    if vitals.weight_norm_min < _SHRUNK_SHARE * vitals.weight_norm_median:
        signs["shrunken class weight"] = (
            f"the weight of a class has shrunk to length {vitals.weight_norm_min:.2g} (median "
            f"{vitals.weight_norm_median:.2g}), so the class hardly competes. Try "
            "weight_norm=shared in an lsoftmax loss, or a smaller --head-weight-decay."
        )
    missing = [
        c for c in vitals.never_predicted if not start.drawn or start.drawn[c] >= _FAIR_DRAWS
    ]
    if is_fair and missing:
        names = listed([classes[c] for c in missing])
        signs["missing classes"] = (
            f"the model never predicted {len(missing)} of {len(classes)} classes ({names}). If "
            "this lasts, train longer, or try --sampling balanced or a smaller margin."
        )
    return signs


def _share_of_zeros(share: float) -> str:
    """Return in words what it means that a share of the features is 0."""
    if share == 1:
        return "all features are exactly 0, so every image gets the same scores"
    # rounded down: 100.0% would say that all are
    return f"{math.floor(share * 1000) / 10}% of the features are exactly 0 and pass no gradient"


def has_learned(accuracy: float, num_images: int, by_guessing: float) -> bool:
    """Return whether an accuracy over `num_images` is significantly above that of guessing."""
    error = math.sqrt(by_guessing * (1 - by_guessing) / num_images)
    return accuracy > by_guessing + _BY_CHANCE * error
