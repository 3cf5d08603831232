"""Class weights against published numbers, exact arithmetic and torch's own weighted loss."""

from decimal import Decimal, localcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from lmsm_cli.config import Config
from lmsm_cli.data.imbalance import long_tail_counts
from lmsm_cli.errors import ArgumentError, LmsmError
from lmsm_cli.losses.class_weights import loss_weights, weights_by_name
from lmsm_cli.losses.registry import HEADS, build_head
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.device import Runtime
from lmsm_cli.training.loop import class_weights
from lmsm_cli.training.step import LossModule

CIFAR10_LT = torch.tensor(long_tail_counts([5000] * 10, "exp", 0.01))


def test_the_published_weights_of_cifar10_lt():
    """CIFAR-10 at exp 0.01 and beta 0.9999 has the ten weights of LDAM-DRW."""
    published = [0.051, 0.077, 0.121, 0.195, 0.319, 0.525, 0.868, 1.443, 2.409, 3.993]
    weights = loss_weights(CIFAR10_LT, "effective")
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx(published, abs=0.0006)


def test_inverse_by_hand():
    """1 : 1/3 : 1/4 over classes of 1, 3 and 4 images, brought to the sum 3."""
    weights = loss_weights(torch.tensor([1, 3, 4]), "inverse")
    assert weights.tolist() == pytest.approx([36 / 19, 12 / 19, 9 / 19])


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.9999, 1 - 1e-9, 1 - 1e-13, 1 - 2**-53])
def test_effective_is_exact_however_near_beta_is_to_one(beta):
    """The weights are those of 60-digit arithmetic on the definition."""
    counts = [1, 7, 50, 5000, 1_000_000]
    with localcontext(prec=60):
        raw = [(1 - Decimal(beta)) / (1 - Decimal(beta) ** n) for n in counts]
        wanted = [float(5 * value / sum(raw)) for value in raw]
    weights = loss_weights(torch.tensor(counts), "effective", beta=beta)
    assert weights.tolist() == pytest.approx(wanted, rel=1e-6)


@given(
    st.lists(st.integers(1, 10**7), min_size=2, max_size=30),
    st.sampled_from(["none", "inverse", "effective"]),
    # the package flushes subnormal numbers, and hypothesis will not draw them then
    st.floats(0, 1, exclude_max=True, allow_subnormal=False),
)
def test_weights_sum_to_the_number_of_classes_and_favour_the_rare(counts, scheme, beta):
    """Whatever the counts: positive, finite, summing to C, never more for the larger class."""
    weights = loss_weights(torch.tensor(counts), scheme, beta=beta)
    assert weights.sum().item() == pytest.approx(len(counts), rel=1e-5)
    assert weights.min() > 0
    ordered = weights[torch.tensor(counts).argsort(descending=True)]
    assert (ordered.diff() >= -1e-6 * ordered[1:]).all()


@pytest.mark.parametrize("scheme", ["inverse", "effective"])
def test_a_class_without_images_is_named(scheme):
    """No infinite and no silent weight: the class without images is an error."""
    with pytest.raises(ArgumentError, match="class 1 has 0 training images"):
        loss_weights(torch.tensor([5, 0, 3]), scheme)
    assert loss_weights(torch.tensor([5, 0, 3]), "none").tolist() == [1, 1, 1]


@pytest.mark.parametrize("beta", [1.0, -0.1, float("nan")])
def test_a_beta_out_of_range_is_refused(beta):
    """Beta 1 would divide by zero."""
    with pytest.raises(ArgumentError, match="beta is"):
        loss_weights(torch.tensor([5, 3]), "effective", beta=beta)


def test_an_unknown_scheme_names_the_nearest():
    """A misspelt scheme is refused with the one that was meant."""
    with pytest.raises(ArgumentError, match="did you mean 'inverse'"):
        loss_weights(torch.tensor([5, 3]), "invers")


def classifier(loss, num_classes):
    """Return a net whose features are its images of six pixels, scaled."""
    head = build_head(loss, 6, num_classes, torch.arange(num_classes, 0, -1))
    return Classifier(
        nn.Flatten(), nn.Identity(), head, classes="abcdefghij", mean=(0.5,), std=(0.3,)
    )


def weighted_loss(model, images, labels, weights):
    """Return the loss that a step minimises."""
    total = weights[labels].sum()
    return LossModule(model, Runtime(torch.device("cpu")), 0.0)(
        images, labels, torch.tensor(0.7), weights, total
    )[0]


def test_weighted_losses_are_torchs():
    """Softmax losses, re-weighted, and their gradients are cross_entropy's with `weight`."""
    torch.manual_seed(0)
    model = classifier("softmax", 10)
    images, labels = torch.randint(256, (32, 1, 2, 3)).byte(), torch.randint(10, (32,))
    weights = loss_weights(CIFAR10_LT, "effective")
    ours = weighted_loss(model, images, labels, weights)
    torchs = functional.cross_entropy(model(images), labels, weight=weights)
    torch.testing.assert_close(ours, torchs)
    gradients = [torch.autograd.grad(value, model.head.weight)[0] for value in (ours, torchs)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("loss", HEADS)
def test_a_whole_weight_is_a_repetition_of_the_image(loss):
    """Under every loss, weights 1, 2, 3 give the plain mean over images given 1, 2, 3 times."""
    torch.manual_seed(0)
    model = classifier(loss, 3)
    images, labels = torch.randint(256, (12, 1, 2, 3)).byte(), torch.arange(12) % 3
    ours = weighted_loss(model, images, labels, torch.tensor([1.0, 2.0, 3.0]))
    repeated = torch.arange(12).repeat_interleave(labels + 1)
    wanted = model.head(model.embed(images[repeated]), labels[repeated], 0.7)
    torch.testing.assert_close(ours, wanted)


def test_weights_by_hand_are_one_where_none_is_given():
    """Each named class has its weight, all others 1, in the order of the classes."""
    weights = weights_by_name({"ship": 3.0, "cat": 0.5}, ["cat", "dog", "ship"])
    assert weights.tolist() == [0.5, 1.0, 3.0]


def test_weights_of_unknown_classes_name_the_nearest():
    """A class that is not there is refused with the nearest right one."""
    with pytest.raises(LmsmError, match=r"class_weights: there is no class 'dgo' .*'dog'"):
        weights_by_name({"dgo": 2.0}, ["cat", "dog"])


def test_weights_by_hand_multiply_those_by_counts():
    """With counts 1, 3 and 4 and `inverse`, a class of weight 2 has twice its share."""
    config = Config(reweight="inverse", class_weights={"b": 2.0})
    weights = class_weights(config, [1, 3, 4], ["a", "b", "c"])
    assert weights.tolist() == pytest.approx([36 / 19, 24 / 19, 9 / 19])
    by_hand = class_weights(Config(class_weights={"b": 2.0}), [1, 3, 4], ["a", "b", "c"])
    assert by_hand.tolist() == [1, 2, 1]
    assert class_weights(Config(), [1, 3, 4], ["a", "b", "c"]) is None
