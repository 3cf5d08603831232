"""What a sweep varies: the texts of --grid, --arm and --seeds, and the choices they make together.

Pure string logic and counting: Config knows which keys exist, and checks the values.
"""

import itertools
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from lmsm_cli.config import LIST_KEYS, RUNTIME_KEYS, Config, flag_name, type_of
from lmsm_cli.config.value_types import Dataset
from lmsm_cli.errors import LmsmError, did_you_mean

# More is a slip of the keyboard, and would take minutes only to be checked.
MOST_RUNS = 10_000


class TooManyRunsError(LmsmError):
    """A sweep of more runs than MOST_RUNS."""


@dataclass(frozen=True)
class Choices:
    """Options of which a run takes one: values of one key, or of several that belong together."""

    name: str
    """A config key, or `arm`."""
    options: tuple[Mapping[str, str], ...]

    def ends(self) -> tuple[Mapping[str, str], ...]:
        """Return the choices to check before anything starts: every option."""
        return self.options


@dataclass(frozen=True)
class Range:
    """Numbers of a key from `low` to `high`, both included; `log` spreads them over magnitudes."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool
    """Whether the key takes whole numbers only."""

    def ends(self) -> tuple[Mapping[str, str], ...]:
        """Return the choices to check before anything starts: both ends."""
        return tuple({self.name: self.text(end)} for end in (self.low, self.high))

    def text(self, value: float) -> str:
        """Return a number of the range in four digits, as a config takes it."""
        if self.whole:
            return str(int(value))
        return f"{min(max(float(f'{value:.4g}'), self.low), self.high):.12g}"


Axis = Choices | Range


def parse_axes(grids: Sequence[str], arms: Sequence[str]) -> list[Axis]:
    """Return what --grid and --arm vary, the arms first.

    Raises LmsmError that lists every mistake: unknown keys with the nearest right one, a key that
    stands twice, texts that are not key=value.
    """
    axes: list[Axis] = []
    options: list[Mapping[str, str]] = []
    problems: list[str] = []
    for text in arms:
        try:
            options.append(_parse_arm(text))
        except LmsmError as error:
            problems.append(f"--arm {text!r}: {error}")
    if options:
        axes.append(Choices("arm", tuple(options)))
    for text in grids:
        try:
            axes.append(_parse_grid(text))
        except LmsmError as error:
            problems.append(f"--grid {text!r}: {error}")
    keys = [key for axis in axes for key in {key for option in axis.ends() for key in option}]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    problems += [f"{key} is varied twice: name it in one --grid, or in the arms" for key in twice]
    if problems:
        raise LmsmError("\n".join(problems))
    return axes


def check_flags(axes: Sequence[Axis], given: Mapping[str, object]) -> None:
    """Raise LmsmError for a flag whose key is varied too: its value would be silently replaced."""
    varied = {key: key for axis in axes for option in axis.ends() for key in option}
    if "loss" in varied:
        varied["margin"] = "loss"  # which the margin is a part of
    paths = [
        option["dataset"]
        for axis in axes
        for option in axis.ends()
        if "dataset" in option and option["dataset"] not in get_args(Dataset)
    ]
    if paths:  # each has a folder of its own
        varied["data_dir"] = "dataset"
    problems = [
        f"{flag_name(key)} {given[key]} is given, and {axis} is varied: leave one of them out"
        for key, axis in sorted(varied.items())
        if given.get(key) is not None
    ]
    if problems:
        raise LmsmError("\n".join(problems))


def always_varied(axes: Sequence[Axis]) -> set[str]:
    """Return the keys that every combination has a value for.

    >>> sorted(always_varied(parse_axes(["lr=0.1,0.2"], ["loss=ldam", "loss=focal sam=0.1"])))
    ['loss', 'lr']
    """
    return {key for axis in axes for key in set.intersection(*map(set, axis.ends()))}


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of `5`, which are 0 to 4, or of a list such as `0,1,7`.

    >>> parse_seeds("3"), parse_seeds("0,1,7")
    ((0, 1, 2), (0, 1, 7))

    Raises LmsmError for what is neither, and for a seed that stands twice.
    """
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(piece.isascii() and piece.isdecimal() for piece in pieces):
        raise LmsmError(f"seeds is {text!r}: give how many, as in 5, or a list, as in 0,1,7")
    seeds = tuple(map(int, pieces))
    if len(seeds) == 1:
        if not 1 <= seeds[0] <= MOST_RUNS:
            raise LmsmError(
                f"seeds is {text!r}: one number is how many, 1 to {MOST_RUNS}; "
                "for one given seed take --seed"
            )
        return tuple(range(seeds[0]))
    if len(set(seeds)) < len(seeds):
        raise LmsmError(f"seeds is {text!r}: a seed stands twice, and would repeat a run")
    return seeds


def seeds_text(seeds: Sequence[int]) -> str:
    """Return what `parse_seeds` reads as these seeds.

    >>> seeds_text((0,)), seeds_text((0, 1, 7))
    ('1', '0,1,7')
    """
    is_first = tuple(seeds) == tuple(range(len(seeds)))
    return str(len(seeds)) if is_first else ",".join(map(str, seeds))


