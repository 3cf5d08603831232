"""Begin a study, or find it again: what its data allows, and what its first training takes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmsm_cli.comparison.pooling import mean_counts
from lmsm_cli.config import RUNTIME_KEYS, Config, dump
from lmsm_cli.data import sources
from lmsm_cli.data.identity import DIVIDED_ANEW, ImagesRecord, are_same_images
from lmsm_cli.data.layout import check_apart
from lmsm_cli.data.splits import (
    check_apart_from_listed,
    folder_options,
    load_data,
    load_training,
)
from lmsm_cli.errors import CheckpointError, DataError, LmsmError, counted
from lmsm_cli.runs.folder import check_folder
from lmsm_cli.runs.images import read_images_record
from lmsm_cli.runtime.display import SILENT, Display
from lmsm_cli.shot_groups import shot_groups
from lmsm_cli.sweeps.candidates import BASELINE, candidates_for
from lmsm_cli.sweeps.study import Study
from lmsm_cli.sweeps.study_plan import (
    TEST_IMAGES,
    USUAL_BUDGET,
    Cost,
    Rounds,
    StudyPlan,
    StudyState,
    plan_by_budget,
    plan_by_rounds,
    plan_longer,
    read_state,
)
from lmsm_cli.sweeps.study_race import race_again
from lmsm_cli.sweeps.study_runs import Trainings
from lmsm_cli.training.dry_run import dry_run

# How many candidates are trained whole.
_ARMS = 2
_FEWEST_OF_A_CLASS = 2
# Seconds in which a run of a study reads its images and builds its net.
_STARTING = 0.5


@dataclass(frozen=True)
class Wanted:
    """What a study is asked for."""

    config: Config
    also: Sequence[str] = ()
    budget: float | None = None
    """In seconds; None where the rounds are given, and for that of before, or the usual one."""
    rounds: Rounds | None = None
    keeps_all: bool = False
    may_shorten: bool = False
    """Whether a short budget may take fewer epochs than the config has."""


def begin(wanted: Wanted, display: Display) -> tuple[Study, Mapping[str, Any]]:
    """Return a study, begun now or gone on with, and what was measured of its first training.

    Nothing is measured where it is gone on with.

    Raises:
        LmsmError: The folder has another study, the budget allows no round, or a candidate cannot
            be.
        DataError: The images are too few.
    """
    config, out = wanted.config, wanted.config.out
    check_folder(out, "--out")
    check_apart("--out", out, config.dataset, config.data_dir)
    if config.freeze == "features":
        raise LmsmError(
            "--freeze features trains last layers alone, which a study does by itself in its race: "
            "take --freeze backbone, or leave it out"
        )
    has_test = _has_test(config)
    counts, images = checked_images(config, has_test=has_test)
    heads = len(candidates_for(counts, dump(config), wanted.also))
    state, measured = read_state(out), dict[str, Any]()
    budget = _budget_of(wanted, state)
    if state is None:
        measured = _measured(config, has_test=has_test, display=display)
        plan = _plan(wanted, counts, heads, budget, measured["seconds"], has_test=has_test)
        state = StudyState(_base(wanted, plan), list(wanted.also), plan, images)
    else:
        _check_same(state, _base(wanted, state.plan), wanted)
        _check_end(state, wanted)
        _check_images(state, images, config)
        _find_model(state, out)
        _go_on_longer(state, wanted, heads, display)
    by_name = {one.name: one for one in candidates_for(counts, state.base, wanted.also)}
    both = counts, trained_counts(state, has_test=has_test)
    given = (out, state, by_name, *both, has_test, display, budget, wanted.keeps_all)
    return Study(*given, is_new=bool(measured)), measured


def _plan(
    wanted: Wanted,
    counts: Sequence[int],
    heads: int,
    budget: float | None,
    seconds: float,
    *,
    has_test: bool,
) -> StudyPlan:
    """Return the plan of a new study, whose first training takes so many seconds."""
    arms = min(_ARMS, heads)
    if wanted.rounds is not None:
        return plan_by_rounds(counts, wanted.rounds, arms, has_test=has_test)
    assert budget is not None
    epochs = wanted.config.epochs if wanted.may_shorten else None
    cost = Cost(budget, seconds, heads)
    return plan_by_budget(counts, cost, arms, has_test=has_test, epochs=epochs)


def _base(wanted: Wanted, plan: StudyPlan) -> dict[str, Any]:
    """Return the choices of all trainings; a plan may have taken epochs that nobody asked for."""
    config = wanted.config
    is_short = plan.epochs is not None and config.epochs == plan.usual_epochs
    return dump(config) | ({"epochs": plan.epochs} if is_short and wanted.may_shorten else {})


def _budget_of(wanted: Wanted, state: StudyState | None) -> float | None:
    """Return the seconds of a study: as given, else as before, else the usual ones."""
    if wanted.rounds is not None:
        return None
    return wanted.budget or (state.budget if state else None) or USUAL_BUDGET


def _measured(config: Config, *, has_test: bool, display: Display) -> dict[str, Any]:
    """Try out one training, and return its seconds and the bytes that it leaves."""
    held = {"test_from": "training"} if has_test else {}
    found = dry_run(config.model_copy(update=held), display)
    assert found is not None  # a study is one process
    phases = found["phases"]
    # images are decoded once, and no run of a study draws plots
    seconds = found["total_seconds"] - phases["plots"] - phases["preparing"]
    return {
        "seconds": seconds + _STARTING,
        "bytes": found["disk_bytes"],
        "free_bytes": found["free_disk_bytes"],
        "device": found["device"],
    }


def _has_test(config: Config) -> bool:
    """Return whether the data has test images of its own."""
    if config.dataset not in sources.OWN:
        return True
    layout = sources.own_layout(config.data_dir, folder_options(config))
    return "test" in layout.listings


def checked_images(config: Config, *, has_test: bool) -> tuple[list[int], list[str]]:
    """Return the images of each class that training and held-out images share, and all digests.

    Raises DataError where a class has too few to be trained on and judged, LmsmError where the
    study would be written among the images of a list.
    """
    data = load_data(config.model_copy(update={"validation": 0.0}), SILENT)
    check_apart_from_listed("--out", config.out, config, data.record())
    counts = data.train_counts
    if not has_test:
        counts = [one + other for one, other in zip(counts, data.test.counts(), strict=True)]
    few = [
        f"{name!r} ({count})"
        for name, count in zip(data.training.classes, counts, strict=True)
        if count < _FEWEST_OF_A_CLASS
    ]
    if few:
        raise DataError(
            "a study holds images of each class out in turn, and needs two of each at least: add "
            f"images of {', '.join(few)}, or leave the class out"
        )
    return counts, [data.training.digest(), data.test.digest()]


def trained_counts(state: StudyState, *, has_test: bool) -> list[int]:
    """Return the training images of each class in the runs of a study, which say which are rare.

    They are rounded where images are held out, so near the least ratio of counts a class may be
    rare in the rounds and not in a training on all images, which `lmsm data` shows, or the other
    way round. Then none is: no page of these runs denies what the study asks about.
    """
    trainings = Trainings(state.base, {}, has_test)
    rounds, whole = (
        mean_counts([load_training(run.config, SILENT)[0].counts() for run in runs])
        for runs in (
            trainings.of_round(BASELINE, 0, state.plan.folds),
            [trainings.net_on_all_images(BASELINE, 0)],
        )
    )
    compared, other = (whole, rounds) if has_test else (rounds, whole)
    return compared if shot_groups(other) else other


def _go_on_longer(state: StudyState, wanted: Wanted, heads: int, display: Display) -> None:
    """Let a study go on for a budget larger than before, where that can tell anything."""
    if wanted.budget is None or wanted.budget <= (state.budget or 0):
        return
    if not state.may_go_on:
        display.info(
            f"this study is finished: {_why_finished(state)}; another --out begins a new one"
        )
        return
    race_again(state)
    state.plan = plan_longer(state.plan, wanted.budget, heads)
    state.budget, state.result = wanted.budget, None


def _why_finished(state: StudyState) -> str:
    """Return why a larger budget tells no more."""
    assert state.result is not None
    if state.plan.looks or state.result["verdict"]["decided_on"] == TEST_IMAGES:
        return (
            "its level of 5% is spent on what it has seen, and more time would tell nothing "
            "honestly"
        )
    return (
        "three rounds choose the loss that the test images are asked of, and these are done: a "
        "larger budget has no more of them"
    )


def _find_model(state: StudyState, out: Path) -> None:
    """Say where the model is now, if the folder of the study was moved."""
    if state.result is not None:
        model = state.result["model"]
        run = out / Path(model["run"]).name
        model |= {"run": str(run), "file": str(run / Path(model["file"]).name)}


def _check_images(state: StudyState, images: list[str], config: Config) -> None:
    """Raise DataError where the images are no longer those that the study began with."""
    if state.images in ([], images):
        return
    now = load_data(config.model_copy(update={"validation": 0.0}), SILENT).record()
    if any(are_same_images(now, before) for before in _records_in(config.out)):
        raise DataError(
            f"{config.out} has a study of other training and test images: {DIVIDED_ANEW}; give the "
            "files their names back to continue it, or another --out"
        )
    raise DataError(
        f"{config.out} has a study of other images than there are now: give another --out, or "
        "bring those images back to continue it"
    )


def _records_in(out: Path) -> Iterator[ImagesRecord]:
    """Yield what the runs of a study recorded of their images."""
    for run in sorted(path for path in out.iterdir() if path.is_dir()):
        record = None
        with suppress(CheckpointError):
            record = read_images_record(run)
        if record is not None:
            yield record


def _check_same(state: StudyState, base: Mapping[str, Any], wanted: Wanted) -> None:
    """Raise LmsmError where the folder has a study of other choices."""
    named = [f"{key} {old!r}, not {new!r}" for key, (old, new) in state.unlike(base).items()]
    if list(wanted.also) != state.also:
        named.append(f"--also {state.also}, not {list(wanted.also)}")
    rounds, plan = wanted.rounds, state.plan
    if rounds:
        asked = (rounds.number, rounds.folds or plan.folds, rounds.pairs or plan.pairs)
        if asked != (plan.rounds, plan.folds, plan.pairs):
            named.append(f"rounds {plan.spelled}, not {rounds}")
    if named:
        raise LmsmError(
            f"{wanted.config.out} has a study with {'; '.join(named[:5])}: give another --out, or "
            "the same choices to continue it"
        )
    for key in RUNTIME_KEYS:
        state.base[key] = base[key]


def _check_end(state: StudyState, wanted: Wanted) -> None:
    """Raise LmsmError where a study that was begun with --rounds is to end by a budget."""
    if state.plan.has_budget or wanted.rounds:
        return
    rounds = f"{wanted.config.out} has a study of {counted(state.plan.rounds, 'round')}"
    if state.result is None:
        raise LmsmError(f"{rounds}: give --rounds {state.plan.spelled} to continue it")
    if wanted.budget is not None:
        raise LmsmError(
            f"{rounds}, which was begun with --rounds and is finished: no --budget continues it; "
            "give another --out to begin a new one, or leave --budget out to see its answer"
        )
