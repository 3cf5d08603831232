"""Three newcomers who have read the README alone reach a useful result in three commands at most.

Every word that they type stands in the README, was printed by a command before, or names a file of
theirs. Who has a training script has read the page that the README names for it too. `small` is
added to a command so that it fits a test.
"""

import io
import re
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import copyfile

import numpy as np
import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.sweeps import study_plan
from tests.blocks import fenced
from tests.conftest import noise, save
from tests.test_study import few_candidates
from tests.test_terminal import ESCAPES

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_COMMANDS = 3
COLUMNS = 80


class Screen(io.StringIO):
    """A terminal, as far as a program can tell."""

    encoding = "utf-8"

    def isatty(self):
        """Say that a person is looking."""
        return True

    def text(self):
        """Return what is shown, with the lines that were drawn over."""
        return ESCAPES.sub("", self.getvalue()).replace("\r", "\n")


class Newcomer:
    """Types commands in a folder, and has read the README and what they print."""

    def __init__(self, monkeypatch, folder, *files):
        self.monkeypatch = monkeypatch
        self.files = files
        self.read = README.split()
        self.commands = 0
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", str(COLUMNS))
        monkeypatch.setenv("TERM", "xterm")
        for name in ("NO_COLOR", "CI"):
            monkeypatch.delenv(name, raising=False)

    def types(self, command, small="", *, ends=0):
        """Run a command, which ends with an exit code; return what stands on the screen."""
        known = " ".join(self.read)
        for word in shlex.split(command):
            assert word in known or word in self.files, f"nobody told of {word}"
        self.commands += 1
        assert self.commands <= MOST_COMMANDS
        shown, messages = Screen(), Screen()
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", shown)
            patch.setattr(sys, "stderr", messages)
            assert main(shlex.split(f"{command} {small}")[1:]) == ends, messages.text()
        self.read += (shown.text() + messages.text()).split()
        assert "Traceback" not in messages.text()
        tables = [line for line in shown.text().splitlines() if re.search(r"\S {2,}\S|[─│]", line)]
        assert [line for line in tables if len(line) > COLUMNS] == []
        return " ".join(shown.text().split())

    def runs(self, script):
        """Run a script of theirs, which must succeed."""
        self.commands += 1
        assert self.commands <= MOST_COMMANDS
        subprocess.run([sys.executable, script], check=True)


def test_long_tailed_cifar10(real_data, tmp_path, monkeypatch):
    """The question "does L-Softmax help the rare classes of CIFAR-10?" has an answer in one."""
    newcomer = Newcomer(monkeypatch, tmp_path)
    told = newcomer.types(
        "lmsm sweep --dataset imbalanced --imbalance exp --factor 0.1"
        " --grid loss=softmax,lsoftmax,balanced-softmax --seeds 5",
        f"--data-dir {real_data} --images-per-class 20 --test-images-per-class 5 --epochs 1"
        " --model paper-mnist --seeds 2 --threads 1",
    )
    assert re.search(r"On the rare classes .*lsoftmax", told[-600:])
    again = newcomer.types("lmsm compare runs/sweep --html page.html")
    assert re.search(r"On the rare classes .*lsoftmax", again[-600:])
    assert "<html" in Path("page.html").read_text()


@pytest.fixture
def photos(tmp_path):
    """Photos of three animals with the usual litter, and new ones."""
    root = tmp_path / "photos"
    for label, (name, count) in enumerate((("cat", 40), ("dog", 20), ("frog", 8))):
        for number in range(count):
            pixels = noise(100 * label + number, (16, 20, 3)) // 2 + np.uint8(50 * label)
            save(root / name / f"IMG {number}.png", pixels)
    for number in range(3):
        save(tmp_path / "new" / f"{number}.png", noise(900 + number, (16, 20, 3)) // 2)
    whole = (root / "dog" / "IMG 1.png").read_bytes()
    (root / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "frog" / "empty.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("cats are mine")
    (root / ".DS_Store").write_bytes(b"x")
    copyfile(root / "cat" / "IMG 2.png", root / "dog" / "copy of a cat.png")
    return tmp_path


def test_a_messy_folder_of_photos(photos, monkeypatch):
    """What is wrong is told first; then there is a model, and it names the animals."""
    few_candidates(monkeypatch)
    monkeypatch.setattr(study_plan, "MOST_ROUNDS", 1)
    newcomer = Newcomer(monkeypatch, photos, "photos/", "new/")
    told = newcomer.types("lmsm data photos/", ends=3)
    for fault in ("dog/cut.png", "frog/empty.jpg", "notes.txt", "copy of a cat.png"):
        assert fault in told, fault
    told = newcomer.types(
        "lmsm study photos/ --budget 2h --skip-unreadable",
        "--epochs 1 --model paper-mnist --image-size 8 --threads 1 --device cpu",
    )
    assert re.search(r"Use .*\.$", told)
    (model,) = re.findall(r"model: (\S*\.pt)", told)
    told = newcomer.types(f"lmsm predict {model} new/")
    assert len(re.findall(r"new/\d\.png (?:cat|dog|frog)\b", told)) == 3


def test_an_own_training_script(tmp_path, monkeypatch):
    """Its two losses over five seeds, recorded, have an answer by one command more."""
    assert "docs/python.md#does-it-help-in-your-script" in README
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    above, _, below = page.partition("## Does it help in your script?\n")
    blocks = [text for part in (above, below) for name, text in fenced(part)[:1]]
    (tmp_path / "train.py").write_text("\n".join(blocks), encoding="utf-8")
    newcomer = Newcomer(monkeypatch, tmp_path)
    newcomer.runs("train.py")
    told = newcomer.types("lmsm compare runs/")
    assert re.search(r"Over all classes lsoftmax [^.]* softmax", told)
    assert "5 paired" in told
