"""What a child process of the training benchmark runs: one arm, its numbers returned.

torch is imported in the functions, because the process that starts the children reads `ARMS` too
and must stay small (train_children.py). To add an arm, write a function of `Plan` and name it in
`ARMS`.
"""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from typing import Any

RESNET, VGG = "imbalanced-resnet18", "imbalanced-vgg16"  # the seed's recipes
WARM_UP = 5  # steps; oneDNN chooses its kernels and malloc grows its heap in the first ones
LOSS_STEPS = 40  # timed steps of each loss in a turn
# Softmax twice: how far its two medians lie apart is the noise of the comparison. Margin 4, not
# the presets' 2: the one with more arithmetic.
LOSSES = {"softmax": "softmax", "lsoftmax": "lsoftmax:margin=4", "softmax_again": "softmax"}
SIZES = (5_000, 10_000, 20_000, 45_000)  # training images: 45,000 are all that validation leaves
INSTEAD: dict[str, Any] = {}
"""What a try-out in this process chooses instead of what its arms do."""


@dataclass(frozen=True)
class Plan:
    """How long an arm runs: timed seconds, or timed steps in a try-out; and in which turn it is."""

    seconds: float
    steps: int | None
    turn: int


class EnoughError(Exception):
    """Ends a training from its step callback."""


class Clock:
    """Notes when each step ends; raises EnoughError after `steps` timed steps, else `seconds`."""

    def __init__(self, seconds: float, steps: int | None) -> None:
        self.seconds, self.steps = seconds, steps
        self.ends: list[float] = []
        self.images: list[int] = []

    def tick(self, num_images: int) -> None:
        """Note the end of a step over `num_images` images."""
        self.ends.append(time.perf_counter())
        self.images.append(num_images)
        timed = len(self.ends) - WARM_UP
        if timed < 1:
            return
        if timed >= self.steps if self.steps else self._elapsed() >= self.seconds:
            raise EnoughError

    def images_per_second(self) -> float:
        """Return the throughput after the warm-up."""
        return sum(self.images[WARM_UP:]) / self._elapsed()

    def durations(self) -> list[float]:
        """Return the milliseconds of each step after the warm-up."""
        ends = self.ends[WARM_UP - 1 :]
        return [1000 * (end - start) for start, end in pairwise(ends)]

    def _elapsed(self) -> float:
        return self.ends[-1] - self.ends[WARM_UP - 1]


class SeedImages:
    """What torchvision's CIFAR10 was to the seed: an array, and a PIL image made at each access."""

    def __init__(self, images: Any, labels: list[int], transform: Callable[..., Any]) -> None:
        from PIL import Image

        self.images, self.labels, self.transform = images, labels, transform
        self.to_image = Image.fromarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.to_image(self.images[index])), self.labels[index]


def seed_resnet18() -> Any:
    """Return the seed's ResNet-18, from torchvision and torch alone."""
    from torch import nn
    from torchvision.models import resnet18

    net = resnet18(weights=None)
    net.conv1 = nn.Conv2d(3, 64, 3, stride=1, padding=1, bias=False)
    net.fc = nn.Sequential(
        nn.Linear(512, 64), nn.ReLU(), nn.Dropout(0.25), nn.Linear(64, 10, bias=False)
    )
    return net


def seed_vgg16() -> Any:
    """Return the seed's VGG-16: torchvision's features, three linear layers, no pool between."""
    from torch import nn
    from torchvision.models import vgg16

    return nn.Sequential(
        vgg16(weights=None).features,
        nn.Flatten(),
        nn.Linear(512, 128),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(128, 32),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Linear(32, 10, bias=False),
    )


def seed_parts(preset: str, device: str) -> tuple[Any, Any]:
    """Return the seed's net and optimiser of a preset."""
    from torch.optim import SGD, Adam

    if preset == VGG:
        net = seed_vgg16().to(device)
        return net, SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=5e-4)
    net = seed_resnet18().to(device)
    return net, Adam(net.parameters(), lr=1e-3, weight_decay=5e-4)


