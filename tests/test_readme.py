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
from lmsm_cli.commands.help import FRONT
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
    "--preset digits": "--preset digits --epochs 1",
    "--loss lsoftmax": "--loss lsoftmax --epochs 1",
}
# What a task speaks of, and how it comes to be there.
SWEEP = TASKS["compare three losses"]
SOFTMAX = "lmsm train --dataset photos/ --loss softmax"
BEFORE = {
    "adjust": (SOFTMAX,),
    "predict": (SOFTMAX, TASKS["correct a finished softmax model"]),
    "export": (TASKS["train a classifier on them"],),
    "resume": (TASKS["train a classifier on them"],),
    "compare": (SWEEP,),
}
LONGEST, LARGEST = 110, 8 * 1024
"""Two screens: lines, and bytes."""
WORDS_BEFORE = 60
"""The first command stands within so many words."""


def blocks(language):
    """Return the README's code blocks of a language."""
    return [text for name, text in fenced(README) if name == language]


COMMANDS = [line for block in blocks("console") for line in commands(block)]


@pytest.fixture
def run_line(tmp_path, monkeypatch, capsys):
    """Return what runs a line in an empty folder, on small images, and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        for long, short in SMALLER.items():
            line = line.replace(long, short)
        code = main(typed(line, tmp_path))
        assert capsys.readouterr().out
        return code

    return run


def photos_and_new():
    """Write what the README says to have: a folder of photos for each class, and new ones."""
    write_class_folders(Path("photos"), ("cat",), 60, seed=2)
    write_class_folders(Path("photos"), ("dog",), 20, seed=3)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Path("new").mkdir()
    Image.fromarray(pixels).save(Path("new", "one.png"))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_each_task_needs_what_is_said_and_no_more(run_line, task):
    """Its command works in a folder with the photos, and the runs that its words speak of."""
    photos_and_new()
    command = TASKS[task]
    for line in BEFORE.get(command.split()[1], ()):
        assert run_line(line) == 0
    assert run_line(command) == 0


@pytest.mark.slow
def test_the_commands_on_published_data_work_in_their_order(run_line):
    """One after the other, with no other run there."""
    write_class_folders(Path("data", "cifar10", "train"), CIFAR10_CLASSES, 60)
    write_class_folders(Path("data", "cifar10", "test"), CIFAR10_CLASSES, 3, seed=1)
    assert len(COMMANDS) == 3
    for line in COMMANDS:
        assert run_line(line) == 0


@pytest.mark.slow
@pytest.mark.parametrize("above", [line for _, line in FRONT if line.startswith("lmsm train")])
def test_the_last_example_of_the_front_page_follows_each_training(run_line, above):
    """`lmsm --help` compares what a training above it left, and calls that the runs of a folder."""
    photos_and_new()
    assert run_line(above) == 0
    assert run_line(FRONT[-1][1]) == 0


@pytest.mark.slow
def test_the_pages_to_send_are_of_a_run_and_of_a_sweep(run_line):
    """Of which docs/runs.md speaks, by two commands."""
    page = (ROOT / "docs" / "runs.md").read_text(encoding="utf-8")
    (block,) = (text for _, text in fenced(page) if "lmsm report runs/NAME" in text)
    photos_and_new()
    assert run_line(TASKS["train a classifier on them"]) == 0
    assert run_line(SWEEP) == 0
    for line in commands(block):
        assert run_line(line) == 0
    assert Path("page.html").read_bytes() != Path("comparison.html").read_bytes()


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
    assert len(README.partition("```console")[0].split()) <= WORDS_BEFORE
    assert not words.problems("README.md", words.count(README))


def test_its_numbers_are_those_of_the_page_on_losses():
    """What the first screen claims stands in the page with all doubts."""
    page = (ROOT / "docs" / "which-loss.md").read_text(encoding="utf-8")
    numbers = re.findall(r"[\d.]+±[\d.]+|[+-][\d.]+ \[[^]]*\]", README)
    assert len(numbers) >= 3
    assert not [number for number in numbers if number not in page]


def test_where_published_data_lies_is_told_before_it_is_used():
    """What is in no folder of the user's would be downloaded, CIFAR-10 at 170 MB."""
    told = README.partition("lmsm train --dataset imbalanced")[0]
    assert "`--data-dir` (`LMSM_DATA_DIR`)" in told.rpartition("\n\n")[0]


def test_its_words_on_losses_are_told_where_they_are_first_used():
    """A newcomer reads what a prior, tau and a margin are; further terms are in the glossary."""
    section = README.partition("## Which loss?")[2].partition("\n## ")[0]
    text = " ".join(re.sub(r"!\[.*", "", section).split())
    for word, told in (
        ("prior", "the prior, the share of each class"),
        ("tau", "a strength called tau"),
        ("margin", "rarer classes must win by a small margin"),
    ):
        first = re.search(rf"\b{word}\b", text).start()
        assert told in text[max(0, first - 60) : first + 60]


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
