"""What a comparison says, in a sentence or two: the answer that stands before all tables."""

from collections.abc import Sequence

from lmsm_cli.comparison.intervals import NOT_AFTER_HOLM, Difference
from lmsm_cli.comparison.records import Conclusion, Finding, Group, Statistic
from lmsm_cli.errors import counted
from lmsm_cli.metrics import METRICS

# Names in a sentence; what is left is counted.
_MOST_NAMES = 3


def conclusion_of(groups: Sequence[Group], size: float) -> Conclusion:
    """Return the answer of the groups on one set of test images.

    It is on the rare classes where there are some, else on the mean over all classes.

    Args:
        groups: Those of one set of test images.
        size: The difference for which the number of seeds is told, as a fraction.
    """
    key = question_of(groups)
    held = [(group, one) for group in groups if (one := group.differences.get(key))]
    if not held:
        return Conclusion(_nothing_held(groups, key), "open")
    baselines = [group for group in groups if group.is_baseline]
    against = baselines[0].label if len(baselines) == 1 else "its baseline"
    parts = [
        *_told(held, "better", ("beats", "beat"), against),
        *_told(held, "worse", ("falls behind", "fall behind"), against),
        *_open(held, against, size),
    ]
    text = f"{_place(key)} " + "; ".join(parts) + "." + _hints(groups)
    verdicts = {one.verdict for _, one in held}
    finding: Finding = (
        "better" if "better" in verdicts else "worse" if "worse" in verdicts else "open"
    )
    return Conclusion(text, finding)


def common_remarks(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return what hints, of every group, that it was trained too briefly."""
    first, *others = groups
    return tuple(one for one in first.remarks if all(one in group.remarks for group in others))


def _hints(groups: Sequence[Group]) -> str:
    hints = common_remarks(groups)
    return f" Train longer to be sure: {' and '.join(hints)} in all of them." if hints else ""


def question_of(groups: Sequence[Group]) -> str:
    """Return the key of the score that the answer is on."""
    has_rare = all(group.metrics.get("few") is not None for group in groups)
    return "few" if has_rare else "balanced_accuracy"


def _place(key: str) -> str:
    return "On the rare classes" if key == "few" else "Over all classes"


def _told(
    held: Sequence[tuple[Group, Difference]], verdict: str, verbs: tuple[str, str], against: str
) -> list[str]:
    """Return the groups with that verdict, the largest difference first."""
    found = [(group, one) for group, one in held if one.verdict == verdict]
    found.sort(key=lambda pair: -abs(pair[1].mean))
    named, more = found[:_MOST_NAMES], len(found) - _MOST_NAMES
    texts = [f"{group.label} {verbs[0]} {against} by {_size(one)}" for group, one in named]
    if more > 0:
        texts.append(f"{counted(more, 'other')} {verbs[more > 1]} it by less")
    return texts


def _size(one: Difference) -> str:
    over = {"seeds": " over seeds alone", "test images": " over test images alone"}
    interval = one.interval.replace("+", "")
    if one.mean < 0:  # a distance, from the least to the largest
        low, high = one.high, one.low
        bounds = [points(-bound) for bound in (low, high) if bound is not None]
        interval = f"[{', '.join(bounds)}]"
    return f"{points(abs(one.mean))} points {interval}{over.get(one.over, '')}"


def points(value: float) -> str:
    """Return a size in points: one decimal, near 0 one digit."""
    text = f"{100 * value:.1f}"
    return f"{100 * value:.1g}" if text in ("0.0", "-0.0") and value else text


def _open(held: Sequence[tuple[Group, Difference]], against: str, size: float) -> list[str]:
    """Return what is said of the groups without a verdict: together where the reason is one."""
    by_reason: dict[str, list[str]] = {}
    for group, one in held:
        if one.verdict == "can't tell":
            by_reason.setdefault(_why(one, size), []).append(group.label)
    texts = []
    for reason, names in by_reason.items():
        who = ", ".join(names[:_MOST_NAMES])
        if len(names) > _MOST_NAMES:
            who += f" and {counted(len(names) - _MOST_NAMES, 'other')}"
        verb = "shows" if len(names) == 1 else "show"
        texts.append(f"{who} {verb} no clear difference from {against}{reason}")
    return texts


def _why(one: Difference, size: float) -> str:
    """Return the reason for no verdict, or what would give one."""
    if one.reason and one.reason != NOT_AFTER_HOLM:
        return f" ({one.reason})"
    note = f" ({NOT_AFTER_HOLM})" if one.reason else ""
    seeds = seeds_text(one, size)
    return f"{note}: {seeds}" if seeds else note


def seeds_text(one: Difference, size: float) -> str:
    """Return how many seeds would show a difference of that size; empty where nobody knows."""
    if one.seeds_needed is None:
        return ""
    fewest, most = one.seeds_needed
    what = f"would show {points(size).removesuffix('.0')} points"
    if fewest is None:
        floor = "" if one.floor is None else f", whose share of chance is {points(one.floor)}"
        return f"no number of seeds {what} on these test images{floor}"
    if most is None:
        return f"{fewest} seeds or many more {what}"
    if fewest == most:
        return f"{counted(fewest, 'seed')} {what}"
    return f"{fewest} to {most} seeds {what}"


def _nothing_held(groups: Sequence[Group], key: str) -> str:
    """Return what is known where there is nothing to hold a group against."""
    found = [(group, one) for group in groups if (one := group.metrics.get(key))]
    texts = [f"{group.label} has {_mean(one)}" for group, one in found[:_MOST_NAMES]]
    if len(found) > _MOST_NAMES:
        texts.append(f"and there are {counted(len(found) - _MOST_NAMES, 'other')}")
    way_out = (
        "train another loss to compare it with"
        if len(groups) == 1
        else "name what to hold the others against with --baseline"
    )
    what = "on the rare classes" if key == "few" else "over all classes"
    return f"{', '.join(texts)} {what}: {way_out}." if texts else "There are no scores."


def _mean(one: Statistic) -> str:
    accuracy = METRICS["accuracy"]
    sd = "" if one.sd is None else f" ± {accuracy.text(one.sd)}"
    return f"{accuracy.text(one.mean)}{sd} % over {counted(one.n, 'run')}"
