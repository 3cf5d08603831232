"""The alarms: each rings where something has collapsed, none for a healthy training."""

import math
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from lmsm_cli.losses.registry import LOSSES, build_head
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.display import WarningLog
from lmsm_cli.training.collapse import EpochStats, Start, collapse_warnings, has_learned
from tests.conftest import SilentDisplay, image_set
from tests.test_loop import CONFIG, fit

NOTHING = EpochStats(0.4, 5.0, 0.5, 0.6, 0.5, ())
"""Nothing is wrong."""
LATE = Start(5000, False, ())
TEN = tuple("0123456789")
THOUSAND = tuple(map(str, range(1000)))
NEAR_LN = {2: math.log(2) + 0.002, 10: math.log(10) - 0.005, 1000: math.log(1000) + 0.004}


def vitals(**changes):
    """Return healthy vitals with changes."""
    return EpochStats(**(vars(NOTHING) | changes))


@pytest.mark.parametrize(
    ("seen", "classes", "progress", "start"),
    [
        (vitals(objective=NEAR_LN[10]), TEN, 0.02, Start(400, False, ())),
        (vitals(objective=NEAR_LN[10]), TEN, 0.49, LATE),
        (vitals(objective=NEAR_LN[10]), TEN, 0.02, Start(400, True, ())),
        (vitals(objective=NEAR_LN[10]), TEN, 0.8, Start(5000, True, ())),
        (vitals(objective=NEAR_LN[10]), TEN, 1.0, Start(3, False, ())),
        (vitals(objective=NEAR_LN[2]), ("no", "yes"), 1.0, Start(20, False, ())),
        (vitals(objective=NEAR_LN[1000]), THOUSAND, 0.4, LATE),
        (vitals(objective=NEAR_LN[1000]), THOUSAND, 0.6, Start(5000, True, ())),
        (vitals(never_predicted=(1,)), ("no", "yes"), 1.0, Start(3, False, (24, 24))),
        (vitals(never_predicted=tuple(range(300))), THOUSAND, 0.1, LATE),
        (vitals(never_predicted=tuple(range(300))), THOUSAND, 0.5, Start(800, True, (100,) * 1000)),
        (vitals(never_predicted=(8, 9)), TEN, 0.6, Start(900, True, (9000,) * 8 + (120, 40))),
        (vitals(zero_features=0.75), TEN, 0.1, Start(10, False, ())),
        (vitals(zero_features=0.97), TEN, 0.1, Start(10, True, ())),
        (vitals(weight_norm_min=0.1), TEN, 0.1, Start(10, False, ())),
    ],
    ids=[
        "the first epoch is near ln C",
        "so is a slow one",
        "the first with an accuracy above chance",
        "a margin's loss passes ln C on its way",
        "few steps in all",
        "two classes, few steps",
        "1,000 classes, early",
        "1,000 classes, learning",
        "a class missing after few steps",
        "1,000 classes, many missing at first",
        "1,000 classes of few images",
        "a long tail's rare classes",
        "ReLU and dropout",
        "a sparse code",
        "rare classes have short weights",
    ],
)
def test_a_healthy_epoch_rings_no_alarm(seen, classes, progress, start):
    """What a training shows that has not had its chance, or that learns, is no collapse."""
    assert collapse_warnings(seen, classes, progress=progress, start=start) == {}


@pytest.mark.parametrize(
    ("seen", "progress", "start", "sign", "advice"),
    [
        (vitals(zero_features=0.96), 0.02, Start(10, False, ()), "dead features", "--neck bn"),
        (vitals(zero_features=1.0), 0.9, Start(5000, True, ()), "dead features", "--neck bn"),
        (vitals(objective=NEAR_LN[10]), 0.5, LATE, "stuck loss", "--lr"),
        (
            vitals(weight_norm_min=0.001),
            0.02,
            Start(10, False, ()),
            "shrunken class weight",
            "weight_norm=shared",
        ),
        (
            vitals(never_predicted=(3,)),
            0.5,
            Start(5000, True, (2000,) * 10),
            "missing classes",
            "--sampling balanced",
        ),
        (
            vitals(never_predicted=(9,)),
            0.7,
            Start(5000, True, (9000,) * 9 + (1000,)),
            "missing classes",
            " (9).",
        ),
    ],
)
def test_a_collapse_rings_and_says_what_to_try(seen, progress, start, sign, advice):
    """Each alarm is there once it is fair, alone, and ends with something to try."""
    signs = collapse_warnings(seen, TEN, progress=progress, start=start)
    assert list(signs) == [sign]
    assert advice in signs[sign]
    assert re.search(r"\. (Use|Try|If this lasts, train) .*\.$", signs[sign])


def test_words_of_dead_features_are_true():
    """Only where all are 0 the scores are the same for every image; 99.98% is not all."""
    for share, words in (
        (1.0, "all features are exactly 0, so every image gets the same scores."),
        (0.9998, "99.9% of the features are exactly 0 and pass no gradient."),
    ):
        signs = collapse_warnings(vitals(zero_features=share), TEN, progress=0.1)
        assert signs["dead features"].startswith(words)


def test_missing_classes_are_named():
    """How many of how many classes, and the first of them by name."""
    animals = ("bird", "cat", "deer", "dog", "frog", "horse", "plane", "ship", "truck", "car")
    seen = vitals(never_predicted=(5, 7, 8))
    signs = collapse_warnings(seen, animals, progress=0.5, start=Start(5000, True, ()))
    assert signs["missing classes"] == (
        "the model never predicted 3 of 10 classes (horse, ship, truck). If this lasts, train "
        "longer, or try --sampling balanced or a smaller margin."
    )


