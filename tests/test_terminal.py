"""Every command on the screens there are: a terminal of 80 columns, no colour, ASCII, a pipe.

Each screen is one process, for the sake of speed: it runs all commands, with marks between them.
stdout and stderr have a terminal (or a pipe) each, so that it is known what went where.
"""

import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading

import pytest

from lmsm_cli.commands import progress
from lmsm_cli.commands.app import main
from lmsm_cli.runtime.display import RunningMetrics, Step
from tests.conftest import SilentDisplay, words

TRAIN = words("train --preset digits --epochs 2 --device cpu --threads 1 --precision fp32")
COMMANDS = {
    "train": [*TRAIN, "--out", "OUT"],
    "resume": ["resume", "RUN"],
    "eval": ["eval", "RUN", "--confusion"],
    "adjusted": ["eval", "RUN", "--adjust", "1"],
    "compare": ["compare", "RUNS"],
    "schedule": ["schedule", "--preset", "digits", "--margin", "4"],
    "presets": ["presets"],
    "presets show": ["presets", "show", "digits"],
    "losses": ["losses"],
    "show-config": ["train", "--preset", "lsoftmax-resnet18", "--show-config"],
    "mistake": ["train", "--dataset", "cifar11"],
    "help": ["compare", "--help"],
}
SCREENS = {
    "terminal": {},
    "no colour": {"NO_COLOR": "1"},
    "ascii": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
    "pipe": None,
}
# A training is watched on two of them.
UNWATCHED = {"no colour": {"train", "resume"}, "ascii": {"train", "resume"}}
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PLAY = """
import json, sys
from lmsm_cli.commands.app import main
for name, words in json.loads(sys.argv[1]).items():
    for stream in (sys.stdout, sys.stderr):
        print(f"=====[{name}]", file=stream, flush=True)
    main(words)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs on the digits that differ in their loss."""
    out = tmp_path_factory.mktemp("terminal") / "runs"
    for loss in ("softmax", "lsoftmax:margin=2"):
        assert main([*TRAIN, "--quiet", "--loss", loss, "--out", str(out)]) == 0
    return out


def read_to_end(number, kept):
    """Keep what a file descriptor gives until the other side has gone."""
    while True:
        try:
            piece = os.read(number, 65536)
        except OSError:  # how a terminal ends
            piece = b""
        if not piece:
            os.close(number)
            return
        kept.append(piece)


def play(commands, surroundings, size=(24, 80), folder=None):
    """Run commands in one process; return {name: (stdout, stderr)}, each on a screen of its own.

    A terminal has `size`, rows and columns; the process works in `folder`.
    """
    inherited = {
        k: v
        for k, v in os.environ.items()
        if k not in ("NO_COLOR", "CI", "COLUMNS", "LINES", "FORCE_COLOR")
    }
    ends = [pty.openpty() if surroundings is not None else os.pipe() for _ in range(2)]
    for _, theirs in ends:
        if surroundings is not None:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    writers = [theirs for _, theirs in ends]
    environment = inherited | {"TERM": "xterm"} | (surroundings or {})
    process = subprocess.Popen(
        [sys.executable, "-c", _PLAY, json.dumps(commands)],
        stdin=subprocess.DEVNULL,
        stdout=writers[0],
        stderr=writers[1],
        env=environment,
        cwd=folder,
    )
    kept = ([], [])
    readers = [
        threading.Thread(target=read_to_end, args=(ours, k))
        for (ours, _), k in zip(ends, kept, strict=True)
    ]
    for reader, writer in zip(readers, writers, strict=True):
        os.close(writer)
        reader.start()
    for reader in readers:
        reader.join()
    assert process.wait() == 0
    texts = [b"".join(pieces).decode().replace("\r\n", "\n") for pieces in kept]
    told = [
        dict(re.findall(r"=====\[(.*?)\]\n(.*?)(?======\[|\Z)", text, flags=re.DOTALL))
        for text in texts
    ]
    return {name: (told[0][name], told[1][name]) for name in commands}


