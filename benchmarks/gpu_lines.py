"""The file that `gpu.sh` leaves, OUT/gpu.jsonl: its lines, and the table that they make.

The first line tells of the machine, each other one is a row. Imports no torch.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from gpu_plan import PLAN, Planned, Section
from train_rows import COMPARISONS

FILE = "gpu.jsonl"
TRY_OUT, NOT_BEGUN = "try-out", "not begun"
UNMEASURED = "**unmeasured**: no GPU was at hand; `sh benchmarks/gpu.sh OUT` fills them."
HEADING = ("no.", "section", "row", "value", "p20 to p80", "n", "target", "of the floor", "verdict")


@dataclass(frozen=True)
class Line:
    """A row as it was measured, or why it was not."""

    section: str
    row: str
    number: str = ""
    value: float | None = None
    unit: str = ""
    target: str = ""
    verdict: str = ""
    p20: float | None = None
    p80: float | None = None
    n: int = 0
    floor: float | None = None
    """What the card's measured peaks leave as the best value, in the row's unit."""
    share: float | None = None
    """How near the value is to its floor: 1 is there."""
    seconds: float | None = None
    """What the row took to measure."""
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return what stands in the table."""
        value = "" if self.value is None else f"{self.value:.4g} {self.unit}".rstrip()
        between = "" if self.p20 is None else f"{self.p20:.4g} to {self.p80:.4g}"
        share = "" if self.share is None else f"{self.share:.0%}"
        number = str(self.n or "")
        names = (self.number, self.section, self.row)
        target = f"{self.target} {self.unit}".rstrip() if self.target and not value else self.target
        return (*names, value, between, number, target, share, self.verdict)


@dataclass(frozen=True)
class Measured:
    """What a part of a section gives for a planned row: its value, and the spread of its turns."""

    name: str
    value: float | None
    p20: float | None = None
    p80: float | None = None
    n: int = 1
    note: str = ""
    target: str = ""
    """What another script asks of this row, which must be what is planned."""
    failure: str = ""

    @classmethod
    def of(cls, name: str, values: Sequence[float], value: float | None = None) -> "Measured":
        """Return the median of some values, or another value with their spread."""
        low = high = None
        if len(values) > 1:
            low, *_, high = quantiles(values, n=5, method="inclusive")
        return cls(name, median(values) if value is None else value, low, high, len(values))


def line_of(section: Section, planned: Planned, **found: Any) -> Line:
    """Return the line of a planned row."""
    return Line(
        section.name,
        planned.name,
        planned.number,
        unit=planned.unit,
        target=planned.target,
        **found,
    )


def measured_line(line: Line, found: Measured, *, is_try: bool) -> Line:
    """Return a line with what was found, and its verdict."""
    assert found.target in ("", line.target), f"{line.row}: {found.target} is asked elsewhere"
    if found.failure or found.value is None:
        return replace(line, verdict=f"failed: {found.failure}", note=found.note)
    return replace(
        line,
        value=found.value,
        verdict=TRY_OUT if is_try else verdict_on(found.value, line.target),
        p20=found.p20,
        p80=found.p80,
        n=found.n,
        note=found.note,
    )


def verdict_on(value: float, target: str) -> str:
    """Return `met` or `MISSED`, nothing without a target (`<= 3`, `0.9 to 1.1`)."""
    if not target:
        return ""
    if " to " in target:
        low, high = map(float, target.split(" to "))
        return "met" if low <= value <= high else "MISSED"
    sign, bound = target.split()
    return "met" if COMPARISONS[sign](value, float(bound)) else "MISSED"


def with_floor(line: Line, planned: Planned, peaks: Mapping[str, float]) -> Line:
    """Return a line with its floor, by a card's `tflops` and `terabytes` a second."""
    if line.value is None or not planned.work or not peaks:
        return line
    seconds = planned.work.seconds(peaks["tflops"], peaks["terabytes"])
    if planned.unit == "img/s":
        floor = 1 / seconds
        return replace(line, floor=floor, share=line.value / floor)
    floor = seconds * {"s": 1, "ms": 1e3, "us": 1e6}[planned.unit]
    return replace(line, floor=floor, share=floor / line.value)


class Kept:
    """The lines of an OUT folder; what is added stands on the disk at once."""

    def __init__(self, out: Path, name: str = FILE) -> None:
        self.path = out / name
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            with self.path.open("a") as file:  # a kill cut the last line off
                file.write("\n")
        self.machine: dict[str, Any] = {}
        self.lines: dict[tuple[str, str], Line] = {}
        for entry in _entries(self.path):
            if "machine" in entry:
                self.machine = entry["machine"]
            else:
                line = Line(**entry)
                self.lines[line.section, line.row] = line

    def add(self, entry: Line | dict[str, Any]) -> None:
        """Write a line."""
        values = asdict(entry) if isinstance(entry, Line) else entry
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if isinstance(entry, Line):
            self.lines[entry.section, entry.row] = entry

    def missing(self, section: Section, *, again: bool = False) -> list[Planned]:
        """Return the rows of a section that have no line; with `again` no value either."""
        lines = {row: self.lines.get((section.name, row.name)) for row in section.rows}
        return [
            row for row, line in lines.items() if line is None or (again and line.value is None)
        ]

    @property
    def peaks(self) -> dict[str, float]:
        """The card's peaks that floors are worked out from, empty where they were not measured."""
        rows = {"tflops": "bf16 peak, 8192^3", "terabytes": "copy, read and write"}
        lines = {key: self.lines.get(("facts", row)) for key, row in rows.items()}
        found = {key: line.value for key, line in lines.items() if line and line.value}
        return found if len(found) == len(rows) else {}

    def planned(self) -> Iterator[Line]:
        """Yield a line for each planned row, in order."""
        for section in PLAN:
            for row in section.rows:
                nothing = line_of(section, row, verdict=NOT_BEGUN)
                yield self.lines.get((section.name, row.name), nothing)


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a file; the last one may have been cut off by a kill."""
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(text)
        except json.JSONDecodeError:
            continue


def table(kept: Kept) -> str:
    """Return the rows against their targets as Markdown, with what the numbers depend on."""
    facts = ", ".join(f"{key} {value}" for key, value in kept.machine.items())
    return f"{facts}\n\n{_markdown(list(kept.planned()))}"


def results(folder: Path) -> str:
    """Return the rows with a number of the files (*.jsonl) that a folder keeps, as Markdown.

    Where it keeps none they stand there unmeasured.
    """
    found = [Kept(path.parent, path.name) for path in sorted(folder.glob("*.jsonl"))]
    if found:
        return "\n".join(f"**{kept.path.stem}**: {table(kept)}" for kept in found)
    rows = [line_of(section, row) for section in PLAN for row in section.rows]
    asked = [replace(row, verdict="unmeasured") for row in rows if row.number and row.target]
    return f"{UNMEASURED}\n\n{_markdown(asked)}"


def _markdown(lines: Sequence[Line]) -> str:
    """Return a table of lines, without the columns in which nothing stands."""
    rows = [HEADING, *(line.cells() for line in lines)]
    kept = [n for n in range(len(HEADING)) if any(row[n] for row in rows[1:])]
    cells = [[row[n] for n in kept] for row in rows]
    return "".join(
        f"| {' | '.join(row)} |\n" for row in [cells[0], ["---"] * len(kept), *cells[1:]]
    )
