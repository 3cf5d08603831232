"""The README's commands and code run as written; its tree is the tree."""

import re
import shlex
from pathlib import Path

import pytest

import lmsm_cli
from docs import transcript
from lmsm_cli.commands.app import main
from lmsm_cli.config.resolve import preset_names, preset_path
from lmsm_cli.losses.registry import LOSSES
from lmsm_cli.runs.record import read_run
from tests import tree
from tests.blocks import commands, fenced, typed
from tests.conftest import CIFAR10_CLASSES, write_class_folders

ROOT = Path(__file__).parent.parent
PACKAGE = Path(lmsm_cli.__file__).parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
VERDICTS = {
    *("better", "worse", "tell", "rare", "classes", "overall", "paired", "beats", "behind"),
    *("falls", "shows", "show", "need", "would", "after"),
}


def blocks(language):
    """Return the README's code blocks of a language."""
    return [text for name, text in fenced(README) if name == language]


COMMANDS = [line for block in blocks("console") for line in commands(block)]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with a small CIFAR-10 in DATA and data/, where commands leave runs."""
    root = tmp_path_factory.mktemp("work")
    write_class_folders(root / "DATA" / "cifar10" / "train", CIFAR10_CLASSES, 60)
    write_class_folders(root / "DATA" / "cifar10" / "test", CIFAR10_CLASSES, 3, seed=1)
    (root / "data").symlink_to(root / "DATA")
    (own_loss,) = [block for block in blocks("python") if "class PolyLoss" in block]
    (root / "polyloss.py").write_text(own_loss)
    return root


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if c not in ("lmsm demo", "lmsm bench")]
)  # in tests of their own
def test_commands_run_as_written(workplace, monkeypatch, capsys, command):
    """Every `lmsm` line of the README ends with exit code 0, on small images."""
    monkeypatch.chdir(workplace)
    assert main(typed(command, workplace)) == 0
    assert capsys.readouterr().out


@pytest.mark.slow
def test_the_transcript_is_of_these_commands(tmp_path, monkeypatch, capsys):
    """Its commands, with one seed and two epochs, name the README's rows and columns."""
    monkeypatch.chdir(tmp_path)
    sweep, compare = (
        shlex.split(re.search("lmsm ([^>]*)", command)[1])
        for command in transcript.commands(README)
    )
    deferred = "loss=ldam reweight=effective rebalance_from="
    quick = {"5": "1", "16": "2", f"{deferred}14": f"{deferred}2"}
    assert main([*(quick.get(word, word) for word in sweep), "--quiet"]) == 0
    capsys.readouterr()
    monkeypatch.setenv("COLUMNS", "100")
    assert main(compare) == 0
    shown = capsys.readouterr().out.replace("rebalance_from=2", "rebalance_from=14")
    (kept,) = transcript.BLOCK.findall(README)
    named = set(re.findall(r"[a-z_]+[:=]\S+|[a-z]{4,}|%", kept.partition("Runs")[2]))
    assert len(named) > 20
    # the verdicts, which one seed cannot give
    assert not {word for word in named - VERDICTS if word not in shown}
    assert re.findall(r"^  [2-5] .* (?:better|worse|can't tell)", kept, flags=re.MULTILINE)
    assert (tmp_path / "losses.html").stat().st_size < 2_000_000


def test_the_data_check_is_what_is_printed(tmp_path, monkeypatch, capsys):
    """Its counts are those that the command prints now; `docs/transcript.py data` writes it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    (block,) = transcript.DATA_BLOCK.findall(README)
    command, _, kept = block.partition("\n")
    assert main(shlex.split(command)[2:]) == 0
    shown = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    end = shown.index("A training with these choices")  # which defaults are no counts
    assert end > 20
    assert kept.splitlines()[:end] == shown[:end]


def test_the_python_code_runs(tmp_path, monkeypatch):
    """The library examples run: the loss is finite, and the results are a run to compare."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    assert names["scores"].shape == (32, 10)
    assert read_run(names["folder"]).scores.groups["few"] is not None


def test_the_folders_are_there():
    """Every folder and file that the README's tree names exists."""
    (shown,) = [block for block in blocks("") if block.startswith("lmsm_cli/")]
    names = re.findall(r"^(\S+) {2,}", shown, flags=re.MULTILINE)
    assert len(names) >= 6
    for name in names:
        assert (ROOT / name).exists() or (name == "lmsm_cli/" and PACKAGE.is_dir()), name


def test_the_tree_is_the_tree():
    """CONTRIBUTING.md names every file of the package, with the first sentence of its docstring."""
    (shown,) = tree.BLOCK.findall(tree.CONTRIBUTING.read_text(encoding="utf-8"))
    assert shown == tree.tree(PACKAGE), "python tests/tree.py writes it anew"


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_listed(name):
    """The README's list of losses names each: a new one is added there."""
    (listed,) = re.findall(r"^\* \*\*Losses\*\*(.*?)^\* ", README, flags=re.DOTALL | re.MULTILINE)
    assert f"`{name}`" in listed


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
