"""The contract of every head: shapes, types, copies, finiteness and gradients."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.utils.checkpoint import checkpoint

from lmsm_cli import LSoftmaxLoss, build_head, l_softmax_loss
from lmsm_cli.losses.annealed_head import AnnealedHead
from lmsm_cli.losses.options import options_of
from lmsm_cli.losses.registry import HEADS, TAKE_A_BIAS
from tests.conftest import batch_at, head_with

SPECS = [
    *HEADS,
    "lsoftmax:margin=1.5",
    "lsoftmax:margin=auto",
    "lsoftmax:margin=tail",
    "lsoftmax:margin=3,tau=1",
    "lsoftmax:weight_norm=shared",
    "lsoftmax:weight_norm=detached",
    "lsoftmax:weight_norm=monotone",
    "lsoftmax:margin_power=1",
    "lsoftmax:margin_on=hard",
    "lsoftmax:feature_norm=8",
    "lsoftmax:class_chunk=3",
    "asoftmax:class_chunk=2",
    "cosface:class_chunk=2",
    "arcface:class_chunk=1",
]
HALF = [torch.float16, torch.bfloat16]

every_head = pytest.mark.parametrize("spec", SPECS)


def kind(spec):
    """Return the class of a spec's loss."""
    return HEADS[spec.partition(":")[0]]


def gradients(head, features, labels, progress=1.0):
    """Return the gradients of features and parameters of the mean loss."""
    features = features.detach().clone().requires_grad_()
    loss = head(features, labels, progress)
    return torch.autograd.grad(loss, (features, *head.parameters()))


@every_head
def test_weight_is_made_in_float32(spec):
    """A new head owns a float32 weight, (C, D), that can be trained."""
    weight = build_head(spec, 6, 5, torch.tensor([9, 8, 7, 6, 5])).weight
    assert weight.shape == (5, 6)
    assert weight.dtype == torch.float32
    assert weight.requires_grad


@every_head
def test_shapes(spec):
    """Scores are (N, C), losses (N,), and the loss is their mean."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    losses = head.losses(features, labels, 0.5)
    assert head.logits(features).shape == (10, 5)
    assert losses.shape == (10,)
    assert head(features, labels, 0.5).item() == pytest.approx(losses.mean().item(), rel=1e-6)


@every_head
def test_nothing_is_written_to(spec):
    """Features, labels, counts and parameters are the same bits after forward and backward."""
    features, weight, labels = batch_at(dtype=torch.float32)
    counts = torch.tensor([9, 8, 7, 6, 5])
    head = head_with(spec, weight, counts)
    given = features.requires_grad_() * 1.0  # no leaf, so that autograd would let a write pass
    held = [given, labels, counts, *head.parameters()]
    before = [tensor.detach().clone() for tensor in held]
    head(given, labels, 0.9).backward()
    head.logits(given)
    assert all(torch.equal(a, b) for a, b in zip(before, held, strict=True))


CASES = {"zero": 0.0, "zero weight": 2.0, "parallel": 2.0, "opposite": -2.0, "across": 2.0}
# Squares stay within the range of the loss; below 1e-12 a vector has no direction.
EXTREME = {
    torch.float16: {"huge": 1e4, "tiny": 1e-7},
    torch.bfloat16: {"huge": 1e18, "small": 1e-11, "tiny": 1e-30},
    torch.float32: {"huge": 1e18, "small": 1e-11, "tiny": 1e-30},
    torch.float64: {"huge": 1e150, "small": 1e-11, "tiny": 1e-30},
}


# a power below 1 is steep where nothing is missing any more
@pytest.mark.parametrize(
    "spec",
    [
        *SPECS,
        "lsoftmax:margin=1.5,anneal=none",
        "lsoftmax:margin=10,anneal=none",
        "lsoftmax:margin=2.7,margin_on=hard,weight_norm=monotone,feature_norm=3,tau=1,anneal=none",
        "dbm:max_margin=1.57,margin_power=0",
        "focal:gamma=0.5",
    ],
)
@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
def test_finite_everywhere(spec, dtype):
    """Loss and gradients are finite without an angle, at cosines of 0 and +-1, at extreme norms.

    The gradient of a tiny feature at a fixed length is scale / |x|, which float16 may not hold: it
    is float32's, rounded.
    """
    wide = torch.float32 if dtype in HALF else dtype
    for case, scale in (CASES | EXTREME[dtype]).items():
        weight = torch.tensor([[3.0, 4.0], [1.0, -1.0], [0.5, 0.0], [-1.0, 2.0]], dtype=wide)
        weight[1] = 0 if case == "zero weight" else weight[1]
        labels = torch.tensor([0, 1, 2])
        features = weight[:1].repeat(3, 1) if case == "zero weight" else weight[labels]
        if case == "across":
            features = torch.stack([-features[:, 1], features[:, 0]], dim=1)
        features, head = (scale * features).to(dtype), head_with(spec, weight)
        found = [head.losses(features, labels, 1.0), *gradients(head, features, labels)]
        if dtype == torch.float16 and case == "tiny":
            of_float32 = gradients(head, features.float(), labels)[0]
            assert torch.equal(found[1], of_float32.half())
            found[1] = of_float32 if head.feature_norm else found[1]
        assert all(values.isfinite().all() for values in found), case


@every_head
@pytest.mark.parametrize("dtype", HALF)
def test_half_features_are_computed_in_float32(spec, dtype):
    """Half features give the float32 losses of the same numbers, and a half gradient."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head, features = head_with(spec, weight), features.to(dtype)
    assert head.logits(features).dtype == torch.float32
    assert torch.equal(
        head.losses(features, labels, 1.0), head.losses(features.float(), labels, 1.0)
    )
    for_features, *for_parameters = gradients(head, features, labels)
    assert for_features.dtype == dtype
    assert all(gradient.dtype == torch.float32 for gradient in for_parameters)
    assert all(parameter.dtype == torch.float32 for parameter in head.parameters())


