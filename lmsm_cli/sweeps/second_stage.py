"""Other last layers on the nets of finished runs: second stages, and corrections without training.

Each is an ordinary run, planned and found again as any of a sweep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from lmsm_cli.config import Config
from lmsm_cli.config.defaults import USUAL_BATCH, usual_batch, usual_epochs
from lmsm_cli.config.post_hoc import NCM, is_post_hoc, parse_post_hoc
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError, few
from lmsm_cli.inference.post_hoc import check_post_hoc
from lmsm_cli.inference.trained import Trained, read_trained
from lmsm_cli.losses.registry import KNOWN, SECOND_STAGES
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.first_stage import unlike
from lmsm_cli.runs.images import read_images_record
from lmsm_cli.runs.record import read_run
from lmsm_cli.runtime.display import SILENT
from lmsm_cli.sweeps.plan import PlannedRun, RunStatus, build_plan

_ORIGIN = "lmsm retrain"
_RATE = 0.1  # of SGD at a batch of 128
# A vector of class weights is free to grow; one or two numbers a class have nothing to decay to.
_NO_DECAY = {"head_weight_decay": "0"}
# What a recipe may have, and a second stage has not unless it says so.
_PLAIN: dict[str, Any] = {
    "freeze": "features",
    "augment": "none",
    "mixup": 0,
    "cutmix": 0,
    "label_smoothing": 0,
    "class_margins": None,
    "class_weights": None,
    "reweight": "none",
    "sampling": "shuffle",
    "rebalance_from": 1,
    "backbone_lr": None,
    "head_weight_decay": None,
    "accumulate": 1,
    "ema": None,
    "patience": None,
    "sam": 0,
    "optimizer": "sgd",
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "schedule": "cosine",
    "warmup": 0,
    "device": "auto",
}
USUAL = (
    "softmax",
    "crt",
    "lws",
    "marc",
    "samn",
    "los",
    "balanced-softmax",
    "ldam",
    "vs",
    "lsoftmax:margin=tail",
)
"""The heads that are trained where none is named."""
POST_HOC = ("adjust", "tau-norm", "mla", "ncm")
"""The heads that are made without a training where none is named."""
# What a command gives of a training, which a head without one has not.
_OF_A_TRAINING = ("epochs", "batch_size", "lr", "weight_decay")


def choices_of(head: str, num_classes: int, *, has_bias: bool) -> dict[str, str]:
    """Return the choices of a training that a head's name stands for.

    A method has a name: `crt` is classifier re-training on balanced draws (Kang et al. 2020), `los`
    is softmax with labels whose target is twice an even share (2403.00250, whose 0.02 of 100
    classes is that). `adjust`, `tau-norm`, `mla` and `ncm` are made without a training (see
    `Config.post_hoc`). All else is a loss. Raises LmsmError for what is neither.

    >>> choices_of("los", 10, has_bias=False)
    {'loss': 'softmax', 'label_smoothing': '0.888889'}
    """
    if is_post_hoc(head):
        return _post_hoc_choices(head)
    if head == "crt":
        return {"loss": "softmax", "sampling": "balanced"}
    if head == "los":
        if num_classes < 3:
            raise LmsmError("--head los needs three classes at least: twice an even share is all")
        smoothing = (1 - 2 / num_classes) * num_classes / (num_classes - 1)
        return {"loss": "softmax", "label_smoothing": f"{smoothing:.6g}"}
    name = parse_spec(head)[0]
    if name in SECOND_STAGES:
        drawn = {} if name == "samn" else {"sampling": "balanced"}
        return {"loss": head, **drawn, **_NO_DECAY}
    takes_bias = name not in KNOWN or KNOWN[name].takes_bias
    return {"loss": head} | ({} if takes_bias or not has_bias else {"head_bias": "false"})


def _post_hoc_choices(head: str) -> dict[str, str]:
    try:
        method = parse_post_hoc(head).method
    except ValueError as error:
        raise LmsmError(f"--head {head}: {error}") from None
    own = {"loss": "softmax", "head_bias": "false", "class_margins": "none"}
    return (own if method == NCM else {}) | {"post_hoc": head}


def recipe_of(run: Path, state: CheckpointState) -> dict[str, Any]:
    """Return what the trainings on a run's net share: 1,500 steps of SGD, in 10 to 200 epochs.

    The net goes on seeing of each image what it saw in the run's own tests.
    """
    count = sum(state.train_counts)
    batch = usual_batch(count)
    return _PLAIN | {
        "pretrained": str(run),
        "crop_from": state.config.kept_size,
        "batch_size": batch,
        "epochs": usual_epochs(-(-count // batch)),
        "lr": _RATE * batch / USUAL_BATCH,
    }


@dataclass(frozen=True)
class _Start:
    """A run whose net other last layers are made on."""

    run: Path
    state: CheckpointState

    @cached_property
    def trained(self) -> Trained:
        """Its classifier, which only some heads go on from."""
        return read_trained(self.run)

    def check(self, head: str) -> None:
        """Raise LmsmError where it cannot have a head."""
        config = self.state.config
        choices_of(head, len(self.state.classes), has_bias=config.head_bias)
        if is_post_hoc(head) and head != NCM:
            check_post_hoc(self.trained, head, SILENT)  # its run warns
        elif parse_spec(head)[0] not in SECOND_STAGES:
            return
        elif self.trained.model.head.feature_norm is not None:
            raise LmsmError(
                f"--head {head} goes on from plain logits, and those of {self.run} are on "
                f"cosines ({config.loss}): leave it out, or give a run with softmax"
            )

    def is_possible(self, head: str) -> bool:
        """Return whether it can have a head."""
        try:
            self.check(head)
        except LmsmError:
            return False
        return True


def check_of_one_group(runs: Sequence[Path]) -> None:
    """Raise LmsmError where runs differ in more than their seed or fold.

    The best head is one on average over the runs, and scores of other images or nets have none.
    Raises CheckpointError for a run without a net.
    """
    first, *others = runs
    state = checkpoint.load(checkpoint.find(first))
    for run in others:
        if found := unlike(state, checkpoint.load(checkpoint.find(run))):
            raise LmsmError(
                f"{first} and {run} differ in {few(found, 3)}, and heads are averaged over runs "
                "that differ in their seed or fold alone: give them one by one, each with an --out "
                "of its own"
            )


def plan_second_stages(
    runs: Sequence[Path], heads: Sequence[str], base: Mapping[Path, Sequence[Layer]], given: Layer
) -> list[PlannedRun]:
    """Return the runs of each head on the net of each run, labelled by their heads.

    Args:
        runs: Their run folders.
        heads: Losses and methods (see `choices_of`).
        base: The layers of each run's own config.
        given: What the command was given.

    Raises LmsmError for a head that cannot be, CheckpointError for a run without a net.
    """
    trained = [head for head in heads if not is_post_hoc(head)]
    corrected = [head for head in heads if is_post_hoc(head)]
    plan: list[PlannedRun] = []
    for run in runs:
        state = checkpoint.load(checkpoint.find(run))
        _check_whole(run, state.config)
        start = _Start(run, state)
        for head in heads:
            start.check(head)
        recipe = recipe_of(run, state)
        plan += _planned([*base[run], _layer(recipe), given], trained, state)
        if corrected:
            layers = [*base[run], _layer(_without_training(recipe, state)), _place_of(given)]
            plan += _planned(layers, corrected, state)
    return plan


def _planned(
    layers: Sequence[Layer], heads: Sequence[str], state: CheckpointState
) -> list[PlannedRun]:
    has_bias = state.config.head_bias
    named = [choices_of(head, len(state.classes), has_bias=has_bias) for head in heads]
    runs = build_plan(layers, named, None) if named else []
    return [replace(run, label=head) for run, head in zip(runs, heads, strict=True)]


def _layer(values: dict[str, Any]) -> Layer:
    return Layer(values, dict.fromkeys(values, _ORIGIN), is_recipe=True)


def _without_training(recipe: Mapping[str, Any], state: CheckpointState) -> dict[str, Any]:
    """Return the recipe of heads that are made without a training: epochs are those of the run."""
    kept = {key: value for key, value in recipe.items() if key != "class_margins"}
    return kept | {"epochs": state.config.epochs}


def _place_of(given: Layer) -> Layer:
    """Return what a command gives, without what is of a training alone."""
    values = {key: one for key, one in given.values.items() if key not in _OF_A_TRAINING}
    return replace(given, values=values, origins={key: given.origins[key] for key in values})


def usual_heads(runs: Sequence[Path]) -> tuple[str, ...]:
    """Return the heads that are made where none is named: those that every run can have.

    Raises CheckpointError for a run without a net.
    """
    starts = [_Start(run, checkpoint.load(checkpoint.find(run))) for run in runs]
    return tuple(
        head for head in (*USUAL, *POST_HOC) if all(one.is_possible(head) for one in starts)
    )


def what_is_not_held_out(runs: Sequence[Path]) -> list[str]:
    """Return what the validation images of runs cannot tell, by which heads are chosen.

    Raises CheckpointError for a run without a net.
    """
    said = []
    for run in runs:
        state = checkpoint.load(checkpoint.find(run))
        record = read_images_record(run)
        held_out = record.of("validation") if record else None
        if state.config.validation == 0:
            said.append(
                f"{run} held out no validation images (validation 0), so no last layer can be "
                "chosen: train it with --validation 0.1"
            )
        elif held_out is not None:
            found = set(held_out.labels.tolist())
            missing = [name for number, name in enumerate(held_out.classes) if number not in found]
            if missing:
                said.append(
                    f"{run} held out no image of {few(missing)}, so the choice of a last layer is "
                    "one without them: train it with a larger --validation"
                )
    return said


def reached_on_validation(found: Sequence[RunStatus]) -> dict[str, float]:
    """Return the balanced accuracy of each head on validation images, the best head first.

    It is the mean over the runs, of the heads that are there for all of them; none where nothing
    was held out.
    """
    reached: dict[str, list[float]] = {}
    for one in found:
        score = _validation_score(one.record.path) if one.record else None
        if score is not None:
            reached.setdefault(one.run.label, []).append(score)
    most = max(map(len, reached.values()), default=0)
    means = {head: sum(some) / most for head, some in reached.items() if len(some) == most}
    return dict(sorted(means.items(), key=lambda pair: -pair[1]))


def _validation_score(run: Path) -> float | None:
    """Return the balanced accuracy on validation images after the last epoch, or without any."""
    record = read_run(run)
    if record.metrics:
        score: float | None = record.metrics[-1].get("val_balanced_accuracy")
        return score
    best = record.scores.best_on_validation if record.scores else None
    return best.val_balanced_accuracy if best else None


def _check_whole(run: Path, config: Config) -> None:
    if config.freeze == "features":
        raise LmsmError(
            f"{run} is a second stage itself: give the run that it was made from, "
            f"{config.pretrained}"
        )
