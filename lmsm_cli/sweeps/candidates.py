"""What a study tries against plain softmax, as a last layer in the race and as a whole training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from lmsm_cli.config.post_hoc import is_post_hoc, parse_post_hoc
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.head import is_long_tail
from lmsm_cli.losses.registry import KNOWN, SECOND_STAGES, build_head, check_loss, normal_spec
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.sweeps.second_stage import choices_of
from lmsm_cli.training.prepare import resolved_spec

BASELINE = "softmax"
ADJUSTED = "softmax, adjusted afterwards"
# Deferred re-weighting begins after this share of the epochs (Cao et al. 2019: 160 of 200).
_DEFERRED = 0.8
# Tuned recipes of long tails decay ten times as much as usual ones (Alshammari et al. 2022, 5e-3);
# at the rates of `Config`, trainings from scratch stay finite with five.
_DECAY = 5
_FOR_TAILS = (
    "balanced-softmax",
    "lsoftmax:margin=tail",
    "lsoftmax:margin=auto",
    "vs",
)
_STAGES = ("crt", "lws", "marc", "samn", "ncm")
# Second stages with a name that is no loss's, and corrections that know of a class its count alone.
_METHODS, _BY_COUNTS = ("crt", "los"), ("adjust", "mla")
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
    head: str
    """The last layer that races, as `lmsm retrain --head` names it."""
    more: Mapping[str, str] = field(default_factory=dict)
    """Further choices of that last layer's training."""
    whole: Mapping[str, str] | None = None
    """The choices of a whole training; None where it is a second stage on softmax's net."""


def candidates_for(
    counts: Sequence[int], config: Mapping[str, Any], also: Sequence[str]
) -> list[Candidate]:
    """Return what a study tries on images with these counts.

    Args:
        counts: The training images of each class.
        config: Of the baseline, for its epochs, its bias and its weight decay.
        also: More losses, or second stages, as `--also` names them.

    Raises LmsmError for one that cannot be, or is there twice.
    """
    has_bias = bool(config["head_bias"])
    if is_long_tail(max(counts), max(min(counts), 1)):
        weighted = {"reweight": "effective"}
        found = [
            Candidate(ADJUSTED, "adjust:1"),
            *(_loss(spec, has_bias) for spec in _FOR_TAILS),
            Candidate("softmax, rare classes weighted", "softmax", weighted, weighted),
            *_decayed(config),
            *_deferred(config, has_bias),
            *(Candidate(name, name) for name in _STAGES),
        ]
    else:
        found = [*(_loss(spec, has_bias) for spec in _FOR_ALL), *_decayed(config)]
    for spec in also:
        one = _named(spec, counts, has_bias)
        others = (_loss(BASELINE, has_bias), *found)
        if _made_by(one, counts) in (_made_by(known, counts) for known in others):
            raise LmsmError(f"--also {spec}: the study tries it anyway; leave it out")
        found.append(one)
    return found


def _decayed(config: Mapping[str, Any]) -> list[Candidate]:
    """Return softmax with more weight decay, where there is one to multiply."""
    decay = _DECAY * config["weight_decay"]
    if not decay:
        return []
    choices = {"weight_decay": f"{decay:g}"}
    return [Candidate("softmax, more weight decay", "softmax", choices, choices)]


def _deferred(config: Mapping[str, Any], has_bias: bool) -> list[Candidate]:
    """Return LDAM-DRW, where there are epochs enough to defer something."""
    start = int(_DEFERRED * config["epochs"]) + 1
    if start < 2:
        return []
    whole = {"loss": "ldam", "reweight": "effective", "rebalance_from": str(start)}
    whole |= _without_bias("ldam", has_bias)
    return [Candidate("ldam, rare classes weighted at the end", "ldam", whole=whole)]


def _made_by(one: Candidate, counts: Sequence[int]) -> tuple[Any, ...]:
    """Return what tells a candidate from others, however it is spelled and by whatever default."""
    choices = {key: value for key, value in (one.whole or {}).items() if key != "loss"}
    if is_post_hoc(one.head):
        head: Any = parse_post_hoc(one.head)
    else:
        head = one.head if one.head in _METHODS else in_full(one.head, counts)
    return head, dict(one.more), choices


def in_full(spec: str, counts: Sequence[int]) -> str:
    """Return a loss with the defaults that follow from the class counts."""
    known = torch.tensor(counts).clamp(min=1)  # a class can have all its images held out
    return normal_spec(resolved_spec(spec, build_head(spec, 2, len(counts), known)))


def _named(spec: str, counts: Sequence[int], has_bias: bool) -> Candidate:
    """Return what `--also` names. Raises LmsmError."""
    if is_post_hoc(spec) and min(counts) == max(counts):
        choices_of(spec, len(counts), has_bias=has_bias)
        if parse_post_hoc(spec).method in _BY_COUNTS:
            raise LmsmError(
                f"--also {spec}: it changes nothing where all classes have as many images"
            )
    if is_post_hoc(spec) or spec in _METHODS or parse_spec(spec)[0] in SECOND_STAGES:
        choices_of(spec, len(counts), has_bias=has_bias)
        return Candidate(spec, spec)
    check_loss(spec)
    return _loss(spec, has_bias)


def _loss(spec: str, has_bias: bool) -> Candidate:
    return Candidate(spec, spec, whole={"loss": spec} | _without_bias(spec, has_bias))


def _without_bias(spec: str, has_bias: bool) -> dict[str, str]:
    """Return the choice of no bias for a loss that takes none."""
    name = parse_spec(spec)[0]
    takes_bias = name not in KNOWN or KNOWN[name].takes_bias
    return {} if takes_bias or not has_bias else {"head_bias": "false"}
