"""The log-sum-exp and its gradient without the (N, C) logits, for very many classes.

The classes are taken a chunk at a time, never the batch: a chunk's weights are read once in each
pass and its gradient is written once, however small the batch. The backward pass computes the
logits again, a fourth matrix product instead of N C numbers kept.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional


def rest(
    features: Tensor, weight: Tensor, labels: Tensor, offset: Tensor | None, chunk: int
) -> Tensor:
    """Return the log-sum-exp (N,) of the logits of all classes but the label.

    Takes features (N, D) in full precision, weight (C, D) in any, labels (N,), offset (C,) or None.
    """
    total = features.new_full((len(features),), float("-inf"))
    for part in _parts(len(weight), chunk):
        logits, *_ = _logits(features, weight, labels, offset, part)
        total = torch.logaddexp(total, logits.logsumexp(dim=1))
    return total


def products(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    scaled: Tensor,
    pulls: Tensor,
    total: Tensor,
    slope: Tensor,
    offset: Tensor | None,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Return q W (N, D), and q^T `scaled` less the `pulls` on the labels' rows (C, D).

    q is exp(logits - total), -slope at the label; `total` and `slope` are (N,), `scaled` and `pulls`
    (N, D). The second result has the type of `weight`.
    """
    by_image = torch.zeros_like(features)
    by_class = torch.empty_like(weight)
    for part in _parts(len(weight), chunk):
        logits, rows, places, inside = _logits(features, weight, labels, offset, part)
        shares = logits.sub_(total[:, None]).exp_()
        _put(shares, places, inside, -slope)
        by_image.addmm_(shares, rows)
        # In full precision: where psi is steep, product and pulls are large and nearly cancel.
        gradient = shares.T @ scaled
        gradient.index_add_(0, places, torch.where(inside[:, None], pulls, 0.0), alpha=-1)
        by_class[part] = gradient
    return by_image, by_class


def _parts(num_classes: int, chunk: int) -> Iterator[slice]:
    return (slice(first, min(first + chunk, num_classes)) for first in range(0, num_classes, chunk))


def _logits(
    features: Tensor, weight: Tensor, labels: Tensor, offset: Tensor | None, part: slice
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a chunk's logits, -inf at the label; its weights; the labels' columns and presence."""
    rows = weight[part].to(features.dtype)
    logits = functional.linear(features, rows, None if offset is None else offset[part])
    places = labels - part.start
    inside = (places >= 0) & (places < len(rows))
    places = places.clamp(0, len(rows) - 1)
    _put(logits, places, inside, logits.new_full((len(logits),), float("-inf")))
    return logits, rows, places, inside


def _put(matrix: Tensor, places: Tensor, inside: Tensor, values: Tensor) -> None:
    """Write values (N,) into the column `places` of each row that has its label inside the chunk."""
    there = matrix.gather(1, places[:, None])
    matrix.scatter_(1, places[:, None], torch.where(inside[:, None], values[:, None], there))
