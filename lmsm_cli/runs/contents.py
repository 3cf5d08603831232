"""What a checkpoint says about itself, checked before anything is built or reserved for it.

A checkpoint can come from anybody, and whoever made it could write a good digest too. So each key
has a type and bounds, here and nowhere else, and what stands in it twice must agree. To add a key,
add a field to `CheckpointState`, with a default for the checkpoints from before it.
"""

import pickletools
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    GetPydanticSchema,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import core_schema
from torch import Tensor

from lmsm_cli.config import MOST_EPOCHS, Config
from lmsm_cli.errors import MALFORMED, CheckpointError, first_line
from lmsm_cli.models.affine import Affine
from lmsm_cli.models.backbones import first_non_finite
from lmsm_cli.runs.documents import CorrectionFacts, Images

# Bytes of everything but the tensors (an epoch takes 300), and operations of pickle to read them:
# more would take seconds and gigabytes.
LARGEST_STRUCTURE = 16 << 20
_MOST_OPERATIONS = LARGEST_STRUCTURE // 4
_LONGEST_TEXT = 5000  # a path has 4096
_SIDE = 1024  # pixels: the largest image_size
_STEPS = 2**31
# All that torch.save writes for plain types and plain tensors. Others that torch would take reserve
# memory by a number, or are tensors that hold less than they claim.
_NAMING = ("GLOBAL", "STACK_GLOBAL", "INST")
_PLAIN = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_tensor_v2"
    r"|torch (Double|Float|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
)


