"""The limits of the house hold: short functions of few parameters, few rooms."""

from tests import sizes
from tests.conftest import SLOW, TESTS


def test_lengths_and_parameters_are_counted(tmp_path):
    """A docstring and `self` count for nothing; lines and parameters do, and inner functions."""
    file = tmp_path / "room" / "one.py"
    file.parent.mkdir()
    file.write_text(
        'class A:\n    def f(self, a, *, b):\n        """Say it.\n\n        More.\n        """\n'
        "        def g(x):\n            return x\n        return g\n"
    )
    found = {one.name: one for one in sizes.functions(file, tmp_path)}
    assert (found["f"].lines, found["f"].parameters, found["f"].place) == (4, 2, "room/one.py:2")
    assert (found["g"].lines, found["g"].parameters) == (2, 1)


def test_what_is_too_long_or_takes_too_much_is_named():
    """51 lines or 8 parameters are over the limit; a command's parameters are not counted."""
    fine = sizes.Function("a.py:1", "f", 50, 7, may_take_more=False)
    long = sizes.Function("a.py:2", "g", 51, 7, may_take_more=True)
    wide = sizes.Function("a.py:3", "h", 50, 8, may_take_more=False)
    command = sizes.Function("commands/a.py:4", "i", 50, 20, may_take_more=True)
    assert [line.split()[1] for line in sizes.over_the_limits([fine, long, wide, command])] == [
        "g:",
        "h:",
    ]


def test_the_house_keeps_its_limits(capsys):
    """No function of the package is over a limit, nor are the median, the rooms and the modules."""
    assert sizes.main([]) == 0, capsys.readouterr().out


def test_slow_tests_exist():
    """Each line of slow.txt names a test: one that was renamed would be a unit test again."""
    for place in SLOW:
        file, _, name = place.partition("::")
        assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8"), place
