"""The types of a config's values: what counts as a number, a switch or a path, and what not."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

Dataset = Literal[
    "balanced", "imbalanced", "cifar10", "cifar100", "mnist", "fashion-mnist", "svhn", "digits",
    "folder", "list",
]  # fmt: skip
Augment = Literal[
    "none", "flip", "crop-flip", "photo", "randaugment", "trivial", "autoaugment-cutout"
]  # fmt: skip


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):  # pydantic would take true for 1
        raise ValueError("true and false are not numbers")
    return value


def _true_or_false(value: Any) -> Any:
    """Return a switch's value; texts come from --grid and --arm. pydantic would take 1 and `yes`
    too."""
    switch = {"true": True, "false": False}.get(str(value).lower())
    if switch is None:
        raise ValueError("give true or false")
    return switch


def _split_commas(value: Any) -> Any:
    return tuple(piece.strip() for piece in value.split(",")) if isinstance(value, str) else value


def _check_device(value: str) -> str:
    kind, _, index = value.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (index and (kind != "cuda" or not index.isdecimal())):
        if kind == "mps":
            raise ValueError(f"{value!r}, Apple's GPU, is not supported; give auto or cpu")
        raise ValueError(f"{value!r} is not auto, cpu, cuda or cuda:N")
    return value


def _check_path(value: Any) -> Any:
    if not isinstance(value, str | Path):
        raise ValueError("give a path as a text, such as 'photos'")
    if value == "":  # which Path would take for the current folder
        raise ValueError("give a path; . is the current folder")
    try:
        possible = b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError("no file can have this name")
    return value


def _check_pattern(value: str) -> str:
    try:
        num_groups = re.compile(value).groups
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from None
    if not num_groups:
        raise ValueError(
            f"{value!r} has no group in parentheses to name the group of an image, "
            "as (.*)_ has: what stands before the last underscore"
        )
    return value


Folder = Annotated[Path, BeforeValidator(_check_path)]
# Behind a bound in Annotated: before it, the bound would be no part of the JSON Schema.
NOT_BOOL = BeforeValidator(_not_bool)
Int = Annotated[int, NOT_BOOL]
Milestones = Annotated[
    tuple[Annotated[int, Field(ge=1), NOT_BOOL], ...], BeforeValidator(_split_commas)
]
Bool = Annotated[bool, BeforeValidator(_true_or_false)]
Float = Annotated[float, NOT_BOOL, Field(allow_inf_nan=False)]
ByClass = dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False), NOT_BOOL]]
"""Positive numbers by the names of classes."""
Device = Annotated[str, AfterValidator(_check_device)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
"""A regular expression with a group."""
PossiblePath = Annotated[str, AfterValidator(_check_path)]
"""A text that may be a path."""
