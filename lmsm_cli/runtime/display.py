"""What a run reports while it goes, and the display that shows it: data and loop know no screen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

# Keys of a row of metrics.jsonl, in their order.
_ROW = (
    *("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_balanced_accuracy"),
    *("effective_margin", "lr", "images_per_second", "seconds", "lambda"),
    *("objective", "zero_features", "feature_norm", "weight_norm_min", "weight_norm_median"),
    "collapse",
)


@dataclass(frozen=True)
class RunningMetrics:
    """What the host has seen of an epoch up to a step, counted from 1, margin-free."""

    step: int
    num_images: int
    loss: float
    accuracy: float
    is_finite: bool


@dataclass(frozen=True)
class Step:
    """What the display may show after a step."""

    epoch: int
    step: int
    num_steps: int
    num_images: int
    """Images of the epoch so far."""
    seen: RunningMetrics | None
    """Margin-free loss and accuracy of the epoch, as far as they are known without a wait."""
    lam: float | None
    lr: float
    num_epochs: int = 0
    """Of the whole training; 0 where it is not known."""


@dataclass(frozen=True)
class EpochStats:
    """The watched statistics of an epoch, means over its second half."""

    zero_features: float
    """Share of feature values that are exactly 0."""
    feature_norm: float
    weight_norm_min: float
    weight_norm_median: float
    objective: float
    """Mean of the optimised loss, margin and class weights included."""
    never_predicted: tuple[int, ...]
    """Classes that no training image of the whole epoch was taken for, margin-free."""


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
    stats: EpochStats
    signs: dict[str, str]
    """What looks collapsed: sign -> words."""

    def to_row(self) -> dict[str, Any]:
        """Return the row of metrics.jsonl."""
        row = vars(self) | vars(self.stats) | {"lambda": self.lam, "collapse": list(self.signs)}
        return {key: row[key] for key in _ROW}


class Display:
    """Show nothing of a run: the base of all displays, and a context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing behind."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far a piece of work beside the training is; `total` 0 means unknown."""

    def overall(self, done: int, total: int, note: str = "") -> None:
        """Show how many of several runs are done, and in a few words what they have found."""

    def info(self, text: str) -> None:
        """Show a message."""

    def detail(self, text: str) -> None:
        """Show a message to those who want details: what computes, and how."""

    def warning(self, text: str) -> None:
        """Show a message that must not be overlooked."""

    def step(self, step: Step) -> None:
        """Show a finished step."""

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Show a finished epoch."""


SILENT = Display()
"""The display of the ranks behind the first, and of measurements."""


class ForwardingDisplay(Display):
    """Pass everything on to the display `shown`; subclasses listen."""

    def __init__(self, shown: Display) -> None:
        self.shown = shown

    def progress(self, what: str, done: int, total: int) -> None:
        """Pass on how far a piece of work is."""
        self.shown.progress(what, done, total)

    def overall(self, done: int, total: int, note: str = "") -> None:
        """Pass on how many runs are done."""
        self.shown.overall(done, total, note)

    def info(self, text: str) -> None:
        """Pass on a message."""
        self.shown.info(text)

    def detail(self, text: str) -> None:
        """Pass on a detail."""
        self.shown.detail(text)

    def warning(self, text: str) -> None:
        """Pass on a warning."""
        self.shown.warning(text)

    def step(self, step: Step) -> None:
        """Pass on a finished step."""
        self.shown.step(step)

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Pass on a finished epoch."""
        self.shown.epoch(epoch, num_epochs)


class WarningLog(ForwardingDisplay):
    """Show each warning once, and write it to the run's log as well, as soon as there is one."""

    def __init__(self, shown: Display) -> None:
        super().__init__(shown)
        self.warnings: list[str] = []
        self._log: Callable[[str], None] | None = None

    def warning(self, text: str) -> None:
        """Show and log a warning that is new."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.shown.warning(text)
            if self._log:
                self._log(f"WARNING {text}")

    def write_to(self, log: Callable[[str], None]) -> None:
        """Log the warnings so far, and all later ones, by a function that writes a line."""
        self._log = log
        for text in self.warnings:
            log(f"WARNING {text}")


class OncePerPlan(ForwardingDisplay):
    """Show once for all runs of a plan what they warn of before they train: it is of their data.

    `said` is what the others have warned of. Each run writes all of its warnings into its own log.
    """

    def __init__(self, shown: Display, said: set[str]) -> None:
        super().__init__(shown)
        self._said = said
        self._is_training = False

    def step(self, step: Step) -> None:
        """Pass on a finished step."""
        self._is_training = True
        super().step(step)

    def warning(self, text: str) -> None:
        """Pass on a warning that is of this training, or new."""
        if self._is_training or text not in self._said:
            self._said.add(text)
            super().warning(text)
