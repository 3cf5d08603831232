"""What the losses refuse: each bad value beside its message, for every head and the function."""

import math
import re

import numpy as np
import pytest
import torch

from lmsm_cli import Annealing, LSoftmaxLoss, build_head, l_softmax_loss
from lmsm_cli.errors import LmsmError
from lmsm_cli.losses import HEADS
from tests.conftest import head_with

BATCH = torch.zeros(3, 4)
BAD_BATCHES = [
    # features, labels, message
    (BATCH, torch.tensor([0, 1, 5]), "labels run from 0 to 5: expected 0 to 4, there are 5 classes"),
    (BATCH, torch.tensor([0, -1, 2]), "labels run from -1 to 2: expected 0 to 4, there are 5 classes"),
    (BATCH, torch.tensor([0.0, 1.0, 2.0]), "labels are torch.float32: expected torch.int64"),
    (BATCH, torch.tensor([0, 1, 2]).int(), "labels are torch.int32: expected torch.int64"),
    (BATCH, torch.tensor([0, 1]), "labels have shape (2,): expected (3,)"),
    (BATCH, torch.tensor([[0], [1], [2]]), "labels have shape (3, 1): expected (3,)"),
    (torch.zeros(3, 6), torch.tensor([0, 1, 2]), "features have shape (3, 6): expected (N, 4)"),
    (torch.zeros(4), torch.tensor([0]), "features have shape (4,): expected (N, 4)"),
    (torch.zeros(0, 4), torch.zeros(0).long(), "the batch is empty: features have shape (0, 4)"),
    (BATCH.double(), torch.tensor([0, 1, 2]), "features are torch.float64: expected torch.float32"),
    (BATCH.long(), torch.tensor([0, 1, 2]), "features are torch.int64: expected torch.float32"),
]  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize(("features", "labels", "message"), BAD_BATCHES)
def test_bad_batches_are_refused(name, features, labels, message):
    """A batch that does not fit is a ValueError with the class, the value and what it should be."""
    head = head_with(name, torch.randn(5, 4))
    with pytest.raises(ValueError, match=f"^{type(head).__name__}: {re.escape(message)}"):
        head(features, labels)


@pytest.mark.parametrize(("features", "message"), [(f, m) for f, _, m in BAD_BATCHES if m.startswith("features")])  # fmt: skip
@pytest.mark.parametrize("name", HEADS)
def test_scores_of_bad_features_are_refused(name, features, message):
    """`logits` refuses features as `losses` does, with the same words."""
    head = head_with(name, torch.randn(5, 4))
    with pytest.raises(ValueError, match=f"^{type(head).__name__}: {re.escape(message)}"):
        head.logits(features)


@pytest.mark.parametrize("name", HEADS)
def test_an_empty_batch_has_no_scores(name):
    """Scores of no images are no scores, (0, C), for the end of a data set."""
    assert head_with(name, torch.randn(5, 4)).logits(torch.zeros(0, 4)).shape == (0, 5)


