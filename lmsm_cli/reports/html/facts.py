"""What the report page says beside scores: what is compared, configs, environments."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lmsm_cli.comparison.data_sets import UNKNOWN
from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.comparison.samples import num_images
from lmsm_cli.config.in_words import augmentation_text
from lmsm_cli.errors import counted, few
from lmsm_cli.reports.html.tables import seeds_text
from lmsm_cli.reports.tables import NOTHING
from lmsm_cli.runs.record import RunRecord

DATASET_NAMES = {
    "balanced": "CIFAR-10",
    "imbalanced": "CIFAR-10",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "digits": "scikit-learn digits",
    "folder": "own class folders",
    "list": "own list of images",
}
_COMMIT_LENGTH = 12
# Of more values the head tells how many there are.
_MOST_VALUES = 6


@dataclass(frozen=True)
class SharedEnvironment:
    """What some runs ran on, and the command of each."""

    facts: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]  # (run, command line)


def summary(comparison: Comparison, records: Sequence[RunRecord]) -> dict[str, str]:
    """Return the facts of the page's head: name -> text."""
    baselines = [group.label for group in comparison.groups if group.is_baseline]
    configs = [record.config for record in records if record.config]
    facts = {
        "Data set": _listed(map(_dataset, _with("dataset", records))),
        "Training images": _listed(_trained_on(records)),
        "Validation images": _listed(_validated_on(records)),
        "Test images": test_images_text(records).removesuffix(" images"),
        "Model": _listed(map(_net, (r for r in records if r.config and "model" in r.config))),
        "Augmentation": _augmentation(records),
        "Epochs": _epochs(records),
        "Seeds": _seeds(configs),
        **_runs(comparison, records),
        "Baseline": _listed(baselines) if len(comparison.groups) > 1 else "",
    }
    return {name: text for name, text in facts.items() if text}


def _augmentation(records: Sequence[RunRecord]) -> str:
    """Return how training images were changed; "" where no run changed any."""
    texts = [augmentation_text(config) for config in _with("augment", records)]
    return "" if set(texts) <= {"none"} else _listed(texts)


def _runs(comparison: Comparison, records: Sequence[RunRecord]) -> dict[str, str]:
    """Return how many runs are compared, or where the only one stands."""
    if len(records) == 1:
        config = records[0].config or {}
        return {"Loss": str(config.get("loss", "")), "State": records[0].state}
    scored, left_out = sum(len(one.runs) for one in comparison.groups), len(comparison.unscored)
    groups = f" in {len(comparison.groups)} groups" if len(comparison.groups) > 1 else ""
    return {"Runs": f"{scored} scored{groups}" + (f", {left_out} left out" if left_out else "")}


