"""What stands below a table of RESULTS.md: net, data, recipe, and published figures beside ours.

All of it follows from the kept runs and from published.yaml.
"""

import statistics
import tarfile
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from published import Figure, Kept, Published, data_of, is_loss_of, published
from recipe_words import differences, in_words

from lmsm_cli.comparison.samples import FREE_KEYS, samples_of, usual_setting
from lmsm_cli.config import Config
from lmsm_cli.losses.registry import build_head
from lmsm_cli.models.classifier import ModelSpec
from lmsm_cli.models.necks import build_neck
from lmsm_cli.models.nets import parameter_count, without_memory
from lmsm_cli.runs.record import RunRecord, find_runs, read_run

TITLE = "**Net and recipe**"
TOLD_FROM = 2.0
"""Points from which on a difference to a published figure asks for its reason."""
_FEWEST = 3
"""Runs of a mean that stands beside a published figure."""
_KEPT = Path(__file__).parent / "runs"


@dataclass(frozen=True)
class Arm:
    """Completed runs that differ in the seed alone."""

    setting: dict[str, Any]
    runs: dict[int, RunRecord]
    """By seed."""

    @property
    def accuracies(self) -> list[float]:
        """Their test accuracies in percent, by seed."""
        return [100 * run.scores.accuracy for run in self.runs.values() if run.scores]

    @property
    def mean(self) -> str:
        """Mean and sd of the accuracies, as tables have them."""
        return _mean_and_sd(self.accuracies)

    @property
    def class_counts(self) -> tuple[int, ...]:
        """The training images of each class."""
        scores = next(iter(self.runs.values())).scores
        return tuple(row.train_count or 0 for row in scores.per_class) if scores else ()


def arms_in(folders: Iterable[Path]) -> list[Arm]:
    """Return the arms of the completed runs of lmsm in folders of runs; a folder may be missing."""
    paths = find_runs([folder for folder in folders if folder.is_dir()])
    records = [read_run(path, with_metrics=False) for path in paths]
    trained = [one for one in records if one.state == "completed" and not one.is_outside]
    groups: dict[str, dict[int, RunRecord]] = {}
    for sample in samples_of(trained, ()):
        groups.setdefault(sample.key, {})[sample.seed] = sample.record
    return [
        Arm(usual_setting() | (next(iter(runs.values())).config or {}), dict(sorted(runs.items())))
        for runs in groups.values()
    ]


def below(folders: Iterable[Path]) -> str:
    """Return what stands below the table of these runs, in Markdown; nothing without runs."""
    arms = arms_in(folders)
    if not arms:
        return ""
    lines = ["", f"{TITLE}: {_net_and_recipe(arms)}", *_published(arms, published())]
    return "".join(f"{line}\n" for line in lines)


def _net_and_recipe(arms: Sequence[Arm]) -> str:
    settings = [arm.setting for arm in arms]
    necks: dict[str, dict[str, None]] = {}
    for one in settings:
        necks.setdefault(one["model"], {})[one["neck"]] = None
    nets = [f"{model} with neck {' or '.join(found)}" for model, found in necks.items()]
    sizes = [_size_of(arm) for arm in arms]
    weights = f"{_range({weights for weights, _ in sizes})} parameters"
    width = f"{_range({features for _, features in sizes})} features before the last layer"
    seeds = [tuple(arm.runs) for arm in arms]
    recipe = in_words(settings, without=("epochs", "neck", "head_bias", "head_init"))
    return (
        f"{' or '.join(nets)}, {weights}, {width}. {_data(arms)}. {_epochs(arms)}, "
        f"{' or '.join(dict.fromkeys(map(_seeds, seeds)))}. {recipe[0].upper()}{recipe[1:]}."
    )


