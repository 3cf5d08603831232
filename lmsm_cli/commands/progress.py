"""How a run shows itself on stderr: bars on a terminal, one line an epoch elsewhere."""

import time
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column

from lmsm_cli.commands.console import print_line, stderr_console
from lmsm_cli.errors import visible
from lmsm_cli.runtime.display import Display, Epoch, Step

# Seconds between two movements of the bars: a terminal costs time too.
_LOOK_EVERY = 0.25
_BAR_WIDTH = 10
# Columns of a bar's line beside its name, its amounts and its note.
_AROUND = len("* ") + 1 + _BAR_WIDTH + 1 + len(" 00:00 ")


class PlainDisplay(Display):
    """One line an epoch and a message: for logs, pipes and CI."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or stderr_console()
        self._reported: set[str] = set()

    def progress(self, what: str, done: int, total: int) -> None:
        """Name each piece of work once, when it starts."""
        if what not in self._reported:
            self._reported.add(what)
            self.info(what)

    def info(self, text: str) -> None:
        """Print a line."""
        print_line(visible(text), self._console)

    def warning(self, text: str) -> None:
        """Print a line that stands out."""
        text = escape(visible(text))
        # Not louder than a result or an error: the word alone stands out.
        self._console.print(f"[bold yellow]WARNING:[/] {text}", soft_wrap=True)

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Print the epoch's line."""
        self.info(epoch_line(epoch, num_epochs))


class QuietDisplay(Display):
    """Warnings alone, for scripts."""

    def __init__(self) -> None:
        self._plain = PlainDisplay()

    def warning(self, text: str) -> None:
        """Print a line that stands out."""
        self._plain.warning(text)


class BarDisplay(Display):
    """Bars for the epochs and their steps, with the epochs' lines above."""

    def __init__(self) -> None:
        self._console = stderr_console()
        self._plain = PlainDisplay(self._console)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(overflow="fold")),
            BarColumn(_BAR_WIDTH),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._looked = self._started = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bars.stop()

    def progress(self, what: str, done: int, total: int) -> None:
        """Move the bar of a piece of work; it goes when the work is done."""
        self._move(what, done, total or None)
        if total and done >= total:
            self._drop(what)

    def info(self, text: str) -> None:
        """Print a line above the bars."""
        self._plain.info(text)

    def warning(self, text: str) -> None:
        """Print a line that stands out above the bars."""
        self._plain.warning(text)

    def step(self, step: Step) -> None:
        """Move the bar of the epoch's steps, now and then with the loss."""
        now = time.monotonic()
        if step.step == 1:
            self._started = now
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        name, amounts = f"epoch {step.epoch}", f"{step.step}/{step.num_steps}"
        room = self._console.width - _AROUND - len(name) - len(amounts)
        self._move(name, step.step, step.num_steps, self._note(step, now, room))

    def _note(self, step: Step, now: float, room: int) -> str:
        """Return what a user watches, as much as there is room for, whole numbers each."""
        pieces = []
        if step.seen is not None:
            pieces.append(f"loss {step.seen.loss:.3f} acc {step.seen.accuracy:.3f}")
        if step.lam is not None:
            pieces.append(f"lambda {step.lam:.3g}")
        pieces.append(f"lr {step.lr:.3g}")
        if now > self._started:
            pieces.append(f"{step.num_images / (now - self._started):,.0f} images/s")
        while pieces and len(" ".join(pieces)) > room:
            pieces.pop()
        return " ".join(pieces)

    def epoch(self, epoch: Epoch, num_epochs: int) -> None:
        """Print the epoch's line and move the bar of epochs."""
        self._drop(f"epoch {epoch.epoch}")
        self._plain.epoch(epoch, num_epochs)
        self._move("epochs", epoch.epoch, num_epochs)
        if epoch.epoch == num_epochs:
            self._drop("epochs")

    def _move(self, name: str, done: int, total: int | None, note: str = "") -> None:
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(escape(name), total=total, note="")
        self._bars.update(self._tasks[name], completed=done, total=total, note=note)

    def _drop(self, name: str) -> None:
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))


def epoch_line(epoch: Epoch, num_epochs: int) -> str:
    """Return the line of an epoch; accuracies are margin-free."""
    pieces = [
        f"epoch {epoch.epoch:>{len(str(num_epochs))}}/{num_epochs}",
        f"train loss {epoch.train_loss:.3f} acc {epoch.train_accuracy:.3f}",
    ]
    if epoch.val_loss is not None:
        pieces.append(
            f"val loss {epoch.val_loss:.3f} acc {epoch.val_accuracy:.3f} "
            f"balanced {epoch.val_balanced_accuracy:.3f}"
        )
    if epoch.lam is not None:
        pieces.append(f"lambda {epoch.lam:.3g} (effective margin {epoch.effective_margin:.2f})")
    pieces.append(f"lr {epoch.lr:.3g}")
    pieces.append(f"{epoch.images_per_second:,.0f} images/s")
    return " | ".join(pieces)


def new_display(quiet: bool = False) -> Display:
    """Return bars on a terminal that can move its cursor, else lines; warnings only if quiet."""
    if quiet:
        return QuietDisplay()
    return BarDisplay() if stderr_console().is_interactive else PlainDisplay()
