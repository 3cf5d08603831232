"""What a run starts from: drawn weights, those of a library's net, or those of another run.

Another run gives its backbone, its neck where that is the same, and its class weights where the
classes are: so a training goes on from other classes. Where the last layer alone is trained, that
starts anew.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from lmsm_cli.config import Config
from lmsm_cli.config.defaults import Facts
from lmsm_cli.config.post_hoc import NCM
from lmsm_cli.data.facts import facts_of
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.own import is_place
from lmsm_cli.losses.registry import normal_spec
from lmsm_cli.losses.second_stage import SecondStage
from lmsm_cli.models.classifier import Classifier, ModelSpec, build_classifier
from lmsm_cli.models.pretrained import (
    IMAGENET,
    Normalisation,
    adapted,
    check_pretrained,
    fitting_weights,
    normalisation_of,
    of_channels,
)
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.contents import CheckpointState
from lmsm_cli.runs.one_run import check_own
from lmsm_cli.runs.weights import check_kept


def weights_file(source: str | None) -> Path | None:
    """Return the file of the weights to start from; None where there is none, or not yet.

    Of a run it is the last checkpoint. Raises CheckpointError where a run has none.
    """
    if source is None or source == IMAGENET:
        return None
    path = Path(source)
    if not path.exists():
        check_kept(path.parent)
    return checkpoint.find(path) if path.is_dir() else path


def check_start(config: Config) -> None:
    """Raise LmsmError where a run cannot start from what its config names.

    A library's file is only looked for; of another run it is known here whose net it has.
    """
    start = read_start(config)
    if start is None:
        if config.post_hoc:
            raise LmsmError(
                f"pretrained {config.pretrained!r} is no run of lmsm's, and post_hoc "
                f"{config.post_hoc!r} takes the place of a training on one: give a run folder"
            )
        check_pretrained(config.model, config.pretrained)
    if config.pretrained and config.freeze == "features" and config.neck != "none":
        _check_frozen_neck(config, None if start is None else start.config.neck)


def _check_frozen_neck(config: Config, neck: str | None) -> None:
    """Raise LmsmError where a neck would stay as it is drawn.

    `neck` is that of the run to start from; None where the weights are those of a net alone.
    """
    if neck == config.neck:
        return
    fact = f"pretrained {config.pretrained!r} has the neck {neck!r}; take --neck {neck}"
    if neck is None:
        fact = (
            f"pretrained {config.pretrained!r} has none; take --neck none, or --freeze backbone, "
            "which trains the neck too"
        )
    raise LmsmError(f"freeze 'features' would keep the neck {config.neck!r} as it is drawn: {fact}")


def drawn_and_frozen(config: Config) -> str | None:
    """Return the warning that weights stay as they are drawn; None where they do not."""
    if config.freeze is None or config.pretrained is not None:
        return None
    return (
        f"freeze is {config.freeze}, and the training starts from no weights: what is frozen stays "
        "as it is drawn at random; --pretrained gives it weights"
    )


def read_start(config: Config) -> CheckpointState | None:
    """Return the checkpoint of the run to start from; None where it is none of lmsm's.

    Raises CheckpointError where it cannot be read, LmsmError where it has another net.
    """
    state = checkpoint_of(config.pretrained)
    if state is not None and state.config.model != config.model:
        raise LmsmError(
            f"pretrained {config.pretrained!r} is a run of the net {state.config.model}, and "
            f"model is {config.model}; take --model {state.config.model}"
        )
    if state is not None and corrects(config):
        _check_loss(config, state)
    return state


def corrects(config: Config) -> bool:
    """Return whether a config is for the last layer of another run, corrected without training."""
    return config.post_hoc is not None and config.post_hoc != NCM


def _check_loss(config: Config, start: CheckpointState) -> None:
    """Raise LmsmError where the last layer to correct is none of that loss."""
    given, own = (
        (normal_spec(one.loss), one.head_bias, one.class_margins) for one in (config, start.config)
    )
    if given != own:
        raise LmsmError(
            f"post_hoc {config.post_hoc!r} corrects the last layer of {config.pretrained}, whose "
            f"loss is {start.config.loss!r} with head_bias {start.config.head_bias}: take the same"
        )


def checkpoint_of(source: str | None) -> CheckpointState | None:
    """Return the checkpoint of the run to start from; None where it is none of lmsm's.

    Raises CheckpointError where it cannot be read, or is not of the run in whose folder it lies.
    """
    file = weights_file(source)
    if file is None or not file.is_file() or not checkpoint.is_checkpoint(file):
        return None
    state = checkpoint.load(file)
    check_own(state, file)
    return state


def facts_with_start(config: Config) -> Facts | None:
    """Return what `facts_of` does, and what follows from the run to start from, if there is one."""
    facts = facts_of(config)
    return facts and replace(facts, start=_choices_of(config))


def _choices_of(config: Config) -> dict[str, Any]:
    """Return what a training takes over from the run to start from, so that its weights fit.

    What corrects the run's classifier has its loss too. Nothing where it cannot be read, which
    `check_start` reports, and of a net from outside lmsm: a run can come from anybody, and what it
    names is not imported unless the user names it too.
    """
    try:
        state = checkpoint_of(config.pretrained)
    except LmsmError:
        return {}
    if state is None or is_place(state.config.model):
        return {}
    side, start = state.image_shape[0], state.config
    taken = {"model": start.model, "neck": start.neck, "image_size": side}
    if start.kept_size:
        taken["crop_from"] = start.kept_size
    if corrects(config):
        taken |= {"loss": start.loss, "head_bias": start.head_bias}
    return taken | ({"epochs": start.epochs} if config.post_hoc else {})


def new_classifier(
    config: Config,
    *,
    classes: Sequence[str],
    train_counts: Sequence[int],
    normalisation: Normalisation,
    image_size: int,
) -> tuple[Classifier, str]:
    """Return the classifier of a run that begins, and in words what it starts from.

    The weights are drawn from torch's global generator. With weights to start from, images are
    normalised as theirs were.

    Args:
        config: its choices.
        classes, train_counts: the names of the classes, and the training images of each.
        normalisation: mean and standard deviation of each channel of the training images.
        image_size: the side of an image in pixels.

    Raises LmsmError for weights that cannot be used.
    """
    start, source, channels = read_start(config), config.pretrained, len(normalisation[0])
    if start is not None:
        normalisation = of_channels((tuple(start.mean), tuple(start.std)), channels)
    elif source is not None:
        normalisation = normalisation_of(config.model, channels)
    model = build_classifier(
        spec_of(config, image_size),
        classes=classes,
        mean=normalisation[0],
        std=normalisation[1],
        class_counts=torch.tensor(train_counts),
        pretrained=None if start else source,
    )
    if source is None:
        return model, ""
    taken = _take_over(model, start, config, image_size) if start else "net"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in normalisation)
    return model, f"starts from {source} ({taken}); images are normalised as its: {mean} +- {std}"


def spec_of(config: Config, image_size: int) -> ModelSpec:
    """Return the parts of a config's classifier for images of a size."""
    return ModelSpec.of(config, image_size=image_size)


