"""What corrects a trained classifier: asked for, checked, chosen, and made one affine map.

One road for all commands: `read_trained`, then `check` before any data is read, then `made`, which
chooses on the run's validation images where that is asked for; `corrected` does it all and
builds the result in. First comes what corrects for rare classes, then the shares of the classes
where the model is used, and last a temperature, so that it changes no class decision.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from lmsm_cli.config.post_hoc import NCM
from lmsm_cli.data.find_again import check_at_hand
from lmsm_cli.errors import LmsmError
from lmsm_cli.inference.adjust import (
    ByTau,
    choose_tau,
    log_shares,
    logit_adjustment,
    multiplicative_adjustment,
    tau_normalisation,
)
from lmsm_cli.inference.own_images import HeldOut
from lmsm_cli.inference.prior import RequestedPrior, shares_of
from lmsm_cli.inference.temperature import fit_temperature
from lmsm_cli.inference.trained import Correction, Trained
from lmsm_cli.models.affine import Affine
from lmsm_cli.runs.documents import ChosenOn, CorrectionFacts, FittedOn, Method, build
from lmsm_cli.runtime.display import Display
from lmsm_cli.training.loop import class_weights

AUTO: Literal["auto"] = "auto"
# Differences of logits that rounding makes, of weights in float32.
_NOTHING = 1e-5
# A share of the logit adjustment that is not worth a word.
_SLIGHT = 0.1
# A class of weight 0 was not learned, and no correction brings it back.
_LEAST_WEIGHT = 1e-12
Number = float | Literal["auto"]


@dataclass(frozen=True)
class RequestedTau:
    """A correction for rare classes, `adjust`, `tau-norm` or `mla`, with its tau.

    `auto` takes the tau that is best on the run's validation images.
    """

    method: Method
    tau: Number
    is_scaled: bool = False
    """Whether tau, of `adjust` alone, is in units of the logits' scale (`Head.score_scale`).

    The scale is that of the images that `eval` corrects, without their labels. With `auto`, and
    where the correction is built in, it is that of the validation images: what is applied is what
    was chosen, and rare classes can have shorter features, and hence other images another scale.
    """


@dataclass(frozen=True)
class RequestedCorrection:
    """What is to correct a classifier, as the flags say it."""

    for_rare: RequestedTau | None = None
    prior: RequestedPrior | None = None
    """The class shares to expect where the model is used."""
    temperature: Number | None = None
    """`auto` fits it on the run's validation images."""

    @property
    def is_scaled(self) -> bool:
        """Whether it needs the scale of logits."""
        return self.for_rare is not None and self.for_rare.is_scaled

    @property
    def awaits_scale(self) -> bool:
        """Whether its tau is a number in units of the scale of the logits that are corrected."""
        return self.is_scaled and self.for_rare is not None and self.for_rare.tau != AUTO

    @property
    def chooses(self) -> str | None:
        """What is to be chosen on validation images, if anything."""
        if self.for_rare and self.for_rare.tau == AUTO:
            return "tau"
        return "the temperature" if self.temperature == AUTO else None


@dataclass(frozen=True)
class Checked:
    """A correction that is possible, before anything is chosen."""

    wanted: RequestedCorrection
    num_classes: int
    for_rare: ByTau | None
    shares: dict[str, float] | None
    """By class where the model is used."""
    left: Tensor
    """What of the log shares of the training images the scores still have in them, (C,)."""


def check(trained: Trained, wanted: RequestedCorrection, display: Display) -> Checked:
    """Return the correction; raise LmsmError for an impossible one, before any data is read.

    Warns where the training corrected for rare classes already.
    """
    if trained.correction:
        raise LmsmError(
            f"{trained.file} has a correction built in, and another one would come on top of it: "
            "give the run that it was made from, with all flags together"
        )
    if wanted.chooses and trained.config.validation == 0:
        raise LmsmError(
            "the run held out no validation images (validation 0) to choose "
            f"{wanted.chooses} on; give a number instead of auto"
        )
    for_rare = wanted.for_rare
    family = _family(trained, for_rare, display) if for_rare else None
    shares, left = None, torch.zeros(len(trained.model.classes), dtype=torch.float64)
    if wanted.prior is not None:
        shares = shares_of(wanted.prior, trained.model.classes)
        if for_rare and for_rare.method != "adjust":
            raise LmsmError(
                f"--{for_rare.method} and --prior both correct for the shares of the classes, and "
                "what the first leaves of those of the training is not known; give --adjust or "
                "only one"
            )
        if not for_rare:
            left = held_by_scores(trained)
        moved = _log(shares) - left
        if moved.max() - moved.min() < _NOTHING:
            raise LmsmError(
                "--prior changes nothing here: the model is for these shares already; leave it out"
            )
    return Checked(wanted, len(trained.model.classes), family, shares, left)


