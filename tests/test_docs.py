"""The pages of docs/: what is made from the code is, what can be run runs, the site is whole."""

import ast
import re
import shlex
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError
from scipy.stats import gmean
from typer.main import get_command

import lmsm_cli
from docs import references, transcript, words
from lmsm_cli.commands import demo
from lmsm_cli.commands.app import app, main
from lmsm_cli.comparison import result_files
from lmsm_cli.config import Config, dump, flag_name
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.data.facts import facts_of
from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.registry import LOSSES, build_head
from lmsm_cli.losses.spec import format_spec
from lmsm_cli.runs.record import read_run
from tests.blocks import commands, fenced, typed

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted(DOCS.glob("*.md"))}
# Nothing to do on it: it leads to the others.
WITHOUT_BLOCK = {"index.md"}
# Longer commands of first blocks, and what the test runs in their place; the demo's four nets for
# its picture are trained for one epoch too.
_SWEEP = "lmsm sweep --preset digits --epochs 5 --seeds 3 "
SMALLER = {
    "lmsm demo": "lmsm demo --seeds 1",
    f"{_SWEEP}--grid loss=softmax,lsoftmax,balanced-softmax": (
        "lmsm sweep --preset digits --epochs 1 --seeds 2 "
        "--grid loss=softmax,lsoftmax,balanced-softmax"
    ),
    **{
        line: f"{line} --epochs 1"
        for line in (
            "lmsm train --dataset digits --imbalance exp --factor 0.05",
            "lmsm train --preset digits --loss softmax --out runs/digits",
        )
    },
}
# Heads that a transcript has and one seed has not: its tables are narrow enough to be one.
OF_SEVERAL_SEEDS = {"Runs", "and", "points", "need"}
# Flags of other programs.
OF_OTHERS = {"--index-url", "--nproc-per-node", "--strict"}
SECTIONS = dict(
    re.findall(r"^### `(\w+)`\n(.*?)(?=^##|\Z)", PAGES["configuration.md"], re.M | re.S)
)


@pytest.mark.parametrize("name", references.PAGES)
def test_the_references_are_of_this_code(name):
    """A generated page is what the code says now."""
    assert PAGES[name] == references.PAGES[name](), "python docs/references.py writes it anew"


def all_commands(command, typed_before=()):
    """Return the words of every command, groups and their commands included."""
    found = [typed_before]
    for name, inner in getattr(command, "commands", {}).items():
        found += all_commands(inner, (*typed_before, name))
    return found


@pytest.mark.parametrize("typed_words", all_commands(get_command(app)), ids=" ".join)
def test_every_flag_of_the_help_pages_is_in_the_reference(typed_words, monkeypatch, capsys):
    """A flag that `lmsm COMMAND --help-all` lists stands in the command's section, or is a key."""
    monkeypatch.setenv("COLUMNS", "80")
    main([*typed_words, "--help"])
    listed = capsys.readouterr().out
    if "--help-all" in listed:
        main([*typed_words, "--help-all"])
        listed = capsys.readouterr().out
    flags = set(re.findall(r"^│ (--[\w-]+)", listed, re.M)) - {"--help", "--help-all"}
    title = f"## `{' '.join(['lmsm', *typed_words])}`\n"
    section = PAGES["commands.md"].partition(title)[2].partition("\n## ")[0]
    shown = set(re.findall(r"`(--[\w-]+)", section))
    if "Every key of the [configuration]" in section:
        shown |= {flag_name(key) for key in SECTIONS}
    assert flags <= shown
    assert flags or typed_words == ("presets", "show")


def flags_of(command):
    """Return the flags of a command; of one that leads to others also theirs."""
    own = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    inner = getattr(command, "commands", {}).values()
    return own.union({"--help", "--help-all"}, *map(flags_of, inner))


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_that_a_page_names_is_there(name):
    """A page names no flag that no command has, and a command line none that its command lacks."""
    whole = get_command(app)
    named = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", PAGES[name]))
    assert named - OF_OTHERS <= flags_of(whole)
    for language, block in fenced(PAGES[name]):
        for line in commands(block) if language == "console" else ():
            command, (first, *words_after) = whole, shlex.split(line, comments=True)
            while words_after and words_after[0] in getattr(command, "commands", {}):
                command = command.commands[words_after.pop(0)]
            assert first == "lmsm"
            given = {word.partition("=")[0] for word in words_after if word.startswith("--")}
            assert given <= flags_of(command)


def errors_of(key, value):
    """Return what a config says of a key's value, of the key alone."""
    try:
        Config.model_validate({key: value})
    except ValidationError as error:
        return [problem for problem in error.errors() if problem["loc"][:1] == (key,)]
    return []


