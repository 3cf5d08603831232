"""What a study says in the end: its answer and what a reader must know of it, in lines.

They are built once. The terminal prints them, and the page of the study opens with them.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmsm_cli.comparison.baseline import verdict_in_words
from lmsm_cli.comparison.conclusion import common_remarks
from lmsm_cli.comparison.intervals import Difference, in_points
from lmsm_cli.comparison.records import Comparison, Finding
from lmsm_cli.errors import counted, listed
from lmsm_cli.reports.study import study_sentence
from lmsm_cli.reports.study_plan import line_of_epochs
from lmsm_cli.reports.tables_checks import duration

# What an advised loss may cost: by score, what it is over.
_OVER = {"few": "rare classes", "balanced_accuracy": "all classes", "accuracy": "all images"}
# Below half a tenth of a point a difference is shown as none.
_SHOWN = 0.0005
_MOST_NAMES = 3
_OWN_LEVEL = "the study's level is for all its losses and looks"


@dataclass(frozen=True)
class Ending:
    """The end of a study."""

    answer: str
    """Begins with Use."""
    finding: Finding
    """`better` where a loss is told from softmax, else `open`."""
    lines: tuple[str, ...]
    """What it rests on, what it costs, and what would make it surer."""


def named_by_arm(comparison: Comparison, runs: Mapping[str, Collection[str]]) -> Comparison:
    """Return a comparison whose groups are named as a study names its arms.

    A second stage has many choices, and by these a long name.

    Args:
        comparison: Of the study's runs.
        runs: The run folders of each arm, by its name.
    """
    groups = tuple(
        replace(group, label=name)
        for group in comparison.groups
        for name in [next((n for n, own in runs.items() if group.runs[0] in own), group.label)]
    )
    return replace(comparison, groups=groups)


def with_verdicts_of_study(comparison: Comparison, document: Mapping[str, Any]) -> Comparison:
    """Return a comparison with no verdict but those that a study gives on its own images.

    Where held-out images decide, its losses were chosen by these, and looked at several times: what
    Holm's correction over the losses that are left tells is told too often.

    Args:
        comparison: The trainings of the study, named as it names them.
        document: The result.
    """
    verdict = document["verdict"]
    if verdict["decided_on"] == "test images":
        return comparison
    told = dict(document["settled"])
    told[verdict["arm"]] = "better" if verdict["is_told"] else told.get(verdict["arm"])
    groups = []
    for group in comparison.groups:
        changes = {
            key: _as_told(one, told.get(group.label) if key == document["question"] else None)
            for key, one in group.differences.items()
        }
        words = verdict_in_words(changes)
        groups.append(replace(group, differences=changes, verdict=words, best=()))
    return replace(comparison, groups=tuple(groups))


def _as_told(one: Difference | None, told: str | None) -> Difference | None:
    """Return a difference with the verdict that it has, where a study tells the same."""
    if one is None or one.verdict in ("can't tell", told):
        return one
    return replace(one, verdict="can't tell", reason=_OWN_LEVEL)


def ending_of(
    document: Mapping[str, Any],
    plan: Mapping[str, Any],
    comparison: Comparison,
    hints: Sequence[str] = (),
) -> Ending:
    """Return the end of a study.

    Args:
        document: The result, with the seconds that were spent.
        plan: Of study.json.
        comparison: The trainings that the answer rests on, named as the study names them.
        hints: What else to say: of the model, and what helps.
    """
    lines = (
        _rounds_line(document, plan),
        line_of_epochs(plan),
        *_left_out_lines(document),
        _undertrained_line(comparison),
        _price_line(document, comparison),
        *hints,
    )
    finding: Finding = "better" if document["verdict"]["is_told"] else "open"
    return Ending(study_sentence(document), finding, tuple(filter(None, lines)))


def _rounds_line(document: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    """Return how many of the planned rounds are done, why no more, and what followed them."""
    done, planned, pairs = document["rounds"], plan["rounds"], document["pairs"]
    if done >= planned:
        text = f"{counted(planned, 'round')} done, as planned"
    else:
        why = (
            "the time was over" if document["ended"] == "the budget" else "more would tell no more"
        )
        text = f"{done} of {counted(planned, 'planned round')} done: {why}"
    if pairs:
        arm = document["verdict"]["arm"]
        text += f"; then {arm} and softmax on all training images, {counted(pairs, 'seed')} each"
    return f"{text}; {duration(document['spent_seconds'])} in all"


def _left_out_lines(document: Mapping[str, Any]) -> list[str]:
    """Return which losses were not compared, in a line for each reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in document["dropped"].items():
        by_reason.setdefault(why, []).append(name)
    return [f"left out: {listed(names, _MOST_NAMES)}: {why}" for why, names in by_reason.items()]


def _undertrained_line(comparison: Comparison) -> str:
    remarks = common_remarks(comparison.groups) if comparison.groups else ()
    if not remarks:
        return ""
    return f"train longer to be sure, with more --epochs: {' and '.join(remarks)} in every training"


def _price_line(document: Mapping[str, Any], comparison: Comparison) -> str:
    """Return what the advised loss gains and loses, where it loses anything."""
    arm = document["verdict"]["arm"]
    group = next((one for one in comparison.groups if one.label == arm), None)
    if not document["verdict"]["is_told"] or group is None:
        return ""
    found = {key: one for key in _OVER if (one := group.differences.get(key))}
    if _same(found.get("balanced_accuracy"), found.get("accuracy")):
        del found["accuracy"]  # each class has as many test images
    lost = {key: one for key, one in found.items() if one.mean < -_SHOWN}
    if not lost:
        return ""
    verb = "costs" if any(one.verdict == "worse" for one in lost.values()) else "may cost"
    texts = [f"{_OVER[key]} {in_points(one.mean)} points" for key, one in found.items()]
    place = " and ".join(_OVER[key] for key in lost)
    return f"{arm} {verb} accuracy over {place}: {', '.join(texts)}"


def _same(one: Difference | None, other: Difference | None) -> bool:
    return one is not None and other is not None and math.isclose(one.mean, other.mean)
