"""Which runs of a comparison are not finished: their scores are of an epoch that is not the last.

So it is where a run was made longer, and ended or still trains: scores.json is that of before.
"""

from collections.abc import Sequence

from lmsm_cli.errors import listed
from lmsm_cli.runs.record import RunRecord, read_run

_MOST_NAMES = 3
# A run that was killed could not write that it ended.
_IN_WORDS = {"running": "running or killed", "interrupted": "interrupted", "failed": "failed"}


def notes_on_unfinished(records: Sequence[RunRecord]) -> list[str]:
    """Return which scored runs are not finished, and after which epoch their scores are.

    Of folds that are one run each is told by its own name.
    """
    found = [one for record in records for one in _folders(record) if _is_unfinished(one)]
    if not found:
        return []
    return [
        f"not finished: {listed([_told(one) for one in found], _MOST_NAMES)}; "
        "`lmsm resume RUN` goes on with one"
    ]


def _folders(record: RunRecord) -> list[RunRecord]:
    """Return what is known of each run folder of a run; of results of other programs nothing."""
    if record.is_outside:
        return []
    return [read_run(path, with_metrics=False) for path in record.folds] or [record]


def _is_unfinished(record: RunRecord) -> bool:
    if record.state in _IN_WORDS:
        return True
    done, planned = record.epochs_of_scores or (0, 0)
    return done < planned and not record.is_stopped_early


def _told(record: RunRecord) -> str:
    """Return a run with its state, where that tells why, and the epoch of its scores."""
    parts = [_IN_WORDS[record.state]] if record.state in _IN_WORDS else []
    if record.epochs_of_scores:
        done, planned = record.epochs_of_scores
        parts.append(f"scores of epoch {done} of {planned}")
    return f"{record.name} ({'; '.join(parts)})"
