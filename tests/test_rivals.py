"""The values of every loss: by hand, by the papers' formulas, by pytorch-metric-learning."""

import math

import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as pml
from scipy.special import log_softmax, softmax

from lmsm_cli import l_softmax_loss
from lmsm_cli.losses.registry import HEADS
from tests.conftest import batch_at, head_with

# pytorch-metric-learning hands tensors to a SciPy function
scipy_on_tensors = pytest.mark.filterwarnings(
    "ignore:__array_wrap__ must accept context:DeprecationWarning"
)

COUNTS = torch.tensor([500, 16, 81, 10, 2])  # a long tail

ACROSS = [[0, 1], [1, 0]]
RIGHT = [[1, 3**0.5], [0.5, 0]]  # at 60 degrees, and still the larger score
HAND = [
    # spec, class weights, class counts, loss
    ("softmax", ACROSS, [1, 1], math.log(1 + math.e**2)),
    ("lsoftmax:margin=1.5,anneal=none", ACROSS, [1, 1], math.log(1 + math.e ** (2 + 2**0.5))),
    (
        "lsoftmax:margin=auto,margin_max=2,margin_power=1,anneal=none,weight_norm=free",
        [[0, 1], [1, 0], [0, 0]],
        [2, 4, 1],
        math.log(1 + math.e**3 + math.e),
    ),
    (
        "lsoftmax:margin=1.5,feature_norm=4,anneal=none",
        ACROSS,
        [1, 1],
        math.log(1 + math.e ** (4 + 8**0.5)),
    ),
    ("lsoftmax:margin=2,margin_on=all,anneal=none", RIGHT, [1, 1], math.log(1 + math.e**3)),
    ("lsoftmax:margin=2,margin_on=hard,anneal=none", RIGHT, [1, 1], math.log(1 + 1 / math.e)),
    ("lsoftmax:margin=2,margin_on=hard,anneal=none", ACROSS, [1, 1], math.log(1 + math.e**4)),
    (
        "lsoftmax:margin=2,tau=2,anneal=none,weight_norm=free",
        ACROSS,
        [3, 1],
        math.log(1 + math.e**4 / 9),
    ),
    (
        "lsoftmax:margin=2,weight_norm=monotone,anneal=none",
        [[0, 3], [5, 0]],
        [2, 1],
        math.log(1 + math.e**5.4),
    ),
    ("asoftmax:margin=2,anneal=none", [[0, 3], [5, 0]], [1, 1], math.log(1 + math.e**4)),
    ("cosface:margin=0.5,scale=4", [[0, 3], [5, 0]], [1, 1], math.log(1 + math.e**6)),
    (f"arcface:margin={math.pi / 6},scale=4", [[0, 3], [5, 0]], [1, 1], math.log(1 + math.e**6)),
    (
        "large-margin-in-softmax:strength=0.4",
        [[0, 1], [0, 3], [math.log(3) / 2, 0]],
        [1, 1, 1],
        math.log(5) + math.log(3) / 20,
    ),
    ("ldam:max_margin=0.5,scale=4", [[0, 3], [5, 0]], [16, 1], math.log(1 + math.e**5)),
    (
        f"dbm:max_margin={math.pi / 3},scale=4",
        [[0, 3], [5, 0]],
        [3, 1],
        math.log(1 + math.e**6 / 3),
    ),
    (
        f"dbm:max_margin={math.pi / 6},scale=4",
        [[0.5, 0.75**0.5], [0, 1]],
        [1, 1],
        math.log(1 + 1),
    ),
    ("balanced-softmax", ACROSS, [3, 1], math.log(1 + math.e**2 / 3)),
    ("logit-adjusted:tau=2", ACROSS, [3, 1], math.log(1 + math.e**2 / 9)),
    ("vs:gamma=0.5,tau=1", [[2, 1], [1, 0]], [1, 4], math.log(1 + 4)),
    ("focal:gamma=2", ACROSS, [1, 1], math.log(1 + math.e**2) * (1 - 1 / (1 + math.e**2)) ** 2),
]


