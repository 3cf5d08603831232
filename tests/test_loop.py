"""The training loop on small data: it learns, repeats exactly, and reports without the margin."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from lmsm_cli.config import Config
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.data.mixing import Mixing
from lmsm_cli.data.splits import Data
from lmsm_cli.errors import DivergedError, LmsmError
from lmsm_cli.losses.registry import build_head
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.device import Runtime, choose_runtime
from lmsm_cli.training import loop as training
from lmsm_cli.training.collapse import (
    EpochStats,
    MetricAccumulator,
    RunningMetrics,
    collapse_warnings,
)
from lmsm_cli.training.evaluate import features_of, scores_of
from lmsm_cli.training.loop import Trainer
from lmsm_cli.training.lr_schedule import learning_rate
from lmsm_cli.training.step import new_optimizer
from tests.conftest import image_set

CPU = Runtime(torch.device("cpu"))


def easy_images(per_class=20, num_classes=3, seed=0):
    """Noise in which two bright rows tell the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(num_classes).repeat_interleave(per_class)
    pixels = torch.randint(100, (len(labels), 8, 8, 1), generator=generator, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        pixels[i, 2 * label + 1 : 2 * label + 3] += 120
    return image_set(pixels, labels, "abc"[:num_classes], std=(0.3,))


def small_model(loss="softmax", *, relu=False, dropout=0.0):
    """Return a two-layer classifier for `easy_images`."""
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(dropout)
    )
    neck = nn.ReLU() if relu else nn.Identity()
    return Classifier(
        backbone, neck, build_head(loss, 16, 3), classes="abc", mean=(0.5,), std=(0.3,)
    )


def trainer_of(model, config, data=None, held_out=None, runtime=CPU):
    """Return what trains a model on `easy_images` or other data."""
    images = data or easy_images()
    return Trainer.create(model, config, Data(images, held_out, images), runtime)


def fit(model, config, held_out=None, data=None):
    """Train on `easy_images` and return the epochs."""
    return list(training.train(trainer_of(model, config, data, held_out)))


CONFIG = Config(epochs=3, batch_size=16, lr=0.01, device="cpu")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_head_has_a_weight_decay_of_its_own(optimizer):
    """Where no gradient pulls, a step leaves 1 - lr decay of the body, and all of the head."""
    config = CONFIG.model_copy(
        update={
            "optimizer": optimizer,
            "lr": 0.5,
            "momentum": 0.0,
            "weight_decay": 0.2,
            "head_weight_decay": 0.0,
        }
    )
    model = small_model()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    stepper = new_optimizer(model, config)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    stepper.step()
    for name, value in model.named_parameters():
        left = 1.0 if name.startswith("head.") else 0.9
        torch.testing.assert_close(value.detach(), left * before[name])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("loss", ["softmax", "lsoftmax:margin=2", "lsoftmax:margin=4"])
def test_it_learns(optimizer, loss):
    """Every optimiser and loss gets an easy set nearly right in a few epochs."""
    config = CONFIG.model_copy(update={"optimizer": optimizer, "epochs": 8})
    last = fit(small_model(loss), config, easy_images(seed=1))[-1]
    assert last.val_accuracy > 0.95
    assert last.train_accuracy > 0.95


def test_the_same_seed_repeats_exactly_and_another_does_not():
    """Weights after training depend on the seed alone, shuffling and dropout included."""
    weights = []
    for seed in (1, 1, 2):
        model = small_model(dropout=0.5)
        fit(model, CONFIG.model_copy(update={"seed": seed, "augment": "crop-flip"}))
        weights.append(model.head.weight.detach().clone())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_reported_accuracy_and_loss_are_margin_free():
    """With frozen weights the reported numbers are plain softmax's, though the objective is not."""
    model = small_model("lsoftmax:margin=4,anneal=none")
    data = easy_images()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.eval = module.train = lambda *_, m=module: m  # keep statistics fixed
            module.training = False
    config = CONFIG.model_copy(update={"lr": 1e-30, "epochs": 1, "weight_decay": 0.0})
    epoch = fit(model, config, data)[0]
    logits = scores_of(model, data.images, CPU)
    plain = nn.functional.cross_entropy(logits, data.labels).item()
    accuracy = (logits.argmax(1) == data.labels).float().mean().item()
    assert epoch.train_loss == pytest.approx(plain, rel=1e-4)
    assert epoch.val_loss == pytest.approx(plain, rel=1e-4)
    assert epoch.train_accuracy == pytest.approx(accuracy, abs=1e-6)
    assert epoch.val_accuracy == pytest.approx(accuracy, abs=1e-6)
    assert epoch.stats.objective > plain + 0.5