@every_head
def test_autocast_changes_nothing(spec):
    """Under autocast scores, losses and gradients are those of full precision, bit for bit."""
    features, weight, labels = batch_at(num_features=32, dtype=torch.float32)
    head = head_with(spec, weight)
    found = []
    for enabled in (False, True):
        given = features.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            scores, losses = head.logits(given), head.losses(given, labels, 0.9)
        slopes = torch.autograd.grad(losses.mean(), (given, *head.parameters()))
        found.append([scores, losses, *slopes])
    assert all(torch.equal(plain, mixed) for plain, mixed in zip(*found, strict=True))


@every_head
def test_logits_carry_no_margin_and_no_prior(spec):
    """Scores are w.x, of the directions alone where the head normalises, however long the tail."""
    features, weight, _ = batch_at()
    scores = head_with(spec, weight, torch.tensor([500, 100, 50, 10, 2])).logits(features)
    x, w = features.numpy(), weight.numpy()
    if "features" in kind(spec).normalises or "feature_norm" in spec:
        length = 32 if spec == "dbm" else 8 if "feature_norm=8" in spec else 30
        x = length * x / np.linalg.norm(x, axis=1, keepdims=True)
    if "weights" in kind(spec).normalises:
        w = w / np.linalg.norm(w, axis=1, keepdims=True)
    if spec.startswith("lsoftmax") and "detached" not in spec:  # shared on a long tail
        norms = 1.3 + 0.1 * np.arange(5)[:, None] if "monotone" in spec else 1.3
        w = norms * w / np.linalg.norm(w, axis=1, keepdims=True)
    np.testing.assert_allclose(
        scores.detach().numpy(), x @ w.T, rtol=1e-6, err_msg=f"see normalises of {kind(spec)}"
    )


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_logits_come_together_as_apart(spec, dtype):
    """The same bits of both, and of the gradients; no later step writes into the logits."""
    features, weight, labels = batch_at()
    head = head_with(spec, weight).float()
    found = []
    for together in (True, False):
        head.zero_grad()
        given = features.to(dtype).requires_grad_()
        if together:
            losses, logits = head.losses_and_logits(given, labels, 0.3)
            assert not logits.requires_grad
        else:
            losses, logits = head.losses(given, labels, 0.3), head.logits(given).detach()
        losses.sum().backward()
        slopes = [one.grad for one in head.parameters() if one.grad is not None]
        found.append([losses.detach(), logits, given.grad, *slopes])
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_score_scale_is_what_multiplies_the_cosines(spec, dtype):
    """It is the mean of score over cosine of all pairs of a feature and a class weight."""
    features, weight, _ = batch_at(dtype=dtype)
    head = head_with(spec, weight)
    x, w = features.double().numpy(), weight.double().numpy()
    cosines = x @ w.T / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(w, axis=1))
    times = head.double().logits(features.double()).detach().numpy() / cosines
    rel = 1e-9 if dtype == torch.float64 else 1e-6
    scale = head_with(spec, weight).score_scale(features)
    assert scale.item() == pytest.approx(times.mean(), rel=rel)
    assert (scale.shape, scale.dtype) == ((), torch.float64)


