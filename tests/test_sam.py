"""SAM: by hand on a quadratic, and in the steps of a training against its definition."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW

from lmsm_cli.config import Config
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.training.sam import worst_nearby
from tests.test_loop import easy_images, fit, small_model

CONFIG = Config(
    epochs=2, batch_size=16, lr=0.05, optimizer="sgd", schedule="constant", sam=0.1, device="cpu"
)


def test_a_step_on_a_quadratic_is_the_one_worked_by_hand():
    """Of f = (3 x^2 + y^2) / 2 at (1, 4), the gradient (3, 4) has length 5; rho = 0.5.

    The worst nearby is (1, 4) + 0.5 (3, 4) / 5 = (1.3, 4.4), whose gradient is (3.9, 4.4).
    """
    model = nn.Module()
    model.point = nn.Parameter(torch.tensor([1.0, 4.0], dtype=torch.float64))
    optimizer = SGD(model.parameters(), lr=0.1)

    def backward():
        optimizer.zero_grad()
        (torch.tensor([3.0, 1.0], dtype=torch.float64) * model.point**2).sum().div(2).backward()

    backward()
    with worst_nearby(model, 0.5):
        moved = model.point.detach().clone()
        backward()
    assert moved.tolist() == pytest.approx([1.3, 4.4], abs=1e-12)
    assert model.point.tolist() == [1.0, 4.0]
    assert model.point.grad.tolist() == pytest.approx([3.9, 4.4], abs=1e-12)
    optimizer.step()
    assert model.point.tolist() == pytest.approx([1 - 0.39, 4 - 0.44], abs=1e-12)


def test_without_a_gradient_nothing_moves():
    """At a minimum, where the gradient is 0, the weights stay and stay finite."""
    model = nn.Linear(2, 1)
    before = copy.deepcopy(model.state_dict())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    with worst_nearby(model, 0.5):
        assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def two_passes(model, optimizer, batch, radius):
    """Take a step of SAM by its definition, and leave BatchNorm as after the first pass."""
    random = torch.get_rng_state()
    parameters = list(model.parameters())

    def gradient():
        torch.set_rng_state(random)
        loss = model.head(model.embed(batch.images), batch.labels, 0.0)
        return torch.autograd.grad(loss, parameters)

    first = gradient()
    statistics = {name: value.clone() for name, value in model.named_buffers()}
    length = torch.cat([values.flatten() for values in first]).norm()
    kept = [parameter.detach().clone() for parameter in parameters]
    with torch.no_grad():
        for parameter, values in zip(parameters, first, strict=True):
            parameter += radius * values / length
    second = gradient()
    with torch.no_grad():
        for parameter, value, values in zip(parameters, kept, second, strict=True):
            parameter.copy_(value)
            parameter.grad = values
        for name, value in model.named_buffers():
            value.copy_(statistics[name])
    optimizer.step()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_training_takes_the_steps_of_the_definition(optimizer):
    """Weights and running statistics are those of two passes with one dropout and one count."""
    model = small_model(dropout=0.3)
    twin = copy.deepcopy(model).train()
    data = easy_images()
    fit(model, CONFIG.model_copy(update={"optimizer": optimizer}), data=data)
    kinds = {"sgd": partial(SGD, momentum=0.9), "adam": Adam, "adamw": AdamW}
    plain = kinds[optimizer](twin.parameters(), lr=0.05, weight_decay=5e-4)
    for epoch in range(2):
        # as the loop seeds dropout at the start of an epoch
        torch.manual_seed(int(np.random.SeedSequence((42, epoch, 1)).generate_state(1)[0]))
        plan = plan_epoch(60, "none", seed=42, epoch=epoch)
        for batch in batches(data.images, data.labels, plan, 16):
            two_passes(twin, plain, batch, 0.1)
    found, wanted = model.state_dict(), twin.state_dict()
    assert found["backbone.2.num_batches_tracked"] == 2 * 4
    # A bias before BatchNorm has no gradient but rounding, which Adam enlarges.
    enlarged = () if optimizer == "sgd" else ("backbone.1.bias", "backbone.2.running_mean")
    for name, value in wanted.items():
        if name in enlarged:
            continue
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


def test_no_radius_is_the_optimiser_alone():
    """With --sam 0 a training has the bits of one that knows no SAM, and with 0.1 others."""
    models = [small_model(dropout=0.3) for _ in range(2)]
    for model, radius in zip(models, (0.0, 0.1), strict=True):
        fit(model, CONFIG.model_copy(update={"sam": radius}))
    plain = small_model(dropout=0.3)
    fit(plain, Config(**CONFIG.model_dump(exclude={"sam"})))
    assert torch.equal(models[0].head.weight, plain.head.weight)
    assert not torch.equal(models[1].head.weight, plain.head.weight)
