"""Config: every choice that decides a run.

To add a choice, add a field with its docstring: the flag, its help and its YAML key follow.
"""

import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from lmsm_cli.config import yaml
from lmsm_cli.config.by_class import BY_CLASS
from lmsm_cli.config.nets import BackboneLr, Frozen, Model
from lmsm_cli.config.post_hoc import NCM, PostHocSpec
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import KNOWN, SECOND_STAGES, TAKE_A_BIAS, TAKE_CLASS_MARGINS
from lmsm_cli.losses.spec import parse_spec

Dataset = Literal[
    "balanced", "imbalanced", "cifar10", "cifar100", "mnist", "fashion-mnist", "svhn", "digits",
    "folder", "list",
]  # fmt: skip
Augment = Literal[
    "none", "flip", "crop-flip", "photo", "randaugment", "trivial", "autoaugment-cutout"
]  # fmt: skip

# The default of `neck` is bn but for these models: features of BatchNorm cannot die under a margin,
# and L-Softmax did badly on a ResNet's own, which are never negative (benchmarks/LOG.md). One neck
# for every loss keeps a comparison fair; two features stay plain, to be drawn.
_USUAL_NECK: dict[str, str] = {"paper-2d": "linear"}


# Each checkpoint holds what was seen of every epoch; more than these would be refused on reading.
MOST_EPOCHS = 50_000

# What names the images of a `list`; all of it is dropped where another data set is named.
LIST_KEYS = (
    "image_list",
    "validation_list",
    "test_list",
    "path_column",
    "label_column",
    "split_column",
    "group_column",
    "class_names",
)

# Of these, what divides the images of one list otherwise.
_DIVIDING = ("split_column", "group_column")

# Where and how a run is computed, which changes results by rounding only, and where its images are:
# runs that differ in these alone, and have the same images, are the same.
RUNTIME_KEYS = (
    "out",
    "data_dir",
    *(key for key in LIST_KEYS if key not in _DIVIDING),
    "follow_links",
    "skip_unreadable",
    "device",
    "layout",
    "threads",
    "cuda_graph",
    "compile",
    "tensorboard",
)

# What decides which images a run has, and in what form.
DATA_KEYS = (
    "dataset",
    "data_dir",
    *LIST_KEYS,
    "imbalance",
    "factor",
    "images_per_class",
    "test_images_per_class",
    "test_from",
    "test_share",
    "folds",
    "fold",
    "group_pattern",
    "validation",
    "split_seed",
    "image_size",
    "resize",
    "crop_from",
    "follow_links",
    "skip_unreadable",
)

# Keys that older runs lack: their defaults are what those runs had.
ADDED_KEYS = (
    *("head_bias", "head_init", "resize", "test_images_per_class"),
    *("class_margins", "class_weights"),
    *("test_from", "test_share", "folds", "fold", "group_pattern"),
    *("mixup", "cutmix", "label_smoothing", "sam"),
    *("freeze", "backbone_lr", "accumulate", "ema", "patience", "crop_from", "post_hoc"),
    *LIST_KEYS,
)

# Data sets that may have no test images of their own.
_OWN_IMAGES = ("folder", "list")

# Data sets whose images may lie in files of any shape: not the embedded one.
_FILES = tuple(name for name in get_args(Dataset) if name != "digits")

# Options of a choice: each has an effect only where that choice has one of these values.
DEPENDENT_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(LIST_KEYS, ("dataset", ("list",))),
    "factor": ("imbalance", ("exp", "step")),
    "group_pattern": ("dataset", _OWN_IMAGES),
    "image_size": ("dataset", _OWN_IMAGES),
    "resize": ("dataset", _FILES),
    "crop_from": ("augment", ("photo",)),
    "reweight_beta": ("reweight", ("effective",)),
    "momentum": ("optimizer", ("sgd",)),
    "step_size": ("schedule", ("step",)),
    "milestones": ("schedule", ("multistep",)),
    "gamma": ("schedule", ("step", "multistep")),
}


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
            f"{value!r} has no group in parentheses to tell what is the same subject, "
            "as (.*)_ has: what stands before the last underscore"
        )
    return value


Folder = Annotated[Path, AfterValidator(_check_path)]
# Behind a bound in Annotated: before it, the bound would be no part of the JSON Schema.
_NUMBER = BeforeValidator(_not_bool)
Int = Annotated[int, _NUMBER]
Milestones = Annotated[
    tuple[Annotated[int, Field(ge=1), _NUMBER], ...], BeforeValidator(_split_commas)
]
Bool = Annotated[bool, BeforeValidator(_true_or_false)]
Float = Annotated[float, _NUMBER, Field(allow_inf_nan=False)]
# Positive numbers by the names of classes.
ByClass = dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False), _NUMBER]]


