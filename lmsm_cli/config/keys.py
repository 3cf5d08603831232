"""Keys of a config that belong together: those of a list, of the machine, of the data."""

from typing import get_args

from lmsm_cli.config.value_types import Dataset

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

# Of these, the files that name the images and their classes.
LIST_FILES = ("image_list", "validation_list", "test_list", "class_names")

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

# What a resumed run may change, none of which changes what is computed. `epochs` may rise.
CHANGEABLE_KEYS = ("data_dir", "follow_links", "device", "out", "tensorboard")

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

NONE = "none"
"""What a flag or a grid says for no value, of the keys that follow: a default may be one."""
NONE_KEYS = (
    *("images_per_class", "test_images_per_class", "folds", "fold", "crop_from"),
    *("pretrained", "freeze", "post_hoc", "class_margins", "class_weights"),
    *("backbone_lr", "ema", "patience", "head_weight_decay"),
)

# Data sets that may have no test images of their own.
OWN_IMAGES = ("folder", "list")

# Data sets whose images may lie in files of any shape: not the embedded one.
_FILES = tuple(name for name in get_args(Dataset) if name != "digits")

# Options of a choice: each has an effect only where that choice has one of these values.
DEPENDENT_OPTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(LIST_KEYS, ("dataset", ("list",))),
    "factor": ("imbalance", ("exp", "step")),
    "group_pattern": ("dataset", OWN_IMAGES),
    "image_size": ("dataset", OWN_IMAGES),
    "resize": ("dataset", _FILES),
    "crop_from": ("augment", ("photo",)),
    "reweight_beta": ("reweight", ("effective",)),
    "momentum": ("optimizer", ("sgd",)),
    "step_size": ("schedule", ("step",)),
    "milestones": ("schedule", ("multistep",)),
    "gamma": ("schedule", ("step", "multistep")),
}
