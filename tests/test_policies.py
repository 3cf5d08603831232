"""The learned policies are torchvision's: its operations, as often as its own classes draw them."""

from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from lmsm_cli.data.policies import LEARNED, policy_of

OWN = {
    "autoaugment-cutout": v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10),
    "randaugment": v2.RandAugment(),
    "trivial": v2.TrivialAugmentWide(),
}
SIZE = (28, 32)


def drawn_by_torchvision(augment, count):
    """Return what torchvision's class applies in so many calls, in turn, as texts."""
    transform, found = OWN[augment], []

    def note(image, name, magnitude, **options):
        applied.append(f"{name} {magnitude + 0.0:.4g}")
        return image

    transform._apply_image_or_video_transform = note
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    try:
        for _ in range(count):
            applied = []
            transform(image)
            found.append(tuple(name for name in applied if name != "Identity 0"))
    finally:
        del transform._apply_image_or_video_transform
    return found


def drawn_here(augment, count):
    """Return the same of our draws."""
    policy = policy_of(augment, *SIZE)
    texts = [f"{name} {magnitude + 0.0:.4g}" for name, magnitude in policy.operations]
    assert texts[0] == "Identity 0"
    choices = policy.draw(count, np.random.default_rng(0)).tolist()
    return [tuple(texts[place] for place in row if place) for row in choices]


@pytest.mark.parametrize("augment", LEARNED)
def test_operations_and_their_shares_are_torchvisions(augment):
    """Each operation, strength and pair comes as often as in torchvision's own class."""
    torch.manual_seed(0)
    count = 6000
    theirs, ours = drawn_by_torchvision(augment, count), drawn_here(augment, count)
    for rows in (theirs, ours):  # nothing that only one of them knows
        known = {name for row in rows for name in row}
        assert known <= {name for row in (*theirs, *ours) for name in row}
    for part in (lambda row: row, lambda row: row[:1], lambda row: len(row)):
        wanted, found = Counter(map(part, theirs)), Counter(map(part, ours))
        for key in wanted | found:
            # five standard deviations of the difference of two counts
            spread = 5 * np.sqrt(wanted[key] + found[key] + 1)
            assert abs(wanted[key] - found[key]) <= spread, key


def test_every_operation_of_a_row_of_the_table_can_be_drawn():
    """In enough draws each operation of the policy occurs, with either sign where it has one."""
    for augment in LEARNED:
        policy = policy_of(augment, *SIZE)
        used = set(policy.rows.flatten().tolist())
        seen = set(policy.draw(40_000, np.random.default_rng(1)).flatten().tolist())
        never = {  # the table of CIFAR-10 has an operation with a share of 0
            place
            for place in used - seen
            if (policy.shares[(policy.rows == place).any(axis=2)] > 0).any()
        }
        assert not never, augment


def test_images_are_drawn_for_one_by_one():
    """Two images of one batch get different operations; torchvision's class treats both alike."""
    torch.manual_seed(0)
    pair = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8).expand(2, -1, -1, -1)
    for augment, transform in OWN.items():
        for _ in range(20):
            first, second = transform(pair)
            assert torch.equal(first, second)
        choices = policy_of(augment, 32, 32).draw(20, np.random.default_rng(0))
        assert len({tuple(row) for row in choices.tolist()}) > 5
