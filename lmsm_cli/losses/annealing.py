"""Lambda as a pure function of training progress, so that it survives a resume.

The annealed target is (lambda cos + psi) / (1 + lambda): with a large lambda the loss starts as
plain softmax, and the margin arrives as lambda falls. To add a form, add its name to `Form` and
its case to `Annealing`.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict, get_args

from torch import Tensor

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.checks import (
    check_constant,
    in_range,
    is_number,
    readable,
    single_number,
    wrong_type,
)

Form = Literal["power", "exponential", "cosine", "linear", "constant", "none"]

# On long tails the full margin can let rare classes die (benchmarks/LOG.md), so lambda stops where
# this much margin is left. For margin 4 that is lambda 5, the authors' own value for hard data.
USUAL_EFFECTIVE_MARGIN = 1.5
# 1000 is the authors' start. Cosine and linear spend half the run above half their start, so a
# start at which the margin is not felt would postpone it to the last steps.
_USUAL_START = {"power": 1000.0, "exponential": 1000.0, "cosine": 10.0, "linear": 10.0}
_FIELDS_OF: dict[str, set[str]] = {
    "power": {"start", "minimum", "end", "gamma", "power"},
    **{form: {"start", "minimum", "end"} for form in ("exponential", "cosine", "linear")},
    "constant": {"minimum"},
    "none": set(),
}


class AnnealingOptions(TypedDict, total=False):
    """The options of `Annealing` as losses take them, each None where the usual value holds."""

    anneal: Annotated[Form, "power"]
    lambda_start: float | None
    lambda_min: float | None
    anneal_end: float | None
    gamma: float | None
    power: float | None


# What the options are called in `Annealing`.
_FIELDS = {"lambda_start": "start", "lambda_min": "minimum", "anneal_end": "end"}


def unused_options(form: Form) -> list[str]:
    """Return the options that have no effect with a form."""
    names = AnnealingOptions.__annotations__.keys() - {"anneal"}
    return [name for name in names if _FIELDS.get(name, name) not in _FIELDS_OF[form]]


@dataclass(frozen=True)
class Annealing:
    """Lambda over a training: `Annealing("cosine", start=10, minimum=1)(progress)`.

    `progress` runs from 0 to 1, as a number or a tensor; `at_step` takes a step instead.
    With x = progress / end, at most 1:
    * `power`: max(minimum, start (1 + gamma x)^-power), the authors' law. In the iteration t of T
      it is start (1 + gamma' t)^-power with gamma' = gamma / T. Their CIFAR-10 example has gamma' =
      2e-5 and power 45. The paper trains for T = 18,000, hence gamma 0.36, and lambda ends at
      0.001. The example itself trains for T = 30,000, gamma 0.6; its last lambdas are too small to
      change the loss.
    * `exponential`: (1 + start)^(1-x) (1 + minimum)^x - 1. It is 1 + lambda that falls
      geometrically, so minimum 0 is reached, and effective margin - 1 grows geometrically.
    * `cosine`: minimum + (start - minimum) (1 + cos(pi x)) / 2.
    * `linear`: start + (minimum - start) x.
    * `constant`: minimum. `none`: 0, the full margin from the first step.
    `start` is 1000 by default, 10 for cosine and linear, and at least 4 times the minimum. `end` is
    the progress at which the minimum is reached (`power`: x is 1). Raises ArgumentError for values
    out of range.

    >>> Annealing("linear", start=10, minimum=1)(0.5)
    5.5
    """

    form: Form = "power"
    start: float | None = None
    minimum: float = 0.0
    end: float = 1.0
    gamma: float = 0.36
    power: float = 45.0

    def __post_init__(self) -> None:
        if not isinstance(self.form, str) or self.form not in get_args(Form):
            raise ArgumentError(f"anneal is {self.form!r}: give {', '.join(get_args(Form))}")
        in_range("lambda_min", self.minimum, 0)
        in_range("gamma", self.gamma, 0)
        in_range("power", self.power, 0)
        if self.start is None:
            usual = _USUAL_START.get(self.form, 0.0)
            falls = 4 * self.minimum if self.form in _USUAL_START else self.minimum
            object.__setattr__(self, "start", max(usual, falls))
        in_range("lambda_start", self.start, 0)
        if not is_number(self.end) or not 0 < self.end <= 1:
            raise ArgumentError(
                f"anneal_end is {self.end!r}: give a share of the training, above 0 and at most 1"
            )
        if self._start < self.minimum and self.form not in ("constant", "none"):
            raise ArgumentError(
                f"lambda_min {self.minimum:g} is above lambda_start {self._start:g}: "
                f"lambda falls; give both"
            )

    @classmethod
    def of(cls, options: AnnealingOptions, usual_minimum: float) -> "Annealing":
        """Return the annealing of options; `usual_minimum` stands in for a lambda_min of None.

        Raises ArgumentError for values out of range, and for an option that the form does not use.
        """
        given: dict[str, Any] = {k: v for k, v in options.items() if v is not None}
        form = options.get("anneal", "power")
        given.pop("anneal", None)
        if not isinstance(form, str) or form not in _FIELDS_OF:
            return cls(form)  # which says what it takes
        if form != "none":
            given.setdefault("lambda_min", usual_minimum)
        for name in given:
            if _FIELDS.get(name, name) not in _FIELDS_OF[form]:
                raise ArgumentError(f"{name} has no effect with anneal={form}")
        return cls(form, **{_FIELDS.get(name, name): value for name, value in given.items()})

    @property
    def _start(self) -> float:
        return self.start or 0.0

    def __call__(self, progress: float | Tensor) -> float | Tensor:
        """Return lambda at a progress in [0, 1], of its type."""
        progress = checked_progress(progress)
        x = progress / self.end
        x = x.clamp(max=1.0) if isinstance(x, Tensor) else min(x, 1.0)
        match self.form:
            case "power":
                low, value = self.minimum, self._start * (1 + self.gamma * x) ** -self.power
                return value.clamp_min(low) if isinstance(value, Tensor) else max(value, low)
            case "exponential":
                ratio = (1 + self.minimum) / (1 + self._start)
                return (1 + self._start) * ratio**x - 1
            case "cosine":
                wave = (x * math.pi).cos() if isinstance(x, Tensor) else math.cos(x * math.pi)
                return self.minimum + (self._start - self.minimum) * (1 + wave) / 2
            case "linear":
                return self._start + (self.minimum - self._start) * x
            case "constant":
                return self.minimum
            case "none":
                return 0.0

    def at_step(self, step: int, num_steps: int) -> float:
        """Return lambda at a step, counted from 0, of a training of `num_steps`.

        The step is all its state, so a resumed training continues with its lambda.
        """
        numbers = is_number(step) and is_number(num_steps)
        if not (numbers and step >= 0 and 1 <= num_steps < math.inf):
            raise ArgumentError(
                f"step is {step!r} of {num_steps!r}: give a step from 0 of at least one"
            )
        return float(self(min(step / num_steps, 1.0)))


_SHARE = "give the share of the training that is done"


def checked_progress(progress: Any) -> float | Tensor:
    """Return a progress, a number or a tensor. Raises ArgumentError where it is not within 0 to 1.

    The values of a tensor are read only where that makes nothing wait.
    """
    if isinstance(progress, Tensor):
        check_constant("progress", progress)
        if readable(progress):
            for value in progress.flatten().tolist():
                _check_share(value)
        return progress
    if not is_number(progress):
        raise wrong_type("progress is", progress, f"{_SHARE}, a number from 0 to 1")
    _check_share(progress)
    return float(progress)


def scalar_progress(progress: float | Tensor) -> float | Tensor:
    """Return a checked progress; a tensor must hold one number, and is returned as ()."""
    if isinstance(progress, Tensor):
        progress = single_number("progress", progress)
    return checked_progress(progress)


def _check_share(progress: float) -> None:
    if not 0 <= progress <= 1:
        raise ArgumentError(f"progress is {progress:g}: {_SHARE}, 0 to 1")


def effective_margin(margin: float, lam: float) -> float:
    """Return the margin that is left under lambda: 1 + (margin - 1) / (1 + lambda).

    psi at 90 degrees is 1 - margin for every integer margin, and the annealed target there is
    (1 - margin) / (1 + lambda): this is the margin m with 1 - m equal to it.
    """
    return 1 + (margin - 1) / (1 + lam)


def lambda_for(margin: float, effective: float) -> float:
    """Return the lambda that leaves `effective` of the margin, 0 where the margin is smaller."""
    return max(0.0, (margin - 1) / (effective - 1) - 1)