@pytest.mark.parametrize(("spec", "weight", "counts", "wanted"), HAND)
def test_by_hand(spec, weight, counts, wanted):
    """One image x = (2, 0) of class 0, whose class weight stands at 90 degrees to it (not in vs).

    softmax: scores 0 and 2. lsoftmax, margin 1.5: psi(90) = cos 135 = -1/sqrt 2, so -sqrt 2 and 2.
    lsoftmax, auto: 1/n is 1/2 between 1/4 and 1, so the margin is 1 + (1/4) / (3/4) = 4/3 and psi
    (90) = cos 120: -1, 2 and 0. Features of length 4: 4 cos 135 = -sqrt 8 and 4. On all images psi
    (60) = cos 120 with |w||x| = 4: -2 and 1; on hard ones the scores 2 and 1 stay, the larger is
    right; at 90 degrees the image is wrong: psi(90) = -1, -2 and 2. With tau 2 and priors 3 to 1
    it is -2 + 2 ln 3 and 2. Monotone: lengths are 1.3, and 1.4 of the rarer class: -2.6 and 2.8.
    asoftmax, margin 2: psi(90) = -1, |x| = 2, so -2 and 2, whatever the lengths of the weights.
    cosface: 4 (0 - 1/2) = -2 and 4. arcface, 30 degrees: 4 cos 120 = -2 and 4.
    large-margin-in-softmax: scores 0, 0, ln 3; the cross-entropy is ln 5, the others' softmax
    (1/4, 3/4): 0.2 [(1/4 - 1/2) ln 1/4 + (3/4 - 1/2) ln 3/4] = 0.05 ln 3.
    ldam: the class of 16 has half the margin of the class of 1, 4 (0 - 1/4) = -1 and 4.
    dbm, a wrong image: its class of 3 has a third of 60 degrees, and half of that more at 90: 4 cos
    120 = -2 and 4, priors 3 to 1. A right one, 30 degrees: 4 cos(60 + 30) = 0 and 0.
    balanced-softmax: 3 e^0 against 1 e^2. logit-adjusted, tau 2: 9 against 1.
    vs: scores 4 and 2, the rare one times sqrt(1/4): 2 and 2, priors 1/5 and 4/5.
    focal: p = 1 / (1 + e^2), ln(1 + e^2) times (1 - p)^2.
    """
    head = head_with(spec, torch.tensor(weight, dtype=torch.float64), torch.tensor(counts))
    loss = head(torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([0]), 1.0)
    assert loss.item() == pytest.approx(wanted, rel=1e-6)


def test_every_head_has_a_number_worked_by_hand():
    """A new loss needs a row above, with its derivation."""
    missing = HEADS.keys() - {spec.partition(":")[0] for spec, *_ in HAND}
    assert not missing, f"add a row to HAND for {sorted(missing)}"


# The formulas below take features x (N, D), class weights w (C, D), labels y (N,), counts n (C,).


def cross_entropy(z, y):
    """Return -ln softmax(z)_y for each row."""
    return -np.take_along_axis(log_softmax(z, axis=1), y[:, None], 1)[:, 0]


def unit(v):
    """Return the rows at length 1."""
    return v / np.sqrt((v * v).sum(1, keepdims=True))


def with_target(z, y, target):
    """Return the scores with other ones for the labels."""
    return np.where(
        np.arange(z.shape[1]) == y[:, None], np.broadcast_to(target, y.shape)[:, None], z
    )


def angles(x, w, y):
    """Return the angle of each image to its own class weight."""
    return np.arccos((unit(x) * unit(w)[y]).sum(1).clip(-1, 1))


def l_softmax(margin, lam=0.0, tau=0.0):
    """Liu et al. 2016, eq. 4 to 6 and section 5.1; tau ln pi is added last (Menon et al. 2021)."""

    def losses(x, w, y, n):
        theta = angles(x, w, y)
        m = np.broadcast_to(margin(n) if callable(margin) else margin, n.shape)[y]
        k = np.floor(theta * m / np.pi)
        psi = (-1) ** k * np.cos(m * theta) - 2 * k
        lengths = np.linalg.norm(w, axis=1)[y] * np.linalg.norm(x, axis=1)
        target = (lam * lengths * np.cos(theta) + lengths * psi) / (1 + lam)
        return cross_entropy(with_target(x @ w.T, y, target) + tau * np.log(n / n.sum()), y)

    return losses


