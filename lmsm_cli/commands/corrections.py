"""The flags that correct a trained classifier, which eval, predict, export and adjust share."""

import inspect
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lmsm_cli.commands.console import print_line, stdout_console
from lmsm_cli.commands.options import value
from lmsm_cli.config.by_class import parse_by_class
from lmsm_cli.errors import LmsmError, did_you_mean

if TYPE_CHECKING:
    from lmsm_cli.inference.correction import Number, RequestedCorrection
    from lmsm_cli.runs.documents import CorrectionFacts, Method

_SCALED, _UNIFORM = "scaled", "uniform"

_Adjust = Annotated[
    str | None,
    value(
        "TAU",
        "Correct for rare classes by logit adjustment: TAU times the log of a class's share "
        "of the training images is taken from its logit. 1 is what theory asks for after "
        "softmax; auto takes the best on the run's validation images. scaled:TAU and scaled:auto "
        "measure TAU in units of the scale of the logits, for losses with margins or on cosines: "
        "the mean length of the features times that of the last layer's weights.",
    ),
]
_TauNorm = Annotated[
    str | None,
    value(
        "TAU",
        "Correct for rare classes by tau-normalisation: a class's weights are divided by "
        "their norm to the power of TAU, 0 to 1; auto as above.",
    ),
]
_Prior = Annotated[
    str | None,
    value(
        "SHARES",
        "Correct for the class shares where the model is used: uniform, cat=0.7,dog=0.3, or a "
        "folder of class folders, which are counted. The log of a class's share is added to its "
        "logit, and, without --adjust, that of its share of the training images taken from it.",
    ),
]
_Temperature = Annotated[
    str | None,
    value(
        "T",
        "Divide all logits by T, after any other correction: probabilities change, and no class "
        "does. auto fits T on the run's validation images.",
    ),
]
RunData = Annotated[
    Path | None,
    value("PATH", "Where the run's data is now, for auto. (default: where the run had it)"),
]

_FLAGS = {
    "adjust": _Adjust,
    "tau_norm": _TauNorm,
    "prior": _Prior,
    "temperature": _Temperature,
}


@dataclass(frozen=True)
class Corrections:
    """The flags, read; no import of torch is needed for that."""

    for_rare: "tuple[Method, Number, bool] | None" = None
    """Method, tau, and whether tau is in units of the logits' scale."""
    prior: str | Mapping[str, float] | Path | None = None
    temperature: "Number | None" = None

    @property
    def is_empty(self) -> bool:
        """Whether no flag was given."""
        return self.for_rare is None and self.prior is None and self.temperature is None

    def requested(self) -> "RequestedCorrection | None":
        """Return what is asked for; None where nothing is."""
        from lmsm_cli.inference.correction import RequestedCorrection, RequestedTau

        if self.is_empty:
            return None
        for_rare = RequestedTau(*self.for_rare) if self.for_rare else None
        return RequestedCorrection(for_rare, self.prior, self.temperature)


UNCORRECTED = Corrections()
"""No flag at all."""


def read_correction(
    adjust: str | None, tau_norm: str | None, prior: str | None, temperature: str | None
) -> Corrections:
    """Return what the flags ask for.

    Raises LmsmError for --adjust and --tau-norm at once, and for values that cannot be meant.
    """
    if adjust is not None and tau_norm is not None:
        raise LmsmError("--adjust and --tau-norm exclude each other; give one of them")
    for_rare: tuple[Method, Number, bool] | None = None
    if tau_norm is not None:
        for_rare = "tau-norm", _tau_of_norm(tau_norm), False
    elif adjust is not None:
        for_rare = "adjust", *_tau_of_adjust(adjust)
    return Corrections(
        for_rare,
        None if prior is None else _prior(prior),
        None if temperature is None else _temperature(temperature),
    )