def _size_of(arm: Arm) -> tuple[int, int]:
    """Return the parameters of an arm's classifier, and the features before its last layer."""
    scores = next(iter(arm.runs.values())).scores
    assert scores is not None
    if scores.net is not None:
        return scores.net.weights, scores.net.features
    spec = ModelSpec(**{key: arm.setting[key] for key in _SPEC_KEYS})
    size = arm.setting["image_size"]
    channels = 1 if arm.setting["dataset"] in _GREY else 3
    rest = spec.head_bias, size, channels, arm.class_counts
    return _size(spec.model, spec.neck, spec.loss, rest)


_SPEC_KEYS = ("model", "neck", "loss", "head_bias", "head_init")
_GREY = ("digits", "mnist", "fashion-mnist")


@cache
def _size(
    model: str, neck: str, loss: str, rest: tuple[bool, int, int, tuple[int, ...]]
) -> tuple[int, int]:
    """Return parameters and features of a classifier, of which the head alone is built."""
    bias, image_size, channels, counts = rest
    backbone = without_memory(model, channels, image_size)
    with torch.device("meta"):
        layers, width = build_neck(neck, backbone)
    head = build_head(loss, width, len(counts), torch.tensor(counts), bias=bias)
    return sum(map(parameter_count, (backbone.module, layers, head))), width


def _data(arms: Sequence[Arm]) -> str:
    """Return the data of some runs in words, with the training images of a class."""
    told = []
    for arm in arms:
        counts = arm.class_counts
        copy = " (JPEG copy)" if _is_jpeg_copy(arm) else ""
        images = f"{sum(counts):,} training images, {_range(set(counts))} a class"
        told.append(f"{data_of(arm.setting)}{copy}: {images}")
    return "; ".join(dict.fromkeys(told))


def _is_jpeg_copy(arm: Arm) -> bool:
    copies = published().jpeg_copies.get(data_of(arm.setting).split()[0])
    scores = next(iter(arm.runs.values())).scores
    if copies is None or scores is None:
        return False
    return scores.images is None or scores.images.test in copies


def _epochs(arms: Sequence[Arm]) -> str:
    """Return which epoch is scored."""
    told = []
    for arm in sorted(arms, key=lambda arm: int(arm.setting["epochs"])):
        planned = int(arm.setting["epochs"])
        epochs = {run.scores.epoch or planned for run in arm.runs.values() if run.scores}
        told.append(f"{planned}" if epochs == {planned} else f"{_range(epochs)} (of {planned})")
    return f"The last of {' or '.join(dict.fromkeys(told))} epochs"


def _published(arms: Sequence[Arm], known: Published) -> list[str]:
    """Return the lines of a table of published figures beside ours, and how and why they differ."""
    kinds = dict.fromkeys(map(_kind_of, arms))
    figures = [figure for kind in kinds for figure in known.of(*kind)]
    pairs = [
        (figure, arm)
        for figure in figures
        for arm in arms
        if len(arm.runs) >= _FEWEST
        and (figure.data, figure.model) == _kind_of(arm)
        and is_loss_of(figure, arm.setting)
    ]
    lines = []
    if pairs:
        lines += [
            *("", "**Published figures of the same data, net and loss**", ""),
            "| loss | ours | published | ours less it | published by |",
            "| --- | ---: | ---: | ---: | --- |",
            *(_row(figure, arm, arms) for figure, arm in pairs),
            *_differences(pairs, known),
            *_reasons(pairs, known),
        ]
    paired = [figure for figure, _ in pairs]
    if others := [one for one in figures if one not in paired]:
        told = [f"{one.name} {_figure(one)} ({one.source})" for one in others]
        lines += ["", f"Published too, with no row here: {'; '.join(told)}."]
    return lines


def _kind_of(arm: Arm) -> tuple[str, str]:
    return data_of(arm.setting), str(arm.setting["model"])


