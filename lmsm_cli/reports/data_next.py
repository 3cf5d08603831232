"""Which command comes next after a data check, by what it found."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmsm_cli.data.check import ClassImages, DataCheck
from lmsm_cli.data.too_few import FEWEST_TESTED, FEWEST_TRAINED
from lmsm_cli.errors import listed
from lmsm_cli.reports.data_findings import SKIP, Finding, can_start, usual_folds

# A study holds images of each class out in turn.
_FEWEST_OF_A_STUDY = 2
# From this many times the images of the rarest class on, the commonest outweighs it in a training.
_UNEVEN = 3


@dataclass(frozen=True)
class Commands:
    """The words of the commands that may follow, with the flags of the check."""

    check: Sequence[str]
    train: Sequence[str]
    study: Sequence[str] | None
    """None where a flag of the check is none of a study's."""
    takes: Callable[[Mapping[str, Any]], bool] = lambda more: True
    """Whether the training takes more choices beside those of the check."""


@dataclass(frozen=True)
class Step:
    """Something to do next, and the command that does it."""

    text: str
    command: str | None = None

    def __str__(self) -> str:
        return f"Next, {self.text}" + (f": {self.command}" if self.command else "")


def next_steps(check: DataCheck, findings: Sequence[Finding], commands: Commands) -> list[Step]:
    """Return what to do next: one step, or several to choose among."""
    if not can_start(findings):
        return [_mending(findings, commands)]
    steps = []
    if check.folder and (poor := [one.name for one in check.classes if _is_poor(one)]):
        steps.append(Step(f"if you can: add images of {listed(poor, 3)}"))
    advised = [word for key, one in _advised(check, commands).items() for word in (f"--{key}", one)]
    train = Step("to train one net", shlex.join([*commands.train, *advised]))
    if commands.study is None:
        return [*steps, train]
    lone = [one.name for one in check.classes if _of_a_study(one, check) < _FEWEST_OF_A_STUDY]
    if lone:
        return [*steps, replace(train, text=f"without a study, which needs 2 images of {lone[0]}")]
    study = Step("to find the loss and train the model", shlex.join(commands.study))
    return [*steps, study, train]


def _mending(findings: Sequence[Finding], commands: Commands) -> Step:
    """Return how to go on where no training can start."""
    faults = [one.text for one in findings if one.level == "mend"]
    if all(text.endswith(SKIP) for text in faults):
        return Step("mend that, or go on without", shlex.join([*commands.train, SKIP]))
    return Step("mend that, and look again", shlex.join(commands.check))


def _advised(check: DataCheck, commands: Commands) -> dict[str, str]:
    """Return the choices of a training that what was found asks for, and that it takes."""
    counts = [one.parts["training"] for one in check.classes if one.parts["training"]]
    wanted = {}
    if max(counts, default=0) >= _UNEVEN * min(counts, default=1):
        wanted["loss"] = "balanced-softmax"
    if check.folds is None and any(map(_is_poor, check.classes)) and (folds := usual_folds(check)):
        wanted["folds"] = str(folds)
    found: dict[str, str] = {}
    for key, value in wanted.items():
        if commands.takes(found | {key: value}):
            found[key] = value
    return found


def _is_poor(one: ClassImages) -> bool:
    return one.parts["training"] < FEWEST_TRAINED or one.tested < FEWEST_TESTED


def _of_a_study(one: ClassImages, check: DataCheck) -> int:
    """Return the images of a class that a study divides."""
    is_shared_out = check.folder is not None and check.folder.is_shared_out
    held_out = one.parts["test"] if is_shared_out else 0
    return one.parts["training"] + one.parts["validation"] + held_out
