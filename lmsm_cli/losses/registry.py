"""The losses by name: `build_head("lsoftmax:margin=4", num_features, num_classes)`.

`LOSSES` has one entry a loss, which says all that must be known of it without torch: shell
completion, the schema of configs and `--help` cannot wait for it. CONTRIBUTING.md says how one is
added.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

from lmsm_cli.errors import ArgumentError, LmsmError, did_you_mean, few
from lmsm_cli.losses import own
from lmsm_cli.losses.spec import format_spec, parse_spec

if TYPE_CHECKING:
    from torch import Tensor

    from lmsm_cli.losses.head import Head
    from lmsm_cli.losses.weights import Init

    HEADS: dict[str, type[Head]]
    """The class of each loss, by name. It is made when it is first used, since that needs torch."""


@dataclass(frozen=True)
class Loss:
    """What is known of a loss without torch; tests/test_json_schema.py compares it to the class."""

    place: str
    """The class, as module:Class; the module is one of this folder."""
    options: Mapping[str, float | str | None] = field(default_factory=dict)
    """The keyword-only arguments of the class, in its order, those of its Unpack[...] last, with
    what each is where it is not given; None where that follows from the data or other options."""
    takes_bias: bool = False
    """Whether it is a LinearHead, whose scores can have a bias."""
    takes_class_margins: bool = False
    """Whether single classes can have a margin of their own."""

    def load(self) -> "type[Head]":
        """Import the class."""
        module, _, name = self.place.partition(":")
        kind: type[Head] = getattr(import_module(f"lmsm_cli.losses.{module}"), name)
        return kind


_ANNEALING: dict[str, float | str | None] = {
    **{"anneal": "power", "lambda_start": None, "lambda_min": None},
    **{"anneal_end": 1, "gamma": 0.36, "power": 45},
}
ByRarity = Literal["auto", "tail"]
# `tail` was the best L-Softmax on the half of the test images of long-tailed CIFAR-10 on which
# settings were chosen, and beat the prior alone on the other (benchmarks/studies/cifar10-tail.md).
BY_RARITY: dict[ByRarity, dict[str, float]] = {
    "auto": {"margin_max": 4, "margin_power": 0.25, "tau": 0},
    "tail": {"margin_max": 1.3, "margin_power": 1, "tau": 1},
}
"""What margins by rarity are, and the prior that goes with them, where nobody says otherwise."""
USUAL_ON_TAILS: ByRarity = "tail"
"""The margin of `lsoftmax` on a long tail where nobody gives one; before 0.2 it was auto."""
SHAPES = ("margin_min", "margin_max", "margin_power")
"""The options that shape them; where one is given and no margin, the margin is auto."""
_LSOFTMAX: dict[str, float | str | None] = {
    **{"margin": None, "margin_min": 1, "margin_max": None, "margin_power": None},
    **{"margin_on": "all"},
    **{"weight_norm": None, "feature_norm": None, "tau": None, "class_chunk": None},
    **_ANNEALING,
}

LOSSES: dict[str, Loss] = {
    "softmax": Loss("softmax:SoftmaxLoss", {"label_smoothing": 0}, takes_bias=True),
    "lsoftmax": Loss("lsoftmax:LSoftmaxLoss", _LSOFTMAX, takes_class_margins=True),
    "asoftmax": Loss(
        "lsoftmax:ASoftmaxLoss",
        {"margin": 4, "class_chunk": None, **_ANNEALING},
        takes_class_margins=True,
    ),
    "cosface": Loss(
        "angular:CosFaceLoss",
        {"margin": 0.35, "scale": 30, "class_chunk": None},
        takes_class_margins=True,
    ),
    "arcface": Loss(
        "angular:ArcFaceLoss",
        {"margin": 0.5, "scale": 30, "class_chunk": None},
        takes_class_margins=True,
    ),
    "large-margin-in-softmax": Loss(
        "softmax:LargeMarginInSoftmaxLoss", {"strength": 0.3}, takes_bias=True
    ),
    "ldam": Loss(
        "class_priors:LDAMLoss", {"max_margin": 0.5, "scale": 30}, takes_class_margins=True
    ),
    "dbm": Loss(
        "class_priors:DBMLoss",
        {"max_margin": 0.1, "margin_power": 1, "tau": 1, "scale": 32},
        takes_class_margins=True,
    ),
    "balanced-softmax": Loss("class_priors:BalancedSoftmaxLoss", takes_bias=True),
    "logit-adjusted": Loss("class_priors:LogitAdjustedLoss", {"tau": 1}, takes_bias=True),
    "vs": Loss("class_priors:VSLoss", {"gamma": 0.3, "tau": 1}, takes_bias=True),
    "focal": Loss("softmax:FocalLoss", {"gamma": 2}, takes_bias=True),
}
SECOND_STAGES: dict[str, Loss] = {
    "lws": Loss("second_stage:WeightScaling", takes_bias=True),
    "marc": Loss("second_stage:MarginCalibration", takes_bias=True),
    "samn": Loss("second_stage:RisingNormsOnly", takes_bias=True),
}
"""Losses that learn on the class weights of a finished run, and on nothing else."""

KNOWN = LOSSES | SECOND_STAGES
TAKE_A_BIAS = [name for name, loss in LOSSES.items() if loss.takes_bias]
TAKE_CLASS_MARGINS = [name for name, loss in LOSSES.items() if loss.takes_class_margins]


def head_class(name: str) -> "type[Head]":
    """Return the class of a loss or a second stage by its name."""
    return _heads()[name]


@cache
def _heads() -> "dict[str, type[Head]]":
    return {name: loss.load() for name, loss in KNOWN.items()}


def __getattr__(name: str) -> Any:
    if name == "HEADS":
        return {name: head for name, head in _heads().items() if name in LOSSES}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class HeadChoices(TypedDict, total=False):
    """What `build_head` takes beside a loss and sizes; all can be left out."""

    bias: bool
    """Adds one to the scores of a loss that is not on angles."""
    init: "Init"
    """How the class weights start (see `Head.reset_weight`)."""
    total_steps: int | None
    """Stands in for a progress at each call (see `AnnealedHead`); losses without annealing take it,
    as they take a progress, and need neither."""
    class_margins: Mapping[int, float] | Mapping[str, float] | None
    """Margins of single classes, by their places or `class_names`; the others keep the loss's."""
    class_names: Sequence[str] | None
    """The names of the classes, in their order; messages take them too."""


