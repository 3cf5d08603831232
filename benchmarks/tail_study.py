"""A study of a long tail: choose a setting on one half of the test images, judge it on the other.

    python benchmarks/tail_study.py adjust RUNS --tau 0.5,1,1.5
    python benchmarks/tail_study.py choose RUNS --baseline balanced-softmax --among 'lsoftmax*'
    python benchmarks/tail_study.py judge RUNS --arm ARM --baseline balanced-softmax --seeds 3-12

RUNS are folders of runs of `lmsm sweep`, live or unpacked from an archive of keep.py. An arm is
called as `lmsm compare` calls the group of its runs, or by words of its config that fit no other:
`balanced-softmax weight_decay=0.0005`.

adjust  writes what runs with logits answer after post-hoc logit adjustment (Menon et al. 2021),
        RUN/adjusted/TAU/predictions.npz; choose and judge read it as the arm `... adjust=TAU`.
choose  shows the arms on the half `choice` (halves.py), and the best one by the rule.
judge   shows an arm against baselines on the half `verdict`, with seeds that nothing was chosen on,
        from runs of one commit; then on all test images, which decide nothing (tail_verdicts.py).
"""

import argparse
import re
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from rich.table import Table
from run_images import ADJUSTED, images_tested_on, predictions_on, small_predictions
from tail_arms import ADJUST, Study, arm_called, arms_in, check_alike, missing_seeds
from tail_verdicts import table_of_scores, table_of_verdicts, told, values_of

from lmsm_cli.comparison.intervals import difference, in_points
from lmsm_cli.errors import LmsmError, counted, writing
from lmsm_cli.inference.adjust import logit_adjustment
from lmsm_cli.metrics import METRICS, Scores
from lmsm_cli.reports.exports import to_markdown
from lmsm_cli.runs.folder import write_whole
from lmsm_cli.runs.images import PREDICTIONS
from lmsm_cli.runs.record import RunRecord

