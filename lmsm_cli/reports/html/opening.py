"""What the report page opens with: the answers, what they rest on, and a card for each main score.

Only what is told is large: a card without a verdict has no figure, and none names a winner that is
not told from the baseline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lmsm_cli.comparison.conclusion import nothing_learned, question_of
from lmsm_cli.comparison.intervals import Difference, in_points
from lmsm_cli.comparison.records import Comparison, Finding, Group
from lmsm_cli.errors import counted
from lmsm_cli.metrics import METRICS, Metric
from lmsm_cli.reports.html.facts import epochs_text, test_images_text, test_title
from lmsm_cli.reports.html.svg import MINUS
from lmsm_cli.reports.html.tables import (
    GroupRow,
    capitalised,
    change_text,
    css_class,
    interval_text,
    intervals_over,
    over_text,
    seeds_text,
)
from lmsm_cli.reports.study_end import Ending
from lmsm_cli.reports.verdicts import OPEN, reason_text
from lmsm_cli.runs.record import RunRecord

_MOST_ROWS = 4


@dataclass(frozen=True)
class Answer:
    """The conclusion on one set of test images."""

    text: str
    finding: Finding
    basis: str
    """What it rests on, in a line."""
    title: str
    """Of the test images; empty where there is one set of them."""
    lines: tuple[str, ...] = ()
    """What else a reader must know of it."""


@dataclass(frozen=True)
class Told:
    """A group's difference to the baseline on a card."""

    row: GroupRow
    change: str
    interval: str
    verdict: str = ""
    """The class of page.css."""


@dataclass(frozen=True)
class Card:
    """What is told of one score."""

    title: str
    value: str = ""
    """The large figure; empty where no difference is told."""
    unit: str = ""
    row: GroupRow | None = None
    """The group that the figure is of, where there are several."""
    relation: str = ""
    """What the figure says of the group; without a figure why there is none."""
    interval: str = ""
    verdict: str = ""
    """The class of page.css of the relation."""
    others: tuple[Told, ...] = ()
    """What else is told, or where nothing is, what is open; a few of them."""
    more: int = 0
    """How many others there are."""
    open_rows: tuple[GroupRow, ...] = ()
    """The groups without a verdict, where others have one."""


def answers_of(
    comparison: Comparison, records: Mapping[str, RunRecord], ending: Ending | None = None
) -> list[Answer]:
    """Return the answer on each set of test images, with what it rests on.

    Args:
        comparison: What is shown.
        records: The runs, by their paths.
        ending: Of a study, whose one answer goes by rules of its own.
    """
    sets = [[group for _, group in numbered] for numbered in comparison.by_test_set()]
    found = []
    for groups, conclusion in zip(sets, comparison.conclusions, strict=True):
        runs = [records[path] for group in groups for path in group.runs]
        title = test_title(runs[0], groups[0]) if len(sets) > 1 else ""
        basis = _basis(groups, runs, comparison.differing)
        found.append(Answer(conclusion.text, conclusion.finding, basis, title))
    if ending is not None:
        basis = found[0].basis if found else ""
        return [Answer(ending.answer, ending.finding, basis, "", ending.lines)]
    return found


def _basis(groups: Sequence[Group], runs: Sequence[RunRecord], differing: Sequence[str]) -> str:
    """Return the line below an answer: losses, seeds, test images, epochs, intervals."""
    text = f"From {_compared(groups, differing)} with {_seeds(groups)}"
    text += f", tested on {test_images_text(runs)}"
    epochs = epochs_text(runs)
    text += f" after {epochs} epoch{'' if epochs == '1' else 's'}" if epochs else ""
    over = intervals_over(groups, [METRICS[question_of(groups)]])
    return text + (f"; 95% intervals over {over}." if over else ".")


def _compared(groups: Sequence[Group], differing: Sequence[str]) -> str:
    if len(groups) == 1:
        return counted(len(groups[0].runs), "run")
    is_of_losses = tuple(differing) == ("loss",)
    return f"{len(groups)} {'losses' if is_of_losses else 'groups of runs'}"


def _seeds(groups: Sequence[Group]) -> str:
    """Return the seeds of all groups, or how many each has where they are not the same."""
    found = [set(group.seeds) for group in groups]
    if all(one == found[0] for one in found):
        return seeds_text(found[0])
    counts = sorted({len(one) for one in found})
    return " to ".join(map(str, (counts[0], counts[-1])[: len(counts)])) + " seeds each"


def cards_of(
    rows: Sequence[GroupRow], groups: Sequence[Group], metrics: Sequence[Metric]
) -> list[Card]:
    """Return a card for each main score: of a single group the score, else what is told of it."""
    main = [(place, one) for place, one in enumerate(metrics) if one.highlight]
    if len(groups) == 1:
        return [
            Card(capitalised(one.highlight), rows[0].cells[place].text, "%")
            for place, one in main
            if rows[0].cells[place].order is not None
        ]
    if nothing_learned(groups):  # how sure a net is that guesses is no news
        main = [(place, one) for place, one in main if one.place]
    found = [_card(rows, groups, place, one) for place, one in main]
    # where each class has as many test images, accuracy is balanced accuracy
    distinct = {replace(card, title=""): card for card in reversed(found) if card}
    return [card for card in found if card and card in distinct.values()]


def _card(
    rows: Sequence[GroupRow], groups: Sequence[Group], place: int, metric: Metric
) -> Card | None:
    """Return what is told of a score; None where nothing is held against anything."""
    title = capitalised(metric.highlight)
    pairs = list(zip(rows, groups, strict=True))
    held = [(row, one) for row, group in pairs if (one := group.differences.get(metric.key))]
    if not held:
        best = [row for row, group in pairs if metric.key in group.best]
        relation = "clearly better than every other group"
        return Card(title, best[0].cells[place].text, "%", best[0], relation) if best else None
    told = [(row, one) for row, one in held if one.verdict != "can't tell"]
    told.sort(key=lambda pair: (pair[1].verdict != "better", -abs(pair[1].mean)))
    if not told:
        reasons = {reason_text(one, metric) for _, one in held}
        why = reasons.pop() if len(reasons) == 1 else ""
        return Card(title, others=_listed(held), more=max(0, len(held) - _MOST_ROWS), relation=why)
    row, first = told[0]
    return Card(
        title,
        in_points(first.mean).replace("-", MINUS),
        "points",
        row,
        f"{first.verdict} than {_baseline(groups)}",
        f"{interval_text(first)} over {over_text(first.over)}",
        first.verdict,
        _listed(told[1:]),
        max(0, len(told) - 1 - _MOST_ROWS),
        tuple(row for row, one in held if one.verdict == "can't tell"),
    )


def _listed(pairs: Sequence[tuple[GroupRow, Difference]]) -> tuple[Told, ...]:
    return tuple(
        Told(row, change_text(one).removesuffix(OPEN).rstrip(), interval_text(one), css_class(one))
        for row, one in pairs[:_MOST_ROWS]
    )


def _baseline(groups: Sequence[Group]) -> str:
    names = [group.label for group in groups if group.is_baseline]
    return names[0] if len(names) == 1 else "its baseline"
