"""What the arms of the training benchmark gave, and what a row makes of it: ratio, verdict, line.

Imports no torch; see train.py. To add a kind of verdict, add it to `Row.verdict`.
"""

import operator
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

AVERAGES: dict[str, Callable[[Sequence[float]], float]] = {
    "median": statistics.median,
    "mean": statistics.fmean,
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
LINE = "{:<38}{:<9}{:>10} {:>10} {:>10} {:>8}  {:<8} {}"
# A traceback's last line, also that of one of torchrun's ranks; a message of lmsm; the inside of
# the box that a mistake in a flag is printed in.
ERROR_LINE = re.compile(
    r"^(?:\[rank\d+\]:\s*)?((?:[\w.]*(?:Error|Exception|Interrupt)\b|error:).*)|^│ (.+?) +│"
)


@dataclass
class Row:
    """A measured thing; the target bounds its ratio to `reference`, or its average without one."""

    name: str
    unit: str
    values: list[float]
    reference: list[float] | None = None
    target: str = ""
    average: str = "median"
    failure: str = ""
    """Why an arm of this row gave nothing."""
    unmeasured: str = ""
    """Why this row was not measured."""

    @property
    def value(self) -> float | None:
        """The average over the turns."""
        return AVERAGES[self.average](self.values) if self.values else None

    @property
    def ratio(self) -> float | None:
        """The ratio of the averages, where there is something to compare to."""
        if self.value is None or not self.reference:
            return None
        return self.value / AVERAGES[self.average](self.reference)

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or without a number."""
        number = self.value if self.reference is None else self.ratio
        if not self.target or number is None:
            return None
        sign, bound = self.target.split()
        return COMPARISONS[sign](number, float(bound))

    @property
    def verdict(self) -> str:
        """`met`, `MISSED`, `failed: why`, `unmeasured: why`, or nothing."""
        if self.unmeasured:
            return f"unmeasured: {self.unmeasured}"
        if self.failure:
            return f"failed: {self.failure}"
        return {True: "met", False: "MISSED", None: ""}[self.met]

    def to_json(self) -> dict[str, Any]:
        """Return the row with all values and what follows from them."""
        return asdict(self) | {
            "value": self.value,
            "ratio": self.ratio,
            "met": self.met,
            "verdict": self.verdict,
        }

    def line(self) -> str:
        """Return the row in aligned columns."""
        numbers = ["-"] * 3
        if self.value is not None:
            numbers = [
                f"{number:.5g}" for number in (self.value, min(self.values), max(self.values))
            ]
        ratio = "-" if self.ratio is None else f"{self.ratio:.3f}"
        spread = (
            f"mean; sd {statistics.stdev(self.values):.3g}"
            if self.average == "mean" and len(self.values) > 1
            else ""
        )
        end = "  ".join(text for text in (self.verdict, spread) if text)
        return LINE.format(self.name, self.unit, *numbers, ratio, self.target, end).rstrip()


HEADING = LINE.format("", "unit", "value", "min", "max", "ratio", "target", "").rstrip()


@dataclass
class Numbers:
    """What the arms of a comparison gave turn after turn, each number under `arm.number`."""

    values: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    """Arm -> why it gave nothing."""
    unmeasured: str = ""

    def row(
        self,
        name: str,
        unit: str,
        key: str,
        over: str = "",
        target: str = "",
        average: str = "median",
    ) -> Row:
        """Return the row of a number, compared to the number `over` where that is given."""
        row = self.derived(name, unit, [key], lambda values: values, target)
        row.average = average
        if over:
            row.reference = self.values.get(over, [])
            row.failure = row.failure or self.failure_of([over])
        return row

    def derived(
        self,
        name: str,
        unit: str,
        keys: Sequence[str],
        values_of: Callable[..., Sequence[float]],
        target: str = "",
    ) -> Row:
        """Return the row of what `values_of` makes of the values of `keys`, one list for each."""
        if self.unmeasured:
            return Row(name, unit, [], target=target, unmeasured=self.unmeasured)
        if failure := self.failure_of(keys):
            return Row(name, unit, [], target=target, failure=failure)
        return Row(name, unit, list(values_of(*(self.values[key] for key in keys))), target=target)

    def failure_of(self, keys: Sequence[str]) -> str:
        """Return the first arm of the keys that failed, and why; nothing where none did."""
        arms = (key.split(".")[0] for key in keys)
        return next((f"{arm}: {self.failures[arm]}" for arm in arms if arm in self.failures), "")


def difference_of_means(first: Sequence[float], second: Sequence[float]) -> list[float]:
    """Return how far the two means lie apart."""
    return [abs(statistics.fmean(first) - statistics.fmean(second))]


def line_through(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return a, b and R^2 of seconds = a + b size by least squares."""
    from scipy.stats import linregress

    fit = linregress(sizes, seconds)
    return float(fit.intercept), float(fit.slope), float(fit.rvalue**2)


def scaling_rows(got: Numbers, what: str, targets: tuple[str, str]) -> Iterator[Row]:
    """Yield a, b and R^2 of seconds = a + b images over all turns of the arm `scaling`.

    `targets` are those of a and of R^2.
    """
    keys = list(got.values) or ["scaling"]

    def fit(*seconds: list[float]) -> tuple[float, float, float]:
        sizes = [float(key.split(".")[1]) for key in keys]
        points = [
            (size, each) for size, times in zip(sizes, seconds, strict=True) for each in times
        ]
        return line_through(*zip(*points, strict=True))

    yield got.derived(
        f"seconds of {what} = a + b n: a", "s", keys, lambda *s: [fit(*s)[0]], targets[0]
    )
    yield got.derived("b", "us/img", keys, lambda *s: [1e6 * fit(*s)[1]])
    yield got.derived("R^2", "", keys, lambda *s: [fit(*s)[2]], targets[1])


def first_error(text: str) -> str:
    """Return the first line of a child's stderr that names an error, else its last line, if any."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = (match[1] or match[2] for line in lines if (match := ERROR_LINE.match(line)))
    return next(named, lines[-1] if lines else "")