def rising_margins(n):
    """The margins of `auto`: from 1 to 4, linear in n^(-1/4)."""
    rare = n**-0.25
    return 1 + 3 * (rare - rare.min()) / (rare.max() - rare.min())


def steep_margins(n):
    """The margins of `auto` with margin_power 1: from 1 to 3, linear in 1/n."""
    return 1 + 2 * (1 / n - 1 / n.max()) / (1 / n.min() - 1 / n.max())


def on_hard(x, w, y, n):
    """L-Softmax of margin 3 where another class has a larger score, softmax elsewhere."""
    z = x @ w.T
    return np.where(z.argmax(axis=1) == y, cross_entropy(z, y), l_softmax(3)(x, w, y, n))


def dbm(x, w, y, n):
    """Son et al. 2025, eq. 5 to 8, K = 0.3; past pi as `dbm_margin` says. s = 32, tau = 1."""
    cos, theta = unit(x) @ unit(w).T, angles(x, w, y)
    margin = 0.3 * n.min() / n[y]
    margin = np.where(cos.argmax(axis=1) == y, margin, margin * (1 + (1 - np.cos(theta)) / 2))
    turned = np.where(
        theta + margin <= np.pi, np.cos(theta + margin), np.cos(theta) + np.cos(margin) - 1
    )
    return cross_entropy(32 * with_target(cos, y, turned) + np.log(n / n.sum()), y)


def cosface(x, w, y, n):
    """Wang et al. 2018, eq. 4: s = 30, m = 0.35."""
    cos = unit(x) @ unit(w).T
    return cross_entropy(30 * with_target(cos, y, np.cos(angles(x, w, y)) - 0.35), y)


def arcface(x, w, y, n):
    """Deng et al. 2019, eq. 3; past pi the authors' fallback cos - m sin m. s = 30, m = 0.5."""
    theta = angles(x, w, y)
    target = np.where(theta + 0.5 <= np.pi, np.cos(theta + 0.5), np.cos(theta) - 0.5 * np.sin(0.5))
    return cross_entropy(30 * with_target(unit(x) @ unit(w).T, y, target), y)


def large_margin_in_softmax(x, w, y, n):
    """Kobayashi 2019: CE + 0.3 / 2 sum over j != y of (q_j - 1/(C-1)) ln q_j, class by class."""
    losses = []
    for scores, label in zip(x @ w.T, y, strict=True):
        others = [j for j in range(len(scores)) if j != label]
        total = sum(math.exp(scores[j]) for j in others)
        spread = sum(
            (math.exp(scores[j]) / total - 1 / len(others)) * math.log(math.exp(scores[j]) / total)
            for j in others
        )
        plain = -math.log(math.exp(scores[label]) / (total + math.exp(scores[label])))
        losses.append(plain + 0.3 / 2 * spread)
    return losses


def ldam(x, w, y, n):
    """LDAM-DRW's losses.py: margins 1/sqrt(sqrt(n)), scaled to at most 0.5; s = 30."""
    margins = 1.0 / np.sqrt(np.sqrt(n))
    margins = margins * (0.5 / margins.max())
    cos = unit(x) @ unit(w).T
    return cross_entropy(30 * (cos - np.eye(len(n))[y] * margins[y][:, None]), y)


def balanced_softmax(x, w, y, n):
    """Ren et al. 2020, eq. 3: the softmax with each exponential n_j times."""
    terms = n * np.exp(x @ w.T)
    return -np.log(terms[np.arange(len(y)), y] / terms.sum(1))


def logit_adjusted(x, w, y, n):
    """Menon et al. 2021, eq. 10, tau 1.5: ln(1 + sum_{j != y} (pi_j/pi_y)^tau e^(z_j - z_y))."""
    z, prior, at = x @ w.T, n / n.sum(), np.arange(len(y))
    terms = (prior / prior[y][:, None]) ** 1.5 * np.exp(z - z[at, y][:, None])
    terms[at, y] = 0
    return np.log1p(terms.sum(1))


def vector_scaling(x, w, y, n):
    """VS-Loss's losses.py: cross-entropy of z times (n / n_max)^0.3 plus 1.2 ln pi."""
    return cross_entropy(x @ w.T * (n / n.max()) ** 0.3 + 1.2 * np.log(n / n.sum()), y)


