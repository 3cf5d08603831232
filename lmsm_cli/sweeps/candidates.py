"""What a study tries against plain softmax, as a last layer in the race and as a whole training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import KNOWN, SECOND_STAGES, check_loss
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.sweeps.second_stage import choices_of

BASELINE = "softmax"
ADJUSTED = "softmax, adjusted afterwards"
# Deferred re-weighting begins after this share of the epochs (Cao et al. 2019: 160 of 200).
_DEFERRED = 0.8
# A class with twice the images of another makes a long tail, if a short one.
_TAILED = 2
_LSOFTMAX = "lsoftmax:margin=auto,weight_norm=shared"
_FOR_TAILS = (
    "balanced-softmax",
    f"{_LSOFTMAX},margin_max=1.3,tau=1,lambda_min=0",
    f"{_LSOFTMAX},margin_max=4,lambda_min=1",
    "vs",
)
_STAGES = ("crt", "lws", "marc", "samn")
_FOR_ALL = (
    "lsoftmax:margin=2",
    "lsoftmax:margin=4,lambda_min=5",
    "cosface",
    "softmax:label_smoothing=0.1",
)


@dataclass(frozen=True)
class Candidate:
    """One thing to try."""

    name: str
    head: Mapping[str, str] | None = None
    """The choices of its last layer, trained alone; None for a correction of softmax's logits."""
    whole: Mapping[str, str] | None = None
    """The choices of a whole training; None where it is a second stage on softmax's net."""

    @property
    def is_adjustment(self) -> bool:
        """Whether nothing is trained but softmax."""
        return self.head is None

    @cached_property
    def choices(self) -> dict[str, str]:
        """The choices of the trainings of its rounds."""
        return dict(self.whole or self.head or {})


def candidates_for(
    counts: Sequence[int], config: Mapping[str, Any], also: Sequence[str]
) -> list[Candidate]:
    """Return what a study tries on images with these counts.

    Args:
        counts: The training images of each class.
        config: Of the baseline, for its epochs and its bias.
        also: More losses, or second stages, as `--also` names them.

    Raises LmsmError for one that cannot be, or is there twice.
    """
    number, has_bias = len(counts), bool(config["head_bias"])
    is_tailed = max(counts) >= _TAILED * max(min(counts), 1)
    found = []
    if is_tailed:
        found = [Candidate(ADJUSTED)]
        found += [_loss(spec, number, has_bias) for spec in _FOR_TAILS]
        weights = {"loss": "softmax", "reweight": "effective"}
        found.append(Candidate("softmax, rare classes weighted", weights, weights))
        found += _deferred(config, has_bias)
        found += [Candidate(name, choices_of(name, number, has_bias=has_bias)) for name in _STAGES]
    else:
        found = [_loss(spec, number, has_bias) for spec in _FOR_ALL]
    for spec in also:
        one = _named(spec, number, has_bias)
        if one.name in (BASELINE, *(known.name for known in found)):
            raise LmsmError(f"--also {spec}: the study tries it anyway; leave it out")
        found.append(one)
    return found


def _deferred(config: Mapping[str, Any], has_bias: bool) -> list[Candidate]:
    """Return LDAM-DRW, where there are epochs enough to defer something."""
    start = int(_DEFERRED * config["epochs"]) + 1
    if start < 2:
        return []
    head = {"loss": "ldam"} | ({"head_bias": "false"} if has_bias else {})
    deferred = head | {"reweight": "effective", "rebalance_from": str(start)}
    return [Candidate("ldam, rare classes weighted at the end", head, deferred)]


def _named(spec: str, number: int, has_bias: bool) -> Candidate:
    name = parse_spec(spec)[0]
    if name in SECOND_STAGES or spec in ("crt", "los"):
        return Candidate(spec, choices_of(spec, number, has_bias=has_bias))
    check_loss(spec)
    return _loss(spec, number, has_bias)


def _loss(spec: str, number: int, has_bias: bool) -> Candidate:
    name = parse_spec(spec)[0]
    takes_bias = name not in KNOWN or KNOWN[name].takes_bias
    without = {} if takes_bias or not has_bias else {"head_bias": "false"}
    return Candidate(spec, choices_of(spec, number, has_bias=has_bias), {"loss": spec} | without)