def test_the_bounds_of_the_configuration_hold():
    """The last value that a page calls right is taken, and the one beyond it refused."""
    steps = {"at least": (0, -1), "at most": (0, 1), "above": (1e-9, 0), "below": (-1e-9, 0)}
    checked = 0
    for key, section in SECTIONS.items():
        values = re.search(r"^\* Values: (.*)", section, re.M)[1]
        if not values.startswith(("a number", "a whole number")) or key == "margin":
            continue
        for word, bound in re.findall(r"(at least|at most|above|below) ([\d,.]+\d|\d)", values):
            number = float(bound.replace(",", ""))
            inside, outside = (number + step for step in steps[word])
            if "whole" in values and word in ("above", "below"):
                inside = number + (1 if word == "above" else -1)
            assert not errors_of(key, inside), (key, word, inside)
            assert errors_of(key, outside), (key, word, outside)
            checked += 1
    assert checked > 40


def test_the_defaults_of_the_configuration_hold(monkeypatch):
    """A default that is a value is that of a config of nothing."""
    monkeypatch.delenv("LMSM_DATA_DIR", raising=False)
    usual = dump(Config())
    checked = 0
    for key, section in SECTIONS.items():
        default = re.search(r"^\* Default: `([^`]*)`$", section, re.M)
        if default:
            found = usual[key]
            typed_so = ",".join(map(str, found)) if isinstance(found, list) else found
            assert typed_so in (default[1], yaml.safe_load(default[1])), key
            checked += 1
    assert checked > 30


