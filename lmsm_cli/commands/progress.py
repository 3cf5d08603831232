"""How a run shows itself on stderr: bars and a table on a terminal, a line an epoch elsewhere."""

import time
from typing import Self

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Column
from rich.text import Text

from lmsm_cli.commands.console import print_line, stderr_console
from lmsm_cli.commands.epochs import EpochTable, clock, epoch_line
from lmsm_cli.errors import LmsmError, visible
from lmsm_cli.runtime.display import Display, Epoch, Step

# Seconds between two movements of the bars: a terminal costs time too.
_LOOK_EVERY = 0.25
_SHORTEST_BAR = 8
# Columns of a bar's line beside its name, its bar, its amounts and its note.
_AROUND = len("* ") + 1 + 1 + len(" 0:00:00 ")
_RUNS, _EPOCHS = "runs", "epochs"


class PlainDisplay(Display):
    """One line an epoch and a message: for logs, pipes and CI."""

    def __init__(self, console: Console | None = None, *, verbose: bool = False) -> None:
        self._console = console or stderr_console()
        self._reported: set[str] = set()
        self._verbose = verbose

    def progress(self, what: str, done: int, total: int) -> None:
        """Name each piece of work once, when it starts."""
        if what not in self._reported:
            self._reported.add(what)
            self.info(what)

    def info(self, text: str) -> None:
        """Print a line."""
        print_line(visible(text), self._console)

    def detail(self, text: str) -> None:
        """Print a line where details are wanted."""
        if self._verbose:
            self.info(text)

    def warning(self, text: str) -> None:
        """Print a line that stands out."""
        text = escape(visible(text))
        self._console.print(f"[bold red]WARNING: {text}[/]", soft_wrap=True)

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


class _TimeLeft(ProgressColumn):
    """The time that a bar still takes at its mean pace; of unknown work the time it took so far."""

    def render(self, task: Task) -> Text:
        """Return the time, or nothing while no pace is known."""
        now = time.monotonic()
        begun, moved, first = (task.fields[name] for name in ("begun", "moved", "first"))
        if task.total is None:
            return Text(clock(now - begun))
        if moved <= begun or task.completed <= first:
            return Text("-:--")
        left = (task.total - task.completed) * (moved - begun) / (task.completed - first)
        return Text(clock(left - (now - moved)))


