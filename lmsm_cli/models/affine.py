"""A correction of logits as one factor and one shift a class, which a classifier can have built in.

Logit adjustment, tau-normalisation, a temperature, and the class shares where a model is used are
all of this form, one after another too. A margin or a training loss never sees it.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from lmsm_cli.errors import LmsmError


@dataclass(frozen=True)
class Affine:
    """The map of logits z (N, C) to scale * z + shift, both (C,) and float64.

    Raises LmsmError for numbers beyond float32, in which logits are, and factors that are not
    above 0.
    """

    scale: Tensor
    shift: Tensor

    def __post_init__(self) -> None:
        scale, shift = self.scale.float(), self.shift.float()
        if not ((scale > 0) & scale.isfinite() & shift.isfinite()).all():
            raise LmsmError("the corrected scores leave the range of float32")

    @classmethod
    def scaled(cls, scale: Tensor) -> Self:
        """Return the map that multiplies by `scale` (C,)."""
        return cls(scale.double(), torch.zeros(len(scale), dtype=torch.float64))

    @classmethod
    def shifted(cls, shift: Tensor) -> Self:
        """Return the map that adds `shift` (C,)."""
        return cls(torch.ones(len(shift), dtype=torch.float64), shift.double())

    def then(self, other: "Affine") -> "Affine":
        """Return the one map that is this one and then the other."""
        return Affine(other.scale * self.scale, other.scale * self.shift + other.shift)

    def of(self, logits: Tensor) -> Tensor:
        """Return the corrected logits (N, C), in the precision and on the device of the logits."""
        return logits * self.scale.to(logits) + self.shift.to(logits)
