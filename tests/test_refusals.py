"""What the losses refuse: each bad value beside its message, for every head and the function."""

import math
import re

import numpy as np
import pytest
import torch
from torch.autograd import forward_ad

from lmsm_cli import Annealing, LSoftmaxLoss, build_head, l_softmax_loss, psi
from lmsm_cli.errors import ArgumentError, LmsmError
from lmsm_cli.losses import checks
from lmsm_cli.losses.options import options_of
from lmsm_cli.losses.registry import HEADS, KNOWN, TAKE_A_BIAS
from lmsm_cli.losses.sharded import sharded_l_softmax_loss
from tests.conftest import head_with

BATCH, LABELS = torch.zeros(3, 4), torch.tensor([0, 1, 2])
SOFT = "one class number per image; one-hot and soft labels are not taken"
BAD_FEATURES = [
    (torch.zeros(3, 6), "features have shape (3, 6): expected (N, 4)"),
    (torch.zeros(4), "features have shape (4,): expected (N, 4)"),
    (BATCH.double(), "features are torch.float64: expected torch.float32"),
    (BATCH.long(), "features are torch.int64: expected torch.float32"),
    (BATCH.tolist(), "features are of type list: expected a torch tensor"),
    (BATCH.numpy(), "features are of type ndarray: expected a torch tensor"),
    (None, "features are of type NoneType: expected a torch tensor"),
    (BATCH.to_sparse(), "features have the layout torch.sparse_coo: expected a dense tensor"),
    (BATCH.to("meta"), "features are on meta, the class weights on cpu"),
]
BAD_LABELS = [
    (torch.tensor([0, 1, 5]), "labels run from 0 to 5: expected 0 to 4, there are 5 classes"),
    (torch.tensor([0, -1, 2]), "labels run from -1 to 2: expected 0 to 4, there are 5 classes"),
    (LABELS.float(), "labels are torch.float32: expected torch.int64"),
    (LABELS.int(), "labels are torch.int32: expected torch.int64"),
    (LABELS[:2], "labels have shape (2,): expected (3,)"),
    (LABELS[:, None], "labels have shape (3, 1): expected (3,)"),
    ([0, 1, 2], "labels are of type list: expected a torch tensor, as torch.as_tensor makes one"),
    (np.array([0, 1, 2]), "labels are of type ndarray: expected a torch tensor"),
    (None, "labels are of type NoneType: expected a torch tensor"),
    (torch.eye(5)[:3], f"labels have shape (3, 5): expected (3,), {SOFT}"),
    (torch.eye(5)[:3].long(), f"labels have shape (3, 5): expected (3,), {SOFT}"),
    (torch.rand(3), "labels are torch.float32: expected torch.int64 class numbers, as"),
    (LABELS.to("meta"), "labels are on meta, the features on cpu"),
]
EMPTY = (torch.zeros(0, 4), LABELS[:0], "the batch is empty: features have shape (0, 4)")


@pytest.mark.parametrize("spec", [*KNOWN, "softmax:label_smoothing=0.1", "cosface:class_chunk=2"])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("wrong", [-100, -1, 5])
def test_a_wrong_label_that_nobody_reads_has_no_loss(spec, training, wrong, monkeypatch):
    """As on CUDA and under a compiler: torch's own check ends it, also of the label -100."""
    head = build_head(spec, 4, 5, torch.arange(1, 6)).train(training)
    monkeypatch.setattr(checks, "readable", lambda values: False)
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        head(torch.randn(3, 4), torch.tensor([0, 1, wrong]), 0.5)


def test_a_compiled_loss_refuses_the_label_that_torch_ignores():
    """cross_entropy would give it a loss of 0, and divide by the number of all images."""
    torch.compiler.reset()
    compiled = torch.compile(build_head("softmax", 4, 5), fullgraph=True, backend="aot_eager")
    with pytest.raises(IndexError, match="Target -100 is out of bounds"):
        compiled(torch.randn(3, 4), torch.tensor([0, 1, -100]), torch.tensor(0.5))