def test_score_scale_by_hand():
    """Features of lengths 5 and 0, class weights of 1, 2 and 6: 2.5 times 3, whatever the bias."""
    head = build_head("softmax", 2, 3, bias=True)
    head.weight.data = torch.tensor([[1.0, 0.0], [0.0, -2.0], [6.0, 0.0]])
    features = torch.tensor([[3.0, -4.0], [0.0, 0.0]])
    assert head.score_scale(features).item() == pytest.approx(7.5)
    assert head.score_scale(features.half()).item() == pytest.approx(7.5)
    assert head.score_scale(1e30 * features).item() == pytest.approx(7.5e30)
    assert head.score_scale(1e-30 * features).item() == pytest.approx(7.5e-30)
    assert head.score_scale(0 * features).item() == 0
    head = head_with("cosface:scale=30", head.weight.data)
    assert head.score_scale(features[:1]).item() == pytest.approx(30)
    with pytest.raises(ValueError, match="SoftmaxLoss: features have shape"):
        build_head("softmax", 4, 3).score_scale(features)


@every_head
def test_state_dict_is_the_weight(spec):
    """Nothing but what is learned is saved: priors and margins come back from the class counts."""
    norms = {"shared_norm"} if "shared" in spec else {"rising.norms"} if "mono" in spec else set()
    assert head_with(spec, torch.randn(5, 6)).state_dict().keys() == {"weight", *norms}


ANNEALED = [spec for spec in SPECS if issubclass(kind(spec), AnnealedHead)]
OTHERS = [spec for spec in SPECS if spec not in ANNEALED]
ANNEALED += ["lsoftmax:anneal=none", "asoftmax:margin=1", "lsoftmax:anneal=constant,lambda_min=2"]


@pytest.mark.parametrize("spec", ANNEALED)
def test_a_margin_in_training_asks_for_the_progress(spec):
    """Without one the full margin would hold from the first step: the error has two ways out."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    for call in (head, head.losses):
        with pytest.raises(ValueError, match=r"progress is not given.*progress=.*total_steps="):
            call(features, labels)
        with pytest.raises(ValueError, match=r"progress is not given"):
            call(features, labels, None)  # as others call a loss, with None for what it mines


@pytest.mark.parametrize("spec", OTHERS)
def test_a_loss_without_annealing_needs_no_progress(spec):
    """Its losses are the same with any progress and with none."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    for progress in (0, 0.3, 1.0, torch.tensor(0.5)):
        assert torch.equal(head.losses(features, labels), head.losses(features, labels, progress))


