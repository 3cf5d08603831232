"""The log-sum-exp and its gradient without the (N, C) logits, for very many classes.

The classes are taken a chunk at a time, never the batch: a chunk's weights are read once in each
pass and its gradient is written once, however small the batch. The backward pass computes the
logits again, a fourth matrix product instead of N C numbers kept.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class ChunkedLogits(NamedTuple):
    """The logits of all classes but the label, of which `chunk` classes are held at a time."""

    features: Tensor
    """(N, D), in full precision."""
    weight: Tensor
    """(C, D), in any precision."""
    labels: Tensor
    """(N,); a label outside 0 to C - 1 leaves no class out."""
    offset: Tensor | None
    """(C,), added to the logits."""
    chunk: int

    def rest(self) -> Tensor:
        """Return the log-sum-exp (N,) of the logits of all classes but the label."""
        total = self.features.new_full((len(self.features),), float("-inf"))
        for part in self._parts():
            logits, *_ = self._logits(part)
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
        return total

    def products(
        self, scaled: Tensor, pulls: Tensor, total: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return q W (N, D), and q^T `scaled` less the `pulls` on the labels' rows (C, D).

        q is exp(logits - total), -slope at the label. `total` and `slope` are (N,), `scaled` and
        `pulls` (N, D). The second result has the type of `weight`.
        """
        by_image = torch.zeros_like(self.features)
        by_class = torch.empty_like(self.weight)
        for part in self._parts():
            logits, rows, places, inside = self._logits(part)
            shares = logits.sub_(total[:, None]).exp_()
            _put(shares, places, inside, -slope)
            by_image.addmm_(shares, rows)
            # In full precision: where psi is steep, product and pulls are large and nearly cancel.
            gradient = shares.T @ scaled
            gradient.index_add_(0, places, torch.where(inside[:, None], pulls, 0.0), alpha=-1)
            by_class[part] = gradient
        return by_image, by_class

    def _parts(self) -> Iterator[slice]:
        num_classes = len(self.weight)
        for first in range(0, num_classes, self.chunk):
            yield slice(first, min(first + self.chunk, num_classes))

    def _logits(self, part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the logits of a chunk, -inf at the label, and the weights of the chunk.

        The third and fourth result are the columns of the labels, and whether they are inside.
        """
        rows = self.weight[part].to(self.features.dtype)
        offset = None if self.offset is None else self.offset[part]
        logits = functional.linear(self.features, rows, offset)
        places = self.labels - part.start
        inside = (places >= 0) & (places < len(rows))
        places = places.clamp(0, len(rows) - 1)
        _put(logits, places, inside, logits.new_full((len(logits),), float("-inf")))
        return logits, rows, places, inside


def _put(matrix: Tensor, places: Tensor, inside: Tensor, values: Tensor) -> None:
    """Write values (N,) into the column `places` of each row whose label is inside the chunk."""
    there = matrix.gather(1, places[:, None])
    matrix.scatter_(1, places[:, None], torch.where(inside[:, None], values[:, None], there))
