"""The JSON documents of a run folder: one model each, with which it is written and read back.

So lmsm reads whatever it wrote: `build` refuses what could not be read back. Keys that a model does
not know, those of a newer lmsm, are kept. To add a key, add a field with a default, which stands
for the runs from before it. What `lmsm eval --json` prints is here too.
"""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lmsm_cli.config.post_hoc import ByTau
from lmsm_cli.errors import RunError
from lmsm_cli.metrics import Count, Scores, Share

State = Literal["running", "interrupted", "failed", "completed"]
Method = ByTau
D = TypeVar("D", bound=BaseModel)

# Nobody reads a longer text, and a number a line makes that of a large confusion twice as long.
_LARGEST_PRETTY = 1 << 22

_Text = Annotated[str, Field(strict=True)]
_Whole = Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)]
_Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Digest = Annotated[str, Field(strict=True, pattern=r"^[0-9a-f]{32}$")]


_CONFIG = ConfigDict(frozen=True, extra="allow", defer_build=True)


class _Document(BaseModel):
    model_config = _CONFIG

    def to_json(self) -> dict[str, Any]:
        """Return what is set as plain lists and dicts, with the keys of the file."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class Images(_Document):
    """Which images a run had: a digest of each part of its split, None for a part that is empty.

    Equal digests, equal images in equal classes, whatever their files are called and in what order
    they lie (data/identity.py).
    """

    training: Digest | None
    validation: Digest | None
    test: Digest
    test_order: Digest | None = None
    """Equal for the same test images in the same order, which is that of predictions.npz; None in
    older runs."""
    divided: Digest | None = None
    """Of all images that the folds test among them, where the test images are one of the folds."""
    known_by: Literal["content", "ids", "labels"] = "content"
    """What the digests are of; those of another program's run are of the ids that it gave, or else
    of its labels in their order."""


class BestOnValidation(_Document):
    """What best.pt gives on the test images, and the epoch that it is of."""

    epoch: Count
    val_balanced_accuracy: Share
    accuracy: Share
    balanced_accuracy: Share


class Net(_Document):
    """How large a classifier is."""

    weights: Count
    frozen: Count = 0
    """Of these, how many were never changed."""
    features: Count
    """That the class weights meet."""


class ScoresDocument(Scores):
    """scores.json: the test scores of a run's last epoch, and what they are of."""

    model_config = _CONFIG

    checkpoint: _Text | None = None
    epoch: Count | None = None
    lengthened_from: tuple[Count, ...] = ()
    lam: _Finite | None = Field(default=None, alias="lambda")
    best_on_validation: BestOnValidation | None = None
    images: Images | None = None
    """None for runs from before images were known by their contents."""
    test_images_per_class: Count | None = None
    """The most test images that a class has, where the run left some out."""
    net: Net | None = None
    """None in older runs."""
    ema: _Finite | None = None
    """The scores are of averaged weights, which keep so much at each step; else None."""
    stopped_before: Count | None = None
    """The epochs that the run was to have, where it stopped earlier for want of a better score."""


class ChosenOn(_Document):
    """The validation images that a correction's tau was chosen on."""

    split: _Text
    num_images: Count
    classes_without_images: tuple[_Text, ...]
    balanced_accuracy: Share
    balanced_accuracy_unadjusted: Share


class FittedOn(_Document):
    """The validation images that a temperature was fitted on.

    The cross-entropies are means over classes that have the shares which the scores are for.
    """

    split: _Text
    num_images: Count
    classes_without_images: tuple[_Text, ...]
    cross_entropy: _Finite
    cross_entropy_at_1: _Finite