def focal(gamma):
    """Lin et al. 2017, eq. 4, on the softmax probability of the label."""

    def losses(x, w, y, n):
        p = np.take_along_axis(softmax(x @ w.T, axis=1), y[:, None], 1)[:, 0]
        return -((1 - p) ** gamma) * np.log(p)

    return losses


def smoothed(x, w, y, n):
    """Szegedy et al. 2016, section 7: the cross-entropy with 0.9 of the label and 0.1 uniform."""
    wanted = 0.9 * np.eye(len(n))[y] + 0.1 / len(n)
    return -(wanted * log_softmax(x @ w.T, axis=1)).sum(1)


FORMULAS = [
    ("softmax", lambda x, w, y, n: cross_entropy(x @ w.T, y)),
    ("softmax:label_smoothing=0.1", smoothed),
    *(
        (
            f"lsoftmax:margin={m},anneal=constant,lambda_min={lam},weight_norm=free",
            l_softmax(m, lam),
        )
        for m in (1.5, 2, 2.7, 3, 4, 5)
        for lam in (0, 0.7)
    ),
    ("lsoftmax:margin=auto,anneal=none,weight_norm=free", l_softmax(rising_margins)),
    (
        "lsoftmax:margin=auto,margin_max=3,margin_power=1,anneal=none,weight_norm=free",
        l_softmax(steep_margins),
    ),
    ("lsoftmax:margin=3,margin_on=hard,anneal=none,weight_norm=free", on_hard),
    (
        "lsoftmax:margin=3,feature_norm=7,anneal=none,weight_norm=free",
        lambda x, w, y, n: l_softmax(3)(7 * unit(x), w, y, n),
    ),
    (  # by rarity: the counts are 500, 16, 81, 10, 2
        "lsoftmax:margin=2,anneal=none,weight_norm=monotone",
        lambda x, w, y, n: l_softmax(2)(
            x, np.array([[1.3], [1.5], [1.4], [1.6], [1.7]]) * unit(w), y, n
        ),
    ),
    ("dbm:max_margin=0.3", dbm),
    ("lsoftmax:margin=3,tau=1.5,anneal=none,weight_norm=free", l_softmax(3, 0, 1.5)),
    ("lsoftmax:margin=3,tau=1.5,anneal=none,weight_norm=free,class_chunk=2", l_softmax(3, 0, 1.5)),
    (
        "lsoftmax:margin=2,anneal=none,weight_norm=shared",
        lambda x, w, y, n: l_softmax(2)(x, 1.3 * unit(w), y, n),
    ),
    ("lsoftmax:margin=2,anneal=none,weight_norm=detached", l_softmax(2)),
    *(
        (
            f"asoftmax:margin={m},anneal=constant,lambda_min={lam}",
            lambda x, w, y, n, m=m, lam=lam: l_softmax(m, lam)(x, unit(w), y, n),
        )
        for m in (1.5, 4)
        for lam in (0, 5)
    ),
    ("cosface", cosface),
    ("arcface", arcface),
    ("large-margin-in-softmax", large_margin_in_softmax),
    ("ldam", ldam),
    ("balanced-softmax", balanced_softmax),
    ("logit-adjusted:tau=1.5", logit_adjusted),
    ("vs:tau=1.2", vector_scaling),
    ("focal:gamma=2", focal(2)),
    ("focal:gamma=0.5", focal(0.5)),
]


@pytest.mark.parametrize(("spec", "formula"), FORMULAS)
def test_losses_are_the_papers(spec, formula):
    """Each image's loss is its paper's formula, on every branch of the margin, on a long tail."""
    features, weight, labels = batch_at()
    losses = head_with(spec, weight, COUNTS).losses(features, labels, 1.0)
    wanted = formula(features.numpy(), weight.numpy(), labels.numpy(), COUNTS.double().numpy())
    # priors and margins are kept in float32; a loss of 2e-13 is rounding of scores of 30
    np.testing.assert_allclose(losses.detach().numpy(), wanted, rtol=2e-6, atol=1e-13)


