"""What the runs of a group take for what: a heat map, or the commonest errors of many classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmsm_cli.reports.page_tables import GroupRow
from lmsm_cli.reports.tables import MATRIX_CLASSES
from lmsm_cli.scores import commonest_confusions

_CONFUSIONS_SHOWN = 20


@dataclass(frozen=True)
class Confusions:
    """What a group takes for what, over all its runs: a heat map, or the commonest errors."""

    row: GroupRow
    names: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...] = ()
    totals: tuple[int, ...] = ()
    commonest: tuple[tuple[str, str, int, float], ...] = ()


def confusions_of(row: GroupRow, runs: Sequence[Mapping[str, Any]]) -> Confusions | None:
    """Return the confusions of a group over the scores.json of its runs; None where none are there."""
    names = [one["name"] for one in runs[0]["per_class"]]
    size = len(names)
    square = [
        run["confusion"]
        for run in runs
        if [len(line) for line in run["confusion"]] == [size] * size
    ]
    matrix = tuple(
        tuple(sum(one[true][guess] for one in square) for guess in range(size))
        for true in range(size)
    )
    if not any(map(any, matrix)):
        return None
    if size > MATRIX_CLASSES:
        return Confusions(
            row,
            tuple(names),
            commonest=tuple(
                (names[true], names[guess], *rest)
                for true, guess, *rest in commonest_confusions(matrix, _CONFUSIONS_SHOWN)
            ),
        )
    return Confusions(row, tuple(names), matrix, tuple(map(sum, matrix)))
