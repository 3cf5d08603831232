"""Numbers by the names of classes: `cat=2,dog=1` on a command line, a map in a config file."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator

AUTO = "auto"


def parse_by_class(text: str) -> dict[str, Any]:
    """Return the numbers, as they are written, by class.

    >>> parse_by_class("cat=2,dog=1")
    {'cat': '2', 'dog': '1'}

    A text that begins with `{` is JSON, for names that hold a comma or `=`. Raises ValueError for
    a text that is neither, and for a class that stands twice.
    """
    if text.lstrip().startswith("{"):
        return _parse_json(text)
    pairs = []
    for piece in text.split(","):
        name, equals, number = (part.strip() for part in piece.partition("="))
        if not (name and equals and number) or "=" in number:
            raise ValueError(
                f"{piece.strip()!r} is not CLASS=NUMBER: write cat=2,dog=1, or, for names with a "
                'comma or =, JSON such as {"a,b": 2}'
            )
        pairs.append((name, number))
    return _once_each(pairs)


def _parse_json(text: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(text, object_pairs_hook=_once_each)
    except json.JSONDecodeError as error:
        raise ValueError(f"this is no JSON: {error}") from None
    return found


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{', '.join(twice)} is given twice")
    return dict(pairs)


def format_by_class(numbers: Mapping[str, float]) -> str:
    """Return numbers by class as a text: the inverse of `parse_by_class`, JSON where it must be."""
    text = "".join(numbers)
    is_plain = not any(mark in text for mark in ",={") and all(n == n.strip() for n in numbers)
    if not is_plain:
        return json.dumps(dict(numbers), ensure_ascii=False)
    return ",".join(f"{name}={number:.12g}" for name, number in numbers.items())


def _parsed(value: Any) -> Any:
    """Return a value of a config; `none` and an empty map leave every class as it is."""
    if isinstance(value, str):
        value = None if value.strip() == "none" else parse_by_class(value)
    return None if value == {} else value


# Before the type, whose bounds are then part of the JSON Schema.
BY_CLASS = BeforeValidator(_parsed)