@pytest.mark.parametrize("name", ["softmax", "lsoftmax", "cosface"])
@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [*((x, LABELS, m) for x, m in BAD_FEATURES), *((BATCH, y, m) for y, m in BAD_LABELS), EMPTY],
)
def test_bad_batches_are_refused(name, features, labels, message):
    """A batch that does not fit is a ValueError with the class, the value and what it should be."""
    head = head_with(name, torch.randn(5, 4))
    with pytest.raises(ValueError, match=f"^{type(head).__name__}: {re.escape(message)}"):
        head(features, labels)
    if labels is LABELS:  # `logits` refuses features in the same words
        with pytest.raises(ValueError, match=f"^{type(head).__name__}: {re.escape(message)}"):
            head.logits(features)


@pytest.mark.parametrize("name", HEADS)
def test_an_empty_batch_has_no_scores(name):
    """Scores of no images are no scores, (0, C), for the end of a data set."""
    assert head_with(name, torch.randn(5, 4)).logits(torch.zeros(0, 4)).shape == (0, 5)


MARGIN = "give a number of at least 1"
LAM = "give a finite number of at least 0"
CHUNK = "give a whole number of at least 1"
BAD_ARGUMENTS = [
    *(
        ({"margin": m}, f"margin is {m!r}: {MARGIN}")
        for m in (0.5, 0, -1, math.nan, True, "2", None)
    ),
    ({"margin": [2, 2, 2, 2, 2]}, f"margin is [2, 2, 2, 2, 2]: {MARGIN}"),
    ({"margin": torch.tensor([1.0, 2.0])}, "margin has shape (2,): expected one number or (5,)"),
    *(
        (
            {"margin": torch.tensor([1, 2, m, 1, 1])},
            f"margin is a tensor that holds {m:g}: give num",
        )
        for m in (0.5, math.nan, math.inf)
    ),
    ({"margin": torch.tensor(0.25)}, "margin is a tensor that holds 0.25: give numbers"),
    ({"margin": torch.ones(5) * 1j}, "margin is a tensor of torch.complex64: give real numbers"),
    ({"margin": torch.ones(5).bool()}, "margin is a tensor of torch.bool: give real numbers"),
    ({"margin": torch.ones(5, device="meta")}, "margin is on meta, the class weights on cpu"),
    ({"lam": -1}, f"lam is -1: {LAM}"),
    ({"lam": math.inf}, f"lam is inf: {LAM}"),
    ({"lam": torch.tensor(-0.5)}, f"lam is -0.5: {LAM}"),
    ({"lam": torch.tensor(math.nan)}, f"lam is nan: {LAM}"),
    ({"lam": torch.ones(3)}, "lam has shape (3,): give one number"),
    ({"lam": torch.ones(3, 1)}, "lam has shape (3, 1): give one number"),
    ({"lam": torch.tensor(1j)}, "lam is a tensor of torch.complex64: give real numbers"),
    *(({"lam": x}, f"lam is of type {type(x).__name__}: {LAM}") for x in ("1", None, [1.0])),
    *(({"class_chunk": x}, f"class_chunk is {x!r}: {CHUNK}") for x in (0, -3, 2.5, "3", True)),
    *(
        ({"reduction": x}, f"reduction is {x!r}: give mean, sum or")
        for x in (None, ["mean"], "avg")
    ),
    ({"weight": [[1.0] * 4] * 5}, "class weights are of type list: expected a torch tensor"),
    (
        {"weight": torch.ones(5, 4).long(), "features": torch.zeros(3, 4).long()},
        "class weights are torch.int64: expected floating point",
    ),
    ({"labels": [0, 1, 2]}, "labels are of type list: expected a torch tensor"),
    ({"features": torch.zeros(3, 6)}, "features have shape (3, 6): expected (N, 4)"),
    ({"features": torch.zeros(0, 4)}, "the batch is empty"),
]
# Arguments that the function alone refuses, and the sharded loss alone.
BAD_WHOLE = [
    ({"weight": torch.zeros(4)}, "class weights have shape (4,): expected (C, D), two classes"),
    (
        {"weight": torch.zeros(1, 4)},
        "class weights have shape (1, 4): expected (C, D), two classes",
    ),
    ({"labels": torch.tensor([0, 1, 9])}, "labels run from 0 to 9: expected 0 to 4"),
]
BAD_SHARDS = [
    ({"weight": torch.zeros(4)}, "class weights have shape (4,): expected (C_local, D)"),
    ({"weight": torch.zeros(0, 4)}, "class weights have shape (0, 4): expected (C_local, D)"),
    (
        {"weight": torch.zeros(1, 4)},
        "class weights have shape (1, 4): expected (C_local, D), at lea",
    ),
    ({"labels": torch.tensor([-1, 3, 2])}, "labels run from -1: expected class numbers from 0"),
    ({"group": "all"}, "group is of type str: give a group of torch.distributed, or None"),
    *(({"first_class": x}, f"first_class is {x}: give the number of") for x in (None, -4, 2.0)),
]
GOOD = {"features": BATCH, "weight": torch.ones(5, 4), "labels": LABELS, "margin": 2}


