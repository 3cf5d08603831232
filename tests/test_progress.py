"""The display: bars carry what a user watches, lines stay plain."""

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from lmsm_cli.commands import progress
from lmsm_cli.commands.app import main
from lmsm_cli.errors import LmsmError
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


def terminal(monkeypatch, width):
    """Give the displays a terminal of some columns; return what keeps all that is drawn there."""
    console = Console(
        file=io.StringIO(),
        force_terminal=True,
        force_interactive=True,
        width=width,
        highlight=False,
    )
    monkeypatch.setattr(progress, "stderr_console", lambda: console)
    return console.file


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 160 columns."""
    return terminal(monkeypatch, 160)


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 columns."""
    return terminal(monkeypatch, 80)


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
        "3/4   1.000  50.0",
        "WARNING: [bold]careful",
    ):
        assert piece in drawn


def test_plain_display_names_work_once(capsys):
    """In a log each piece of work is one line, however often it reports."""
    display = progress.PlainDisplay(Console(file=io.StringIO(), width=200))
    for done in range(5):
        display.progress("downloading x", done, 5)
    assert display._console.file.getvalue().splitlines() == ["downloading x"]


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def drawn(display, width=80):
    """Return the lines of the bars that a display shows now, as a screen of that width has them."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    pieces = console.render(display._bars.get_renderable(), console.options)
    return "".join(piece.text for piece in pieces).rstrip("\n").split("\n")


@pytest.mark.usefixtures("narrow")
def test_all_runs_have_one_bar_with_the_time_left(monkeypatch):
    """Runs that were there before set no pace: one in 100 s leaves three times that."""
    clock = Clock(monkeypatch)
    display = progress.BarDisplay()
    display.overall(2, 6)
    assert "2/6" in drawn(display)[0]
    assert "-:--" in drawn(display)[0]
    clock.now += 100
    display.overall(3, 6)
    assert "3/6" in drawn(display)[0]
    assert " 5:00" in drawn(display)[0]
    clock.now += 30
    assert " 4:30" in drawn(display)[0]
    display.overall(6, 6)
    assert drawn(display) == [""]


@pytest.mark.usefixtures("narrow")
def test_epochs_move_the_bars_above_them(monkeypatch):
    """Half an epoch of two is a quarter of a run: four runs take sixteen times what it took."""
    clock = Clock(monkeypatch)
    display = progress.BarDisplay()
    display.overall(0, 4)
    display.step(Step(1, 1, 100, 5, None, None, 0.1, num_epochs=2))
    clock.now += 10
    display.step(Step(1, 50, 100, 250, None, None, 0.1, num_epochs=2))
    runs, epochs, steps = drawn(display)
    assert "0/4" in runs
    assert " 2:30" in runs  # 0.25 of 4 runs in 10 s
    assert "0/2" in epochs
    assert "50/100" in steps
    assert max(map(len, (runs, epochs, steps))) <= 80


def test_the_rows_tell_the_time_left(narrow, monkeypatch):
    """Two epochs of four took 60 s: 60 s are left; a header stands once, and for the next run."""
    clock = Clock(monkeypatch)
    display = progress.BarDisplay()
    for run in range(2):
        display.step(Step(1, 1, 1000000, 1, None, None, 0.1, num_epochs=4))
        for number in (1, 2, 3, 4):
            clock.now += 30
            display.epoch(replace(EPOCH, epoch=number), 4)
        rows = narrow.getvalue().splitlines()
        assert [row.split()[-1] for row in rows if row[:8].strip()[1:] == "/4"][4 * run :] == [
            "1:30",
            "1:00",
            "0:30",
            "0:00",
        ]
        assert sum("bal. %" in row for row in rows) == run + 1


def test_a_training_after_one_that_ended_early_has_its_own_time(narrow, monkeypatch):
    """One epoch of four took 30 s, and the training before is none of them."""
    clock = Clock(monkeypatch)
    display = progress.BarDisplay()
    for seconds in (500, 30):
        display.step(Step(1, 1, 1000000, 1, None, None, 0.1, num_epochs=4))
        clock.now += seconds
        display.step(Step(1, 1000000, 1000000, 1, None, None, 0.1, num_epochs=4))
        display.epoch(replace(EPOCH, epoch=1), 4)
    assert narrow.getvalue().splitlines()[-1].split()[-1] == "1:30"


def test_an_epoch_of_one_step_has_a_row(narrow, monkeypatch):
    """Nothing is known of its time before the next one: no row is a reason to stop a training."""
    clock = Clock(monkeypatch)
    display = progress.BarDisplay()
    for number in (1, 2, 3, 4):
        clock.now += 10
        display.step(Step(number, 1, 1, 8, None, None, 0.1, num_epochs=4))
        display.epoch(replace(EPOCH, epoch=number), 4)
    rows = [row for row in narrow.getvalue().splitlines() if row[:8].strip()[1:] == "/4"]
    assert len(rows) == 4
    assert [row.split()[-1] for row in rows[1:]] == ["0:20", "0:10", "0:00"]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("total", [0, 12345])
def test_a_long_path_wraps_in_no_bar(monkeypatch, total):
    """The end of the path stays, whole names of it; work of unknown length shows its time."""
    clock = Clock(monkeypatch)
    display = progress.BarDisplay()
    path = "/a/very/long/way/to/the/folder/of/somebody/elses/photos/of/animals/train"
    display.progress(f"decoding {path}", 0, total)
    clock.now += 83
    display.progress(f"decoding {path}", total // 3, total)
    (line,) = drawn(display)
    assert len(line.rstrip()) <= 80
    assert "decoding .../" in line
    assert "/animals/train " in line
    assert ("4115/12345" in line) == bool(total)
    assert (" 2:46 " if total else " 1:23 ") in line


def test_messages_end_their_lines_between_words(narrow):
    """A loss spec is never broken; a path that is longer than the screen stays whole."""
    spec = "loss=lsoftmax:margin=4,lambda_min=5,weight_norm=shared"
    path = "runs/" + "x" * 90
    display = progress.BarDisplay()
    display.info(f"run 12 of 25: {spec} seed=12 epochs=200")
    display.warning(f"{spec} and {spec} are alike, see {path} for more")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", narrow.getvalue()).splitlines()
    assert [line for line in lines if len(line) > 80] == [f"  {path}"]
    assert sum(spec in line for line in lines) == 3
    assert " ".join(line.strip() for line in lines[:2]).endswith("seed=12 epochs=200")


@pytest.mark.parametrize("kind", [progress.PlainDisplay, progress.BarDisplay])
@pytest.mark.parametrize("verbose", [False, True])
def test_details_are_for_those_who_ask(narrow, kind, verbose):
    """What computes is shown with --verbose alone."""
    kind(verbose=verbose).detail("computes on: CPU, 1 thread")
    assert ("1 thread" in narrow.getvalue()) == verbose


def test_quiet_and_verbose_exclude_each_other(tmp_path, capsys):
    """The mistake is found before a run is made."""
    with pytest.raises(LmsmError, match="exclude each other"):
        progress.new_display(quiet=True, verbose=True)
    assert main(["train", "--preset", "digits", "-q", "-v", "--out", str(tmp_path / "new")]) == 2
    assert "--verbose" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