@pytest.mark.parametrize("spec", [*SPECS, "lsoftmax:anneal=none", "softmax:label_smoothing=0.3"])
def test_in_evaluation_the_loss_has_no_margin(spec):
    """After eval() it is the cross-entropy of the scores; in training the margin is back."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    before = head.losses(features, labels, 1.0)
    head.eval()
    scores = head.logits(features).detach().double()
    wanted = -scores.log_softmax(dim=1)[torch.arange(len(labels)), labels]
    for progress in (None, 0.2):
        losses, mean = head.losses(features, labels, progress), head(features, labels, progress)
        np.testing.assert_allclose(losses.detach(), wanted, rtol=1e-4, atol=1e-5)
        assert mean.item() == pytest.approx(wanted.mean().item(), rel=1e-4)
    assert torch.equal(head.train().losses(features, labels, 1.0), before)


def counted(spec="lsoftmax:margin=4", total_steps=4, **batch):
    """Return a head that counts its calls, its twin that must be told, features and labels."""
    features, weight, labels = batch_at(**({"dtype": torch.float32} | batch))
    twin = head_with(spec, weight)
    head = build_head(spec, 6, 5, total_steps=total_steps).to(weight.dtype)
    head.load_state_dict(twin.state_dict())
    return head, twin, features, labels


@pytest.mark.parametrize("spec", ["lsoftmax:margin=4", "asoftmax", "lsoftmax:anneal=cosine"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_total_steps_stands_in_for_the_progress(spec, dtype):
    """The calls of a training of four have the losses of progress 0, 1/4, 1/2, 3/4 and then 1."""
    head, twin, features, labels = counted(spec, dtype=dtype)
    for progress in (0, 0.25, 0.5, 0.75, 1, 1, 1):
        torch.testing.assert_close(
            head(features, labels), twin(features, labels, progress), rtol=1e-6, atol=0
        )


def test_what_counts_as_a_step():
    """A call in training with gradients counts; none without them, in evaluation, or refused."""
    head, twin, features, labels = counted()
    head(features, labels)
    with torch.no_grad():
        for _ in range(5):
            torch.testing.assert_close(
                head(features, labels), twin(features, labels, 0.25), rtol=1e-6, atol=0
            )
    head.eval()(features, labels)
    head.train().logits(features)
    with pytest.raises(ValueError, match="labels have shape"):
        head(features, labels[:2])
    assert head.calls.item() == 1
    assert "total_steps=4" in repr(head)
    # what is given holds
    assert torch.equal(head(features, labels, 0.5), twin(features, labels, 0.5))


def test_the_count_is_saved():
    """A training that goes on from a saved state goes on with its lambda, bit for bit."""
    head, twin, features, labels = counted()
    for _ in range(3):
        head(features, labels)
    state = copy.deepcopy(head.state_dict())
    assert state["calls"].item() == 3
    again = build_head("lsoftmax:margin=4", 6, 5, total_steps=4)
    again.load_state_dict(state)
    assert torch.equal(again(features, labels), head(features, labels))
    assert again.calls.item() == 4
    assert copy.deepcopy(again).calls.item() == 4
    twin.load_state_dict(state)  # one without the count takes such a state too
    assert torch.equal(twin.weight, again.weight)
    assert "calls" not in twin.state_dict()


def test_a_state_from_before_the_count_loads():
    """A state dict without the buffer loads, alone and inside a model, and the count stays."""
    head, twin, features, labels = counted()
    head(features, labels)
    head.load_state_dict(twin.state_dict())
    assert head.calls.item() == 1
    nn.ModuleDict({"head": head}).load_state_dict(nn.ModuleDict({"head": twin}).state_dict())
    nn.ModuleDict({"head": twin}).load_state_dict(nn.ModuleDict({"head": head}).state_dict())
    with pytest.raises(RuntimeError, match="strange"):
        head.load_state_dict(twin.state_dict() | {"strange": torch.zeros(1)})


def test_a_compiled_step_counts_too():
    """Compiled without a break, calls one after the other see lambda fall."""
    head, twin, features, labels = counted("lsoftmax:margin=1.5", dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    for progress in (0, 0.25, 0.5, 0.75, 1):
        wanted = twin(features, labels, progress).item()
        assert compiled(features, labels).item() == pytest.approx(wanted, rel=1e-6)


def stepped(head, features, labels, call):
    """Return the losses of five steps by a call of the head, with the gradients of the features."""
    steps = []
    for _ in range(5):
        leaf = features.detach().clone().requires_grad_()
        loss = call(leaf, labels)
        loss.backward()
        steps.append((loss.item(), leaf.grad.norm().item()))
    return steps


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_call_that_checkpointing_repeats_counts_once(reentrant, compiled):
    """Losses and gradients are those of the progress 0, 1/4, 1/2, 3/4, 1, as without it."""
    head, twin, features, labels = counted(
        "lsoftmax:margin=1.5,lambda_start=10", dtype=torch.float64
    )
    progresses = iter([0, 0.25, 0.5, 0.75, 1])
    wanted = stepped(twin, features, labels, lambda *batch: twin(*batch, next(progresses)))
    torch.compiler.reset()
    called = torch.compile(head, fullgraph=True, backend="aot_eager") if compiled else head
    steps = stepped(
        head, features, labels, lambda *batch: checkpoint(called, *batch, use_reentrant=reentrant)
    )
    np.testing.assert_allclose(steps, wanted, rtol=1e-6)
    assert head.calls.item() == 5


def test_checkpointing_inside_of_what_is_compiled_counts_once():
    """Compiled without a break, around a checkpoint of the head, the steps are the same ones."""
    head, twin, features, labels = counted(
        "lsoftmax:margin=1.5,lambda_start=10", dtype=torch.float64
    )
    wanted = stepped(head, features, labels, head)
    torch.compiler.reset()
    again = build_head("lsoftmax:margin=1.5,lambda_start=10", 6, 5, total_steps=4).double()
    again.load_state_dict(twin.state_dict())

    @torch.compile(fullgraph=True, backend="aot_eager")
    def compiled(features, labels):
        return checkpoint(again, features, labels, use_reentrant=False)

    np.testing.assert_allclose(stepped(again, features, labels, compiled), wanted, rtol=1e-6)
    assert again.calls.item() == 5


def test_total_steps_is_no_option_of_a_spec():
    """A command line has its own count: specs refuse it, and so they refuse a bias."""
    for option in ("total_steps", "bias"):
        assert all(option not in options_of(head) for head in HEADS.values())
        with pytest.raises(ValueError, match=f"has no option '{option}'"):
            build_head(f"lsoftmax:{option}=3", 6, 5)
    assert build_head("softmax", 6, 5, total_steps=3).weight.shape == (5, 6)  # which needs none


@pytest.mark.parametrize("spec", TAKE_A_BIAS)
def test_a_bias_is_another_feature_that_is_always_one(spec):
    """A head with a bias is one with another feature of value 1, in losses, scores, gradients."""
    features, weight, labels = batch_at()
    counts = torch.tensor([500, 100, 50, 10, 2])
    head = build_head(spec, 6, 5, counts, bias=True).double()
    head.weight.data = weight
    wide = head_with(spec, torch.cat([weight, head.bias.detach()[:, None]], dim=1), counts)
    padded = torch.cat([features, torch.ones(len(features), 1)], dim=1)
    for ours, wanted in [(head, wide), (head.eval(), wide.eval())]:
        torch.testing.assert_close(ours.losses(features, labels), wanted.losses(padded, labels))
    torch.testing.assert_close(head.logits(features), wide.logits(padded))
    assert has_the_gradient_of_its_losses(head.train(), features, labels)


def test_a_bias_is_there_on_request_alone():
    """It starts as nn.Linear's, within 1 / sqrt(D); heads on angles refuse it by name."""
    for spec in HEADS:
        counts = torch.tensor([9, 8, 7, 6, 5])
        assert build_head(spec, 16, 5, counts).bias is None
        if spec in TAKE_A_BIAS:
            head = build_head(spec, 16, 5, counts, bias=True)
            assert head.bias.shape == (5,)
            assert 0 < head.bias.abs().max() <= 1 / 4
            assert head.state_dict().keys() == {"weight", "bias"}
            assert "bias=True" in repr(head)
        else:
            with pytest.raises(ValueError, match=f"loss '{spec}' takes no bias.*softmax"):
                build_head(spec, 16, 5, counts, bias=True)