UNEVEN = easy_images().subset([*range(20), *range(20, 30), *range(40, 44)])  # 20, 10 and 4 images
REBALANCED = [{"reweight": "inverse"}, {"reweight": "effective"}, {"sampling": "balanced"}]


def weights_by_epoch(loss="softmax", **choice):
    """Return the head's weight after each of three epochs on UNEVEN."""
    model = small_model(loss, dropout=0.5)
    config = Config(**({"epochs": 3, "batch_size": 8, "lr": 0.01} | choice))
    epochs = training.train(trainer_of(model, config, UNEVEN))
    return [model.head.weight.detach().clone() for _ in epochs]


@pytest.mark.parametrize("choice", REBALANCED)
@pytest.mark.parametrize("loss", ["softmax", "lsoftmax:margin=2"])
def test_rebalancing_holds_from_its_epoch_on(loss, choice):
    """Before --rebalance-from a run is the plain one bit for bit; from that epoch on it is not."""
    plain = weights_by_epoch(loss)
    for start in (1, 2, 3):
        ours = weights_by_epoch(loss, **choice, rebalance_from=start)
        same = [torch.equal(a, b) for a, b in zip(ours, plain, strict=True)]
        assert same == [True] * (start - 1) + [False] * (4 - start)


# Of plain SGD, over all images of UNEVEN.
ONE_STEP = Config(epochs=1, batch_size=34, lr=0.5, optimizer="sgd", momentum=0.0, weight_decay=0.0)


def test_a_reweighted_step_is_one_on_torchs_weighted_loss():
    """A step of SGD over the whole set moves the head as cross_entropy(weight=...) does."""
    config = ONE_STEP.model_copy(update={"reweight": "inverse"})
    model, theirs = small_model(), small_model()
    fit(model, config, data=UNEVEN)
    per_class = torch.tensor([1 / 20, 1 / 10, 1 / 4])
    logits = theirs.head.logits(theirs.embed(UNEVEN.images.permute(0, 3, 1, 2)))
    nn.functional.cross_entropy(logits, UNEVEN.labels, weight=per_class).backward()
    wanted = theirs.head.weight - 0.5 * theirs.head.weight.grad
    torch.testing.assert_close(model.head.weight, wanted)


def test_reported_losses_and_accuracies_stay_unweighted():
    """Weights of classes change the objective of a step, not the loss that is reported of it."""
    config = Config(epochs=1, batch_size=34, lr=1e-30, weight_decay=0.0)
    plain = fit(small_model(), config, UNEVEN, UNEVEN)[0]
    weighted = fit(
        small_model(), config.model_copy(update={"reweight": "inverse"}), UNEVEN, UNEVEN
    )[0]
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        assert getattr(plain, name) == getattr(weighted, name), name
    assert abs(weighted.stats.objective - plain.stats.objective) > 0.01


def test_a_mixed_step_weighs_each_label_by_its_own_class():
    """A step on blended images moves the head as the weighted mean over both labels does."""
    choice = {"reweight": "inverse", "mixup": 1.0, "label_smoothing": 0.2}
    config = ONE_STEP.model_copy(update=choice)
    model, theirs = small_model(), small_model()
    seen = fit(model, config, data=UNEVEN)
    mixing = Mixing(1.0, 0.0, 34)
    plan = plan_epoch(34, "none", seed=42, epoch=0, size=(8, 8), mixing=mixing)
    (batch,) = batches(UNEVEN.images, UNEVEN.labels, plan, 34)
    logits = theirs.head.logits(theirs.embed(batch.images))
    per_class = torch.tensor([1 / 20, 1 / 10, 1 / 4])
    share, objective, total = batch.mixed.share, 0, 0
    for labels, part in ((batch.labels, share), (batch.mixed.labels, 1 - share)):
        losses = nn.functional.cross_entropy(logits, labels, reduction="none", label_smoothing=0.2)
        objective = objective + (part * per_class[labels] * losses).sum()
        total = total + (part * per_class[labels]).sum()
    (objective / total).backward()
    wanted = theirs.head.weight - 0.5 * theirs.head.weight.grad
    torch.testing.assert_close(model.head.weight, wanted)
    assert 0.5 <= share < 1
    # what is reported: of the label with the larger share, by the weights before the step
    hits = (logits.argmax(dim=1) == batch.labels).float()
    assert seen[0].train_accuracy == pytest.approx(hits.mean().item(), abs=1e-6)
    plain = nn.functional.cross_entropy(logits, batch.labels)
    assert seen[0].train_loss == pytest.approx(plain.item(), rel=1e-5)


