"""Tables for the terminal, drawn from the parsed JSON of a run folder's files.

Shares are shown in percent with one decimal; the best of what is compared is bold and has a `*`, so
that it shows without colour. Columns fold where a terminal is narrow; nothing is cut to `...`.
To add a table, add a function that takes plain data and returns a rich Table.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from rich import box
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lmsm_cli.errors import visible

if TYPE_CHECKING:
    from lmsm_cli.reports.comparison import Comparison, Group, Statistic, Unscored

_NOTHING = "-"
# A confusion matrix of more classes fits no screen: its largest entries are listed instead.
_MATRIX_CLASSES = 20
_CONFUSIONS_SHOWN = 30
_ADJUSTMENTS = {"adjust": "logit adjustment", "tau-norm": "tau-normalisation"}
# Rows of a schedule between the first and the last: one screen.
_EPOCHS_SHOWN = 20
_BAR_WIDTH = 24
_COMPARED = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced",
    "macro_f1": "macro F1",
    "many": "many",
    "medium": "medium",
    "few": "few",
    "effective_margin": "margin",
}


def per_class_table(scores: Mapping[str, Any]) -> Table:
    """Return a row for each class: training images, test images, accuracy, precision, F1."""
    table = _table("Per class, in percent", "class")
    for title in ("training images", "test images", "accuracy", "precision", "F1"):
        table.add_column(title, justify="right", overflow="fold")
    for row in scores["per_class"]:
        shares = (percent(row[key]) for key in ("accuracy", "precision", "f1"))
        table.add_row(shown(row["name"]), str(row["train_count"]), str(row["test_count"]), *shares)
    return table


def summary_table(scores: Mapping[str, Any]) -> Table:
    """Return the overall scores, the accuracies of the groups and the effective margin, if any."""
    rows = {
        "accuracy": scores["accuracy"],
        "balanced accuracy": scores["balanced_accuracy"],
        "macro F1": scores["macro_f1"],
    }
    rows |= {f"accuracy, {name}": value for name, value in scores["groups"].items()}
    table = _table("Overall, in percent", "score")
    table.add_column("value", justify="right", overflow="fold")
    for title, value in rows.items():
        table.add_row(title, percent(value))
    if scores.get("effective_margin") is not None:
        table.add_row("effective margin", f"{scores['effective_margin']:.2f}")
    return table


def adjustment_table(scores: Mapping[str, Any]) -> Table:
    """Return the overall scores and groups of the classifier as trained and as adjusted."""
    adjustment = scores["adjustment"]
    table = _table(f"What {_ADJUSTMENTS[adjustment['method']]} did, in percent", "")
    for title in ("accuracy", "balanced", "macro F1", *scores["groups"]):
        table.add_column(title, justify="right", overflow="fold")
    for name, row in (("as trained", adjustment["unadjusted"]), (f"tau {adjustment['tau']:g}", scores)):  # fmt: skip
        overall = (row[key] for key in ("accuracy", "balanced_accuracy", "macro_f1"))
        table.add_row(name, *map(percent, (*overall, *row["groups"].values())))
    return table


def adjustment_line(adjustment: Mapping[str, Any]) -> str:
    """Return a sentence that names the correction, its tau and where that is from."""
    what = f"{_ADJUSTMENTS[adjustment['method']]} with tau {adjustment['tau']:g}"
    chosen_on = adjustment["chosen_on"]
    if chosen_on is None:
        return f"{what}, as given"
    return (
        f"{what}, chosen on {chosen_on['num_images']} validation images of the run "
        f"(balanced accuracy {chosen_on['balanced_accuracy']:.3f}, "
        f"at tau 0: {chosen_on['balanced_accuracy_unadjusted']:.3f})"
    )


def config_table(values: Mapping[str, Any], origins: Mapping[str, str]) -> Table:
    """Return each key of a config with its value and where that came from."""
    table = _table("Config", "key", "value", "from")
    for key, origin in origins.items():
        table.add_row(key, shown(values[key]), shown(origin))
    return table


def schedule_table(epochs: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row an epoch: learning rate, lambda, effective margin and a bar of the margin.

    The bar starts at 1, which is no margin. Of many epochs the first, the last and those at equal,
    round distances between them are shown.
    """
    largest = max((row["effective_margin"] or 1 for row in epochs), default=1)
    table = _table("Schedule, at the end of each epoch")
    for title in ("epoch", "learning rate", "lambda", "effective margin"):
        table.add_column(title, justify="right", overflow="fold")
    if largest > 1:
        table.add_column(f"1 to {largest:.3g}", max_width=_BAR_WIDTH)
    distance = _round_distance(len(epochs))
    for row in epochs:
        if row["epoch"] in (1, len(epochs)) or row["epoch"] % distance == 0:
            lam, margin = row["lambda"], row["effective_margin"]
            numbers = [_significant(row["lr"]), _significant(lam), _NOTHING if margin is None else f"{margin:.3f}"]  # fmt: skip
            bars = [_bar((margin or 1) - 1, largest - 1)] if largest > 1 else []
            table.add_row(str(row["epoch"]), *numbers, *bars)
    if distance > 1:
        table.caption = f"shown: {table.row_count} of {len(epochs)} epochs; --json gives all"
        table.caption_justify = "left"
    return table


