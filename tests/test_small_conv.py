"""Convolutions as matrix products: torch's convolution in values, gradients and state dict."""

import pytest
import torch
from torch import nn

from lmsm_cli.runtime.small_conv import WindowConv2d, with_window_convolutions

# (kernel, stride, padding, height, width): the last stages of the nets here, and odd ones.
SHAPES = [
    (3, 1, 1, 2, 2),
    (3, 2, 1, 4, 4),
    (3, 1, 1, 1, 1),
    (3, 1, 1, 1, 4),
    (3, 1, 0, 4, 3),
    (5, 1, 2, 2, 2),
    (3, 3, 1, 5, 4),
    (2, 2, 0, 4, 4),
    ((3, 1), (2, 1), (1, 0), 4, 2),
]


def pair(kernel, stride, padding, *, bias=True, dtype=torch.float64):
    """Return a convolution of torch's and ours on the same parameters."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 5, kernel, stride, padding, bias=bias).to(dtype)
    ours = with_window_convolutions(nn.Sequential(conv))[0]
    assert isinstance(ours, WindowConv2d)
    return conv, ours


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_are_torchs(monkeypatch, shape, layout):
    """In float64 output and all gradients agree to rounding, and torch did not compute ours."""
    kernel, stride, padding, height, width = shape
    conv, ours = pair(kernel, stride, padding)
    images = (
        torch.randn(3, 6, height, width, dtype=torch.float64)
        .to(memory_format=layout)
        .requires_grad_()
    )
    results = []
    for module in (conv, ours):
        output = module(images)
        upstream = torch.sin(torch.arange(output.numel(), dtype=torch.float64)).view(output.shape)
        wanted = (images, conv.weight, conv.bias)
        results.append([output, *torch.autograd.grad(output, wanted, upstream)])
        monkeypatch.setattr(nn.Conv2d, "forward", lambda *_: pytest.fail("torch's was called"))
    for theirs, own in zip(*results, strict=True):
        torch.testing.assert_close(own, theirs)


def test_gradients_by_central_differences():
    """The closed-form gradient is the derivative of the values."""
    _, ours = pair(3, 2, 1)
    images = torch.randn(2, 6, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ours, (images,))


def test_images_with_many_outputs_go_to_torch():
    """A 3x3 output is torch's own, bit for bit."""
    conv, ours = pair(3, 1, 1)
    images = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    assert torch.equal(conv(images), ours(images))


@pytest.mark.parametrize("rounds", ["autocast", "bf16-conv"])
def test_bf16_rounds_no_more_than_torch(rounds):
    """Against float64, the error of our bf16 is not above torch's own, and the type is the same."""
    conv, ours = pair(3, 1, 1, dtype=torch.float32)
    images = torch.randn(16, 6, 2, 2)
    exact = nn.functional.conv2d(
        images.double(), conv.weight.double(), conv.bias.double(), padding=1
    )
    errors = []
    arithmetic = torch.backends.mkldnn.conv
    arithmetic.fp32_precision = "bf16" if rounds == "bf16-conv" else "ieee"
    try:
        for module in (conv, ours):
            with torch.autocast("cpu", torch.bfloat16, enabled=rounds == "autocast"):
                output = module(images)
            assert output.dtype == (torch.bfloat16 if rounds == "autocast" else torch.float32)
            errors.append((output.double() - exact).abs().mean().item())
    finally:
        arithmetic.fp32_precision = "ieee"
    assert 0 < errors[1] < 1.5 * max(errors[0], 1e-3)


def test_parameters_and_state_dict_stay():
    """The converted model holds the very same parameters under the same names."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3))
    )
    before = dict(net.named_parameters())
    after = dict(with_window_convolutions(net).named_parameters())
    assert before.keys() == after.keys() == net.state_dict().keys()
    assert all(before[name] is after[name] for name in before)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 1, 2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same"),
    ],
)
def test_other_convolutions_are_left_alone(conv):
    """What the windows do not describe, and kernels of one tap, stay torch's."""
    net = with_window_convolutions(nn.Sequential(conv))
    assert net[0] is conv


def test_a_second_derivative_is_refused():
    """Differentiating twice is an error, not a silent zero."""
    _, ours = pair(3, 1, 1)
    images = torch.randn(2, 6, 2, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(ours(images).sum(), images, create_graph=True)
    with pytest.raises(RuntimeError):
        grad.sum().backward()
