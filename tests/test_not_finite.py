"""NaN in, NaN out: no head takes what is no number for a vector without a direction."""

import math

import pytest
import torch

from lmsm_cli import build_head, l_softmax_loss, psi
from lmsm_cli.losses.class_weights import loss_weights
from lmsm_cli.losses.registry import HEADS
from lmsm_cli.losses.sharded import sharded_l_softmax_loss
from lmsm_cli.losses.weights import unit
from tests.conftest import batch_at, head_with
from tests.test_heads import FULL_MARGINS, OPTIONS, SPECS

NAN, INF = math.nan, math.inf
EVERY = [*SPECS, *FULL_MARGINS, *OPTIONS, "focal:gamma=0", "large-margin-in-softmax:strength=0"]
ON_ANGLES = [name for name, head in HEADS.items() if head.normalises]

every_head = pytest.mark.parametrize("spec", EVERY)
in_each_mode = pytest.mark.parametrize("training", [True, False])


@every_head
@in_each_mode
@pytest.mark.parametrize("place", [0, slice(None)])
def test_a_feature_that_is_nan_is_a_nan_loss_of_its_image_alone(spec, training, place):
    """One NaN in an image's features, or all of them: its loss and scores are NaN, no other's."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight).train(training)
    whole = head.losses(features, labels, 0.9).detach()
    features[3, place] = NAN
    losses, scores = head.losses(features, labels, 0.9), head.logits(features)
    hurt = torch.arange(len(labels)) == 3
    assert losses[hurt].isnan().all()
    assert scores[hurt].isnan().all()
    assert torch.equal(losses[~hurt], whole[~hurt])
    assert not scores[~hurt].isnan().any()
    assert head(features, labels, 0.9).isnan()


@every_head
@in_each_mode
@pytest.mark.parametrize("row", [1, 4])
def test_a_class_weight_that_is_nan_is_a_nan_loss_of_every_image(spec, training, row):
    """Every image is compared to it, whether the batch has images of its class (1) or not (4)."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight).train(training)
    head.weight.data[row, 2] = NAN
    assert head.losses(features, labels, 0.9).isnan().all()
    assert head.logits(features)[:, row].isnan().all()


@every_head
def test_nan_reaches_the_gradients(spec):
    """An image that is NaN leaves no parameter of the head with a gradient that looks healthy."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    features[3, 0] = NAN
    head(features, labels, 0.9).backward()
    assert all(parameter.grad.isnan().any() for parameter in head.parameters())


@every_head
@in_each_mode
@pytest.mark.parametrize("value", [INF, -INF, 1e25])
@pytest.mark.parametrize("where", ["features", "weight"])
def test_what_is_beyond_the_range_is_never_a_finite_wrong_loss(spec, training, value, where):
    """Infinity, and a number whose square is: the loss is that of float64, or it is not finite."""
    features, weight, labels = batch_at(dtype=torch.float32)
    {"features": features, "weight": weight}[where][1, 2] = value
    exact = head_with(spec, weight.double()).train(training)
    head = head_with(spec, weight).train(training)
    losses, scores = head.losses(features, labels, 0.9), head.logits(features)
    for found, wanted in (
        (losses, exact.losses(features.double(), labels, 0.9)),
        (scores, exact.logits(features.double())),
    ):
        is_right = torch.isclose(found.double(), wanted, rtol=1e-3, atol=1e-3)
        assert (is_right | ~found.isfinite()).all()
    if value in (INF, -INF) and where == "features":
        assert not losses[1].isfinite()


@pytest.mark.parametrize("margin", [1, 1.5, 2, 3, 4, 4.5])
@pytest.mark.parametrize("chunk", [None, 1, 2, 9])
@pytest.mark.parametrize("lam", [0.0, 0.7])
def test_the_function_keeps_nan(margin, chunk, lam):
    """`l_softmax_loss` too: in one image, in a class with images and in one without."""
    options = {"margin": margin, "class_chunk": chunk, "lam": lam, "reduction": "none"}
    features, weight, labels = batch_at(dtype=torch.float32)
    one = features.index_put((torch.tensor(3), torch.tensor(0)), torch.tensor(NAN))
    losses = l_softmax_loss(one, weight, labels, **options)
    assert losses.isnan().nonzero().flatten().tolist() == [3]
    for row in (1, 4):
        broken = weight.index_put((torch.tensor(row), torch.tensor(0)), torch.tensor(NAN))
        assert l_softmax_loss(features, broken, labels, **options).isnan().all()


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.usefixtures("one_rank")
def test_the_sharded_loss_keeps_nan(chunk):
    """With the classes over ranks: in one image, in a class with images and in one without."""
    features, weight, labels = batch_at(dtype=torch.float32)
    options = {"margin": 2, "first_class": 0, "class_chunk": chunk, "reduction": "none"}
    one = features.index_put((torch.tensor(3), torch.tensor(0)), torch.tensor(NAN))
    losses = sharded_l_softmax_loss(one, weight, labels, **options)
    assert losses.isnan().nonzero().flatten().tolist() == [3]
    for row in (1, 4):
        broken = weight.index_put((torch.tensor(row), torch.tensor(0)), torch.tensor(NAN))
        assert sharded_l_softmax_loss(features, broken, labels, **options).isnan().all()


@pytest.mark.parametrize("margin", [1, 1.5, 2, 3, 4, torch.tensor([1.0, 2.7, 4.0])])
def test_psi_keeps_nan(margin):
    """psi of NaN, and its slope, are NaN; those of the numbers beside it are not."""
    cos = torch.tensor([0.5, NAN, -0.5], requires_grad=True)
    value = psi(cos, margin)
    (slope,) = torch.autograd.grad(value.sum(), cos)
    assert value.isnan().tolist() == [False, True, False]
    if not (isinstance(margin, int) and margin == 1):  # whose slope is 1 everywhere
        assert slope.isnan().tolist() == [False, True, False]


def test_only_what_has_no_length_has_no_direction():
    """Of zeros, tiny numbers, NaN, infinity and an overflow, only the first two give zeros."""
    vectors = torch.tensor(
        [[0.0, 0.0], [1e-30, 0.0], [NAN, 1.0], [INF, 1.0], [1e25, 1e25], [3.0, 4.0]]
    )
    directions = unit(vectors)
    assert directions[:2].tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert directions[2:5].isnan().any(dim=1).all()
    torch.testing.assert_close(directions[5], torch.tensor([0.6, 0.8]))


@pytest.mark.parametrize("count", [NAN, INF, 0.0, -3.0])
@pytest.mark.parametrize("scheme", ["inverse", "effective"])
def test_class_weights_of_counts_that_are_none_are_refused(count, scheme):
    """No weight is worked out from a number of images that is not finite or below one."""
    with pytest.raises(ValueError, match="class 1 has"):
        loss_weights(torch.tensor([5.0, count, 3.0]), scheme)


def test_no_loss_of_a_broken_net_is_that_of_chance():
    """The bug that was found: all features NaN, and a loss of ln 5 that looks healthy."""
    labels = torch.arange(8) % 5
    for spec in ON_ANGLES:
        head = build_head(spec, 16, 5, torch.tensor([9, 8, 7, 6, 5]))
        assert head(torch.full((8, 16), NAN), labels, 0.5).isnan(), spec
