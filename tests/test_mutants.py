"""The table of mutants fits the package: each can be planted, and its test is there."""

import re
import tomllib

from tests import mutants

TABLE = tomllib.loads((mutants.TESTS / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
PLANTED = [mutants.Mutant(**row) for row in TABLE]


def test_each_line_to_be_changed_stands_once_in_its_file(tmp_path):
    """A line that was written anew is told here, and not at the end of an hour of tests."""
    mutants.copy_everything(tmp_path / "sound")
    assert len(PLANTED) > 300
    assert not [wrong for one in PLANTED if (wrong := mutants.misfit(one, tmp_path / "sound"))]


def test_each_names_a_test_that_is_there():
    """By its file and function; what follows in brackets is known to pytest alone."""
    missing = []
    for one in PLANTED:
        file, _, function = one.test.partition("::")
        name = re.escape(function.partition("[")[0].rpartition("::")[2])
        path = mutants.TESTS / file
        if not path.is_file() or not re.search(rf"def {name}\(", path.read_text("utf-8")):
            missing.append(one.test)
    assert not missing