def test_an_accuracy_above_guessing_is_no_accident():
    """Three standard errors by hand: of 100 images of two classes above 65, of 10,000 51.5."""
    assert [has_learned(share, 100, 0.5) for share in (0.5, 0.64, 0.66)] == [False, False, True]
    assert [has_learned(share, 10_000, 0.5) for share in (0.514, 0.516)] == [False, True]
    assert not has_learned(0.9, 1000, 0.9)  # all images taken for the commonest class


def tailed(counts, seed=0):
    """Return noise images, so many of each class, that one bright row tells apart."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    pixels = torch.randint(100, (len(labels), 8, 8, 1), generator=generator, dtype=torch.uint8)
    pixels.view(len(labels), 64)[torch.arange(len(labels)), labels % 64] += 150
    return image_set(pixels, labels, tuple(map(str, range(len(counts)))), std=(0.3,))


def net(num_classes, loss="softmax", scale=1.0):
    """Return a small classifier; `scale` shrinks its first scores."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
    head = build_head(loss, 16, num_classes)
    with torch.no_grad():
        head.weight.mul_(scale)
    return Classifier(
        backbone, nn.ReLU(), head, classes=map(str, range(num_classes)), mean=(0.5,), std=(0.3,)
    )


@pytest.mark.parametrize(
    ("counts", "choices", "loss"),
    [
        ([20] * 3, {"epochs": 1}, "softmax"),
        ([8, 8], {"epochs": 2, "batch_size": 8}, "softmax"),
        ([30] * 10, {"epochs": 12, "lr": 0.0003}, "softmax"),
        ([30] * 10, {"epochs": 12, "lr": 0.003, "warmup": 9}, "softmax"),
        ([200, 60, 20, 6, 2], {"epochs": 12}, "softmax"),
        (
            [200, 60, 20, 6, 2],
            {"epochs": 12, "sampling": "balanced", "rebalance_from": 6},
            "softmax",
        ),
        ([2] * 1000, {"epochs": 4, "batch_size": 100, "lr": 0.001}, "softmax"),
        ([40] * 5, {"epochs": 12}, "lsoftmax:margin=2"),
        ([40] * 5, {"epochs": 12}, "arcface"),
    ],
    ids=[
        "one epoch",
        "two classes",
        "slow",
        "warm-up",
        "long tail",
        "balanced draws",
        "1,000 classes",
        "lsoftmax",
        "arcface",
    ],
)
def test_healthy_trainings_ring_no_alarm(counts, choices, loss):
    """From the first epoch to the last, whatever the classes and the plan."""
    config = CONFIG.model_copy(update=choices)
    for epoch in fit(net(len(counts), loss), config, data=tailed(counts)):
        assert epoch.signs == {}, epoch


def digits(num_steps, batch_size=16, tail=False):
    """Return digits for so many steps an epoch; with a tail, of 4 in 10 classes a fifth."""
    pixels, labels = load_digits(return_X_y=True)
    nth = np.array([np.sum(labels[:i] == label) for i, label in enumerate(labels)])
    kept = (labels < 6) | (nth % 5 == 0) if tail else np.ones(len(labels), bool)
    chosen = kept.nonzero()[0][: num_steps * batch_size]
    images = torch.from_numpy(pixels[chosen] * 15).to(torch.uint8).view(-1, 8, 8, 1)
    return image_set(images, torch.from_numpy(labels[chosen]), TEN, mean=(0.3,), std=(0.4,))


def digits_net(loss, neck, data):
    """Return a small net with the necks of `lmsm train`, for a loss at its defaults."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
    last = {"bn": [nn.BatchNorm1d(32)], "relu": [nn.ReLU(), nn.Dropout(0.25)]}[neck]
    head = build_head(loss, 32, 10, torch.tensor(data.counts()))
    return Classifier(
        backbone,
        nn.Sequential(nn.Linear(64, 32), *last),
        head,
        classes=TEN,
        mean=data.mean,
        std=data.std,
    )


@pytest.mark.parametrize("loss", [*LOSSES, "lsoftmax:margin=2", "lsoftmax:margin=4"])
@pytest.mark.parametrize("neck", ["bn", "relu"])
@pytest.mark.parametrize("num_steps", [3, 8, 20])
def test_a_normal_start_rings_no_alarm(loss, neck, num_steps):
    """Every loss on a few digits: the first epochs warn of nothing, near ln 10 as some are."""
    config = CONFIG.model_copy(update={"epochs": 3, "batch_size": 16, "lr": 0.003})
    data = digits(num_steps, tail=num_steps > 3)
    assert -(-len(data) // 16) == num_steps
    for epoch in fit(digits_net(loss, neck, data), config, data=data):
        assert epoch.signs == {}, epoch


def test_a_training_that_learns_nothing_rings_at_half_of_it():
    """Scores that stay alike for all classes: silent in the first half, then told by both signs."""
    config = CONFIG.model_copy(
        update={"epochs": 20, "optimizer": "sgd", "lr": 0.0, "weight_decay": 0.0}
    )
    epochs = fit(net(10, scale=0.0), config, data=tailed([120] * 10))
    early, late = epochs[:9], epochs[9:]
    assert all(epoch.signs == {} for epoch in early)
    assert all("stuck loss" in epoch.signs for epoch in late)
    assert all("missing classes" in epoch.signs for epoch in late)


def test_a_warning_is_kept_for_the_log_of_the_run():
    """What is warned of before and after there is a log stands in it once, and is shown once."""
    shown, log = SilentDisplay(), []
    told = WarningLog(shown)
    told.warning("early")
    told.write_to(log.append)
    told.warning("late")
    told.warning("early")
    assert (shown.warned, log) == (["early", "late"], ["WARNING early", "WARNING late"])
