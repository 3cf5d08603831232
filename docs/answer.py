"""Make the pictures of the answer from the kept runs: `python docs/answer.py`

docs/answer.png: by how much each loss differs from softmax on the rare classes, with 95% intervals
as `lmsm compare` has them, in each column of the table of docs/which-loss.md, all on one scale.
docs/accuracy_by_training_images.png: the accuracy of each class, a line a loss, on one of them.
docs/features.png is no part of it: that is the picture which `lmsm demo` draws.
"""

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.reports.figures import GREY, new_figure, save_figure
from lmsm_cli.reports.rarity import arms_of, rarity_chart
from lmsm_cli.reports.rarity_plot import BASELINE, STYLES, rarity_figure
from lmsm_cli.runs.record import RunRecord, find_runs, read_run

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
from results import unpack  # noqa: E402

STUDIES = {
    ("digits-tail", "digits-tail"): "digits, learning rate 0.05",
    ("digits-tail", "digits-tail-lr"): "digits, learning rate 0.01",
    ("mnist", "mnist-lt-bn"): "MNIST",
    ("cifar10-usual", "cifar10-usual"): "CIFAR-10, exp 0.1",
    ("cifar10-lt-30", "cifar10-lt-exp-0.01"): "CIFAR-10, exp 0.01",
    ("cifar10-tail-confirm", "cifar10-tail-confirm"): "CIFAR-10, exp 0.01, ten seeds",
}
BY_CLASS = ("cifar10-tail-confirm", "cifar10-tail-confirm")
# What the label of a row is; L-Softmax with free norms is in none.
NAMES = {
    r"lsoftmax:margin=(tail\b|auto,.*\btau=1\b)": "L-Softmax, small margins and prior",
    r"logit-adjusted|balanced-softmax": "logit adjustment",
    r"lsoftmax:margin=auto\b(?!.*\btau=)": "L-Softmax, larger margins, no prior",
    r"lsoftmax:margin=2\b": "L-Softmax, margin 2",
}
_WIDTH = 9.0
"""Inches. 900 pixels on a page, of which a point of a font is 1.4."""
_ROW = 0.245


def main() -> None:
    """Draw both pictures."""
    found = {}
    for study in STUDIES:
        with compared(*study) as (comparison, records):
            found[study] = comparison
            if study == BY_CLASS:
                picture = by_class(comparison, records)
    save_figure(picture, HERE / "accuracy_by_training_images", (".png",))
    answer = differences({STUDIES[study]: one for study, one in found.items()})
    save_figure(answer, HERE / "answer", (".png",))


def differences(studies: dict[str, Comparison]) -> Figure:
    """Return the differences of all studies: a row for each loss, below the name of its study."""
    rows = sum(1 + len(named(comparison)) for comparison in studies.values())
    figure, (axes,) = new_figure(1, 1, width=_WIDTH, height=_ROW * rows + 0.9)
    ticks: list[tuple[float, str, bool]] = []
    for title, comparison in studies.items():
        ticks.append((-len(ticks), title, True))
        for name, group in named(comparison).items():
            draw(axes, -len(ticks), name, group)
            ticks.append((-len(ticks), name, False))
    axes.axvline(0, color=BASELINE[0], linewidth=1.2)
    axes.set_yticks([y for y, _, _ in ticks], [name for _, name, _ in ticks], fontsize=9.5)
    for label, (_, _, is_title) in zip(axes.get_yticklabels(), ticks, strict=True):
        label.set_fontweight("bold" if is_title else "normal")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(0.6 - rows, 0.6)
    axes.grid(visible=True, axis="x", linewidth=0.4, alpha=0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("accuracy on the rarest third of the classes: points above softmax")
    over = {
        one.over
        for comparison in studies.values()
        for group in named(comparison).values()
        if (one := group.differences["few"])
    }
    title = f"Filled: the 95% interval over {' or '.join(sorted(over))} excludes 0"
    axes.set_title(title, fontsize=9.5, color=GREY)
    return figure


def draw(axes, height: float, name: str, group: Group) -> None:
    """Draw the difference of one loss on the rare classes with its interval."""
    found = group.differences["few"]
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    colour, mark, _ = STYLES[list(NAMES.values()).index(name)]
    low, mean, high = (100 * value for value in (found.low, found.mean, found.high))
    axes.plot([low, high], [height, height], color=colour, linewidth=2, marker="|", markersize=6)
    face = "white" if low <= 0 <= high else colour
    style = {"markersize": 7, "markeredgecolor": colour, "markeredgewidth": 1.4}
    axes.plot(mean, height, mark, markerfacecolor=face, **style)


def by_class(comparison: Comparison, records: Sequence[RunRecord]) -> Figure:
    """Return the accuracy of each class against its training images."""
    (numbered,) = comparison.by_test_set()
    arms = [replace(arm, label=name_of(arm.label)) for arm in arms_of(numbered, records)]
    chart = rarity_chart(arms)
    assert chart
    return rarity_figure(chart, title=STUDIES[BY_CLASS], width=_WIDTH, height=4.8)


def named(comparison: Comparison) -> dict[str, Group]:
    """Return the groups that a study has of the losses, in the order of `NAMES`."""
    found = {name_of(group.label): group for group in comparison.groups}
    assert len(found) == len(comparison.groups)  # no two rows of one name
    return {name: found[name] for name in NAMES.values() if name in found}


def name_of(label: str) -> str:
    """Return the name of a loss for what `lmsm compare` calls it; that itself where it has none."""
    if "weight_norm=free" in label:
        return label
    return next((name for start, name in NAMES.items() if re.match(start, label)), label)


@contextlib.contextmanager
def compared(archive: str, study: str) -> Iterator[tuple[Comparison, list[RunRecord]]]:
    """Give what `lmsm compare` makes of a kept study, and its runs, unpacked for that time."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder))
        runs = find_runs([Path(folder) / "runs" / study])
        records = [read_run(path, with_metrics=False) for path in runs]
        yield compare_runs(records), records


if __name__ == "__main__":
    main()