def seed_batches(preset: str, batch_size: int) -> Any:
    """Return the seed's DataLoader: a PIL image per access, per-image transforms, no workers."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    data = training_images(config_of(preset))
    steps = [transforms.ToTensor(), transforms.Normalize(data.mean, data.std)]
    images = SeedImages(data.images.numpy(), data.labels.tolist(), transforms.Compose(steps))
    return DataLoader(images, batch_size=batch_size, shuffle=True, num_workers=0)


def seed_loop(plan: Plan, preset: str, batch_size: int, device: str = "cpu") -> dict[str, float]:
    """Train as the seed does: fp32, default layout, and a wait for two numbers in every step."""
    import torch

    loader, criterion = seed_batches(preset, batch_size), torch.nn.CrossEntropyLoss()
    net, optimizer = seed_parts(preset, device)
    clock = Clock(plan.seconds, plan.steps)
    net.train()
    total_loss = total_hits = 0.0
    with suppress(EnoughError):
        while True:
            for images, labels in loader:
                images, labels = images.to(device), labels.to(device)
                optimizer.zero_grad()
                outputs = net(images)
                loss = criterion(outputs, labels)
                loss.backward()
                optimizer.step()
                total_loss += loss.item()
                total_hits += (outputs.argmax(dim=1) == labels).sum().item()
                clock.tick(len(labels))
    return {"images_per_second": clock.images_per_second()}


def config_of(preset: str, **choices: Any) -> Any:
    """Return the Config of `lmsm train --preset ... --device cpu` with the given flags.

    Without a preset it is that of the flags alone.
    """
    from lmsm_cli.config.resolve import Layer, resolve
    from lmsm_cli.losses.registry import check_loss

    flags = Layer.of_flags({"device": "cpu", **choices, **INSTEAD})
    layers = [Layer.of_preset(preset), flags] if preset else [flags]
    return resolve(layers, check_loss).config


def training_images(config: Any) -> Any:
    """Return the training images of a config's run, decoded."""
    from lmsm_cli.data.splits import load_training
    from lmsm_cli.runtime.display import SILENT

    return load_training(config, SILENT)[0]


def build(config: Any, training: Any) -> tuple[Any, ...]:
    """Return (model, config, training images, runtime) as a run makes them."""
    from lmsm_cli.data.splits import Data
    from lmsm_cli.training.prepare import build_model, runtime_of

    model, _ = build_model(config, Data(training, None, training))
    runtime = runtime_of(config, model)
    runtime.apply()
    return runtime.place(model), config, training, runtime


def trainer_of(model: Any, config: Any, training: Any, runtime: Any) -> Any:
    """Return what trains a model as `lmsm train` does."""
    from lmsm_cli.data.splits import Data
    from lmsm_cli.training.loop import Trainer

    return Trainer.create(model, config, Data(training, None, training), runtime)


def drive(
    model: Any,
    config: Any,
    training: Any,
    runtime: Any,
    on_step: Callable[[int], None] = lambda num_images: None,
) -> None:
    """Run lmsm's own training loop, telling `on_step` the images of each step."""
    from lmsm_cli.runtime.display import Step
    from lmsm_cli.training.loop import train

    def tell(step: Step) -> None:
        on_step(step.num_images - (step.step - 1) * config.batch_size)

    with suppress(EnoughError):
        for _ in train(trainer_of(model, config, training, runtime), on_step=tell):
            pass


def lmsm_loop(plan: Plan, preset: str, batch_size: int) -> dict[str, float]:
    """Train as `lmsm train` does."""
    config, clock = config_of(preset, batch_size=batch_size), Clock(plan.seconds, plan.steps)
    drive(*build(config, training_images(config)), clock.tick)
    return {"images_per_second": clock.images_per_second()}


def loss_steps(plan: Plan) -> dict[str, float]:
    """Let the losses take turns, step by step, on one model; return each one's median step (ms)."""
    from torch import nn, tensor

    from lmsm_cli.losses.registry import build_head

    clock = Clock(plan.seconds, len(LOSSES) * (plan.steps or LOSS_STEPS))
    config = config_of(RESNET, batch_size=128, neck="bn")
    model, _, training, runtime = build(config, training_images(config))
    width, counts = model.head.weight.shape[1], tensor(training.counts())
    heads = [build_head(spec, width, len(training.classes), counts) for spec in LOSSES.values()]
    model.backbone.other_heads = nn.ModuleList(heads[1:])  # so that the optimiser has their weights
    model.head = heads[0]

    def change_head(num_images: int) -> None:
        clock.tick(num_images)
        model.head.zero_grad()  # no later step moves its weights
        model.head = heads[len(clock.ends) % len(heads)]

    drive(model, config, training, runtime, change_head)
    times = clock.durations()
    firsts = [(i - WARM_UP) % len(heads) for i in range(len(heads))]  # timed step 0 is step WARM_UP
    return {
        name: statistics.median(times[first :: len(heads)])
        for name, first in zip(LOSSES, firsts, strict=True)
    }