def _with(key: str, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the configs that have a key: of another program's run little is known."""
    return [record.config for record in records if record.config and key in record.config]


def dataset_name(config: Mapping[str, Any]) -> str:
    """Return what people call the data set of a run: CIFAR-10 for `imbalanced`; "" for none."""
    name = str(config.get("dataset", ""))
    return DATASET_NAMES.get(name, name)


def _net(record: RunRecord) -> str:
    """Return a run's net with its size, where that is known."""
    name = str((record.config or {})["model"])
    net = record.scores.net if record.scores else None
    return f"{name} ({net.weights:,} weights, {net.features:,} features)" if net else name


def _dataset(config: Mapping[str, Any]) -> str:
    name, imbalance = dataset_name(config), config.get("imbalance", "none")
    if imbalance == "none":
        return name
    return f"{name}, long-tailed ({imbalance}, factor {config.get('factor')})"


def test_title(run: RunRecord, group: Group) -> str:
    """Return the title of what is shown of one set of test images."""
    classes = group.per_class
    images = sum(one.test_count for one in classes)
    name = dataset_name(run.config or {})  # which runs of other programs need not tell
    title = f"{name}{': ' if name else ''}{len(classes)} classes, {images:,} test images"
    digest = (group.images or {}).get("test") or UNKNOWN
    return f"{title} ({digest:.8})" if "images" in group.differs else title


def test_images_text(records: Sequence[RunRecord]) -> str:
    """Return how many test images the runs were scored on, and how many a class had at most."""
    texts = []
    for scores in filter(None, (record.scores for record in records)):
        number = counted(sum(one.test_count for one in scores.per_class), "image")
        most = scores.test_images_per_class
        texts.append(f"{number} (at most {most:,} of each class)" if most else number)
    return _listed(texts)


def _epochs(records: Sequence[RunRecord]) -> str:
    """Return the epochs of the scores, and whether some stopped early; without scores all."""
    if text := epochs_text(records):
        is_early = any(record.is_stopped_early for record in records)
        return text + (", stopped early (--patience)" if is_early else "")
    planned = {one["epochs"] for one in _with("epochs", records)}
    return _listed(str(one) for one in sorted(one for one in planned if isinstance(one, int)))


def epochs_text(records: Sequence[RunRecord]) -> str:
    """Return after how many epochs the runs were scored: `60`, or `54 of 60` where more were to be.

    Empty where no run has scores, or no config says them.
    """
    found = {one for record in records if (one := record.epochs_of_scores)}
    return _listed(
        f"{done}" if done >= planned else f"{done} of {planned}" for done, planned in sorted(found)
    )


def _seeds(configs: Sequence[Mapping[str, Any]]) -> str:
    text = seeds_text(config.get("seed") for config in configs)
    return text.removeprefix("seeds ").removeprefix("seed ") if configs else ""


def _trained_on(records: Sequence[RunRecord]) -> Iterable[str]:
    for scores in filter(None, (record.scores for record in records)):
        number = num_images(scores)["train_images"]
        yield UNKNOWN if number is None else f"{number:,}"


def _validated_on(records: Sequence[RunRecord]) -> Iterable[str]:
    """Yield how many validation images the runs had, of one run for each choice of them."""
    known: dict[str | None, RunRecord] = {}
    for record in records:
        is_known = not record.is_outside and not record.folds
        if record.scores and record.scores.images and is_known:
            known.setdefault(record.scores.images.validation, record)
    for digest, record in known.items():
        images = None if digest is None else record.images
        yield (
            f"{len(images.of('validation').labels):,}" if images else UNKNOWN if digest else "none"
        )


def _listed(texts: Iterable[str]) -> str:
    return few(list(dict.fromkeys(texts)), _MOST_VALUES)


def differing_choices(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return each key in which the groups differ, with the value of each group."""
    keys = dict.fromkeys(key for group in groups for key in group.differs)
    return [(key, [value_text(group.differs.get(key)) for group in groups]) for key in keys]


def whole_config(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Return every choice of a group's runs; where they differ, as in the seed, all values."""
    configs = [run.config or {} for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    values = {key: dict.fromkeys(value_text(one.get(key)) for one in configs) for key in keys}
    return [(key, ", ".join(found)) for key, found in values.items()]


def environments(records: Sequence[RunRecord]) -> list[SharedEnvironment]:
    """Return the distinct environments of the runs, and which commands ran there."""
    members: dict[tuple[tuple[str, str], ...], list[tuple[str, str]]] = {}
    for record in records:
        known = record.environment.to_json() if record.environment else {}
        name, *arguments = known.pop("command", None) or [""]
        known.pop("asked", None)
        facts = tuple(
            (key, _git(value) if key == "git" else value_text(value))
            for key, value in known.items()
        )
        command = shlex.join([PurePath(name).name, *arguments]) if name else ""
        members.setdefault(facts, []).append((record.name, command))
    return [SharedEnvironment(facts, tuple(commands)) for facts, commands in members.items()]


def _git(state: Mapping[str, Any] | None) -> str:
    if state is None:
        return "no checkout"
    dirty = ", with changes that are not committed" if state["dirty"] else ""
    return f"{state['commit'][:_COMMIT_LENGTH]}{dirty}"


def value_text(value: object) -> str:
    """Return a value of a config as YAML would have it."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    return str(value)
