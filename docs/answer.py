"""Make the README's picture of the answer from the kept runs: `python docs/answer.py`

docs/answer.png: by how much each loss differs from softmax on the rare classes and on all, with 95%
intervals over seeds, as `lmsm compare` has them, on each set of the README's table, each with a
scale of its own.
"""

import sys
import tempfile
from pathlib import Path

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.records import Group
from lmsm_cli.reports.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from lmsm_cli.runs.record import find_runs, read_run

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "benchmarks"))
from results import unpack  # noqa: E402

STUDIES = {
    ("digits", "digits-confirm"): "digits, learning rate 0.05",
    ("digits", "digits-confirm-lr"): "digits, learning rate 0.01",
    ("mnist", "mnist-lt-bn"): "MNIST",
    ("cifar10-usual", "cifar10-usual"): "CIFAR-10, exp 0.1",
    ("cifar10-lt-30", "cifar10-lt-exp-0.01"): "CIFAR-10, exp 0.01",
}
# How the labels of a row begin; L-Softmax with free norms is in none.
NAMES = {
    ("lsoftmax:margin=auto",): "L-Softmax, larger margins\nfor rarer classes",
    ("lsoftmax:margin=2,",): "L-Softmax, margin 2",
    ("logit-adjusted", "balanced-softmax"): "logit adjustment",
}


def main() -> None:
    """Draw the differences of the studies side by side."""
    figure, panels = new_figure(1, len(STUDIES), width=15, height=2.4)
    for axes, ((archive, study), title) in zip(panels, STUDIES.items(), strict=True):
        groups = {group.label: group for group in groups_of(archive, study)}
        for place, start in enumerate(NAMES):
            for label, group in groups.items():
                if label.startswith(start) and "weight_norm=free" not in label:
                    draw(axes, -place, group)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks([-place for place in range(len(NAMES))], NAMES.values())
        axes.set_ylim(0.5 - len(NAMES), 0.5)
        axes.set_xlabel("points above softmax")
        axes.set_title(title, fontsize=10)
    for axes in panels[1:]:
        axes.set_yticklabels([])
    panels[-1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, HERE / "answer", (".png",))


def draw(axes, height: float, group: Group) -> None:
    """Draw the differences of one loss, of rare classes above those of all images."""
    for offset, metric, colour, label in (
        (0.12, "few", ORANGE, "rare classes"),
        (-0.12, "accuracy", BLUE, "all images"),
    ):
        found = group.differences[metric]
        assert found is not None
        low, mean, high = (100 * (value or 0.0) for value in (found.low, found.mean, found.high))
        axes.plot([low, high], [height + offset] * 2, color=colour, linewidth=2)
        first = label not in axes.get_legend_handles_labels()[1]
        axes.plot(mean, height + offset, "o", color=colour, label=label if first else None)


def groups_of(archive: str, study: str) -> tuple[Group, ...]:
    """Return the groups that `lmsm compare` makes of a kept study, without the baseline."""
    with tempfile.TemporaryDirectory() as folder:
        unpack(archive, Path(folder))
        found = compare_runs(
            [read_run(path) for path in find_runs([Path(folder) / "runs" / study])]
        )
    return tuple(group for group in found.groups if not group.is_baseline)


if __name__ == "__main__":
    main()