# The panels of the help pages, by the first of their fields.
_PANELS = {"dataset": "Data", "model": "Model", "loss": "Loss", "epochs": "Training", "seed": "Run"}


class Config(BaseModel):
    """Every choice that decides a run; frozen, complete and checked."""

    # built on first use: --help, which needs the fields alone, comes sooner
    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, defer_build=True
    )

    dataset: Dataset = "cifar10"
    """Images to learn from, by name or by the path of your own: a folder with a folder for each
    class, or a list of image files. `balanced` and `imbalanced` are CIFAR-10, `digits` needs no
    download."""
    data_dir: Folder = Path("data")
    """Folder of the data; what is not there is downloaded to it (default: $LMSM_DATA_DIR, else
    data; of a list the folder that it lies in)."""
    image_list: Folder | None = None
    """List of image files and their classes, which --dataset FILE stands for: CSV or TSV with a
    header, or lines of a path and a label; or a folder of such lists."""
    validation_list: Folder | None = None
    """List of the validation images, where they have one of their own."""
    test_list: Folder | None = None
    """List of the test images, where they have one of their own."""
    path_column: str | None = None
    """Column of the paths in a list (default: the one with a usual name, such as path or file)."""
    label_column: str | None = None
    """Column of the classes in a list (default: the one with a usual name, such as label or
    class)."""
    split_column: str | None = None
    """Column of a list that says train, val or test (default: the one that is named split or
    subset, if there is one)."""
    group_column: str | None = None
    """Column of a list whose equal values stay together on one side of every split, as all images
    of one patient."""
    class_names: Folder | None = None
    """File that names the classes whose labels in a list are numbers: a name a line, from 0 on, or
    CSV of number and name."""
    imbalance: Literal["none", "exp", "step"] = "none"
    """How classes are made rare: with `exp` each class has fewer images than the one before, with
    `step` half of the classes are rare, all equally (default: none; exp for `imbalanced`)."""
    factor: Float = Field(1.0, gt=0, le=1)
    """Images in the smallest class / images in the largest: 0.01 is what papers call 100
    (default: 1; 0.1 with an imbalance)."""
    images_per_class: Annotated[int, Field(ge=1), _NUMBER] | None = None
    """Training images that a class has at most, before any imbalance, for a study in short
    (default: all there are)."""
    test_images_per_class: Annotated[int, Field(ge=1), _NUMBER] | None = None
    """Test images that a class has at most, the same for every loss and seed (default: all there
    are)."""
    test_from: Literal["test", "training"] = "test"
    """Where the images to test on come from: `training` holds some of the training images out for
    it, by --test-share or --folds, and leaves the test images unread, for a choice before the last
    test."""
    test_share: Float = Field(0.2, gt=0, lt=1)
    """Share of every class's images that become test images, where your own have none for it,
    or with --test-from training."""
    folds: Annotated[int, Field(ge=2, le=1000), _NUMBER] | None = None
    """Divide images that have no test images of their own, or with --test-from training those for
    the training, into so many parts; a run is tested on one, and trained on the others."""
    fold: Annotated[int, Field(ge=0), _NUMBER] | None = None
    """Which of the folds to test on, from 0 (default: each in a run of its own)."""
    group_pattern: Annotated[str, AfterValidator(_check_pattern)] | None = None
    """Regular expression, as in (.*)_: what its first parentheses match in a file's name below the
    data folder is the subject, whose pictures are never both trained on and tested on."""
    validation: Float = Field(0.1, ge=0, lt=1)
    """Share of every class's training images that is held out for validation."""
    split_seed: Int = Field(0, ge=0, lt=2**32)
    """Seed of the choice of validation images, and of the folds; apart from --seed, so that all
    seeds share one choice (default: 0; with --folds that of --seed)."""
    augment: Augment = "none"
    """Random changes to the training images: `flip` mirrors half of them, `crop-flip` shifts them
    by up to 4 pixels too, `photo` mirrors and enlarges a part of at least 8%; `randaugment` and
    `trivial` add two changes or one of colour or shape to crop-flip, `autoaugment-cutout` those
    found for CIFAR-10, and a black square (default: by the images; none in a preset)."""
    mixup: Float = Field(0.0, ge=0, le=100)
    """Blend each training image with another of its batch, and the loss likewise: with 0.2 mostly a
    little, with 1 in any share (alpha of a Beta distribution); 0 is off."""
    cutmix: Float = Field(0.0, ge=0, le=100)
    """Paste a rectangle of another image of the batch into each, of a size that is drawn as for
    --mixup; with both, each gets half of the batches; 0 is off."""
    image_size: Int = Field(32, ge=8, le=1024)
    """Pixels of a side that your own images are brought to (default: by the images, and at most 96
    without pretrained weights)."""
    resize: Literal["crop", "pad", "squash"] = "crop"
    """How images of another shape get there: the middle of the shorter side, all of it with black
    beside it, or each side by itself."""
    crop_from: Annotated[int, Field(ge=8, le=2048), _NUMBER] | None = None
    """Pixels of a side that your own images are kept at for `photo`, which draws its parts from all
    of them; the net is tested on the middle --image-size of them, and with --freeze features
    trained on it (default: by the images, 256 for 224; in a preset or file --image-size)."""

    model: Model = "resnet18"
    """Network up to the last layer: resnet18, vgg16, vgg16_bn (these three for small images),
    resnet18-cifar, resnet32, paper-mnist, paper-cifar10, paper-cifar100, paper-2d; a classification
    net of torchvision, as in resnet50, vit_b_16 or torchvision:resnet18; timm:NAME; or your own, as
    module:function (default: by the images)."""
    neck: Literal["none", "linear", "relu", "prelu", "bn"] = "bn"
    """Layers between the network and the class weights: `linear`, the same with ReLU, PReLU or
    BatchNorm after it, or none; features of `relu` can die under a margin (default: bn, which is
    linear and BatchNorm; linear for paper-2d)."""
    head_bias: Bool = False
    """Give the last layer a bias, as a plain ResNet's has; not for losses whose margin is on
    angles."""
    head_init: Literal["default", "kaiming", "unit"] = "default"
    """How the class weights start: `default` as those of torch's linear layers, `kaiming` longer,
    as in the code of Cao et al. 2019, or `unit`, all of length 1."""
    pretrained: Annotated[str, AfterValidator(_check_path)] | None = None
    """Weights to start from: `imagenet` for those of torchvision or timm, a run of lmsm's, also
    with other classes, whose net, neck and image size are then the defaults, or a file of weights
    (state dict) of torchvision's or timm's. Images are normalised as theirs were."""
    freeze: Frozen | None = None
    """What of the network keeps its weights: `backbone` for all up to the neck, `features` for all
    up to the last layer, which starts anew, or a number of stages from the image on; the run lists
    them."""
    post_hoc: PostHocSpec | None = None
    """Train nothing, but correct the last layer of the run of --pretrained for rare classes, with
    --freeze features: `adjust` takes tau times the log of a class's share from its score, `mla`
    multiplies it by (images of the largest class / its own) to the power tau, `tau-norm` divides
    its weights by their length to the power tau, as in adjust:1, or with the best tau on validation
    images; `ncm` makes a last layer of the mean features of each class."""

    loss: str = "softmax"
    """Loss, with options after a colon, as in lsoftmax:margin=4,lambda_min=5; `lmsm losses` lists
    them."""
    class_margins: Annotated[ByClass | None, BY_CLASS] = None
    """Margins of single classes, as in frog=3,ship=2; the others keep that of the loss (default:
    none)."""
    label_smoothing: Float = Field(0.0, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes, for any loss; 0.1 in papers, 0 is
    off."""
    reweight: Literal["none", "inverse", "effective"] = "none"
    """Weight of a class in the loss: `inverse` is 1 / images; `effective` the same among small
    classes, and nearly equal among large ones, where more images tell little new (Cui et al.
    2019)."""
    reweight_beta: Float = Field(0.9999, ge=0, lt=1)
    """Beta of `effective`: 0 weighs all classes alike, towards 1 it becomes `inverse`."""
    class_weights: Annotated[ByClass | None, BY_CLASS] = None
    """Weights of single classes in the loss, as in cat=2,dog=0.5, with 1 for the others, times
    those of --reweight; `auto` is short for --reweight inverse (default: none)."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """Images of an epoch: `shuffle` takes each once, `balanced` draws as many at random, every
    class equally likely."""
    rebalance_from: Int = Field(1, ge=1)
    """First epoch in which --reweight, --class-weights and --sampling hold; later than 1 they are
    deferred, which papers call DRW and DRS."""

    epochs: Int = Field(10, ge=1, le=MOST_EPOCHS)
    """Passes over the training images (default: at least 10, and enough for 1,500 steps)."""
    batch_size: Int = Field(128, ge=2)
    """Images in a training step (default: at most 128, with 20 steps in an epoch)."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """Optimiser (default: adam; sgd for small grey images)."""
    lr: Float = Field(0.001, gt=0)
    """Learning rate before the schedule (default: 0.001 for batches of 128, less for smaller ones;
    0.05 for sgd)."""
    backbone_lr: BackboneLr | None = None
    """Learning rate of the network up to the neck (default: that of --lr)."""
    accumulate: Int = Field(1, ge=1)
    """Batches that make one training step together, where a larger one has no room."""
    ema: Annotated[float, Field(gt=0, lt=1), _NUMBER] | None = None
    """Average the weights over the steps, and use the average for scores and predictions: how much
    of it is kept at each step, as in 0.999 (less in the first steps)."""
    patience: Annotated[int, Field(ge=1), _NUMBER] | None = None
    """Stop after this many epochs without a better validation score; they count from where the
    margin is fully there."""
    momentum: Float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: Float = Field(0.0005, ge=0)
    """Weight decay."""
    head_weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), _NUMBER] | None = None
    """Weight decay of the last layer, the class weights (default: that of --weight-decay)."""
    sam: Float = Field(0.0, ge=0, le=10)
    """Step by the gradient at the worst weights within this distance, for minima that are flat, at
    twice the time (sharpness-aware minimisation, Foret et al. 2021): 0.05 in papers; 0 is off."""
    schedule: Literal["constant", "step", "multistep", "cosine"] = "step"
    """How the learning rate falls, epoch by epoch (default: cosine; step in a preset)."""
    step_size: Int = Field(2, ge=1)
    """Epochs between the falls of `step`."""
    milestones: Milestones = (160, 180)
    """Epochs after which `multistep` falls, as in 160,180."""
    gamma: Float = Field(0.9, gt=0, le=1)
    """Factor of the learning rate at a fall of `step` and `multistep`."""
    warmup: Int = Field(0, ge=0)
    """Epochs at the start over which the learning rate rises, in a straight line."""
    best_tolerance: Float = Field(0.01, ge=0)
    """How much better on validation a net must be to replace best.pt."""

    seed: Int = Field(42, ge=0, lt=2**32)
    """Seed of weights, shuffling, augmentation and dropout."""
    follow_links: Bool = False
    """Read images and class folders too that links lead to out of the data folder."""
    skip_unreadable: Bool = False
    """Go on without the images that cannot be read, which are told."""
    device: Annotated[str, AfterValidator(_check_device)] = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16", "bf16-conv"] = "auto"
    """Number format of the network, of 32 or 16 bits; the loss computes in fp32. `bf16-conv` rounds
    inside convolutions alone (CPU). `auto` is bf16 where the hardware multiplies it (CPU: and a
    convolution has 128 channels or more), else fp32."""
    layout: Literal["auto", "channels-last", "contiguous"] = "auto"
    """Order of images and features in memory; `auto` is channels-last."""
    threads: Int = Field(0, ge=0, le=1024)
    """CPU threads, which torchrun's processes share; 0 takes all."""
    cuda_graph: Bool = True
    """On a GPU, record a training step once and replay it (a CUDA graph), which is faster."""
    compile: Bool = False
    """Compile the model with torch.compile: slow to start (tens of seconds), not always faster."""
    tensorboard: Bool = False
    """Write the curves into the run folder for TensorBoard too; needs `pip install tensorboard`."""
    out: Folder = Path("runs")
    """Folder that the run folder is made in."""

    @property
    def kept_size(self) -> int | None:
        """The side at which images are kept, where that is larger than the net's.

        For crops; and for a net that is not trained any more, which sees the middle as it did in
        its own tests.
        """
        is_used = self.dataset in _OWN_IMAGES and self._takes_crop_from
        return self.crop_from if is_used and self.crop_from != self.image_size else None

    @property
    def _takes_crop_from(self) -> bool:
        return self.augment == "photo" or self.freeze == "features"

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
            raise ValueError(f"milestones {self.milestones} do not rise")
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
                f"loss {name!r} is a second stage, which learns on the class weights of a finished "
                "run: give --pretrained RUN --freeze features too"
            )
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> "Config":
        usual = type(self).model_fields["test_share"].default
        given = {"folds": self.folds, "test_share": self.test_share}
        if self.dataset not in _OWN_IMAGES and self.test_from == "test":
            for key, value in given.items():
                if value not in (None, usual):
                    raise ValueError(
                        f"{key} {value:g} has no effect with dataset {self.dataset!r}, which has "
                        f"test images of its own; take {' or '.join(map(repr, _OWN_IMAGES))}, or "
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
        if self.dataset not in _OWN_IMAGES:
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
