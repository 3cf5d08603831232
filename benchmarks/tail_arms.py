"""The arms of a study: runs that differ in the seed alone, and their answers to its test images.

An arm is called what `lmsm compare` calls the group of its runs. The answers after post-hoc logit
adjustment, where `tail_study.py adjust` wrote some, are arms of their own: `softmax adjust=1`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from halves import HALVES, Half, half_of
from numpy.typing import NDArray
from run_images import ADJUSTED, ImageList, images_tested_on, predictions_on

from lmsm_cli.comparison.grouping import compare_runs
from lmsm_cli.comparison.samples import usual_setting
from lmsm_cli.data.identity import Part
from lmsm_cli.errors import CheckpointError, LmsmError, did_you_mean, listed
from lmsm_cli.metrics import Scores
from lmsm_cli.runs.images import PREDICTIONS, check_scored
from lmsm_cli.runs.record import RunRecord, find_runs, read_run
from lmsm_cli.scoring import score

ADJUST = "adjust"


@dataclass(frozen=True, eq=False)
class Arm:
    """Completed runs that differ in the seed alone, as trained or after adjustment."""

    name: str
    config: dict[str, Any]
    runs: dict[int, RunRecord]
    """By seed."""
    tau: str | None = None
    """Of the post-hoc logit adjustment."""

    def predictions_of(self, seed: int) -> Path:
        """Return the folder that holds the predictions of a seed's run."""
        run = self.runs[seed].path
        return run if self.tau is None else run / ADJUSTED / self.tau

    def fits(self, spec: str) -> bool:
        """Return whether each word of a spec holds: its loss or the loss's name, `KEY=VALUE`."""
        loss = str(self.config.get("loss"))
        values = {key: str(value) for key, value in self.config.items()}
        known = {f"{key}={value}" for key, value in values.items()} | {loss, loss.split(":")[0]}
        adjusted = set() if self.tau is None else {f"{ADJUST}={self.tau}"}
        asked = set(spec.split())
        return asked <= known | adjusted and adjusted <= asked


def arms_in(paths: Sequence[Path]) -> list[Arm]:
    """Return the arms of the completed runs in run folders or folders of runs.

    Raises LmsmError where there is none.
    """
    records = [read_run(path, with_metrics=False) for path in find_runs(paths)]
    scored = [one for one in records if one.state == "completed" and one.scores and one.config]
    if not scored:
        raise LmsmError(f"no completed run with scores in {listed([str(path) for path in paths])}")
    by_path = {str(record.path): record for record in scored}
    arms = []
    for group in compare_runs(scored).groups:
        runs = {seed: by_path[run] for seed, run in zip(group.seeds, group.runs, strict=True)}
        config = usual_setting() | (next(iter(runs.values())).config or {})
        arms.append(Arm(group.label, config, runs))
        arms += _adjusted(arms[-1])
    return arms


def _adjusted(arm: Arm) -> list[Arm]:
    """Return the arms of an arm's adjusted answers, by tau."""
    runs: dict[str, dict[int, RunRecord]] = {}
    for seed, run in arm.runs.items():
        for file in run.path.glob(f"{ADJUSTED}/*/{PREDICTIONS}"):
            runs.setdefault(file.parent.name, {})[seed] = run
    return [
        Arm(f"{arm.name} {ADJUST}={tau}", arm.config, runs[tau], tau)
        for tau in sorted(runs, key=float)
    ]


def arm_called(spec: str, arms: Sequence[Arm]) -> Arm:
    """Return the arm with that name, or else the only one that a spec fits.

    Raises LmsmError where there is none or several.
    """
    found = [arm for arm in arms if arm.name == spec] or [arm for arm in arms if arm.fits(spec)]
    if len(found) == 1:
        return found[0]
    names = [arm.name for arm in found or arms]
    if found:
        raise LmsmError(f"{spec!r} fits {len(found)} arms: {'; '.join(names)}")
    hint = did_you_mean(spec, names)
    raise LmsmError(f"no arm is called {spec!r}{hint}; there are: {'; '.join(names)}")


def missing_seeds(arm: Arm, seeds: Iterable[int]) -> list[int]:
    """Return which of the seeds an arm has no run of."""
    return [seed for seed in seeds if seed not in arm.runs]


