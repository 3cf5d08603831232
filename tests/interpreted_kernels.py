"""The loss's Triton kernels, done by Triton's interpreter on the CPU, beside torch's operations.

    TRITON_INTERPRET=1 python tests/interpreted_kernels.py

Prints JSON: for each case and result how far both are from float64, as a share of the largest
number, and of cases that have no such numbers what came out. The interpreter is chosen when Triton
is imported, so that these are for a process of their own.
"""

import json
import math

import torch

from lmsm_cli.losses import cross_entropy, directions, kernel
from lmsm_cli.losses.annealing import Annealing
from lmsm_cli.losses.margins import DBMMargin, FixedMargin, LSoftmaxMargin, OnHardImages
from lmsm_cli.losses.weights import unit

NAMES = ("losses", "gaps", "pull_features", "pull_weight", "shares", "dx", "dw")
POWER, COSINE = Annealing("power", minimum=0.5), Annealing("cosine", minimum=0.5)
# Margin, law or a rival's name, whether on hard images alone, with norms detached, with an offset;
# N, D, C.
CASES = {
    "margin 1": (1, None, False, False, False, (6, 3, 4)),
    "margin 1.3": (1.3, COSINE, False, True, False, (6, 3, 4)),
    "margin 2": (2, POWER, False, False, False, (6, 3, 4)),
    "margin 2, all at once": (2, POWER, True, True, True, (6, 3, 4)),
    "margin 2, many": (2, POWER, True, False, True, (3, 1030, 2055)),
    "margin 2.5": (2.5, Annealing("linear", minimum=1), False, False, True, (8, 3, 4)),
    "margin 4": (4, Annealing("exponential"), False, False, False, (9, 2, 3)),
    "margin 7, no lambda": (7, Annealing("none"), True, False, False, (9, 2, 3)),
    "auto": ("auto", POWER, False, False, False, (9, 5, 4)),
    "auto, all at once": ("auto", None, True, True, True, (9, 5, 4)),
    "two programs": (2, None, False, False, False, (130, 2, 3)),
    "cosface": (0.35, "cosface", False, False, False, (6, 3, 4)),
    "ldam": ("auto", "cosface", False, False, False, (6, 3, 4)),
    "arcface": (0.5, "arcface", False, False, False, (9, 3, 4)),
    "arcface by class": ("auto", "arcface", False, False, False, (9, 3, 4)),
    "dbm": ("auto", "dbm", False, False, True, (15, 5, 4)),
}


def margin_of(margin, law, labels, num_classes):
    """Return the margin of a case on a batch."""
    if law in ("cosface", "arcface", "dbm"):
        margin = torch.linspace(0.1, 1.4, num_classes) if margin == "auto" else margin
        return DBMMargin(margin, labels) if law == "dbm" else FixedMargin(law, margin, labels)
    margin = torch.linspace(1, 4, num_classes) if margin == "auto" else margin
    return LSoftmaxMargin(margin, labels, torch.tensor(0.7) if law else 0.7, law)


def batch_of(margin, law, on_hard, detached, shifted, sizes):
    """Return a drawn batch, its first features along and against their class weights."""
    num_images, width, num_classes = sizes
    generator = torch.Generator().manual_seed(num_images)
    features = 2 * torch.randn(num_images, width, generator=generator)
    weight = torch.randn(num_classes, width, generator=generator)
    labels = torch.randint(num_classes, (num_images,), generator=generator)
    features[0] = 0
    # each rounding is another number where a margin is steep
    if law not in ("arcface", "dbm"):
        features[1] = 3 * weight[labels[1]]
    if isinstance(margin, int) or law == "cosface":
        features[2] = -2 * weight[labels[2]]
    bend = margin_of(margin, law, labels, num_classes)
    bend = OnHardImages(bend) if on_hard else bend
    offset = torch.randn(num_classes, generator=generator) if shifted else None
    tensors = [features @ weight.T, features, weight, labels]
    batch = kernel.batch_of(tensors, bend, offset, detached_norms=detached)
    assert batch is not None
    return batch


def in_double(batch):
    """Return a batch with its numbers in float64."""
    constants = [one.double() if isinstance(one, torch.Tensor) else one for one in batch[1:]]
    _, features, weight, labels = batch.tensors
    features, weight = features.double(), weight.double()
    return kernel.Batch([features @ weight.T, features, weight, labels], *constants)


def results_of(batch, by):
    """Return the results of a batch and its gradients, the operators done by `by`."""
    cross_entropy.margin_cross_entropy, cross_entropy.margin_pulls = by
    _, features, weight, _ = batch.tensors
    features, weight = features.clone().requires_grad_(), weight.clone().requires_grad_()
    losses = cross_entropy._KernelCrossEntropy.apply(features, weight, batch)
    losses.square().sum().backward()  # so that each loss has a gradient of its own
    return *by[0](*batch), features.grad, weight.grad