def _check_dense(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        raise ValueError("is no plain tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("claims more numbers than it holds")
    return tensor


def _check_length(text: str) -> str:
    if len(text) > _LONGEST_TEXT:  # Field's own bound takes no odd file names (lone surrogates)
        raise ValueError(f"is longer than {_LONGEST_TEXT:,} characters")
    return text


def _check_size(value: Any) -> Any:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:  # taken for a float otherwise
        raise ValueError("is a whole number beyond 64 bits")
    return value


_Text = Annotated[str, AfterValidator(_check_length)]
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
_Epoch = Annotated[int, Field(ge=0, le=MOST_EPOCHS)]
_Dense = Annotated[Tensor, AfterValidator(_check_dense)]
_Names = Annotated[list[_Text], FailFast(), Field(max_length=10_000_000)]
_Channels = Annotated[list[_Finite], FailFast(), Field(min_length=1, max_length=3)]
_Side = Annotated[int, Field(ge=1, le=_SIDE)]
_Measured = Annotated[
    bool | float | _Text | Annotated[list[_Text], Field(max_length=100)] | None,
    BeforeValidator(_check_size),
]
_Value = bool | int | float | _Text | None
_Choice = (
    _Value
    | Annotated[list[_Value], Field(max_length=100_000)]
    | Annotated[dict[_Text, _Finite], Field(max_length=100_000)]
)


def _kept(model: type[BaseModel]) -> GetPydanticSchema:
    """Check a value by a model but keep it as it was saved: the order of keys, 2 and not 2.0.

    `handler(model)` would be the schema of the annotated type, with pydantic 2.10.
    """
    return GetPydanticSchema(
        lambda _, handler: core_schema.no_info_wrap_validator_function(
            lambda value, check: (check(value), value)[1], handler.generate_schema(model)
        )
    )


class _Part(BaseModel):
    model_config = ConfigDict(
        strict=True, frozen=True, extra="allow", arbitrary_types_allowed=True, defer_build=True
    )


class _EpochSums(_Part):
    """What was seen of the epoch under way."""

    sums: _Dense
    predicted: _Dense
    step: Annotated[int, Field(ge=1, le=_STEPS)]
    images: Annotated[int, Field(ge=1, le=2**53)]
    watched_images: _Count
    watched_steps: _Count


class Position(_Part):
    """Where a training stands: after `epoch` epochs, and `step` steps of the next."""

    epoch: _Epoch = 0
    step: Annotated[int, Field(ge=0, le=_STEPS)] = 0
    seconds: Annotated[float, Field(ge=0, le=1e15)] = 0.0
    """Spent in the epoch under way."""
    watch: Annotated[dict[str, Any], _kept(_EpochSums)] | None = None
    generators: Annotated[dict[_Text, _Dense], Field(max_length=10)] | None = None
    """State of the random generators in that epoch, of each rank (R, bytes)."""

    @field_validator("generators")
    @classmethod
    def _check_generators(cls, states: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        for kind, state in (states or {}).items():
            if state.dtype != torch.uint8 or state.ndim != 2:
                raise ValueError(f"{kind} is no row of bytes for each rank")
        for state in (states or {}).get("cpu", torch.empty(0, 0)):
            try:
                torch.Generator().set_state(state.clone())
            except RuntimeError:
                raise ValueError("cpu is no state of a generator") from None
        return states


class _Best(_Part):
    """Which epoch best.pt is of."""

    epoch: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    val_balanced_accuracy: Annotated[float, Field(ge=0, le=1)]


class _Row(_Part):
    """An epoch in metrics.jsonl; what is shown of it alone may be anything flat."""

    __pydantic_extra__: dict[str, _Measured]

    epoch: Annotated[int, Field(ge=1, le=MOST_EPOCHS)]
    seconds: Annotated[float, Field(ge=0, le=1e15)]
    images_per_second: Annotated[float, Field(ge=0, le=1e15)]


class SavedHistory(_Part):
    """What the run has done."""

    rows: Annotated[
        list[Annotated[dict[str, Any], _kept(_Row)]], FailFast(), Field(max_length=MOST_EPOCHS)
    ] = []
    best: Annotated[dict[str, Any], _kept(_Best)] | None = None
    warned: Annotated[list[_Text], FailFast(), Field(max_length=1000)] = []
    lengthened_from: Annotated[list[_Epoch], FailFast(), Field(max_length=MOST_EPOCHS)] = []


class _OwnCode(_Part):
    """A loss or net from outside this package."""

    place: _Text
    sha256: _Text
    package: _Text | None
    version: _Text | None


class Averaging(_Part):
    """What is trained, where the model's weights are averages of it."""

    steps: _Count
    trained: Annotated[dict[_Text, _Dense], Field(max_length=100_000)]
    """The weights after the last step; all else is the model's."""


class BuiltIn(_Part):
    """A correction of the logits that the answers contain, which a run has not."""

    scale: _Dense
    shift: _Dense
    facts: Annotated[dict[str, Any], _kept(CorrectionFacts)]

    @property
    def affine(self) -> Affine:
        """The map of the logits."""
        return Affine(self.scale, self.shift)


class CheckpointState(_Part):
    """All keys of a checkpoint but its schema number; the later ones are missing in schema 1."""

    choices: Annotated[dict[_Text, _Choice], Field(alias="config", max_length=1000)]
    """The config as it was saved: that of an older lmsm has fewer keys."""
    classes: Annotated[_Names, Field(min_length=2)]
    mean: _Channels
    std: _Channels
    train_counts: Annotated[list[_Count], FailFast(), Field(max_length=10_000_000)]
    image_shape: Annotated[list[_Side], FailFast(), Field(min_length=3, max_length=3)]
    epoch: _Epoch
    model: Annotated[dict[_Text, _Dense], Field(max_length=100_000)]
    optimizer: (
        Annotated[dict[int, dict[_Text, _Dense | float | None]], Field(max_length=100_000)] | None
    ) = None
    position: Position | None = None
    history: SavedHistory | None = Field(None, alias="journal")
    fingerprint: _Sha256 | None = None
    versions: Annotated[dict[_Text, _Text], Field(max_length=100)] | None = None
    images: Annotated[dict[str, str | None], _kept(Images)] | None = None
    """The digests of the images by part, and of their order."""
    own_code: (
        Annotated[dict[_Text, Annotated[dict[str, Any], _kept(_OwnCode)]], Field(max_length=10)]
        | None
    ) = None
    """Of the loss and the net, where they are from outside this package."""
    averaging: Averaging | None = None
    correction: BuiltIn | None = None
    metrics: _Sha256 | None = None
    """Of the rows as metrics.jsonl has them."""

    @property
    def is_best(self) -> bool:
        """Whether no epoch before was better on validation; False where nothing was held out."""
        best = self.history.best if self.history else None
        return best is not None and best["epoch"] == self.epoch

    @field_validator("std")
    @classmethod
    def _check_std(cls, values: list[float]) -> list[float]:
        if min(values) <= 0:
            raise ValueError("a standard deviation is not above 0")
        return values

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        """Check the config by its own rules, and that keys and tensors agree."""
        try:
            config = self.config
        except ValidationError as error:
            raise ValueError(f"config: {in_words(error)}") from None
        for fault, is_so in _disagreements(self, config):
            if is_so:
                raise ValueError(fault)
        return self

    @cached_property
    def config(self) -> Config:
        """The config of the run; keys that were not saved have their defaults."""
        return Config.model_validate(self.choices, context={"is_saved": True})

    def config_in(self, data_dir: Path | None) -> Config:
        """Return the config of the run, with its data in another folder if one is given."""
        return self.config.model_copy(update={"data_dir": data_dir} if data_dir else {})


def _disagreements(saved: CheckpointState, config: Config) -> Iterator[tuple[str, bool]]:
    """Yield what must not be, and whether it is; the later ones rely on the earlier."""
    num_classes, (height, width, channels) = len(saved.classes), saved.image_shape
    yield "two classes have one name", len(set(saved.classes)) < num_classes
    yield "classes and train_counts are not of one length", len(saved.train_counts) != num_classes
    yield "image_shape is no square of 1 or 3 channels", height != width or channels not in (1, 3)
    lengths = {len(saved.mean), len(saved.std)}
    yield "mean and std are not one for each channel", lengths != {channels}
    weight = saved.model.get("head.weight")
    has_rows = weight is not None and weight.ndim == 2 and len(weight) == num_classes
    yield "head.weight has no row for each class", not has_rows
    for name in ("mean", "std"):
        tensor = saved.model.get(name)
        fits = tensor is not None and tensor.shape == (1, channels, 1, 1)
        same = tensor is not None and fits and tensor.flatten().tolist() == getattr(saved, name)
        yield f"{name} is another than among the tensors", not same
    trained = saved.averaging.trained if saved.averaging else {}
    unlike = [k for k, v in trained.items() if getattr(saved.model.get(k), "shape", 0) != v.shape]
    yield "averaging is of another net", bool(unlike)
    yield "epoch is above the config's epochs", saved.epoch > config.epochs
    if built_in := saved.correction:
        of_it = built_in.scale, built_in.shift
        fits = all(t.shape == (num_classes,) and t.dtype == torch.float64 for t in of_it)
        yield "correction is not two numbers for each class", not fits
        yield "correction has a scale that is not above 0", not (built_in.scale > 0).all()
    position, history = saved.position, saved.history
    if position is None or history is None:
        return
    yield "position is of another epoch", position.epoch != saved.epoch
    epochs = [row["epoch"] for row in history.rows]
    yield "journal has not one row for each epoch", epochs != list(range(1, saved.epoch + 1))
    is_later = history.best is not None and history.best["epoch"] > saved.epoch
    yield "the best epoch is none of these", is_later
    num_images = position.step * config.batch_size
    is_behind = num_images > 0 and num_images >= sum(saved.train_counts)
    yield "position is behind the epoch's last step", is_behind
    if watch := position.watch:
        shapes = watch["sums"].shape, watch["predicted"].shape
        is_other = shapes != ((6,), (num_classes,)) or watch["step"] != position.step
        yield "watch does not fit", is_other


def check_structure(pickled: bytes) -> None:
    """Raise CheckpointError for a pickle that holds more than plain types and plain tensors."""
    try:
        for number, (operation, argument, _) in enumerate(pickletools.genops(pickled)):
            if number > _MOST_OPERATIONS:
                raise CheckpointError("is no lmsm checkpoint: it holds more values than a run has")
            if operation.name in _NAMING and not _PLAIN.fullmatch(str(argument)):
                raise CheckpointError("holds objects that are no plain data; nothing was executed")
    except MALFORMED as error:
        raise CheckpointError(f"is no lmsm checkpoint: {first_line(error)}") from None


def check(values: Mapping[str, Any], size: int) -> CheckpointState:
    """Return the contents of a checkpoint file of `size` bytes.

    Raises CheckpointError for those that no run saved.
    """
    try:
        found = CheckpointState.model_validate(dict(values))
    except ValidationError as error:
        raise CheckpointError(f"does not fit this lmsm: {in_words(error)}") from None
    tensors = dict(_tensors(found))
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if held > size:
        raise CheckpointError("does not fit this lmsm: its tensors claim more than the file holds")
    if name := first_non_finite(tensors):
        raise CheckpointError(
            "holds numbers that are not finite (NaN or infinity), first in the tensor "
            f"{name!r}: nothing can be made of it"
        )
    return found


def _tensors(contents: CheckpointState) -> Iterator[tuple[str, Tensor]]:
    yield from contents.model.items()
    for place, values in (contents.optimizer or {}).items():
        yield from (
            (f"optimizer.{place}.{name}", value)
            for name, value in values.items()
            if isinstance(value, Tensor)
        )
    if contents.averaging:
        yield from ((f"averaging.{k}", value) for k, value in contents.averaging.trained.items())
    if contents.correction:
        yield "correction.scale", contents.correction.scale
        yield "correction.shift", contents.correction.shift
    if contents.position:
        yield from (
            (f"position.{name}", value)
            for name, value in (contents.position.generators or {}).items()
        )


def in_words(error: ValidationError) -> str:
    """Return the first mistake, and where; never the value, which could be of any size."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))[:200]
    return ": ".join(filter(None, (place, first["msg"].removeprefix("Value error, "))))
