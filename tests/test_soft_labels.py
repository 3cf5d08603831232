"""Smoothed and mixed labels equal their definitions in float64, for every head."""

import pytest
import torch
from torch.nn import functional

from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.registry import TAKE_A_BIAS, build_head
from lmsm_cli.losses.soft_labels import Second, soft_losses_and_logits
from tests.conftest import batch_at, head_with
from tests.test_heads import SPECS

WHOLE = [spec for spec in SPECS if "class_chunk" not in spec]
every_head = pytest.mark.parametrize("spec", SPECS)
every_whole_head = pytest.mark.parametrize("spec", WHOLE)
COUNTS = torch.tensor([500, 100, 50, 10, 2])
WEIGHTS = torch.tensor([0.1, 0.3, 0.9, 1.5, 2.2], dtype=torch.float64)


def soft_losses(*given, **options):
    """Return the losses alone."""
    return soft_losses_and_logits(*given, **options)[0]


def with_gradients(head, features, losses_of):
    """Return losses (N,) and the gradients of their weighted sum by features and parameters."""
    given = features.detach().clone().requires_grad_()
    losses = losses_of(given)
    coefficients = torch.linspace(0.5, 1.5, losses.numel(), dtype=losses.dtype)
    slopes = torch.autograd.grad(
        (losses.flatten() * coefficients).sum(), (given, *head.parameters())
    )
    return [losses.detach(), *slopes]


def assert_close(found, wanted, tolerance=1e-9):
    """Compare losses and gradients."""
    for own, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(own, expected, rtol=tolerance, atol=tolerance)


@every_whole_head
@pytest.mark.parametrize("progress", [0.3, 1.0])
def test_losses_of_all_labels_are_the_losses_of_each(spec, progress):
    """Column c and its gradients are those of `losses` with c as every image's label."""
    features, weight, _ = batch_at()
    head = head_with(spec, weight, COUNTS)

    def one_by_one(given):
        labels = torch.arange(5).repeat(len(given), 1)
        return torch.stack([head.losses(given, labels[:, c], progress) for c in range(5)], dim=1)

    found = with_gradients(head, features, lambda given: head.losses_of_all_labels(given, progress))
    assert_close(found, with_gradients(head, features, one_by_one))


@every_whole_head
def test_they_keep_their_digits_where_the_label_has_won(spec):
    """Losses of 1e-20 and of 1e3 are as exact as those of `losses`, and gradients are finite."""
    features, weight, _ = batch_at()
    head = head_with(spec, weight, COUNTS)
    for scale in (30.0, 0.0, 1e-30):
        given = (scale * features).requires_grad_()
        found = head.losses_of_all_labels(given, 1.0)
        for c in range(5):
            wanted = head.losses(given, torch.full((len(given),), c), 1.0)
            torch.testing.assert_close(found[:, c], wanted, rtol=1e-7, atol=0)
        slopes = torch.autograd.grad(found.sum(), (given, *head.parameters()))
        assert all(slope.isfinite().all() for slope in slopes)


@every_whole_head
@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_label_smoothing_is_its_definition(spec, smoothing):
    """(1 - e) L(y) + e / C sum_c L(c), with the class weight of y, and the gradients of that."""
    features, weight, labels = batch_at()
    head = head_with(spec, weight, COUNTS)

    def definition(given):
        uniform = sum(head.losses(given, torch.full_like(labels, c), 0.7) for c in range(5)) / 5
        own = head.losses(given, labels, 0.7)
        return WEIGHTS[labels] * ((1 - smoothing) * own + smoothing * uniform)

    found = with_gradients(
        head,
        features,
        lambda given: soft_losses(
            head, given, labels, 0.7, label_smoothing=smoothing, weights=WEIGHTS
        ),
    )
    assert_close(found, with_gradients(head, features, definition))


@every_head
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_two_labels_are_their_definition(spec, smoothing):
    """p w_y S(y) + (1 - p) w_z S(z) with each label's class weight, and the gradients of that."""
    if smoothing and spec not in WHOLE:
        pytest.skip("a smoothed label needs all classes at once")
    features, weight, labels = batch_at()
    head = head_with(spec, weight, COUNTS)
    others = labels.roll(3)
    second = Second(others, torch.tensor(0.7, dtype=torch.float64))

    def smoothed(given, wanted):
        losses = (1 - smoothing) * head.losses(given, wanted, 0.7)
        for c in range(5 if smoothing else 0):
            losses = losses + smoothing / 5 * head.losses(given, torch.full_like(labels, c), 0.7)
        return WEIGHTS[wanted] * losses

    def definition(given):
        return 0.7 * smoothed(given, labels) + (1 - 0.7) * smoothed(given, others)

    found = with_gradients(
        head,
        features,
        lambda given: soft_losses(
            *(head, given, labels, 0.7),
            second=second,
            label_smoothing=smoothing,
            weights=WEIGHTS,
        ),
    )
    assert_close(found, with_gradients(head, features, definition))


@every_head
def test_plain_labels_are_the_losses_bit_for_bit(spec):
    """Without smoothing, second labels and weights nothing is computed anew."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    found = soft_losses(head, features, labels, 0.5)
    assert torch.equal(found, head.losses(features, labels, 0.5))


def test_for_softmax_smoothing_and_mixing_are_cross_entropy_with_soft_targets():
    """torch's own cross-entropy with class probabilities, and softmax's option, say the same."""
    features, weight, labels = batch_at()
    head = head_with("softmax", weight)
    second = Second(labels.roll(1), torch.tensor(0.8, dtype=torch.float64))
    found = soft_losses(head, features, labels, 0.5, second=second, label_smoothing=0.2)
    targets = 0.8 * functional.one_hot(labels, 5) + 0.2 * functional.one_hot(second.labels, 5)
    targets = 0.8 * targets + 0.2 / 5
    logits = features @ weight.T
    torch.testing.assert_close(
        found, functional.cross_entropy(logits, targets.double(), reduction="none")
    )
    own = head_with("softmax:label_smoothing=0.2", weight).losses(features, labels)
    flagged = soft_losses(head, features, labels, 0.5, label_smoothing=0.2)
    torch.testing.assert_close(own, flagged)


@pytest.mark.parametrize("spec", TAKE_A_BIAS)
def test_a_bias_has_its_part(spec):
    """With a bias too, each column is the loss of its label."""
    features, _, _ = batch_at()
    head = build_head(spec, 6, 5, COUNTS, bias=True).double()
    found = head.losses_of_all_labels(features, 1.0)
    for c in range(5):
        wanted = head.losses(features, torch.full((len(features),), c), 1.0)
        torch.testing.assert_close(found[:, c], wanted, rtol=1e-12, atol=1e-12)


@every_whole_head
def test_after_eval_they_are_the_plain_cross_entropy(spec):
    """No margin, prior or smoothing is left, as in `losses`."""
    features, weight, _ = batch_at()
    head = head_with(spec, weight, COUNTS).eval()
    found = head.losses_of_all_labels(features, 1.0)
    torch.testing.assert_close(found, -head.logits(features).log_softmax(dim=1))


@pytest.mark.parametrize("spec", ["lsoftmax:class_chunk=3", "cosface:class_chunk=2"])
def test_chunks_of_classes_are_refused_by_name(spec):
    """All classes at once is what class_chunk was to avoid."""
    features, weight, _ = batch_at()
    with pytest.raises(ArgumentError, match=r"class_chunk is .: a smoothed label needs the scores"):
        head_with(spec, weight).losses_of_all_labels(features, 1.0)
