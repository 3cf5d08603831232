"""Make the README's picture of the answer from the kept runs: `python docs/answer.py`

docs/answer.png: by how much each loss differs from softmax on the rare classes and on all, with 95% intervals
over seeds, as `lmsm compare` has them, at two learning rates.
"""

import sys
import tarfile
import tempfile
from pathlib import Path

from lmsm_cli.reports.comparison import Group, compare_runs
from lmsm_cli.reports.figures import BLUE, GREY, ORANGE, new_figure, save_figure
from lmsm_cli.runs.record import find_runs, read_run

HERE = Path(__file__).parent
ARCHIVE = HERE.parent / "benchmarks" / "runs" / "digits.tar.xz"
STUDIES = {"digits-confirm": "learning rate 0.05", "digits-confirm-lr": "learning rate 0.01"}
NAMES = {
    "lsoftmax:margin=2": "L-Softmax, margin 2",
    "lsoftmax:margin=auto": "L-Softmax, larger margins\nfor rarer classes",
    "logit-adjusted": "logit adjustment",
}


def main() -> None:
    """Draw the differences of both studies side by side."""
    figure, panels = new_figure(1, 2, width=9, height=2.6)
    drawn = [0.0]
    for axes, (study, title) in zip(panels, STUDIES.items(), strict=True):
        groups = [group for group in groups_of(study) if not group.is_baseline]
        for place, group in enumerate(groups):
            for offset, metric, colour in ((0.12, "few", ORANGE), (-0.12, "accuracy", BLUE)):
                found = group.differences[metric]
                assert found is not None
                points = [100 * (value or 0.0) for value in (found.low, found.mean, found.high)]
                label = {"few": "rare classes", "accuracy": "all images"}[metric] if not place else None  # fmt: skip
                drawn += points
                axes.plot(points[::2], [-place + offset] * 2, color=colour, linewidth=2)
                axes.plot(points[1], -place + offset, "o", color=colour, label=label)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks([-place for place in range(len(groups))], [name_of(group) for group in groups])  # fmt: skip
        axes.set_xlabel("points of accuracy above softmax")
        axes.set_title(title, fontsize=10)
    for axes in panels:
        axes.set_xlim(min(drawn) - 1, max(drawn) + 1)
    panels[1].set_yticklabels([])
    panels[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, HERE / "answer", (".png",))


def groups_of(study: str) -> tuple[Group, ...]:
    """Return the groups that `lmsm compare` makes of a kept study."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
        return compare_runs([read_run(path) for path in find_runs([Path(folder) / study])]).groups


def name_of(group: Group) -> str:
    """Return the loss of a group in words."""
    return next(words for start, words in NAMES.items() if group.label.startswith(start))


if __name__ == "__main__":
    sys.exit(main())