@pytest.mark.parametrize("name", ["digits", "mnist", "cifar10"])
def test_the_defaults_by_the_data_hold(name):
    """A column of the table has what a training with that data set and nothing else takes."""
    config = resolve([Layer.of_flags({"dataset": name})], facts_of=facts_of).config
    lines = [line for line in PAGES["configuration.md"].splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    column = rows[0].index(name)
    assert len(rows) > 10
    for row in rows[2:]:
        key = re.search(r"\w+", row[0])[0]
        assert row[column] == str(getattr(config, key)).lower(), key


def section_of(loss):
    """Return the section of a loss, and what is written of it by hand."""
    section = re.search(rf"^### `{loss}`\n(.*?)(?=^##)", PAGES["losses.md"], re.M | re.S)[1]
    return section, re.sub(r"<!-- made .*?<!-- end -->", "", section, flags=re.S)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_is_explained(loss):
    """Its section has a formula, its table, a word on each option, when it fails, and a paper."""
    section, by_hand = section_of(loss)
    assert f"<!-- made of the code: {loss} -->" in section
    assert "```text\nL = " in by_hand
    assert "**When it fails.**" in by_hand
    assert re.search(r"^(\w+ et al\. )?.*(arXiv \d{4}\.\d{5}|BMVC)", by_hand, re.M)
    assert set(LOSSES[loss].options) <= set(re.findall(r"`(\w+)[`=]", by_hand))


def losses_with(loss, option, value=None, counts=(5, 5)):
    """Return what a loss with an option, or at its default, says of two images; None if refused.

    Lambda starts above where it ends, and a margin that is shaped is `tail`.
    """
    options = {"lambda_min": "0"} if option == "lambda_start" else {}
    if loss == "lsoftmax" and option.startswith("margin_"):
        options = {"margin": "tail"}
    torch.manual_seed(0)
    features, labels = torch.randn(2, 3), torch.tensor([0, 1])
    given = options if value is None else options | {option: value}
    try:
        head = build_head(format_spec(loss, given), 3, 2, torch.tensor(counts))
    except ArgumentError:
        return None
    return head.losses(features, labels, progress=0.6).tolist()


@pytest.mark.parametrize("loss", [name for name, loss in LOSSES.items() if loss.options])
def test_the_tables_of_the_losses_hold(loss):
    """What a table says that an option takes is taken, what is beyond refused; defaults hold."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", section_of(loss)[0], re.M)
    assert [option for option, *_ in rows] == list(LOSSES[loss].options)
    for option, values, default in rows:
        assert losses_with(loss, option, "nonsense") is None
        for name in re.findall(r"`(\w+)`", values):
            assert losses_with(loss, option, name), (option, name)
        step = 1 if "whole" in values else 1e-5
        for word, bound in re.findall(r"(at least|above|at most) ([\d.]+)", values):
            number = float(bound)
            inside = {"at least": number, "above": number + step}.get(word, number * (1 - step))
            outside = {"at least": number - step, "above": number}.get(word, number * (1 + step))
            assert losses_with(loss, option, f"{inside:.9g}"), (option, inside)
            assert losses_with(loss, option, f"{outside:.9g}") is None, (option, outside)
        told = re.findall(r"`([^`]+)`", default)
        for counts, value in (((5, 5), told[0]), ((50, 5), told[-1])):
            given = None if value == "none" else value
            wanted = losses_with(loss, option, None, counts)
            assert losses_with(loss, option, given, counts) == wanted, (option, counts)


def test_the_python_of_ones_own_script_runs(tmp_path, monkeypatch, capsys, digits_run):
    """All code of the page in its order: the digits are learned, and the results compared.

    torch.compile finds one graph, which is not turned into machine code here.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    names = {}
    with monkeypatch.context() as patched:
        for key, value in alone.items():
            patched.setenv(key, value)
        for language, block in fenced(PAGES["python.md"]):
            if language == "python":
                block = block.replace("runs/NAME", str(digits_run))
                exec(compile(block, "python.md", "exec"), names)
                assert names["loss"].isfinite()
    assert not torch.distributed.is_initialized()
    assert names["accuracy"] > 0.8
    assert names["weight"].grad.shape == (20_000, 32)
    assert read_run(names["folder"]).scores.accuracy == pytest.approx(names["accuracy"])
    capsys.readouterr()
    blocks = [block for language, block in fenced(PAGES["python.md"]) if language == "console"]
    lines = [line for block in blocks for line in commands(block)]
    for line, told in zip(lines, ("lsoftmax", "my loss"), strict=True):
        assert main(typed(line, tmp_path)) == 0
        printed = capsys.readouterr().out
        assert told in printed
        if told == "lsoftmax":  # an answer, whatever it is
            assert re.search(r"lsoftmax (beats|falls behind|shows no clear difference)", printed)
            assert "5 paired" in printed
            assert "taken for the same images" not in printed


def test_other_results_are_read_as_the_page_says(tmp_path, monkeypatch, capsys, digits_run):
    """Its columns are all there are; its CSV is a run; its metric is computed from a run's file."""
    page = PAGES["extend.md"]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", page.partition("## Results of other")[2], re.M)
    told = set(re.findall(r"`(\w+)`", " ".join(map(" ".join, rows))))
    assert told - {"logit_0", "logit_1"} == set(result_files.COLUMNS)
    (table,) = (block for _, block in fenced(page) if block.startswith("label,"))
    path = tmp_path / "softmax-s0.csv"
    path.write_text(table)
    (run,), notes = result_files.read_results([path])
    assert (run.scores.accuracy, notes) == (0.5, [])
    assert {row.name: row.train_count for row in run.scores.per_class} == {"cat": 300, "dog": 24}
    (metric,) = (block for _, block in fenced(page) if "predictions.npz" in block)
    exec(compile(metric.replace("runs/NAME", str(digits_run)), "extend.md", "exec"), {})
    recalls = [row.accuracy for row in read_run(digits_run).scores.per_class]
    assert capsys.readouterr().out.endswith(f"{gmean(recalls):.3f}\n")


@pytest.mark.parametrize("name", sorted(PAGES.keys() - WITHOUT_BLOCK))
def test_the_first_block_of_a_page_runs(name, tmp_path, monkeypatch, capsys):
    """Each page begins with a block that can be run as it stands, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setitem(demo._PICTURE, "epochs", 1)
    language, block = fenced(PAGES[name])[0]
    if language == "python":
        exec(compile(block, name, "exec"), {})
        return
    assert language == "console"
    lines = commands(block)
    others = [line for line in block.replace("\\\n", "").splitlines() if not line.startswith("#")]
    assert len(lines) == len(others) > 0
    for line in lines:
        assert main(typed(SMALLER.get(line, line), tmp_path)) == 0
        printed = capsys.readouterr().out
        assert printed
        for kept in transcript.BLOCK.findall(PAGES[name]):
            shown = f"\n{kept}".partition(f"\n$ {line}\n")[2].partition("\n$ ")[0]
            assert headings(shown) - OF_SEVERAL_SEEDS <= headings(printed)
            if shown and line.startswith("lmsm data "):  # what no seed and no machine changes
                assert shown.split() == printed.split()


def test_what_is_quoted_was_printed():
    """A quoted answer stands in a transcript of its page; that of the README, in the quickstart."""
    quotes = 0
    for page in PAGES.values():
        printed = " ".join(" ".join(transcript.BLOCK.findall(page)).split())
        for quote in re.findall(r"(?:^> .*\n)+", page, re.M):
            assert " ".join(quote.replace("> ", "").split()) in printed
            quotes += 1
    assert quotes > 0
    (shown,) = transcript.BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    answer = " ".join(shown.split("\n", 1)[1].split())
    told = " ".join(" ".join(transcript.BLOCK.findall(PAGES["quickstart.md"])).split())
    assert answer in told


def choices_shown(text):
    """Return what a text gives --grid and --arm: flag and value; paths and own code apart."""
    shown = re.findall(r"""--(grid|arm) (?:"([^"]+)"|'([^']+)'|([^\s`"']+))""", text)
    values = [(flag, "".join(texts)) for flag, *texts in shown]
    # the arm of the command's own help stands in its words
    values += [("arm", one) for one in re.findall(r"repeatable: '([^']+)'", text)]
    return {
        (flag, value)
        for flag, value in values
        if "KEY" not in value and "/" not in value and not re.search(r":[A-Z]", value)
    }


