"""What the runs of a group take for what: a heat map, or the commonest errors of many classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmsm_cli.reports.page_tables import GroupRow

# A heat map of more classes cannot be read: the largest entries are listed instead.
_MATRIX_CLASSES = 20
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
    if size > _MATRIX_CLASSES:
        return Confusions(row, tuple(names), commonest=_commonest(matrix, names))
    return Confusions(row, tuple(names), matrix, tuple(map(sum, matrix)))


def _commonest(matrix: Sequence[Sequence[int]], names: Sequence[str]) -> tuple[tuple[str, str, int, float], ...]:  # fmt: skip
    errors = sorted(
        (-images, true, guess)
        for true, line in enumerate(matrix)
        for guess, images in enumerate(line)
        if images and true != guess
    )
    return tuple(
        (names[true], names[guess], -images, -images / sum(matrix[true]))
        for images, true, guess in errors[:_CONFUSIONS_SHOWN]
    )
