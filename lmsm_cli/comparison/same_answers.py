"""Which groups of a comparison are one: they say the same of every test image in every seed.

Losses that are equal in truth, such as balanced softmax and logit adjustment with tau 1, are one
hypothesis. Were each counted by itself, Holm's correction would take power from all the others.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

from lmsm_cli.comparison.answers import Answers
from lmsm_cli.comparison.records import Group
from lmsm_cli.comparison.samples import Sample, values

# Trainings that are equal but for rounding have scores that differ by less, as the calibration
# error does; a temperature moves that error, and no answer, by more.
_DIGITS = 6


@dataclass(frozen=True)
class SameAnswers:
    """What the groups on one set of test images said, by their numbers."""

    members: Mapping[int, Sequence[Sample]]
    said: Mapping[int, Hashable]
    """Equal keys, the same answers; None where they are not known."""

    @classmethod
    def of(cls, members: Mapping[int, Sequence[Sample]], answers: Answers | None) -> "SameAnswers":
        """Return it of groups by their numbers; no two are the same where nothing is known."""
        said = {n: answers.said_by(own) if answers else None for n, own in members.items()}
        return cls(members, said)

    def hypothesis(self, number: int, baseline: int | None, key: str) -> Hashable:
        """Return what a difference of a score tests: equal keys, one hypothesis."""
        return self._name(number, key), baseline is not None and self._name(baseline, key)

    def firsts(self, baselines: Sequence[int | None], key: str | None = None) -> dict[int, int]:
        """Return each group's number with that of the first that is the same: its own mostly.

        A baseline comes first, so that a row says that it is the same as what it is held against.

        Args:
            baselines: Their numbers.
            key: A score in which they must be the same too.
        """
        found: dict[Hashable, int] = {}
        for number in sorted(self.said, key=lambda n: n not in baselines):
            found.setdefault(self._name(number, key), number)
        return {number: found[self._name(number, key)] for number in self.said}

    def _name(self, number: int, key: str | None) -> Hashable:
        """Return what is equal for groups that are the same; its number where nobody knows."""
        said = self.said[number]
        if said is None or key is None:
            return number if said is None else said
        known = values(self.members[number], key)
        return said, frozenset((place, round(value, _DIGITS)) for place, value in known.items())


def notes_on_same_answers(groups: Sequence[Group]) -> list[str]:
    """Say which groups are the same as others, and that they count once."""
    return [
        f"{group.label} and {group.same_as} gave the same answers to every test image"
        f"{' in every seed' if len(group.seeds) > 1 else ''}: they count as one comparison"
        for group in groups
        if group.same_as
    ]