class CorrectionFacts(_Document):
    """What corrects the logits of a classifier: first `method`, then `prior`, then `temperature`.

    Checkpoints and exported files with a correction built in hold this.
    """

    method: Method | None = None
    """What corrects for rare classes; None where nothing does."""
    tau: _Finite | None = None
    scale: _Finite | None = None
    """The scale of the logits where tau is in its units, else None."""
    chosen_on: ChosenOn | None = None
    prior: dict[_Text, Share] | None = None
    """The shares of the classes where the model is used, if those were given."""
    temperature: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)] | None = None
    """The logits are divided by it."""
    fitted_on: FittedOn | None = None

    def parts(self) -> dict[str, Any]:
        """Return what is set by its name, to build a document that holds more."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class MainScores(_Document):
    """The scores that tell what a correction did: of the answers as trained, or corrected."""

    accuracy: Share
    balanced_accuracy: Share
    macro_f1: Share
    groups: dict[str, Share | None]
    calibration_error: Share | None = None


class PairedDifference(_Document):
    """How much better corrected answers are than those as trained, over the same images."""

    score: Literal["balanced_accuracy", "accuracy_at_prior"]
    """The second is the mean accuracy of the classes by the shares of `prior`."""
    images: Count
    before: Share
    after: Share
    classes_of_one_image: tuple[_Text, ...]
    """All below is without these, since of one image nobody knows the chance."""
    mean: _Finite | None
    """None where no class is left."""
    low: _Finite | None
    high: _Finite | None
    """The 95% interval, for other images and this net; None where nothing varies."""
    verdict: Literal["better", "worse", "can't tell"]


class Effect(_Document):
    """What a correction does to the answers on a run's validation images."""

    split: _Text
    num_images: Count
    unadjusted: MainScores
    adjusted: MainScores
    difference: PairedDifference
    chooses: _Text | None
    """What was chosen on these same images, so that their scores flatter it; else None."""


class Adjustment(CorrectionFacts):
    """Which correction the scores are of, and what they were without it."""

    is_built_in: bool = False
    """Whether the checkpoint has it built in."""
    unadjusted: MainScores
    difference: PairedDifference | None = None


class Coverage(_Document):
    """What a classifier gets right where it answers only if it is sure enough."""

    wanted: Share
    """Of the images, the share that it was to answer."""
    confidence: Share
    """The least probability of the likeliest class at which it answers."""
    log_odds: _Finite | None = None
    """ln(p / (1 - p)) of that probability p, which tells apart what p rounds to 1: how far the
    highest logit is above the logarithm of the sum of exp of all others. None in older ones."""
    chosen_on: _Text
    """`validation`, or `these images` where it was chosen on those that the scores are of."""
    answered: Share
    accuracy: Share | None
    """Of the answers; None where there is none."""
    balanced_accuracy: Share | None
    """Of the answers, over the classes that have some."""


class EvaluationDocument(Scores):
    """The scores of a checkpoint on labelled images, as `lmsm eval --json` prints them."""

    model_config = _CONFIG

    checkpoint: _Text
    epoch: Count
    epochs: Count | None = None
    """Of the whole run."""
    is_best: bool | None = None
    """Whether the epoch is the best on validation."""
    ema: _Finite | None = None
    """As in scores.json."""
    split: _Text
    """`test`, `validation`, or a folder of images."""
    adjustment: Adjustment | None
    coverage: Coverage | None = None
    """None where it was not asked for."""
    test_images_per_class: Count | None = None
    """As in scores.json; None for images that are not the run's test images."""


class Status(_Document):
    """status.json: where a run stands, why, by whom, and the exit code once there is one."""

    state: State | Literal["unknown"] = "unknown"
    reason: _Text = ""
    exit_code: _Whole | None = None
    pid: _Whole | None = None
    host: _Text = ""
    dropped_by: _Text = ""
    """The command that has removed the weights of the run; empty where none has."""


class GitState(_Document):
    """The checkout that lmsm ran from."""

    commit: _Text
    dirty: bool


class OwnCode(_Document):
    """A loss or net from outside this package: where it was, and the SHA-256 of its source file."""

    place: _Text
    sha256: _Text
    package: _Text | None = None
    version: _Text | None = None