def _round_distance(num_epochs: int) -> int:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... that leaves no more rows than fit."""
    step = 1
    while num_epochs > step * _EPOCHS_SHOWN:
        step = step * 5 // 2 if str(step)[0] == "2" else step * 2
    return step


def _significant(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.4g}"


def _bar(value: float, largest: float) -> ProgressBar:
    return ProgressBar(largest, value, complete_style="", finished_style="")


def confusion_table(scores: Mapping[str, Any]) -> Table:
    """Return images by true class (rows) and predicted class; the commonest errors for many."""
    names = [shown(row["name"]) for row in scores["per_class"]]
    if len(names) > _MATRIX_CLASSES:
        return _commonest_confusions(scores["confusion"], names)
    table = _table("Images by true class (rows) and predicted class (columns)", "true class")
    for number in range(len(names)):
        table.add_column(str(number), justify="right", overflow="fold")
    for number, (name, row) in enumerate(zip(names, scores["confusion"], strict=True)):
        cells = [Text(str(n), style="bold" if i == number else "") for i, n in enumerate(row)]
        table.add_row(Text(f"{number} ").append(name), *cells)
    return table


def _commonest_confusions(confusion: Sequence[Sequence[int]], names: Sequence[Text]) -> Table:
    errors = sorted(
        (-images, true, guess)
        for true, row in enumerate(confusion)
        for guess, images in enumerate(row)
        if images and true != guess
    )
    table = _table("Commonest confusions", "true class", "predicted class")
    table.add_column("images", justify="right", overflow="fold")
    table.add_column("% of class", justify="right", overflow="fold")
    for images, true, guess in errors[:_CONFUSIONS_SHOWN]:
        share = percent(-images / sum(confusion[true]))
        table.add_row(names[true], names[guess], str(-images), share)
    return table


def comparison_tables(comparison: "Comparison", *, narrow: bool = False) -> list[Table]:
    """Return a table of the scores of every group, then for each test set one of class accuracies.

    The best is marked among groups with the same test images; elsewhere there is no better.
    `narrow` names the groups in a table of their own and by number elsewhere, for 80 columns.
    """
    tables = [_named_groups(comparison), _scores_table(comparison, named=False)]
    if not narrow:
        tables = [_scores_table(comparison, named=True)]
    for test_set in dict.fromkeys(group.test_set for group in comparison.groups):
        peers = [(i, g) for i, g in enumerate(comparison.groups, 1) if g.test_set == test_set]
        tables.append(_classes_table(peers, named=not narrow))
    return tables


def _named_groups(comparison: "Comparison") -> Table:
    table = _table("Runs", "#", "run", "n")
    for i, group in enumerate(comparison.groups, 1):
        table.add_row(str(i), shown(group.label), str(len(group.runs)))
    for run in comparison.unscored:
        table.add_row(_NOTHING, _why(run), _NOTHING)
    return table


def _why(run: "Unscored") -> Text:
    return shown(f"{PurePath(run.run).name}: {run.reason}")


def _scores_table(comparison: "Comparison", *, named: bool) -> Table:
    """Return one row a group; with names also one for each run that is in no group, saying why."""
    groups = comparison.groups
    columns = {
        key: title for key, title in _COMPARED.items() if any(g.metrics[key] for g in groups)
    }
    table = _table("In percent: mean±sd over n runs, * best", "#", *(["run"] if named else []))
    for title in ("n", *columns.values()) if named else columns.values():
        table.add_column(title, justify="right", overflow="fold")
    marked = {key: _marked_by_test_set(groups, key) for key in columns}
    for i, group in enumerate(groups):
        who = (shown(group.label), str(len(group.runs))) if named else ()
        last_of_its_tests = groups[i + 1 : i + 2] and groups[i + 1].test_set != group.test_set
        cells = (marked[key][i] for key in columns)
        table.add_row(str(i + 1), *who, *cells, end_section=bool(last_of_its_tests))
    if named:
        table.add_section()
        for run in comparison.unscored:
            table.add_row(_NOTHING, _why(run), *[_NOTHING] * (1 + len(columns)))
    return table


def _marked_by_test_set(groups: Sequence["Group"], metric: str) -> list[Text]:
    """Return the cells of one metric; the best of each test set is marked."""
    cells: list[Text] = []
    for test_set in dict.fromkeys(group.test_set for group in groups):
        values = [group.metrics[metric] for group in groups if group.test_set == test_set]
        if metric == "effective_margin":
            cells += [Text(f"{value.mean:.2f}" if value else _NOTHING) for value in values]
        else:
            cells += _marked(values)
    return cells


def _classes_table(peers: Sequence[tuple[int, "Group"]], *, named: bool) -> Table:
    """Return the accuracies of each class side by side for (number, group) of one test set."""
    table = _table("Accuracy per class, in percent (* best)", "class")
    shared = len({tuple(one.train_count for one in group.per_class) for _, group in peers}) == 1
    if shared:
        table.add_column("training images", justify="right", overflow="fold")
    for number, group in peers:
        title = shown(f"{number} {group.label}" if named else number)
        table.add_column(title, justify="right", overflow="fold")
    for rows in zip(*(group.per_class for _, group in peers), strict=True):
        cells = _marked([row.accuracy for row in rows])
        counts = [Text(str(row.train_count)) for row in rows]
        if shared:
            cells.insert(0, counts[0])
        else:
            cells = [count + ": " + cell for count, cell in zip(counts, cells, strict=True)]
        table.add_row(shown(rows[0].name), *cells)
    return table


def _marked(values: Sequence["Statistic | None"]) -> list[Text]:
    """Return `64.9±1.2` for each value, the best in bold with a `*` unless all are equal.

    Values that are shown as equal are equal: means over the same images differ by rounding.
    """
    means = [round(value.mean, 3) for value in values if value]
    best = max(means) if len(set(means)) > 1 else None
    return [
        Text(_mean_and_sd(value) + "*", style="bold")
        if value and round(value.mean, 3) == best
        else Text(_mean_and_sd(value) + " ")
        for value in values
    ]


def _mean_and_sd(value: "Statistic | None") -> str:
    if value is None:
        return _NOTHING
    return percent(value.mean) + ("" if value.sd is None else f"±{percent(value.sd)}")


def shown(text: object) -> Text:
    """Return the text for a cell: markup is plain text there, control characters are spelled."""
    return Text(visible(str(text)))


def models_bench_table(document: Mapping[str, Any]) -> Table:
    """Return a row for each model and precision of `lmsm bench`."""
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in document["peak_gflops"].items())
    table = _table(f"Training at batch {document['batch_size']}; peak of a matrix product in GFLOP/s: {peaks}", "model", "precision")  # fmt: skip
    for title in ("images/s", "% of peak", "GFLOP/image", "CIFAR-10 epoch, s"):
        table.add_column(title, justify="right", overflow="fold")
    for row in document["models"]:
        rate, epoch = row["images_per_second"], row["seconds_per_epoch"]
        table.add_row(
            row["model"], row["precision"],
            "out of memory" if rate is None else f"{rate:,.0f}", percent(row["share_of_peak"]),
            f"{row['gflop_per_image']:.2f}", _NOTHING if epoch is None else f"{epoch:,.1f}",
        )  # fmt: skip
    return table


def losses_bench_table(document: Mapping[str, Any]) -> Table:
    """Return a row for each loss of `lmsm bench`."""
    table = _table("Losses alone, forward and backward, 64 features and 10 classes", "loss")
    for title in ("ms", "over softmax"):
        table.add_column(title, justify="right", overflow="fold")
    for row in document["losses"]:
        table.add_row(row["loss"], f"{row['milliseconds']:.2f}", f"{row['over_softmax']:.2f}")
    return table


def percent(share: float | None) -> str:
    """Return a fraction as percent with one decimal, `-` for None."""
    return _NOTHING if share is None else f"{100 * share:.1f}"


def _table(title: str, *names: str) -> Table:
    """Return a table with left-aligned columns for names; numbers' columns are added to it."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    for name in names:
        table.add_column(name, overflow="fold")
    return table
