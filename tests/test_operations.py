"""The operations of the policies are torchvision's kernels, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import v2

from lmsm_cli.data.operations import operations_of
from lmsm_cli.data.policies import LEARNED, policy_of

CPU = torch.device("cpu")
THEIRS = v2.RandAugment()


def pictures(count, channels, size, seed=0):
    """Return smooth images, a noisy one, one of a single value and one of two, as uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, channels, 4, 4, generator=generator) * 320 - 30
    smooth = functional.interpolate(coarse, size=size, mode="bilinear").clamp(0, 255)
    images = smooth.to(torch.uint8)
    images[0] = torch.randint(256, images[0].shape, generator=generator).to(torch.uint8)
    images[1] = 77
    images[2] = torch.where(images[2] > 99, 200, 10)
    return images


def by_torchvision(image, operation):
    """Return the image (C, H, W) as torchvision's policies change it by one operation."""
    name, magnitude = operation
    return THEIRS._apply_image_or_video_transform(
        image, name, magnitude, interpolation=THEIRS.interpolation, fill=THEIRS._fill
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(32, 32), (9, 14)])
@pytest.mark.parametrize("augment", ["randaugment", "autoaugment-cutout"])
def test_each_operation_is_torchvisions(augment, size, channels):
    """Values differ by rounding only: at most 1, and for tables and moved pixels not at all."""
    policy, images = policy_of(augment, *size), pictures(5, channels, size)
    operations = operations_of(augment, *size, CPU)
    for place, operation in enumerate(policy.operations):
        found = operations(images, torch.full((5, 1), place))
        wanted = torch.stack([by_torchvision(image, operation) for image in images])
        blended = operation.name in ("Color", "Contrast", "Sharpness")
        assert (found.int() - wanted.int()).abs().max() <= int(blended), operation


@pytest.mark.parametrize("augment", LEARNED)
def test_a_mixed_batch_is_its_images_one_by_one(augment):
    """Grouping by operation changes nothing: each image gets its own operations, in their order."""
    size = (16, 16)
    policy, images = policy_of(augment, *size), pictures(60, 3, size)
    operations = operations_of(augment, *size, CPU)
    choices = policy.draw(60, np.random.default_rng(3))
    before = images.clone()
    found = operations(images, choices)
    assert torch.equal(images, before)
    for image, row, changed in zip(images, choices.tolist(), found, strict=True):
        for place in row:
            image = by_torchvision(image, policy.operations[place])
        # an operation after the first can enlarge a difference in rounding
        assert (changed.int() - image.int()).abs().float().mean() < 1, row


def test_nothing_waits_for_the_device():
    """What would look at a value of a device tensor does not occur."""

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
            assert func.__name__.partition(".")[0] not in names
            return func(*args, **(kwargs or {}))

    images = pictures(200, 3, (8, 8))
    for augment in LEARNED:
        choices = policy_of(augment, 8, 8).draw(200, np.random.default_rng(0))
        operations = operations_of(augment, 8, 8, CPU)
        with Watch():
            operations(images, choices)