SHOWN = ("accuracy", "balanced_accuracy", "many", "medium", "few")
# Of the rule: 0.05 points, less what equal means differ by in rounding.
_ALIKE = 0.0005 - 1e-9


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return an exit code."""
    given = _parser().parse_args(arguments)
    try:
        given.command(given)
    except LmsmError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    flags = {
        adjust: {
            "--tau": {"required": True, "help": "strengths, as in 0.5,1"},
            "--arm": {"default": "softmax", "help": "whose runs; a pattern (default: %(default)s)"},
        },
        choose: {
            "--baseline": {"required": True},
            "--seeds": {"default": "0-2", "help": "default: %(default)s"},
            "--among": {
                "action": "append",
                "metavar": "PATTERN",
                "help": "choose among the arms that it fits, as in 'lsoftmax*'; repeatable, each "
                "gives a choice of its own (default: all arms)",
            },
        },
        judge: {
            "--arm": {"required": True},
            "--baseline": {
                "required": True,
                "action": "append",
                "help": "repeatable: the first one is that of the question",
            },
            "--seeds": {"required": True, "help": "as in 3-12"},
            "--chosen-on": {
                "default": "0-2",
                "help": "the seeds that the arm was chosen on (default: %(default)s)",
            },
        },
    }
    for command, own in flags.items():
        one = commands.add_parser(command.__name__, help=command.__doc__.splitlines()[0])
        one.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
        for flag, how in own.items():
            one.add_argument(flag, **how)
        one.set_defaults(command=command)
    return parser


def rule(scores: Mapping[str, Sequence[Scores]]) -> str:
    """The highest mean balanced accuracy; within 0.05 points of it, the highest mean of few."""
    overall, few = (
        {name: _mean(METRICS[key].get(one) for one in found) for name, found in scores.items()}
        for key in ("balanced_accuracy", "few")
    )
    least = max(overall.values()) - _ALIKE
    return max((name for name in scores if overall[name] > least), key=lambda name: few[name])


def choose(given: argparse.Namespace) -> None:
    """Print the arms on the choice half, and the best one by the rule."""
    seeds, arms = seeds_of(given.seeds), arms_in(given.runs)
    baseline = arm_called(given.baseline, arms)
    patterns = given.among or ["*"]
    # runs of the seeds that confirm may lie beside those that chose
    shown = [
        arm
        for arm in arms
        if arm is baseline
        or (
            any(fnmatchcase(arm.name, pattern) for pattern in patterns)
            and len(missing_seeds(arm, seeds)) < len(seeds)
        )
    ]
    candidates = {
        pattern: [arm.name for arm in shown if fnmatchcase(arm.name, pattern)]
        for pattern in patterns
    }
    for pattern, names in candidates.items():
        if not names:
            raise LmsmError(f"--among {pattern}: no arm with these seeds is called so")
    study = Study.of(shown, seeds)
    scores = {arm.name: study.scores(arm.name, "choice") for arm in shown}
    print(to_markdown(_table_of_arms(study, scores, baseline.name)))
    print(f"Rule: {rule.__doc__}")
    for pattern, names in candidates.items():
        best = rule({name: list(scores[name].values()) for name in names})
        print(f"Chosen among `{pattern}`, {counted(len(names), 'arm')}: {best}")


def _table_of_arms(
    study: Study, scores: Mapping[str, Mapping[int, Scores]], baseline: str
) -> Table:
    own, every = study.part("choice").sum(), len(study.images.labels)
    table = Table(
        title=f"Choice half: {own:,} of {every:,} test images, seeds "
        f"{' '.join(map(str, study.seeds))}; in percent, mean±sd, and the difference to {baseline} "
        "with its 95% interval over seeds"
    )
    table.add_column("arm")
    for title in (
        "n",
        *(METRICS[key].column for key in SHOWN),
        "few difference",
        "accuracy difference",
    ):
        table.add_column(title, justify="right")
    for name, found in scores.items():
        cells = [told(values_of(found, key)) for key in SHOWN]
        for key in ("few", "accuracy"):
            sides = (values_of(one, key) for one in (found, scores[baseline]))
            change = difference(*sides, higher_is_better=True) if name != baseline else None
            cells.append(f"{in_points(change.mean)} {change.interval}" if change else "-")
        table.add_row(name, str(len(found)), *cells)
    return table


def judge(given: argparse.Namespace) -> None:
    """Print how an arm differs from its baselines on the verdict half."""
    seeds, chosen_on = seeds_of(given.seeds), seeds_of(given.chosen_on)
    if used := sorted(set(seeds) & set(chosen_on)):
        raise LmsmError(
            f"--seeds: the arm was chosen on seed {', '.join(map(str, used))}; "
            "judge it with others, or say what it was chosen on with --chosen-on"
        )
    arms = arms_in(given.runs)
    arm, *baselines = compared = [arm_called(spec, arms) for spec in (given.arm, *given.baseline)]
    names = [one.name for one in compared]
    if len(set(names)) < len(names):
        raise LmsmError(f"--arm and --baseline name one arm twice: {'; '.join(names)}")
    study = Study.of(compared, seeds)
    runs = [one.runs[seed] for one in compared for seed in seeds]
    for what, kind_of in (("commit", _commit), ("precision", _precision)):
        check_alike({run.name: kind_of(run) for run in runs}, what, "train all of them with one")
    commit = _commit(runs[0])
    if not re.fullmatch("[0-9a-f]+", commit):
        raise LmsmError(f"the runs are of no commit that others could take: {commit}")
    for baseline in baselines:
        print(to_markdown(table_of_scores(study, arm.name, baseline.name)))
    print(to_markdown(table_of_verdicts(study, arm.name, [one.name for one in baselines])))
    told_seeds = " ".join(map(str, seeds))
    print(f"Seeds {told_seeds}, paired; commit {commit}, precision {_precision(runs[0])}.")


def adjust(given: argparse.Namespace) -> None:
    """Write the answers of runs after post-hoc logit adjustment."""
    taus = _taus(given.tau)
    arms = [arm for arm in arms_in(given.runs) if arm.tau is None]
    chosen = [arm for arm in arms if fnmatchcase(arm.name, given.arm) or arm.fits(given.arm)]
    if not chosen:
        names = "; ".join(arm.name for arm in arms)
        raise LmsmError(f"--arm: no arm is called {given.arm}; there are: {names}")
    for arm in chosen:
        for run in arm.runs.values():
            for tau in taus:
                _write_adjusted(run, tau)
        print(f"{arm.name}: {len(arm.runs)} runs, {ADJUST}={', '.join(taus)}")


def _write_adjusted(run: RunRecord, tau: str) -> None:
    images = images_tested_on(run)
    found = predictions_on(images, run.path) if images else None
    if found is None or found.logits is None:
        raise LmsmError(
            f"{run.path} has no logits to adjust (archives have none): "
            "do it where the runs were trained"
        )
    correction = logit_adjustment([row.train_count for row in run.scores.per_class])
    predicted = correction.predict(torch.from_numpy(found.logits), float(tau))
    folder = run.path / ADJUSTED / tau
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    content = small_predictions(found.labels, predicted, len(images.classes))
    write_whole(folder / PREDICTIONS, content)


def seeds_of(text: str) -> tuple[int, ...]:
    """Return the seeds of a list of numbers and ranges: `0,1` or `3-12`, ascending.

    Raises LmsmError for anything else, and for a lone number, which for `lmsm sweep` is how many.
    """
    try:
        ends = [list(map(int, piece.split("-"))) for piece in text.split(",")]
        ranges = [range(first, last + 1) for first, last in ((end[0], end[-1]) for end in ends)]
        valid = text.strip().isdecimal() is False and all(len(end) <= 2 for end in ends)
    except ValueError:
        ranges, valid = [], False
    seeds = [seed for one in ranges for seed in one]
    if not valid or not all(ranges) or len(set(seeds)) < len(seeds):
        raise LmsmError(
            f"seeds are {text!r}: give a range or a list, each seed once, as in 3-12 or 0,1,2"
        )
    return tuple(sorted(seeds))


def _taus(text: str) -> list[str]:
    """Return the strengths of a list as they name folders and arms."""
    try:
        taus = [float(piece) for piece in text.split(",")]
    except ValueError:
        taus = []
    if not taus or not np.isfinite(taus).all():
        raise LmsmError(f"--tau is {text!r}: give numbers, as in 0.5,1,1.5")
    return [f"{tau:g}" for tau in taus]


def _commit(run: RunRecord) -> str:
    git = run.environment.git if run.environment else None
    if git is None:
        return "not known (no git in environment.json)"
    return git.commit + (" with changes" if git.dirty else "")


def _precision(run: RunRecord) -> str:
    """Return the precision of a run; where it was left to the device, what the device was."""
    chosen = (run.config or {}).get("precision", "auto")
    device = run.environment.device if run.environment else None
    return f"auto on {device or 'an unknown device'}" if chosen == "auto" else chosen


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else 0.0


if __name__ == "__main__":
    sys.exit(main())
