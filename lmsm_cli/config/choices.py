"""Every choice that decides a run: its type, its default, its help.

To add a choice, add a field with its docstring: the flag, its help and its YAML key follow. Which
choices exclude each other is checked in config.py.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmsm_cli.config.by_class import BY_CLASS
from lmsm_cli.config.keys import OWN_IMAGES
from lmsm_cli.config.nets import BackboneLr, Frozen, Model
from lmsm_cli.config.post_hoc import PostHocSpec
from lmsm_cli.config.value_types import (
    NOT_BOOL,
    Augment,
    Bool,
    ByClass,
    Dataset,
    Device,
    Float,
    Folder,
    Int,
    Milestones,
    Pattern,
    PossiblePath,
)

# Each checkpoint holds what was seen of every epoch; more than these would be refused on reading.
MOST_EPOCHS = 50_000


class Choices(BaseModel):
    """The fields of `Config`, each checked by itself."""

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
    images_per_class: Annotated[int, Field(ge=1), NOT_BOOL] | None = None
    """Training images that a class has at most, before any imbalance, for a first trial
    (default: all there are)."""
    test_images_per_class: Annotated[int, Field(ge=1), NOT_BOOL] | None = None
    """Test images that a class has at most, the same for every loss and seed (default: all there
    are)."""
    test_from: Literal["test", "training"] = "test"
    """Where the images to test on come from: `training` holds some of the training images out for
    it, by --test-share or --folds, and leaves the test images unread, for a choice before the last
    test."""
    test_share: Float = Field(0.2, gt=0, lt=1)
    """Share of every class's images that become test images, where your own have none for it,
    or with --test-from training."""
    folds: Annotated[int, Field(ge=2, le=1000), NOT_BOOL] | None = None
    """Divide images that have no test images of their own, or with --test-from training those for
    the training, into so many parts; a run is tested on one, and trained on the others."""
    fold: Annotated[int, Field(ge=0), NOT_BOOL] | None = None
    """Which of the folds to test on, from 0 (default: each in a run of its own)."""
    group_pattern: Pattern | None = None
    """Regular expression, as in (.*)_: what its first parentheses match in a file's name below the
    data folder is its group, such as a patient, whose images stay together on one side of every
    split."""
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
    crop_from: Annotated[int, Field(ge=8, le=2048), NOT_BOOL] | None = None
    """Pixels of a side that your own images are kept at for `photo`, which draws its parts from all
    of them; the net is tested on the middle --image-size of them, and with --freeze features
    trained on it (default: by the images, 256 for 224; in a preset or file --image-size)."""

    model: Model = "resnet18"
    """Backbone, the net up to the neck: resnet18, vgg16, vgg16_bn (these three for small images),
    resnet18-cifar, resnet32, paper-mnist, paper-cifar10, paper-cifar100, paper-2d; a classification
    net of torchvision, as in resnet50, vit_b_16 or torchvision:resnet18; timm:NAME; or your own, as
    module:function (default: by the images)."""
    neck: Literal["none", "linear", "relu", "prelu", "bn"] = "bn"
    """Layers between the backbone and the last layer: `linear`, the same with ReLU, PReLU or
    BatchNorm after it, or none; features of `relu` can die under a margin (default: bn, which is
    linear and BatchNorm; linear for paper-2d)."""
    head_bias: Bool = False
    """Give the last layer a bias, as a plain ResNet's has; not for losses whose margin is on
    angles."""
    head_init: Literal["default", "kaiming", "unit"] = "default"
    """How the weights of the last layer start: `default` as those of torch's linear layers,
    `kaiming` longer, as in the code of Cao et al. 2019, or `unit`, each class's of length 1."""
    pretrained: PossiblePath | None = None
    """Weights to start from: `imagenet` for those of torchvision or timm, a run of lmsm's, also
    with other classes, whose net, neck and image size are then the defaults, or a file of weights
    (state dict) of torchvision's or timm's. Images are normalised as theirs were."""
    freeze: Frozen | None = None
    """What of the net keeps its weights: `backbone` for all up to the neck, `features` for all
    up to the last layer, which starts anew, or a number of stages from the image on; the run lists
    them."""
    post_hoc: PostHocSpec | None = None
    """Train nothing, but correct the last layer of the run of --pretrained for rare classes, with
    --freeze features: `adjust` takes tau times the log of a class's share from its logit, `mla`
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
    """Passes over the training images (default: enough for 1,500 steps, but 10 to 200; 10 for
    digits)."""
    batch_size: Int = Field(128, ge=2)
    """Images in a training step (default: at most 128, with 20 steps in an epoch)."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adam"
    """Optimiser, which makes steps of gradients (default: adam; sgd for small grey images)."""
    lr: Float = Field(0.001, gt=0)
    """Learning rate before the schedule (default: 0.001 for batches of 128, less for smaller ones;
    0.05 for sgd)."""
    backbone_lr: BackboneLr | None = None
    """Learning rate of the backbone, the net up to the neck (default: that of --lr)."""
    accumulate: Int = Field(1, ge=1)
    """Batches that make one training step together, where a larger one has no room."""
    ema: Annotated[float, Field(gt=0, lt=1), NOT_BOOL] | None = None
    """Average the weights over the steps, and use the average for scores and predictions: how much
    of it is kept at each step, as in 0.999 (less in the first steps)."""
    patience: Annotated[int, Field(ge=1), NOT_BOOL] | None = None
    """Stop after this many epochs without a better validation score; they count from where the
    margin is fully there, the warm-up over, and the classes rebalanced."""
    momentum: Float = Field(0.9, ge=0, lt=1)
    """Momentum of `sgd`."""
    weight_decay: Float = Field(0.0005, ge=0)
    """Weight decay: how strongly each step pulls the weights towards 0."""
    head_weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False), NOT_BOOL] | None = None
    """Weight decay of the last layer (default: that of --weight-decay)."""
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
    """Leave out images that cannot be read and class folders without images, and report them."""
    device: Device = "auto"
    """Where to compute: auto, cpu, cuda or cuda:N."""
    precision: Literal["auto", "fp32", "bf16", "bf16-conv"] = "auto"
    """Number format of the net, of 32 or 16 bits; the loss computes in fp32. `bf16-conv` rounds
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
        is_used = self.dataset in OWN_IMAGES and self._takes_crop_from
        return self.crop_from if is_used and self.crop_from != self.image_size else None

    @property
    def _takes_crop_from(self) -> bool:
        return self.augment == "photo" or self.freeze == "features"
