"""What a run tells while it goes, whoever shows it: the loop knows no screen."""

from typing import Protocol

from lmsm_cli.engine.train import Epoch, Step


class Display(Protocol):
    """What a run tells while it goes."""

    def report(self, what: str, done: int, total: int) -> None:
        """Show progress before the training; `total` 0 means unknown."""

    def say(self, text: str) -> None:
        """Show a message."""

    def warn(self, text: str) -> None:
        """Show a message that must not be overlooked."""

    def step(self, step: Step) -> None:
        """Show a finished step."""

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Show a finished epoch."""


class Silence:
    """Tells nothing: for the ranks that leave the telling to the first, and for measurements."""

    def report(self, what: str, done: int, total: int) -> None:
        """Do nothing."""

    def say(self, text: str) -> None:
        """Do nothing."""

    def warn(self, text: str) -> None:
        """Do nothing."""

    def step(self, step: Step) -> None:
        """Do nothing."""

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Do nothing."""