@pytest.mark.parametrize(("given", "message"), BAD_ARGUMENTS + BAD_WHOLE)
def test_bad_arguments_are_refused(given, message):
    """The function refuses what it cannot take, with its name, the value and what it should be."""
    with pytest.raises(ArgumentError, match=f"^l_softmax_loss: {re.escape(message)}"):
        l_softmax_loss(**(GOOD | given))


@pytest.mark.parametrize(("given", "message"), BAD_ARGUMENTS + BAD_SHARDS)
@pytest.mark.usefixtures("one_rank")
def test_bad_arguments_of_the_sharded_loss_are_refused(given, message):
    """With the classes over ranks, in the same words."""
    with pytest.raises(ArgumentError, match=f"^sharded_l_softmax_loss: {re.escape(message)}"):
        sharded_l_softmax_loss(**(GOOD | {"first_class": 0} | given))


BAD_COSINES = [
    (0.5, 2, "psi: cos is of type float: give a torch tensor"),
    ([0.5], 2, "psi: cos is of type list: give a torch tensor"),
    (torch.tensor([1]), 2, "psi: cos is of type torch.int64: give a torch tensor"),
    (torch.tensor([0.0, 1.5]), 2, "psi: cos holds 1.5: give cosines, from -1 to 1"),
    (torch.zeros(3), torch.ones(4), "psi: margin has shape (4,): expected one that broadcasts"),
    (torch.zeros(3), torch.ones(3, 1), "psi: margin has shape (3, 1): expected one that broad"),
    (torch.zeros(3), 0.99, "margin is 0.99: give a number of at least 1"),
    (torch.zeros(3), "4", "margin is '4': give a number of at least 1"),
]


@pytest.mark.parametrize(("cos", "margin", "message"), BAD_COSINES)
def test_what_are_no_cosines_is_refused(cos, margin, message):
    """psi is of tensors within [-1, 1], but for the rounding of computed cosines."""
    with pytest.raises(ArgumentError, match=re.escape(message)):
        psi(cos, margin)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        beyond = torch.ones(1, dtype=dtype) + torch.finfo(dtype).eps
        assert psi(beyond, 2).item() == pytest.approx(1, abs=0.1)


MARGIN_LOSSES = ["lsoftmax", "lsoftmax:class_chunk=2", "asoftmax", "cosface", "arcface", "ldam"]
TRANSFORMS = {
    "grad": lambda loss, x, y: torch.func.grad(lambda x: loss(x, y).sum())(x),
    "vmap": lambda loss, x, y: torch.func.vmap(lambda x, y: loss(x[None], y[None]))(x, y),
    "per image": lambda loss, x, y: torch.func.vmap(
        torch.func.grad(lambda x, y: loss(x[None], y[None]).sum())
    )(x, y),
    "jacrev": lambda loss, x, y: torch.func.jacrev(lambda x: loss(x, y))(x),
    "forward mode": lambda loss, x, y: _in_forward_mode(loss, x, y),
}


def _in_forward_mode(loss, x, y):
    with forward_ad.dual_level():
        return loss(forward_ad.make_dual(x, torch.ones_like(x)), y)


# torch's own decompositions for forward mode are scripted when they are first needed
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:DeprecationWarning")
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("spec", MARGIN_LOSSES)
def test_transforms_of_a_margin_loss_are_refused(spec, transform):
    """Its gradient is in closed form: torch.func and forward mode raise, and name the way out."""
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    head = head_with(spec, torch.randn(5, 4))
    message = f"^{type(head).__name__}: a margin loss cannot be .* torch.autograd.grad"
    with pytest.raises(ArgumentError, match=message):
        TRANSFORMS[transform](lambda x, y: head.losses(x, y, 0.5), x, y)
    with pytest.raises(ArgumentError, match=r"^l_softmax_loss: a margin loss cannot be"):
        TRANSFORMS[transform](
            lambda x, y: l_softmax_loss(x, head.weight, y, 2, reduction="none"), x, y
        )


