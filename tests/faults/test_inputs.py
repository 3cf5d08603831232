"""Names, paths and surroundings that nobody plans for: commands work, and terminals stay calm."""

import json
import os
import pty
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from lmsm_cli.commands.app import main
from lmsm_cli.data.sources import load
from lmsm_cli.runs import environment
from tests.conftest import CIFAR10_CLASSES, words, write_class_folders

QUICK = ["--model", "paper-2d", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
FIXED = ["--precision", "fp32", "--layout", "channels-last", "--threads", "1"]
# As they are on disk, and as they are shown.
NAMES = {
    "\x1b[31mred\x1b]0;title\x07": r"\x1b[31mred\x1b]0;title\x07",
    "[red]markup": "[red]markup",
    "line\nbreak\r\ttab": r"line\nbreak\r\ttab",
    "l" * 255: "l" * 255,
    "räv 猫 🦊": "räv 猫 🦊",
    "turned \u202e around": r"turned \u202e around",
    os.fsdecode(b"no utf-8 \xff"): r"no utf-8 \xff",
}


def train_folder(data, out):
    """Train on class folders; return the command's exit code."""
    return main(
        [
            *words("train --dataset folder --image-size 16 --data-dir"),
            str(data),
            "--out",
            str(out),
            *QUICK,
            *FIXED,
        ]
    )


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A finished run on class folders with strange names, and the folders."""
    root = tmp_path_factory.mktemp("strange")
    write_class_folders(root / "data", NAMES, 10, size=16)
    assert train_folder(root / "data", root / "runs") == 0
    (folder,) = (root / "runs").iterdir()
    return folder, root / "data"


def raw(text):
    """Return the control characters of a text beside the ends of its lines."""
    return {c for c in text if not c.isprintable() and c != "\n"}


def test_class_names_are_shown_spelled_out(strange, capsys):
    r"""Tables show \x1b and [red] as they are spelled here, in one line each; so do all files."""
    folder, data = strange
    assert main(["eval", str(folder), "--confusion"]) == 0
    assert main(["compare", str(folder)]) == 0
    assert main(["eval", str(folder), "--images", str(data)]) == 0
    printed = capsys.readouterr()
    assert not raw(printed.out + printed.err)
    for name in NAMES.values():
        assert printed.out.count(name) >= 3
    kept = json.loads((folder / "scores.json").read_text())["per_class"]
    assert {row["name"] for row in kept} == set(NAMES.values())
    assert not raw((folder / "train.log").read_text())


@pytest.mark.slow
def test_a_terminal_gets_no_commands_from_class_names(strange):
    """On a real terminal no name colours, retitles or rings, and brackets are no markup."""
    folder, _ = strange
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lmsm_cli", "eval", str(folder), "--confusion"]
    with subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while block := os.read(ours, 4096):
                shown += block
        except OSError:  # Linux's end of a terminal
            os.close(ours)
    assert process.returncode == 0
    for command in (b"\x1b[31m", b"\x1b]0;", b"\x07", "\u202e".encode()):
        assert command not in shown
    assert b"[red]" in shown


@pytest.mark.parametrize("content", [None, b"no image"], ids=["empty", "damaged"])
def test_errors_spell_out_the_names_of_files(tmp_path, capsys, content):
    r"""An error about a folder whose name holds ESC shows \x1b, in one line, and exits with 3."""
    write_class_folders(tmp_path / "data", ["cat", "\x1b[31m\nred"], 5, size=16)
    for path in (tmp_path / "data" / "\x1b[31m\nred").iterdir():
        path.write_bytes(content) if content else path.unlink()
    assert train_folder(tmp_path / "data", tmp_path / "runs") == 3
    told = capsys.readouterr().err
    assert not raw(told)
    (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
    assert r"\x1b[31m\nred" in line


@pytest.mark.parametrize(
    "name",
    ["with space", "mit Ümlaut 猫", "[red]", "p" * 255, "-dash", "$HOME;'\"", "linked"],
    ids=["space", "unicode", "markup", "long", "dash", "shell", "link"],
)
def test_any_path_will_do(tmp_path, monkeypatch, capsys, name):
    """Data and runs below a folder of any name, also a link: train, eval and compare work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    folder = tmp_path / name
    folder.symlink_to("real") if name == "linked" else folder.mkdir()
    write_class_folders(folder / "data", ("ant", "bee"), 10, size=16)
    assert train_folder(Path(".", name, "data"), folder / "runs") == 0
    (path,) = (folder / "runs").iterdir()
    assert main(["eval", str(path), "--images", str(folder / "data")]) == 0
    assert main(["compare", str(folder / "runs")]) == 0
    assert f"{folder}" in capsys.readouterr().out
    assert {entry.name for entry in tmp_path.iterdir()} == {"real", name}


@pytest.mark.parametrize(
    ("link", "target"), [("link", "cifar10"), ("cifar10", "disk7")], ids=["to it", "named so"]
)
def test_data_dir_may_be_a_link_to_the_class_folders(tmp_path, link, target):
    """The folder of a data set is known by its own name as by its link's."""
    for split in ("train", "test"):
        write_class_folders(tmp_path / "store" / target / split, CIFAR10_CLASSES, 1)
    (tmp_path / link).symlink_to(tmp_path / "store" / target)
    assert len(load("cifar10", tmp_path / link, "test")) == 10


# The command, for a user whose home folder is, by the system's list of users, the second argument.
OF_USER = """
import os, pwd, sys
user = list(pwd.getpwuid(os.getuid()))
user[5] = sys.argv.pop(1)
pwd.getpwuid = lambda number: pwd.struct_passwd(user)
from lmsm_cli.commands.app import main
sys.exit(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("home", [None, "/dev/null/home"], ids=["unset", "not writable"])
def test_no_home_is_needed(tmp_path, home):
    """Without $HOME, or with one that takes no files, a run works and writes where it should."""
    surroundings = {
        k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "LMSM_CACHE_DIR")
    }
    command = [
        sys.executable,
        "-c",
        OF_USER,
        tmp_path / "home",
        *words("train --preset digits --epochs 1 --device cpu --out runs"),
    ]
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        command,
        cwd=tmp_path / "here",
        env=surroundings | ({"HOME": home} if home else {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["runs"]


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A repository with a commit, taken for the one that lmsm runs from."""
    if shutil.which("git") is None:
        pytest.skip("there is no git")
    me = ["-c", "user.name=me", "-c", "user.email=me@x.invalid"]
    for command in (["init", "-q"], [*me, "commit", "-q", "--allow-empty", "-m", "First"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(environment, "_CHECKOUT", tmp_path)
    return tmp_path


def test_git_state_is_recorded(checkout):
    """Commit and dirtiness of the checkout stand in environment.json."""
    (checkout / "new").touch()
    state = environment.describe("cpu")["git"]
    assert len(state["commit"]) == 40
    assert state["dirty"]


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ('{"vcs_info": {"vcs": "git", "commit_id": "abc"}}', {"commit": "abc", "dirty": False}),
        ('{"dir_info": {"editable": true}}', None),
        ("{", None),
    ],
    ids=["from git", "from a folder", "damaged"],
)
def test_installed_commit_is_recorded(tmp_path, monkeypatch, origin, expected):
    """What `pip install git+URL` noted of the commit stands in environment.json."""
    monkeypatch.setattr(environment, "_CHECKOUT", tmp_path)
    notes = tmp_path / f"lmsm_cli-{version('lmsm-cli')}.dist-info"
    notes.mkdir()
    (notes / "METADATA").write_text("Name: lmsm-cli\n")
    (notes / "direct_url.json").write_text(origin)
    monkeypatch.syspath_prepend(tmp_path)
    assert environment.describe("cpu")["git"] == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [("PATH", ""), ("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1"), ("GIT_DIR", "/dev/null")],
    ids=["no git", "dubious ownership", "no repository"],
)
def test_without_git_the_state_is_unknown(checkout, monkeypatch, capfd, name, value):
    """No git, another's repository or none: the state is null, and nothing is printed."""
    monkeypatch.setenv(name, value)
    assert environment.describe("cpu")["git"] is None
    assert capfd.readouterr() == ("", "")