def test_every_choice_of_a_sweep_that_is_shown_is_accepted(capsys):
    """By the preset of the first block, whose ten epochs are the fewest that are usual."""
    help_text = " ".join(PAGES["commands.md"].split())
    pages = {**PAGES, "commands.md": help_text, "README.md": (ROOT / "README.md").read_text()}
    found = set().union(*map(choices_shown, pages.values()))
    assert ("arm", "loss=ldam reweight=effective rebalance_from=9") in found
    assert len(found) > 10
    for flag, value in found:
        if ".." in value:  # a range, which a search draws from
            continue
        needed = ["--schedule", "step"] if value.startswith(("step_size", "gamma")) else []
        words_of = ["sweep", "--preset", "digits", *needed, f"--{flag}", value, "--seeds", "1"]
        assert main([*words_of, "--dry-run", "--quiet"]) == 0, value
        assert capsys.readouterr().out


def texts_of_the_code():
    """Return the texts of the package but for docstrings; `{}` stands for a value in one."""
    found = set()
    for path in Path(lmsm_cli.__file__).parent.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        docstrings = {node.value for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            if isinstance(node, ast.JoinedStr):
                parts = [getattr(part, "value", None) for part in node.values]
                found.add("".join(part if isinstance(part, str) else "{}" for part in parts))
            elif isinstance(node, ast.Constant) and node not in docstrings:
                found.add(str(node.value))
    return found


def test_the_messages_of_the_page_of_faults_are_those_of_the_code():
    """Each message that the tables quote is one, but for `...`, which stands for its values."""
    texts = "\n".join(text.replace("\n", " ") for text in texts_of_the_code())
    cells = re.findall(r"^\| (`[^|]*`) .*\|", PAGES["faults.md"], re.M)
    quoted = [message for cell in cells for message in re.findall("`([^`]+)`", cell)]
    assert len(quoted) > 50
    for message in quoted:
        assert re.search(".*".join(map(re.escape, re.split(r" ?\.{3} ?", message))), texts), message


def headings(printed):
    """Return the words of titles and heads of tables: the head stands above the rule."""
    lines = printed.splitlines()
    rules = [i for i, line in enumerate(lines) if line.strip().startswith("───")]
    shown = [lines[i - above] for i in rules for above in (1, 3)]
    return set(re.findall(r"[A-Za-z]{3,}", " ".join(shown)))


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read(name):
    """No line of prose is too long, nor are the sentences."""
    found = words.count(PAGES[name])
    assert found.sentences > 3
    assert not words.problems(f"docs/{name}", found)


def test_words_are_counted():
    """Code, tables, headings, pictures are no prose; entries and paragraphs end a sentence."""
    page = (
        "# A title of five words\n\nOne two `three four`. Five [six seven](a.md)! Eight\nnine:\n\n"
        "```console\nlmsm demo. And more.\n```\n\n* Ten eleven\n* twelve, e.g.thirteen - 14\n\n"
        f"| a | b |\n\n![no words](x.png)\n\n{'long ' * 30}\n"
    )
    found = words.count(page)
    assert (found.words, found.sentences) == (4 + 3 + 2 + 2 + 3 + 30, 6)
    assert found.long_lines == (17,)
    assert words.problems("docs/quickstart.md", words.Words(33, 2, (7,))) == [
        "docs/quickstart.md:7: above 120 characters",
        "docs/quickstart.md: 16.5 words a sentence, more than 16",
    ]
    assert not words.problems("docs/quickstart.md", words.Words(32, 2, ()))


# mkdocs, in a process that can reach no network.
_BUILD = """
import sys

def refuse(event, _):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError("the build asks for a network")

sys.addaudithook(refuse)
from mkdocs.__main__ import cli
cli(["build", "--strict", "--site-dir", sys.argv[1]])
"""


@pytest.mark.slow
def test_the_site_is_built_without_a_network(tmp_path):
    """`mkdocs build --strict` finds every link and anchor; a page asks other hosts for nothing."""
    if find_spec("mkdocs") is None or find_spec("material") is None:
        pytest.skip("needs mkdocs-material: pip install '.[docs]'")
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in PAGES:
        page = (tmp_path / name).with_suffix(".html").read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|link|img|iframe)\b[^>]*"(?:https?:)?//[^>]*>', page)
    assert not list(tmp_path.rglob("*.py"))


def test_the_extra_is_what_builds_the_site():
    """pyproject.toml names the extra of which mkdocs.yml and the test above speak."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert re.search(r"^docs = .*mkdocs-material", text, re.M | re.S)
    assert "'.[docs]'" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "'.[docs]'" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