class Environment(_Document):
    """environment.json: what a run ran on, its command line, and the hash of its config."""

    lmsm: _Text | None = None
    python: _Text | None = None
    torch: _Text | None = None
    torchvision: _Text | None = None
    numpy: _Text | None = None
    scikit_learn: _Text | None = Field(default=None, alias="scikit-learn")
    platform: _Text | None = None
    cpus: Count | None = None
    device: _Text | None = None
    git: GitState | None = None
    command: tuple[_Text, ...] | None = None
    asked: _Text | None = None
    pretrained: Digest | None = None
    """Of the file of weights that it started from, which can change under one name."""
    first_stage: _Text | None = None
    """Of a run whose last layer alone is trained: what its net was trained with, but for seed and
    fold, so that runs on the nets of several seeds are told to be alike."""
    first_stage_steps: Count | None = None
    """The optimisation steps of that training; None in older runs."""
    own_code: dict[str, OwnCode] | None = None
    """Of the loss and the net, where they are from outside this package."""


def _number(value: Any) -> Any:
    """Return a number that can be drawn; None for all else, as there is none to show."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # an int beyond floats
        return None


_Measured = Annotated[_Finite | None, BeforeValidator(_number)]


class Row(_Document):
    """A row of metrics.jsonl, one an epoch; what is no finite number is null."""

    epoch: _Measured = None
    train_loss: _Measured = None
    train_accuracy: _Measured = None
    val_loss: _Measured = None
    val_accuracy: _Measured = None
    val_balanced_accuracy: _Measured = None
    lam: _Measured = Field(default=None, alias="lambda")
    effective_margin: _Measured = None
    lr: _Measured = None
    images_per_second: _Measured = None
    seconds: _Measured = None
    objective: _Measured = None
    zero_features: _Measured = None
    feature_norm: _Measured = None
    weight_norm_min: _Measured = None
    weight_norm_median: _Measured = None
    collapse: tuple[_Text, ...] = ()


_MEASURES = {field.alias or name for name, field in Row.model_fields.items() if name != "collapse"}


def pretty_text(document: _Document | Scores) -> str:
    """Return the text of a whole file."""
    values = document.to_json()
    text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)
    if len(text) > _LARGEST_PRETTY:
        text = json.dumps(values, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text + "\n"


def row_text(values: Mapping[str, Any]) -> str:
    """Return a line of metrics.jsonl; raises RunError as `build` does."""
    plain: dict[str, Any] = _finite(values)
    build(Row, plain)
    return json.dumps(_row(plain), allow_nan=False) + "\n"


def build(model: type[D], values: Mapping[str, Any]) -> D:
    """Return a document; infinite and undefined numbers in it are None.

    Raises RunError for values that could not be read back.
    """
    try:
        return model.model_validate(_finite(values))
    except ValidationError as error:
        last = error.errors(include_url=False, include_context=False)[-1]
        place = ".".join(map(str, last["loc"]))
        fact = "is missing" if last["type"] == "missing" else f"is {last['input']!r:.80}"
        raise RunError(
            f"{place} of {model.__name__} {fact} ({last['msg']}): it could not be read back, "
            "which is a fault of lmsm"
        ) from None


def _finite(value: Any) -> Any:
    """Return the value with infinite and undefined numbers, at any depth, replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_document(model: type[D], text: str) -> D:
    """Return the document of a file's text. Raises ValueError for what the model does not take."""
    return model.model_validate(_mapping(text))


def read_row(line: str) -> dict[str, Any]:
    """Return a row of metrics.jsonl; what is no finite number is None. Raises ValueError."""
    return _row(_mapping(line))


def _row(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values as they are, but for measures that are no numbers.

    The model looks only at a row that holds more than numbers: a thousand runs have 200,000 rows.
    """
    if "collapse" in values:
        Row.model_validate(values)
    return {key: _number(value) if key in _MEASURES else value for key, value in values.items()}


def _mapping(text: str) -> dict[str, Any]:
    """Return a JSON object. Raises ValueError for other JSON, NaN and infinities included."""
    document = _DECODER.decode(text)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _finite_number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite_number)
