"""The margin cross-entropy of a batch as two operators of torch: a kernel a pass on CUDA.

Torch's own operations, some fifty launches for a few numbers an image, are what the operators do on
the CPU, and what the kernels of `triton_kernels` are held against before any of them is relied on.
"""

import math
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import functional

from lmsm_cli.losses.annealing import Annealing
from lmsm_cli.losses.margins import (
    ByDifficulty,
    DBMMargin,
    FixedMargin,
    LSoftmaxMargin,
    Margin,
    OnHardImages,
)
from lmsm_cli.losses.target import target_logits_with_margin, weigh
from lmsm_cli.losses.trial import Results, agrees, works

# Nearer to the poles a cosine's rounding decides over the slope of a margin that is not whole.
_POLAR = 0.999
_TRIED = 256  # images, so that the trial takes no memory to speak of


class Batch(NamedTuple):
    """What the operator `margin_cross_entropy` is given."""

    tensors: list[Tensor]
    """Logits (N, C) without offset, features (N, D), class weights (C, D) and labels (N,)."""
    margins: Tensor | None
    """One for each class (C,), in the place of the first of `numbers`."""
    offset: Tensor | None
    """(C,), added to the logits."""
    given: Tensor | None
    """Lambda, or the progress of which it is a law, (); in the place of the second number."""
    form: str
    """Of L-Softmax's margin that of the law, "given" for lambda itself; else the margin's own."""
    numbers: list[float]
    """Margin, lambda, and what `_law` has of a law."""
    flags: list[bool]
    """Whether the margin is one `ByDifficulty`; `detached_norms`."""


def batch_of(
    tensors: list[Tensor], margin: Margin, offset: Tensor | None, *, detached_norms: bool
) -> Batch | None:
    """Return what the operator takes of a batch; None for what it does not know.

    Args:
        tensors: logits, features, class weights and labels, as in `Batch`.
        margin, offset, detached_norms: as in `cross_entropy.margin_losses`.
    """
    bend = margin.margin if isinstance(margin, OnHardImages) else margin
    law: Annealing | None = None
    lam: float | Tensor = 0.0
    if isinstance(bend, LSoftmaxMargin):
        law, lam = _lambda_of(bend)
        form: str = "given" if law is None else law.form
    elif isinstance(bend, FixedMargin | DBMMargin):
        form = bend.form
    else:
        return None
    by_class = bend.margin if isinstance(bend.margin, Tensor) else None
    given = lam if isinstance(lam, Tensor) else None
    numbers = [
        0.5 if isinstance(bend.margin, Tensor) else float(bend.margin),
        0.0 if isinstance(lam, Tensor) else float(lam),
        *_numbers_of(law),
    ]
    flags = [isinstance(margin, ByDifficulty), detached_norms]
    batch = Batch(tensors, by_class, offset, given, form, numbers, flags)
    return batch if _is_plain(batch) else None


def _lambda_of(bend: LSoftmaxMargin) -> tuple[Annealing | None, float | Tensor]:
    """Return lambda, or a law and the progress () at which the kernel works lambda out."""
    law, lam = bend.law, bend.lam
    if law is None:
        return None, lam
    if law.form in ("constant", "none"):
        return None, law(1.0)  # whatever the progress
    return (law, lam) if isinstance(lam, Tensor) else (None, law(lam))


def _is_plain(batch: Batch) -> bool:
    """Return whether all numbers are float32 on one device, in rows without gaps."""
    logits, features, weight, _ = batch.tensors
    constants = [one for one in (batch.margins, batch.offset, batch.given) if one is not None]
    return (
        all(one.dtype == torch.float32 for one in (logits, features, weight, *constants))
        and all(one.device == logits.device for one in constants)
        and all(one.stride(-1) == 1 for one in (features, weight, *constants) if one.ndim)
        and (batch.margins is None or batch.margins.ndim == 1)
    )


def _numbers_of(law: Annealing | None) -> list[float]:
    """Return a law as numbers: its own five, and the logarithms that `exponential` is made of."""
    if law is None:
        return [0.0] * 7
    start, least = law.start or 0.0, law.minimum
    first = math.log1p(start)
    return [start, least, law.end, law.gamma, law.power, first, math.log1p(least) - first]


@cache
def _law_of(form: str, numbers: tuple[float, ...]) -> Annealing | None:
    return None if form == "given" else Annealing(cast(Any, form), *numbers[:5])


def _margin_of(
    form: str,
    margin: float | Tensor,
    labels: Tensor,
    lam: float | Tensor,
    law: tuple[float, ...],
) -> Margin:
    """Return the margin of a batch, for all of its images."""
    match form:
        case "dbm":
            return DBMMargin(cast(Tensor, margin), labels)
        case "cosface" | "arcface":
            return FixedMargin(form, margin, labels)
        case _:
            return LSoftmaxMargin(margin, labels, lam, _law_of(form, law))


