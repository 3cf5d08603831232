"""The heads: values worked by hand, gradients against numbers, and specs."""

import math

import pytest
import torch
from torch.nn import functional

from lmsm_cli import LSoftmaxLoss, build_head, l_softmax_loss, psi
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses.registry import check_loss
from tests.conftest import batch_at, head_with


def draw(num_images=7, num_features=5, num_classes=4, dtype=torch.float64, seed=0):
    """Random features, weights and labels that use some class twice and some never."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(num_images, num_features, generator=generator, dtype=dtype)
    weight = torch.randn(num_classes, num_features, generator=generator, dtype=dtype)
    labels = torch.randint(num_classes - 1, (num_images,), generator=generator)
    return features.requires_grad_(), weight.requires_grad_(), labels


def test_lsoftmax_by_hand():
    """x = (2, 0), w0 = (0, 1) at 90 degrees, w1 = (1, 0), m = 2: logits -2 and 2, loss ln(1 + e^4)."""
    features, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss = l_softmax_loss(features, weight, torch.tensor([0]), 2)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(4)), rel=1e-6)


def test_annealed_lsoftmax_by_hand():
    """With lambda 1 the target of the case above is halfway from 0 to -2: loss ln(1 + e^3)."""
    features, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss = l_softmax_loss(features, weight, torch.tensor([0]), 2, lam=1.0)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(3)), rel=1e-6)


def test_softmax_by_hand():
    """Two equal logits cost ln 2."""
    head = build_head("softmax", 2, 2)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    loss = head(torch.tensor([[3.0, 3.0]]), torch.tensor([1]))
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.7, 1000.0])
def test_margin_one_is_softmax(lam):
    """Margin 1 equals cross-entropy in value and in both gradients, whatever lambda."""
    features, weight, labels = draw()
    ours = torch.autograd.grad(
        l_softmax_loss(features, weight, labels, 1, lam=lam), (features, weight)
    )
    theirs = torch.autograd.grad(
        functional.cross_entropy(features @ weight.T, labels), (features, weight)
    )
    for mine, wanted in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-12)


@pytest.mark.parametrize("margin", range(1, 11))
@pytest.mark.parametrize("lam", [0.0, 0.7])
def test_gradient_is_the_slope_of_the_loss(margin, lam):
    """The closed-form gradient agrees with finite differences in float64."""
    features, weight, labels = draw()
    assert torch.autograd.gradcheck(
        lambda x, w: l_softmax_loss(x, w, labels, margin, lam=lam, reduction="none"),
        (features, weight),
    )


@pytest.mark.parametrize("margin", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("case", ["zero", "parallel", "opposite", "tiny", "huge", "zero weight"])
def test_value_and_gradient_are_finite_everywhere(margin, dtype, case):
    """Cosines of +-1, zero features, zero weights and extreme norms have finite loss and gradient."""
    weight = torch.tensor([[3.0, 4.0], [1.0, -1.0], [0.5, 0.0]], dtype=dtype)
    weight[1] = 0 if case == "zero weight" else weight[1]
    scale = {
        "zero": 0.0,
        "parallel": 2.0,
        "opposite": -2.0,
        "tiny": 1e-30,
        "huge": 1e4,
        "zero weight": 1.0,
    }
    features = (weight[:1] * scale[case]).repeat(2, 1).requires_grad_()
    weight.requires_grad_()
    loss = l_softmax_loss(features, weight, torch.tensor([0, 1]), margin, reduction="sum")
    loss.backward()
    assert loss.isfinite()
    assert features.grad.isfinite().all()
    assert weight.grad.isfinite().all()


def test_arguments_are_never_written_to():
    """Features, weights and labels are the same after forward and backward."""
    features, weight, labels = draw()
    before = [tensor.detach().clone() for tensor in (features, weight, labels)]
    l_softmax_loss(features, weight, labels, 3, lam=0.5).backward()
    assert all(torch.equal(a, b) for a, b in zip(before, (features, weight, labels), strict=True))


def test_backward_twice_gives_the_same_gradient():
    """Retaining the graph, a second backward pass finds what the first one found."""
    features, weight, labels = draw()
    loss = l_softmax_loss(features, weight, labels, 2)
    first = torch.autograd.grad(loss, (features, weight), retain_graph=True)
    second = torch.autograd.grad(loss, (features, weight))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_second_derivative_is_refused_clearly():
    """Differentiating the gradient is an error that says so, not a wrong number."""
    features, weight, labels = draw()
    loss = l_softmax_loss(features, weight, labels, 2)
    with pytest.raises(LmsmError, match="only once"):
        torch.autograd.grad(loss, features, create_graph=True)


def test_reductions():
    """`none` gives one loss an image; `sum` and `mean` are theirs."""
    features, weight, labels = draw()
    each = l_softmax_loss(features, weight, labels, 2, reduction="none")
    assert each.shape == (7,)
    assert torch.isclose(l_softmax_loss(features, weight, labels, 2, reduction="sum"), each.sum())
    assert torch.isclose(l_softmax_loss(features, weight, labels, 2), each.mean())
    with pytest.raises(LmsmError, match="reduction is 'avg'"):
        l_softmax_loss(features, weight, labels, 2, reduction="avg")


@pytest.mark.parametrize("spec", ["softmax", "lsoftmax:margin=3"])
def test_heads_compute_in_float32_under_autocast(spec):
    """Autocast neither rounds the head's arithmetic nor casts its weight."""
    head = build_head(spec, 64, 10)
    features, labels = torch.randn(8, 64).bfloat16(), torch.arange(8)
    plain = head.losses(features.float(), labels, 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head.losses(features, labels, 0.9)
        scores = head.logits(features)
    assert mixed.dtype == scores.dtype == head.weight.dtype == torch.float32
    assert torch.equal(mixed, plain)


def test_a_fresh_head_starts_near_chance():
    """With unit-variance features the first loss is about ln C, not hundreds as from N(0, 1) weights."""
    torch.manual_seed(0)
    head = build_head("softmax", 512, 10)
    loss = head(torch.randn(256, 512), torch.arange(256) % 10).item()
    assert loss == pytest.approx(math.log(10), abs=0.5)


@pytest.mark.parametrize(("margin", "lam"), [(2, 1.0), (4, 5.0)])
def test_imbalance_brings_its_own_defaults(margin, lam):
    """On a long tail a margin of 1.5 is left, and norms are shared; on near-equal classes neither."""
    tail = LSoftmaxLoss(2, 3, margin=margin, class_counts=torch.tensor([50, 20, 5]))
    flat = LSoftmaxLoss(2, 3, margin=margin, class_counts=torch.tensor([50, 47, 52]))
    assert tail.lambda_at(1.0) == lam
    assert tail.effective_margin_at(1.0) == 1.5
    assert tail.shared_norm is not None
    assert flat.lambda_at(1.0) < 0.01
    assert flat.shared_norm is None
    assert (
        LSoftmaxLoss(
            2,
            3,
            margin=margin,
            lambda_min=0.0,
            weight_norm="free",
            class_counts=torch.tensor([50, 5, 5]),
        ).shared_norm
        is None
    )


@pytest.mark.parametrize(
    ("counts", "options", "margin"),
    [
        (None, {}, 2),
        ([100, 100, 60], {}, 2),
        ([100, 50, 49], {}, "auto"),
        ([100, 50, 10], {"margin": 2}, 2),
        ([100, 100, 60], {"margin_max": 3}, "auto"),
    ],
)
def test_the_usual_margin_is_by_rarity_on_a_long_tail(counts, options, margin):
    """Twice as many images in the largest class is no long tail, more is; what is given stands."""
    class_counts = None if counts is None else torch.tensor(counts)
    head = LSoftmaxLoss(4, 3, class_counts=class_counts, **options)
    wanted = LSoftmaxLoss(4, 3, class_counts=class_counts, **options | {"margin": margin})
    torch.testing.assert_close(torch.as_tensor(head.margin), torch.as_tensor(wanted.margin))
    assert head.resolved_options() == wanted.resolved_options()
    assert head.resolved_options()["margin"] == margin


def test_margins_by_rarity_have_more_left_on_a_long_tail():
    """Under margin=auto lambda ends at 1: half of each margin above 1, up to 2.5 for the rarest class."""
    tail = LSoftmaxLoss(2, 3, margin="auto", class_counts=torch.tensor([50, 20, 5]))
    assert tail.lambda_at(1.0) == 1.0
    assert tail.margin.tolist()[::2] == [1.0, 4.0]
    assert tail.effective_margin_at(1.0) == 2.5
    assert tail.shared_norm is not None


def test_without_a_margin_the_norms_stay_free():
    """Margin 1 is softmax on a long tail too."""
    assert LSoftmaxLoss(2, 3, margin=1, class_counts=torch.tensor([50, 20, 5])).shared_norm is None


def test_annealing_is_felt_by_the_loss():
    """Early in the run the loss is softmax's within rounding, at its end the margin's."""
    torch.manual_seed(0)
    head = build_head("lsoftmax:margin=4,lambda_start=1e9,lambda_min=0", 5, 4)
    features, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 3, 0, 1])
    softmax = functional.cross_entropy(head.logits(features), labels)
    bent = l_softmax_loss(features, head.weight, labels, 4, lam=head.lambda_at(1.0))
    assert torch.isclose(head(features, labels, 0.0), softmax, atol=1e-6)
    assert torch.isclose(head(features, labels, 1.0), bent)
    assert bent > softmax