def theirs(kind, weight, **options):
    """Return a loss of pytorch-metric-learning on class weights (C, D)."""
    num_classes, num_features = weight.shape
    loss = kind(num_classes=num_classes, embedding_size=num_features, **options)
    loss.W.data = weight.T.clone()
    return loss


DEGREES = math.degrees(0.5)
THEIRS = [
    *(
        (f"lsoftmax:margin={m},anneal=none", pml.LargeMarginSoftmaxLoss, {"margin": m})
        for m in range(1, 7)
    ),
    *((f"asoftmax:margin={m},anneal=none", pml.SphereFaceLoss, {"margin": m}) for m in range(1, 5)),
    ("asoftmax:margin=4,anneal=none,class_chunk=2", pml.SphereFaceLoss, {"margin": 4}),
    ("arcface", pml.ArcFaceLoss, {"margin": DEGREES, "scale": 30}),
    ("arcface:margin=1.2,scale=64", pml.ArcFaceLoss, {"margin": math.degrees(1.2), "scale": 64}),
    ("arcface:class_chunk=2", pml.ArcFaceLoss, {"margin": DEGREES, "scale": 30}),
    ("cosface", pml.CosFaceLoss, {"margin": 0.35, "scale": 30}),
    ("cosface:margin=0.1,scale=8,class_chunk=3", pml.CosFaceLoss, {"margin": 0.1, "scale": 8}),
]