def by_definition(batch):
    """Return losses and gradients as autograd has them of the definition, with arccos."""
    (_, features, weight, labels), margins, offset, given, form, numbers, flags = batch
    features, weight = features.clone().requires_grad_(), weight.clone().requires_grad_()
    law = kernel._law_of(form, tuple(numbers[2:]))
    lam = numbers[1] if given is None else law(given) if law else given
    margin = numbers[0] if margins is None else margins[labels]
    logits, norms = features @ weight.T, weight.norm(dim=1)[labels]
    product, length = logits.gather(1, labels[:, None])[:, 0], features.norm(dim=1)
    theta = (product / (norms * length)).clamp(-1 + 1e-15, 1 - 1e-15).acos()
    k = (margin * theta.detach() / math.pi).floor()
    psi = (-1) ** k * (margin * theta).cos() - 2 * k
    bent = (lam * theta.cos() + psi) / (1 + lam)
    if flags[1]:  # |w| is a constant where the margin is
        bent_logit = product + norms.detach() * length * (bent - theta.cos())
    else:
        bent_logit = norms * length * bent
    if flags[0]:
        is_wrong = (logits >= product[:, None]).sum(dim=1) > 1
        bent_logit = torch.where(is_wrong, bent_logit, product)
    prior = 0 if offset is None else offset
    scores = torch.scatter(logits, 1, labels[:, None], bent_logit[:, None]) + prior
    losses = torch.nn.functional.cross_entropy(scores, labels, reduction="none")
    losses.square().sum().backward()
    return losses, features.grad, weight.grad


def off(values, exact):
    """Return the largest error, as a share of the largest number; NaN where either is."""
    return ((values - exact).abs().max() / exact.abs().max().clamp_min(1)).item()


def compared():
    """Return how far kernels and torch's float32 are from torch's float64, by case and result."""
    by_torch = kernel._by_torch, kernel._pulls_by_torch
    by_triton = kernel._by_triton, kernel._pulls_by_triton
    found = {}
    for name, case in CASES.items():
        batch = batch_of(*case)
        exact = results_of(in_double(batch), by_torch)
        both = [results_of(batch, by) for by in (by_triton, by_torch)]
        found[name] = {
            what: [off(one, wanted) for one in pair]
            for what, wanted, *pair in zip(NAMES, exact, *both, strict=True)
        }
    return found


def defined():
    """Return how far the kernels' losses and gradients are from the definition's, by case."""
    by_triton = kernel._by_triton, kernel._pulls_by_triton
    found = {}
    for name in ("margin 2", "margin 2.5", "auto, all at once", "margin 1.3"):
        batch = batch_of(*CASES[name])
        # neither zero features nor those along their class weight have an angle to differentiate
        tensors = [batch.tensors[2] if n == 2 else one[3:] for n, one in enumerate(batch.tensors)]
        batch = batch._replace(tensors=tensors)
        losses, *_, dx, dw = results_of(batch, by_triton)
        wanted = by_definition(in_double(batch))
        found[name] = [off(a, b) for a, b in zip((losses, dx, dw), wanted, strict=True)]
    return found


def strange():
    """Return the losses of images without numbers: a NaN, an infinity, and labels of no class."""
    batch = batch_of(*CASES["margin 2"])
    _, features, weight, labels = batch.tensors
    features[0, 0], features[1, 0] = math.nan, math.inf
    labels[2], labels[3] = 4, -1
    batch = batch._replace(tensors=[features @ weight.T, features, weight, labels])
    return [str(loss) for loss in kernel._by_triton(*batch)[0].tolist()]


def along():
    """Return how far directions and their gradients are from those of `unit` in float64.

    Of vectors of 0, NaN and infinity whether both are what `unit` makes of them.
    """
    directions.directions = directions._by_triton
    directions.directions_backward = directions._backward_by_triton
    vectors = torch.randn(7, 1030, generator=torch.Generator().manual_seed(0))
    vectors[0], vectors[1], vectors[2, 3], vectors[3, 4] = 0, 1e-15, math.nan, math.inf
    slopes = vectors.flip(0).nan_to_num(posinf=1)
    ours, theirs = vectors.clone().requires_grad_(), vectors.double().requires_grad_()
    pair = directions._Directions.apply(ours), unit(theirs)
    torch.autograd.backward(pair, (slopes, slopes.double()))
    pairs = [pair, (ours.grad, theirs.grad)]
    return {
        "off": [off(one[4:].detach(), other[4:].detach()) for one, other in pairs],
        "zero": [one[:2].count_nonzero().item() for one in (*pairs[0], *pairs[1])],
        "nan": [one[2:4].isnan().all().item() for one in pairs[0]],
    }


if __name__ == "__main__":
    parts = (compared, defined, strange, along)
    print(json.dumps({part.__name__: part() for part in parts}))