@pytest.mark.parametrize("transform", sorted(set(TRANSFORMS) - {"forward mode"}))
@pytest.mark.parametrize("name", TAKE_A_BIAS)
def test_other_losses_can_be_transformed(name, transform):
    """A loss without a margin gives torch.func what it gives autograd, image by image."""
    x, y = torch.randn(3, 4), torch.tensor([0, 1, 2])
    head = head_with(name, torch.randn(5, 4))
    found = TRANSFORMS[transform](head.losses, x, y)
    given = x.clone().requires_grad_()
    losses = head.losses(given, y)
    (gradients,) = torch.autograd.grad(losses.sum(), given)
    wanted = {
        "vmap": losses.detach()[:, None],
        "jacrev": torch.diag_embed(gradients.T).permute(1, 2, 0),
    }
    torch.testing.assert_close(found, wanted.get(transform, gradients))


BAD_OPTIONS = [
    # spec, or constructor's arguments of LSoftmaxLoss, message
    ({"margin": 0.5}, "margin is 0.5"),
    ({"margin": math.nan}, "margin is nan"),
    ({"margin": torch.tensor([1.0, 2.0])}, "margin has shape (2,): expected one number or (3,)"),
    ({"class_chunk": 0}, "class_chunk is 0"),
    ({"lambda_min": -1.0}, "lambda_min is -1.0"),
    ({"tau": -1.0}, "tau is -1.0"),
    ({"anneal": "pwr"}, "anneal is 'pwr': give power, exponential, cosine, linear, constant, none"),
    ({"weight_norm": "sharde"}, "weight_norm is 'sharde': give free, shared, detached or monotone"),
    ({"margin": "auto"}, "lsoftmax with margin=auto needs class_counts"),
    ({"margin": "tail"}, "lsoftmax with margin=tail needs class_counts"),
    ({"tau": 1.0}, "lsoftmax with tau needs class_counts"),
]


@pytest.mark.parametrize("value", ["x", None, True, math.nan, math.inf, [1], 1j])
def test_options_that_are_no_numbers_are_refused(value):
    """Every number of every head has to be one; None stands for one that is not given."""
    for kind in HEADS.values():
        for option, parameter in options_of(kind).items():
            if option in ("anneal", "weight_norm") or (value is None and parameter.default is None):
                continue
            with pytest.raises(ArgumentError, match=f"({option}|bounds of margin=auto)"):
                kind(4, 3, class_counts=torch.tensor([3, 2, 1]), **{option: value})


BAD_SIZES = [
    (("4", 3), "num_features is '4': give a whole number of at least 1"),
    ((4.0, 3), "num_features is 4.0: give a whole number of at least 1"),
    ((0, 3), "num_features is 0: give a whole number of at least 1"),
    ((4, None), "num_classes is None: give a whole number of at least 1"),
    ((4, True), "num_classes is True: give a whole number of at least 1"),
    ((4, 1), "a classifier needs two classes at least, and there is one"),
]


@pytest.mark.parametrize(("sizes", "message"), BAD_SIZES)
@pytest.mark.parametrize("spec", ["softmax", "lsoftmax", "arcface", "focal", "cosface"])
def test_bad_sizes_are_refused(spec, sizes, message):
    """A head has whole numbers of features and classes."""
    with pytest.raises(ArgumentError, match=re.escape(message)):
        build_head(spec, *sizes)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"spec": None}, "the loss is of type NoneType: give a text such as lsoftmax:margin=4"),
        ({"spec": ""}, "'' has no name; write name or name:key=value"),
        ({"spec": "softmax:"}, "'' is not key=value"),
        ({"bias": "yes"}, "bias is 'yes': give True or False"),
        ({"init": "he"}, "init is 'he': give default, kaiming, unit"),
        ({"init": []}, "init is []: give default, kaiming, unit"),
        ({"total_steps": 0}, "total_steps is 0: give a whole number of at least 1"),
        ({"total_steps": 1.5, "spec": "lsoftmax"}, "total_steps is 1.5: give a whole number"),
    ],
)
def test_bad_arguments_of_build_head_are_refused(given, message):
    """What a head is built from is looked at before anything is."""
    with pytest.raises(ArgumentError, match=re.escape(message)):
        build_head(**({"spec": "softmax", "num_features": 4, "num_classes": 3} | given))


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused(options, message):
    """A head cannot be made with an option out of range, by keyword as by spec."""
    with pytest.raises(ValueError, match=re.escape(message)):
        LSoftmaxLoss(4, 3, **options)


