"""The examples in docstrings run and print what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest
import torch

import lmsm_cli

PACKAGE = Path(lmsm_cli.__file__).parent
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


def test_the_losses_have_examples():
    """The names that a library user meets first show how they are used."""
    first_met = ("registry", "lsoftmax", "annealing")
    assert {f"lmsm_cli.losses.{name}" for name in first_met} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings(module):
    """Each example gives exactly the output that stands below it."""
    outcome = doctest.testmod(import_module(module), extraglobs={"torch": torch})
    assert outcome.attempted > 0
    assert outcome.failed == 0