@pytest.mark.parametrize("class_chunk", [None, 2])
def test_under_detached_norms_the_margin_has_no_say_in_a_weights_length(class_chunk):
    """Gradients are those of x . w_y + |w||x| (g(cos) - cos) with |w| a constant, by autograd."""
    features, weight, labels = batch_at()
    chunk = f",class_chunk={class_chunk}" if class_chunk else ""
    head = head_with(
        f"lsoftmax:margin=2,anneal=constant,lambda_min=0.5,weight_norm=detached{chunk}", weight
    )
    x, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
    mine = torch.autograd.grad(head(x, labels, 1.0), (x, head.weight))
    rows = w[labels]
    cos = functional.cosine_similarity(x, rows)
    bent = (0.5 * cos + psi(cos, 2)) / 1.5 - cos
    target = (x * rows).sum(1) + rows.norm(dim=1).detach() * x.norm(dim=1) * bent
    logits = torch.where(functional.one_hot(labels, len(w)).bool(), target[:, None], x @ w.T)
    wanted = torch.autograd.grad(functional.cross_entropy(logits, labels), (x, w))
    for one, other in zip(mine, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_shared_norm_gives_all_classes_one_length():
    """Under weight_norm=shared every class weight in force is as long as the learned norm."""
    head = build_head("lsoftmax:weight_norm=shared", 8, 5)
    norms = head.class_weights().norm(dim=1)
    assert torch.allclose(norms, head.shared_norm.expand(5), atol=1e-6)


BAD_SPECS = [
    ("lsoftmx", "no loss 'lsoftmx' (did you mean 'lsoftmax'?)"),
    ("lsoftmax:margn=2", "no option 'margn' (did you mean 'margin'?)"),
    ("lsoftmax:margin=two", "margin is 'two': give a number or auto"),
    ("lsoftmax:margin=0", "margin is 0.0: give a number of at least 1"),
    ("lsoftmax:anneal=pwr", "no value 'pwr' (did you mean 'power'?)"),
    ("lsoftmax:lambda_min=-1", "lambda_min is -1.0"),
    ("lsoftmax:lambda_min=nan", "lambda_min is nan"),
    ("softmax:margin=2", "loss 'softmax' has no option 'margin' (known: label_smoothing)"),
    ("balanced-softmax:tau=2", "loss 'balanced-softmax' has no option 'tau' (it has none)"),
    ("lsoftmax:margin", "'margin' is not key=value"),
    ("lsoftmax:margin=2,margin=3", "'margin' is given twice"),
]


@pytest.mark.parametrize(("spec", "message"), BAD_SPECS)
def test_bad_specs_are_explained(spec, message):
    """A bad loss spec says what is wrong and the nearest right thing."""
    with pytest.raises(LmsmError) as error:
        check_loss(spec)
    assert message in str(error.value)


def test_resolved_options_rebuild_the_head():
    """Spelled out in the spec, what was worked out from the data gives the same head without it."""
    counts = torch.tensor([50, 20, 5])
    head = build_head("lsoftmax:margin=3", 6, 3, counts)
    assert head.resolved_options() == {"margin": 3, "lambda_min": 3.0, "weight_norm": "shared"}
    again = build_head("lsoftmax:margin=3,lambda_min=3,weight_norm=shared", 6, 3)
    assert again.state_dict().keys() == head.state_dict().keys()
    assert again.lambda_at(1.0) == head.lambda_at(1.0)


def test_backward_inside_autocast_is_float32():
    """Differentiating under autocast gives the gradient of full precision, bit for bit."""
    features, weight, labels = draw(num_features=64, dtype=torch.float32)
    plain = torch.autograd.grad(l_softmax_loss(features, weight, labels, 3), (features, weight))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = torch.autograd.grad(l_softmax_loss(features, weight, labels, 3), (features, weight))
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))


@pytest.mark.parametrize("margin", [0, -1, 0.99, float("nan"), float("inf"), True, "2"])
def test_bad_margins_are_refused(margin):
    """A margin that is no number of at least 1 is a ValueError, in the function and in psi."""
    features, weight, labels = draw()
    with pytest.raises(ValueError, match="margin is"):
        l_softmax_loss(features, weight, labels, margin)
    with pytest.raises(ValueError, match="margin is"):
        psi(torch.zeros(1), margin)
