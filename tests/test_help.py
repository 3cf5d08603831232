"""The help pages: whole at 80 columns, quick, complete, with examples that work."""

import json
import os
import re
import shlex
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
import typer
from typer.main import get_command

from lmsm_cli.commands.app import app, main
from lmsm_cli.commands.help import COMMON, EXAMPLES, FRONT, SHORT
from lmsm_cli.commands.options import with_config_flags
from lmsm_cli.config import Config, flag_name
from lmsm_cli.config.resolve import preset_names
from lmsm_cli.config.value_types import Dataset
from lmsm_cli.sweeps.second_stage import POST_HOC, USUAL
from tests.conftest import children_seconds, seconds_to_import_torch, words

ROOT = get_command(app)


def pages(command, words=()):
    """Return every command of the program, by its words, groups and their commands included."""
    found = {words: command}
    for name, inner in getattr(command, "commands", {}).items():
        found |= pages(inner, (*words, name))
    return found


PAGES = pages(ROOT)


@pytest.fixture
def page(monkeypatch, capsys):
    """Return a command's page as a terminal of 80 columns shows it."""

    def shown(words, flag="--help"):
        monkeypatch.setenv("COLUMNS", "80")
        assert main([*words, flag]) == 0
        return capsys.readouterr().out

    return shown


def full(words):
    """Return the flag that shows everything about a command."""
    return "--help-all" if not words or words[0] in COMMON else "--help"


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_a_page_is_whole_at_80_columns(page, words):
    """No line is wider, nothing is cut, and each flag and word of its help stands unbroken."""
    short, text = page(words), page(words, full(words))
    for shown in (short, text):
        assert max(map(len, shown.splitlines())) <= 80
        assert "…" not in shown
    there = set(text.replace("│", " ").split())
    for parameter in PAGES[words].params:
        missing = {
            word
            for word in [
                *(parameter.opts[:1] if parameter.param_type_name == "option" else ()),
                *(parameter.help or "").split(),
            ]
            if word not in there
        }
        assert not missing, parameter.name


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_a_page_needs_ascii_alone(words):
    """Its texts are ASCII: spelling a sign out, as +- for one column, would break the border."""
    command = PAGES[words]
    assert (command.help or "").isascii()
    assert all((parameter.help or "").isascii() for parameter in command.params)


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_kinds_of_values_are_words(page, words):
    """A page shows INTEGER and PATH, not Python's types, and nothing beside a switch."""
    text = page(words, full(words))
    assert not any(f"<{kind}" in text for kind in ("bool", "str", "int", "float", "path", "file"))


def test_a_number_that_can_be_left_out_is_a_number(page):
    """`int | None` is asked for as an INTEGER, `float | None` as a NUMBER, a text as TEXT."""
    lines = page(("train",), "--help-all").splitlines()
    told = {
        words[1]: words[2]
        for words in (line.split() for line in lines)
        if words[1:2] and words[1].startswith("--")
    }
    assert told["--images-per-class"] == "INTEGER"
    assert told["--head-weight-decay"] == "NUMBER"
    assert told["--pretrained"] == "TEXT"


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_a_page_opens_with_one_sentence(words):
    """The summary, which `lmsm --help` lists, is one line, says what the command does, and ends."""
    summary = (PAGES[words].help or "").split("\n\n")[0].strip()
    assert "\n" not in summary
    assert 20 < len(summary) <= 100
    assert summary[0].isupper()
    assert summary.endswith(".")


def test_the_choices_of_a_run_stand_in_panels(page):
    """Options of the command come first, then Config's choices in order, --margin after --loss."""
    text = page(("train",), "--help-all")
    titles = [line.split()[1] for line in text.splitlines() if line.startswith("╭─")]
    assert titles == ["Options", "Data", "Model", "Loss", "Training", "Run"]
    flags = [line.split()[1] for line in text.splitlines() if line.startswith("│ --")]
    choices = [flag_name(key) for key in Config.model_fields]
    assert [flag for flag in flags if flag in choices] == choices
    assert flags.index("--margin") == flags.index("--loss") + 1


def test_commands_stand_in_panels(page):
    """`lmsm --help-all` groups every command; none is left over."""
    text = page((), "--help-all")
    assert "╭─ Commands" not in text
    for name in ROOT.commands:
        assert f"│ {name} " in text


