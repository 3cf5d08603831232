"""Messages that name the way out, and writes that name their file."""

import importlib.metadata
import tomllib
from pathlib import Path

import pytest

from lmsm_cli.errors import DiskError, packages_of, writing

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


@pytest.mark.parametrize("extra", ["export", "search", "tensorboard"])
def test_the_packages_of_an_extra_are_those_of_pyproject(extra):
    """What pip is to install is named with its bounds: this package is in no index."""
    wanted = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"][extra]
    found = packages_of(extra)
    assert [
        set(one.replace(">=", ",>=").replace("<", ",<").split(",")) - {""} for one in found
    ] == [set(one.replace(">=", ",>=").replace("<", ",<").split(",")) - {""} for one in wanted]


def test_without_an_installed_package_the_checkout_is_named(monkeypatch):
    """From a bare checkout pip takes the extra of the folder."""

    def lost(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", lost)
    assert packages_of("search") == [".[search]"]


def test_a_write_that_fails_names_the_file(tmp_path):
    """The system's own words and the path, exit code 6."""
    path = tmp_path / "nowhere" / "x"
    with pytest.raises(DiskError, match=r"cannot write .*x: No such file") as caught, writing(path):
        path.write_text("")
    assert caught.value.exit_code == 6