IDLE_OPTIONS = [
    ("lsoftmax:anneal=none,lambda_min=7", "lambda_min has no effect with anneal=none"),
    ("asoftmax:anneal=constant,lambda_start=3", "lambda_start has no effect with anneal=constant"),
    ("lsoftmax:anneal=cosine,gamma=9", "gamma has no effect with anneal=cosine"),
    ("lsoftmax:margin=2,margin_max=3", "margin_power are choices of margin=auto and margin=tail"),
    ("lsoftmax:margin=4,lambda_start=1", "lambda_min 5 is above lambda_start 1: lambda falls"),
]


@pytest.mark.parametrize(("spec", "message"), IDLE_OPTIONS)
def test_options_without_effect_are_refused(spec, message):
    """No option is taken and then ignored."""
    with pytest.raises(ValueError, match=re.escape(message)):
        build_head(spec, 4, 3, torch.tensor([50, 20, 5]))


BAD_PROGRESSES = [
    (37, "progress is 37: give the share"),
    (-0.1, "progress is -0.1: give the share"),
    (math.nan, "progress is nan: give the share"),
    (torch.tensor(37.0), "progress is 37: give the share"),
    (torch.tensor(math.nan), "progress is nan: give the share"),
    (torch.ones(2), "progress has shape (2,): give one number"),
    (torch.tensor(0.5, requires_grad=True), "progress requires a gradient"),
    (torch.tensor(True), "progress is a tensor of torch.bool"),
    (torch.tensor(1j), "progress is a tensor of torch.complex64"),
    ((0, 1), "progress is of type tuple: give the share"),
    ("0.5", "progress is of type str: give the share"),
    (True, "progress is of type bool: give the share"),
    (1j, "progress is of type complex: give the share"),
]


@pytest.mark.parametrize("name", ["softmax", "lsoftmax"])
@pytest.mark.parametrize(("progress", "message"), BAD_PROGRESSES)
def test_a_progress_that_is_no_share_is_refused(name, progress, message):
    """An epoch's number in its place is an error of every head, not a full margin."""
    head = head_with(name, torch.randn(5, 4))
    for mode in (head.train(), head.eval()):
        with pytest.raises(ArgumentError, match=f"^{type(head).__name__}: {re.escape(message)}"):
            mode(BATCH, LABELS, progress)


BAD_ANNEALINGS = [
    (lambda: Annealing().at_step(-5, 10), "step is -5 of 10"),
    (lambda: Annealing().at_step("a", 10), "step is 'a' of 10"),
    (lambda: Annealing().at_step(1, None), "step is 1 of None"),
    (lambda: Annealing().at_step(1, math.nan), "step is 1 of nan"),
    (lambda: Annealing()("half"), "progress is of type str"),
    (lambda: Annealing()(torch.tensor([0.1, 2.0])), "progress is 2"),
    (lambda: Annealing(None), "anneal is None: give power"),
    (lambda: Annealing([]), "anneal is []: give power"),
    (lambda: Annealing(start="a"), "lambda_start is 'a'"),
    (lambda: Annealing(end=None), "anneal_end is None"),
    (lambda: Annealing(gamma=True), "gamma is True"),
]


