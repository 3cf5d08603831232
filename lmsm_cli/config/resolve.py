"""Where a config's values come from: built-in default < preset < `--config FILE` < flag.

To add a preset, put a file into presets/: its first comments are its command and what it gave.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from lmsm_cli.config.by_class import AUTO
from lmsm_cli.config.config import Config, derived_defaults, flag_name
from lmsm_cli.config.data_path import choices_at, near_path
from lmsm_cli.config.defaults import Defaults, Facts, defaults_by_data
from lmsm_cli.config.keys import DATA_KEYS, DEPENDENT_OPTIONS, LIST_KEYS, NONE, NONE_KEYS
from lmsm_cli.config.value_types import Dataset
from lmsm_cli.config.yaml import read_mapping
from lmsm_cli.errors import LmsmError, did_you_mean
from lmsm_cli.losses.spec import parse_spec, with_option


@dataclass(frozen=True)
class Layer:
    """Values from one place, each with the place's name for messages and `--show-config`."""

    values: Mapping[str, Any]
    origins: Mapping[str, str]
    is_recipe: bool = False
    """Whether what it leaves out has the built-in default, not one by the data."""

    @classmethod
    def of_file(cls, path: Path, name: str | None = None) -> "Layer":
        """Read a YAML file; `name` stands for the path in origins."""
        entries = read_mapping(path)
        return cls(
            {key: entry.value for key, entry in entries.items()},
            {key: f"{name or path}:{entry.line}" for key, entry in entries.items()},
            is_recipe=True,
        )

    @classmethod
    def of_preset(cls, name: str) -> "Layer":
        """Read a shipped preset."""
        return cls.of_file(preset_path(name), f"preset {name}")

    @classmethod
    def of_flags(cls, flags: Mapping[str, Any]) -> "Layer":
        """Take the flags that were given; None means not given, `none` no value."""
        given = {key: value for key, value in flags.items() if value is not None}
        return cls(as_typed(given), {key: flag_name(key) for key in given})