@pytest.fixture(scope="module", params=SCREENS)
def screen(request, runs, tmp_path_factory):
    """The name of a screen, and what each command showed there."""
    run = next(path for path in runs.iterdir() if "-lsoftmax-" in path.name)
    places = {"RUN": str(run), "RUNS": str(runs), "OUT": str(tmp_path_factory.mktemp("out"))}
    commands = {
        name: [places.get(word, word) for word in words]
        for name, words in COMMANDS.items()
        if name not in UNWATCHED.get(request.param, ())
    }
    return request.param, play(commands, SCREENS[request.param]), run


@pytest.mark.slow
def test_nothing_is_cut(screen):
    """No screen shows an ellipsis, and tables keep within 80 columns."""
    name, shown, _ = screen
    for command, (out, err) in shown.items():
        plain = ESCAPES.sub("", out)
        assert "…" not in out + err, command
        assert not re.search(r"\w\.\.\.(?! )", plain.replace("name:key=value,...", "")), command
        if name != "pipe" and command in words("compare eval schedule show-config train help"):
            wide = [line for line in plain.splitlines() if len(line) > 80]
            assert not [line for line in wide if re.search(r"\S {2,}\S|[─│|]", line)], (
                command
            )  # prose may wrap


@pytest.mark.slow
def test_numbers_are_whole(screen):
    """Every class's accuracy of scores.json stands in the tables of eval and compare."""
    _, shown, run = screen
    scores = json.loads((run / "scores.json").read_text())
    compared = ESCAPES.sub("", shown["compare"][0]).replace("*", " ").replace("|", " ").split()
    for row in scores["per_class"]:
        assert f"{100 * row['accuracy']:.1f}" in compared
    matrix = ESCAPES.sub("", shown["eval"][0]).replace("|", " ").split()
    assert {str(number) for line in scores["confusion"] for number in line} <= set(matrix)


@pytest.mark.slow
def test_results_go_to_stdout_alone(screen):
    """Tables are on stdout, progress and mistakes on stderr, on every screen."""
    _, shown, _ = screen
    for command, (out, err) in shown.items():
        assert "train loss" not in out
        assert "epoch 1/2" not in out
        assert "error:" not in out
        assert bool(out.strip()) == (command != "mistake"), command
        assert not re.search(r"(Overall|Per class|Schedule|Config|Runs), ", err), command
    assert "error:" in ESCAPES.sub("", shown["mistake"][1])
    assert "did you mean 'cifar10'?" in shown["mistake"][1]
    for quiet in (
        "compare",
        "schedule",
        "presets",
        "presets show",
        "losses",
        "show-config",
        "help",
    ):
        assert shown[quiet][1] == "", quiet


@pytest.mark.slow
@pytest.mark.parametrize("screen", sorted(SCREENS.keys() - UNWATCHED.keys()), indirect=True)
def test_an_epoch_is_a_line(screen):
    """Each epoch leaves one line on stderr: a row above the bars, or a line that names all."""
    name, shown, _ = screen
    err = ESCAPES.sub("", shown["train"][1])
    for number in (1, 2):
        row = rf"[\r\n] *{number}/2 +\d+\.\d+ +\d+\.\d .* \d:\d\d *\n"
        line = rf"epoch {number}/2 \| train loss \d"
        wanted = row if name == "terminal" else line
        assert len(re.findall(wanted, err)) == 1
    assert ("━" in shown["train"][1]) == (name == "terminal")


@pytest.mark.slow
@pytest.mark.parametrize("size", [(24, 80), (40, 120)])
def test_nothing_wraps_while_a_sweep_runs(tmp_path, size):
    """Long losses and a long folder: whatever is drawn keeps within the screen's width."""
    losses = ("lsoftmax:margin=3,lambda_min=4,weight_norm=shared", "logit-adjusted:tau=0.5")
    arms = [word for loss in losses for word in ("--arm", f"loss={loss} neck=linear")]
    sweep = [*words("sweep --preset digits --epochs 2 --device cpu --threads 1 -v"), *arms]
    out = "a-folder-of-many-runs"
    _, err = play({"sweep": [*sweep, "--out", out]}, {}, size, tmp_path)["sweep"]
    lines = re.split(r"[\r\n]+", ESCAPES.sub("", err))
    assert max(map(len, lines)) <= size[1]
    text = "\n".join(lines)
    for piece in (*losses, "434 training, 49 validation, 599 test images", "CPU, 1 thread,"):
        assert piece in text
    for piece in (
        r"runs +━.* 1/2 ",
        r"testing on 599 images",
        r"run folder:\s+a-folder-of-many-runs/\S+-s\d+\n",
    ):
        assert re.search(piece, text), piece


