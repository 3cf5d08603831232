"""The class weights: isotonic regression, and norms that rise with rarity."""

import math

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression

from lmsm_cli import LSoftmaxLoss, build_head
from lmsm_cli.losses.weights import RisingNorms, isotonic
from tests.conftest import batch_at, head_with


@pytest.mark.parametrize("size", [1, 2, 5, 40, 300])
@pytest.mark.parametrize("seed", range(3))
def test_isotonic_regression_is_scikit_learns(size, seed):
    """The min-max form gives what pooling adjacent violators gives, and its blocks ascend."""
    values = np.random.default_rng(seed).normal(np.linspace(0, 1, size), 0.5)
    wanted = IsotonicRegression().fit_transform(np.arange(size), values)
    fitted = isotonic(torch.tensor(values)).numpy()
    np.testing.assert_allclose(fitted, wanted, rtol=1e-12, atol=1e-12)
    assert (np.diff(fitted) >= 0).all()


def test_isotonic_regression_by_hand():
    """3, 1, 2 pool to their mean 2, and 5 and 4 to 4.5; a gradient is the mean of its block's."""
    values = torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0, 7.0], requires_grad=True)
    fitted = isotonic(values)
    assert fitted.tolist() == [2.0, 2.0, 2.0, 4.5, 4.5, 7.0]
    fitted.backward(torch.tensor([3.0, 0.0, 0.0, 1.0, 2.0, 5.0]))
    assert values.grad.tolist() == [1.0, 1.0, 1.0, 1.5, 1.5, 5.0]
    ascending = torch.tensor([0.1, 0.2, 0.30000001, 7.0])
    assert torch.equal(isotonic(ascending), ascending)


def test_isotonic_gradient_is_the_slope():
    """In float64 it agrees with finite differences, away from ties."""
    values = torch.tensor([0.3, 1.1, 0.2, 0.9, 2.5, 2.1, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(isotonic, values.requires_grad_())


def test_norms_start_in_samns_proportions():
    """Norms of 2.14 to 4.23, exp(1 / softplus(1)) and exp(1 / softplus(0)), over their mean."""
    torch.manual_seed(0)
    head = build_head("lsoftmax:weight_norm=monotone", 64, 3, torch.tensor([5, 500, 5]))
    lengths = head.weight.detach().norm(dim=1)
    norms = head.class_weights().detach().norm(dim=1)
    assert norms.mean().item() == pytest.approx(lengths.mean().item(), rel=1e-6)
    assert (norms[0] / norms[1]).item() == pytest.approx(4.2322 / 2.1414, rel=1e-4)
    assert norms[0] == norms[2]
    head.reset_weight("unit")
    norms = head.class_weights().detach().norm(dim=1)
    assert norms.mean().item() == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("chunk", [None, 2])
def test_rising_norms_of_equal_classes_are_one_shared_norm(chunk):
    """With as many images in every class there is one norm, and losses and gradients are equal."""
    features, weight, labels = batch_at()
    found = []
    for norm in ("monotone", "shared"):
        head = LSoftmaxLoss(
            6, 5, class_counts=torch.full((5,), 7), margin=2, weight_norm=norm, class_chunk=chunk
        ).double()
        with torch.no_grad():
            head.weight.copy_(weight)
            (head.rising.norms if head.rising else head.shared_norm).fill_(1.7)
        losses = head.losses(features, labels, 0.9)
        found.append([losses, *torch.autograd.grad(losses.sum(), list(head.parameters()))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one.reshape(other.shape), other)


@pytest.mark.parametrize("options", ["", ",margin_on=hard,tau=1", ",class_chunk=2"])
def test_norms_that_rise_already_are_free_ones(options):
    """Losses are those of free class weights of these lengths, and gradients are their parts.

    What turns a class weight is the gradient of its direction, the rest that of its norm.
    """
    features, weight, labels = batch_at()
    lengths = torch.tensor([1.0, 1.5, 2.0, 2.5, 3.0], dtype=torch.float64)
    weight *= lengths[:, None] / weight.norm(dim=1, keepdim=True)
    found = []
    for norm in ("monotone", "free"):
        spec = f"lsoftmax:margin=3,anneal=none,weight_norm={norm}{options}"
        head = head_with(spec, weight, torch.tensor([500, 100, 50, 10, 2]))
        if norm == "monotone":
            head.rising.norms.data = lengths
        x = features.clone().requires_grad_()
        losses = head.losses(x, labels, 0.9)
        slopes = torch.autograd.grad(losses.sum(), (x, *head.parameters()))
        found.append([head.logits(features), losses, *slopes])
    (*mine, turning, by_length), (*wanted, free) = found
    along = (free * weight).sum(dim=1) / lengths
    torch.testing.assert_close(by_length, along)
    torch.testing.assert_close(turning, free - along[:, None] * weight / lengths[:, None])
    torch.testing.assert_close(mine, wanted)


def test_a_loss_under_pooled_norms_by_hand():
    """Norms of 1.6 and, of the rarer class, 1.2 become their mean 1.4: logits of -5.6 and 2.8.

    The image (2, 0) is at 90 degrees to its class weight, and psi(90) = -2. With p for the share of
    the other class, the slopes by the two lengths are 4 p and 2 p, and each norm has their mean.
    """
    weight = torch.tensor([[0.0, 3.0], [5.0, 0.0]], dtype=torch.float64)
    spec = "lsoftmax:margin=3,weight_norm=monotone,anneal=none"
    head = head_with(spec, weight, torch.tensor([2, 1]))
    head.rising.norms.data = torch.tensor([1.6, 1.2], dtype=torch.float64)
    loss = head(torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([0]), 1.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(8.4)), rel=1e-12)
    loss.backward()
    share = 1 / (1 + math.exp(-8.4))
    assert head.rising.norms.grad.tolist() == pytest.approx([3 * share] * 2, rel=1e-12)


def test_norms_never_fall_with_rarity():
    """Whatever a training does to them, a rarer class has no smaller norm; equal classes equal."""
    counts = torch.tensor([30, 1000, 5, 30, 200])
    norms = RisingNorms(counts.double())
    with torch.no_grad():
        norms.norms.copy_(torch.tensor([2.0, 5.0, 1.0, 3.0]))  # from the commonest to the rarest
    in_force = norms()[:, 0]
    order = counts.argsort(descending=True)
    assert (in_force[order].diff() >= 0).all()
    assert in_force[0] == in_force[3]
    assert in_force.tolist() == pytest.approx([3.0, 2.0, 3.0, 3.0, 3.0])


def test_rising_norms_learn():
    """Steps of a training change them, and they stay in order."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with("lsoftmax:weight_norm=monotone", weight, torch.tensor([500, 100, 50, 10, 2]))
    before = head.rising.norms.detach().clone()
    optimizer = torch.optim.SGD(head.parameters(), lr=0.3)
    for _ in range(20):
        optimizer.zero_grad()
        head(features, labels, 1.0).backward()
        optimizer.step()
    assert not torch.allclose(head.rising.norms, before)
    assert (head.class_weights().norm(dim=1).diff() >= -1e-6).all()


def test_rising_norms_need_the_class_counts():
    """Without them nobody knows which class is rare."""
    with pytest.raises(ValueError, match="weight_norm=monotone needs class_counts"):
        LSoftmaxLoss(6, 5, weight_norm="monotone")