def _row(figure: Figure, arm: Arm, arms: Sequence[Arm]) -> str:
    choices = [key for key in Config.model_fields if key not in ("loss", *FREE_KEYS)]
    differing = [key for key in choices if len({str(one.setting[key]) for one in arms}) > 1]
    own = " ".join([arm.setting["loss"], *(f"{key}={arm.setting[key]}" for key in differing)])
    less = f"{statistics.fmean(arm.accuracies) - figure.accuracy:+.1f}"
    cells = [cell.replace("_", r"\_") for cell in (own, figure.source)]
    return f"| {cells[0]} | {arm.mean} | {_figure(figure)} | {less} | {cells[1]} |"


def _differences(pairs: Sequence[tuple[Figure, Arm]], known: Published) -> list[str]:
    """Return how the recipes of figures differ from ours: a line for each difference."""
    found: dict[str, dict[str, dict[str, None]]] = {}
    for figure, arm in pairs:
        recipe, choices = known.recipes[figure.recipe], known.choices(figure)
        told = differences(choices, arm.setting)
        told += ["the original images (ours: a JPEG copy)"] if _is_jpeg_copy(arm) else []
        epoch = (
            f"{recipe.scored} is scored" if recipe.scored else "which epoch is scored isn't told"
        )
        told += [f"{epoch} (ours: the last)", *filter(None, [recipe.besides])]
        sources = found.setdefault("; ".join(told), {})
        sources.setdefault(figure.source, {})[_figure(figure)] = None
    lines = []
    for text, sources in found.items():
        named = [f"{', '.join(figures)} ({source})" for source, figures in sources.items()]
        lines.append(f"* {'; '.join(named)}: {text}")
    return ["", "What their recipes have otherwise, as far as they tell:", *lines]


def _figure(figure: Figure) -> str:
    return f"{figure.accuracy:g}" + (f"±{figure.sd:g}" if figure.sd else "")


def _reasons(pairs: Sequence[tuple[Figure, Arm]], known: Published) -> list[str]:
    """Return why ours are more than two points away, or that it was not found."""
    far: dict[str, list[str]] = {}
    for figure, arm in pairs:
        if abs(statistics.fmean(arm.accuracies) - figure.accuracy) > TOLD_FROM:
            reason = known.reason(figure)
            told = [_mean_of(one, _kind_of(arm)) for one in reason.runs] if reason else []
            text = reason.text.format(*told) if reason else "the reason was not found."
            far.setdefault(text, []).append(_figure(figure))
    return [
        line
        for text, figures in far.items()
        for line in ("", f"More than 2 points from {', '.join(dict.fromkeys(figures))}: {text}")
    ]


@cache
def _mean_of(kept: Kept, kind: tuple[str, str]) -> str:
    """Return mean and sd of the accuracy of some kept runs on a data set, with a net."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(_KEPT / f"{kept.archive}.tar.xz") as packed:
            packed.extractall(folder, filter="data")
        arms = arms_in([Path(folder) / kept.folder])
    wanted = {"loss": kept.loss} | ({"neck": kept.neck} if kept.neck else {})
    alike = [arm for arm in arms if _kind_of(arm) == kind]
    found = [arm for arm in alike if wanted.items() <= arm.setting.items()]
    assert len(found) == 1, f"{kept} are {len(found)} arms"
    if kept.score == "accuracy":
        return found[0].mean
    best = [run.scores.best_on_validation for run in found[0].runs.values() if run.scores]
    return _mean_and_sd([100 * one.accuracy for one in best if one])


def _mean_and_sd(values: Sequence[float]) -> str:
    sd = f"±{statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{sd}"


def _range(numbers: set[int]) -> str:
    return " to ".join(f"{one:,}" for one in sorted({min(numbers), max(numbers)}))


def _seeds(seeds: Sequence[int]) -> str:
    first, last = seeds[0], seeds[-1]
    if len(seeds) > 2 and list(seeds) == list(range(first, last + 1)):
        return f"seeds {first} to {last}"
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {', '.join(map(str, seeds))}"