def test_a_command_may_have_panels_of_its_own():
    """Panels that Config does not know stand between the command's options and the choices."""

    @with_config_flags
    def drive(
        *,
        speed: Annotated[int, typer.Option(rich_help_panel="Speed", help="How fast.")] = 1,
        **flags: Any,
    ) -> None:
        """Drive."""

    panels = [
        get_args(p.annotation)[-1].rich_help_panel
        for name, p in signature(drive).parameters.items()
        if name != "help_all"
    ]
    assert list(dict.fromkeys(panels)) == ["Speed", "Data", "Model", "Loss", "Training", "Run"]


LINES = [line for examples in EXAMPLES.values() for _, line in examples]


@pytest.mark.parametrize("line", [*LINES, *(line for _, line in FRONT)])
def test_examples_work(tmp_path, monkeypatch, capsys, line):
    """Each example is read by its command; those of train make a config."""
    (tmp_path / "my.yaml").write_text("epochs: 3\n")
    monkeypatch.chdir(tmp_path)
    _, name, *words = shlex.split(line.partition(" > ")[0])
    ROOT.commands[name].make_context(name, list(words))
    if name == "train":
        assert main([name, *words, "--show-config"]) == 0
        assert "dataset" in capsys.readouterr().out


def test_the_example_of_retrain_counts_its_heads():
    """Ten to train and four without a training, of a run that can have them all."""
    assert (len(USUAL), len(POST_HOC)) == (10, 4)
    assert EXAMPLES["retrain"][0][0] == "Try up to fourteen last layers on a run"


@pytest.mark.parametrize("command", ROOT.commands)
def test_a_page_begins_with_its_examples(page, command):
    """Numbered and unwrapped they stand above the first panel, each below what it does."""
    above = page((command,)).partition("╭─")[0].splitlines()
    above = [line.strip() for line in above]
    start = above.index(f"1. {EXAMPLES[command][0][0]}")
    assert above[start : start + 2 * len(EXAMPLES[command])] == [
        line
        for n, (what, example) in enumerate(EXAMPLES[command], 1)
        for line in (f"{n}. {what}", f"$ {example}")
    ]


def flags_of(text):
    """Return the flags that a page lists, without the negative of a switch."""
    return re.findall(r"^│ (--[\w-]+)", text, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMON)
def test_help_shows_the_common_flags_and_says_how_many_more_there_are(page, command):
    """--help lists what COMMON names and no more; its last line counts what --help-all adds."""
    text, whole = page((command,)), page((command,), "--help-all")
    short, everything = flags_of(text), flags_of(whole)
    names = {parameter.opts[0]: parameter.name for parameter in PAGES[command,].params}
    assert {names[flag] for flag in short if flag != "--help"} == {*COMMON[command], "help_all"}
    assert {*everything} == {*names, "--help"}
    assert len(text.splitlines()) < len(whole.splitlines()) / 1.7
    last = text.splitlines()[-1].strip()
    assert last == f"--help-all shows the other {len(everything) - len(short)} flags."


def test_a_page_hides_nothing_from_what_comes_after(capsys):
    """What --help leaves out is not hidden later: completion offers no hidden flag."""
    train = PAGES["train",]
    context = train.make_context("train", [], resilient_parsing=True)
    context.get_help()
    assert "--weight-decay" not in flags_of(capsys.readouterr().out)
    assert not [parameter.name for parameter in train.params if parameter.hidden]


@pytest.mark.parametrize("words", [[], ["--help"]], ids=["lmsm", "lmsm --help"])
def test_the_program_alone_is_a_screen(monkeypatch, capsys, words):
    """24 rows of 80 columns, a prompt included, hold four examples and every command."""
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == (0 if words else 2)
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert [line.split("  ")[-1].strip() for line in lines if re.match(r" \d\. ", line)] == [
        line for _, line in FRONT
    ]
    assert len(FRONT) == 4
    for name in ROOT.commands:
        assert re.search(rf"(?m)(^| )  {name} +{re.escape(SHORT[name])}( |$)", text), name


