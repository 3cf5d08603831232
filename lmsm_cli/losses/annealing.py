"""Lambda as a pure function of training progress, so that it survives a resume.

The annealed target is (lambda cos + psi) / (1 + lambda): with a large lambda the loss starts as
plain softmax, and the margin arrives as lambda falls. To add a form, add its name to `Form` and
its case to `Annealing`.
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from torch import Tensor

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.margins import check_constant, readable

# What any option of a loss may be: beyond this float32 logits run out of range, and losses are NaN.
LARGEST_OPTION = 1e9

Form = Literal["power", "exponential", "cosine", "linear", "constant", "none"]

# On long tails the full margin can let rare classes die (benchmarks/LOG.md): there lambda stays where
# this much margin is left. For margin 4 that is lambda 5, the authors' own value for hard data.
USUAL_EFFECTIVE_MARGIN = 1.5
# 1000 is the authors' start. Cosine and linear spend half the run above half their start, so a
# start at which the margin is not felt would postpone it to the last steps.
_USUAL_START = {"power": 1000.0, "exponential": 1000.0, "cosine": 10.0, "linear": 10.0}
_OPTIONS = {
    "power": {"start", "minimum", "end", "gamma", "power"},
    **{form: {"start", "minimum", "end"} for form in ("exponential", "cosine", "linear")},
    "constant": {"minimum"},
    "none": set(),
}
# What the heads call them.
_SPEC_NAMES = {"start": "lambda_start", "minimum": "lambda_min", "end": "anneal_end"}


@dataclass(frozen=True)
class Annealing:
    """Lambda over a training: `Annealing("cosine", start=10, minimum=1)(progress)`.

    `progress` runs from 0 to 1, as a number or a tensor; `at_step` takes a step instead.
    With x = progress / end, at most 1:
    * `power`: max(minimum, start (1 + gamma x)^-power), the authors' law. In the iteration t of T it
      is start (1 + gamma' t)^-power with gamma' = gamma / T. Their CIFAR-10 example has gamma' = 2e-5
      and power 45. The paper trains for T = 18,000, hence gamma 0.36, and lambda ends at 0.001; the
      example itself goes on to T = 30,000, which is gamma 0.6, through lambdas that no loss can feel.
    * `exponential`: (1 + start)^(1-x) (1 + minimum)^x - 1. It is 1 + lambda that falls
      geometrically, so minimum 0 is reached, and effective margin - 1 grows geometrically.
    * `cosine`: minimum + (start - minimum) (1 + cos(pi x)) / 2.
    * `linear`: start + (minimum - start) x.
    * `constant`: minimum. `none`: 0, the full margin from the first step.
    `start` is 1000 by default, 10 for cosine and linear, and at least 4 times the minimum. `end` is
    the progress at which the minimum is reached (`power`: the law has run its course). Raises ArgumentError for values out of range.

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
        _check_range(lambda_min=self.minimum, gamma=self.gamma, power=self.power)
        if self.start is None:
            usual = _USUAL_START.get(self.form, 0.0)
            falls = 4 * self.minimum if self.form in _USUAL_START else self.minimum
            object.__setattr__(self, "start", max(usual, falls))
        _check_range(lambda_start=self.start)
        if not is_number(self.end) or not 0 < self.end <= 1:
            raise ArgumentError(
                f"anneal_end is {self.end!r}: give a share of the training, above 0 and at most 1"
            )
        if self._start < self.minimum and self.form not in ("constant", "none"):
            raise ArgumentError(
                f"lambda_min {self.minimum:g} is above lambda_start {self._start:g}: lambda falls; give both"
            )

    @classmethod
    def of(cls, form: Form, **given: float | None) -> "Annealing":
        """Return the annealing of the given options, None for one that is not given.

        Raises ArgumentError for an option that the form does not use.
        """
        options = {name: value for name, value in given.items() if value is not None}
        if not isinstance(form, str):
            return cls(form)  # which says what it takes
        for name in options.keys() - _OPTIONS.get(form, options.keys()):
            raise ArgumentError(f"{_SPEC_NAMES.get(name, name)} has no effect with anneal={form}")
        return cls(form, **options)

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
                value = self._start * (1 + self.gamma * x) ** -self.power
                return (
                    value.clamp_min(self.minimum)
                    if isinstance(value, Tensor)
                    else max(value, self.minimum)
                )
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
        """Return lambda at a step, counted from 0, of a training of `num_steps`; its last ever after.

        The state is the step, so a training that goes on from a saved step goes on with its lambda.
        """
        numbers = is_number(step) and is_number(num_steps)
        if not (numbers and step >= 0 and 1 <= num_steps < math.inf):
            raise ArgumentError(
                f"step is {step!r} of {num_steps!r}: give a step from 0 of at least one"
            )
        return float(self(min(step / num_steps, 1.0)))


def _check_range(**values: float | None) -> None:
    for name, value in values.items():
        if not is_number(value) or not 0 <= value <= LARGEST_OPTION:  # type: ignore[operator]
            raise ArgumentError(
                f"{name} is {value!r}: give a finite number of at least 0 and at most {LARGEST_OPTION:g}"
            )


def is_number(value: Any) -> bool:
    """Return whether a value is a real number, Python's or NumPy's; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool)


def checked_progress(progress: Any) -> float | Tensor:
    """Return a progress as it is given. Raises ArgumentError for what is no share of a training.

    The values of a tensor are looked at where that costs nothing.
    """
    if isinstance(progress, Tensor):
        check_constant("progress", progress)
        if readable(progress):
            for value in progress.flatten().tolist():
                _check_share(value)
        return progress
    if not is_number(progress):
        raise ArgumentError(
            f"progress is of type {type(progress).__name__}: give the share of the training that is done, a number from 0 to 1"
        )
    _check_share(progress)
    return float(progress)


def _check_share(progress: float) -> None:
    if not 0 <= progress <= 1:
        raise ArgumentError(
            f"progress is {progress:g}: give the share of the training that is done, 0 to 1"
        )


def effective_margin(margin: float, lam: float) -> float:
    """Return the margin that is left under lambda: 1 + (margin - 1) / (1 + lambda).

    psi at 90 degrees is 1 - margin for every integer margin, and the annealed target there is
    (1 - margin) / (1 + lambda): the margin whose own psi has that value, on a line through them.
    """
    return 1 + (margin - 1) / (1 + lam)


def lambda_for(margin: float, effective: float) -> float:
    """Return the lambda that leaves `effective` of the margin, 0 where there is less to begin with."""
    return max(0.0, (margin - 1) / (effective - 1) - 1)