def test_starts_of_the_class_weights():
    """Rows have norms of sqrt(1/3) by nn.Linear's start, sqrt(2) by He et al.'s, 1 by `unit`."""
    torch.manual_seed(0)
    for init, wanted in (("default", 3**-0.5), ("kaiming", 2**0.5), ("unit", 1.0)):
        weight = build_head("softmax", 512, 200, init=init).weight.detach()
        torch.testing.assert_close(weight.norm(dim=1).mean().item(), wanted, rtol=0.02, atol=0)
        assert abs(weight.mean().item()) < 0.01
    kaiming = build_head("softmax", 512, 200, init="kaiming").weight.detach()
    assert kaiming.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)  # N(0, 2 / D)
    assert kaiming.abs().max() > 3 * (2 / 512) ** 0.5  # normal, not uniform
    shared = build_head("lsoftmax:weight_norm=shared", 512, 200, init="kaiming")
    assert shared.shared_norm.item() == pytest.approx(2**0.5, rel=0.02)


TAILS = torch.tensor([5000, 997, 50, 3, 1])


@pytest.mark.parametrize(
    ("spec", "strength"),
    [
        ("logit-adjusted:tau=0.7", 0.7),
        ("balanced-softmax", 1.0),
        ("vs:gamma=0,tau=1.3", 1.3),
        ("lsoftmax:margin=1,tau=0.4", 0.4),
        ("dbm:max_margin=0,tau=0.6", 0.6),
        ("softmax", 0.0),
    ],
)
def test_prior_strength_is_what_is_in_the_loss(spec, strength):
    """The loss is the cross-entropy of scores + strength ln pi, as a later correction assumes."""
    features, weight, labels = batch_at()
    head = head_with(spec, weight, TAILS)
    prior = (TAILS.double() / TAILS.sum()).log()
    shifted = head.logits(features) + head.prior_strength * prior
    wanted = nn.functional.cross_entropy(shifted, labels, reduction="none")
    torch.testing.assert_close(head.losses(features, labels, 1.0), wanted, rtol=1e-9, atol=1e-9)
    assert head.prior_strength == strength