def _family(trained: Trained, wanted: RequestedTau, display: Display) -> ByTau:
    head = trained.model.head
    if wanted.method == "tau-norm":
        return tau_normalisation(head.class_weights(), head.bias)
    done, why = done_in_training(trained)
    if why:
        left, unit = max(0.0, 1.0 - done), "plain tau" if wanted.is_scaled else "tau"
        further = "some further" if left else "no further"
        display.warning(f"{why}; {further} correction is expected ({unit} {left:g}).")
    if wanted.method == "mla":
        return multiplicative_adjustment(trained.state.train_counts)
    return logit_adjustment(trained.state.train_counts, done)


def held_by_scores(trained: Trained) -> Tensor:
    """Return what of the log shares of the classes a trained net's scores hold, (C,) in float64.

    Cross-entropy under which class c is drawn with share p_c and weighs w_c gives scores that hold
    ln(p_c w_c), less the tau ln pi_c that the loss adds itself. The means of the classes, which are
    the weights of `ncm`, hold nothing of how many images there are.
    """
    config, counts = trained.config, trained.state.train_counts
    shares = log_shares(counts)
    if config.post_hoc == NCM:
        return torch.zeros_like(shares)
    held = shares
    if trained.state.epoch >= config.rebalance_from:
        held = torch.zeros_like(shares) if config.sampling == "balanced" else shares
        weights = class_weights(config, list(counts), trained.model.classes)
        if weights is not None:
            held = held + weights.double().clamp_min(_LEAST_WEIGHT).log()
    return held - trained.model.head.prior_strength * shares


def done_in_training(trained: Trained) -> tuple[float, str]:
    """Return how much of the logit adjustment the training did already, and in words what did it.

    That is the tau whose adjustment comes nearest to what the training did, 0 and "" for none.
    """
    config, strength = trained.config, trained.model.head.prior_strength
    if config.post_hoc == NCM:
        return 1.0, "The nearest class mean knows nothing of how many images a class has"
    centred = log_shares(trained.state.train_counts)
    centred = centred - centred.mean()
    if not centred.any():
        return 0.0, ""
    done = 1.0 - float(held_by_scores(trained) @ centred / (centred @ centred))
    if strength and abs(done - strength) < _NOTHING:
        part = f" by tau {strength:g}" if strength < 1 else ""
        return strength, f"The loss {config.loss!r} is already adjusted{part}"
    if done > 1 - _SLIGHT:
        return max(1.0, done), "The training rebalanced the classes already"
    return (done, "The training rebalanced the classes in part") if done > _SLIGHT else (0.0, "")


def needs_held_out(wanted: RequestedCorrection, *, scales_itself: bool) -> bool:
    """Return whether validation images are needed; `scales_itself` where `made` gets a scale."""
    return wanted.chooses is not None or (wanted.is_scaled and not scales_itself)


def made(checked: Checked, held_out: HeldOut | None, scale: float | None = None) -> Correction:
    """Return the finished correction.

    Args:
        checked: What is possible.
        held_out: The validation images, where `needs_held_out`.
        scale: That of the logits which are corrected, for a given tau in its units; that of the
            validation images if None.

    Raises:
        LmsmError: A tau leads beyond float32, or no temperature fits.
    """
    wanted = checked.wanted
    facts: dict[str, Any] = dict.fromkeys(("method", "tau", "scale", "chosen_on"))
    zeros = torch.zeros(checked.num_classes, dtype=torch.float64)
    affine = Affine.shifted(zeros)
    if wanted.for_rare and checked.for_rare:
        affine, facts = _for_rare(checked.for_rare, wanted.for_rare, held_out, scale)
    if checked.shares is not None:
        affine = affine.then(Affine.shifted(_log(checked.shares) - checked.left))
        facts["prior"] = checked.shares
    if wanted.temperature is not None:
        temperature, fitted_on = _temperature(checked, affine, held_out)
        affine = affine.then(Affine.scaled(torch.full_like(zeros, 1 / temperature)))
        facts |= {"temperature": temperature, "fitted_on": fitted_on}
    return Correction(affine, build(CorrectionFacts, facts))


