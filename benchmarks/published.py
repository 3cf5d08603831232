"""Published figures: what published.yaml holds, checked, and which of them are of some runs' kind.

To add one, see that file.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from recipe_words import in_words

from lmsm_cli.config import Config
from lmsm_cli.errors import LmsmError, did_you_mean
from lmsm_cli.losses.registry import check_loss, parts_of

FILE = Path(__file__).parent / "published.yaml"
Text = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(gt=1, lt=100)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Recipe(_Entry):
    """How published runs were trained, as far as it is told."""

    choices: dict[str, Any]
    besides: str = ""
    """What no choice of lmsm's says."""
    scored: str = ""
    """Which epoch; where it is not told, nothing."""


class Figure(_Entry):
    """One published test accuracy, in percent."""

    data: Text
    """As `data_of` names it."""
    model: Text
    loss: list[Text]
    """The specs that are this loss here, the usual one first."""
    choices: dict[str, Any] = Field({}, alias="with")
    """What else the loss has, over the choices of the recipe."""
    accuracy: Percent
    sd: Annotated[float, Field(gt=0)] | None = None
    recipe: Text
    source: Text

    @property
    def name(self) -> str:
        """The loss with its deferred re-weighting, for tables."""
        weights = self.choices.get("reweight", "none")
        return self.loss[0] + ("" if weights == "none" else " with DRW")


class Kept(_Entry):
    """Kept runs of one loss, of which a reason gives the mean."""

    archive: Text
    folder: Text
    loss: Text
    neck: str | None = None
    score: Literal["accuracy", "best_on_validation"] = "accuracy"


class Reason(_Entry):
    """Why ours differs from figures of some recipes."""

    data: Text
    model: Text
    recipes: list[Text]
    text: Text
    runs: list[Kept] = []


class Published(_Entry):
    """The whole file."""

    recipes: dict[str, Recipe]
    figures: list[Figure]
    reasons: list[Reason] = []
    jpeg_copies: dict[str, list[str]] = {}

    def of(self, data: str, model: str) -> list[Figure]:
        """Return the figures of a data set and net."""
        return [one for one in self.figures if (one.data, one.model) == (data, model)]

    def choices(self, figure: Figure) -> dict[str, Any]:
        """Return what is told of how a figure's net was trained."""
        return self.recipes[figure.recipe].choices | figure.choices

    def reason(self, figure: Figure) -> Reason | None:
        """Return why ours differs from a figure, where it is known."""
        kind = figure.data, figure.model
        alike = (one for one in self.reasons if (one.data, one.model) == kind)
        return next((one for one in alike if figure.recipe in one.recipes), None)


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where."""

    place: str
    text: str

    def __str__(self) -> str:
        return f"{self.place}: {self.text}"


@cache
def published(file: Path = FILE) -> Published:
    """Return what the file holds.

    Raises LmsmError that lists every mistake, with its place.
    """
    try:
        found = Published.model_validate(yaml.safe_load(file.read_text()))
    except ValidationError as error:
        problems = [
            Problem(".".join(map(str, one["loc"])), one["msg"].lower()) for one in error.errors()
        ]
    else:
        problems = list(_problems(found))
    if problems:
        raise LmsmError("\n".join(f"{file.name}: {problem}" for problem in problems))
    return found


def _problems(found: Published) -> Iterable[Problem]:
    seen: set[tuple[object, ...]] = set()
    for number, one in enumerate(found.figures):
        place = f"figures.{number}"
        if one.recipe not in found.recipes:
            hint = did_you_mean(one.recipe, found.recipes)
            yield Problem(place, f"there is no recipe {one.recipe!r}{hint}")
            continue
        yield from _config_problems(place, one, found.choices(one))
        key = (one.data, one.model, one.name, one.recipe, one.source)
        if key in seen:
            yield Problem(place, f"{one.name} of {one.source} stands there twice")
        seen.add(key)
    used = {one.recipe for one in found.figures}
    for name in found.recipes.keys() - used:
        yield Problem(f"recipes.{name}", "no figure is of it")
    for number, reason in enumerate(found.reasons):
        known = {one.recipe for one in found.of(reason.data, reason.model)}
        for name in set(reason.recipes) - known:
            yield Problem(f"reasons.{number}", f"no figure of this data and net is of {name!r}")
        try:
            reason.text.format(*reason.runs)
        except IndexError:
            yield Problem(
                f"reasons.{number}", f"its text speaks of more than {len(reason.runs)} runs"
            )


def _config_problems(place: str, figure: Figure, choices: Mapping[str, Any]) -> Iterable[Problem]:
    """Yield what lmsm could not train with, does not know, or cannot put in words."""
    try:
        in_words([choices])
    except KeyError as error:
        yield Problem(place, f"its recipe lacks {error}, without which another choice says little")
    for loss in figure.loss:
        try:
            check_loss(loss)
            Config.model_validate(
                {**_choices_of(figure.data), **choices, "model": figure.model, "loss": loss}
            )
        except ValidationError as error:
            yield from (
                Problem(place, f"{'.'.join(map(str, one['loc']))}: {one['msg']}".lstrip(": "))
                for one in error.errors()
            )
        except LmsmError as error:
            yield Problem(place, str(error))


def data_of(choices: Mapping[str, Any]) -> str:
    """Return a data set and its imbalance in words: `cifar10 exp 0.01`.

    >>> data_of({"dataset": "cifar10", "imbalance": "exp", "factor": 0.01})
    'cifar10 exp 0.01'
    """
    dataset, kind = str(choices.get("dataset")), choices.get("imbalance", "none")
    if dataset in ("balanced", "imbalanced"):
        dataset = "cifar10"
    return dataset if kind == "none" else f"{dataset} {kind} {choices['factor']:g}"


def _choices_of(data: str) -> dict[str, Any]:
    dataset, *imbalance = data.split()
    named: dict[str, Any] = {"dataset": dataset}
    if imbalance:
        named |= {"imbalance": imbalance[0], "factor": float(imbalance[-1])}
    return named


def is_loss_of(figure: Figure, setting: Mapping[str, Any]) -> bool:
    """Return whether runs have a figure's loss and, as there, none or some re-weighting."""
    alike = any(parts_of(one) == parts_of(str(setting["loss"])) for one in figure.loss)
    weights = [one.get("reweight", "none") for one in (figure.choices, setting)]
    natural = not setting.get("post_hoc") and setting.get("sampling", "shuffle") == "shuffle"
    return alike and natural and weights[0] == weights[1]
