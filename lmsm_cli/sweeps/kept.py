"""Which arms of a sweep keep their weights in the end: the baseline and the winner, or all.

The winner is the arm that the comparison tells better than the baseline, by the most. What is held
against no baseline keeps its weights too: nothing speaks against it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lmsm_cli.comparison.conclusion import losers_of
from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.errors import DataError, DiskError, LmsmError
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.runs.weights import drop_weights, has_weights
from lmsm_cli.runtime.display import Display, OncePerPlan
from lmsm_cli.sweeps.plan import PlannedRun, RunIndex
from lmsm_cli.sweeps.sweep import check_alone
from lmsm_cli.training.dry_run import needed_disk

WINNER = "winner"
_BASELINE = "softmax"
_COMMAND = "lmsm sweep --keep winner"


@dataclass(frozen=True)
class Kept:
    """Whose weights stayed in the end."""

    kept: tuple[str, ...]
    """The labels of the arms whose weights were to stay."""
    dropped: tuple[str, ...]
    """Those of the others."""
    num_runs: int
    """Whose weights were removed now."""
    num_bytes: int
    """That this has freed."""
    left: Mapping[Path, str]
    """Runs of the others whose weights stay all the same, each with the reason."""
    gone_before: tuple[Path, ...]
    """Runs whose weights were to stay, and were removed by an earlier command."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain lists, dicts and numbers."""
        return {
            "kept": list(self.kept),
            "dropped": list(self.dropped),
            "runs_dropped": self.num_runs,
            "freed_bytes": self.num_bytes,
            "left": {str(run): reason for run, reason in self.left.items()},
            "gone_before": list(map(str, self.gone_before)),
        }


def check_has_winner(plan: Sequence[PlannedRun]) -> None:
    """Raise LmsmError for a sweep of which no arm can be the winner."""
    losses = {parse_spec(run.config.loss)[0] for run in plan}
    if _BASELINE not in losses:
        raise LmsmError(
            f"--keep {WINNER} holds the arms against {_BASELINE}, and the sweep has no run with "
            f"it: add loss={_BASELINE}, or leave --keep out"
        )
    # of heads on one net, softmax on balanced draws is held against plain softmax
    if losses == {_BASELINE} and all(run.config.freeze != "features" for run in plan):
        raise LmsmError(
            f"--keep {WINNER} holds losses against {_BASELINE}, and the sweep has no other loss: "
            "vary loss, or leave --keep out"
        )


def disk_until_then(
    plan: Sequence[PlannedRun], index: RunIndex, display: Display
) -> dict[str, int] | None:
    """Return the bytes that the missing runs need until weights go, and those that are free.

    One step of the first missing training is tried. None where nothing is missing, or where that
    training fails, as the sweep will tell.

    Raises:
        DataError: The images are missing or bad.
        DiskError: There is too little room for a single run.
    """
    check_alone()
    missing = [one.run for one in index.status(plan) if one.state != "completed"]
    first = next((run for run in missing if run.config.post_hoc is None), None)
    if first is None:
        return None
    try:
        found = needed_disk(first.config, OncePerPlan(display, index.said))
    except (DataError, DiskError):
        raise
    except LmsmError:
        return None
    return found | {"disk_bytes": found["disk_bytes"] * len(missing)}


def drop_losers(comparison: Comparison) -> Kept:
    """Remove the weights of the runs of a whole sweep but those that stay. Raises DiskError."""
    losers = [
        group
        for peers in comparison.by_test_set()
        for group in losers_of([group for _, group in peers])
    ]
    stay = [group for group in comparison.groups if group not in losers]
    done = drop_weights([run for group in losers for run in _folders_of(group)], _COMMAND)
    kept, dropped = (tuple(group.label for group in groups) for groups in (stay, losers))
    gone = [run for group in stay for run in _folders_of(group) if not has_weights(run)]
    return Kept(kept, dropped, done.num_runs, done.num_bytes, done.left, tuple(gone))


def _folders_of(group: Group) -> list[Path]:
    """Return the run folders of a group, those of all folds."""
    return [Path(run) for run in (chain(*group.folds) if group.folds else group.runs)]