@pytest.mark.parametrize(
    ("spec", "name", "wanted"),
    [
        ("logit-adjusted", "prior", lambda n: np.log(n / n.sum())),
        ("balanced-softmax", "log_counts", np.log),
        ("vs", "factors", lambda n: (n / n.max()) ** 0.3),
        ("vs", "prior", lambda n: np.log(n / n.sum())),
        ("ldam", "margins", lambda n: 0.5 * (n.min() / n) ** 0.25),
        ("dbm", "margins", lambda n: 0.1 * n.min() / n),
        ("dbm:margin_power=0.25", "margins", lambda n: 0.1 * (n.min() / n) ** 0.25),
        ("dbm:tau=0.5", "prior", lambda n: 0.5 * np.log(n / n.sum())),
        ("lsoftmax:tau=0.3,margin=2", "prior", lambda n: 0.3 * np.log(n / n.sum())),
        (
            "lsoftmax:margin=auto",
            "margin",
            lambda n: 1 + 3 * (n**-0.25 - n.max() ** -0.25) / (n.min() ** -0.25 - n.max() ** -0.25),
        ),
        ("lsoftmax:margin=tail", "prior", lambda n: np.log(n / n.sum())),
        (
            "lsoftmax:margin_power=1",
            "margin",
            lambda n: 1 + 3 * (1 / n - 1 / n.max()) / (1 / n.min() - 1 / n.max()),
        ),
    ],
)
def test_constants_are_as_exact_as_the_head(spec, name, wanted):
    """Constants of the counts are float64 in a double head, and exact again after half."""
    exact = wanted(TAILS.numpy().astype(np.float64))
    head = build_head(spec, 4, 5, TAILS)
    for move, dtype, digits in (
        (lambda head: head, torch.float32, 1e-6),
        (lambda head: head.bfloat16(), torch.float32, 1e-6),
        (lambda head: head.double(), torch.float64, 1e-14),
        (lambda head: copy.deepcopy(head).double(), torch.float64, 1e-14),
        (lambda head: nn.Sequential(head).double()[0], torch.float64, 1e-14),
    ):
        constant = getattr(move(head), name)
        assert constant.dtype == dtype
        np.testing.assert_allclose(constant.numpy(), exact, rtol=digits, atol=digits)
    assert name not in head.state_dict()
    mine = torch.full((5,), 1.5)
    setattr(head, name, mine)  # a user's own stay his
    assert torch.equal(getattr(head.double(), name), mine.double())


