"""The JSON Schema of a config file, so that an editor completes and checks it while it is typed.

It looks at each key alone: a file may be one layer of several (`lmsm train --preset NAME --config
FILE`), so whether keys fit together is known only to `lmsm train --show-config`.
"""

import re
from collections.abc import Iterable
from typing import Any

from lmsm_cli.config.by_class import AUTO
from lmsm_cli.config.config import Config, help_text
from lmsm_cli.losses import own
from lmsm_cli.losses.registry import BY_RARITY, KNOWN

# The draft that the editors' YAML support knows best.
_DRAFT = "http://json-schema.org/draft-07/schema#"
_DEVICE = r"^(auto|cpu|cuda(:[0-9]+)?)$"
# What is surely a path: a folder's bare name could be a slip of the keyboard, so ./NAME is.
_PATH = {"type": "string", "pattern": r"[/\\]|\.(csv|tsv|txt)$"}
_MARGIN = {
    "description": "Short for margin=... in `loss`, of this file or of the preset below it.",
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1000}, {"enum": list(BY_RARITY)}],
}
# Numbers by the names of classes: a map, or the text that the flag takes.
_BY_CLASS = [
    {"type": "object", "additionalProperties": {"type": "number", "exclusiveMinimum": 0}},
    {"type": "string", "pattern": r"^ *(none|\{.*|[^,=]+=[^,=]+(,[^,=]+=[^,=]+)*) *$"},
    {"type": "null"},
]
# Of a regular expression with a group that is not one of `(?:`; an escaped parenthesis is none.
_WITH_A_GROUP = [
    {"type": "string", "format": "regex", "pattern": r"(^|[^\\])[(]([^?]|[?]P<)"},
    {"type": "null"},
]
_MILESTONES = [
    {"type": "array", "items": {"type": "integer", "minimum": 1}},
    {"type": "string", "pattern": r"^ *[1-9][0-9]*( *, *[1-9][0-9]*)* *$"},
]


def config_schema() -> dict[str, Any]:
    """Return the schema: every key with its help, default and values, the losses by their names."""
    made = Config.model_json_schema()
    properties: dict[str, Any] = {}
    for key, described in made["properties"].items():
        properties[key] = {k: v for k, v in described.items() if k != "title"}
        properties[key]["description"] = help_text(Config.model_fields[key])
        if key == "loss":
            properties["margin"] = _MARGIN
    properties["loss"] |= {
        "anyOf": [{"enum": list(KNOWN)}, {"pattern": _loss_pattern()}, {"pattern": _own_loss()}],
        "examples": ["lsoftmax:margin=4", "ldam", "vs:tau=1.2"],
    }
    properties["dataset"] = {
        "description": properties["dataset"]["description"],
        "default": properties["dataset"]["default"],
        "anyOf": [{"enum": properties["dataset"]["enum"]}, _PATH],
    }
    properties["device"]["pattern"] = _DEVICE
    properties["milestones"] = {
        "description": properties["milestones"]["description"],
        "default": properties["milestones"]["default"],
        "anyOf": _MILESTONES,
    }
    properties["group_pattern"]["anyOf"] = _WITH_A_GROUP
    for key in ("class_weights", "class_margins"):
        properties[key]["anyOf"] = _BY_CLASS
    properties["class_weights"]["anyOf"] = [{"const": AUTO}, *_BY_CLASS]
    return {
        "$schema": _DRAFT,
        "title": "lmsm config",
        "description": "Choices of a training, as `lmsm train --config FILE` takes them.",
        "type": "object",
        "additionalProperties": False,
        "properties": properties,
    }


def _loss_pattern() -> str:
    return "^ *(" + "|".join(_one_loss(name, loss.options) for name, loss in KNOWN.items()) + ") *$"


def _own_loss() -> str:
    """Return the pattern of `module:Class` and of losses of installed packages, with options."""
    offered = [re.escape(name) for name in own.offers(own.LOSSES_GROUP) if name not in KNOWN]
    place = rf"(?!({'|'.join(KNOWN)}):)[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_]*"
    return rf"^ *({'|'.join([*offered, place])})(:[^,=]+=[^,=]+(,[^,=]+=[^,=]+)*)? *$"


def _one_loss(name: str, options: Iterable[str]) -> str:
    if not options:
        return re.escape(name)
    option = rf" *({'|'.join(options)}) *= *[^,\s][^,]*"
    return rf"{re.escape(name)}( *:{option}(,{option})*)?"
