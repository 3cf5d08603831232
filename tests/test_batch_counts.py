"""BatchNorm's counts of batches: the same as torch's, in one call for all layers."""

import copy

import pytest
import torch
from torch import nn

from lmsm_cli.training.batch_counts import counted_at_once, layers_that_count


class OwnNorm(nn.BatchNorm1d):
    """A layer of somebody's, which may read its count."""


def net():
    """Return layers in training, one in evaluation, and some that need their counts."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.BatchNorm1d(4),
        nn.Linear(4, 4),
        nn.BatchNorm1d(4),
        nn.BatchNorm1d(4, momentum=None),
        nn.BatchNorm1d(4, track_running_stats=False),
        OwnNorm(4),
    )
    layers[2].eval()
    return layers


def test_state_and_outputs_are_those_of_layers_that_count_by_themselves():
    """After some batches: frozen layers stand still, and a mean over all batches is one."""
    model, plain = net(), net()
    layers = layers_that_count(model)
    for n in range(3):
        batch = torch.randn(5, 4, generator=torch.Generator().manual_seed(n))
        with counted_at_once(layers):
            found = model(batch)
        assert torch.equal(found, plain(batch))
    state, wanted = model.state_dict(), plain.state_dict()
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(state[name], value), name
    assert [state[f"{n}.num_batches_tracked"].item() for n in (0, 2, 3, 5)] == [3, 0, 3, 3]
    fresh = copy.deepcopy(model)
    fresh.load_state_dict(state)


def test_a_batch_that_failed_is_not_counted_and_the_counts_are_back():
    """A net whose step runs out of memory is saved with all of its state."""
    model = net()
    with pytest.raises(MemoryError), counted_at_once(layers_that_count(model)):
        raise MemoryError
    assert model[0].num_batches_tracked.item() == 0


def test_all_layers_of_a_net_are_counted_in_one_call():
    """They are one list, in which the layers that need their counts are not."""
    model = net()
    assert layers_that_count(model) == [model[0], model[2]]
