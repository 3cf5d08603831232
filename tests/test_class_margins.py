"""Margins of single classes: each head with them is its own formula with a tensor of margins."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from lmsm_cli import build_head, l_softmax_loss
from lmsm_cli.errors import ArgumentError
from lmsm_cli.losses.registry import TAKE_CLASS_MARGINS
from tests.conftest import batch_at

COUNTS = torch.tensor([100, 80, 60, 40, 20])
FEATURES, WEIGHT, LABELS = batch_at()
MARGINS = {1: 1.4, 3: 1.2}


def losses_of(spec, class_margins):
    """Return the losses (N,) of the batch at the end of the training, and the head."""
    head = build_head(spec, 6, 5, COUNTS, class_margins=class_margins).double()
    with torch.no_grad():
        head.weight.copy_(WEIGHT)
    return head.losses(FEATURES, LABELS, progress=1.0), head


@pytest.mark.parametrize("spec", ["lsoftmax:margin=2", "asoftmax:margin=3"])
def test_l_softmax_is_the_functional_form_with_a_tensor(spec):
    """The losses are `l_softmax_loss` with the margins as a tensor, those not named the loss's."""
    own = {1: 3.0, 3: 1.5}
    losses, _ = losses_of(f"{spec},anneal=none" + ",weight_norm=free" * spec.startswith("l"), own)
    usual = float(spec[-1])
    margins = torch.tensor([usual, 3.0, usual, 1.5, usual], dtype=torch.float64)
    weight = functional.normalize(WEIGHT) if spec.startswith("a") else WEIGHT
    wanted = l_softmax_loss(FEATURES, weight, LABELS, margins, reduction="none")
    torch.testing.assert_close(losses, wanted)


def test_margins_of_auto_are_kept_where_none_is_named():
    """With margin=auto the classes that are not named have the margins of their counts."""
    _, auto = losses_of("lsoftmax:margin=auto", None)
    _, head = losses_of("lsoftmax:margin=auto", {0: 2.5})
    assert head.margin.tolist() == [2.5, *auto.margin.tolist()[1:]]


@pytest.mark.parametrize(
    ("spec", "usual"),
    [
        ("cosface:margin=0.3,scale=8", [0.3] * 5),
        ("ldam:max_margin=0.5,scale=8", [0.5 * (20 / n) ** 0.25 for n in COUNTS.tolist()]),
    ],
)
def test_cosine_margins_by_definition(spec, usual):
    """s (cos - m_y) for the target: cross-entropy of the logits written out."""
    losses, _ = losses_of(spec, MARGINS)
    cos = functional.normalize(FEATURES) @ functional.normalize(WEIGHT).T
    margins = torch.tensor([MARGINS.get(c, m) for c, m in enumerate(usual)], dtype=torch.float64)
    rows = torch.arange(len(LABELS))
    cos[rows, LABELS] -= margins[LABELS]
    torch.testing.assert_close(losses, functional.cross_entropy(8 * cos, LABELS, reduction="none"))


def test_arcface_by_definition():
    """s cos(theta + m_y), and cos - m sin(m) above pi - m."""
    losses, _ = losses_of("arcface:margin=0.5,scale=8", MARGINS)
    cos = functional.normalize(FEATURES) @ functional.normalize(WEIGHT).T
    for row, label in enumerate(LABELS.tolist()):
        c, m = float(cos[row, label]), MARGINS.get(label, 0.5)
        theta = math.acos(c)
        cos[row, label] = c - m * math.sin(m) if theta > math.pi - m else math.cos(theta + m)
    torch.testing.assert_close(losses, functional.cross_entropy(8 * cos, LABELS, reduction="none"))


@pytest.mark.parametrize("name", TAKE_CLASS_MARGINS)
def test_a_margin_of_a_class_changes_its_images_alone(name):
    """Only the losses of that class's images change, and their gradient is the slope."""
    plain, _ = losses_of(name, None)
    losses, head = losses_of(name, {2: 1.5})
    assert ((losses != plain) == (LABELS == 2)).all() or name == "lsoftmax"  # its lambda may move
    features = FEATURES.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: head.losses(x, LABELS, progress=1.0), (features,), atol=1e-5
    )


@pytest.mark.parametrize(
    ("spec", "class_margins", "message"),
    [
        ("lsoftmax", {1: 0.5}, "the margin of class 1 is 0.5: give .* at least 1"),
        ("cosface", {1: 3.0}, "at most 2"),
        ("arcface", {1: math.nan}, "the margin of class 1 is nan"),
        ("ldam", {7: 1.0}, "class_margins names class 7: there are 0 to 4"),
        ("softmax", {1: 2.0}, "takes no class_margins"),
        ("lsoftmax", {"frog": 2.0}, "names class 'frog': give its place, 0 to 4; build_head"),
        ("ldam", {1.5: 1.0}, "class_margins names class 1.5: give its place"),
        ("dbm", {np.True_: 1.0}, r"class_margins names class .*True.*: give its place"),
        ("cosface", {True: 1.0}, "class_margins names class True: give its place"),
        ("lsoftmax", [2.0, 3.0], r"class_margins is of type list: give .* places, as \{4: 2\}"),
        ("asoftmax", np.ones(5), "class_margins is of type ndarray: give"),
    ],
)
def test_bad_margins_are_refused(spec, class_margins, message):
    """Margins out of a loss's range, and losses without a margin, are refused."""
    with pytest.raises(ArgumentError, match=message):
        losses_of(spec, class_margins)


def test_build_head_takes_margins_by_the_names_of_classes():
    """They are those of the places, NumPy's numbers too; a name that no class has is refused."""
    names = ["cat", "dog", "frog", "ship", "deer"]
    by_name = build_head("cosface", 6, 5, class_margins={"frog": 1.5}, class_names=names)
    by_place = build_head("cosface", 6, 5, class_margins={np.int64(2): 1.5})
    assert by_name.margins.tolist() == by_place.margins.tolist()
    assert by_name.margins.tolist() == pytest.approx([0.35, 0.35, 1.5, 0.35, 0.35])
    with pytest.raises(ArgumentError, match=r"there is no class 'frgo' .did you mean 'frog'"):
        build_head("cosface", 6, 5, class_margins={"frgo": 1.5}, class_names=names)