def _take_over(model: Classifier, start: CheckpointState, config: Config, image_size: int) -> str:
    """Give a classifier the weights of another run in place; say which parts they were."""
    source = str(config.pretrained)
    state = adapted(model.backbone, _part(start, "backbone."), image_size)
    fitting = fitting_weights(model.backbone, state, config.model, source)
    model.backbone.load_state_dict(fitting, strict=False)
    taken = ["net"]
    neck, own = _part(start, "neck."), model.neck.state_dict()
    same_shapes = {k: v.shape for k, v in neck.items()} == {k: v.shape for k, v in own.items()}
    if own and same_shapes and start.config.neck == config.neck:
        model.neck.load_state_dict(neck)
        taken.append("neck")
    if corrects(config):
        if tuple(start.classes) != model.classes:
            raise LmsmError(f"{source} has other classes, and its last layer is to be corrected")
        model.head.load_state_dict(_part(start, "head."))
        return ", ".join([*taken, "last layer"])
    if isinstance(model.head, SecondStage):
        _take_scores(model, start, source)
        taken.append("last layer")
        return ", ".join(taken)
    goes_on = tuple(start.classes) == model.classes and config.freeze != "features"
    if goes_on and _take_class_weights(model, start):
        taken.append("last layer")
    return ", ".join(taken)


def _take_class_weights(model: Classifier, start: CheckpointState) -> bool:
    """Give the head the class weights of another run where they fit; say whether they did.

    What else a head keeps follows from its own options and class counts.
    """
    given = _part(start, "head.")
    own = dict(model.head.named_parameters())
    if own.keys() - given.keys() or any(given[k].shape != own[k].shape for k in own):
        return False
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(given[name])
    return True


def _take_scores(model: Classifier, start: CheckpointState, source: str) -> None:
    """Give a second stage the class weights and the bias in force of another run, in place.

    Raises LmsmError where its class scores are no w.x + b of these classes.
    """
    head = checkpoint.restore(start, Path(source)).head
    if tuple(start.classes) != model.classes:
        raise LmsmError(f"{source} has other classes, and a second stage needs the same")
    if head.feature_norm is not None:
        raise LmsmError(
            f"the logits of {source} are on cosines ({start.config.loss}), and a second "
            "stage goes on from plain ones; take a run with softmax or lsoftmax"
        )
    if (head.bias is None) != (model.head.bias is None):
        state = "false" if head.bias is None else "true"
        raise LmsmError(f"head_bias is not that of {source}: take {state}")
    with torch.no_grad():
        model.head.weight.copy_(head.class_weights())
        if head.bias is not None and model.head.bias is not None:
            model.head.bias.copy_(head.bias)


def _part(start: CheckpointState, prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): v for k, v in start.model.items() if k.startswith(prefix)}
