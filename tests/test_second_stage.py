"""Second stages on the class weights of a finished run: starts and steps worked by hand."""

import numpy as np
import pytest
import torch

from lmsm_cli.losses.registry import SECOND_STAGES, build_head

COUNTS = torch.tensor([50, 5])
# |W_0| = 5, |W_1| = 0.5; for the feature (1, 0) the scores are 3 and 0.5 less the bias.
WEIGHT, BIAS = torch.tensor([[3.0, 4.0], [0.5, 0.0]]), torch.tensor([0.25, 0.0])
FEATURE = torch.tensor([[1.0, 0.0]])


def head(name, bias=True, counts=COUNTS):
    """Return a second stage on WEIGHT and BIAS."""
    made = build_head(name, 2, len(counts), counts, bias=bias)
    with torch.no_grad():
        made.weight[:2].copy_(WEIGHT)
        if bias:
            made.bias[:2].copy_(BIAS)
    return made


def gradients(made, label):
    """Return the gradients of the loss of FEATURE, by name, as lists."""
    made.train()(FEATURE, torch.tensor([label]), 0.5).backward()
    return {k: p.grad.tolist() for k, p in made.named_parameters() if p.grad is not None}


P0 = float(np.exp(3.25) / (np.exp(3.25) + np.exp(0.5)))  # softmax of (3.25, 0.5)


@pytest.mark.parametrize("name", ["lws", "marc"])
@pytest.mark.parametrize("bias", [True, False])
def test_nothing_changes_at_first(name, bias):
    """The scores are those of the run."""
    wanted = FEATURE @ WEIGHT.T + (BIAS if bias else 0)
    assert torch.allclose(head(name, bias).logits(FEATURE), wanted)


def test_lws_learns_a_factor_of_the_class_weights_alone():
    """d loss / d f_c = (p_c - y_c) W_c.x, without the bias."""
    found = gradients(head("lws"), label=1)
    assert found.keys() == {"factor"}
    assert found["factor"] == pytest.approx([P0 * 3, -P0 * 0.5], rel=1e-5)


def test_marc_learns_a_factor_of_the_score_and_a_margin_by_the_norm():
    """d loss / d a_c = (p_c - y_c) z_c, with the bias; d loss / d b_c = (p_c - y_c) |W_c|."""
    found = gradients(head("marc"), label=1)
    assert found.keys() == {"factor", "margin"}
    assert found["factor"] == pytest.approx([P0 * 3.25, -P0 * 0.5], rel=1e-5)
    assert found["margin"] == pytest.approx([P0 * 5, -P0 * 0.5], rel=1e-5)


def test_samn_starts_as_published():
    """Of 50 and 5 images: u = 1 and 0, norms exp(1 / 1.3133) and exp(1 / 0.6931)."""
    made = head("samn")
    assert made.class_weights().norm(dim=1).tolist() == pytest.approx([2.1414, 4.2321], rel=1e-4)
    assert made.class_weights()[0].tolist() == pytest.approx([2.1414 * 0.6, 2.1414 * 0.8], rel=1e-4)
    scores = made.logits(FEATURE)[0].tolist()
    assert scores == pytest.approx([2.1414 * 0.6 + 0.25 + 2.1414, 4.2321 + 4.2321], rel=1e-4)
    assert gradients(made, label=1).keys() == {"of_norms", "of_bias"}


def test_samn_pools_norms_that_would_fall():
    """Learned numbers 0.9, 0.1, 0.5 of 1, 2 and 3 images: the first two become 0.5, so all are."""
    made = head("samn", counts=torch.tensor([1, 2, 3]))
    with torch.no_grad():
        made.of_norms.copy_(torch.tensor([0.9, 0.1, 0.5]))
    norms = made.class_weights().norm(dim=1).tolist()
    assert norms == pytest.approx([np.exp(1 / np.log1p(np.exp(0.5)))] * 3, rel=1e-5)


@pytest.mark.parametrize("name", SECOND_STAGES)
def test_losses_are_the_cross_entropy_of_the_scores(name):
    """In training and evaluation, for each label, and in both precisions."""
    made = head(name).double()
    features = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    wanted = -made.logits(features).log_softmax(dim=1)
    for mode in (True, False):
        assert torch.allclose(made.train(mode).losses_of_all_labels(features, 0.5), wanted)
        one = made.losses(features, torch.ones(7, dtype=torch.long), 0.5)
        assert torch.allclose(one, wanted[:, 1])
