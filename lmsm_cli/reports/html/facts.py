"""What the report page says beside scores: what is compared, configs, environments."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from lmsm_cli.comparison.records import Comparison, Group
from lmsm_cli.reports.tables import NOTHING
from lmsm_cli.runs.record import RunRecord

_COMMIT_LENGTH = 12


@dataclass(frozen=True)
class SharedEnvironment:
    """What some runs ran on, and the command of each."""

    facts: tuple[tuple[str, str], ...]
    commands: tuple[tuple[str, str], ...]  # (run, command line)


def summary(comparison: Comparison, records: Sequence[RunRecord]) -> dict[str, str]:
    """Return the facts of the page's head: name -> text."""
    baselines = [group.label for group in comparison.groups if group.is_baseline]
    facts = {
        "Data set": _listed(map(_dataset, _with("dataset", records))),
        "Test images": _most_tested(records),
        "Model": _listed(str(config["model"]) for config in _with("model", records)),
        **_runs(comparison, records),
        "Baseline": _listed(baselines) if len(comparison.groups) > 1 else "",
    }
    return {name: text for name, text in facts.items() if text}


def _runs(comparison: Comparison, records: Sequence[RunRecord]) -> dict[str, str]:
    """Return how many runs are compared, or where the only one stands."""
    if len(records) == 1:
        config = records[0].config or {}
        facts = {"Loss": str(config.get("loss", "")), "State": records[0].state}
        return facts | {
            "Seed": str(config.get("seed", "")),
            "Epochs": str(config.get("epochs", "")),
        }
    scored, left_out = sum(len(one.runs) for one in comparison.groups), len(comparison.unscored)
    groups = f" in {len(comparison.groups)} groups" if len(comparison.groups) > 1 else ""
    return {"Runs": f"{scored} scored{groups}" + (f", {left_out} left out" if left_out else "")}


def _with(key: str, records: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Return the configs that have a key: of another program's run little is known."""
    return [record.config for record in records if record.config and key in record.config]


def _dataset(config: Mapping[str, Any]) -> str:
    name = str(config.get("dataset"))
    imbalance = config.get("imbalance", "none")
    return name if imbalance == "none" else f"{name} ({imbalance}, factor {config.get('factor')})"


def _most_tested(records: Sequence[RunRecord]) -> str:
    """Return how many test images of each class the scores are of, where some were left out."""
    most = [record.scores.test_images_per_class for record in records if record.scores]
    texts = (f"at most {one:,} of each class" if one else "all there are" for one in most)
    return _listed(texts) if any(most) else ""


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def differing_choices(groups: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return each key in which the groups differ, with the value of each group."""
    keys = dict.fromkeys(key for group in groups for key in group.differs)
    return [(key, [value_text(group.differs.get(key)) for group in groups]) for key in keys]


def whole_config(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Return every choice of a group's runs; where they differ, as in the seed, all values."""
    configs = [run.config or {} for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [(key, _listed(value_text(config.get(key)) for config in configs)) for key in keys]


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