def _for_rare(
    correction: ByTau, wanted: RequestedTau, held_out: HeldOut | None, scale: float | None
) -> tuple[Affine, dict[str, Any]]:
    """Return the map with its tau, `auto` chosen on the run's validation images, and the facts."""
    if wanted.is_scaled:
        if scale is None:
            assert held_out is not None
            scale = held_out.logits_and_scale[1]
        assert scale is not None
        correction = correction.in_units_of(scale)
    tau, chosen_on = wanted.tau, None
    if tau == AUTO:
        assert held_out is not None
        choice = choose_tau(correction, held_out.logits, held_out.images.labels.numpy())
        tau = choice.tau
        chosen_on = ChosenOn(
            split="validation",
            num_images=len(held_out.images),
            classes_without_images=held_out.missing_classes("tau"),
            balanced_accuracy=choice.balanced_accuracy,
            balanced_accuracy_unadjusted=choice.balanced_accuracy_unadjusted,
        )
    facts = {
        "method": correction.method,
        "tau": tau,
        "scale": correction.scale,
        "chosen_on": chosen_on,
    }
    return correction.at(tau), facts


def _temperature(
    checked: Checked, affine: Affine, held_out: HeldOut | None
) -> tuple[float, FittedOn | None]:
    """Return the temperature, and what it was fitted on.

    Corrected scores are for other class shares than the validation images have, so there each class
    counts by those: all alike after a correction for rare classes, else as `--prior` says.
    """
    wanted = checked.wanted.temperature
    assert wanted is not None
    if wanted != AUTO:
        return wanted, None
    assert held_out is not None
    counts = torch.tensor(held_out.images.counts(), dtype=torch.float64)
    weights = None
    if checked.shares is not None:
        weights = _log(checked.shares).exp() / counts.clamp_min(1)
    elif checked.for_rare:
        weights = 1 / counts.clamp_min(1)
    fit = fit_temperature(affine.of(held_out.logits), held_out.images.labels, weights)
    fitted_on = FittedOn(
        split="validation",
        num_images=len(held_out.images),
        classes_without_images=held_out.missing_classes("the temperature"),
        cross_entropy=fit.cross_entropy,
        cross_entropy_at_1=fit.cross_entropy_at_1,
    )
    return fit.temperature, fitted_on


@dataclass(frozen=True)
class Corrected:
    """A classifier with a correction built in, and what that was made with."""

    trained: Trained
    checked: Checked
    held_out: HeldOut | None
    """The validation images, where the correction needed them."""


def corrected(
    trained: Trained, wanted: RequestedCorrection, device: str, display: Display
) -> Corrected:
    """Return the classifier with a correction built in, which changes its model.

    The device, `auto` or another, is where a copy of the model looks at validation images, if any.

    Raises LmsmError for an impossible correction, DataError where validation images are needed and
    cannot be had.
    """
    checked = check(trained, wanted, display)
    held_out = None
    if needs_held_out(wanted, scales_itself=False):
        if trained.config.validation == 0:
            raise LmsmError(
                "the run held out no validation images (validation 0) to measure the scale of the "
                "logits on; give a plain number instead of scaled:TAU"
            )
        if not trained.is_data_named:
            check_at_hand(trained.config)
        held_out = look_at_held_out(trained, device, display, with_scale=wanted.is_scaled)
    correction = made(checked, held_out)
    trained.model.correct_by(correction.affine)
    return Corrected(replace(trained, correction=correction), checked, held_out)


def look_at_held_out(
    trained: Trained, device: str, display: Display, *, with_scale: bool = False
) -> HeldOut:
    """Return the run's validation images, which a copy of the model looks at, uncorrected.

    Raises LmsmError for a device that is not there, DataError where the images are gone.
    """
    # a copy, since its layout and its fast convolutions are those of one device
    looking = replace(trained, model=copy.deepcopy(trained.model))
    looking.model.correct_by(None)
    runtime = looking.runtime(device)
    return HeldOut.of(looking, runtime, display, with_scale=with_scale)


def _log(shares: dict[str, float]) -> Tensor:
    return torch.tensor(list(shares.values()), dtype=torch.float64).log()