@pytest.mark.parametrize(
    ("line", "suggested"),
    [
        ("report runs/a --adjust 1", []),
        ("export runs/a --tau 1", []),
        ("train --batchsize 3", ["--batch-size"]),
        ("train --epoch 3", ["--epochs"]),
        ("train --no-compiled", ["--no-compile", "--compile"]),
        ("train --Loss softmax", ["--loss"]),
        ("compare runs --jso", ["--json"]),
        ("--versoin", ["--version"]),
    ],
)
def test_an_unknown_flag_is_told_with_those_that_are_alike(monkeypatch, capsys, line, suggested):
    """A flag is suggested where its name is nearly that which was typed, and none elsewhere."""
    monkeypatch.setenv("COLUMNS", "200")
    assert main(line.split()) == 2
    told = capsys.readouterr().err
    assert "No such option: " in told
    offered = re.findall(r"\(Possible options: (.*)\)", told)
    assert [flag for text in offered for flag in text.split(", ")] == sorted(suggested)


@pytest.mark.parametrize(
    ("line", "way_out"),
    [
        (["train", "photos"], "did you mean --dataset photos?"),
        (["sweep", "cifar10"], "did you mean --dataset cifar10?"),
        (["train", "./digits"], "did you mean --dataset ./digits?"),
        (["train", "my list.csv"], "did you mean --dataset 'my list.csv'?"),
        (["train", "long" * 200], "--help` shows the flags"),
        (["schedule", "run"], "did you mean --config run/config.yaml?"),
        (["train", "--epochs", "1", "my.yaml"], "did you mean --config my.yaml?"),
        (["train", "photos/a", "photos/b"], "give the folder, photos"),
        (["study", "photos/a", "photos/b"], "takes no 'photos/b' here"),
        (["doctor", "photos"], "`lmsm doctor --help` shows the flags"),
        (["presets", "show", "digits", "more"], "`lmsm presets show --help` shows the flags"),
    ],
)
def test_a_word_too_many_is_told_with_its_flag(tmp_path, monkeypatch, capsys, line, way_out):
    """Whoever leaves the flag out learns it; nothing is begun."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/a", "photos/b", "digits/a", "run"):
        Path(name).mkdir(parents=True)
    for name in ("my list.csv", "my.yaml", "run/config.yaml"):
        Path(name).touch()
    assert main(line) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert way_out in shown
    assert shown.startswith("error: lmsm " + line[0])


def test_a_preset_too_many_is_told_with_its_flag(capsys):
    """Each that no data set is called like."""
    for name in set(preset_names()) - set(get_args(Dataset)):
        assert main(["train", name]) == 2
        assert f"did you mean --preset {name}?" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["compare", ""], "the word after compare is empty"),
        (["predict", "runs/NAME", "", "--top", "3"], "the word after runs/NAME is empty"),
        (["train", "--out", ""], "the word after --out is empty"),
        (["eval", "runs/NAME", "--images="], "--images is empty"),
        (["presets", "copy", "digits", ""], "the word after digits is empty"),
    ],
)
def test_an_empty_word_is_no_path(tmp_path, monkeypatch, capsys, line, told):
    """A variable that is not set is not the current folder, which may hold runs and images."""
    monkeypatch.chdir(tmp_path)
    assert main(line) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"error: {told}: leave it out, or give it a value")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_page_is_quick():
    """Help computes for a fifth of what importing torch takes; a noisy machine is allowed half."""
    used = []
    for _ in range(3):
        before = children_seconds()
        subprocess.run(
            [sys.executable, "-m", "lmsm_cli", "train", "--help-all"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        used.append(children_seconds() - before)
    assert min(used) < seconds_to_import_torch() / 2


def test_no_page_loads_what_computes():
    """No help page imports torch or anything else that is slow to load."""
    heavy = words(
        "torch torchvision numpy scipy sklearn matplotlib jinja2 PIL optuna "
        "onnx onnxruntime tensorboard pandas"
    )
    code = (
        "import sys, json\nfrom lmsm_cli.commands.app import main\n"
        "for words in json.loads(sys.argv[1]): main(words)\n"
        f"print(*({set(heavy)!r} & set(sys.modules)), file=sys.stderr)"
    )
    asked = [[*words, flag] for words in PAGES for flag in {"--help", full(words)}]
    listed = json.dumps([[], *asked])
    done = subprocess.run(
        [sys.executable, "-c", code, listed],
        capture_output=True,
        text=True,
        env=os.environ,
        check=True,
    )
    assert done.stderr.strip() == ""
