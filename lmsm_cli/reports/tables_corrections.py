"""What corrects a classifier, in words, and what that did: scores before and after."""

from rich.table import Table

from lmsm_cli.comparison.intervals import in_points
from lmsm_cli.comparison.two_way import FEWEST_IMAGES
from lmsm_cli.errors import counted, few
from lmsm_cli.metrics import Scores
from lmsm_cli.reports.tables import new_table, percent
from lmsm_cli.reports.verdicts import in_words
from lmsm_cli.runs.documents import (
    Adjustment,
    CorrectionFacts,
    Coverage,
    Effect,
    MainScores,
    PairedDifference,
)

_METHODS = {
    "adjust": "logit adjustment",
    "tau-norm": "tau-normalisation",
    "mla": "multiplicative logit adjustment",
}
_SCORES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy_at_prior": "accuracy at these class shares",
}
# A line names the shares of so many classes.
_SHARES_SHOWN = 10


def adjustment_table(adjustment: Adjustment, scores: Scores) -> Table:
    """Return the scores of the classifier as trained and as corrected; ECE is calibration error."""
    return _before_and_after(adjustment, adjustment.unadjusted, scores, "")


def effect_table(facts: CorrectionFacts, effect: Effect) -> Table:
    """Return the scores on a run's validation images, as trained and as corrected."""
    on = f" on {counted(effect.num_images, 'validation image')}"
    return _before_and_after(facts, effect.unadjusted, effect.adjusted, on)


def _before_and_after(
    facts: CorrectionFacts, before: MainScores, after: MainScores | Scores, on: str
) -> Table:
    overall = ("accuracy", "balanced", "macro F1")
    title = f"What {_names(facts)} did{on}, in percent"
    table = new_table(title, "", numbers=[*overall, *after.groups, "ECE"])
    rows: tuple[tuple[str, MainScores | Scores], ...] = (
        ("as trained", before),
        (_short(facts), after),
    )
    for name, row in rows:
        means = (row.accuracy, row.balanced_accuracy, row.macro_f1)
        table.add_row(name, *map(percent, (*means, *row.groups.values(), row.calibration_error)))
    return table


def _names(facts: CorrectionFacts) -> str:
    names = [_METHODS[facts.method]] if facts.method else []
    names += ["other class shares"] if facts.prior else []
    names += ["the temperature"] if facts.temperature is not None else []
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _short(facts: CorrectionFacts) -> str:
    parts = [_tau_of(facts, "in units of")] if facts.method else []
    parts += ["class shares"] if facts.prior else []
    parts += [f"temperature {facts.temperature:.3g}"] if facts.temperature is not None else []
    return ", ".join(parts)


def correction_lines(facts: CorrectionFacts) -> list[str]:
    """Return a sentence for each part of a correction, in the order in which they are applied."""
    lines = [_line_of_tau(facts)] if facts.method else []
    if facts.prior:
        shares = [f"{name} {percent(share)}" for name, share in facts.prior.items()]
        instead = "" if facts.method else " in place of those of the training images"
        lines.append(f"for these class shares{instead}, in percent: {few(shares, _SHARES_SHOWN)}")
    if facts.temperature is not None:
        lines.append(_line_of_temperature(facts))
    return lines


def _line_of_tau(facts: CorrectionFacts) -> str:
    assert facts.method
    tau = _tau_of(facts, "in units of the logits' scale")
    what = f"{_METHODS[facts.method]} with {tau}"
    chosen_on = facts.chosen_on
    if chosen_on is None:
        return f"{what}, as given"
    return (
        f"{what}, chosen on {chosen_on.num_images} validation images of the run "
        f"(balanced accuracy {chosen_on.balanced_accuracy:.3f}, "
        f"at tau 0: {chosen_on.balanced_accuracy_unadjusted:.3f})"
    )


