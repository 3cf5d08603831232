"""The losses a few classes at a time: the same numbers, and never a tensor of all logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lmsm_cli import build_head, l_softmax_loss
from tests.conftest import head_with


@st.composite
def batches(draw):
    """Features, weights, labels that may crowd into one chunk, a chunk size, and margins."""
    most = {"num_images": (1, 9), "num_classes": (2, 12), "num_features": (1, 5), "chunk": (1, 15)}
    num_images, num_classes, num_features, chunk = (draw(st.integers(*m)) for m in most.values())
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    features = torch.randn(num_images, num_features, generator=generator, dtype=torch.float64)
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=torch.float64)
    first = draw(st.integers(0, num_classes - 1))
    last = draw(st.integers(first, num_classes - 1))
    labels = torch.randint(first, last + 1, (num_images,), generator=generator)
    one = st.sampled_from([1, 1.5, 2, 3, 3.7])
    margins = st.lists(one, min_size=num_classes, max_size=num_classes).map(torch.tensor)
    return features, weight, labels, chunk, draw(one | margins), generator


def loss_and_gradients(features, weight, labels, margin, chunk, weights):
    """Return the losses, and the gradients of their sum weighted by image."""
    features, weight = features.detach().requires_grad_(), weight.detach().requires_grad_()
    losses = l_softmax_loss(
        features, weight, labels, margin, lam=0.4, class_chunk=chunk, reduction="none"
    )
    return losses.detach(), *torch.autograd.grad((losses * weights).sum(), (features, weight))


def assert_near(one, other, tolerance):
    """Fail where tensors differ by more than a share of the largest entry."""
    for mine, wanted in zip(one, other, strict=True):
        assert mine.dtype == wanted.dtype
        assert (mine - wanted).abs().max() <= tolerance * wanted.abs().max().clamp_min(1e-6)


@settings(deadline=None, max_examples=150)
@given(batches())
def test_chunks_change_nothing(batch):
    """Whatever the sizes, labels and margins: the losses and gradients of all classes at once."""
    features, weight, labels, chunk, margin, generator = batch
    weights = torch.rand(len(labels), generator=generator, dtype=torch.float64)
    chunked = loss_and_gradients(features, weight, labels, margin, chunk, weights)
    whole = loss_and_gradients(features, weight, labels, margin, None, weights)
    assert_near(chunked, whole, 1e-9)


@settings(deadline=None, max_examples=50)
@given(batches())
def test_chunks_change_nothing_in_half_precision(batch):
    """The losses of bfloat16 inputs are float32's; gradients agree to bfloat16's precision."""
    features, weight, labels, chunk, margin, _ = batch
    given_half = (features.bfloat16(), weight.bfloat16(), labels, margin)
    losses, *gradients = loss_and_gradients(*given_half, chunk, torch.ones(len(labels)))
    wanted, *wanted_gradients = loss_and_gradients(*given_half, None, torch.ones(len(labels)))
    assert losses.dtype == torch.float32
    assert gradients[0].dtype == gradients[1].dtype == torch.bfloat16
    assert (losses - wanted).abs().max() <= 1e-5 * (1 + wanted.abs().max())
    assert_near(gradients, wanted_gradients, 2 * torch.finfo(torch.bfloat16).eps)


def test_half_precision_rounds_the_gradient_once():
    """Large terms of the gradient of an opposite feature cancel before they are rounded."""
    features, weight = torch.tensor([[1.5]]), torch.tensor([[-0.25], [-2.0]])
    one = torch.ones(1)
    _, _, gradient = loss_and_gradients(
        features.bfloat16(), weight.bfloat16(), torch.tensor([0]), 1.5, 1, one
    )
    _, _, wanted = loss_and_gradients(
        features.double(), weight.double(), torch.tensor([0]), 1.5, 1, one
    )
    torch.testing.assert_close(
        gradient.double(), wanted, rtol=torch.finfo(torch.bfloat16).eps, atol=0
    )


@pytest.mark.parametrize("chunk", [1, 7, 64, 100, 1000])
def test_chunks_change_nothing_in_float32(chunk):
    """Of 100 classes and 40 images in float32, value and gradients agree to 1e-6."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(40, 16, generator=generator)
    weight = 0.25 * torch.randn(100, 16, generator=generator)
    labels = torch.randint(100, (40,), generator=generator)
    chunked, whole = (
        loss_and_gradients(features, weight, labels, 2.5, c, torch.ones(40)) for c in (chunk, None)
    )
    assert_near(chunked, whole, 1e-6)


@pytest.mark.parametrize(
    "spec",
    [
        "lsoftmax:margin=3,tau=1",
        "lsoftmax:weight_norm=shared",
        "lsoftmax:weight_norm=monotone",
        "lsoftmax:margin=3,margin_on=hard,tau=3",
        "lsoftmax:feature_norm=5",
        "asoftmax",
        "cosface",
        "arcface",
    ],
)
@pytest.mark.parametrize("chunk", [1, 4, 9])
def test_heads_pass_their_chunk_on(spec, chunk):
    """Every head with the option gives the losses and gradients that it gives without."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    labels, found = torch.tensor([0, 3, 3, 4, 8, 7]), []
    for spec_of in (spec, f"{spec}{',' if ':' in spec else ':'}class_chunk={chunk}"):
        x = features.clone().requires_grad_()
        head = head_with(spec_of, weight)
        losses = head.losses(x, labels, 1.0)
        found.append([losses, *torch.autograd.grad(losses.sum(), (x, *head.parameters()))])
    assert_near(*found, 1e-12)


class Largest(TorchDispatchMode):
    """Records the most elements that any operation gave."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        """Run the operation and look at its results."""
        result = operation(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        self.elements = max(self.elements, *sizes, 0)
        return result


def largest_tensor(spec, num_images=64, num_classes=1000, num_features=4, *, training=True):
    """Return the elements of the largest tensor in a step forward and back."""
    head = build_head(spec, num_features, num_classes, torch.arange(1, num_classes + 1))
    head.train(training)
    features = torch.ones(num_images, num_features, requires_grad=True)
    with Largest() as largest:
        head(features, torch.arange(num_images), 1.0).backward()
    assert head.weight.grad is not None
    return largest.elements


@pytest.mark.parametrize(
    "spec",
    [
        "lsoftmax:margin=2,tau=1",
        "lsoftmax:margin=auto",
        "lsoftmax:margin=2,margin_on=hard",
        "lsoftmax:margin=1.5,weight_norm=free",
        "asoftmax:margin=4",
        "cosface:margin=0.1",
        "arcface:margin=0.1",
    ],
)
def test_the_logits_are_never_held(spec):
    """64 images, 1,000 classes in chunks of 10: nothing larger than the weights is ever made."""
    assert largest_tensor(f"{spec},class_chunk=10") == 1000 * 4
    assert largest_tensor(f"{spec},class_chunk=10", training=False) == 1000 * 4
    assert largest_tensor(spec) == 1000 * 64