def product(axes: Sequence[Axis], num_seeds: int = 1) -> list[dict[str, str]]:
    """Return the choices of every combination, the first axis slowest.

    Raises LmsmError for a range, which has no end of values, and for too many combinations.
    """
    for axis in axes:
        if isinstance(axis, Range):
            raise LmsmError(
                f"{axis.name} is given as a range, {axis.low:g}..{axis.high:g}: "
                "search it with --trials N, or list its values"
            )
    options = [axis.options for axis in axes if isinstance(axis, Choices)]
    size = num_combinations(axes) * num_seeds
    if size > MOST_RUNS:
        raise TooManyRunsError(f"that makes {size:,} runs; a sweep has at most {MOST_RUNS:,}")
    return [_merged(combination) for combination in itertools.product(*options)]


def num_combinations(axes: Sequence[Axis]) -> int:
    """Return the number of combinations, a range counted as its two ends."""
    return math.prod(len(axis.ends()) for axis in axes)


def samples(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Yield choices in which each option and each end of a range stands at least once."""
    first = [axis.ends()[0] for axis in axes]
    yield _merged(first)
    for place, axis in enumerate(axes):
        for option in axis.ends()[1:]:
            yield _merged([*first[:place], option, *first[place + 1 :]])


def label(choices: Mapping[str, str]) -> str:
    """Return choices in a line, as in `loss=softmax lr=0.1`."""
    return " ".join(f"{key}={value}" for key, value in choices.items())


def _merged(options: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for option in options for key, value in option.items()}


def _parse_arm(text: str) -> dict[str, str]:
    arm: dict[str, str] = {}
    try:
        pieces = shlex.split(text)
    except ValueError as error:
        raise LmsmError(str(error)) from None
    for piece in pieces:
        key, value = _key_and_value(piece)
        if key in arm:
            raise LmsmError(f"{key} is given twice")
        arm[key] = value
    if not arm:
        raise LmsmError("write key=value, several with spaces between")
    return arm


def _parse_grid(text: str) -> Axis:
    """Return what `lr=0.1,0.01`, `milestones=160,180;120,160` or `lr=0.0001..0.1:log` varies."""
    key, values = _key_and_value(text)
    if ".." in values and "/" not in values:  # not a path
        return _parse_range(key, values)
    pieces = [piece.strip() for piece in _split(key, values)]
    if not all(pieces):
        raise LmsmError("a value is missing between two separators, or at an end")
    if twice := sorted({piece for piece in pieces if pieces.count(piece) > 1}):
        raise LmsmError(f"{', '.join(twice)} stands twice, and would repeat a run")
    return Choices(key, tuple({key: piece} for piece in pieces))


def _split(key: str, values: str) -> list[str]:
    """Return the values between semicolons, else between commas; a loss keeps its own commas.

    Numbers by class are one value without a semicolon.

    >>> _split("loss", "softmax,lsoftmax:margin=4,lambda_min=5")
    ['softmax', 'lsoftmax:margin=4,lambda_min=5']
    """
    if ";" in values:
        return values.split(";")
    if key in ("class_margins", "class_weights"):
        return [values]
    pieces: list[str] = []
    for piece in values.split(","):
        goes_on = "=" in piece.partition(":")[0]
        if not goes_on:
            pieces.append(piece)
        elif key == "loss" and pieces and ":" in pieces[-1]:
            pieces[-1] += f",{piece}"
        else:
            raise LmsmError(f"{piece!r} is no value of {key}: give each key a --grid of its own")
    return pieces


def _parse_range(key: str, text: str) -> Range:
    """Return the range of `0.0001..0.1:log`. Raises LmsmError where the key takes no numbers."""
    kind = float if key == "margin" else type_of(key)
    if kind not in (int, float):
        raise LmsmError(f"{key} takes no range: list its values")
    ends, _, how = text.partition(":")
    low, _, high = ends.partition("..")
    try:
        numbers = kind(low), kind(high)
    except ValueError:
        numbers_wanted = "whole numbers" if kind is int else "numbers"
        raise LmsmError(f"{ends!r} is not LOW..HIGH of {numbers_wanted}") from None
    if how not in ("", "log"):
        raise LmsmError(f"{how!r} after the range is not known: write LOW..HIGH or LOW..HIGH:log")
    if not (-math.inf < numbers[0] < numbers[1] < math.inf):
        raise LmsmError(f"the range {ends} does not rise")
    if how and numbers[0] <= 0:
        raise LmsmError(f"a range over magnitudes (:log) begins above 0, not at {low}")
    return Range(key, *numbers, log=bool(how), whole=kind is int)


def _key_and_value(text: str) -> tuple[str, str]:
    """Return a known key and its text; hyphens in the key may stand for underscores."""
    key, equals, value = (part.strip() for part in text.partition("="))
    key = key.removeprefix("--").replace("-", "_")
    if not equals or not key or not value:
        raise LmsmError(f"{text!r} is not key=value")
    if key == "seed":
        raise LmsmError("the seed is varied by --seeds, so that its runs are averaged")
    if key == "data_dir":
        raise LmsmError(
            "data_dir only says where the images are: to sweep over several data sets vary dataset "
            "by path, as in dataset=a/,b/; else give it once, as --data-dir"
        )
    fixed = [name for name in RUNTIME_KEYS if name not in LIST_KEYS]
    if key in fixed:
        raise LmsmError(
            f"{key} does not change what is computed, so there is nothing to compare; "
            f"give it once, as {flag_name(key)}"
        )
    known = [name for name in Config.model_fields if name not in (*fixed, "seed")]
    if key not in (*known, "margin"):
        raise LmsmError(f"unknown key {key!r}{did_you_mean(key, [*known, 'margin'])}")
    return key, value