def check_seeds(arms: Iterable[Arm], seeds: Sequence[int]) -> None:
    """Raise LmsmError for each arm that lacks a seed."""
    lacking = {arm.name: missing for arm in arms if (missing := missing_seeds(arm, seeds))}
    if lacking:
        raise LmsmError(
            "\n".join(
                f"{name} has no completed run of seed {listed(list(map(str, missing)), 20)}"
                for name, missing in lacking.items()
            )
        )


def check_alike(kinds: Mapping[str, object], what: str, way_out: str) -> None:
    """Raise LmsmError, with the runs of each kind, where runs are of several kinds.

    Args:
        kinds: The kind of each run, by its name.
        what: What they should be of one of.
        way_out: What to do.
    """
    runs: dict[str, list[str]] = {}
    for name, kind in kinds.items():
        runs.setdefault(str(kind), []).append(name)
    if len(runs) > 1:
        found = "".join(f"\n  {kind}: {', '.join(names)}" for kind, names in runs.items())
        raise LmsmError(f"the runs are not of one {what}; {way_out}:{found}")


@dataclass(frozen=True, eq=False)
class Study:
    """The answers of arms with the same seeds to the same test images."""

    images: ImageList
    """In the order of their contents."""
    train_counts: tuple[int, ...]
    seeds: tuple[int, ...]
    answers: dict[str, NDArray[np.int64]]
    """By the name of the arm: a row of predicted classes (S, N) for each seed."""

    @classmethod
    def of(cls, arms: Sequence[Arm], seeds: Sequence[int]) -> "Study":
        """Read the answers of the arms' runs with these seeds.

        Raises LmsmError where seeds are missing, or runs have no predictions, or were trained or
        tested on different images.
        """
        check_seeds(arms, seeds)
        runs = {str(run.path): run for arm in arms for run in (arm.runs[seed] for seed in seeds)}
        for part in ("test", "training"):
            digests = {run.name: _digest(run, part) for run in runs.values()}
            check_alike(digests, f"set of {part} images", "give those of one alone")
        tested = {path: _images(run) for path, run in runs.items()}
        answers = {
            arm.name: np.stack([_answers(arm, seed, tested) for seed in seeds]) for arm in arms
        }
        first, images = next(zip(runs.values(), tested.values(), strict=True))
        counts = tuple(row.train_count for row in first.scores.per_class)
        return cls(images.taken(images.by_content()), counts, tuple(seeds), answers)

    def part(self, half: Half | None) -> NDArray[np.bool_]:
        """Return which images (N,) are of a half; all for None."""
        if half is None:
            return np.ones(len(self.images.labels), bool)
        return half_of(self.images.labels, self.images.digests) == HALVES.index(half)

    def right(self, name: str, half: Half | None) -> NDArray[np.bool_]:
        """Return whether an arm was right on each image of a half, or of all: a row a seed."""
        own = self.part(half)
        return self.answers[name][:, own] == self.images.labels[own]

    def scores(self, name: str, half: Half | None) -> dict[int, Scores]:
        """Return an arm's scores on a half, or on all images for None, by seed."""
        own = self.part(half)
        labels, classes = self.images.labels[own], self.images.classes
        return {
            seed: score(classes, labels, answers[own], self.train_counts)
            for seed, answers in zip(self.seeds, self.answers[name], strict=True)
        }


def _digest(run: RunRecord, part: Part) -> str | None:
    images = run.scores.images if run.scores else None
    return getattr(images, part, None)


def _images(run: RunRecord) -> ImageList:
    images = images_tested_on(run)
    if images is None:
        raise CheckpointError(f"{run.path}: nothing tells which test images it had")
    return images


def _answers(arm: Arm, seed: int, tested: dict[str, ImageList]) -> NDArray[np.int64]:
    """Return the predicted classes of a run in the order of the images' contents."""
    images, folder = tested[str(arm.runs[seed].path)], arm.predictions_of(seed)
    found = predictions_on(images, folder)
    if found is None:
        raise CheckpointError(f"{folder} has no {PREDICTIONS}: the run is of an older lmsm")
    if arm.tau is None:
        check_scored(found, arm.runs[seed].scores, folder)
    return found.predicted[images.by_content()]
