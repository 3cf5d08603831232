"""Completion as a shell asks for it: in a process of its own, by its protocol."""

import os
import shutil
import subprocess
import sys

import pytest

from lmsm_cli.commands import completion
from lmsm_cli.config import Config
from lmsm_cli.config.resolve import preset_names
from lmsm_cli.losses.registry import LOSSES


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with two runs, a folder beside them that is none, and a file of the user's."""
    root = tmp_path_factory.mktemp("place")
    for name in ("20260101-a-s0", "20260101-a-s1"):
        (root / "runs" / name).mkdir(parents=True)
        for file in ("config.yaml", "best.pt", "checkpoint.pt", "scores.json"):
            (root / "runs" / name / file).touch()
    (root / "runs" / "notes").mkdir()
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "old").mkdir()
    (root / "elsewhere" / "old" / "status.json").touch()
    return root


def ask(place, environment):
    """Return the lines that the program answers a shell with."""
    command = [sys.executable, "-m", "lmsm_cli"]
    done = subprocess.run(
        command,
        cwd=place,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def bash(place, *words):
    """Return what bash is offered for the last of its words."""
    return [
        line
        for line in ask(
            place,
            {
                "_LMSM_COMPLETE": "complete_bash",
                "COMP_WORDS": "\n".join(words),
                "COMP_CWORD": str(len(words) - 1),
            },
        )
        if line
    ]


def zsh(place, line):
    """Return what zsh is offered, without its quoting."""
    answer = "\n".join(ask(place, {"_LMSM_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}))
    if answer == "_files":
        return []
    inside = answer.removeprefix("_arguments '*: :((").removesuffix("))'")
    assert inside.count("\n") == inside.count('\n"')  # a description stays on its line
    return [piece.split('"')[1].replace("\\\\:", ":") for piece in inside.split("\n")]


RUNS = ["runs/20260101-a-s0", "runs/20260101-a-s1"]
CASES = [
    ("lmsm train --preset ", preset_names()),
    ("lmsm train --preset ls", ["lsoftmax-resnet18", "lsoftmax-vgg16"]),
    ("lmsm presets show im", ["imbalanced-resnet18", "imbalanced-vgg16"]),
    ("lmsm presets copy dig", ["digits"]),
    ("lmsm presets sc", ["schema"]),
    ("lmsm train --loss ", list(LOSSES)),
    ("lmsm schedule --loss ar", ["arcface"]),
    ("lmsm losses fo", ["focal"]),
    ("lmsm train --dataset ci", ["cifar10", "cifar100"]),
    ("lmsm train --neck ", ["none", "linear", "relu", "prelu", "bn"]),
    ("lmsm train --device c", ["cpu", "cuda"]),
    ("lmsm train --rew", ["--reweight", "--reweight-beta"]),
    ("lmsm eval ", RUNS),
    ("lmsm compare runs/2", RUNS),
    ("lmsm compare ./runs/2", ["./" + run for run in RUNS]),
    ("lmsm compare runs/20260101-a-s0 el", []),
    ("lmsm resume elsewhere/", ["elsewhere/old"]),
    ("lmsm eval runs/20260101-a-s0/", [RUNS[0] + "/best.pt", RUNS[0] + "/checkpoint.pt"]),
    ("lmsm train --resume runs/20260101-a-s1", [RUNS[1]]),
    ("lmsm eval nowhere/", []),
    ("lmsm train --config ru", []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("line", "offered"), CASES, ids=[line for line, _ in CASES])
def test_zsh_is_offered_what_fits(place, line, offered):
    """What is typed so far becomes what it could be; where nothing fits, files."""
    assert zsh(place, line) == offered


@pytest.mark.slow
@pytest.mark.parametrize(("line", "offered"), CASES[::4], ids=[line for line, _ in CASES[::4]])
def test_bash_is_offered_the_same(place, line, offered):
    """bash asks by words."""
    assert bash(place, *line.split(" ")) == offered


def test_zsh_is_offered_the_options_of_a_loss(place):
    """After the colon come the options of that loss that are not given yet."""
    assert zsh(place, "lmsm train --loss lsoftmax:mar") == [
        f"lsoftmax:{name}="
        for name in ("margin", "margin_min", "margin_max", "margin_power", "margin_on")
    ]
    assert zsh(place, "lmsm train --loss vs:gamma=0.2,") == ["vs:gamma=0.2,tau="]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("--loss", "lsoftmax", ":", "lambda"), ["lambda_start=", "lambda_min="]),
        (("--loss", "vs", ":"), ["gamma=", "tau="]),
        (("--loss", "vs", ":", "gamma", "=", "0.2,t"), ["0.2,tau="]),
        (("--loss", "=", "foc"), ["focal"]),
        (("--loss", "=", "focal", ":", "g"), ["gamma="]),
        (("--loss", "focal", ":", "gamma", "=", "2", "--neck", "b"), ["bn"]),
        (("--loss", "nosuch", ":", "g"), []),
    ],
)
def test_bash_breaks_words_at_colons(place, words, offered):
    """bash hands over lsoftmax:lambda in three words and wants only what the last could become."""
    assert bash(place, "lmsm", "train", *words) == offered


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_real_bash_completes(place, tmp_path):
    """The script of --show-completion, read by a real bash, fills COMPREPLY."""
    program = tmp_path / "lmsm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m lmsm_cli "$@"\n')
    program.chmod(0o755)
    script = """source <(lmsm --show-completion; true)
        COMP_WORDS=(lmsm train --loss lsoftmax : lambda); COMP_CWORD=5
        _lmsm_completion lmsm; echo "${COMPREPLY[@]}"
        COMP_WORDS=(lmsm train --preset di); COMP_CWORD=3
        _lmsm_completion lmsm; echo "${COMPREPLY[@]}" """
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["lambda_start= lambda_min=", "digits"], done.stderr


def test_completion_installs_itself(tmp_path):
    """`lmsm --install-completion`, run from bash, puts its script where bash finds it."""
    environment = os.environ | {"HOME": str(tmp_path)}
    script = f"{sys.executable} -m lmsm_cli --install-completion; true"
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=False)
    assert b"installed" in done.stdout, done.stderr
    assert "_lmsm_completion" in (tmp_path / ".bash_completions" / "lmsm.sh").read_text()
    assert "lmsm.sh" in (tmp_path / ".bashrc").read_text()


def test_completing_loads_no_torch(place):
    """What a shell waits for imports nothing heavy."""
    heavy = ("torch", "numpy", "sklearn", "scipy", "matplotlib", "jinja2")
    code = (
        "import sys\nfrom lmsm_cli.commands.app import main\n"
        "from lmsm_cli.commands import completion as c\n"
        "c.presets(''), c.losses('lsoftmax:'), c.run_folders(''), c.checkpoints('runs/x/')\n"
        f"sys.exit(' '.join({set(heavy)!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""


def test_every_fixed_list_of_values_is_offered():
    """Each value that Config lists is among what its flag offers."""
    from typer.main import get_command

    from lmsm_cli.commands.app import app

    train = get_command(app).commands["train"]
    flags = {parameter.name: parameter for parameter in train.params}
    for key, described in Config.model_json_schema()["properties"].items():
        if "enum" in described:
            offered = [item.value for item in flags[key].shell_complete(None, "")]
            assert offered == described["enum"], key


def test_a_loss_is_not_offered_an_option_twice():
    """What stands in the spec already is left out, and a value is the user's own."""
    assert completion.losses("focal:gamma=2,") == []
    assert completion.losses("cosface:scale=20,margin") == ["cosface:scale=20,margin="]
    assert completion.losses("cosface:scale=2") == []