@scipy_on_tensors
@pytest.mark.parametrize(("spec", "kind", "options"), THEIRS)
def test_loss_and_gradients_are_pytorch_metric_learnings(spec, kind, options):
    """Mean loss and the gradients of features and class weights, past-pi branch included."""
    features, weight, labels = batch_at()
    features.requires_grad_()
    head, other = head_with(spec, weight), theirs(kind, weight, **options)
    ours, wanted = head(features, labels, 1.0), other(features, labels)
    assert ours.item() == pytest.approx(wanted.item(), rel=1e-10)
    mine = torch.autograd.grad(ours, (features, head.weight))
    their = torch.autograd.grad(wanted, (features, other.W))
    torch.testing.assert_close(mine[0], their[0], rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(mine[1], their[1].T, rtol=1e-8, atol=1e-10)


SAME = [
    ("lsoftmax:margin=1,anneal=none", "softmax"),
    ("lsoftmax:margin=1,anneal=constant,lambda_min=3,class_chunk=2", "softmax"),
    ("lsoftmax:margin=1,tau=1", "balanced-softmax"),
    ("balanced-softmax", "logit-adjusted:tau=1"),
    ("logit-adjusted:tau=0", "softmax"),
    ("vs:gamma=0,tau=1.5", "logit-adjusted:tau=1.5"),
    ("focal:gamma=0", "softmax"),
    ("large-margin-in-softmax:strength=0", "softmax"),
    ("cosface:margin=0", "arcface:margin=0"),
    ("cosface:margin=0", "ldam:max_margin=0"),
    ("cosface:margin=0", "dbm:max_margin=0,tau=0,scale=30"),
    ("cosface:margin=0,scale=39", "lsoftmax:margin=1,feature_norm=30,weight_norm=shared"),
    ("lsoftmax:margin=auto", "lsoftmax:margin=auto,margin_power=0.25"),
    (
        "lsoftmax:margin=tail",
        "lsoftmax:margin=auto,margin_max=1.3,margin_power=1,tau=1,lambda_min=0",
    ),
    ("lsoftmax:margin=auto,margin_power=0,anneal=none", "lsoftmax:margin=4,anneal=none"),
    ("lsoftmax:margin=2", "lsoftmax:margin=2,margin_on=all"),
    ("softmax", "lsoftmax:margin=1,margin_on=hard"),
    ("lsoftmax:margin=3", "lsoftmax:margin=3,tau=0"),
    ("lsoftmax:margin=1,tau=1.5", "logit-adjusted:tau=1.5"),
    (  # a shared norm is 1.3 here
        "dbm:max_margin=0,scale=39",
        "lsoftmax:margin=1,tau=1,feature_norm=30,weight_norm=shared",
    ),
    (
        "lsoftmax:margin=auto,margin_min=1.5,margin_max=1.5,anneal=none",
        "lsoftmax:margin=1.5,anneal=none",
    ),
]


def assert_same(one, other, features, labels):
    """Fail unless two heads give the same losses and gradients."""
    features = features.detach().clone().requires_grad_()
    found = []
    for head in (one, other):
        losses = head.losses(features, labels, 1.0)
        found.append([losses, *torch.autograd.grad(losses.sum(), (features, head.weight))])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_special_cases_are_one_another(one, other):
    """With its margin, exponent or prior switched off, a loss is the one that it extends."""
    features, weight, labels = batch_at()
    assert_same(head_with(one, weight, COUNTS), head_with(other, weight, COUNTS), features, labels)


HARD = "lsoftmax:margin=3,anneal=none,weight_norm=free,margin_on"


@pytest.mark.parametrize("options", ["", ",tau=1.5", ",feature_norm=7", ",class_chunk=2"])
@pytest.mark.parametrize(
    ("is_right", "one", "other"),
    [
        (False, f"{HARD}=hard", f"{HARD}=all"),
        (True, f"{HARD}=hard", "lsoftmax:margin=1"),
    ],
    ids=["wrong", "right"],
)
def test_the_margin_of_hard_images_is_that_of_all_or_none(is_right, one, other, options):
    """Images that are all wrong have the margin of all images, those that are right have none."""
    features, weight, labels = batch_at()
    # by the plain scores: a prior would call others right
    chosen = ((features @ weight.T).argmax(dim=1) == labels) == is_right
    assert 1 < chosen.sum() < len(labels)
    heads = (head_with(spec + options, weight, COUNTS) for spec in (one, other))
    assert_same(*heads, features[chosen], labels[chosen])


def test_dbm_of_equal_margins_is_arcface_where_the_cosines_are_right():
    """With margin_power 0 and no prior, images that are right have ArcFace's margin."""
    features, weight, labels = batch_at()
    cos = torch.from_numpy(unit(features.numpy()) @ unit(weight.numpy()).T)
    is_right = cos.argmax(dim=1) == labels
    assert is_right.sum() > 1
    dbm_head = head_with("dbm:max_margin=0.4,margin_power=0,tau=0", weight, COUNTS)
    arcface_head = head_with("arcface:margin=0.4,scale=32", weight)
    assert_same(dbm_head, arcface_head, features[is_right], labels[is_right])
    wrong = features[~is_right], labels[~is_right], 1.0
    assert (dbm_head.losses(*wrong) > arcface_head.losses(*wrong)).all()


@pytest.mark.parametrize("options", ["", ",margin_on=hard,tau=1", ",class_chunk=2"])
def test_features_of_the_length_asked_for_stay_as_they_are(options):
    """The losses are those without feature_norm, and gradients are but for the part along x."""
    features, weight, labels = batch_at()
    features = 7 * torch.nn.functional.normalize(features)
    found = []
    for norm in (",feature_norm=7", ""):
        x = features.clone().requires_grad_()
        spec = f"lsoftmax:margin=3,anneal=none{norm}{options}"
        head = head_with(spec, weight, COUNTS)
        losses = head.losses(x, labels, 1.0)
        found.append([losses, *torch.autograd.grad(losses.sum(), (x, *head.parameters()))])
    (own, mine, *rest), (losses, plain, *others) = found
    along = (plain * features).sum(dim=1, keepdim=True) * features / 49
    torch.testing.assert_close([own, mine, *rest], [losses, plain - along, *others])


@pytest.mark.parametrize("margin", [1, 1.5, 2, 2.7, 4])
@pytest.mark.parametrize("chunk", [None, 2])
def test_equal_margins_per_class_are_one_margin(margin, chunk):
    """A tensor of equal margins gives the loss and gradients of the number, whole ones too."""
    features, weight, labels = batch_at()
    given = (features.requires_grad_(), weight.requires_grad_())
    margins = torch.full((5,), margin, dtype=torch.float64)
    losses = [
        l_softmax_loss(*given, labels, m, lam=0.3, class_chunk=chunk) for m in (margin, margins)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    for one, other in zip(*(torch.autograd.grad(loss, given) for loss in losses), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-8)  # 0.5 degrees: the pole's cap
