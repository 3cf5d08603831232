"""Tables for the terminal, drawn from the documents of a run folder.

Shares are shown in percent with one decimal. Columns fold where a terminal is narrow; nothing is
cut to `...`. To add a table, add a function that takes plain data and returns a rich Table.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from lmsm_cli.errors import counted, listed, visible
from lmsm_cli.metrics import METRICS, Scores
from lmsm_cli.reports.confusion import Confusion, confusion_of
from lmsm_cli.runs.documents import EvaluationDocument, ScoresDocument
from lmsm_cli.scoring import reliability_bounds

NOTHING = "-"
OF_THE_RAREST = "a margin by rarity is that of the rarest class; commoner classes have less"
OF_THE_LARGEST = "where classes have margins of their own, the largest margin of all is shown"
# A confusion matrix of more classes fits no screen: its largest entries are listed instead.
MATRIX_CLASSES = 20
_CONFUSIONS_SHOWN = 30
# Rows of a schedule between the first and the last: one screen.
_EPOCHS_SHOWN = 20
_BAR_WIDTH = 24
_MEASURING = Console(width=10_000)  # nothing is ever printed on it


def per_class_table(scores: Scores) -> Table:
    """Return a row for each class: training images, images scored, accuracy, precision, F1."""
    titles = ("training images", judged_images(scores), "accuracy", "precision", "F1")
    table = new_table("Per class, in percent", "class", numbers=titles)
    for row in scores.per_class:
        shares = map(percent, (row.accuracy, row.precision, row.f1))
        table.add_row(shown(row.name), count_text(row.train_count), str(row.test_count), *shares)
    return table


def count_text(count: int | None) -> str:
    """Return a number of images; a dash for one that nobody knows."""
    return NOTHING if count is None else str(count)


def evaluated_line(scores: EvaluationDocument) -> str:
    """Return which checkpoint was evaluated, of which epoch, on how many images of which kind."""
    number, kind = sum(row.test_count for row in scores.per_class), judged_images(scores)
    where = f" of {scores.split}" if kind == "images" else ""
    epoch = epoch_words(scores.epoch, scores.epochs, scores.is_best)
    return visible(f"{scores.checkpoint} ({epoch}), on {number:,} {kind}{where}")


def epoch_words(epoch: int, epochs: int | None, is_best: bool | None) -> str:
    """Return which epoch something is of: `epoch 7 of 10, best on validation`."""
    if epoch == epochs:
        return f"last epoch, {epoch}" + (", also best on validation" if is_best else "")
    of = f" of {epochs}" if epochs else ""
    return f"epoch {epoch}{of}" + (", best on validation" if is_best else "")


def best_line(scores: ScoresDocument) -> str | None:
    """Return what the best epoch on validation gave; None where it is the one of the scores."""
    best = scores.best_on_validation
    if best is None or best.epoch == scores.epoch:
        return None
    return (
        f"epoch {best.epoch}, the best on validation, has {percent(best.accuracy)} % of the test "
        f"images right (balanced {percent(best.balanced_accuracy)} %); above: the last, "
        f"{scores.epoch}"
    )


def judged_images(scores: Scores) -> str:
    """Return what the images are called that the scores are of: `validation images`."""
    split = scores.split if isinstance(scores, EvaluationDocument) else "test"
    return f"{split} images" if split in ("test", "validation") else "images"


def notes_on_scores(scores: ScoresDocument | EvaluationDocument) -> list[str]:
    """Return what must be said wherever these scores are shown: on which images they rest."""
    lines = [subset_line(scores.test_images_per_class), absent_line(scores)]
    if isinstance(scores, ScoresDocument):
        lines.append(stopped_line(scores))
    lines.append(average_line(scores.ema))
    return [line for line in lines if line]


def stopped_line(scores: ScoresDocument) -> str | None:
    """Return a sentence on a run that stopped early; None for one that had all its epochs."""
    if scores.stopped_before is None:
        return None
    return (
        f"stopped after epoch {scores.epoch} of {scores.stopped_before}: no better validation "
        "score came any more (--patience)"
    )


def average_line(ema: float | None) -> str | None:
    """Return a sentence on scores of averaged weights; None for those of the last step."""
    return None if ema is None else f"scores of averaged weights (--ema {ema:g})"


def net_line(scores: ScoresDocument) -> str | None:
    """Return a sentence on the size of the net; None for an older run."""
    if scores.net is None:
        return None
    frozen = f" ({scores.net.frozen:,} frozen)" if scores.net.frozen else ""
    return (
        f"net: {scores.net.weights:,} weights{frozen}, "
        f"{counted(scores.net.features, 'feature')} for the last layer"
    )


def subset_line(most: int | None) -> str | None:
    """Return a sentence on a test set of at most so many images a class; None for a whole one."""
    if most is None:
        return None
    return f"tested on a fixed part of the test images: at most {most:,} of each class"


def absent_line(scores: Scores) -> str | None:
    """Return a sentence on the classes without images; None where all have some."""
    absent = [row.name for row in scores.per_class if not row.test_count]
    if not absent:
        return None
    left = len(scores.per_class) - len(absent)
    verb = "has" if len(absent) == 1 else "have"
    return (
        f"{listed(absent)} {verb} none of these images: balanced accuracy and macro F1 "
        f"are over the other {left} class{'es' if left > 1 else ''}"
    )


def summary_table(scores: Scores) -> Table:
    """Return the metrics that are known, and top-k accuracies after the main ones."""
    main: dict[str, str] = {}
    others: dict[str, str] = {f"accuracy, top {k}": percent(v) for k, v in scores.top_k.items()}
    for metric in METRICS.values():
        value, is_group = metric.get(scores), metric.key in scores.groups
        if metric.is_cost or (value is None and not is_group):
            continue
        title = f"accuracy, {metric.title}" if is_group else metric.title
        text = NOTHING if value is None else metric.text(value)
        (main if metric.is_main else others)[title] = text
    table = new_table("Overall, in percent", "score", numbers=["value"])
    for row in (main | others).items():
        table.add_row(*row)
    return table


def reliability_table(scores: Scores) -> Table:
    """Return a row for each bin of confidence: its images, how sure of them, how often right."""
    titles = ("images", "mean confidence", "accuracy")
    table = new_table("Reliability, in percent", "confidence", numbers=titles)
    for one in scores.reliability:
        low, high = map(percent, reliability_bounds(one.confidence))
        shares = map(percent, (one.confidence, one.accuracy))
        table.add_row(f"{low} to {high}", str(one.count), *shares)
    return table


def config_table(values: Mapping[str, Any], origins: Mapping[str, str]) -> Table:
    """Return each key of a config with its value and where that came from."""
    table = new_table("Config", "key", "value", "from")
    for key, origin in origins.items():
        table.add_row(key, shown(values[key]), shown(origin))
    return table


def schedule_table(epochs: Sequence[Mapping[str, Any]]) -> Table:
    """Return a row an epoch: learning rate, lambda, effective margin and a bar of the margin.

    The bar starts at 1, which is no margin. Of many epochs the first, the last and those at equal,
    round distances between them are shown.
    """
    largest = max((row["effective_margin"] or 1 for row in epochs), default=1)
    titles = ("epoch", "learning rate", "lambda", "effective margin")
    table = new_table("Schedule, at the end of each epoch", numbers=titles)
    if largest > 1:
        table.add_column(f"1 to {largest:.3g}", max_width=_BAR_WIDTH)
    distance = _round_distance(len(epochs))
    for row in epochs:
        if row["epoch"] in (1, len(epochs)) or row["epoch"] % distance == 0:
            lam, margin = row["lambda"], row["effective_margin"]
            numbers = (_text(row["lr"], ".4g"), _text(lam, ".4g"), _text(margin, ".3f"))
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


def _text(value: float | None, spec: str) -> str:
    return NOTHING if value is None else format(value, spec)


def _bar(value: float, largest: float) -> ProgressBar:
    return ProgressBar(largest, value, complete_style="", finished_style="")


def confusion_table(scores: Scores) -> Table:
    """Return images by true class (rows) and predicted class; the commonest errors for many."""
    names = [shown(row.name) for row in scores.per_class]
    confusion = confusion_of(scores) or Confusion(len(names), {})
    if len(names) > MATRIX_CLASSES:
        return _commonest_confusions(confusion, names)
    title = "Images by true class (rows) and predicted class (columns)"
    table = new_table(title, "true class", numbers=[str(i) for i in range(len(names))])
    for number, (name, row) in enumerate(zip(names, confusion.matrix(), strict=True)):
        cells = [Text(str(n), style="bold" if i == number else "") for i, n in enumerate(row)]
        table.add_row(Text(f"{number} ").append(name), *cells)
    return table


def _commonest_confusions(confusion: Confusion, names: Sequence[Text]) -> Table:
    titles = ("images", "% of class")
    table = new_table("Commonest confusions", "true class", "predicted class", numbers=titles)
    for true, guess, images, share in confusion.commonest_errors(_CONFUSIONS_SHOWN):
        table.add_row(names[true], names[guess], str(images), percent(share))
    return table


def shown(text: object) -> Text:
    """Return the text for a cell: markup is plain text there, control characters are spelled."""
    return Text(visible(str(text)))


def models_bench_table(document: Mapping[str, Any]) -> Table:
    """Return a row for each model, precision, layout and number of threads of `lmsm bench`."""
    peaks = ", ".join(f"{name} {value:,.0f}" for name, value in document["peak_gflops"].items())
    title = f"Training at batch {document['batch_size']}"
    names = ("model", "precision", "layout")
    numbers = ("threads", "images/s", "% of peak", "GFLOP/image", "CIFAR-10 epoch, s")
    title += f"; peak of a matrix product in GFLOP/s: {peaks}"
    table = new_table(title, *names, numbers=numbers)
    for row in document["models"]:
        rate = row["images_per_second"]
        table.add_row(
            *(row[name] for name in names),
            str(row["threads"] or NOTHING),
            "out of memory" if rate is None else f"{rate:,.0f}",
            percent(row["share_of_peak"]),
            f"{row['gflop_per_image']:.2f}",
            _text(row["seconds_per_epoch"], ",.1f"),
        )
    return table


def losses_bench_table(document: Mapping[str, Any]) -> Table:
    """Return a row for each loss of `lmsm bench`."""
    title = "Losses alone, forward and backward, 64 features and 10 classes"
    table = new_table(title, "loss", numbers=("ms", "over softmax"))
    for row in document["losses"]:
        table.add_row(row["loss"], f"{row['milliseconds']:.2f}", f"{row['over_softmax']:.2f}")
    return table


def augmentations_bench_table(document: Mapping[str, Any]) -> Table:
    """Return a row for each augmentation of `lmsm bench`."""
    title = "Augmentations, a batch of 32x32 pixels; a step is one of resnet18"
    table = new_table(title, "augmentation", numbers=("ms", "% of a step"))
    for row in document["augmentations"]:
        texts = (f"{row['milliseconds']:.2f}", percent(row["share_of_step"]))
        table.add_row(row["augment"], *texts)
    return table


def percent(share: float | None) -> str:
    """Return a fraction as percent with one decimal, `-` for None."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def whole_width(table: Table) -> int:
    """Return the characters of a line of the table where nothing is broken."""
    return _MEASURING.measure(table).maximum