def margin_cross_entropy(*batch: Any) -> Results:
    """Return losses, gaps r - t, pulls on features and on class weights, all (N,), and q (N, C).

    q is the softmax over the other classes, -slope at the label (see `cross_entropy`). It takes
    the parts of a `Batch`.
    """
    return cast(Results, torch.ops.lmsm.margin_cross_entropy(*batch))


def margin_pulls(gaps: Tensor, grads: Tensor, *pulls: Tensor) -> Results:
    """Return a = sigmoid(gap) times the losses' gradient (N,), and a times each of the pulls."""
    return cast(Results, torch.ops.lmsm.margin_pulls(gaps, grads, *pulls))


def _by_torch(
    tensors: list[Tensor],
    margins: Tensor | None,
    offset: Tensor | None,
    given: Tensor | None,
    form: str,
    numbers: list[float],
    flags: list[bool],
) -> Results:
    """Do what `margin_cross_entropy` says by torch's operations."""
    (logits, features, weight, labels), (by_difficulty, detached_norms) = tensors, flags
    number, lam, *law = numbers
    if margins is None:
        margin: float | Tensor = int(number) if number.is_integer() else number
    else:
        margin = margins
    bend = _margin_of(form, margin, labels, lam if given is None else given, tuple(law))
    if by_difficulty and not isinstance(bend, ByDifficulty):
        bend = OnHardImages(bend)
    product = logits.gather(1, labels[:, None])[:, 0]
    if isinstance(bend, ByDifficulty):
        bend = bend.where((logits >= product[:, None]).sum(dim=1) > 1)
    target = target_logits_with_margin(
        features, weight, labels, bend, product, detached_norms=detached_norms
    )
    logits = logits.clone() if offset is None else logits + offset
    logit = target.logit if offset is None else target.logit + offset.index_select(0, labels)
    rest, shares, total = weigh(logits, labels, target.slope)
    gap = rest - logit
    pulls = target.pull_features, target.pull_weight
    return functional.softplus(gap), gap, *pulls, shares.div_(total[:, None])


def _pulls_by_torch(gaps: Tensor, grads: Tensor, *pulls: Tensor) -> Results:
    excess = gaps.sigmoid() * grads
    return excess, *(excess * pull for pull in pulls)


def _by_triton(*batch: Any) -> Results:
    # imported late: there is no Triton beside torch for the CPU, for macOS and for Windows
    from lmsm_cli.losses import triton_kernels

    return triton_kernels.margin_cross_entropy(*batch)


def _pulls_by_triton(*tensors: Tensor) -> Results:
    from lmsm_cli.losses import triton_kernels

    return triton_kernels.margin_pulls(*tensors)


_library: Any = cast(Any, torch.library.Library)("lmsm", "FRAGMENT")
_library.define(
    "margin_cross_entropy(Tensor[] tensors, Tensor? margins, Tensor? offset, Tensor? given, "
    "str form, float[] numbers, bool[] flags) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)
_library.define(
    "margin_pulls(Tensor gaps, Tensor grads, Tensor pulls_features, Tensor pulls_weight)"
    " -> (Tensor, Tensor, Tensor)"
)
_library.impl("margin_cross_entropy", _by_torch, "CPU")
_library.impl("margin_cross_entropy", _by_triton, "CUDA")
_library.impl("margin_pulls", _pulls_by_torch, "CPU")
_library.impl("margin_pulls", _pulls_by_triton, "CUDA")


def fits(batch: Batch) -> bool:
    """Return whether the kernels are there for a batch of this kind, and right.

    At the first batch of a kind they are tried on its images (see `trial`).
    """
    logits, features, *_ = batch.tensors
    optional = (batch.margins, batch.offset, batch.given)
    kind = (
        logits.device,
        logits.shape[1],
        features.shape[1],
        *(tensor is None for tensor in optional),
        batch.form,
        *batch.flags,
        *batch.numbers[:1],
        *batch.numbers[2:],
    )
    return works(kind, partial(_agrees, batch))


def _agrees(batch: Batch) -> bool | None:
    """Return whether the kernels are right for the first images of a batch, see `agrees`."""
    (logits, features, weight, labels), *constants = batch
    tensors = [logits[:_TRIED], features[:_TRIED], weight, labels[:_TRIED]]
    batch = batch._replace(tensors=tensors)
    in_double: list[Any] = [
        one.double() if isinstance(one, Tensor) and one.is_floating_point() else one
        for one in (*tensors, *constants)
    ]
    found = _with_pulls(margin_cross_entropy(*batch), margin_pulls)
    plain = _with_pulls(_by_torch(*batch), _pulls_by_torch)
    exact = _with_pulls(_by_torch(in_double[:4], *in_double[4:]), _pulls_by_torch)
    own = in_double[2].index_select(0, tensors[3])
    is_polar = functional.cosine_similarity(in_double[1], own).abs() > _POLAR
    return agrees(found, plain, exact, is_polar)


def _with_pulls(results: Results, pulls_of: Callable[..., Results]) -> Results:
    """Return the results of both operators, the second's for losses that are averaged."""
    _, gaps, *pulls, _ = results
    return *results, *pulls_of(gaps, torch.full_like(gaps, 1 / len(gaps)), *pulls)