@every_head
def test_options_are_shown(spec):
    """Printing a head shows its sizes and the values it was given, and no option that is None."""
    shown = repr(head_with(spec, torch.randn(5, 6)))
    assert "num_features=6, num_classes=5" in shown
    assert "None" not in shown
    for given in spec.partition(":")[2].split(","):
        assert given.replace("auto", "1..4").replace("tail", "1..1.3") in shown


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("softmax", ""),
        ("softmax:label_smoothing=0.1", ", label_smoothing=0.1"),
        (
            "lsoftmax",
            ", margin=2, anneal=power, lambda_start=1000.0, lambda_min=0.0, gamma=0.36, power=45.0",
        ),
        ("lsoftmax:margin=2,anneal=none", ", margin=2, anneal=none"),
        ("lsoftmax:anneal=constant,lambda_min=1", ", margin=2, anneal=constant, lambda_min=1.0"),
        (
            "lsoftmax:weight_norm=shared,anneal=linear,anneal_end=0.5",
            ", margin=2, weight_norm=shared, anneal=linear, lambda_start=10.0, lambda_min=0.0, "
            "anneal_end=0.5",
        ),
        ("cosface", ", margin=0.35, scale=30.0"),
    ],
)
def test_what_changes_nothing_is_not_shown(spec, shown):
    """Defaults without an effect, and options that a form of annealing has not, stay away."""
    wanted = f"Loss(num_features=6, num_classes=5{shown})"
    assert repr(build_head(spec, 6, 5)).partition("Loss")[2] == wanted[4:]


@every_head
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))])
def test_copies_give_the_same_losses(spec, copied):
    """A copied or unpickled head gives the same losses, on a weight of its own."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    twin = copied(head)
    assert torch.equal(head.losses(features, labels, 0.7), twin.losses(features, labels, 0.7))
    assert head.weight.data_ptr() != twin.weight.data_ptr()


@every_head
def test_double_computes_in_float64(spec):
    """head.double() takes float64 features, gives float64 losses, near the float32 ones."""
    features, weight, labels = batch_at(dtype=torch.float32)
    head = head_with(spec, weight)
    single = head.losses(features, labels, 1.0).tolist()
    losses = head.double().losses(features.double(), labels, 1.0)
    assert losses.dtype == head.logits(features.double()).dtype == torch.float64
    assert losses.tolist() == pytest.approx(single, rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("spec", ["lsoftmax:margin=1.5,tau=1,class_chunk=3", "arcface"])
def test_compiles_to_one_graph(spec):
    """Compiled without a break, with the progress as a tensor, loss and gradients are the same."""
    features, weight, labels = batch_at()
    head, progress = head_with(spec, weight), torch.tensor(0.8, dtype=torch.float64)
    torch.compiler.reset()
    compiled = torch.compile(head, fullgraph=True, backend="aot_eager")
    assert compiled(features, labels, progress).item() == pytest.approx(
        head(features, labels, 0.8).item(), rel=1e-7
    )
    pairs = zip(
        gradients(compiled, features, labels, progress),
        gradients(head, features, labels, 0.8),
        strict=True,
    )
    assert all(torch.allclose(ours, wanted, rtol=1e-6, atol=1e-9) for ours, wanted in pairs)


class Losses(nn.Module):
    """The losses of each image as a module, so that parameters can be handed in as arguments."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, features, labels):
        """Return the losses at the end of the training."""
        return self.head.losses(features, labels, 1.0)


def has_the_gradient_of_its_losses(head, features, labels):
    """Return whether the gradients of features and parameters agree with finite differences."""
    names = [f"head.{name}" for name, _ in head.named_parameters()]

    def losses(x, *parameters):
        return torch.func.functional_call(
            Losses(head), dict(zip(names, parameters, strict=True)), (x, labels)
        )

    given = [p.detach().clone().requires_grad_() for p in (features, *head.parameters())]
    return torch.autograd.gradcheck(losses, given)