def parts_by_columns(table: Table, width: int) -> list[Table]:
    """Return the table, or where even broken texts leave it wider, tables of some columns each.

    Each has the first column, which tells the rows apart, and as many of the others as fit.
    """
    first, *others = table.columns
    parts: list[list[Column]] = []
    for column in others:
        if not parts or _MEASURING.measure(_part(table, [*parts[-1], column])).minimum > width:
            parts.append([first])
        parts[-1].append(column)
    return [_part(table, columns) for columns in parts]


def _part(table: Table, columns: Sequence[Column]) -> Table:
    """Return a table of some columns of another; those that don't wrap keep their width."""
    part = new_table(str(table.title))
    for column in columns:
        widest = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
        part.add_column(
            column.header,
            justify=column.justify,
            overflow=column.overflow,
            no_wrap=column.no_wrap,
            min_width=column.min_width,
            width=widest if column.no_wrap else None,
        )
    for row, *cells in zip(table.rows, *(column.cells for column in columns), strict=True):
        part.add_row(*cells, end_section=row.end_section)
    return part


class _TitledTable(Table):
    """A table under a title that breaks where the page ends, not where the table does."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        title, self.title = self.title, None
        try:
            yield Text(str(title), style="bold")
            yield from super().__rich_console__(console, options)
        finally:
            self.title = title


def new_table(title: str, *names: str, numbers: Sequence[str] = ()) -> Table:
    """Return a table with left-aligned columns for names, then right-aligned ones for numbers."""
    table = _TitledTable(title=title, box=box.SIMPLE_HEAD, collapse_padding=True)
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", overflow="fold")
    return table
