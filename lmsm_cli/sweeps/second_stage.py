"""Second stages on the nets of finished runs, each an ordinary training of the last layer alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmsm_cli.config import Config
from lmsm_cli.config.defaults import EPOCHS, LEAST_BATCH, LEAST_STEPS, STEPS, USUAL_BATCH
from lmsm_cli.config.resolve import Layer
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import KNOWN, SECOND_STAGES
from lmsm_cli.losses.spec import parse_spec
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.sweeps.plan import PlannedRun, build_plan

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
    "lsoftmax:margin=auto,margin_max=1.3,tau=1,lambda_min=0,weight_norm=shared",
)
"""The heads that are trained where none is named."""


def choices_of(head: str, num_classes: int, *, has_bias: bool) -> dict[str, str]:
    """Return the choices of a training that a head's name stands for.

    A method has a name: `crt` is classifier re-training on balanced draws (Kang et al. 2020), `los`
    is softmax with labels whose target is twice an even share (2403.00250, whose 0.02 of 100
    classes is that). All else is a loss. Raises LmsmError for what is neither.

    >>> choices_of("los", 10, has_bias=False)
    {'loss': 'softmax', 'label_smoothing': '0.888889'}
    """
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


def recipe_of(run: Path, state: CheckpointState) -> dict[str, Any]:
    """Return what the trainings on a run's net share: 1,500 steps of SGD at least.

    The net goes on seeing of each image what it saw in the run's own tests.
    """
    count = sum(state.train_counts)
    most = min(USUAL_BATCH, max(LEAST_BATCH, count // LEAST_STEPS))
    batch = 2 ** int(math.log2(most))
    fewest, largest = EPOCHS
    return _PLAIN | {
        "pretrained": str(run),
        "crop_from": state.config.kept_size,
        "batch_size": batch,
        "epochs": min(max(-(-STEPS * batch // count), fewest), largest),
        "lr": _RATE * batch / USUAL_BATCH,
    }


def plan_second_stages(
    runs: Sequence[Path], heads: Sequence[str], base: Mapping[Path, Sequence[Layer]], given: Layer
) -> list[PlannedRun]:
    """Return the trainings of each head on the net of each run.

    Args:
        runs: Their run folders.
        heads: Losses and methods (see `choices_of`).
        base: The layers of each run's own config.
        given: What the command was given.

    Raises LmsmError for a head that cannot be, CheckpointError for a run without a net.
    """
    plan: list[PlannedRun] = []
    for run in runs:
        state = checkpoint.load(checkpoint.find(run))
        _check_whole(run, state.config)
        recipe = recipe_of(run, state)
        shared = Layer(recipe, dict.fromkeys(recipe, _ORIGIN), is_recipe=True)
        named = [
            choices_of(head, len(state.classes), has_bias=state.config.head_bias) for head in heads
        ]
        plan += build_plan([*base[run], shared, given], named, None)
    return plan


def _check_whole(run: Path, config: Config) -> None:
    if config.freeze == "features":
        raise LmsmError(
            f"{run} is a second stage itself: give the run that it was made from, "
            f"{config.pretrained}"
        )
