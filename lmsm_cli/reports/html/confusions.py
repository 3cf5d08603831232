"""What the runs of a group take for what: a heat map, or the commonest errors of many classes."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lmsm_cli.metrics import Scores
from lmsm_cli.reports.confusion import Confusion, confusion_of
from lmsm_cli.reports.html.tables import GroupRow
from lmsm_cli.reports.tables import MATRIX_CLASSES
from lmsm_cli.shot_groups import by_train_count

_CONFUSIONS_SHOWN = 20


@dataclass(frozen=True)
class Confusions:
    """What a group takes for what, over all its runs: a heat map, or the commonest errors.

    The classes of a heat map are in order of rarity, the commonest first.
    """

    row: GroupRow
    names: tuple[str, ...]
    train_counts: tuple[int | None, ...] = ()
    matrix: tuple[tuple[int, ...], ...] = ()
    totals: tuple[int, ...] = ()
    commonest: tuple[tuple[str, str, int, float], ...] = ()

    @property
    def never(self) -> tuple[bool, ...]:
        """Whether each class was never predicted."""
        return tuple(not any(column) for column in zip(*self.matrix, strict=True))


def confusions_of(row: GroupRow, runs: Sequence[Scores]) -> Confusions | None:
    """Return the confusions of a group over the scores of its runs; None where none has any."""
    names = tuple(one.name for one in runs[0].per_class)
    cells: Counter[tuple[int, int]] = Counter()
    for run in runs:
        one = confusion_of(run)
        if one and one.num_classes == len(names):
            cells.update(one.cells)
    if not cells:
        return None
    confusion = Confusion(len(names), cells)
    if len(names) > MATRIX_CLASSES:
        errors = confusion.commonest_errors(_CONFUSIONS_SHOWN)
        named = tuple(
            (names[true], names[guess], images, share) for true, guess, images, share in errors
        )
        return Confusions(row, names, commonest=named)
    counts = [one.train_count for one in runs[0].per_class]
    order = by_train_count(counts)
    ordered = confusion.in_order(order)
    return Confusions(
        row,
        tuple(names[number] for number in order),
        tuple(counts[number] for number in order),
        tuple(map(tuple, ordered.matrix())),
        tuple(ordered.totals()),
    )