def saves(plan: Plan) -> dict[str, float]:
    """Return the median seconds of saving a trained ResNet-18 with its optimiser, and its size."""
    import tempfile
    from pathlib import Path

    from lmsm_cli.runs.contents import Position
    from lmsm_cli.runs.folder import RunFolder
    from lmsm_cli.training.loop import train
    from lmsm_cli.training.resume import History, snapshot_of

    config = config_of(RESNET, batch_size=128, epochs=1)
    images = training_images(config)
    trainer = trainer_of(*build(config, images.subset(range(128))))
    list(train(trainer))
    seconds = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as path:  # a disk, where /tmp may be memory
        folder = RunFolder(Path(path))
        for epoch in range(1 + (plan.steps or 5)):
            start = time.perf_counter()
            snapshot_of(trainer, History(), Position(epoch=epoch)).write(folder)
            seconds.append(time.perf_counter() - start)
        size = folder.checkpoint.stat().st_size / 1e6
    return {"seconds": statistics.median(seconds[1:]), "megabytes": size}


def augmentation(plan: Plan) -> dict[str, float]:
    """Return the median step (ms) with crop-flip, and of that what making the batch takes."""
    clock, alone = (Clock(plan.seconds, plan.steps or LOSS_STEPS) for _ in range(2))
    config = config_of(RESNET, batch_size=128, augment="crop-flip")
    training = training_images(config)
    drive(*build(config, training), clock.tick)
    with suppress(EnoughError):
        for labels in endless_labels(training, config):
            alone.tick(len(labels))
    return {
        "step": statistics.median(clock.durations()),
        "batch": statistics.median(alone.durations()),
    }


def endless_labels(training: Any, config: Any, device: str = "cpu") -> Iterator[Any]:
    """Make the augmented batches of epoch after epoch; yield the labels of each."""
    from lmsm_cli.data.batches import batches, plan_epoch

    images, labels = training.images.to(device), training.labels.to(device)
    for epoch in count():
        plan = plan_epoch(len(labels), config.augment, seed=config.seed, epoch=epoch)
        for batch in batches(images, labels, plan, config.batch_size):
            yield batch.labels


def scaling(
    plan: Plan, device: str = "cpu", epochs: int = 1, batch_size: int = 128
) -> dict[str, float]:
    """Return the seconds of whole trainings on more and more images; every other turn, on fewer.

    So a machine that grows slower or faster cannot look like a slope. The smallest runs once
    before.
    """
    import torch

    config = config_of("balanced-resnet18", device=device, epochs=epochs, batch_size=batch_size)
    training = training_images(config)
    shuffled = torch.randperm(len(training), generator=torch.Generator().manual_seed(0))
    sizes = (
        [plan.steps * batch_size * size // SIZES[0] for size in SIZES]
        if plan.steps
        else list(SIZES)
    )
    numbers: dict[str, float] = {}
    for size in (sizes[0], *sizes[:: 1 if plan.turn % 2 == 0 else -1]):
        parts = build(config, training.subset(shuffled[:size]))
        start = time.perf_counter()
        drive(*parts)
        numbers[str(size)] = time.perf_counter() - start
    return numbers


ARMS: dict[str, Callable[[Plan], dict[str, float]]] = {
    "seed-32": partial(seed_loop, preset=RESNET, batch_size=32),
    "seed-128": partial(seed_loop, preset=RESNET, batch_size=128),
    "lmsm-32": partial(lmsm_loop, preset=RESNET, batch_size=32),
    "lmsm-128": partial(lmsm_loop, preset=RESNET, batch_size=128),
    "seed-vgg-32": partial(seed_loop, preset=VGG, batch_size=32),
    "seed-vgg-128": partial(seed_loop, preset=VGG, batch_size=128),
    "lmsm-vgg-128": partial(lmsm_loop, preset=VGG, batch_size=128),
    "losses": loss_steps,
    "saves": saves,
    "augmentation": augmentation,
    "scaling": scaling,
}
