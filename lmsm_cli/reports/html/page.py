"""The report page: a comparison and its runs as one HTML file that needs nothing else.

What is computed is in tables.py, facts.py and curves.py, what is drawn in charts.py; here they
become the sections of page.html.jinja, whose style and script are page.css and page.js.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from lmsm_cli import __version__
from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.errors import visible
from lmsm_cli.metrics import Metric, ReliabilityBin
from lmsm_cli.reports.html import facts as page_facts
from lmsm_cli.reports.html import tables as page_tables
from lmsm_cli.reports.html.charts import (
    Contrast,
    Series,
    curve_chart,
    difference_chart,
    merged_bins,
    reliability_chart,
)
from lmsm_cli.reports.html.confusions import confusions_of
from lmsm_cli.reports.html.curves import curve
from lmsm_cli.reports.html.opening import answers_of, cards_of
from lmsm_cli.reports.html.pictures import embedded
from lmsm_cli.reports.html.rarity import rarity_picture
from lmsm_cli.reports.html.svg import marker
from lmsm_cli.reports.html.tables import GroupRow
from lmsm_cli.reports.rarity import arms_of, rarity_chart
from lmsm_cli.reports.rarity_places import RarityChart
from lmsm_cli.reports.study_end import Ending
from lmsm_cli.reports.verdicts import several_at_once
from lmsm_cli.runs.folder import write_whole
from lmsm_cli.runs.record import RunRecord

# key of metrics.jsonl -> title, whether it is a share, whether its axis may be logarithmic
_Curves = Mapping[str, tuple[str, bool, bool]]
_CURVES: _Curves = {
    "train_loss": ("Training loss", False, True),
    "val_loss": ("Validation loss", False, True),
    "train_accuracy": ("Training accuracy, %", True, False),
    "val_accuracy": ("Validation accuracy, %", True, False),
    "val_balanced_accuracy": ("Validation balanced accuracy, %", True, False),
}
# What was planned, not what came of it: folded away.
_SCHEDULE: _Curves = {
    "lr": ("Learning rate", False, True),
    "lambda": ("Lambda", False, True),
    "effective_margin": ("Effective margin", False, False),
}


@dataclass(frozen=True)
class Figure:
    """A chart or picture with its title, or with the group that it is of."""

    title: str
    image: Markup
    note: str = ""
    row: GroupRow | None = None


def write_page(
    path: Path,
    comparison: Comparison,
    records: Sequence[RunRecord],
    ending: Ending | None = None,
) -> None:
    """Write the page of a comparison and of the runs that were compared. Raises DiskError.

    With the end of a study it opens with that.
    """
    write_whole(path, page(comparison, records, ending))


def page(comparison: Comparison, records: Sequence[RunRecord], ending: Ending | None = None) -> str:
    """Return the HTML of the page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(
        loader=PackageLoader("lmsm_cli", "reports/html"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.globals |= {
        "capitalised": page_tables.capitalised,
        "written": page_tables.written,
        "class_details": page_tables.CLASS_DETAILS,
        "marker": marker,
    }
    templates.filters["breakable"] = _breakable
    notes = list(comparison.notes)
    by_path = {str(record.path): record for record in records}
    results = [_results(numbered, by_path, notes) for numbered in comparison.by_test_set()]
    script = templates.get_template("page.js").render()
    text = templates.get_template("page.html.jinja").render(
        title=_title(comparison, records),
        answers=answers_of(comparison, by_path, ending),
        size=f"{100 * comparison.size:g} points",
        facts=page_facts.summary(comparison, records),
        results=results,
        unfinished=_unscored_curves(comparison, records),
        unscored=comparison.unscored,
        notes=notes,
        environments=page_facts.environments(records),
        version=__version__,
        now=datetime.now().astimezone(),
        script=Markup(script),  # ours, from the package
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    # drawings too have texts of their own making: labels of runs, which may be a stranger's
    return "\n".join(line if line.isprintable() else visible(line) for line in text.split("\n"))


def _shown(value: object) -> object:
    """Return text with what has no visible form spelled out; what is Markup was made here."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _breakable(text: str) -> Markup:
    """Return a label that a narrow column may break between its parts, and not inside words."""
    pieces = re.split("(?<=[,:])", visible(text))
    return Markup("<wbr>").join(piece for piece in pieces if piece)


def _title(comparison: Comparison, records: Sequence[RunRecord]) -> str:
    if len(records) == 1:
        return records[0].name
    labels = [group.label for group in comparison.groups]
    return " and ".join(labels) if len(labels) == 2 else f"Comparison of {len(records)} runs"


def _results(
    numbered: Sequence[tuple[int, Group]], by_path: Mapping[str, RunRecord], notes: list[str]
) -> dict[str, Any]:
    """Return the sections of one test set by the names that the template has for them."""
    groups = [group for _, group in numbered]
    metrics = page_tables.metrics_shown(groups)
    rows = page_tables.group_rows(numbered, metrics)
    runs = [[by_path[path] for path in group.runs] for group in groups]
    scores = [[run.scores for run in some if run.scores] for some in runs]
    classes = page_tables.class_rows(groups, scores[0])
    planned = page_tables.metrics_planned(groups)
    bins = [merged_bins(one.reliability for one in some) for some in scores]
    lines = [(row.number, row.label, some) for row, some in zip(rows, runs, strict=True)]
    drawn = [one for one in zip(rows, bins, groups, strict=True) if one[1]]
    chart = _rarity(numbered, runs)
    drawn_numbers = {line.number for line in chart.lines} if chart else set()
    return {
        "title": page_facts.test_title(runs[0][0], groups[0]),
        "metrics": metrics,
        "rows": rows,
        "rarity": chart,
        "rarity_picture": chart and rarity_picture(chart),
        "rarity_rows": [row for row in rows if row.number in drawn_numbers],
        "cards": cards_of(rows, groups, metrics),
        "classes": classes,
        "shots": page_tables.shots_text(classes),
        "over": page_tables.intervals_over(groups, metrics),
        "planned": planned,
        "needs": page_tables.need_rows(rows, groups, planned),
        "differences": _differences(numbered, metrics),
        "several": page_tables.capitalised(several_at_once(groups)),
        "curves": _curves(lines, _CURVES),
        "schedule": _curves(lines, _SCHEDULE),
        "confusions": list(filter(None, map(confusions_of, rows, scores))),
        "reliability": [_reliability(*one) for one in drawn],
        "without_reliability": [row.number for row, one in zip(rows, bins, strict=True) if not one],
        "features": _features(rows, runs, notes),
        "choices": page_facts.differing_choices(groups) if len(groups) > 1 else [],
        "configs": [
            (row, page_facts.whole_config(some)) for row, some in zip(rows, runs, strict=True)
        ],
    }


def _differences(numbered: Sequence[tuple[int, Group]], metrics: Iterable[Metric]) -> list[Figure]:
    figures = []
    for metric in metrics:
        found = [(n, g.label, g.differences.get(metric.key)) for n, g in numbered]
        rows = [Contrast(number, label, one) for number, label, one in found if one]
        if rows:
            title = page_tables.capitalised(metric.title)
            note = "" if metric.higher_is_better else "less is better"
            figures.append(Figure(title, difference_chart(title, rows), note))
    return figures


def _rarity(
    numbered: Sequence[tuple[int, Group]], runs: Sequence[Sequence[RunRecord]]
) -> RarityChart | None:
    """Return the picture of the question; None where no class is rare."""
    chart = rarity_chart(arms_of(numbered, [run for some in runs for run in some]))
    return chart if chart and chart.has_tail else None


def _curves(lines: Sequence[tuple[int, str, Sequence[RunRecord]]], curves: _Curves) -> list[Figure]:
    """Return the curves of (number, label, runs) over the epochs, those that any run has."""
    figures = []
    for key, (title, percent, may_bend) in curves.items():
        points = ((n, label, curve((run.metrics for run in runs), key)) for n, label, runs in lines)
        series = [Series(n, label, some) for n, label, some in points if some]
        if series:
            chart = curve_chart(title, series, percent=percent, may_bend=may_bend)
            figures.append(Figure(title, chart))
    return figures


def _unscored_curves(
    comparison: Comparison, records: Sequence[RunRecord]
) -> tuple[list[GroupRow], list[Figure]]:
    """Return a legend and the training curves of the runs without scores."""
    runs = [record for record in records if record.scores is None and record.metrics]
    rows = [
        GroupRow(number, run.name, run.state, 1, is_baseline=False)
        for number, run in enumerate(runs, len(comparison.groups) + 1)
    ]
    lines = [(row.number, row.label, [run]) for row, run in zip(rows, runs, strict=True)]
    return rows, _curves(lines, {**_CURVES, **_SCHEDULE})


def _reliability(row: GroupRow, bins: Sequence[ReliabilityBin], group: Group) -> Figure:
    error = group.metrics["calibration_error"]
    note = f"calibration error {page_tables.with_sd(error)}%" if error else ""
    return Figure("", reliability_chart(row.number, row.label, bins), note, row)


def _features(
    rows: Sequence[GroupRow], runs: Sequence[Sequence[RunRecord]], notes: list[str]
) -> list[Figure]:
    """Return the feature pictures of the runs that have one; a note for each that is damaged."""
    # pooled folds have no picture: each net has features of its own
    pairs = [
        (row, run) for row, some in zip(rows, runs, strict=True) for run in some if run.has_folder
    ]
    files = [run.path / "plots" / "features.png" for _, run in pairs]
    num_pictures = sum(file.is_file() for file in files)
    figures = []
    for (row, run), file in zip(pairs, files, strict=True):
        seed = visible(f"seed {(run.config or {}).get('seed')}")
        try:
            address = embedded(file, num_pictures)
        except ValueError as error:
            notes.append(str(error))
            continue
        if address:
            image = Markup('<img src="{}" alt="Features of the test images: {}, {}">').format(
                address, visible(row.label), seed
            )
            figures.append(Figure("", image, seed, row))
    return figures