def build_head(
    spec: str,
    num_features: int,
    num_classes: int,
    class_counts: "Tensor | None" = None,
    **choices: Unpack[HeadChoices],
) -> "Head":
    """Return the head that a spec names.

    Args:
        spec: a name with options, such as `lsoftmax:margin=4`.
        num_features, num_classes: the sizes of the class weights.
        class_counts: the training images of each class (C,), for losses that need them.
        choices: what does not depend on the loss, see `HeadChoices`.

    Raises ArgumentError, a ValueError, for an unknown name or option, with the nearest one, and for
    values out of range.

    >>> build_head("cosface:scale=20", num_features=64, num_classes=10)
    CosFaceLoss(num_features=64, num_classes=10, margin=0.35, scale=20.0)
    """
    from lmsm_cli.losses.checks import ClassMarginError, checked_counts, whole

    if unknown := choices.keys() - HeadChoices.__annotations__.keys():
        raise TypeError(f"build_head() got an unexpected keyword argument {min(unknown)!r}")
    name, texts = _read(spec)
    place = own_place(name)
    try:
        choices = _by_place(choices)
        if place:
            from lmsm_cli.losses.own_head import build_own

            head = build_own(place, texts, num_features, num_classes, class_counts, choices)
        else:
            kind, options = _heads()[name], _converted(name, texts)
            make: Callable[..., Head] = kind
            options |= _given(name, kind, choices)
            head = make(num_features, num_classes, class_counts=class_counts, **options)
        total_steps, init = choices.get("total_steps"), choices.get("init", "default")
        if total_steps is not None:
            whole("total_steps", total_steps, 1)
        is_known = class_counts is not None and not getattr(class_counts, "is_meta", False)
        if is_known:  # softmax can do with a class that has no training image
            checked_counts(class_counts, num_classes, name, least=0)
        if init != "default":  # which is drawn already
            head.reset_weight(init)
        return head
    except LmsmError as error:
        text, names = str(error), choices.get("class_names")
        if names and isinstance(error, ClassMarginError):
            text = error.of(repr(names[error.place]))
        raise ArgumentError(
            text if text.startswith("loss ") else f"loss {spec!r}: {text}"
        ) from None


