"""What the benchmark of the loss compares, and how a comparison is timed and written down.

The arms are softmax, L-Softmax with each margin, and softmax again, on the same inputs. Each call
is a forward pass and a backward pass to features and weights, from gradients that are None.
"""

import random
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from timeit import Timer
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # measures this checkout, installed or not

from lmsm_cli import l_softmax_loss  # noqa: E402

LAM = 0.7  # neither term of the annealed target vanishes
MARGINS = (2, 4)
WARM_UP = 3  # turns that are not timed
MIB = 2**20

Step = Callable[[], object]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Values = dict[str, list[float]]


@dataclass(frozen=True)
class Size:
    """The size of a problem, and how many timed turns it gets."""

    classes: int
    turns: int
    batch: int = 256
    width: int = 512
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    @property
    def gradient_bytes(self) -> int:
        """Return the bytes of the gradients of features and weights."""
        return self.dtype.itemsize * self.width * (self.batch + self.classes)


@dataclass(frozen=True)
class Row:
    """A measured value and the bound on it; without a value, `note` says why there is none."""

    what: str
    value: float | None = None
    unit: str = "x"
    target: str = ""
    low: float | None = None
    high: float | None = None
    turns: int | None = None
    note: str = ""
    arms: Values = field(default_factory=dict)
    name: str = ""

    @property
    def verdict(self) -> str:
        """Return pass or miss, nothing without a target or a value."""
        if not self.target or self.value is None:
            return ""
        sign, bound = self.target.split()
        met = self.value <= float(bound) if sign == "<=" else self.value >= float(bound)
        return "pass" if met else "miss"


def softmax(features: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """Return the reference: the mean cross-entropy of a linear layer."""
    return functional.cross_entropy(functional.linear(features, weight), labels)


def l_softmax(margin: int, lam: float = LAM, **options: Any) -> Loss:
    """Return the measured loss as a function of features, weights and labels."""
    return partial(l_softmax_loss, margin=margin, lam=lam, **options)


def losses_of(**options: Any) -> dict[str, Loss]:
    """Return the arms; how far softmax again is from softmax is what a ratio cannot resolve."""
    ours = {f"margin {margin}": l_softmax(margin, **options) for margin in MARGINS}
    return {"softmax": softmax, **ours, "softmax again": softmax}


def inputs(size: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Return features from N(0, 1), weights as nn.Linear starts them, and labels.

    They are drawn on the device: ten million class weights take the host a minute.
    """
    torch.manual_seed(size.classes)
    bound, where = size.width**-0.5, {"device": size.device}
    features = torch.randn(size.batch, size.width, **where)
    weight = torch.empty(size.classes, size.width, **where).uniform_(-bound, bound)
    labels = torch.randint(size.classes, (size.batch,), **where)
    features, weight = (t.to(size.dtype).requires_grad_() for t in (features, weight))
    return features, weight, labels


def call(loss: Callable[[], Tensor]) -> None:
    """Make a forward and a backward pass."""
    torch.autograd.backward(loss())


def steps_of(losses: Mapping[str, Loss], size: Size) -> tuple[Mapping[str, Step], Step]:
    """Return a call of each loss on the same inputs, and what sets their gradients to None."""
    features, weight, labels = inputs(size)
    steps = {
        name: partial(call, partial(loss, features, weight, labels))
        for name, loss in losses.items()
    }
    return steps, partial(clear, [features, weight])


def clear(tensors: Sequence[Tensor]) -> None:
    """Set gradients to None."""
    for tensor in tensors:
        tensor.grad = None


def cpu_timer(step: Step, clear: Step) -> Callable[[], float]:
    """Return a function that clears, then makes the step, and returns the step's milliseconds."""
    timer = Timer(step, setup=clear)
    return lambda: 1000 * timer.timeit(1)


def take_turns(timers: dict[str, Callable[[], float]], turns: int) -> Values:
    """Return what each timer measured, turn after turn, in a new order each turn.

    In a fixed order, at C = 10, softmax after margin 4 was 12 to 34% slower than softmax after
    softmax in each of four runs; in a new order each turn the two differed by 1 to 7%, either way.
    """
    order, shuffle = list(timers), random.Random(0).shuffle
    values: Values = {name: [] for name in timers}
    for _ in range(WARM_UP + turns):
        shuffle(order)
        for name in order:
            values[name].append(timers[name]())
    return {name: each[WARM_UP:] for name, each in values.items()}


def time_in_turns(steps: Mapping[str, Step], clear: Step, turns: int) -> Values:
    """Return the milliseconds of each step on the CPU, turn after turn."""
    return take_turns({name: cpu_timer(step, clear) for name, step in steps.items()}, turns)


def spread(values: list[float]) -> dict[str, Any]:
    """Return a row's range, the 20th to 80th percentile, and the number of turns behind it."""
    if len(values) < 2:
        return {}
    low, *_, high = quantiles(values, n=5, method="inclusive")
    return {"low": low, "high": high, "turns": len(values)}


def slower(arms: Values) -> list[float]:
    """Return the values of the margin whose median is larger."""
    return max((arms[f"margin {margin}"] for margin in MARGINS), key=median)


def value_row(what: str, unit: str, target: str, values: list[float]) -> Row:
    """Return the row of a median."""
    return Row(what, median(values), unit, target, **spread(values))


def ratio_row(
    what: str, target: str, top: list[float], bottom: list[float], arms: Values, unit: str = "ms"
) -> Row:
    """Return the row of a ratio of medians, with the range of the ratio within a turn."""
    ratios = [a / b for a, b in zip(top, bottom, strict=True)]
    note = ", ".join(f"{name} {median(values):.4g}" for name, values in arms.items())
    return Row(
        what,
        median(top) / median(bottom),
        "x",
        target,
        **spread(ratios),
        note=f"{note} {unit}",
        arms=arms,
    )


def over_softmax(what: str, target: str, arms: Values, unit: str = "ms") -> Row:
    """Return the row of the slower margin's ratio to softmax."""
    return ratio_row(what, target, slower(arms), arms["softmax"], arms, unit)
