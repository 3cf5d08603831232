"""What a study shows of its runs: one bar of all trainings, with the current standing."""

from collections.abc import Callable
from dataclasses import dataclass

from lmsm_cli.runtime.display import Display, Epoch, ForwardingDisplay, Step
from lmsm_cli.sweeps.plan import RunIndex


class StudyDisplay(ForwardingDisplay):
    """Note the time that is spent after every run."""

    def __init__(self, shown: Display, note: Callable[[], None]) -> None:
        super().__init__(shown)
        self._note = note
        self.bar: tuple[int, int] | None = None
        """How many trainings were done before those of the plan, and how many there are in all."""
        self.standing = ""
        """Who leads, in a few words."""

    def overall(self, done: int, total: int, note: str = "") -> None:
        """Note the time, and pass on how many trainings of all rounds are done."""
        self._note()
        if self.bar:
            super().overall(self.bar[0] + done, self.bar[1], note or self.standing)

    def progress(self, what: str, done: int, total: int) -> None:
        """Leave out the pieces of each run."""

    def step(self, step: Step) -> None:
        """Leave out the steps."""

    def info(self, text: str) -> None:
        """Leave out what each run says of itself: a study has many."""

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Leave out the epochs, of which there are thousands."""


@dataclass(frozen=True)
class StudyIndex(RunIndex):
    """The index of a study's runs, which moves its bar."""

    display: StudyDisplay