class BarDisplay(Display):
    """Bars for what is under way, and above them the epochs as rows of a table."""

    def __init__(self, *, verbose: bool = False) -> None:
        self._console = stderr_console()
        self._verbose = verbose
        self._bar_width = max(_SHORTEST_BAR, self._console.width // 3 - 20)
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(self._bar_width),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _TimeLeft(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            console=self._console,
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._looked = self._started = 0.0
        self._begun: tuple[float, float] | None = None
        """When the training began here, and how many epochs it had behind it."""
        self._behind = 0.0
        """The epochs behind the training when it last told of a step."""
        self._table: EpochTable | None = None
        self._last_epoch = 0
        self._runs: tuple[int, int] | None = None

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

    def overall(self, done: int, total: int, note: str = "") -> None:
        """Move the bar of the runs; it goes with the last of them."""
        self._runs = (done, total)
        self.progress(_RUNS, done, total)
        if _RUNS in self._tasks and cell_len(note) <= self._room_beside(_RUNS, f"{total}/{total}"):
            self._bars.update(self._tasks[_RUNS], note=escape(note))

    def info(self, text: str) -> None:
        """Print a message above the bars, with lines that end between words."""
        print_line("\n".join(folded(visible(text), self._console.width)), self._console)

    def detail(self, text: str) -> None:
        """Print a message above the bars where details are wanted."""
        if self._verbose:
            self.info(text)

    def warning(self, text: str) -> None:
        """Print a message that stands out above the bars."""
        lines = "\n".join(folded(f"WARNING: {visible(text)}", self._console.width))
        self._console.print(f"[bold red]{escape(lines)}[/]", soft_wrap=True)

    def step(self, step: Step) -> None:
        """Move the bars of the epoch's steps, the epochs and the runs, now and then."""
        now = time.monotonic()
        behind = step.epoch - 1 + step.step / step.num_steps
        if behind < self._behind:  # of another training; the one before may have ended early
            self._forget_training()
        self._behind = behind
        if self._begun is None:
            self._begun = (now, behind)
        if step.step == 1:
            self._started = now
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        if step.num_epochs:
            if self._runs:
                self._move(_RUNS, self._runs[0] + behind / step.num_epochs, self._runs[1])
            self._move(_EPOCHS, behind, step.num_epochs)
        name = f"epoch {step.epoch}"
        totals = (step.num_steps, step.num_epochs, self._runs[1] if self._runs else 0)
        amounts = max((f"{total}/{total}" for total in totals), key=len)
        room = self._room_beside(name, amounts)
        self._move(name, step.step, step.num_steps, self._note(step, now, room))

    def _room_beside(self, name: str, amounts: str) -> int:
        """Return the columns that a bar's line leaves for its note."""
        return self._console.width - self._bar_width - _AROUND - len(name) - len(amounts)

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
        """Print the epoch's row, under a header where a table begins; move the bar of epochs."""
        self._drop(f"epoch {epoch.epoch}")
        width, table = self._console.width, self._table
        is_new = epoch.epoch <= self._last_epoch  # of another training
        if table is None or is_new or not table.fits(epoch, num_epochs, width):
            table = self._table = EpochTable(epoch, num_epochs, width)
            header = "\n".join(table.header())
            self._console.print(f"[bold]{header}[/]", soft_wrap=True)
        print_line(table.row(epoch, self._seconds_left(epoch.epoch, num_epochs)), self._console)
        self._last_epoch = epoch.epoch
        self._move(_EPOCHS, epoch.epoch, num_epochs)
        if epoch.epoch == num_epochs:
            self._forget_training()

    def _forget_training(self) -> None:
        self._drop(_EPOCHS)
        self._begun, self._behind = None, 0.0

    def _seconds_left(self, epoch: int, num_epochs: int) -> float | None:
        """Return what the rest of a training takes at its mean pace; None where that is unknown."""
        if self._begun is None:
            return None
        begun, behind = self._begun
        if epoch <= behind:  # all that was seen of it is the end of its first step
            return None
        return (time.monotonic() - begun) * (num_epochs - epoch) / (epoch - behind)

    def _move(self, name: str, done: float, total: int | None, note: str = "") -> None:
        now = time.monotonic()
        if name not in self._tasks:
            room = self._room_beside("", f"{total}/{total}")
            text = escape(shortened(name, room))
            self._tasks[name] = self._bars.add_task(
                text, total=total, note="", begun=now, moved=now, first=done
            )
        task = self._tasks[name]
        self._bars.update(task, completed=done, total=total, note=note, moved=now)

    def _drop(self, name: str) -> None:
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))


def folded(text: str, width: int) -> list[str]:
    """Return a text in lines that end between words; a longer word, as a path is, stays whole."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(longer) <= width or not lines[-1].strip():
            lines[-1] = longer
        else:
            lines.append(f"  {word}")
    return lines


def shortened(text: str, room: int) -> str:
    """Return the name of a piece of work with as much of its path's end as there is room for.

    >>> [shortened("decoding /data/own/photos/train", room) for room in (40, 25, 10)]
    ['decoding /data/own/photos/train', 'decoding .../photos/train', 'decoding']
    """
    if cell_len(text) <= room:
        return text
    what, _, path = text.partition(" ")
    while "/" in path:
        path = path.partition("/")[2]
        if cell_len(shorter := f"{what} .../{path}") <= room:
            return shorter
    return what


def new_display(quiet: bool = False, verbose: bool = False) -> Display:
    """Return bars on a terminal that can move its cursor, else lines; warnings only if quiet.

    With `verbose` it shows details too. Raises LmsmError for both.
    """
    if quiet and verbose:
        raise LmsmError("--quiet and --verbose exclude each other; give one of them")
    if quiet:
        return QuietDisplay()
    if stderr_console().is_interactive:
        return BarDisplay(verbose=verbose)
    return PlainDisplay(verbose=verbose)