def _by_place(choices: HeadChoices) -> HeadChoices:
    """Return choices with margins by the places of classes, where they are by name."""
    from lmsm_cli.losses.class_weights import by_index

    margins: Any = choices.get("class_margins")
    names = choices.get("class_names")
    if names is None or not isinstance(margins, Mapping):
        return choices
    if not all(isinstance(key, str) for key in margins):
        return choices
    return {**choices, "class_margins": by_index(margins, names, "class_margins")}


def _given(name: str, kind: "type[Head]", choices: HeadChoices) -> dict[str, Any]:
    """Return the arguments of a loss's class that choices give. Raises ArgumentError for a bias or
    margins where it has none."""
    from lmsm_cli.losses.annealed_head import AnnealedHead
    from lmsm_cli.losses.head import LinearHead

    given: dict[str, Any] = {}
    bias = choices.get("bias", False)
    if issubclass(kind, LinearHead):
        given["bias"] = bias
    elif bias:
        raise ArgumentError(
            f"loss {name!r} takes no bias: its margin is on angles, and a bias has none; "
            f"a bias goes with {', '.join(TAKE_A_BIAS)}"
        )
    if issubclass(kind, AnnealedHead):
        given["total_steps"] = choices.get("total_steps")
    class_margins = choices.get("class_margins")
    if not isinstance(class_margins, Mapping | None) or class_margins:
        _check_takes_class_margins(name, kind)
        given["class_margins"] = class_margins
    return given


def _check_takes_class_margins(name: str, kind: "type[Head]") -> None:
    if "class_margins" not in inspect.signature(kind.__init__).parameters:
        raise ArgumentError(
            f"loss {name!r} takes no class_margins: it has no margin; "
            f"they go with {', '.join(TAKE_CLASS_MARGINS)}"
        )


def own_place(name: str) -> str | None:
    """Return the `module:Class` of a loss that is not of this package; None for a known name.

    Raises ArgumentError for a name that nobody knows.
    """
    if name in KNOWN:
        return None
    module, colon, rest = name.partition(":")
    if colon and module in KNOWN:
        raise ArgumentError(f"{name!r}: {rest!r} is not key=value")
    place = own.place_of(name, own.LOSSES_GROUP)
    if place is None:
        known = [*KNOWN, *own.offers(own.LOSSES_GROUP)]
        is_place = any(mark in name for mark in "./\\:") or Path(f"{name}.py").is_file()
        way_out = "; a loss of your own is written module:Class" if is_place else ""
        raise ArgumentError(f"no loss {name!r}{did_you_mean(name, known)}{way_out}")
    return place


def _read(spec: str) -> tuple[str, dict[str, str]]:
    """Return the name and the options of a spec, as they are written. Raises ArgumentError."""
    if not isinstance(spec, str):
        raise ArgumentError(
            f"the loss is of type {type(spec).__name__}: give a text such as lsoftmax:margin=4"
        )
    try:
        return parse_spec(spec)
    except LmsmError as error:
        raise ArgumentError(str(error)) from None


