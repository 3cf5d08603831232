"""Which class was taken for which: the confusion that scores hold, dense or sparse, as one form."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lmsm_cli.metrics import Scores, SparseConfusion


@dataclass(frozen=True)
class Confusion:
    """Which class was taken for which: the cells that hold images, of however many classes."""

    num_classes: int
    cells: Mapping[tuple[int, int], int]
    """(true class, predicted class) -> images, above 0."""

    def totals(self) -> list[int]:
        """Return the images of each true class."""
        totals = [0] * self.num_classes
        for (true, _), images in self.cells.items():
            totals[true] += images
        return totals

    def in_order(self, order: Sequence[int]) -> "Confusion":
        """Return the confusion of the same classes, numbered as they come in `order`."""
        places = {number: place for place, number in enumerate(order)}
        cells = {(places[true], places[guess]): n for (true, guess), n in self.cells.items()}
        return Confusion(self.num_classes, cells)

    def matrix(self) -> list[list[int]]:
        """Return all cells, rows = true class; ask for it where there are few classes."""
        rows = [[0] * self.num_classes for _ in range(self.num_classes)]
        for (true, guess), images in self.cells.items():
            rows[true][guess] = images
        return rows

    def commonest_errors(self, most: int) -> list[tuple[int, int, int, float]]:
        """Return the largest errors: (true class, predicted class, images, share of the class)."""
        errors = sorted(
            (-images, *cell) for cell, images in self.cells.items() if cell[0] != cell[1]
        )
        totals = self.totals()
        return [
            (true, guess, -images, -images / totals[true]) for images, true, guess in errors[:most]
        ]


def confusion_of(scores: Scores) -> Confusion | None:
    """Return the confusion, stored dense or sparse; None where it is not one of the classes."""
    stored, size = scores.confusion, len(scores.per_class)
    if isinstance(stored, SparseConfusion):
        counted = zip(stored.rows, stored.columns, stored.counts, strict=True)
        cells = {(true, guess): n for true, guess, n in counted if n}
        return Confusion(size, cells) if stored.num_classes == size else None
    if [len(row) for row in stored] != [size] * size:
        return None
    rows = enumerate(stored)
    cells = {(true, guess): n for true, row in rows for guess, n in enumerate(row) if n}
    return Confusion(size, cells)
