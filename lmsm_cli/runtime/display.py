"""What a run tells while it goes, whoever shows it: neither the data nor the loop knows a screen."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from lmsm_cli.training.loop import Epoch, Step


class Display:
    """Hears what a run tells, and shows nothing of it; subclasses show. A context manager."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing behind."""

    def progress(self, what: str, done: int, total: int) -> None:
        """Show how far a piece of work before the training is; `total` 0 means unknown."""

    def info(self, text: str) -> None:
        """Show a message."""

    def warning(self, text: str) -> None:
        """Show a message that must not be overlooked."""

    def step(self, step: "Step") -> None:
        """Show a finished step."""

    def epoch(self, epoch: "Epoch", num_epochs: int) -> None:
        """Show a finished epoch."""


SILENT = Display()
"""Tells nothing: for the ranks that leave the telling to the first, and for measurements."""


class Relay(Display):
    """Hands what it hears on to another display: for subclasses that listen."""

    def __init__(self, shown: Display) -> None:
        self.shown = shown

    def progress(self, what: str, done: int, total: int) -> None:
        """Hand on how far a piece of work is."""
        self.shown.progress(what, done, total)

    def info(self, text: str) -> None:
        """Hand on a message."""
        self.shown.info(text)

    def warning(self, text: str) -> None:
        """Hand on a warning."""
        self.shown.warning(text)

    def step(self, step: "Step") -> None:
        """Hand on a finished step."""
        self.shown.step(step)

    def epoch(self, epoch: "Epoch", num_epochs: int) -> None:
        """Hand on a finished epoch."""
        self.shown.epoch(epoch, num_epochs)


class Notebook(Relay):
    """Brings the warnings into a run's log too; those of before there is one are kept for it.

    What was warned of already is not handed on again: a folder may be read more than once.
    """

    def __init__(self, shown: Display) -> None:
        super().__init__(shown)
        self.warnings: list[str] = []
        self._log: Callable[[str], None] | None = None

    def warning(self, text: str) -> None:
        """Keep a warning and hand it on, once."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.shown.warning(text)
            if self._log:
                self._log(f"WARNING {text}")

    def keep_in(self, log: Callable[[str], None]) -> None:
        """Write the warnings into a log by its function for a line, those until now and all others."""
        self._log = log
        for text in self.warnings:
            log(f"WARNING {text}")