def _converted(name: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of a loss of this package. Raises ArgumentError for unknown ones."""
    from lmsm_cli.losses.options import convert, options_of

    known = options_of(_heads()[name])
    for key in texts.keys() - known.keys():
        hint = did_you_mean(key, known) if known else " (it has none)"
        others = [other for other in LOSSES if _takes(other, key, texts[key])]
        where = f"; it goes with {few(others)}" if others else ""
        raise ArgumentError(f"loss {name!r} has no option {key!r}{hint}{where}")
    return {
        key: convert(text, known[key].annotation, f"{name}:{key}") for key, text in texts.items()
    }


def _takes(name: str, key: str, text: str) -> bool:
    """Return whether a loss has an option that can be what a text says."""
    from lmsm_cli.losses.options import convert, options_of

    if option := options_of(_heads()[name]).get(key):
        with suppress(ArgumentError):
            convert(text, option.annotation, key)
            return True
    return False


def parts_of(spec: str) -> tuple[str, dict[str, float | str]]:
    """Return the name and the options of a spec as all its spellings have them, sorted.

    Numbers are numbers, and what is given as it would be without is left out. A loss that is not of
    this package is known only where this process has loaded it. Raises ArgumentError.

    >>> parts_of("lsoftmax:tau=0,margin_max=3.0") == parts_of("lsoftmax:margin_max=3,margin=auto")
    True
    """
    name, texts = _read(spec)
    options = {key: _number(text) for key, text in sorted(texts.items())}
    if name in KNOWN:
        usual = dict(KNOWN[name].options)
        if name == "lsoftmax":
            if options.keys() & set(SHAPES):
                options.setdefault("margin", "auto")
            usual |= _usual_under(options.get("margin"))
        if "lambda_start" in usual:
            usual["lambda_start"] = _usual_start(options)
    elif own.is_loaded(own.place_of(name, own.LOSSES_GROUP) or ""):
        from lmsm_cli.losses.own_head import usual_options

        usual = usual_options(str(own.place_of(name, own.LOSSES_GROUP)))
    else:
        usual = {}
    return name, {key: value for key, value in options.items() if value != usual.get(key)}


def has_usual_margin(spec: str) -> bool:
    """Return whether `lsoftmax` is left to choose its margin by the class counts."""
    name, options = parts_of(spec)
    return name == "lsoftmax" and "margin" not in options


def margin_by_rarity(spec: str) -> ByRarity | None:
    """Return which margin by rarity a spec asks for; None where it asks for none."""
    with suppress(LmsmError):
        name, options = parts_of(spec)
        margin = options.get("margin") if name == "lsoftmax" else None
        return next((known for known in BY_RARITY if known == margin), None)
    return None


def normal_spec(spec: str) -> str:
    """Return the one text that stands for all spellings of a spec. Raises ArgumentError."""
    name, options = parts_of(spec)
    order = list(KNOWN[name].options) if name in KNOWN else sorted(options)
    texts = {key: options[key] for key in [*order, *options] if key in options}
    return format_spec(name, {key: _text(value) for key, value in texts.items()})


def _usual_under(margin: float | str | None) -> dict[str, float]:
    """Return the defaults of `lsoftmax` that follow from its margin; that of None is the data's."""
    if margin is None:
        return {}
    return next((usual for name, usual in BY_RARITY.items() if name == margin), {"tau": 0})


def _usual_start(options: Mapping[str, float | str]) -> float | None:
    """Return the lambda_start of options without one, where they name the lambda_min; see
    `Annealing`."""
    least = options.get("lambda_min")
    usual = 10.0 if options.get("anneal") in ("cosine", "linear") else 1000.0
    return max(usual, 4 * least) if isinstance(least, float) else None


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _text(value: float | str) -> str:
    return f"{value:.12g}" if isinstance(value, float) else value


def check_known_loss(spec: str) -> None:
    """Raise LmsmError where `check_loss` would, but let what is not of this package pass."""
    if _read(spec)[0].partition(":")[0] in KNOWN:
        check_loss(spec)


def check_loss(spec: str) -> None:
    """Raise LmsmError where `build_head` would, by building a tiny head and dropping it.

    A loss that is not of this package is imported, and tried out on a batch.
    """
    import torch

    place = own_place(_read(spec)[0])
    if place is None:
        build_head(spec, 2, 2, torch.tensor([2, 1]))
        return
    from lmsm_cli.losses.own_head import try_out

    try_out(build_head(spec, 5, 3, torch.tensor([3, 2, 1])), place)