@pytest.mark.parametrize(("call", "message"), BAD_ANNEALINGS)
def test_bad_annealings_are_refused(call, message):
    """A schedule of what are no numbers is an error when it is made or asked."""
    with pytest.raises(ArgumentError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("name", ["margin", "lam"])
def test_constants_cannot_be_learned(name):
    """A margin or lambda that asks for a gradient would silently get none."""
    options = {"margin": 2.0, "lam": 0.5, name: torch.tensor(2.0, requires_grad=True)}
    with pytest.raises(ValueError, match=f"{name} requires a gradient"):
        l_softmax_loss(torch.zeros(2, 4), torch.ones(3, 4), torch.tensor([0, 1]), **options)


def test_numbers_of_numpy_are_numbers():
    """A margin from a NumPy array is as good as Python's; class counts may be a list."""
    assert LSoftmaxLoss(4, 3, margin=np.float32(2.5)).margin == 2.5
    assert build_head("vs", 4, 3, [3, 2, 1]).factors[0] == 1


@pytest.mark.parametrize("spec", HEADS)
def test_half_precision_heads_compute(spec):
    """A head that was cast whole to bfloat16 gives a finite float32 loss."""
    head = build_head(spec, 4, 3, torch.tensor([5, 3, 2])).bfloat16()
    loss = head(torch.ones(2, 4).bfloat16(), torch.tensor([0, 1]), 0.5)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


NEED_COUNTS = [name for name, head in HEADS.items() if head.needs_counts]
BAD_COUNTS = [
    (None, "needs class_counts: the training images of each class, (3,)"),
    (torch.tensor([5, 4]), "class_counts has shape (2,): expected (3,), one per class"),
    ([5, 4, 3, 2], "class_counts has shape (4,): expected (3,), one per class"),
    (torch.tensor([]), "class_counts has shape (0,): expected (3,), one per class"),
    (torch.tensor([1, math.inf, 2]), "class_counts holds inf: expected training images"),
    (torch.tensor([5, 0, 4]), "class_counts holds 0: expected training images, at least 1 of each"),
    ([5, None, 4], "class_counts holds None: expected the training images of each class, (3,)"),
    ([5, "1", 4], "class_counts holds '1': expected the training images of each class, (3,)"),
    ("abc", "class_counts is of type str: expected the training images of each class"),
    ({"a": 1}, "class_counts is of type dict: expected the training images of each class"),
    (torch.tensor([True] * 3), "class_counts are torch.bool: expected numbers of training images"),
]


@pytest.mark.parametrize(
    "spec", [*NEED_COUNTS, "lsoftmax:tau=1", "lsoftmax:margin=auto", "lsoftmax:margin=tail"]
)
@pytest.mark.parametrize(("counts", "message"), BAD_COUNTS)
def test_bad_class_counts_are_refused(spec, counts, message):
    """A loss that lives on the class counts says so, with exit code 2 for the command line."""
    with pytest.raises(LmsmError, match=f"^loss '{spec}': .*{re.escape(message)}") as error:
        build_head(spec, 4, 3, counts)
    assert isinstance(error.value, ValueError)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("spec", [name for name in HEADS if name not in NEED_COUNTS])
@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([5, 4], "class_counts has shape (2,): expected (3,), one per class"),
        ([0, 0, 0], "class_counts"),
        ([5, -1, 4], "class_counts holds -1: expected training images"),
        ([5, "1", 4], "class_counts holds '1': expected"),
    ],
)
def test_counts_that_a_loss_does_not_need_are_checked_too(spec, counts, message):
    """They are of other classes, or a mistake, whatever the loss."""
    with pytest.raises(ArgumentError, match=f"^loss '{spec}': .*{re.escape(message)}"):
        build_head(spec, 4, 3, counts)


def test_counts_without_numbers_are_not_read():
    """On the meta device there are none; a head is drawn there to see what it needs."""
    counts = torch.ones(5, device="meta")
    assert build_head("softmax", 8, 5, class_counts=counts).weight.shape == (5, 8)


def test_softmax_can_do_with_a_class_without_training_images():
    """As of a run whose classes are those of its test images."""
    build_head("softmax", 4, 3, torch.tensor([5, 0, 4]))


def test_a_loss_says_whether_it_needs_the_class_counts():
    """Without counts it is built, or its class has `needs_counts`."""
    for name, head in HEADS.items():
        if not head.needs_counts:
            assert build_head(name, 4, 3), f"set needs_counts = True in {head.__name__}"


@pytest.mark.parametrize(
    "spec",
    [
        "lsoftmax:margin=0.5",
        "lsoftmax:margin=nan",
        "arcface:class_chunk=0",
        "lsoftmax:lambda_min=-2",
        "cosface:margin=3",
        "ldam:scale=inf",
        "focal:gamma=-1",
    ],
)
def test_bad_specs_name_loss_and_value(spec):
    """From a spec the message has the loss, the option and the value; the exit code is 2."""
    option, _, value = spec.partition(":")[2].partition("=")
    message = rf"^loss '{spec}': {option} is {value}(\.0)?: give "
    with pytest.raises(LmsmError, match=message) as error:
        build_head(spec, 4, 3, torch.tensor([3, 2, 1]))
    assert error.value.exit_code == 2
