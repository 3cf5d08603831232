"""A missing or broken library ends in a sentence that says what to install, not in a traceback."""

import errno
import json
import subprocess
import sys

import pytest

from lmsm_cli.commands.libraries import broken_library

# In a process where nothing finds torch, runs each command of stdin and writes what it said.
_WITHOUT_TORCH = """
import contextlib, io, json, sys
from importlib.abc import MetaPathFinder

class NoTorch(MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)

sys.meta_path.insert(0, NoTorch())
from lmsm_cli.commands.app import main

said = {}
for command in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(command.split())
    said[command] = (code, out.getvalue(), err.getvalue())
json.dump(said, sys.stdout)
"""
NEED_TORCH = (
    "losses",
    "losses lsoftmax",
    "schedule --preset digits",
    "train --preset digits",
    "train --preset digits --show-config",
    "train --preset digits --dry-run",
    "train --preset digits --seeds 2",
    "sweep --preset digits --grid lr=0.1,0.2",
    "study digits",
    "demo",
    "bench",
    "data digits",
    "doctor --clear-cache",
)
NEED_NONE = ("--version", "--help", "train --help", "presets", "presets show digits")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """Return the exit code, stdout and stderr of each command where torch is missing."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_TORCH],
        cwd=tmp_path_factory.mktemp("without"),
        input=json.dumps([*NEED_TORCH, *NEED_NONE]),
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("command", NEED_TORCH)
def test_without_torch_a_command_says_what_to_install(said, command):
    """One line on stderr with the command, for a CPU too; exit code 2, and nothing on stdout.

    A command may say before what it is about to do.
    """
    code, out, err = said[command]
    assert (code, out) == (2, "")
    *before, line = err.splitlines()
    assert before in ([], ["planning the runs"])
    assert line.startswith("error: torch, which lmsm needs, cannot be imported (No module named ")
    assert "): pip install --upgrade torch torchvision (without a GPU: add --index-url " in line
    assert "`lmsm doctor`" in line


@pytest.mark.parametrize("command", NEED_NONE)
def test_without_torch_the_rest_works(said, command):
    """Help and presets need none of it."""
    code, out, err = said[command]
    assert (code, err) == (0, "")
    assert out


def imported(package, body, tmp_path, monkeypatch):
    """Return the error that importing a package with this body ends in."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(body)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        __import__(package)
    except Exception as error:
        return error
    raise AssertionError(f"{package} can be imported")


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("raise OSError('libx.so.1: cannot open shared object file')", "libx.so.1: cannot open"),
        ("def f(): raise RuntimeError('operator does not exist')\nf()", "operator does not exist"),
        ("import a_package_that_nobody_has", "No module named 'a_package_that_nobody_has'"),
        ("from sys import a_name_of_another_release", "cannot import name 'a_name_of"),
        ("absent", "name 'absent' is not defined"),
    ],
)
def test_a_broken_library_is_named_with_the_cause(tmp_path, monkeypatch, body, cause):
    """Whatever its import raises: what it was, and the command that installs it anew."""
    error = broken_library(imported("jinja2", body, tmp_path, monkeypatch))
    assert str(error).startswith("jinja2, which lmsm needs, cannot be imported (")
    assert cause in str(error)
    assert "): pip install --force-reinstall jinja2; " in str(error)
    assert error.exit_code == 2


def test_the_innermost_library_is_the_broken_one(tmp_path, monkeypatch):
    """A library that does not find another one is not what to install."""
    body = "import sklearn.a_module_of_another_release"
    error = broken_library(imported("jinja2", body, tmp_path, monkeypatch))
    assert str(error).startswith("sklearn, which lmsm needs")
    assert "pip install --force-reinstall scikit-learn;" in str(error)


@pytest.mark.parametrize(
    ("package", "body"),
    [
        ("my_loss", "raise RuntimeError('mine')"),
        ("my_loss", "import a_package_that_nobody_has"),
        ("jinja2", f"raise OSError({errno.ENOSPC}, 'No space left on device')"),
    ],
)
def test_other_errors_stay_what_they_are(tmp_path, monkeypatch, package, body):
    """Code of one's own, a full disk and a call of a sound library are no broken library."""
    assert broken_library(imported(package, body, tmp_path, monkeypatch)) is None


def test_a_call_that_fails_is_no_broken_library():
    """A library's function that raises has been imported."""
    import numpy as np

    with pytest.raises(ValueError, match="negative dimensions") as caught:
        np.zeros(-1)
    assert broken_library(caught.value) is None
