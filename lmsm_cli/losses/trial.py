"""Kernels of lmsm's own are tried beside torch's operations before any of them is relied on.

Where they differ or can't be had, that is told, and the losses keep to torch's operations.
"""

import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from lmsm_cli.errors import first_line

Results = tuple[Tensor, ...]
Warn = Callable[[str], None]

# What a kernel may be off: this many times torch's operations, or this share of the largest number.
# A wrong formula is off by more.
_TIMES, _SHARE = 32, 1e-4
_works: dict[Hashable, bool] = {}
_warn: ContextVar[Warn | None] = ContextVar("warn", default=None)


def works(kind: Hashable, trial: Callable[[], bool | None]) -> bool:
    """Return whether the kernels are there for inputs of a kind, and right.

    Args:
        kind: what kernels are compiled for, and their device.
        trial: is called for the first inputs of a kind, in which the host may wait; returns whether
            they are right (see `agrees`), None where these inputs don't show it.
    """
    if kind not in _works:
        if torch.cuda.is_current_stream_capturing():
            return False  # nothing can be looked at
        found = _tried(trial)
        if found is None:
            return False
        _works[kind] = found
    return _works[kind]


def _tried(trial: Callable[[], bool | None]) -> bool | None:
    try:
        with torch.no_grad():
            found = trial()
    except Exception as error:  # a compiler, a driver and a GPU fail in more ways than have names
        _say(f"could not be used ({first_line(error)})")
        return False
    if found is False:
        _say("gave other numbers than torch's operations")
    return found


def agrees(found: Results, plain: Results, exact: Results, beside: Tensor) -> bool | None:
    """Return whether results agree with exact ones about as well as torch's float32 does.

    Args:
        found, plain, exact: what the kernels, and torch's operations in float32 and in float64,
            made of N images.
        beside: (N,), whether an image's numbers hang on the last bit of a float32.

    Returns None where exact results are not finite: two of them can't be compared.
    """
    checks = [
        torch.stack([wanted.isfinite().all(), _is_near(ours, theirs, wanted, beside)])
        for ours, theirs, wanted in zip(found, plain, exact, strict=True)
    ]
    is_finite, is_near = torch.stack(checks).all(dim=0).tolist()
    return is_near if is_finite else None


def _is_near(ours: Tensor, theirs: Tensor, exact: Tensor, beside: Tensor) -> Tensor:
    beside = beside if exact.ndim == 1 else beside[:, None]
    ours_off, theirs_off, largest = (
        values.masked_fill(beside, 0.0).abs().max()
        for values in (ours - exact, theirs - exact, exact)
    )
    return ours_off <= _TIMES * theirs_off + _SHARE * largest


def _say(what: str) -> None:
    text = f"the loss's CUDA kernel {what}; torch's operations do its work, more slowly"
    warn = _warn.get()
    if warn is None:
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    else:
        warn(text)


@contextmanager
def told_to(warn: Warn) -> Iterator[None]:
    """Tell `warn` what is wrong with the kernels, in the place of Python's warnings."""
    token = _warn.set(warn)
    try:
        yield
    finally:
        _warn.reset(token)
