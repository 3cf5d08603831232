"""Lambda as a pure function of training progress, so that it survives a resume.

The annealed target is (lambda cos + psi) / (1 + lambda): with a large lambda the loss starts as
plain softmax, and the margin arrives as lambda falls.
"""

from torch import Tensor


def power_law(
    progress: float | Tensor, *, start: float, gamma: float, power: float, minimum: float
) -> float | Tensor:
    """Return lambda = max(minimum, start (1 + gamma progress)^-power) for `progress` in [0, 1].

    The authors' schedule start (1 + gamma' t)^-power in the iteration t, with gamma = gamma' T for
    a run of T iterations: their CIFAR-10 example has gamma' = 2e-5, power 45 and T = 18,000.
    """
    value = start * (1 + gamma * progress) ** -power
    return value.clamp_min(minimum) if isinstance(value, Tensor) else max(value, minimum)


def effective_margin(margin: float, lam: float) -> float:
    """Return the margin that is left under lambda: 1 + (margin - 1) / (1 + lambda).

    psi at 90 degrees is 1 - margin for every integer margin, and the annealed target there is
    (1 - margin) / (1 + lambda): the margin whose own psi has that value.
    """
    return 1 + (margin - 1) / (1 + lam)


def lambda_for(margin: float, effective: float) -> float:
    """Return the lambda that leaves `effective` of the margin: the inverse of `effective_margin`."""
    return (margin - 1) / (effective - 1) - 1
