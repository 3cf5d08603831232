"""How many calls of a training were before this one, whatever activation checkpointing repeats.

Checkpointing drops what a call computed, and calls again during the backward pass. An operator asks
whether that is so, since a compiled graph repeats no question that Python asked while it was made.
"""

from typing import Any, cast

import torch
from torch import Tensor


def calls_before(calls: Tensor, counted: Tensor) -> Tensor:
    """Return the calls before this one, (), and count it where gradients are on.

    A repetition is not counted again, and gives what the latest call outside of a backward pass
    gave. With `use_reentrant=True` that call had no gradients: then the repetition counts.

    Args:
        calls: how many were counted, (), int64.
        counted: whether the latest call outside of a backward pass was, 1 or 0, (), int64.
    """
    before: Tensor = torch.ops.lmsm.calls_before(calls, counted, torch.is_grad_enabled())
    return before


def _calls_before(calls: Tensor, counted: Tensor, with_gradients: bool) -> Tensor:
    if torch._C._current_graph_task_id() == -1:  # no backward pass runs in this thread
        before = calls.clone()
        counted.fill_(with_gradients)
    else:
        before = calls - counted
    if with_gradients:
        calls.copy_(before + 1)
    return before


def _shape(calls: Tensor, counted: Tensor, with_gradients: bool) -> Tensor:
    return torch.empty_like(calls)


_library: Any = cast(Any, torch.library.Library)("lmsm", "FRAGMENT")
_library.define("calls_before(Tensor(a!) calls, Tensor(b!) counted, bool with_gradients) -> Tensor")
_library.impl("calls_before", _calls_before, "CompositeExplicitAutograd")
torch.library.register_fake("lmsm::calls_before", _shape, lib=_library)
