"""The README's commands and code run as written, and its numbers are those of the pages."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import lmsm_cli
from docs import transcript, words
from lmsm_cli.commands import demo
from lmsm_cli.commands.app import main
from lmsm_cli.config.resolve import preset_names, preset_path
from tests import tree
from tests.blocks import commands, fenced, typed
from tests.conftest import CIFAR10_CLASSES, write_class_folders

ROOT = Path(__file__).parent.parent
PACKAGE = Path(lmsm_cli.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
# The lines of the table of tasks: what a person wants, and the command.
TASKS = dict(re.findall(r"^\| ([a-z][^|]*) \| `(lmsm [^`]*)` \|$", README, re.MULTILINE))
# What a test has no time for, and what it runs in its place.
SMALLER = {
    "--budget 2h": "--rounds 1 --dry-run",
    "--seeds 5": "--seeds 2 --epochs 1",
    "train --dataset photos/": "train --dataset photos/ --epochs 1",
    "--loss lsoftmax": "--loss lsoftmax --epochs 1",
}
LONGEST, LARGEST = 110, 8 * 1024
"""Two screens: lines, and bytes."""


def blocks(language):
    """Return the README's code blocks of a language."""
    return [text for name, text in fenced(README) if name == language]


COMMANDS = [line for block in blocks("console") for line in commands(block)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a small CIFAR-10 in data/ and photos of two animals; runs go there too."""
    root = tmp_path_factory.mktemp("work")
    write_class_folders(root / "data" / "cifar10" / "train", CIFAR10_CLASSES, 60)
    write_class_folders(root / "data" / "cifar10" / "test", CIFAR10_CLASSES, 3, seed=1)
    write_class_folders(root / "photos", ("cat",), 60, seed=2)
    write_class_folders(root / "photos", ("dog",), 20, seed=3)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    (root / "new").mkdir()
    Image.fromarray(pixels).save(root / "new" / "one.png")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("command", [*TASKS.values(), *COMMANDS])
def test_commands_run_as_written(workplace, monkeypatch, capsys, command):
    """Every `lmsm` line of the README ends with exit code 0, on small images."""
    monkeypatch.chdir(workplace)
    for long, short in SMALLER.items():
        command = command.replace(long, short)
    assert main(typed(command, workplace)) == 0
    assert capsys.readouterr().out


def test_the_table_has_a_task_a_line():
    """It leads from own photos to a model that others can use."""
    assert len(TASKS) >= 7
    assert {command.split()[1] for command in TASKS.values()} >= {
        *("study", "train", "data", "sweep", "adjust", "predict", "export", "resume"),
    }


@pytest.mark.slow
def test_the_demo_ends_as_shown(tmp_path, monkeypatch, capsys):
    """The last words of `lmsm demo` are of the README's kind: the answer in a sentence."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, "_PICTURE", demo._PICTURE | {"epochs": 1})
    ((command, *shown),) = (block.splitlines() for block in transcript.BLOCK.findall(README))
    assert command == "$ lmsm demo | tail -n 1 | fold -s -w 100"
    assert main(["demo", "--seeds", "1"]) == 0
    (sentence,) = re.findall(r"On the rare classes .*", " ".join(capsys.readouterr().out.split()))
    assert " ".join(shown).startswith("On the rare classes ")
    for part in ("lsoftmax", "softmax", "Train longer to be sure"):
        assert part in sentence
        assert part in " ".join(shown)


def test_the_python_code_runs():
    """The library's example runs: its scores are those of all classes."""
    names = {}
    (block,) = blocks("python")
    exec(compile(block, "README.md", "exec"), names)
    assert names["scores"].shape == (32, 10)
    assert names["scores"].isfinite().all()


def test_it_is_two_screens_of_short_sentences():
    """People decide in one."""
    assert len(README.splitlines()) <= LONGEST
    assert len(README.encode()) <= LARGEST
    assert max(map(len, README.splitlines())) <= words.LONGEST_LINE
    assert not words.problems("README.md", words.count(README))


def test_its_numbers_are_those_of_the_page_on_losses():
    """What the first screen claims stands in the page with all doubts."""
    page = (ROOT / "docs" / "which-loss.md").read_text(encoding="utf-8")
    numbers = re.findall(r"[\d.]+±[\d.]+|[+-][\d.]+ \[[^]]*\]", README)
    assert len(numbers) >= 3
    assert not [number for number in numbers if number not in page]


def test_the_tree_is_the_tree():
    """CONTRIBUTING.md names every file of the package, with the first sentence of its docstring."""
    (shown,) = tree.BLOCK.findall(tree.CONTRIBUTING.read_text(encoding="utf-8"))
    assert shown == tree.tree(PACKAGE), "python tests/tree.py writes it anew"


def test_pictures_and_links_exist():
    """No picture or relative link of the README is broken."""
    targets = [t for t in re.findall(r"\]\(([^)#]+)\)", README) if not t.startswith("http")]
    assert len(targets) >= 5
    for target in targets:
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("name", preset_names())
def test_presets_open_with_their_command_and_outcome(name):
    """A preset's first comment is its command, its second what that gave, if it is known."""
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith(f"# lmsm train --preset {name}")
    assert re.search(r"accuracy \d|0\.\d+ on held-out images|not measured yet$", lines[1])
