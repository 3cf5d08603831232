"""What corrects a classifier, in words, and what that did: scores before and after."""

from rich.table import Table

from lmsm_cli.errors import counted, few
from lmsm_cli.metrics import Scores
from lmsm_cli.reports.tables import new_table, percent
from lmsm_cli.runs.documents import Adjustment, CorrectionFacts, Coverage, Unadjusted

_METHODS = {
    "adjust": "logit adjustment",
    "tau-norm": "tau-normalisation",
    "mla": "multiplicative logit adjustment",
}
# A line names the shares of so many classes.
_SHARES_SHOWN = 10


def adjustment_table(adjustment: Adjustment, scores: Scores) -> Table:
    """Return the scores of the classifier as trained and as corrected; ECE is calibration error."""
    overall = ("accuracy", "balanced", "macro F1")
    title = f"What {_names(adjustment)} did, in percent"
    table = new_table(title, "", numbers=[*overall, *scores.groups, "ECE"])
    rows: tuple[tuple[str, Unadjusted | Scores], ...] = (
        ("as trained", adjustment.unadjusted),
        (_short(adjustment), scores),
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


def coverage_line(coverage: Coverage) -> str:
    """Return a sentence on what is right where the classifier answers only if it is sure."""
    on = "validation images" if coverage.chosen_on == "validation" else coverage.chosen_on
    rule = (
        f"sure enough at a confidence of {percent(coverage.confidence)} %, chosen on {on} to "
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
