"""A run made ready: its config checked, its data read, its model built, and the rest resolved."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from lmsm_cli.config import Config
from lmsm_cli.data import sources
from lmsm_cli.data.find_again import load_again
from lmsm_cli.data.identity import ImagesRecord
from lmsm_cli.data.layout import check_apart
from lmsm_cli.data.splits import (
    Data,
    check_apart_from_listed,
    division_of,
    load_data,
    planned_counts,
)
from lmsm_cli.distributed.process_group import ProcessGroup
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.class_weights import by_index
from lmsm_cli.losses.head import Head
from lmsm_cli.losses.own_head import try_out
from lmsm_cli.losses.registry import build_head, normal_spec, own_place
from lmsm_cli.losses.spec import parse_spec, with_option
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.models.freezing import freeze, frozen_stages
from lmsm_cli.models.nets import check_model, without_memory
from lmsm_cli.runs.folder import RunFolder, check_folder
from lmsm_cli.runs.start import check_start, drawn_and_frozen, new_classifier
from lmsm_cli.runs.start_images import check_unseen, images_of_start
from lmsm_cli.runs.tensorboard import check_tensorboard
from lmsm_cli.runtime.device import Runtime, check_precision, choose_device, choose_runtime
from lmsm_cli.runtime.display import Display
from lmsm_cli.training.loop import Trainer, class_weights
from lmsm_cli.training.patience import hopeless_patience
from lmsm_cli.training.resume import ResumeState


def check_config(config: Config, *, starts: bool = True) -> torch.device:
    """Return the device; raise LmsmError for what cannot work, before any data is read.

    A run that does not start, but goes on, needs no weights to start from any more.
    """
    source = sources.source_of(config.dataset)
    counts = planned_counts(config)
    division_of(config)
    if counts is not None:
        build_head(config.loss, 2, len(counts), torch.tensor(counts), bias=config.head_bias)
    size = source.size if counts is not None else config.image_size
    check_model(config.model, channels=source.channels, image_size=size)
    if config.freeze:
        net = without_memory(config.model, source.channels, size).module
        frozen_stages(net, config.freeze)
    if starts:
        check_start(config)
        check_apart("--out", config.out, config.dataset, config.data_dir)
    check_folder(config.out, "--out")
    if config.tensorboard:
        check_tensorboard()
    device = choose_device(config.device)
    check_precision(config.precision, device)
    return device


def runtime_of(config: Config, model: Classifier, processes: int = 1) -> Runtime:
    """Return the runtime that a config asks for, of one of the `processes` of this host."""
    return choose_runtime(
        config.device,
        config.precision,
        config.layout,
        config.threads,
        net=model,
        processes=processes,
    )


def build_model(config: Config, data: Data, *, starts: bool = True) -> tuple[Classifier, str]:
    """Return the config's classifier, drawn from its seed, on the CPU; in words, what is special.

    That is, what it starts from, and what of it is frozen: a line each.

    Where the run does not start, but goes on, its weights are read later.
    """
    torch.manual_seed(config.seed)
    side, _, channels = data.image_shape
    check_model(config.model, channels=channels, image_size=side)
    model, origin = new_classifier(
        config if starts else config.model_copy(update={"pretrained": None}),
        classes=data.training.classes,
        train_counts=data.train_counts,
        normalisation=(data.training.mean, data.training.std),
        image_size=side,
    )
    if place := own_place(parse_spec(config.loss)[0]):
        try_out(copy.deepcopy(model.head), place)
    frozen = freeze(model, config.freeze) if config.freeze else ""
    return model, "\n".join(filter(None, (origin, frozen)))


@dataclass(frozen=True)
class Run:
    """A run that can begin or go on."""

    trainer: Trainer
    images: ImagesRecord | None
    """Which images its data holds; None where the lmsm that began the run kept no record."""
    saved: ResumeState | None = None
    folder: RunFolder | None = None
    """None on all ranks but the first."""


def prepare(
    config: Config,
    display: Display,
    ranks: ProcessGroup,
    images: ImagesRecord | None = None,
    *,
    starts: bool = True,
) -> Run:
    """Read the data, build the model, and resolve what the config leaves to them.

    Args:
        config: The config as the user gave it.
        display: Where downloads, decoding and warnings are shown.
        ranks: The processes of the run.
        images: The images of a run that goes on, to be found again.
        starts: Whether its weights are those to start from; else a checkpoint has them.

    Raises LmsmError.
    """
    device = ranks.take_device(check_config(config, starts=starts))
    ranks.check_batch_size(config.batch_size)
    _check_ranks(config, ranks)
    # of a run that goes on, whose checkpoint tells its images, a file that broke since is none
    readable = config if starts else config.model_copy(update={"skip_unreadable": True})
    with ranks.main_process_first():  # what it downloads and decodes, the others find
        data = load_again(config, images, display) if images else load_data(readable, display)
    images = images or data.record()
    if starts and (start := images_of_start(config, display)) is not None:
        check_unseen(images, start, config, display)
        images = replace(images, seen_before=start.seen_in_training)
    if starts:  # before there is a folder
        check_apart_from_listed("--out", config.out, config, images)
    if data.usual_counts:  # no fold has defaults of its own
        loss = _spec_by_counts(config, data.training.classes, data.usual_counts)
        config = config.model_copy(update={"loss": loss})
    model, origin = build_model(config, data, starts=starts)
    for line in origin.splitlines():
        display.info(line)
    class_weights(config, data.train_counts, data.training.classes)  # before there is a folder
    settings = ranks.broadcast_object(runtime_of(config, model).to_config())
    config = config.model_copy(update=settings | {"loss": resolved_spec(config.loss, model.head)})
    runtime = replace(runtime_of(config, model, ranks.local_size), device=device)
    runtime.apply()
    trainer = Trainer.create(runtime.place(model), config, data, runtime, ranks)
    if starts and (text := hopeless_patience(config, model.head)):
        display.warning(text)
    if starts and (twice := _corrected_twice(config, model.head)):
        display.warning(twice)
    if starts and (frozen := drawn_and_frozen(config)):
        display.warning(frozen)
    return Run(trainer, images)


def _corrected_twice(config: Config, head: Head) -> str:
    """Return what a prior in the loss and rebalanced classes do together; "" without either."""
    if not (head.prior_strength and config.is_rebalanced):
        return ""
    what = "sampling balanced" if config.sampling == "balanced" else f"reweight {config.reweight}"
    way_out = ", or take tau=0 in the loss" if hasattr(head, "tau") else ""
    return (
        f"loss {config.loss!r} adjusts its scores by the class counts, and {what} corrects for "
        f"rare classes too: together they favour rare classes too much; leave {what} out{way_out}"
    )


def _check_ranks(config: Config, ranks: ProcessGroup) -> None:
    """Raise LmsmError for choices that several processes do not share yet."""
    if ranks.size == 1:
        return
    if config.accumulate > 1:
        raise LmsmError(
            f"accumulate is {config.accumulate}, and torchrun started {ranks.size} processes: more "
            "processes share a larger --batch-size; leave --accumulate out"
        )
    if config.ema is not None:
        raise LmsmError(
            f"ema is {config.ema:g}, and torchrun started {ranks.size} processes: weights are "
            "averaged in one process alone; leave --ema out"
        )


def prepare_rest(saved: ResumeState, display: Display, ranks: ProcessGroup) -> Run:
    """Prepare a run that goes on; raise DataError where its images are others now."""
    starts = saved.state is None
    run = prepare(saved.config, display, ranks, saved.images, starts=starts)
    run = replace(run, saved=saved)
    saved.check_data(run.trainer.data)
    if saved.state and saved.state.images is None:  # an older lmsm recorded none
        return replace(run, images=None)
    return run


def resolved_spec(spec: str, head: Head) -> str:
    """Return the loss spec with the options that the head worked out from the data.

    That of an own loss is in its normal form: what reads a run does not know its defaults.
    """
    name, given = parse_spec(spec)
    if own_place(name):
        spec = normal_spec(spec)
    for key, value in head.resolved_options().items():
        if key not in given:
            spec = with_option(spec, key, str(value).removesuffix(".0"))
    return spec


def _spec_by_counts(config: Config, classes: Sequence[str], counts: list[int]) -> str:
    """Return the loss spec with the options that follow from other class counts than a fold's."""
    margins = by_index(config.class_margins or {}, classes, "class_margins")
    head = build_head(
        config.loss,
        2,
        len(counts),
        torch.tensor(counts),
        bias=config.head_bias,
        class_margins=margins,
        class_names=classes,
    )
    return resolved_spec(config.loss, head)
