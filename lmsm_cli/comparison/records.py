"""What a comparison is: groups of runs, their statistics, and the runs that are left out."""

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lmsm_cli.comparison.intervals import Difference

Finding = Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (None for one run) over n runs."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class ClassStatistic:
    """The accuracy of one class in a group of runs."""

    name: str
    train_count: int | None
    test_count: int
    accuracy: Statistic | None


@dataclass(frozen=True)
class Group:
    """Runs of one configuration; `test_set` numbers the distinct sets of test images."""

    label: str
    differs: dict[str, Any]
    test_set: int
    seeds: tuple[int | None, ...]
    runs: tuple[str, ...]
    metrics: dict[str, Statistic | None]
    per_class: tuple[ClassStatistic, ...]
    is_baseline: bool = False
    differences: dict[str, Difference | None] = field(default_factory=dict)
    """To the baseline, by score; empty for the baseline itself, and where there is none."""
    verdict: str = ""
    """What the differences say, in words."""
    best: tuple[str, ...] = ()
    """The scores in which it is the best, and told from every other group on its test images."""
    remarks: tuple[str, ...] = ()
    """What hints that it was trained too briefly."""
    folds: tuple[tuple[str, ...], ...] = ()
    """For each of `runs` the run folders of all folds; empty where runs are not pooled folds."""
    same_as: str = ""
    """The label of another group that gave the same answers to every test image in every seed."""
    images: dict[str, str | None] | None = None
    """The digests of the training, validation and test images; None where they are not known."""

    @property
    def num_folders(self) -> int:
        """The run folders that it is made of."""
        return sum(map(len, self.folds)) or len(self.runs)


@dataclass(frozen=True)
class Unscored:
    """A run that is left out, and why."""

    run: str
    reason: str


@dataclass(frozen=True)
class Conclusion:
    """The answer on one set of test images."""

    text: str
    """One or two sentences."""
    finding: Finding
    """`better` where a group is told to be better than its baseline, else `worse`, else `open`."""


@dataclass(frozen=True)
class Comparison:
    """Groups of runs in the order of their test sets, and the runs that are in no group."""

    differing: tuple[str, ...]
    groups: tuple[Group, ...]
    unscored: tuple[Unscored, ...]
    notes: tuple[str, ...] = ()
    """What a reader must know of how the groups were made."""
    conclusions: tuple[Conclusion, ...] = ()
    """The answer on each set of test images, by its number."""
    size: float = 0.05
    """The difference for which the number of seeds is told."""
    nets: tuple[str, ...] = ()
    """The nets of the groups, each with its weights and its features for the last layer."""

    def by_test_set(self) -> list[list[tuple[int, Group]]]:
        """Return the groups, numbered from 1, apart for each set of test images."""
        peers: dict[int, list[tuple[int, Group]]] = {}
        for number, group in enumerate(self.groups, 1):
            peers.setdefault(group.test_set, []).append((number, group))
        return list(peers.values())

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as plain lists, dicts and numbers."""
        document: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return document
