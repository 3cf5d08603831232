"""How far the loss and its gradients are from float64, in which the definition is computed.

The definition takes the angle with arccos; the implementation never forms it.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from loss_arms import LAM, MARGINS, Row, Size, inputs, l_softmax
from torch import Tensor
from torch.nn import functional

FLOAT32 = {"loss": "<= 1e-6", "feature gradient": "<= 1e-5", "weight gradient": "<= 1e-5"}
# Of p_y = 1 - 1e-9 the loss is 1e-9, and has the absolute error of logits near 30 as its relative
# one: the rounding of the cosine, 6e-8, times psi's slope, up to m^2, times 30. Only to be finite.
SURE = {"not finite": "<= 0"}
CASES = {
    "fp32": (torch.float32, False, FLOAT32),
    "bf16": (torch.bfloat16, False, dict.fromkeys(FLOAT32, "<= 1e-2")),
    "p_y = 1 - 1e-9": (torch.float32, True, SURE),
}


def numerics(size: Size) -> Iterator[Row]:
    """Measure the relative errors on the same (rounded) inputs, of the worse margin."""
    for case, (dtype, is_sure, targets) in CASES.items():
        features, weight, labels = (t.detach() for t in inputs(replace(size, dtype=dtype)))
        found = []
        for margin in MARGINS:
            rows = confident(features, weight, labels, margin) if is_sure else features
            found.append(errors_of(rows, weight, labels, margin))
        for name in found[0]:
            unit = "entries" if name == "not finite" else "error"
            worst = max(errors[name] for errors in found)
            yield Row(f"{case}: {name}", worst, unit, targets.get(name, ""))


def errors_of(features: Tensor, weight: Tensor, labels: Tensor, margin: int) -> dict[str, float]:
    """Return |got - exact| / |exact| of all results, and the number of entries not finite."""
    one, other = (
        gradients_of(features.to(dtype), weight.to(dtype), labels, margin)
        for dtype in (features.dtype, torch.float64)
    )
    names = ("loss", "feature gradient", "weight gradient")
    errors = {
        name: ((got.double() - exact).norm() / exact.norm()).item()
        for name, got, exact in zip(names, one, other, strict=True)
    }
    return errors | {"not finite": float(sum((~got.isfinite()).sum() for got in one))}


def gradients_of(
    features: Tensor, weight: Tensor, labels: Tensor, margin: int
) -> tuple[Tensor, ...]:
    """Return losses (N,) and the gradients of their mean; of float64 inputs by the definition."""
    features, weight = features.requires_grad_(), weight.requires_grad_()
    if features.dtype == torch.float64:
        losses = exact_losses(features, weight, labels, margin)
    else:
        losses = l_softmax(margin, reduction="none")(features, weight, labels)
    return losses.detach(), *torch.autograd.grad(losses.mean(), (features, weight))


def exact_losses(features: Tensor, weight: Tensor, labels: Tensor, margin: int) -> Tensor:
    """Return the annealed L-Softmax losses (N,) by their definition."""
    targets, logits = labels[:, None], features @ weight.T
    scale = features.norm(dim=1) * weight.norm(dim=1)[labels]
    theta = torch.acos(logits.gather(1, targets)[:, 0] / scale)
    k = (theta.detach() * margin / torch.pi).floor()
    psi = (-1) ** k * torch.cos(margin * theta) - 2 * k
    bent = scale * (LAM * theta.cos() + psi) / (1 + LAM)
    others = logits.scatter(1, targets, -torch.inf).logsumexp(dim=1)
    # log(e^others + e^bent) - bent, but the digits of a tiny loss stay.
    return functional.softplus(others - bent, threshold=100)


def confident(features: Tensor, weight: Tensor, labels: Tensor, margin: int) -> Tensor:
    """Return features near their class weights, each as long as makes its loss 1e-9."""
    own, noise = (functional.normalize(rows.double(), dim=1) for rows in (weight[labels], features))
    direction = own + 0.3 * noise
    low = torch.zeros(len(labels), 1, dtype=torch.float64, device=labels.device)
    high = torch.full_like(low, 1e4)
    for _ in range(60):  # bisection
        middle = (low + high) / 2
        short = exact_losses(middle * direction, weight.double(), labels, margin)[:, None] > 1e-9
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (high * direction).to(features.dtype).detach()
