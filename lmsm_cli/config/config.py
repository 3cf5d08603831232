"""Config: every choice that decides a run, and which of them go together."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from lmsm_cli.config import yaml
from lmsm_cli.config.choices import Choices
from lmsm_cli.config.keys import DEPENDENT_OPTIONS, OWN_IMAGES
from lmsm_cli.config.post_hoc import NCM
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import KNOWN, SECOND_STAGES, TAKE_A_BIAS, TAKE_CLASS_MARGINS
from lmsm_cli.losses.spec import parse_spec

# The default of `neck` is bn but for these models: features of BatchNorm cannot die under a margin,
# and L-Softmax did badly on a ResNet's own, which are never negative (benchmarks/LOG.md). One neck
# for every loss keeps a comparison fair; two features stay plain, to be drawn.
_USUAL_NECK: dict[str, str] = {"paper-2d": "linear"}

# The panels of the help pages, by the first of their fields.
_PANELS = {"dataset": "Data", "model": "Model", "loss": "Loss", "epochs": "Training", "seed": "Run"}


class Config(Choices):
    """Every choice that decides a run; frozen, complete and checked."""

    @field_validator("factor", mode="before")
    @classmethod
    def _check_ratio(cls, value: Any) -> Any:
        """Name the share that a ratio stands for: papers write 100 where the share is 0.01."""
        try:
            ratio = float(value)
        except (TypeError, ValueError):
            return value
        if 1 < ratio < math.inf:
            raise ValueError(
                "give images in the smallest class / images in the largest, at most 1: "
                f"1/{ratio:g} is {1 / ratio:.3g}"
            )
        return value

    @model_validator(mode="before")
    @classmethod
    def _fill_derived(cls, values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, (value, _) in derived_defaults(values).items()} | values

    @field_validator("loss")
    @classmethod
    def _check_loss(cls, value: str, info: ValidationInfo) -> str:
        """Check the spec by the caller's `check_loss`: only names are known here, without torch."""
        check = (info.context or {}).get("check_loss")
        if check:
            try:
                check(value)
            except LmsmError as error:
                raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _check_together(self) -> "Config":
        if self.dataset == "balanced" and self.imbalance != "none":
            raise ValueError(
                "dataset 'balanced' excludes an imbalance; take 'imbalanced' or 'cifar10'"
            )
        if self.dataset == "imbalanced" and self.imbalance == "none":
            raise ValueError(
                "dataset 'imbalanced' needs an imbalance; take 'balanced' or 'cifar10'"
            )
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup {self.warmup} leaves none of the {self.epochs} epochs")
        if self.accumulate > 1 and self.sam:
            raise ValueError(
                f"accumulate {self.accumulate} does not go with sam {self.sam:g}, which moves the "
                "weights by the gradient of a whole step; leave one of them out"
            )
        if self.freeze in ("backbone", "features") and self.backbone_lr is not None:
            raise ValueError(
                f"backbone_lr {self.backbone_lr:g} has no effect with freeze {self.freeze!r}; "
                "leave one of them out"
            )
        if self.schedule == "multistep" and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones {','.join(map(str, self.milestones))} do not rise")
        return self

    @model_validator(mode="after")
    def _check_lists(self) -> "Config":
        if self.dataset == "list" and self.image_list is None:
            raise ValueError("dataset 'list' needs a list; give its path, as in --dataset x.csv")
        if self.group_column and self.group_pattern:
            raise ValueError(
                f"group_column {self.group_column} and group_pattern {self.group_pattern} both "
                "tell the groups; leave one out"
            )
        return self

    @model_validator(mode="after")
    def _check_head(self) -> "Config":
        name = self.loss.partition(":")[0].strip()
        known = KNOWN.get(name)
        if self.head_bias and known and not known.takes_bias:
            raise ValueError(
                f"head_bias has no meaning with loss {name!r}, whose margin is on angles; "
                f"it goes with {', '.join(TAKE_A_BIAS)}"
            )
        if self.class_margins and known and not known.takes_class_margins:
            raise ValueError(
                f"class_margins have no meaning with loss {name!r}, which has no margin; "
                f"they go with {', '.join(TAKE_CLASS_MARGINS)}"
            )
        starts = self.pretrained not in (None, "imagenet") and self.freeze == "features"
        if self.post_hoc and not starts:
            raise ValueError(
                f"post_hoc {self.post_hoc!r} has no effect without the run that it is for: give "
                "--pretrained RUN --freeze features too"
            )
        if self.post_hoc == NCM and (name != "softmax" or self.head_bias):
            raise ValueError(
                "post_hoc 'ncm' has no effect with another last layer than its own, which is that "
                "of softmax without a bias: leave loss and head_bias out"
            )
        if name in SECOND_STAGES and not starts:
            raise ValueError(
                f"loss {name!r} is a second stage, which learns on the last layer of a finished "
                "run: give --pretrained RUN --freeze features too"
            )
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> "Config":
        usual = type(self).model_fields["test_share"].default
        given = {"folds": self.folds, "test_share": self.test_share}
        if self.dataset not in OWN_IMAGES and self.test_from == "test":
            for key, value in given.items():
                if value not in (None, usual):
                    raise ValueError(
                        f"{key} {value:g} has no effect with dataset {self.dataset!r}, which has "
                        f"test images of its own; take {' or '.join(map(repr, OWN_IMAGES))}, or "
                        "test_from 'training'"
                    )
        if self.fold is not None and self.folds is None:
            raise ValueError(f"fold {self.fold} has no effect without folds; give folds too")
        if self.fold is not None and self.folds and self.fold >= self.folds:
            raise ValueError(
                f"fold {self.fold} is none of {self.folds}: take 0 to {self.folds - 1}"
            )
        if self.folds and self.test_share != usual:
            raise ValueError(
                f"test_share {self.test_share:g} has no effect with folds {self.folds}, of which "
                "each is the test in its turn; leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_crops(self) -> "Config":
        size, kept = self.image_size, self.crop_from
        if kept is None or kept == size:
            return self
        if self.dataset not in OWN_IMAGES:
            raise ValueError(
                f"crop_from {kept} has no effect with dataset {self.dataset!r}, whose images have "
                f"one size; leave it out, or take {size}"
            )
        if self.resize != "crop":
            raise ValueError(
                f"crop_from {kept} cuts off the edges that resize {self.resize!r} keeps; leave one "
                "of them out"
            )
        if not size < kept <= 2 * size:
            raise ValueError(
                f"crop_from is {kept} and image_size {size}: take {size} to {2 * size}"
            )
        return self

    @model_validator(mode="after")
    def _check_smoothing(self) -> "Config":
        """Refuse a loss with options that exclude smoothed labels."""
        try:
            _, options = parse_spec(self.loss) if self.label_smoothing else ("", {})
        except LmsmError:  # the check of the loss tells it
            return self
        if "label_smoothing" in options:
            raise ValueError(
                f"label_smoothing {self.label_smoothing:g} and loss {self.loss!r}: labels would be "
                f"smoothed twice; leave the loss's own out"
            )
        if "class_chunk" in options:
            raise ValueError(
                f"label_smoothing {self.label_smoothing:g} needs the scores of all classes at "
                f"once, which loss {self.loss!r} avoids; leave class_chunk or label_smoothing out"
            )
        return self

    @model_validator(mode="after")
    def _check_options(self, info: ValidationInfo) -> "Config":
        """Refuse options without effect, except for a saved run: older versions accepted them."""
        if (info.context or {}).get("is_saved"):
            return self
        for key, (choice, useful) in DEPENDENT_OPTIONS.items():
            if key == "crop_from" and self._takes_crop_from:
                continue
            value, chosen = getattr(self, key), getattr(self, choice)
            if chosen not in useful and value != type(self).model_fields[key].default:
                text = ",".join(map(str, value)) if isinstance(value, tuple) else value
                raise ValueError(
                    f"{key} {text} has no effect with {choice} {chosen!r}; "
                    f"take {' or '.join(map(repr, useful))}"
                )
        return self

    @model_validator(mode="after")
    def _check_stopping(self, info: ValidationInfo) -> "Config":
        """Refuse what is told by validation images where there are none, but for a saved run."""
        if (info.context or {}).get("is_saved"):
            return self
        usual = type(self).model_fields["best_tolerance"].default
        given = {"patience": self.patience, "best_tolerance": self.best_tolerance}
        for key, value in given.items():
            if self.validation == 0 and value not in (None, usual):
                raise ValueError(
                    f"{key} {value} has no effect with validation 0: no images tell which epoch is "
                    f"better; give --validation 0.1, or leave {key} out"
                )
        if self.patience is not None and self.patience >= self.epochs:
            raise ValueError(
                f"patience {self.patience} has no effect with {self.epochs} epochs, of which the "
                f"first counts as better; take less than {self.epochs}, or leave it out"
            )
        return self

    @property
    def is_rebalanced(self) -> bool:
        """Whether rare classes are drawn more often or weigh more, from `rebalance_from` on."""
        is_uniform = self.reweight == "effective" and self.reweight_beta == 0
        return self.sampling == "balanced" or (self.reweight != "none" and not is_uniform)

    @model_validator(mode="after")
    def _check_rebalancing(self) -> "Config":
        start = self.rebalance_from
        is_weighted = self.reweight != "none" or self.class_weights
        if start > 1 and not is_weighted and self.sampling == "shuffle":
            raise ValueError(
                f"rebalance_from {start} has no effect without a reweight (inverse or effective), "
                "class_weights or sampling 'balanced'; add one, or take 1"
            )
        if start > self.epochs:
            raise ValueError(
                f"rebalance_from {start} is after the last of the {self.epochs} epochs, so nothing "
                f"would be rebalanced; take at most {self.epochs}"
            )
        return self


def derived_defaults(given: Mapping[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return the defaults that follow from other values: key -> (value, reason)."""
    derived: dict[str, tuple[Any, str]] = {}
    named = given.get("image_list")
    if given.get("dataset") == "list" and named and isinstance(named, str | Path):
        place = Path(named)
        derived["data_dir"] = (str(place if place.is_dir() else place.parent), "image_list")
    elif os.environ.get("LMSM_DATA_DIR"):
        derived["data_dir"] = (os.environ["LMSM_DATA_DIR"], "environment LMSM_DATA_DIR")
    if given.get("dataset") == "imbalanced":
        derived["imbalance"] = ("exp", "dataset imbalanced")
    imbalance = given.get("imbalance", derived.get("imbalance", ("none",))[0])
    if imbalance != "none":
        derived["factor"] = (0.1, f"imbalance {imbalance}")
    if given.get("folds") is not None:
        usual = Config.model_fields["seed"].default
        derived["split_seed"] = (given.get("seed", usual), "folds, each seed's own")
    model = str(given.get("model"))
    if model in _USUAL_NECK:
        derived["neck"] = (_USUAL_NECK[model], f"model {model}")
    return {key: value for key, value in derived.items() if key not in given}


def type_of(key: str) -> Any:
    """Return the type of a key's values, where they are not None: float for `weight_decay`."""
    annotation = Config.model_fields[key].annotation
    if get_origin(annotation) not in (UnionType, Union):
        return annotation
    first = get_args(annotation)[0]
    return get_args(first)[0] if get_origin(first) is Annotated else first


def panels() -> dict[str, str]:
    """Return the panel of each key on the help pages."""
    panel, found = "", {}
    for key in Config.model_fields:
        found[key] = panel = _PANELS.get(key, panel)
    return found


def help_text(field: FieldInfo) -> str:
    """Return a field's docstring as one line."""
    return " ".join((field.description or "").split())


def flag_name(key: str) -> str:
    """Return the flag of a config key: weight_decay -> --weight-decay."""
    return "--" + key.replace("_", "-")


def dump(config: Config) -> dict[str, Any]:
    """Return the config as plain types, ready for YAML and JSON."""
    return config.model_dump(mode="json")


def dump_yaml(config: Config) -> str:
    """Return the config as YAML text that `--config` reads back."""
    return yaml.dump_yaml(dump(config))