@pytest.mark.slow
def test_plain_screens_are_plain(screen):
    """Colour and cursor movement are for terminals that can and users who want them."""
    name, shown, _ = screen
    own = {command: out + err for command, (out, err) in shown.items() if command != "help"}
    if name == "terminal":
        assert "\x1b[" in own["compare"]
    else:
        assert not [command for command, text in own.items() if "\x1b" in text]
    if name == "ascii":
        for command, text in (own | {"help": shown["help"][0]}).items():
            assert text.isascii(), command
            assert "mean+-sd" in own["compare"]
            assert not re.search(r"\?(?!\))", text), command  # but in `did you mean`


def test_help_pages_are_spelled_out_too(monkeypatch):
    """What Typer prints, past our consoles, cannot fail on a stdout that takes ASCII alone."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["--version"]) == 0
    print("mean ± sd", file=stream, flush=True)
    assert stream.buffer.getvalue().endswith(b"mean +- sd\n")


@pytest.mark.parametrize("width", [50, 70, 80, 120])
def test_bars_keep_their_numbers(monkeypatch, width):
    """Where a bar's line has no room, whole numbers are left out; none is cut."""
    console = progress.Console(
        force_terminal=True, force_interactive=True, width=width, file=io.StringIO()
    )
    monkeypatch.setattr(progress, "stderr_console", lambda: console)
    with progress.BarDisplay() as display:
        for step in (1, 140):
            display._looked = 0.0
            display.step(
                Step(
                    100,
                    step,
                    390,
                    128 * step,
                    RunningMetrics(step, 128 * step, 0.271, 0.914, True),
                    203.4,
                    0.000123,
                )
            )
        line = "".join(s.text for s in console.render(display._bars.get_renderable()))
    assert "…" not in line
    assert "140/390" in line
    assert len(line.rstrip("\n")) <= width
    assert ("loss 0.271 acc 0.914" in line) == (width >= 70)
    assert ("lambda 203 lr 0.000123" in line) == (width >= 80)
    assert bool(re.search(r"[\d,]+ images/s", line)) == (width >= 120)


@pytest.mark.parametrize("command", ["train", "resume", "eval", "compare"])
def test_quiet_leaves_results_and_warnings(runs, tmp_path, capsys, command):
    """--quiet prints what a command gives, and on stderr warnings alone."""
    run = next(path for path in runs.iterdir() if "-softmax-" in path.name)
    words = [
        {"RUN": str(run), "RUNS": str(runs), "OUT": str(tmp_path)}.get(word, word)
        for word in COMMANDS[command]
    ]
    assert main([*words, "-q"]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip()
    assert [line for line in printed.err.splitlines() if not line.startswith("WARNING: ")] == []


def test_quiet_does_not_hide_what_matters(capsys):
    """Warnings and errors are said, the rest is not."""
    with progress.new_display(quiet=True) as display:
        display.progress("decoding", 1, 2)
        display.info("by the way")
        display.step(Step(1, 1, 2, 5, None, None, 0.1))
        display.warning("two classes died")
    printed = capsys.readouterr()
    assert printed.err.splitlines() == ["WARNING: two classes died"]
    assert printed.out == ""
    assert main(["train", "-q", "--dataset", "cifar11"]) == 2
    assert "did you mean 'cifar10'?" in capsys.readouterr().err


def test_displays_have_the_same_methods():
    """A run may call on a quiet display whatever it calls on another."""
    asked = {name for name in vars(SilentDisplay) if not name.startswith("_")}
    for kind in (progress.QuietDisplay, progress.PlainDisplay, progress.BarDisplay):
        assert asked <= {name for name in dir(kind) if not name.startswith("_")}