def _line_of_temperature(facts: CorrectionFacts) -> str:
    what = f"logits divided by the temperature {facts.temperature:.3g}"
    fit = facts.fitted_on
    if fit is None:
        return f"{what}, as given"
    return (
        f"{what}, fitted on {counted(fit.num_images, 'validation image')} of the run "
        f"(cross-entropy {fit.cross_entropy:.3f}, at 1: {fit.cross_entropy_at_1:.3f})"
    )


def _tau_of(facts: CorrectionFacts, units: str) -> str:
    """Return the tau and, after `units`, the scale of the logits that it is multiplied by."""
    tau, scale = f"tau {facts.tau:g}", facts.scale
    return tau if scale is None else f"{tau} {units} {scale:.3g}"


def effect_line(effect: Effect) -> str:
    """Return a sentence on whether a correction helped on validation images."""
    found = effect.difference
    if found.mean == 0 and found.low is None and found.before == found.after:  # as of temperatures
        return f"{_SCORES[found.score]}: the same as before"
    verdict = in_words(found.verdict)
    if found.images < FEWEST_IMAGES or found.mean is None:
        verdict += " (too few images)"
    if effect.chooses == "tau":  # a temperature changes no answer
        verdict += "; tau was chosen on these images, which flatters it"
    return f"{_SCORES[found.score]}: {_points(found)}: {verdict}"


def worse_words(found: PairedDifference, on: str) -> str:
    """Return a warning of a corrected classifier that is worse on some images, without an end."""
    return (
        f"corrected, the classifier is worse: on {on} its {_SCORES[found.score]} is "
        f"{percent(found.after)} % in place of {percent(found.before)} %, more than chance "
        f"explains ({_points(found)})"
    )


def better_tau(facts: CorrectionFacts, best: tuple[float, float] | None = None) -> str:
    """Return what to do about a correction that makes a classifier worse.

    Args:
        facts: The correction.
        best: The best tau on the same images, and its balanced accuracy, where they may choose it.
    """
    longer = "train longer, since a net that has learned little cannot be corrected by so much"
    if facts.method not in ("adjust", "tau-norm") or facts.chosen_on:
        return f"leave the correction out, or {longer}"
    auto = f"--{facts.method} {'auto' if facts.scale is None else 'scaled:auto'}"
    if best is None:
        return f"take {auto}, which chooses tau on the validation images, or {longer}"
    tau, reached = best
    if tau == 0:
        return f"{auto} would find no tau that does better on them: {longer}"
    return f"take {auto}, which finds tau {tau:g} here ({percent(reached)} %), or {longer}"


def _points(found: PairedDifference) -> str:
    """Return the difference with its interval, and without which classes that is."""
    points = f"{in_points(found.after - found.before)} points"
    if found.mean is None or found.low is None or found.high is None:
        return points
    interval = f"95% interval {in_points(found.low)} to {in_points(found.high)}"
    if alone := found.classes_of_one_image:
        mean = in_points(found.mean)
        return f"{points}; without the classes of one image ({few(alone)}) {mean}, {interval}"
    return f"{points}, {interval}"


def coverage_line(coverage: Coverage) -> str:
    """Return a sentence on what is right where the classifier answers only if it is sure."""
    on = "validation images" if coverage.chosen_on == "validation" else coverage.chosen_on
    confidence = f"{percent(coverage.confidence)} %"
    if coverage.log_odds is not None and confidence == f"{percent(1.0)} %":
        confidence += f" (log odds {coverage.log_odds:.2f})"
    rule = (
        f"sure enough at a confidence of {confidence}, chosen on {on} to "
        f"answer {percent(coverage.wanted)} %"
    )
    if coverage.accuracy is None:
        return f"{rule}: none of them is answered"
    assert coverage.balanced_accuracy is not None
    return (
        f"{rule}: {percent(coverage.answered)} % of these images are answered, "
        f"{percent(coverage.accuracy)} % of the answers are right (balanced "
        f"{percent(coverage.balanced_accuracy)} %)"
    )
