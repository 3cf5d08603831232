"""A flat YAML mapping, strictly read: line numbers, no duplicate keys, no tags, `1e-4` a number.

PyYAML follows YAML 1.1, where `1e-4` is a string, `no` is false and `12:30` is 750; a config
wants the YAML 1.2 core rules, which is what `_Loader` resolves by.
"""

import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.parser import Parser
from yaml.resolver import Resolver

from lmsm_cli.errors import LmsmError
from lmsm_cli.runtime.files import open_regular

# A config is a page of text; a file beyond this is something else, given by mistake. PyYAML reads
# 100 kB in seconds.
_LARGEST_FILE = 100_000
# What PyYAML's scanner and constructors raise, beside its own errors, for text that does not fit.
_UNFITTING = (ValueError, LookupError, AttributeError, ArithmeticError)
_PLAIN = (str, int, float, type(None))


@dataclass(frozen=True)
class Entry:
    """One value of a YAML file and the line it stands on, counted from 1."""

    value: Any
    line: int


# libyaml's parser, where PyYAML was built with it, as its wheels are: several times as fast.
_Parser: Any = import_module("yaml.cyaml").CParser if yaml.__with_libyaml__ else None


class _QuickLoader(Composer, _Parser or Parser, SafeConstructor, Resolver):  # type: ignore[misc]
    """libyaml's events, composed in Python: in C, endless nesting overflows the process's stack."""

    def __init__(self, text: str) -> None:
        _Parser.__init__(self, text)
        for part in (Composer, SafeConstructor, Resolver):
            part.__init__(self)


_Base: Any = _QuickLoader if _Parser else yaml.SafeLoader


class _Loader(_Base):  # type: ignore[misc]
    """SafeLoader with YAML 1.2's core scalars instead of 1.1's."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes text which YAML 1.1 or 1.2 would take for something else."""


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.nan|\.NaN|\.NAN",
        "-+.0123456789",
    ),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first)
        )


def _represent_str(dumper: _Dumper, text: str) -> yaml.Node:
    # in double quotes odd characters are spelled out; some are line ends to YAML elsewhere
    style = None if text.isprintable() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_str)


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # SafeLoader would read 0777 as octal


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def dump_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML text that `read_mapping` reads back, and any other reader too."""
    text: str = yaml.dump(dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def read_mapping(path: Path) -> dict[str, Entry]:
    """Return the keys of a flat YAML file, each with its value and line; {} for an empty file.

    Raises LmsmError naming file, line and column for anything that is not a flat mapping of plain
    values with distinct keys.
    """
    try:
        text = _read_text(path)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return {} if node is None else _entries(loader, node, path)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise LmsmError(f"{path}{place}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError, *_UNFITTING) as error:
        raise LmsmError(f"{path}: not a YAML file: {error}") from None


def _read_text(path: Path) -> str:
    try:
        # what a shell gives, as /dev/stdin or <(...), is the user's own; elsewhere a pipe is a trap
        given = path.is_relative_to("/dev")
        with path.open("rb") if given else open_regular(path) as file:
            content = file.read(_LARGEST_FILE + 1)
        if len(content) > _LARGEST_FILE:
            raise LmsmError(f"{path}: larger than {_LARGEST_FILE:,} bytes, so not a config")
        return content.decode("utf-8-sig")
    except OSError as error:
        raise LmsmError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LmsmError(f"{path}: is not UTF-8 text, so not a YAML config") from None


def _entries(loader: _Loader, node: yaml.Node, path: Path) -> dict[str, Entry]:
    if not isinstance(node, yaml.MappingNode) or node.tag != "tag:yaml.org,2002:map":
        raise _misfit(node, path, "expected `key: value` lines")
    entries: dict[str, Entry] = {}
    for key_node, value_node in node.value:
        key = _plain(loader, key_node, path)
        if not isinstance(key, str) or not key.isprintable():
            raise _misfit(key_node, path, f"the key {key!r} is not a name")
        if key in entries:
            before = entries[key].line
            raise _misfit(key_node, path, f"{key!r} is given twice, before on line {before}")
        entries[key] = Entry(_plain(loader, value_node, path), key_node.start_mark.line + 1)
    return entries


def _plain(loader: _Loader, node: yaml.Node, path: Path) -> Any:
    if node in loader.constructed_objects:  # an alias: a long list stays one list, however often
        known: Any = loader.constructed_objects[node]
        return known
    is_list = isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq"
    if is_list and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        items = tuple(_scalar(loader, item, path) for item in node.value)
        loader.constructed_objects[node] = items
        return items
    if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
        return loader.constructed_objects.setdefault(node, _by_name(loader, node, path))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(loader, node, path)
    raise _misfit(node, path, "neither a plain value nor a flat list or map of them")


def _by_name(loader: _Loader, node: yaml.MappingNode, path: Path) -> dict[str, Hashable]:
    """Return the plain values of a map inside the mapping; its names are texts, as written: a class
    can be called 1."""
    found: dict[str, Hashable] = {}
    for key_node, value_node in node.value:
        for part in (key_node, value_node):
            if not isinstance(part, yaml.ScalarNode):
                raise _misfit(part, path, "neither a plain value nor a flat list or map of them")
        if key_node.value in found:
            raise _misfit(key_node, path, f"{key_node.value!r} is given twice")
        found[key_node.value] = _scalar(loader, value_node, path)
    return found


def _scalar(loader: _Loader, node: yaml.ScalarNode, path: Path) -> Hashable:
    try:
        value: Hashable = loader.construct_object(node)
        if isinstance(value, _PLAIN):
            return value
    except _UNFITTING:  # a tag that the text does not fit
        raise _misfit(node, path, f"{node.value[:40]!r} is no {_kind(node)}") from None
    problem = f"a {_kind(node)} is no plain value: text, a number, true, false or null"
    raise _misfit(node, path, problem)


def _kind(node: yaml.Node) -> str:
    return str(node.tag).rsplit(":")[-1]


def _misfit(node: yaml.Node, path: Path, problem: str) -> LmsmError:
    return LmsmError(f"{path}:{node.start_mark.line + 1}: {problem}")