def test_validation_and_test_images_are_never_changed(monkeypatch):
    """Whatever is done to the training images, what is scored are the images as they are."""
    looked_at = []
    held_out = easy_images(per_class=5, seed=1)

    def look(model, images, *rest):
        looked_at.append(images.clone())
        return scores_of(model, images, *rest)

    monkeypatch.setattr(training, "scores_of", look)
    choice = {"augment": "trivial", "mixup": 1.0, "cutmix": 1.0}
    fit(small_model(), CONFIG.model_copy(update=choice), held_out)
    assert len(looked_at) == 3
    assert all(torch.equal(images, held_out.images) for images in looked_at)


def test_balanced_sampling_reaches_the_steps(monkeypatch):
    """Steps see each image once, and from the chosen epoch on every class about as often."""
    model = small_model()
    seen = []
    original = model.head.losses_and_logits
    monkeypatch.setattr(
        model.head, "losses_and_logits", lambda x, y, p: seen.append(y) or original(x, y, p)
    )
    config = Config(epochs=41, batch_size=34, sampling="balanced", rebalance_from=2)
    fit(model, config, data=UNEVEN)
    assert torch.bincount(seen[0]).tolist() == [20, 10, 4]
    drawn = torch.bincount(torch.cat(seen[1:]))
    assert drawn.sum() == 40 * 34
    assert drawn.tolist() == pytest.approx([40 * 34 / 3] * 3, rel=0.15)


def test_a_class_without_images_is_refused_before_the_first_epoch():
    """Deferred re-weighting does not let a long run fail in its last part."""
    config = CONFIG.model_copy(update={"reweight": "effective", "rebalance_from": 3})
    steps = []
    model = small_model()
    trainer = trainer_of(model, config, UNEVEN.subset(range(30)))
    epochs = training.train(trainer, on_step=steps.append)
    with pytest.raises(LmsmError, match="class 2 has 0 training images"):
        next(epochs)
    assert not steps


def test_progress_runs_from_zero_to_one(monkeypatch):
    """Progress is 0 at the first step, nearly 1 at the last; lambda is of the epoch's end."""
    seen = []
    model = small_model("lsoftmax")
    original = model.head.losses_and_logits
    monkeypatch.setattr(
        model.head, "losses_and_logits", lambda x, y, p: seen.append(float(p)) or original(x, y, p)
    )
    epochs = fit(model, CONFIG)
    assert seen == pytest.approx([i / 12 for i in range(12)])
    assert [e.lam for e in epochs] == pytest.approx(
        [model.head.lambda_at(t) for t in (1 / 3, 2 / 3, 1)]
    )


def test_a_non_finite_loss_stops_the_training():
    """NaN in the weights ends the run with exit code 5, naming epoch and step."""
    model = small_model()
    model.head.weight.data[0, 0] = float("nan")
    with pytest.raises(
        DivergedError, match="no longer finite in epoch 1, at or before step 1"
    ) as error:
        fit(model, CONFIG)
    assert error.value.exit_code == 5


def test_unheld_validation_is_reported_as_none():
    """Without validation images its three scores are None, not 0."""
    epoch = fit(small_model(), CONFIG)[0]
    assert (epoch.val_loss, epoch.val_accuracy, epoch.val_balanced_accuracy) == (None, None, None)


def test_balanced_accuracy_counts_each_class_once():
    """On 20 / 20 / 2 held-out images it is the mean of the three class accuracies."""
    data = easy_images()
    uneven = data.subset([*range(40), 40, 41])
    model = small_model()
    predicted = scores_of(model, uneven.images, CPU).argmax(1)
    shares = [(predicted[uneven.labels == c] == c).float().mean().item() for c in range(3)]
    found = training.validate(trainer_of(model, CONFIG), uneven)
    assert found["val_balanced_accuracy"] == pytest.approx(np.mean(shares))


def test_evaluation_leaves_the_mode_as_it_was():
    """Scoring puts the model into eval mode and back."""
    model = small_model(dropout=0.9).train()
    first = scores_of(model, easy_images().images, CPU)
    assert model.training
    assert torch.equal(first, scores_of(model, easy_images().images, CPU))
    assert features_of(model, easy_images().images, CPU).shape == (60, 16)


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"schedule": "step", "step_size": 2, "gamma": 0.9}, [1, 1, 0.9, 0.9, 0.81, 0.81]),
        ({"schedule": "constant"}, [1] * 6),
        (
            {"schedule": "multistep", "milestones": (3, 5), "gamma": 0.01},
            [1, 1, 1, 0.01, 0.01, 0.0001],
        ),
        (
            {"schedule": "multistep", "milestones": (4,), "gamma": 0.1, "warmup": 2},
            [0.5, 1, 1, 1, 0.1, 0.1],
        ),
        (
            {"schedule": "cosine", "epochs": 4},
            [1, 0.5 + math.sqrt(2) / 4, 0.5, 0.5 - math.sqrt(2) / 4],
        ),
    ],
)
def test_learning_rates_by_hand(choice, wanted):
    """Each schedule gives the rates worked by hand, warm-up as in LDAM-DRW."""
    config = Config(lr=1.0, **({"epochs": 6} | choice))
    assert [learning_rate(config, epoch) for epoch in range(config.epochs)] == pytest.approx(wanted)


