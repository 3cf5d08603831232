"""The log-sum-exp and its gradient without the (N, C) logits, for very many classes.

The classes are taken a chunk at a time, never the batch: a chunk's weights are read once in each
pass and its gradient is written once, however small the batch. The backward pass computes the
logits again, a fourth matrix product instead of N C numbers kept.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from lmsm_cli.losses.checks import refuse_second_derivative
from lmsm_cli.losses.precision import (
    full_precision,
    multiplies_bf16,
    product,
    product_in_two,
    without_autocast,
)


class ChunkedLogits(NamedTuple):
    """The logits of all classes but the label, of which `chunk` classes are held at a time."""

    features: Tensor
    """(N, D), in any precision."""
    weight: Tensor
    """(C, D), in any precision."""
    labels: Tensor
    """(N,); a label outside 0 to C - 1 leaves no class out."""
    offset: Tensor | None
    """(C,), added to the logits."""
    chunk: int

    def rest(self) -> Tensor:
        """Return the log-sum-exp (N,) of the logits of all classes but the label."""
        features = self._operand()
        total = self._wide().new_full((len(features),), float("-inf"))
        for part in self._parts():
            logits, *_ = self._logits(part, features)
            total = torch.logaddexp(total, logits.logsumexp(dim=1))
        return total

    def largest(self) -> Tensor:
        """Return the largest (N,) of the logits of all classes but the label."""
        features = self._operand()
        top = self._wide().new_full((len(features),), float("-inf"))
        for part in self._parts():
            top = torch.maximum(top, self._logits(part, features)[0].amax(dim=1))
        return top

    def products(
        self, excess: Tensor, pulls: Tensor, total: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return a (q W) (N, D), and q^T (a x) less the `pulls` on the labels' rows (C, D).

        q is exp(logits - total), -slope at the label, and a is `excess`. All but `pulls`, (N, D),
        are (N,). The second result has the type of `weight`.
        """
        features, wide = self._operand(), self._wide()
        scaled = wide * excess[:, None]
        by_image = torch.zeros_like(wide)
        by_class = torch.empty_like(self.weight)
        for part in self._parts():
            logits, rows, places, inside = self._logits(part, features)
            shares = logits.sub_(total[:, None]).exp_()
            _put(shares, places, inside, -slope)
            # In nearly full precision: where psi is steep, product and pulls nearly cancel.
            if rows.dtype == torch.bfloat16:
                by_image += product_in_two(shares, rows)
                gradient = product_in_two((shares * excess[:, None]).T, features)
            else:
                by_image.addmm_(shares, rows)
                gradient = shares.T @ scaled
            gradient.index_add_(0, places, torch.where(inside[:, None], pulls, 0.0), alpha=-1)
            by_class[part] = gradient
        return by_image.mul_(excess[:, None]), by_class

    def _wide(self) -> Tensor:
        return full_precision(self.features)

    def _operand(self) -> Tensor:
        """Return the features as they are multiplied: bf16 where the GPU has bf16 on both sides."""
        is_narrow = self.features.dtype == self.weight.dtype == torch.bfloat16
        return self.features if is_narrow and multiplies_bf16(self.features) else self._wide()

    def _parts(self) -> Iterator[slice]:
        num_classes = len(self.weight)
        for first in range(0, num_classes, self.chunk):
            yield slice(first, min(first + self.chunk, num_classes))

    def _logits(self, part: slice, features: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the logits of a chunk, -inf at the label, and the weights of the chunk.

        The third and fourth result are the columns of the labels, and whether they are inside.
        """
        rows = self.weight[part].to(features.dtype)
        offset = None if self.offset is None else self.offset[part]
        if features.dtype == torch.bfloat16:
            logits = product(features, rows.T)
            logits = logits if offset is None else logits.add_(offset)
        else:
            logits = functional.linear(features, rows, offset)
        places = self.labels - part.start
        inside = (places >= 0) & (places < len(rows))
        places = places.clamp(0, len(rows) - 1)
        _put(logits, places, inside, logits.new_full((len(logits),), float("-inf")))
        return logits, rows, places, inside


def _put(matrix: Tensor, places: Tensor, inside: Tensor, values: Tensor) -> None:
    """Write values (N,) into the column `places` of each row whose label is inside the chunk."""
    there = matrix.gather(1, places[:, None])
    matrix.scatter_(1, places[:, None], torch.where(inside[:, None], values[:, None], there))


class ChunkedCrossEntropy(torch.autograd.Function):
    """softplus(r - t) and its gradient; all but features and weight come without a graph."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        labels: Tensor,
        offset: Tensor | None,
        chunk: int,
        group: "dist.ProcessGroup | None",
        *known: Tensor,
    ) -> Tensor:
        """Return the losses (N,).

        `known` are r, and t with its differential as in `cross_entropy.Target`, all (N,). With a
        group, `weight` are the classes of one of its ranks, from which labels are counted.
        """
        rest, logit, *differential = known
        gap = rest - logit
        ctx.chunk, ctx.group = chunk, group
        ctx.save_for_backward(features, weight, labels, offset, rest, gap, *differential)
        return functional.softplus(gap)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of features, summed over the group, and of weight."""
        refuse_second_derivative()
        features, weight, labels, offset, rest, gap, *differential = ctx.saved_tensors
        slope, pull_features, pull_weight = differential
        excess = gap.sigmoid().mul_(grad)
        with without_autocast(grad):
            pull_features, pull_weight = excess * pull_features, excess * pull_weight
            rows = full_precision(weight.index_select(0, labels.clamp(0, len(weight) - 1)))
            logits = ChunkedLogits(features, weight, labels, offset, ctx.chunk)
            grad_features, grad_weight = logits.products(
                excess, rows * pull_weight[:, None], rest, slope
            )
            wide = full_precision(features)
            grad_features.addcmul_(wide, pull_features[:, None], value=-1)
        if ctx.group is not None:
            dist.all_reduce(grad_features, dist.ReduceOp.SUM, ctx.group)
        return grad_features.to(features.dtype), grad_weight, *[None] * 9
