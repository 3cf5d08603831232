"""L-Softmax with the classes sharded over ranks: each holds its own rows of the class weights.

For training scripts of your own: no command of lmsm shards classes. The loss of an image is
softplus(r - t), as in `cross_entropy`, and both terms are sums over the ranks. r is the log-sum-exp
over the ranks of each rank's own (`ChunkedLogits.rest` with labels counted from the rank's first
class: the label of another rank masks no column). The rank that owns the class of the label
computes t. So ranks exchange a few numbers per image and, in the backward pass, one gradient per
feature.
"""

from typing import Any, TypedDict, Unpack

import torch
import torch.distributed as dist
from torch import Tensor

from lmsm_cli.errors import ArgumentError, LmsmError
from lmsm_cli.losses.checks import (
    check_images,
    check_weight,
    readable,
    refuse_transforms,
    wrong_type,
)
from lmsm_cli.losses.chunked import ChunkedCrossEntropy, ChunkedLogits
from lmsm_cli.losses.lsoftmax import Reduction, checked_options, reduced
from lmsm_cli.losses.margins import LSoftmaxMargin, MarginFunction
from lmsm_cli.losses.precision import full_precision, without_autocast
from lmsm_cli.losses.target import Target, target_logits_with_margin


class LossOptions(TypedDict, total=False):
    """The keyword arguments of `l_softmax_loss`."""

    lam: float | Tensor
    class_chunk: int | None
    reduction: Reduction


def sharded_l_softmax_loss(
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    margin: float | Tensor,
    *,
    first_class: int,
    group: "dist.ProcessGroup | None" = None,
    **options: Unpack[LossOptions],
) -> Tensor:
    """Return `l_softmax_loss` of classes that are sharded over the ranks of `group`.

    Every rank must call it, and go backward with the same gradient. Forward is two all-reduces, of
    N and 2 N numbers; backward is one, of the feature gradient (N, D) in float32 at least, of which
    each rank then has the sum: take the slice of your own images, and do not reduce it again. The
    gradient of the rank's own rows needs none. It costs 8 N D C_local operations, and no logits are
    kept between the passes. Precision, autocast and derivatives are as in `l_softmax_loss`.

    Args:
        features: (N, D), gathered from all ranks, the same on every rank.
        weight: (C_local, D), the rank's own rows, those of the classes first_class to
            first_class + C_local - 1. The shards may differ in size, with at least one class each,
            and together are all classes once.
        labels: (N,), counted over all classes, the same on every rank.
        margin: a number from 1 to 1000, or a tensor (C_local,) of one per class of the rank.
        first_class: the first class of the rank.
        group: the ranks, None for all.
        options: `lam`, `class_chunk` (None: all C_local classes' logits at a time) and `reduction`
            (over all N images, the same on every rank) as in `l_softmax_loss`.

    Raises ArgumentError, a ValueError, for what it cannot take, and LmsmError where
    torch.distributed is not initialised or the process not in `group`; an error of one rank alone
    leaves the others waiting. A label that no rank owns shows in the sum, hence on all ranks: it
    raises on the CPU, and is a NaN loss on an accelerator, where a check would make each step wait.
    Liu et al. 2016, arXiv 1612.02295; classes in parallel as in An et al. 2022, arXiv 2203.15565.
    """
    try:
        _check_group(group)
        _check_shard(features, weight, labels, first_class, dist.get_world_size(group))
        margin, lam, class_chunk = checked_options(margin, weight, **options)
        nearest = (labels - first_class).clamp(0, len(weight) - 1)
        margin_function = LSoftmaxMargin(margin, nearest, lam)
        chunk = len(weight) if class_chunk is None else class_chunk
        shard = ChunkedLogits(features, weight, labels - first_class, None, chunk)
        losses = _losses(shard, margin_function, labels, group)
    except LmsmError as error:
        raise type(error)(f"sharded_l_softmax_loss: {error}") from None
    return reduced(losses, options.get("reduction", "mean"))


def _check_group(group: "dist.ProcessGroup | None") -> None:
    if not (dist.is_available() and dist.is_initialized()):
        raise LmsmError(
            "torch.distributed is not initialised: call torch.distributed.init_process_group "
            "first, or l_softmax_loss where one process holds all classes"
        )
    outside: Any = dist.GroupMember.NON_GROUP_MEMBER  # what new_group returns to other ranks
    if not (group is None or isinstance(group, dist.ProcessGroup) or group == outside):
        wanted = "give a group of torch.distributed, or None for all ranks"
        raise wrong_type("group is", group, wanted)
    if dist.get_rank(group) < 0:
        raise LmsmError(f"rank {dist.get_rank()} is not in the group: call it on its ranks only")


def _check_shard(
    features: Tensor, weight: Tensor, labels: Tensor, first_class: int, num_ranks: int
) -> None:
    least = 2 if num_ranks == 1 else 1
    fewest = f"(C_local, D), at least {least} of the classes on one of {num_ranks} ranks"
    check_weight(weight, fewest, least)
    check_images(features, weight, labels)
    if isinstance(first_class, bool) or not isinstance(first_class, int) or first_class < 0:
        raise ArgumentError(
            f"first_class is {first_class!r}: give the number of the rank's first class, from 0"
        )
    if readable(labels) and labels.min() < 0:
        raise ArgumentError(f"labels run from {int(labels.min())}: expected class numbers from 0")


def _losses(
    shard: ChunkedLogits, margin: MarginFunction, labels: Tensor, group: "dist.ProcessGroup | None"
) -> Tensor:
    """Return the losses (N,) of a rank's shard, whose labels are counted from its first class."""
    features, weight, places, _, chunk = shard
    refuse_transforms("a margin loss", features, weight)
    owned = (places >= 0) & (places < len(weight))
    nearest = places.clamp(0, len(weight) - 1)
    with without_autocast(features):
        features = full_precision(features)
        with torch.no_grad():
            target = target_logits_with_margin(features, weight, nearest, margin)
            target = Target(*(torch.where(owned, values, 0.0) for values in target))
            local = shard._replace(features=features).rest()
            rest, logit = _across_ranks(local, target.logit, owned, labels, group)
        known = (chunk, group or dist.group.WORLD, rest, *target._replace(logit=logit))
        losses: Tensor = ChunkedCrossEntropy.apply(features, weight, places, None, *known)
        return losses


def _across_ranks(
    local: Tensor, logit: Tensor, owned: Tensor, labels: Tensor, group: "dist.ProcessGroup | None"
) -> tuple[Tensor, Tensor]:
    """Return the log-sum-exp and the target logits over all ranks, (N,), from each rank's own."""
    top = local.clone()
    dist.all_reduce(top, dist.ReduceOp.MAX, group)
    # Non-owners contribute -0.0, the owner never: a sum of -0.0 means that no rank owns the label.
    logit = logit.masked_fill(logit.abs() < torch.finfo(logit.dtype).tiny, 0.0)
    logit = logit.masked_fill(~owned, -0.0)
    sums = torch.stack([(local - top).exp(), logit])
    dist.all_reduce(sums, dist.ReduceOp.SUM, group)
    ownerless = (sums[1] == 0) & sums[1].signbit()
    if readable(ownerless) and ownerless.any():
        raise ArgumentError(
            f"labels hold {int(labels[ownerless][0])}: expected a class of some rank, the shards "
            f"are first_class .. first_class + C_local - 1"
        )
    return top + sums[0].log(), sums[1].masked_fill(ownerless, float("nan"))
