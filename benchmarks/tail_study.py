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
judge   shows an arm against a baseline on the half `verdict`, with seeds that nothing was chosen
        on, from runs of one commit; then on all test images, for comparison with other tables.
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

from lmsm_cli.comparison.intervals import Difference, difference, in_points
from lmsm_cli.errors import LmsmError, counted, writing
from lmsm_cli.inference.adjust import logit_adjustment
from lmsm_cli.metrics import METRICS, Scores
from lmsm_cli.reports.exports import to_markdown
from lmsm_cli.runs.folder import write_whole
from lmsm_cli.runs.images import PREDICTIONS
from lmsm_cli.runs.record import RunRecord

SHOWN = ("accuracy", "balanced_accuracy", "many", "medium", "few")
JUDGED = ("few", "medium", "many", "balanced_accuracy", "accuracy")
_ROUNDING = 9


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
            "--baseline": {"required": True},
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


def rule(scores: Sequence[Scores]) -> tuple[float, float]:
    """The largest mean balanced accuracy over the seeds; of equals, that of the few classes."""
    means = (_mean(METRICS[key].get(one) for one in scores) for key in ("balanced_accuracy", "few"))
    return tuple(round(mean, _ROUNDING) for mean in means)


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
        best = max(names, key=lambda name: rule(list(scores[name].values())))
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
        cells = [_told(_values(found, key)) for key in SHOWN]
        for key in ("few", "accuracy"):
            change = _difference(found, scores[baseline], key) if name != baseline else None
            cells.append(f"{in_points(change.mean)} {change.interval}" if change else "-")
        table.add_row(name, str(len(found)), *cells)
    return table


def judge(given: argparse.Namespace) -> None:
    """Print how an arm differs from a baseline on the verdict half."""
    seeds, chosen_on = seeds_of(given.seeds), seeds_of(given.chosen_on)
    if used := sorted(set(seeds) & set(chosen_on)):
        raise LmsmError(
            f"--seeds: the arm was chosen on seed {', '.join(map(str, used))}; "
            "judge it with others, or say what it was chosen on with --chosen-on"
        )
    arms = arms_in(given.runs)
    arm, baseline = (arm_called(spec, arms) for spec in (given.arm, given.baseline))
    if arm is baseline:
        raise LmsmError(f"--arm and --baseline are both {arm.name}")
    study = Study.of([arm, baseline], seeds)
    runs = [one.runs[seed] for one in (arm, baseline) for seed in seeds]
    for what, kind_of in (("commit", _commit), ("precision", _precision)):
        check_alike({run.name: kind_of(run) for run in runs}, what, "train all of them with one")
    commit = _commit(runs[0])
    if not re.fullmatch("[0-9a-f]+", commit):
        raise LmsmError(f"the runs are of no commit that others could take: {commit}")
    print(to_markdown(_verdicts(study, arm.name, baseline.name)))
    told = " ".join(map(str, seeds))
    print(f"Seeds {told}, paired; commit {commit}, precision {_precision(runs[0])}.")


def _verdicts(study: Study, arm: str, baseline: str) -> Table:
    table = Table(title=f"{arm} against {baseline}: in percent, mean±sd, and 95% intervals")
    table.add_column("test images")
    table.add_column("score")
    for title in ("arm", "baseline", "difference", "over seeds"):
        table.add_column(title, justify="right")
    for half in ("verdict", None):
        number = f"{study.part(half).sum():,}"
        where = f"verdict half, {number}" if half else f"all {number}, those of the choice included"
        sides = [study.scores(name, half) for name in (arm, baseline)]
        for key in JUDGED:
            change = _difference(*sides, key)
            if change is not None:
                cells = [_told(_values(side, key)) for side in sides]
                cells += [in_points(change.mean), change.interval or "-"]
                table.add_row(where, METRICS[key].column, *cells)
    return table


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


def _values(scores: Mapping[int, Scores], key: str) -> dict[int, float]:
    found = {seed: METRICS[key].get(one) for seed, one in scores.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _difference(
    own: Mapping[int, Scores], baseline: Mapping[int, Scores], key: str
) -> Difference | None:
    sides = (_values(own, key), _values(baseline, key))
    return difference(*sides, higher_is_better=True)


def _mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else 0.0


def _told(values: Mapping[int, float]) -> str:
    """Return mean±sd in percent."""
    known = [100 * value for value in values.values()]
    if not known:
        return "-"
    sd = f"±{statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{sd}"


if __name__ == "__main__":
    sys.exit(main())
