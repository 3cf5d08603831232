"""What a correction does to a classifier's answers, told on images that the net did not learn from.

A correction can make a classifier useless: a net that has learned little has small logits, and
logit adjustment then names the rarest class for nearly every image. So the scores as trained and as
corrected are held against each other, image by image. `lmsm eval` has images at hand; who builds a
correction in is told of the run's validation images, where those are at hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lmsm_cli.comparison.crossed import Strata, paired
from lmsm_cli.comparison.two_way import FEWEST_IMAGES, Estimate, two_way
from lmsm_cli.data import sources
from lmsm_cli.data.splits import folder_options
from lmsm_cli.errors import DataError, LmsmError
from lmsm_cli.inference.adjust import choose_tau
from lmsm_cli.inference.correction import AUTO, Corrected, look_at_held_out
from lmsm_cli.inference.own_images import HeldOut
from lmsm_cli.inference.trained import Trained
from lmsm_cli.metrics import Scores
from lmsm_cli.reports.tables_corrections import better_tau, worse_words
from lmsm_cli.runs.documents import Effect, MainScores, PairedDifference
from lmsm_cli.runtime.display import Display
from lmsm_cli.scoring import score
from lmsm_cli.training.evaluate import answers

Classes = NDArray[np.int64]
Rows = NDArray[np.bool_]  # (1, N)

# Five images that were right, and none that became so, may be chance by McNemar's exact test.
_FEWEST_CHANGED = 6


@dataclass(frozen=True)
class CheckUp:
    """What a correction does on a run's validation images, or why that is not known."""

    effect: Effect | None
    not_checked: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return both as plain lists and dicts."""
        effect = self.effect.to_json() if self.effect else None
        return {"effect": effect, "not_checked": self.not_checked}


def check_up(found: Corrected, device: str, display: Display) -> CheckUp:
    """Return what the correction does on the run's validation images, if they are at hand.

    Warns where the corrected classifier is worse. The device, `auto` or another, looks at them.
    """
    trained = found.trained
    if trained.config.validation == 0:
        return CheckUp(None, "the run held out no validation images")
    try:
        held_out = found.held_out or _at_hand(trained, device, display)
        effect = _effect(found, held_out)
    except LmsmError as error:  # the correction is made all the same
        return CheckUp(None, str(error))
    if effect.difference.verdict == "worse":
        assert trained.correction is not None
        on = f"{effect.num_images:,} validation images of the run"
        better = better_tau(trained.correction.facts, _best(found, held_out))
        display.warning(f"{worse_words(effect.difference, on)}; {better}")
    return CheckUp(effect)


def _best(found: Corrected, held_out: HeldOut) -> tuple[float, float] | None:
    """Return the tau that does best on these images, and its score, where a number was given."""
    family, wanted = found.checked.for_rare, found.checked.wanted.for_rare
    if family is None or wanted is None or wanted.tau == AUTO or found.checked.shares:
        return None
    assert found.trained.correction is not None
    if scale := found.trained.correction.facts.scale:
        family = family.in_units_of(scale)
    choice = choose_tau(family, held_out.logits, held_out.images.labels.numpy())
    return choice.tau, choice.balanced_accuracy


def _at_hand(trained: Trained, device: str, display: Display) -> HeldOut:
    """Return the validation images. Raises DataError where they are gone; none are downloaded."""
    config = trained.config
    options = folder_options(config)
    if config.dataset not in sources.OWN and not sources.find_dataset(
        config.dataset, config.data_dir, options
    ):
        raise DataError(
            f"{config.dataset} is not below {config.data_dir}; give its place with --data-dir"
        )
    return look_at_held_out(trained, device, display)


def _effect(found: Corrected, held_out: HeldOut) -> Effect:
    trained, images = found.trained, held_out.images
    assert trained.correction is not None
    labels, classes = images.labels.numpy(), trained.model.classes
    before = answers(held_out.logits)
    after = answers(trained.correction.affine.of(held_out.logits))
    chooses = found.checked.wanted.chooses
    unadjusted, adjusted = (
        main_scores(score(classes, labels, named, trained.state.train_counts, logits))
        for named, logits in (before, after)
    )
    difference = paired_difference(
        labels, before[0], after[0], classes, trained.correction.facts.prior
    )
    if chooses == "tau" and difference.verdict == "better":  # the best of many on these images
        difference = difference.model_copy(update={"verdict": "can't tell"})
    return Effect(
        split="validation",
        num_images=len(images),
        unadjusted=unadjusted,
        adjusted=adjusted,
        difference=difference,
        chooses=chooses,
    )


def paired_difference(
    labels: Classes,
    before: Classes,
    after: Classes,
    classes: Sequence[str],
    prior: Mapping[str, float] | None = None,
) -> PairedDifference:
    """Return how much better corrected answers are, for other images and this net.

    Args:
        labels: The true class numbers (N,).
        before: The class numbers (N,) as trained.
        after: Those as corrected.
        classes: The names of the classes.
        prior: The share of each class that the correction is for; all count alike if None.
    """
    strata = Strata.of(labels, len(classes))
    shares = np.array([prior[name] for name in classes] if prior else [1.0] * len(classes))
    right = [(named == labels)[None] for named in (before, after)]
    there = _normalised(shares * (strata.counts > 0))
    means = [
        strata.sums(row[0, strata.order].astype(np.int64)) / np.maximum(strata.counts, 1)
        for row in right
    ]
    judged = _normalised(shares * (strata.counts > 1))
    found = two_way(paired(right[1], right[0], strata), judged) if judged.any() else None
    # classes of one image may turn the sign
    is_known = found is not None and (found.mean or 0.0) * float((means[1] - means[0]) @ there) > 0
    return PairedDifference(
        score="accuracy_at_prior" if prior else "balanced_accuracy",
        images=len(labels),
        before=min(float(means[0] @ there), 1.0),  # sums round
        after=min(float(means[1] @ there), 1.0),
        classes_of_one_image=tuple(classes[c] for c in np.flatnonzero(strata.counts == 1).tolist()),
        mean=found.mean if found else None,
        low=found.low if found else None,
        high=found.high if found else None,
        verdict=_verdict(found, *right) if found and is_known else "can't tell",
    )


def _normalised(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return shares that add up to 1; those of no class at all stay 0."""
    return shares / (shares.sum() or 1.0)


def _verdict(
    found: Estimate, before: Rows, after: Rows
) -> Literal["better", "worse", "can't tell"]:
    """Return the verdict of the interval, where chance could not have changed so many images."""
    if not found.mean or found.images < FEWEST_IMAGES:
        return "can't tell"
    is_better = found.mean > 0
    changed = int((after > before if is_better else after < before).sum())
    # without an interval all images of a class changed alike
    is_told = found.low is None or found.high is None or found.low > 0 or found.high < 0
    if changed < _FEWEST_CHANGED or not is_told:
        return "can't tell"
    return "better" if is_better else "worse"


def main_scores(scores: Scores) -> MainScores:
    """Return those of the scores that tell what a correction did."""
    return MainScores(
        accuracy=scores.accuracy,
        balanced_accuracy=scores.balanced_accuracy,
        macro_f1=scores.macro_f1,
        groups=scores.groups,
        calibration_error=scores.calibration_error,
    )
