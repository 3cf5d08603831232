"""What a release says of itself fits: version, changes, citation, security, tested versions."""

import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lmsm_cli
from tests import constraints

ROOT = Path(__file__).parent.parent
CHANGES = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
KINDS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")


def test_the_newest_version_of_the_changelog_is_this_one():
    """Below [Unreleased] stands the version of the code, and each has its date, newest first."""
    first, *released = re.findall(r"^## (.*)$", CHANGES, flags=re.MULTILINE)
    assert first == "[Unreleased]"
    found = [re.fullmatch(r"\[(\S+)\] - (\S+)", heading).groups() for heading in released]
    assert found[0][0] == lmsm_cli.__version__
    dates = [date.fromisoformat(day) for _, day in found]
    assert dates == sorted(dates, reverse=True)
    assert set(re.findall(r"^### (.*)$", CHANGES, flags=re.MULTILINE)) <= set(KINDS)


def test_a_citation_names_this_version_and_the_paper():
    """CITATION.cff has what CFF 1.2.0 requires, the code's version, and whose loss it is."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(cited)
    assert (cited["cff-version"], cited["version"]) == ("1.2.0", lmsm_cli.__version__)
    (paper,) = cited["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Wen", "Yu", "Yang"]
    assert paper["url"] == "https://arxiv.org/abs/1612.02295"


@pytest.mark.parametrize("text", [CHANGES, SECURITY], ids=["CHANGELOG.md", "SECURITY.md"])
def test_files_that_it_names_exist(text):
    """No link into the project is broken: a promise keeps its tests."""
    targets = [t for t in re.findall(r"\]\(([^)]+)\)", text) if not t.startswith("http")]
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def pins():
    """Return the lines of constraints.txt as requirements, by name."""
    lines = constraints.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    listed = [Requirement(line) for line in lines if not line.startswith("#")]
    return {requirement.name: requirement for requirement in listed}


def wrong_with(requirement, known):
    """Return what is wrong with a dependency's line in constraints.txt; None if nothing is."""
    pin = known.get(canonicalize_name(requirement.name))
    if pin is None:
        return f"{requirement} has no line"
    (version,) = [specifier.version for specifier in pin.specifier]
    return None if requirement.specifier.contains(version) else f"{requirement}, but {pin}"


def test_every_dependency_has_a_tested_version():
    """One that is added to pyproject.toml, or gets another bound, needs its line anew."""
    known = pins()
    wrong = [wrong_with(requirement, known) for requirement in constraints.direct()]
    assert len(wrong) > 20
    assert not [*filter(None, wrong)], "python tests/constraints.py writes constraints.txt anew"


def test_a_dependency_without_its_tested_version_is_told():
    """A package that is not listed, and one whose bound has passed what was tested."""
    known = {"a-package": Requirement("a-package==1.5")}
    assert wrong_with(Requirement("A_Package>=1,<2"), known) is None
    assert wrong_with(Requirement("a-package>=2"), known) == "a-package>=2, but a-package==1.5"
    assert wrong_with(Requirement("other>=1"), known) == "other>=1 has no line"


def test_packages_come_with_all_that_they_require():
    """What a dependency requires is listed too, with its extras, and nothing else that is there."""
    found = constraints.installed([Requirement("pytest-xdist")])
    assert {"pytest-xdist", "execnet", "pytest", "pluggy"} <= set(found)
    assert not {"psutil", "torch", "setproctitle"} & set(found)
    assert "psutil" in constraints.installed([Requirement("pytest-xdist[psutil]")])
    with pytest.raises(SystemExit, match=r"no-such-package is not installed: pip install -e"):
        constraints.installed([Requirement("no-such-package")])
