"""Several GPUs, as far as one process and a pretended GPU show them: BatchNorm over two ranks."""

from functools import partial

import pytest
import torch
from torch import nn

from lmsm_cli.distributed.sync_batch_norm import CudaBatchNorm, convert_sync_batchnorm
from lmsm_cli.runtime.cuda_graph import cuda_capture
from tests.pretend_cuda import PretendCuda

EPS = nn.BatchNorm2d(1).eps


class SecondRank:
    """The group of this process and of one whose images and gradients are known beforehand.

    It answers with what the other rank would send, by the definitions: mean, 1 / sqrt(var + eps)
    and number of its images, and, going back, its sums of dy and dy (x - mean).
    """

    def __init__(self, images, grad, mean):
        by_channel = images.transpose(0, 1).flatten(1)
        count = by_channel.shape[1]
        own_mean, var = torch.zeros(3), torch.ones(3) - EPS  # what a rank without images sends
        if count:
            var, own_mean = torch.var_mean(by_channel, dim=1, correction=0)
        self.stats = torch.cat([own_mean, (var + EPS).rsqrt(), torch.tensor([float(count)])])
        dy = grad.transpose(0, 1).flatten(1)
        self.sums = torch.cat([dy.sum(1), (dy * (by_channel - mean[:, None])).sum(1)])

    def to(self, device):
        """Hold it on the device, so that no exchange is a copy from the host."""
        self.stats, self.sums = self.stats.to(device), self.sums.to(device)
        return self

    def all_gather(self, values):
        """Return what both ranks hold."""
        return torch.stack([values, self.stats])

    def all_reduce(self, values):
        """Add what the other rank holds."""
        return values.add_(self.sums)


@pytest.mark.parametrize("captured", [False, True])
@pytest.mark.parametrize("others", [3, 1, 0])
def test_statistics_are_those_of_both_ranks_and_nothing_waits(others, captured):
    """Parts of four images and of three, one or none: as nn.BatchNorm on all, eager or in a graph.

    Outputs, gradients of the images, running statistics; weights get their own part's gradient.
    """
    generator = torch.Generator().manual_seed(0)
    images, grad = torch.randn(2, 4 + others, 3, 5, 5, generator=generator)
    plain, wanted = nn.BatchNorm2d(3), images.clone().requires_grad_()
    out = plain(wanted)
    out.backward(grad)
    second = SecondRank(images[4:], grad[4:], images.mean((0, 2, 3)))
    given, found = images[:4].clone(), {}
    with PretendCuda() as cuda:
        layer = convert_sync_batchnorm(nn.BatchNorm2d(3), torch.device("cuda"), second.to("cuda"))
        assert type(layer) is CudaBatchNorm
        layer = layer.to("cuda")
        own, dy = given.to("cuda").requires_grad_(), grad[:4].to("cuda")

        def step():
            layer.zero_grad()
            own.grad = None
            found["out"] = layer(own)
            found["out"].backward(dy)
            found["grad"], found["weight"] = own.grad, layer.weight.grad

        before = len(cuda.waits)
        if captured:
            cuda_capture(torch.cuda.Stream())(step)()
            before += 1  # the capture itself
        else:
            step()
        assert len(cuda.waits) == before
        found |= {"mean": layer.running_mean, "var": layer.running_var}
        found = {name: value.detach().cpu() for name, value in found.items()}
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
    close(found["out"], out[:4].detach())
    close(found["grad"], wanted.grad[:4])
    close(found["mean"], plain.running_mean)
    close(found["var"], plain.running_var)
    normalised = (out.detach() * grad)[:4].sum((0, 2, 3))
    close(found["weight"], normalised)


def test_a_rank_without_images_takes_part_and_gets_zeros():
    """It sends statistics that count nothing, and gets gradients of 0 for its weights."""
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    second = SecondRank(images, torch.ones_like(images), images.mean((0, 2, 3)))
    with PretendCuda():
        layer = CudaBatchNorm(second.to("cuda"), 3).to("cuda")
        own = torch.zeros(0, 3, 5, 5, device="cuda", requires_grad=True)
        out = layer(own)
        out.sum().backward()
        mean, var = layer.running_mean.cpu(), layer.running_var.cpu()
        assert out.shape == own.grad.shape == own.shape
        assert not layer.weight.grad.cpu().any()
        assert not layer.bias.grad.cpu().any()
    torch.testing.assert_close(mean, 0.1 * images.mean((0, 2, 3)))
    torch.testing.assert_close(var, 0.9 + 0.1 * images.var((0, 2, 3)))