BAD_ARGUMENTS = [
    ({"margin": 0.5}, "margin is 0.5: give a number of at least 1"),
    ({"margin": math.nan}, "margin is nan: give a number of at least 1"),
    ({"margin": torch.tensor([1.0, 2.0])}, "margin has shape (2,): expected one number or (5,)"),
    ({"margin": torch.tensor([1, 2, 0.5, 1, 1])}, "margin is a tensor that holds 0.5: give numbers of at least 1"),
    ({"margin": torch.tensor([1, 2, math.nan, 1, 1])}, "margin is a tensor that holds nan: give numbers of at least 1"),
    ({"margin": torch.tensor([1, 2, math.inf, 1, 1])}, "margin is a tensor that holds inf: give numbers of at least 1"),
    ({"margin": torch.tensor(0.25)}, "margin is a tensor that holds 0.25: give numbers of at least 1"),
    ({"lam": -1}, "lam is -1: give a finite number of at least 0"),
    ({"lam": math.inf}, "lam is inf: give a finite number of at least 0"),
    ({"lam": torch.tensor(-0.5)}, "lam is -0.5: give a finite number of at least 0"),
    ({"class_chunk": 0}, "class_chunk is 0: give a number of classes, at least 1"),
    ({"class_chunk": -3}, "class_chunk is -3: give a number of classes, at least 1"),
    ({"reduction": "avg"}, "reduction is 'avg': give mean, sum or none"),
    ({"weight": torch.zeros(4)}, "class weights have shape (4,): expected (C, D), two classes at least"),
    ({"weight": torch.zeros(1, 4)}, "class weights have shape (1, 4): expected (C, D), two classes at least"),
    ({"labels": torch.tensor([0, 1, 9])}, "labels run from 0 to 9: expected 0 to 4"),
    ({"features": torch.zeros(3, 6)}, "features have shape (3, 6): expected (N, 4)"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_refused(given, message):
    """The function refuses what it cannot take, with its name, the value and what it should be."""
    good = {"features": BATCH, "weight": torch.ones(5, 4), "labels": torch.tensor([0, 1, 2]), "margin": 2}  # fmt: skip
    with pytest.raises(ValueError, match=f"^l_softmax_loss: {re.escape(message)}"):
        l_softmax_loss(**(good | given))


BAD_OPTIONS = [
    # spec, or constructor's arguments of LSoftmaxLoss, message
    ({"margin": 0.5}, "margin is 0.5"),
    ({"margin": math.nan}, "margin is nan"),
    ({"margin": torch.tensor([1.0, 2.0])}, "margin has shape (2,): expected one number or (3,)"),
    ({"class_chunk": 0}, "class_chunk is 0"),
    ({"lambda_min": -1.0}, "lambda_min is -1.0"),
    ({"tau": -1.0}, "tau is -1.0"),
    ({"anneal": "pwr"}, "anneal is 'pwr': give power, exponential, cosine, linear, constant, none"),
    ({"weight_norm": "sharde"}, "weight_norm is 'sharde': give free, shared or detached"),
    ({"margin": "auto"}, "lsoftmax with margin=auto needs class_counts"),
    ({"tau": 1.0}, "lsoftmax with tau needs class_counts"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS)
def test_bad_options_are_refused(options, message):
    """A head cannot be made with an option out of range, by keyword as by spec."""
    with pytest.raises(ValueError, match=re.escape(message)):
        LSoftmaxLoss(4, 3, **options)


IDLE_OPTIONS = [
    ("lsoftmax:anneal=none,lambda_min=7", "lambda_min has no effect with anneal=none"),
    ("asoftmax:anneal=constant,lambda_start=3", "lambda_start has no effect with anneal=constant"),
    ("lsoftmax:anneal=cosine,gamma=9", "gamma has no effect with anneal=cosine"),
    ("lsoftmax:margin=2,margin_max=3", "margin_min and margin_max are the bounds of margin=auto"),
    ("lsoftmax:margin=4,lambda_start=1", "lambda_min 5 is above lambda_start 1: lambda falls; give both"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "message"), IDLE_OPTIONS)
def test_options_without_effect_are_refused(spec, message):
    """No option is taken and then ignored."""
    with pytest.raises(ValueError, match=re.escape(message)):
        build_head(spec, 4, 3, torch.tensor([50, 20, 5]))


@pytest.mark.parametrize("progress", [37, -0.1, math.nan])
def test_a_progress_that_is_no_share_is_refused(progress):
    """An epoch's number in place of the progress is an error, not a full margin."""
    with pytest.raises(ValueError, match="progress is"):
        LSoftmaxLoss(4, 3)(torch.zeros(2, 4), torch.tensor([0, 1]), progress)
    with pytest.raises(ValueError, match="step is -5 of 10"):
        Annealing().at_step(-5, 10)


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


NEED_COUNTS = ["ldam", "balanced-softmax", "logit-adjusted", "vs", "lsoftmax:tau=1", "lsoftmax:margin=auto"]  # fmt: skip
BAD_COUNTS = [
    (None, "needs class_counts: the training images of each class, (3,)"),
    (torch.tensor([5, 4]), "class_counts has shape (2,): expected (3,), one per class"),
    ([5, 4, 3, 2], "class_counts has shape (4,): expected (3,), one per class"),
    (torch.tensor([]), "class_counts has shape (0,): expected (3,), one per class"),
    (torch.tensor([1, math.inf, 2]), "class_counts holds inf: expected training images"),
    (torch.tensor([5, 0, 4]), "class_counts holds 0: expected training images, at least 1 of each class"),
]  # fmt: skip


@pytest.mark.parametrize("spec", NEED_COUNTS)
@pytest.mark.parametrize(("counts", "message"), BAD_COUNTS)
def test_bad_class_counts_are_refused(spec, counts, message):
    """A loss that lives on the class counts says so, with exit code 2 for the command line."""
    with pytest.raises(LmsmError, match=f"^loss '{spec}': .*{re.escape(message)}") as error:
        build_head(spec, 4, 3, counts)
    assert isinstance(error.value, ValueError)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("spec", ["lsoftmax:margin=0.5", "lsoftmax:margin=nan", "arcface:class_chunk=0", "lsoftmax:lambda_min=-2", "cosface:margin=3", "ldam:scale=inf", "focal:gamma=-1"])  # fmt: skip
def test_bad_specs_name_loss_and_value(spec):
    """From a spec the message has the loss, the option and the value; the exit code is 2."""
    option, _, value = spec.partition(":")[2].partition("=")
    with pytest.raises(LmsmError, match=rf"^loss '{spec}': {option} is {value}(\.0)?: give ") as error:  # fmt: skip
        build_head(spec, 4, 3, torch.tensor([3, 2, 1]))
    assert error.value.exit_code == 2
