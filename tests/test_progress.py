"""The display: bars carry what a user watches, lines stay plain."""

import io
import re

import pytest
from rich.console import Console

from lmsm_cli.commands import progress
from lmsm_cli.runtime.display import Epoch, EpochStats, RunningMetrics, Step

EPOCH = Epoch(
    epoch=3,
    train_loss=1.0,
    train_accuracy=0.5,
    val_loss=1.2,
    val_accuracy=0.4,
    val_balanced_accuracy=0.3,
    lam=5.0,
    effective_margin=1.5,
    lr=0.001,
    images_per_second=1234.0,
    seconds=2.0,
    stats=EpochStats(0.0, 1.0, 1.0, 1.0, 1.0, ()),
    signs={},
)


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 160 columns that keeps what was drawn."""
    console = Console(
        file=io.StringIO(), force_terminal=True, force_interactive=True, width=160, highlight=False
    )
    monkeypatch.setattr(progress, "stderr_console", lambda: console)
    return console.file


def test_bars_show_what_a_user_watches(screen):
    """Bars carry loss, accuracy, lambda, lr and images/s; the epoch leaves its line."""
    with progress.new_display() as display:
        assert isinstance(display, progress.BarDisplay)
        display.progress("decoding", 1, 2)
        display.progress("decoding", 2, 2)
        display.step(Step(3, 5, 10, 500, RunningMetrics(5, 500, 0.75, 0.5, True), 5.0, 0.001))
        display._bars.refresh()
        display.epoch(EPOCH, 4)
        display.warning("[bold]careful")
    drawn = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    for piece in (
        "decoding",
        "5/10",
        "loss 0.750 acc 0.500 lambda 5 lr 0.001",
        "images/s",
        "epoch 3/4",
        "WARNING: [bold]careful",
    ):
        assert piece in drawn


def test_a_line_tells_the_epoch():
    """An epoch's line holds margin-free scores, lambda with the margin in force, lr and speed."""
    assert progress.epoch_line(EPOCH, 10) == (
        "epoch  3/10 | train loss 1.000 acc 0.500 | val loss 1.200 acc 0.400 balanced 0.300 | "
        "lambda 5 (effective margin 1.50) | lr 0.001 | 1,234 images/s"
    )


def test_plain_display_names_work_once(capsys):
    """In a log each piece of work is one line, however often it reports."""
    display = progress.PlainDisplay(Console(file=io.StringIO(), width=200))
    for done in range(5):
        display.progress("downloading x", done, 5)
    assert display._console.file.getvalue().splitlines() == ["downloading x"]
