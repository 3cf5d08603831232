"""An experiment: several seeds of a small net trained at once, by torch.func.vmap.

A small net is bound by the launches of its kernels, and a stack of nets has no more of them. The
step is plain here: softmax's loss, its gradient, SGD with momentum. It is to be built into lmsm
only if it is at least twice as fast with equal results.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from gpu_lines import Measured
from gpu_way import Way
from loss_gpu import event_timer, graphed
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from lmsm_cli.models.classifier import Classifier, ModelSpec, build_classifier

NETS, BATCH, STEPS, TURNS = 4, 128, 5, 20
LR, MOMENTUM = 0.05, 0.9
Batches = Sequence[tuple[Tensor, Tensor]]


class Stack:
    """Nets of one shape whose steps are taken together; one net alone is a stack too."""

    def __init__(self, nets: Sequence[Classifier]) -> None:
        parameters, buffers = stack_module_state(list(nets))
        self.parameters = {k: v.detach().requires_grad_() for k, v in parameters.items()}
        self.buffers, self._net = buffers, nets[0]
        self._momentum = {name: torch.zeros_like(value) for name, value in self.parameters.items()}
        self._losses = torch.vmap(self._loss, randomness="different")

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        images: Tensor,
        labels: Tensor,
    ) -> Tensor:
        found: Tensor = functional_call(
            _Loss(self._net), (_named(parameters), _named(buffers)), (images, labels)
        )
        return found

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take a step on a batch for each net: images (S, N, C, H, W), labels (S, N)."""
        losses = self._losses(self.parameters, self.buffers, images, labels)
        values = list(self.parameters.values())
        gradients = torch.autograd.grad(losses.sum(), values)
        with torch.no_grad():
            moving = list(self._momentum.values())
            torch._foreach_mul_(moving, MOMENTUM)
            torch._foreach_add_(moving, gradients)
            torch._foreach_add_(values, moving, alpha=-LR)


class _Loss(nn.Module):
    """The mean loss of a batch, as one module."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return () of uint8 images (N, C, H, W)."""
        progress = torch.full((), 0.5, device=images.device)
        losses: Tensor = self.net.head(self.net.embed(images), labels, progress)
        return losses.mean()


def _named(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"net.{name}": value for name, value in tensors.items()}


def new_net(model: str, seed: int, device: str) -> Classifier:
    """Return a net in training, its weights drawn by a seed."""
    torch.manual_seed(seed)
    half = (0.5,) * 3
    spec = ModelSpec(model, "none", "softmax")
    return build_classifier(spec, classes="abcdefghij", mean=half, std=half).to(device).train()


def batches(seeds: int, steps: int, size: int, device: str) -> Batches:
    """Return a batch of noise for each seed, stacked, step after step."""
    torch.manual_seed(99)
    shape = (seeds, size, 3, 32, 32)
    return [
        (
            torch.randint(256, shape, dtype=torch.uint8, device=device),
            torch.randint(10, shape[:2], device=device),
        )
        for _ in range(steps)
    ]


def apart(model: str, seeds: int, steps: int, size: int, device: str) -> float:
    """Return how far the weights of nets trained at once are from those trained one by one."""
    given = batches(seeds, steps, size, device)
    together = Stack([new_net(model, seed, device) for seed in range(seeds)])
    alone = [Stack([new_net(model, seed, device)]) for seed in range(seeds)]
    for images, labels in given:
        together.step(images, labels)
        for seed, one in enumerate(alone):
            one.step(images[seed : seed + 1], labels[seed : seed + 1])
    missing = total = 0.0
    for name, value in together.parameters.items():
        wanted = torch.cat([one.parameters[name] for one in alone])
        missing += float((value - wanted).detach().double().square().sum())
        total += float(wanted.detach().double().square().sum())
    return float((missing / total) ** 0.5)


def experiment(way: Way) -> Iterator[Measured]:
    """Measure images/s of all seeds at once and one after the other, both as graphs."""
    model, size = ("paper-2d", 4) if way.is_try else ("resnet32", BATCH)
    nets = 2 if way.is_try else NETS
    ((images, labels),) = batches(nets, 1, size, "cuda")
    stacks = {
        "together": [Stack([new_net(model, seed, "cuda") for seed in range(nets)])],
        "alone": [Stack([new_net(model, seed, "cuda")]) for seed in range(nets)],
    }
    given = {
        "together": [(images, labels)],
        "alone": list(zip(images.split(1), labels.split(1), strict=True)),
    }
    arms: dict[str, list[Callable[[], object]]] = {
        name: [
            graphed(partial(one.step, *batch), lambda: None)
            for one, batch in zip(stacks[name], given[name], strict=True)
        ]
        for name in stacks
    }
    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(2 if way.is_try else TURNS):
        for name, replays in arms.items():
            timed = event_timer(lambda: [replay() for replay in replays], lambda: None, 1)  # noqa: B023
            rates[name].append(1000 * nets * size / timed())
    yield Measured.of("4 seeds one after the other", rates["alone"])
    yield Measured.of("4 seeds at once", rates["together"])
    ratios = [a / b for a, b in zip(rates["together"], rates["alone"], strict=True)]
    yield Measured.of("at once / one after the other", ratios)
    yield Measured("weights of a seed differ by", apart(model, nets, STEPS, size, "cuda"), n=nets)
