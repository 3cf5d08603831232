"""Tables of predictions: a row for each image, or below each image a row for each class."""

import re
from collections.abc import Mapping
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lmsm_cli.reports.tables import NOTHING, epoch_words, new_table, percent, shown

_MEASURING = Console(width=10_000)  # nothing is ever printed on it


def predictions_table(document: Mapping[str, Any], width: int | None = None) -> Table:
    """Return a row for each image file: its likeliest classes with percent, or an error.

    Where that is wider than `width`, there is a row for each class below the file, so that no name
    is broken.
    """
    table = _predictions_beside(document)
    if width is None or _natural_width(table) <= width:
        return table
    return _predictions_below(document, width)


def _title_of_predictions(document: Mapping[str, Any]) -> str:
    epoch = epoch_words(document["epoch"], document["epochs"], document["is_best"])
    corrected = ", corrected" if document.get("correction") else ""
    return f"Likeliest classes ({epoch}{corrected})"


def _predictions_beside(document: Mapping[str, Any]) -> Table:
    """Return a row for each image file."""
    table = new_table(_title_of_predictions(document), "file")
    for rank in range(1, document["top"] + 1):
        table.add_column(str(rank), overflow="fold")
        table.add_column("%", justify="right", no_wrap=True)
    if document["num_failed"]:
        table.add_column("error", overflow="fold")
    for one in document["images"]:
        pairs = [(shown(p["class"]), percent(p["probability"])) for p in one["predictions"]]
        pairs = pairs or [(Text(NOTHING), NOTHING)] * document["top"]
        cells = (cell for pair in pairs for cell in pair)
        table.add_row(shown(one["file"]), *cells, shown(one["error"] or ""))
    return table


def _predictions_below(document: Mapping[str, Any], width: int) -> Table:
    """Return a row for each likely class of each image file, the file in the first of them."""
    table = new_table(_title_of_predictions(document), "file", "class")
    table.add_column("%", justify="right", no_wrap=True)
    room = width * 3 // 5
    names = [folded_path(one["file"], room) for one in document["images"]]
    # a column that may fold gives way to long names of classes
    table.columns[0].no_wrap = all(cell_len(line) <= room for name in names for line in name)
    for one, lines in zip(document["images"], names, strict=True):
        rows = [(shown(p["class"]), percent(p["probability"])) for p in one["predictions"]]
        rows = rows or [(shown(one["error"] or NOTHING), NOTHING)]
        name = Text("\n").join(map(shown, lines))
        for place, row in enumerate(rows):
            table.add_row("" if place else name, *row)
    return table


def folded_path(path: str, width: int) -> list[str]:
    """Return a path in lines that end behind a separator; a longer name stays whole.

    >>> folded_path("photos/new/a long name.jpg", 20)
    ['photos/new/', 'a long name.jpg']
    """
    lines = [""]
    for piece in re.findall(r"[^/]*/|[^/]+$", path):
        if lines[-1] and cell_len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return lines


def _natural_width(table: Table) -> int:
    """Return the columns that a table takes where nothing of it is folded."""
    return _MEASURING.measure(table).maximum
