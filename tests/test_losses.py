"""L-Softmax as a function and as a head: what it computes, its defaults, and specs."""

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


@pytest.mark.parametrize("lam", [0, 1])
def test_lsoftmax_by_hand(lam):
    """x = (2, 0), w0 = (0, 1) at 90 degrees, w1 = (1, 0), m = 2: logits -2 and 2, loss ln(1 + e^4).

    With lambda 1 the target is halfway from 0 to -2: loss ln(1 + e^3).
    """
    features, weight = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    loss = l_softmax_loss(features, weight, torch.tensor([0]), 2, lam=lam)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(4 - lam)), rel=1e-6)


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


def test_a_fresh_head_starts_near_chance():
    """With unit-variance features the first loss is about ln C, not hundreds."""
    torch.manual_seed(0)
    head = build_head("softmax", 512, 10)
    loss = head(torch.randn(256, 512), torch.arange(256) % 10).item()
    assert loss == pytest.approx(math.log(10), abs=0.5)


@pytest.mark.parametrize(("margin", "lam"), [(2, 1.0), (4, 5.0)])
def test_imbalance_brings_its_own_defaults(margin, lam):
    """On a long tail a margin of 1.5 is left and norms are shared; on equal classes neither."""
    tail = LSoftmaxLoss(2, 3, margin=margin, class_counts=torch.tensor([50, 20, 5]))
    flat = LSoftmaxLoss(2, 3, margin=margin, class_counts=torch.tensor([50, 47, 52]))
    assert tail.lambda_at(1.0) == lam
    assert tail.effective_margin_at(1.0) == 1.5
    assert tail.shared_norm is not None
    assert flat.lambda_at(1.0) < 0.01
    assert flat.shared_norm is None
    for given in ({"margin": margin, "lambda_min": 0.0, "weight_norm": "free"}, {"margin": 1}):
        head = LSoftmaxLoss(2, 3, class_counts=torch.tensor([50, 5, 5]), **given)
        assert head.shared_norm is None  # as it was asked for, and margin 1 is softmax


@pytest.mark.parametrize(
    ("counts", "options", "margin"),
    [
        (None, {}, 2),
        ([100, 100, 60], {}, 2),
        ([100, 50, 49], {}, "tail"),
        ([100, 50, 10], {"tau": 0.5}, "tail"),
        ([100, 50, 10], {"margin": 2}, 2),
        ([100, 50, 10], {"margin_max": 3}, "auto"),
        ([100, 100, 60], {"margin_max": 3}, "auto"),
        ([100, 100, 60], {"margin_power": 1}, "auto"),
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


def test_margins_of_a_long_tail_are_small_and_have_the_prior():
    """By hand: 1 + 0.3 (1/n - 1/50) / (1/5 - 1/50), which is 1.05 for 20 images; ln of 50/75 up."""
    counts = torch.tensor([50, 20, 5])
    tail = LSoftmaxLoss(2, 3, margin="tail", class_counts=counts)
    torch.testing.assert_close(tail.margin, torch.tensor([1.0, 1.05, 1.3]))
    wanted = [math.log(50 / 75), math.log(20 / 75), math.log(5 / 75)]
    torch.testing.assert_close(tail.prior, torch.tensor(wanted))
    assert tail.lambda_at(1.0) < 0.01
    assert tail.shared_norm is not None
    assert tail.prior_strength == 1


@pytest.mark.parametrize(
    ("spec", "margin", "tau", "lam"),
    [
        ("lsoftmax:margin=tail,tau=0", 1.3, 0, 0),
        ("lsoftmax:margin=tail,margin_max=2", 2.0, 1, 1),
        ("lsoftmax:margin=tail,margin_min=1.5", 1.5, 1, 0),
        ("lsoftmax:margin=tail,lambda_min=3", 1.3, 1, 3),
    ],
)
def test_each_choice_of_a_long_tail_can_be_another(spec, margin, tau, lam):
    """Of a larger margin 1.5 is left in force, as of a margin that is one number."""
    head = build_head(spec, 2, 3, torch.tensor([50, 20, 5]))
    assert head.margin.max().item() == pytest.approx(margin)
    assert head.prior_strength == tau
    assert head.lambda_min == pytest.approx(lam)


def test_margins_by_rarity_have_more_left_on_a_long_tail():
    """With margin=auto lambda ends at 1: half of each margin above 1, 2.5 for the rarest class."""
    tail = LSoftmaxLoss(2, 3, margin="auto", class_counts=torch.tensor([50, 20, 5]))
    assert tail.lambda_at(1.0) == 1.0
    assert tail.margin.tolist()[::2] == [1.0, 4.0]
    assert tail.effective_margin_at(1.0) == 2.5
    assert tail.shared_norm is not None


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


BAD_SPECS = [
    ("lsoftmx", "no loss 'lsoftmx' (did you mean 'lsoftmax'?)"),
    ("lsoftmax:margn=2", "no option 'margn' (did you mean 'margin'?)"),
    ("lsoftmax:margin=two", "margin is 'two': give a number, auto or tail"),
    ("lsoftmax:margin=0", "margin is 0.0: give a number of at least 1"),
    ("lsoftmax:anneal=pwr", "no value 'pwr' (did you mean 'power'?)"),
    ("lsoftmax:lambda_min=-1", "lambda_min is -1.0"),
    ("lsoftmax:margin_power=-1", "margin_power is -1.0: give a finite number of at least 0"),
    ("lsoftmax:margin=2,margin_power=1", "are choices of margin=auto and margin=tail; margin is 2"),
    ("lsoftmax:margin_on=hrad", "no value 'hrad' (did you mean 'hard'?)"),
    ("lsoftmax:feature_norm=0", "feature_norm is 0.0: give a finite number of at least 0.001"),
    ("lsoftmax:weight_norm=monoton", "no value 'monoton' (did you mean 'monotone'?)"),
    ("dbm:max_margin=2", "max_margin is 2.0: give a finite number of at least 0 and at most 1.57"),
    ("lsoftmax:lambda_min=nan", "lambda_min is nan"),
    (
        "softmax:margin=tail",
        "loss 'softmax' has no option 'margin' (known: label_smoothing); it goes with lsoftmax\n",
    ),
    (
        "softmax:margin=2",
        "loss 'softmax' has no option 'margin' (known: label_smoothing); it goes with "
        "lsoftmax, asoftmax, cosface, arcface",
    ),
    (
        "balanced-softmax:tau=2",
        "no option 'tau' (it has none); it goes with lsoftmax, dbm, logit-adjusted, vs",
    ),
    ("softmax:max_margin=2", "(known: label_smoothing); it goes with ldam, dbm"),
    ("softmax:strength=2", "(known: label_smoothing); it goes with large-margin-in-softmax"),
    ("lsoftmax:margin", "'margin' is not key=value"),
    ("lsoftmax:margin=2,margin=3", "'margin' is given twice"),
]


@pytest.mark.parametrize(("spec", "message"), BAD_SPECS)
def test_bad_specs_are_explained(spec, message):
    """A bad loss spec says what is wrong and the nearest right thing."""
    with pytest.raises(LmsmError) as error:
        check_loss(spec)
    assert message in f"{error.value}\n"


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


def test_an_unknown_argument_names_the_nearest():
    """A misspelt keyword, of annealing too, is Python's TypeError with the one that was meant."""
    for name, nearest in (("lambda_mni", "lambda_min"), ("margn", "margin")):
        with pytest.raises(TypeError, match=f"LSoftmaxLoss .*'{name}' .did you mean '{nearest}'"):
            LSoftmaxLoss(4, 3, **{name: 2})