def with_correction_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that has the flags in the place of its parameter `correction`.

    It gets them read, as Corrections, before it does anything.
    """
    own = inspect.signature(command).parameters
    place, kind = list(own).index("correction"), own["correction"].kind
    flags = [
        inspect.Parameter(name, kind, default=None, annotation=annotation)
        for name, annotation in _FLAGS.items()
    ]
    parameters = list(own.values())

    def wrapped(**options: Any) -> None:
        texts = {name: options.pop(name) for name in _FLAGS}
        command(**options, correction=read_correction(**texts))

    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    signature = inspect.Signature([*parameters[:place], *flags, *parameters[place + 1 :]])
    wrapped.__signature__ = signature  # type: ignore[attr-defined]
    return wrapped


def print_effect(facts: "CorrectionFacts", document: Mapping[str, Any], corrected: str) -> None:
    """Print what a correction does on the run's validation images, or how that can be seen.

    `corrected` is what `lmsm eval` takes to score the corrected classifier.
    """
    from lmsm_cli.reports.tables_corrections import effect_line, effect_table
    from lmsm_cli.runs.documents import Effect, build

    if document["effect"] is None:
        print_line(
            f"what this does to the scores was not checked: {document['not_checked']}; "
            f"`lmsm eval {shlex.quote(corrected)}` shows it on the test images"
        )
        return
    effect = build(Effect, document["effect"])
    stdout_console().print(effect_table(facts, effect))
    print_line(effect_line(effect))


def _prior(text: str) -> str | Mapping[str, float] | Path:
    if text == _UNIFORM:  # a folder of this name is ./uniform, as with data sets
        return text
    with suppress(OSError):  # the shares of many classes are too long for a folder's name
        if Path(text).is_dir():
            return Path(text)
    if "=" not in text and not text.lstrip().startswith("{"):
        raise LmsmError(
            f"--prior is {text!r}: give uniform, the share of each class as in cat=0.7,dog=0.3, or "
            f"a folder of class folders, and there is no such folder"
            f"{did_you_mean(text, [_UNIFORM])}"
        )
    try:
        return {name: float(share) for name, share in parse_by_class(text).items()}
    except (ValueError, TypeError) as error:
        raise LmsmError(f"--prior is {text!r}: {error}") from None


def _temperature(text: str) -> "Number":
    number = _tau(text)
    if number is None or number == 0:
        raise LmsmError(f"--temperature is {text!r}: give a number above 0, or auto")
    return number


def _tau_of_norm(text: str) -> "Number":
    """Return the tau of --tau-norm."""
    tau = _tau(text)
    if tau is None or (tau != "auto" and tau > 1):
        here = "; only --adjust takes scaled:TAU" if text.startswith(_SCALED) else ""
        raise LmsmError(f"--tau-norm is {text!r}: give a number from 0 to 1, or auto{here}")
    return tau


def _tau_of_adjust(text: str) -> "tuple[Number, bool]":
    """Return the tau of --adjust, and whether it stands after `scaled:`."""
    unit, colon, number = text.partition(":")
    tau = _tau(number if colon else text)
    if tau is not None and (unit == _SCALED or not colon):
        return tau, bool(colon)
    if unit == _SCALED:
        raise LmsmError(
            f"--adjust is {text!r}: give scaled:NUMBER, with a number of at least 0, or scaled:auto"
        )
    if colon:
        right = f"{_SCALED}:{'auto' if tau is None else number}"
        raise LmsmError(
            f"--adjust is {text!r}: there is no unit {unit!r}{did_you_mean(text, [right])}"
        )
    raise LmsmError(
        f"--adjust is {text!r}: give a number of at least 0, or auto; scaled:NUMBER and "
        "scaled:auto are in units of the logits' scale"
    )


def _tau(text: str) -> "Number | None":
    """Return the finite number of at least 0, or `auto`, that a text gives; None for any other."""
    if text == "auto":
        return "auto"
    try:
        tau = float(text)
    except ValueError:
        return None
    return tau if 0 <= tau < float("inf") else None
