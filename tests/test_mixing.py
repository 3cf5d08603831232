"""Mixup and CutMix: batches against their definitions, on one rank and on several."""

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from lmsm_cli.data.augment import AUGMENTATIONS
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.data.mixing import Mixing, draw_mixing
from tests.test_operations import pictures

SIZE = (12, 10)
WAYS = {"mixup": (0.4, 0.0), "cutmix": (0.0, 1.0), "both": (0.4, 1.0)}
every_way = pytest.mark.parametrize("way", WAYS)


def epoch(way, *, augment="crop-flip", number=0, **options):
    """Return the batches of an epoch of 27 images, their plan, and the unmixed batches."""
    images = pictures(27, 3, SIZE).permute(0, 2, 3, 1).contiguous()
    mixing = Mixing(*WAYS[way], batch_size=8)
    plans = [
        plan_epoch(27, augment, seed=5, epoch=number, size=SIZE, mixing=ways)
        for ways in (mixing, None)
    ]
    mixed, plain = (list(batches(images, torch.arange(27), plan, 8, **options)) for plan in plans)
    return mixed, plans[0], plain


@every_way
def test_a_mixed_batch_is_its_definition(way):
    """Images are blended with a share, or have another's rectangle; labels have those shares."""
    seen = set()
    for number in range(6):
        mixed, plan, plain = epoch(way, number=number)
        for i, (batch, whole) in enumerate(zip(mixed, plain, strict=True)):
            partners = plan.mixing.partners[8 * i : 8 * (i + 1)] - 8 * i
            assert sorted(partners.tolist()) == list(range(len(whole.labels)))
            others = whole.images[partners]
            top, bottom, left, right = plan.mixing.boxes[i].tolist()
            own = plan.mixing.own[i]
            wanted = own * whole.images.double() + (1 - own) * others.double()
            if bottom > top:
                wanted = whole.images.double()
                wanted[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right].double()
                lost = (bottom - top) * (right - left) / (SIZE[0] * SIZE[1])
                assert own == pytest.approx(1 - lost, abs=1e-12)
            assert (batch.images.double() - wanted).abs().max() <= 0.5 + 1e-4
            labels = (whole.labels, whole.labels[partners])
            first, second = labels if own >= 0.5 else labels[::-1]
            assert torch.equal(batch.labels, first)
            assert torch.equal(batch.mixed.labels, second)
            assert batch.mixed.share.item() == pytest.approx(max(own, 1 - own), rel=1e-6)
            seen.add(bottom > top)
    assert seen == {"mixup": {False}, "cutmix": {True}, "both": {False, True}}[way]


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_shares_have_the_beta_distribution_and_each_batch_its_own(way):
    """Mixup's shares are Beta's draws; a CutMix rectangle that fits has the drawn area."""
    mixing, size = Mixing(*WAYS[way], batch_size=2), (1000, 1000)
    plan = draw_mixing(mixing, 8000, size, np.random.default_rng(0))
    alpha = max(WAYS[way])
    own = plan.own
    if way == "cutmix":
        top, bottom, left, right = plan.boxes.T
        inside = (top > 0) & (left > 0) & (bottom < 1000) & (right < 1000)
        # a larger rectangle fits less often: weigh each by how often it would
        side = np.sqrt(1 - own[inside])
        uniform = np.histogram(own[inside], 10, (0, 1), weights=1 / (1 - side) ** 2)[0]
        assert uniform[2:].std() < 0.2 * uniform[2:].mean()
        return
    assert kstest(own, "beta", (alpha, alpha)).pvalue > 0.001


def test_both_ways_share_the_batches():
    """With mixup and CutMix about half of the batches go each way."""
    plan = draw_mixing(Mixing(1.0, 1.0, 2), 8000, SIZE, np.random.default_rng(0))
    assert (plan.boxes[:, 1] > 0).mean() == pytest.approx(0.5, abs=0.04)


@every_way
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_the_parts_of_several_ranks_are_the_batch(way, augment):
    """Partners of another rank are the same images, changed alike; so are all labels."""
    whole, _, _ = epoch(way, augment=augment)
    cuts = [(0, 3), (3, 6), (6, 8)]
    parts = [
        epoch(way, augment=augment, share=lambda n, cut=cut: slice(min(cut[0], n), min(cut[1], n)))
        for cut in cuts
    ]
    for i, batch in enumerate(whole):
        of_ranks = [part[0][i] for part in parts]
        joined = torch.cat([part.images for part in of_ranks])
        # an image's place in its batch changes no bit but those of a convolution's rounding
        assert (joined.int() - batch.images.int()).abs().max() <= 1
        assert torch.equal(torch.cat([part.labels for part in of_ranks]), batch.labels)
        second = torch.cat([part.mixed.labels for part in of_ranks])
        assert torch.equal(second, batch.mixed.labels)
        for part in of_ranks:
            assert torch.equal(part.all_labels, batch.all_labels)
            assert torch.equal(part.mixed.all_labels, batch.mixed.labels)


@every_way
def test_a_mixed_epoch_can_be_entered_anywhere(way):
    """Starting at batch 2 gives exactly the rest; another epoch is mixed otherwise."""
    mixed, *_ = epoch(way)
    rest, *_ = epoch(way, start=2)
    for late, batch in zip(rest, mixed[2:], strict=True):
        assert torch.equal(late.images, batch.images)
        assert torch.equal(late.mixed.labels, batch.mixed.labels)
    other, *_ = epoch(way, number=1)
    assert not torch.equal(other[0].mixed.share, mixed[0].mixed.share)


@every_way
def test_mixing_leaves_order_and_changes_alone(way):
    """The images of an epoch, and what happens to each, are those without mixing."""
    _, plan, _ = epoch(way)
    plain = plan_epoch(27, "crop-flip", seed=5, epoch=0)
    assert torch.equal(plan.order, plain.order)
    assert torch.equal(plan.changes.corners, plain.changes.corners)
