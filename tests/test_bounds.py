"""The lower bounds of pyproject.toml leave out the versions that lmsm was seen to fail with."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"

# The newest release of each that is too old, and what fails with it.
TOO_OLD = {
    "filelock": "4.0.0",  # resume does not outlast a short look at the lock
    "onnxscript": "0.6.2",  # prints into the JSON of `export --json`
    "pillow": "10.0.1",  # has no has_transparency_data
    "typer": "0.28.0",  # has no display_type
}


@pytest.mark.parametrize(("name", "version"), TOO_OLD.items(), ids=TOO_OLD)
def test_what_is_too_old_is_refused(name, version):
    """The installer says so, instead of an AttributeError in the middle of a command."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    listed = [*project["dependencies"], *extras["export"], *extras["search"]]
    allowed = {requirement.name: requirement.specifier for requirement in map(Requirement, listed)}
    assert version not in allowed[name]