FULL_MARGINS = [
    f"{name}:margin={m},anneal=none"
    for name in ("lsoftmax", "asoftmax")
    for m in (1, 1.5, 2, 2.7, 3, 4, 5)
]
OPTIONS = [
    "softmax:label_smoothing=0.1",
    "focal:gamma=0.5",
    "large-margin-in-softmax:strength=2",
    "lsoftmax:margin=2.7,tau=1,weight_norm=shared,class_chunk=2,anneal=constant,lambda_min=0.5",
    "arcface:margin=1.2,scale=4",
    "cosface:scale=3",
    "ldam:scale=2",
    "dbm:max_margin=1.2,scale=4",
    "lsoftmax:margin=2.7,margin_on=hard,weight_norm=monotone,feature_norm=3,tau=1,anneal=none",
    "lsoftmax:margin=2,margin_on=hard,class_chunk=2,anneal=none",
]


# A detached norm is left out of the gradient on purpose: tests/test_losses.py has its definition.
SLOPES = [spec for spec in (*SPECS, *FULL_MARGINS, *OPTIONS) if "detached" not in spec]


@pytest.mark.parametrize("spec", SLOPES)
def test_gradient_is_the_slope_of_the_losses(spec):
    """In float64 the gradient agrees with finite differences on every branch of every margin."""
    features, weight, labels = batch_at(num_classes=4, num_features=3)
    assert has_the_gradient_of_its_losses(head_with(spec, weight), features, labels)


@pytest.mark.parametrize("chunk", [None, 2])
def test_gradient_of_margins_per_class(chunk):
    """The same with a margin for each class, whole ones and others."""
    features, weight, labels = batch_at(num_classes=4, num_features=3)
    margins = torch.tensor([1.0, 2.7, 4.0, 1.5], dtype=torch.float64)
    head = LSoftmaxLoss(3, 4, margin=margins, anneal="none", class_chunk=chunk).double()
    head.weight.data = weight
    assert has_the_gradient_of_its_losses(head, features, labels)


def on_a_target_that_has_won(margin, loss):
    """Return a float32 batch scaled so that its first image has the given L-Softmax loss."""
    features, weight, labels = batch_at([8.0, 5.0], num_classes=4, dtype=torch.float32)
    reached = brentq(
        lambda s: won_losses(s * features.double(), weight, labels, margin)[0] / loss - 1, 1, 200
    )
    return reached * features, weight, labels


def won_losses(features, weight, labels, margin):
    """Liu et al. 2016, eq. 4, in float64 for angles below pi / margin, where psi = cos(m theta)."""
    x, w = features.double().numpy(), weight.double().numpy()
    y = labels.numpy()
    scores, lengths = x @ w.T, np.linalg.norm(x, axis=1) * np.linalg.norm(w[y], axis=1)
    theta = np.arccos(np.take_along_axis(scores, y[:, None], 1)[:, 0] / lengths)
    target = lengths * np.cos(margin * theta)
    others = np.stack([np.delete(row, label) for row, label in zip(scores, y, strict=True)])
    return np.log1p(np.exp(others - target[:, None]).sum(1))


@pytest.mark.parametrize("margin", [1, 1.5, 2, 4])
@pytest.mark.parametrize("chunk", [None, 3])
def test_confident_losses_keep_their_digits(margin, chunk):
    """A loss of 1e-12 is right to five digits in float32, where a log-softmax is 0, and pulls.

    The rounding of the cosine comes back times the slope of psi, at most m^2.
    """
    features, weight, labels = on_a_target_that_has_won(margin, 1e-12)
    features.requires_grad_()
    losses = l_softmax_loss(features, weight, labels, margin, class_chunk=chunk, reduction="none")
    wanted = won_losses(features.detach(), weight, labels, margin)
    assert wanted[0] == pytest.approx(1e-12, rel=1e-3)
    np.testing.assert_allclose(losses.detach().numpy(), wanted, rtol=1e-5 * margin**2)
    (gradient,) = torch.autograd.grad(losses[0], features)
    assert gradient.isfinite().all()
    # a step down the gradient lowers the loss by what the gradient promises
    step = 1e-3 * (gradient[0] / gradient[0].norm()).double()
    moved = features.detach().double().clone()
    moved[0] -= step
    fall = wanted[0] - won_losses(moved, weight, labels, margin)[0]
    assert fall == pytest.approx((gradient[0].double() @ step).item(), rel=0.02)
