"""What a comparison says, in a sentence or two: the answer that stands before all tables."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from lmsm_cli.comparison.intervals import NOT_AFTER_HOLM, Difference, points
from lmsm_cli.comparison.records import Conclusion, Finding, Group, Statistic
from lmsm_cli.errors import counted
from lmsm_cli.metrics import METRICS

T = TypeVar("T")

# Names in a sentence; what is left is counted.
_MOST_NAMES = 3
# What a label is made of: the loss, each of its options, each further choice.
_PIECE = re.compile(r"[:, ]?[^:, ]+")


def conclusion_of(groups: Sequence[Group], size: float) -> Conclusion:
    """Return the answer of the groups on one set of test images.

    It is on the rare classes where there are some, else on the mean over all classes.

    Args:
        groups: Those of one set of test images.
        size: The difference for which the number of seeds is told, as a fraction.
    """
    key = question_of(groups)
    held = [(group, one) for group in groups if (one := group.differences.get(key))]
    names = short_names([group.label for group in groups])
    if not held:
        return Conclusion(_nothing_held(groups, key, names), "open")
    if nothing_learned(groups):
        return Conclusion(_learn_first(groups, key, names), "open")
    baselines = [group for group in groups if group.is_baseline]
    against = names[baselines[0].label] if len(baselines) == 1 else "the baseline"
    named = _named(held, names)
    parts = [
        *_told(named, "better", ("beats", "beat"), against),
        *_told(named, "worse", ("falls behind", "fall behind"), against),
        *_chance_among_several(named, against),
        *_open(named, against, size),
    ]
    text = f"{_place(key)} " + "; ".join(parts) + "." + _hints(groups)
    verdicts = {one.verdict for _, one in held}
    finding: Finding = (
        "better" if "better" in verdicts else "worse" if "worse" in verdicts else "open"
    )
    return Conclusion(text, finding)


def losers_of(groups: Sequence[Group]) -> list[Group]:
    """Return the groups that are held against a baseline, but for the one that beats it by most.

    `groups` are those on one set of test images.
    """
    key = question_of(groups)
    held = [(group, one) for group in groups if (one := group.differences.get(key))]
    best = [group for group, _ in _by_size(held, "better")[:1]]
    return [group for group, _ in held if group not in best]


def common_remarks(groups: Sequence[Group]) -> tuple[str, ...]:
    """Return what hints, of every group, that it was trained too briefly."""
    first, *others = groups
    return tuple(one for one in first.remarks if all(one in group.remarks for group in others))


def _hints(groups: Sequence[Group]) -> str:
    hints = common_remarks(groups)
    return f" Train longer to be sure: {' and '.join(hints)} in all of them." if hints else ""


def nothing_learned(groups: Sequence[Group]) -> bool:
    """Return whether no group is clearly better than guessing on the score of the answer.

    On some test images all groups may guess, and on others of the same comparison none.
    """
    key = question_of(groups)
    held = [one for group in groups if (one := group.differences.get(key))]
    return bool(held) and all(one.at_chance for one in held)


def _learn_first(groups: Sequence[Group], key: str, names: Mapping[str, str]) -> str:
    """Return the answer where no group knows the classes: there is nothing to compare yet."""
    hints = common_remarks(groups)
    all_had = f" All of them had {' and '.join(hints)}." if hints else ""
    guess = points(1 / len(groups[0].per_class)).removesuffix(".0")
    return (
        f"{_place(key)} no run of {_joined(list(names.values()), 'or')} is clearly better than "
        f"guessing ({guess} %): train longer, or with another learning rate, before you "
        f"compare.{all_had}"
    )


def _named(
    held: Sequence[tuple[Group, Difference]], names: Mapping[str, str]
) -> list[tuple[str, Difference]]:
    """Return what each difference is of, those with the same answers under one name."""
    own = {group.label for group, _ in held}
    same: dict[str, list[str]] = {}
    for group, _ in held:
        same.setdefault(group.same_as, []).append(names[group.label])
    return [
        (
            names[group.label]
            + (f" (the same as {_joined(same[group.label])})" if group.label in same else ""),
            one,
        )
        for group, one in held
        if group.same_as not in own
    ]


def _joined(names: Sequence[str], word: str = "and") -> str:
    """Return names as a sentence has them: `a`, `a and b`, `a, b, c and 2 more`."""
    more = len(names) - _MOST_NAMES
    shown = [*names[:_MOST_NAMES], *([f"{more} more"] if more > 0 else [])]
    return _in_a_row(shown, word)


def _in_a_row(texts: Sequence[str], word: str = "and") -> str:
    *first, last = texts
    return f"{', '.join(first)} {word} {last}" if first else last


def question_of(groups: Sequence[Group]) -> str:
    """Return the key of the score that the answer is on."""
    has_rare = all(group.metrics.get("few") is not None for group in groups)
    return "few" if has_rare else "balanced_accuracy"


def _place(key: str) -> str:
    return METRICS[key].place.capitalize()


def short_names(labels: Sequence[str]) -> dict[str, str]:
    """Return the shortest beginning of each label that no other label has, by whole choices.

    A label that another one goes on from keeps its own whole name.
    """
    names = {}
    for label in labels:
        pieces = _PIECE.findall(label)
        starts = ["".join(pieces[:number]) for number in range(1, len(pieces) + 1)]
        others = [_PIECE.findall(other) for other in labels if other != label]
        alone = [
            start
            for number, start in enumerate(starts, 1)
            if all(other[:number] != pieces[:number] for other in others)
        ]
        names[label] = alone[0] if alone else label
    return names


def _told(
    held: Sequence[tuple[str, Difference]], verdict: str, verbs: tuple[str, str], against: str
) -> list[str]:
    """Return the groups with that verdict, the largest difference first."""
    found = _by_size(held, verdict)
    named, more = found[:_MOST_NAMES], len(found) - _MOST_NAMES
    texts = [f"{name} {verbs[0]} {against} by {_size(one)}" for name, one in named]
    if more > 0:
        texts.append(f"{counted(more, 'other')} {verbs[more > 1]} it by less")
    return texts


def _by_size(held: Iterable[tuple[T, Difference]], verdict: str) -> list[tuple[T, Difference]]:
    """Return what has that verdict, the largest difference first."""
    found = [(what, one) for what, one in held if one.verdict == verdict]
    return sorted(found, key=lambda pair: -abs(pair[1].mean))


def _size(one: Difference) -> str:
    over = {"seeds": " over seeds alone", "test images": " over test images alone"}
    interval = one.interval.replace("+", "")
    if one.mean < 0:  # a distance, from the least to the largest
        low, high = one.high, one.low
        bounds = [points(-bound) for bound in (low, high) if bound is not None]
        interval = f"[{', '.join(bounds)}]"
    return f"{points(abs(one.mean))} points {interval}{over.get(one.over, '')}"


def _chance_among_several(held: Sequence[tuple[str, Difference]], against: str) -> list[str]:
    """Return the groups that would be told by themselves, and are not as one of several."""
    close = [(name, one) for name, one in held if one.reason == NOT_AFTER_HOLM]
    ahead = [(name, one) for name, one in close if one.mean > 0]
    behind = [(name, one) for name, one in close if one.mean <= 0]
    texts = []
    for some, side in ((ahead, "ahead of"), (behind, "behind")):
        found = sorted(some, key=lambda pair: -abs(pair[1].mean))
        if not found:
            continue
        sizes = [f"{name} by {_size(one)}" for name, one in found[1:_MOST_NAMES]]
        more = len(found) - _MOST_NAMES
        sizes += [f"{counted(more, 'other')} by less"] if more > 0 else []
        (name, first) = found[0]
        said = _in_a_row([f"{name} is {side} {against} by {_size(first)}", *sizes])
        texts.append(f"{said}, but among {first.family} comparisons that may be chance")
    return texts


def _open(held: Sequence[tuple[str, Difference]], against: str, size: float) -> list[str]:
    """Return what is said of the groups without a verdict: together where the reason is one."""
    by_reason: dict[str, list[tuple[str, Difference]]] = {}
    for name, one in held:
        if one.verdict == "can't tell" and one.reason != NOT_AFTER_HOLM:
            by_reason.setdefault(one.reason, []).append((name, one))
    texts = []
    for reason, some in by_reason.items():
        who = _joined([name for name, _ in some])
        verb = "shows" if len(some) == 1 else "show"
        seeds = f" ({reason})" if reason else _seeds([one for _, one in some], size)
        texts.append(f"{who} {verb} no clear difference from {against}{seeds}")
    return texts


def _seeds(held: Sequence[Difference], size: float) -> str:
    """Return the seeds that would show that size of any of these differences."""
    known = [one.seeds_needed for one in held if one.seeds_needed]
    if not known:
        return ""
    enough = [fewest for fewest, _ in known if fewest is not None]
    limits = [most for _, most in known if most is not None]
    needed = (min(enough, default=None), max(limits) if len(limits) == len(known) else None)
    floors = [one.floor for one in held if one.floor is not None]
    here = [one.n for one in held]
    return f": {seeds_text(needed, max(floors, default=None), size, (min(here), max(here)))}"


def seeds_text(
    needed: tuple[int | None, int | None], floor: float | None, size: float, here: tuple[int, int]
) -> str:
    """Return how many seeds would show a difference of that size, of those that are here and more.

    Args:
        needed: From and to how many, None for no number.
        floor: The share of chance that the test images have, whatever the seeds.
        size: Of the difference, as a fraction.
        here: From and to how many seeds a side there are.
    """
    fewest, most = needed
    what = f"to see a difference of {points(size).removesuffix('.0')} points"
    if fewest is None:
        limit = "" if floor is None else f": these show none below {points(floor)}"
        return f"{what}, more test images are needed, not seeds{limit}"
    low, high = here
    if most is not None and most <= low:
        return f"the seeds that are here are enough {what}"
    known = f"{high} is here" if high == 1 else f"{_from_to(low, high)} are here"
    many = f"{fewest} or many more" if most is None else _from_to(fewest, most)
    return f"{what}, {many} seeds in all are needed ({known})"


def _from_to(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _nothing_held(groups: Sequence[Group], key: str, names: Mapping[str, str]) -> str:
    """Return what is known where there is nothing to hold a group against."""
    found = [(group, one) for group in groups if (one := group.metrics.get(key))]
    if not found:
        return "There are no scores."
    texts = [f"{names[group.label]} has {_mean(one)}" for group, one in found]
    return f"{_place(key)} {_joined(texts)}: {_way_out(groups, names)}."


def _way_out(groups: Sequence[Group], names: Mapping[str, str]) -> str:
    """Return what to do where there is nothing to hold a group against."""
    if len(groups) == 1:
        return "train another loss to compare it with"
    baselines = [group for group in groups if group.is_baseline]
    if len(baselines) == 1:
        name = names[baselines[0].label]
        return f"nothing is held against {name}, which was trained on other images"
    losses = [group.differs.get("loss") for group in groups]
    # a label that is a loss as well names all groups of that loss
    one = next((group for group in groups if losses.count(group.label) < 2), groups[0])
    return f"say which of them is the baseline, such as --baseline {shlex.quote(one.label)}"


def _mean(one: Statistic) -> str:
    accuracy = METRICS["accuracy"]
    sd = "" if one.sd is None else f" ± {accuracy.text(one.sd)}"
    return f"{accuracy.text(one.mean)}{sd} % over {counted(one.n, 'run')}"