def as_typed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values that were typed, with None for the `none` of a key that may have no value."""
    return {
        key: None if key in NONE_KEYS and value == NONE else value for key, value in values.items()
    }


@dataclass(frozen=True)
class Resolved:
    """A checked config and where each of its values came from."""

    config: Config
    origins: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """What a user should know of the defaults by the data."""


def resolve(
    layers: Sequence[Layer],
    check_loss: Callable[[str], object] | None = None,
    *,
    is_saved: bool = False,
    facts_of: Callable[[Config], Facts | None] | None = None,
) -> Resolved:
    """Return the config that the layers give, lowest first.

    Args:
        layers: `margin` is a key of layers only: short for the `margin=` of the loss spec in force
            there. So is the value `auto` of `class_weights`, short for `reweight: inverse`.
        check_loss: raises LmsmError for a bad loss spec.
        is_saved: for the config of an existing run.
        facts_of: returns what is known of a config's images, from which follow the defaults of what
            no layer says; no recipe, a preset or file, is completed so.

    Raises LmsmError that lists every mistake.
    """
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    problems: list[str] = []
    for given in layers:
        try:
            layer, dropped = _with_path(_with_reweight(given, problems), origins)
        except LmsmError as error:
            problems.append(str(error))
            continue
        for key in dropped + _options_to_drop(layer, values):
            values.pop(key, None)
            origins.pop(key, None)
        values |= layer.values
        origins |= layer.origins
        if "margin" in values:
            try:
                values["loss"] = _with_margin(layer, values)
            except LmsmError as error:
                problems.append(f"{origins['margin']}: {error}")
            del values["margin"]
            origins["loss"] = origins.pop("margin")
    is_whole = any(layer.is_recipe for layer in layers)
    by_data = Defaults() if facts_of is None or is_whole else _by_data(values, facts_of)
    try:
        config = Config.model_validate(
            {**by_data.values, **values}, context={"check_loss": check_loss, "is_saved": is_saved}
        )
    except ValidationError as error:
        problems += [_explain(problem, origins) for problem in error.errors()]
    if problems:
        raise LmsmError("\n".join(problems))
    reasons = {key: reason for key, (_, reason) in derived_defaults(values).items()}
    known = {**reasons, **by_data.reasons, **origins}
    named = {key: known.get(key, "default") for key in Config.model_fields}
    return Resolved(config, named, by_data.notes)


def _by_data(values: Mapping[str, Any], facts_of: Callable[[Config], Facts | None]) -> Defaults:
    """Return the defaults by the data; none where the choice of the data is wrong by itself."""
    keys = {*DATA_KEYS, "model", "pretrained", "freeze", "post_hoc"} & values.keys()
    try:
        facts = facts_of(Config.model_validate({key: values[key] for key in keys}))
    except ValidationError:
        return Defaults()
    return defaults_by_data(facts, values) if facts else Defaults()


def _with_margin(layer: Layer, values: Mapping[str, Any]) -> str:
    """Return the loss spec in force with its margin set. Raises LmsmError where it cannot be, and
    where the layer names a loss with another margin."""
    spec, margin = str(values.get("loss", "softmax")), values["margin"]
    if isinstance(margin, bool) or not isinstance(margin, str | int | float):
        raise LmsmError(f"margin is {_as_written(margin)}: give a number, as in 4, or tail or auto")
    other = parse_spec(spec)[1].get("margin", margin) if "loss" in layer.values else margin
    if str(other) != str(margin):
        raise LmsmError(f"margin is {margin}, and loss {spec!r} has {other}: leave one of them out")
    return with_option(spec, "margin", margin)


def _with_reweight(layer: Layer, problems: list[str]) -> Layer:
    """Return a layer with `class_weights: auto` written as `reweight: inverse`.

    Where the layer has a `reweight` too, a problem is added.
    """
    if layer.values.get("class_weights") != AUTO:
        return layer
    values, origins = dict(layer.values), dict(layer.origins)
    del values["class_weights"]
    place = origins.pop("class_weights", "class_weights")
    if "reweight" in values:
        problems.append(
            f"{place}: class_weights auto is short for reweight inverse, and reweight "
            f"{values['reweight']} is given too: leave one of them out"
        )
    values, origins = {"reweight": "inverse"} | values, {"reweight": place} | origins
    return replace(layer, values=values, origins=origins)


def _with_path(layer: Layer, origins: Mapping[str, str]) -> tuple[Layer, list[str]]:
    """Return the layer with the choices that a path as its data set stands for.

    And the keys of lower layers to drop: with another data set, the folder and the lists that
    belong to the one before it. Raises LmsmError where the layer names two folders.
    """
    if "dataset" not in layer.values:
        return layer, []
    given, place = layer.values["dataset"], layer.origins["dataset"]
    at_path = choices_at(given, get_args(Dataset))
    if at_path is None:
        # the folder came with a path: a key has an origin of its own where it was given
        came_along = "data_dir" in origins and origins["data_dir"] == origins.get("dataset")
        is_other = came_along and "data_dir" not in layer.values
        return layer, ["data_dir"] if is_other else []
    for key, value in at_path.items():
        other = layer.values.get(key, value)
        if key != "dataset" and Path(str(other)) != Path(value):
            raise LmsmError(
                f"{place}: dataset is the path {given!r}, and {layer.origins[key]} names another, "
                f"{str(other)!r}; leave one out"
            )
    lower = [key for key in ("data_dir", *LIST_KEYS) if key not in layer.values]
    values = {**layer.values, **at_path}
    origins = {**dict.fromkeys(at_path, place), **layer.origins}
    return replace(layer, values=values, origins=origins), lower


def _options_to_drop(layer: Layer, lower: Mapping[str, Any]) -> list[str]:
    """Return the options of lower layers to drop: this layer replaces the choice they depend on.

    An option is dropped if the new choice does not use it, and also if the old choice did not and
    it stands at its default: config.yaml lists every key, so nobody chose that value.
    """
    return [
        key
        for key, (choice, useful) in DEPENDENT_OPTIONS.items()
        if choice in layer.values
        and key not in layer.values
        and (
            layer.values[choice] not in useful
            or (
                lower.get(choice, useful[0]) not in useful
                and lower.get(key) == Config.model_fields[key].default
            )
        )
    ]


# What a key takes, by pydantic's name of the mistake.
_TAKES = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "give a whole number, as in 3"),
    **dict.fromkeys(("float_type", "float_parsing"), "give a number, as in 0.1"),
    "string_type": "give a text, in quotes where it looks like a number",
    "tuple_type": "give whole numbers, as in 160,180",
    "dict_type": "give a number for each class, as in cat=2,dog=0.5",
}


def _explain(problem: Any, origins: Mapping[str, str]) -> str:
    """Return one pydantic problem as `place: what is wrong (nearest right thing)`."""
    key = str(problem["loc"][0]) if problem["loc"] else ""
    place = origins.get(key, key)
    if problem["type"] == "extra_forbidden":
        return f"{place}: unknown key {key!r}{did_you_mean(key, [*Config.model_fields, 'margin'])}"
    given = _as_written(problem["input"])
    if problem["type"] == "literal_error":
        choices = get_args(Config.model_fields[key].annotation)
        hint = did_you_mean(str(problem["input"]), choices)
        if key == "dataset":
            hint += f", and no such path exists{near_path(str(problem['input']))}"
        return f"{place}: {key} has no value {given}{hint}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    message = _TAKES.get(problem["type"], message)
    if not key:
        place = _place_of(message, origins)
        return f"{place}: {message}" if place else message
    if message.startswith(f"{key} {given}"):  # as that of a loss
        return f"{place}: {message}"
    if len(problem["loc"]) > 1 and isinstance(problem["loc"][1], str):
        key = f"{key} of {problem['loc'][1]!r}"
    return f"{place}: {key} is {given}: {message}"


def _as_written(value: Any) -> str:
    """Return a value as a config file has it; a text in quotes."""
    if isinstance(value, str | Path):
        return repr(str(value))
    return json.dumps(value, ensure_ascii=False, default=str)


def _place_of(message: str, origins: Mapping[str, str]) -> str:
    """Return where the first key that a message names was given; "" where none was."""
    return next((origins[word] for word in re.findall(r"\w+", message) if word in origins), "")


def preset_folder() -> Path:
    """Return the folder of the shipped presets: inside an installed wheel, else in the checkout."""
    package = Path(__file__).parent.parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "presets"


def preset_names() -> list[str]:
    """Return the names of the shipped presets."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Return the file of a preset. Raises LmsmError with the nearest name where there is none."""
    if name not in preset_names():
        raise LmsmError(f"no preset {name!r}{did_you_mean(name, preset_names())}")
    return preset_folder() / f"{name}.yaml"