@pytest.mark.parametrize("schedule", ["step", "multistep"])
def test_schedules_are_torchs(schedule):
    """Step and multistep fall where torch's own schedulers do."""
    falls = {"step_size": 3} if schedule == "step" else {"milestones": (2, 5)}
    config = Config(lr=0.1, schedule=schedule, **falls, gamma=0.5, epochs=8)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    schedulers = torch.optim.lr_scheduler
    theirs = (
        schedulers.StepLR(optimizer, 3, 0.5)
        if schedule == "step"
        else schedulers.MultiStepLR(optimizer, [2, 5], 0.5)
    )
    for epoch in range(8):
        assert learning_rate(config, epoch) == pytest.approx(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()


HEALTHY = EpochStats(0.4, 5.0, 0.5, 0.6, 1.1, ())


@pytest.mark.parametrize(
    ("change", "progress", "sign"),
    [
        ({}, 1.0, None),
        ({"zero_features": 0.99}, 0.1, "dead features"),
        ({"zero_features": 0.75}, 1.0, None),
        ({"objective": math.log(3) + 0.001}, 0.5, "stuck loss"),
        ({"objective": math.log(3) + 0.001}, 0.1, None),
        ({"weight_norm_min": 0.001}, 0.1, "shrunken class weight"),
        ({"never_predicted": (2,)}, 0.5, "missing classes"),
        ({"never_predicted": (2,)}, 0.1, None),
    ],
)
def test_signs_of_collapse(change, progress, sign):
    """Each sign is found where it stands, and a healthy epoch has none."""
    vitals = EpochStats(**(vars(HEALTHY) | {"objective": 0.5} | change))
    assert list(collapse_warnings(vitals, ("a", "b", "c"), progress=progress)) == (
        [sign] if sign else []
    )


def test_the_watch_sees_what_happened():
    """Zero share, norms and predicted classes of an epoch are those worked by hand."""
    watch = MetricAccumulator(3, torch.device("cpu"))
    watch.start(2)
    steps = [(torch.ones(2, 2), [0, 0], 9.0), (torch.tensor([[3.0, 4.0], [0.0, 0.0]]), [2, 2], 1.5)]
    for features, predicted, objective in steps:
        watch.next(2, 2)
        watch.update(features, torch.tensor(predicted), *map(torch.tensor, (4.0, 1.0, objective)))
    assert watch.total() == RunningMetrics(2, 4, 2.0, 0.5, True)
    vitals = watch.epoch_stats(torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0]]))
    assert vitals.never_predicted == (1,)
    assert (vitals.zero_features, vitals.feature_norm, vitals.objective) == (0.5, 2.5, 1.5)
    assert (vitals.weight_norm_min, vitals.weight_norm_median) == (1.0, 2.0)


def test_the_full_margin_on_relu_features_is_called_a_collapse():
    """The seed's setting, L-Softmax without annealing on ReLU features, is found out in epoch 1."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (600, 8, 8, 1), generator=generator, dtype=torch.uint8)
    data = image_set(noise, torch.randint(3, (600,), generator=generator), "abc", std=(0.3,))
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16))
    head = build_head("lsoftmax:margin=4,anneal=none", 16, 3)
    model = Classifier(backbone, nn.ReLU(), head, classes="abc", mean=(0.5,), std=(0.3,))
    config = CONFIG.model_copy(update={"epochs": 1, "batch_size": 4, "lr": 0.01})
    signs = fit(model, config, data=data)[0].signs
    assert "dead features" in signs
    assert "stuck loss" in signs


def test_cuda_is_refused_where_there_is_none():
    """An explicit --device cuda without CUDA is a usage error; auto falls back to the CPU."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(LmsmError, match="finds no CUDA device"):
        choose_runtime("cuda", "auto")
    assert choose_runtime("auto", "fp32") == CPU


@pytest.mark.parametrize(("side", "largest"), [(32, 250), (224, 13), (1024, 1)])
def test_large_images_are_evaluated_few_at_a_time(side, largest):
    """The memory of an evaluation does not grow with the images' size."""
    sizes = []

    class Net(torch.nn.Module):
        def embed(self, images):
            sizes.append(len(images))
            return images.flatten(1)[:, :2].float()

    images = torch.zeros(1, side, side, 3, dtype=torch.uint8).expand(300, -1, -1, -1)
    features = features_of(Net(), images, Runtime(torch.device("cpu")))
    assert max(sizes) == largest
    assert sum(sizes) == len(features) == 300
