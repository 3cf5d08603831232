"""Spellings of a loss: what is given as it would be without makes no other loss."""

from typing import get_args

import pytest
import torch

from lmsm_cli import build_head
from lmsm_cli.losses.registry import BY_RARITY, LOSSES, USUAL_ON_TAILS, ByRarity, normal_spec

DEFAULTS = [
    (f"{name}:margin=auto" if key == "margin_min" else name, key, value)
    for name, loss in LOSSES.items()
    for key, value in loss.options.items()
    if value is not None
]
# Defaults that follow from the margin.
UNDER = [
    ("lsoftmax:margin=tail", "margin_max", 1.3),
    ("lsoftmax:margin=tail", "margin_power", 1),
    ("lsoftmax:margin=tail", "tau", 1),
    ("lsoftmax:margin=auto", "margin_max", 4),
    ("lsoftmax:margin=auto", "margin_power", 0.25),
    ("lsoftmax:margin=auto", "tau", 0),
    ("lsoftmax:margin=2", "tau", 0),
]
STARTS = [
    (f"{name}:anneal={form},lambda_min={least}", "lambda_start", value)
    for name in ("lsoftmax", "asoftmax")
    for form, least, value in (
        *(("power", 2, 1000), ("exponential", 300, 1200)),
        *(("cosine", 1, 10), ("linear", 5, 20)),
    )
]


def losses_of(spec, counts):
    """Return the losses of a batch in the middle of a training, from weights of one draw."""
    torch.manual_seed(3)
    head = build_head(spec, 6, 3, torch.tensor(counts))
    labels = torch.arange(9) % 3
    return head.losses(3 * torch.randn(9, 6), labels, progress=0.5)


@pytest.mark.parametrize("counts", [[50, 50, 50], [500, 50, 5]], ids=["balanced", "tailed"])
@pytest.mark.parametrize(("spec", "key", "value"), [*DEFAULTS, *UNDER, *STARTS])
def test_a_default_that_is_written_is_the_same_loss(spec, key, value, counts):
    """To the bit, whatever the class counts; and one text stands for both spellings."""
    written = f"{spec}{',' if ':' in spec else ':'}{key}={value}"
    assert torch.equal(losses_of(written, counts), losses_of(spec, counts))
    assert normal_spec(written) == normal_spec(spec)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("lsoftmax:margin=4,lambda_min=5", "lsoftmax: lambda_min=5.0, margin=4.0", True),
        ("lsoftmax:margin_max=3", "lsoftmax:margin=auto,margin_max=3,margin_min=1", True),
        ("focal:gamma=2.0", "focal", True),
        ("lsoftmax:margin=2", "lsoftmax", False),
        ("lsoftmax:lambda_min=0", "lsoftmax", False),
        ("lsoftmax:tau=0", "lsoftmax", False),
        ("lsoftmax:margin=tail,margin_max=4", "lsoftmax:margin=tail", False),
        ("lsoftmax:margin=tail,tau=0", "lsoftmax:margin=tail", False),
        ("lsoftmax:weight_norm=free", "lsoftmax", False),
        ("lsoftmax:lambda_start=1000", "lsoftmax", False),
        ("cosface:margin=0.5", "arcface:margin=0.5", False),
        ("arcface:scale=30,margin=0.4", "arcface:margin=0.4", True),
    ],
)
def test_one_text_stands_for_all_spellings(one, other, same):
    """In whatever order, 4 or 4.0; a default that follows from the data is none that is known."""
    assert (normal_spec(one) == normal_spec(other)) is same
    assert normal_spec(normal_spec(one)) == normal_spec(one)


def test_each_margin_by_rarity_is_a_value_of_margin():
    """What the type says, which mypy and the command line go by, is what is known of each."""
    assert get_args(ByRarity) == tuple(BY_RARITY)
    assert USUAL_ON_TAILS in BY_RARITY
