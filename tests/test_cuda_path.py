"""Training on a GPU, on the pretended one: a graph keeps the bits, and no step waits.

A net of a few layers learns ten images in three epochs of three batches, the last of two images. A
graph is captured in the second call of its kind already, so that of the last batch is too.
"""

import functools
import itertools
import random
from collections import Counter
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD

from lmsm_cli.config import Config
from lmsm_cli.data.augment import AUGMENTATIONS
from lmsm_cli.data.batches import plan_epoch
from lmsm_cli.data.splits import Data
from lmsm_cli.distributed.process_group import SINGLE_PROCESS
from lmsm_cli.losses.registry import HEADS, build_head
from lmsm_cli.models.backbones import Backbone
from lmsm_cli.models.classifier import Classifier, ModelSpec, build_classifier
from lmsm_cli.models.freezing import freeze
from lmsm_cli.models.necks import build_neck
from lmsm_cli.runtime import cuda_graph
from lmsm_cli.runtime.device import choose_runtime
from lmsm_cli.runtime.display import Step
from lmsm_cli.training import benchmark, dry_run, evaluate
from lmsm_cli.training.loop import PausedError, Trainer, train
from lmsm_cli.training.lr_schedule import learning_rate
from lmsm_cli.training.step import optimizer_state, restore_optimizer
from tests.conftest import image_set
from tests.pretend_cuda import PretendCuda
from tests.test_loop import easy_images

IMAGES = easy_images().subset([*range(5), *range(20, 23), 40, 41])
CONFIG = Config(
    device="cuda",
    epochs=3,
    batch_size=4,
    optimizer="sgd",
    lr=0.05,
    schedule="cosine",
    warmup=1,
    neck="none",
    precision="fp32",
)
OPTIONS = ("margin=2", "margin=2.5", "margin=auto", "anneal=cosine", "class_chunk=2", "tau=1")
LOSSES = (*HEADS, *(f"lsoftmax:{option}" for option in OPTIONS))
CAPTURE = "torch.cuda.graph"
CHOICES = {
    "neck": [{"neck": kind} for kind in ("none", "linear", "relu", "prelu", "bn")],
    "step": [{}, {"sam": 0.05}, {"accumulate": 3}, {"ema": 0.9}, {"accumulate": 2, "ema": 0.9}],
    "mixing": [{}, {"mixup": 0.5}, {"cutmix": 1.0}, {"mixup": 0.5, "cutmix": 1.0}],
    "classes": [
        {},
        {"reweight": "inverse", "rebalance_from": 2},
        {"class_weights": {"a": 2.0}},
        {"sampling": "balanced"},
    ],
    "optimizer": [{"optimizer": name} for name in ("sgd", "adam", "adamw")],
    "groups": [{}, {"backbone_lr": 0.01, "head_weight_decay": 0.0}],
    "labels": [{}, {"label_smoothing": 0.1}],
    "precision": [{"precision": "fp32"}, {"precision": "bf16"}],
}
"""What a step can be made of: all pairs of two of these are tried."""


def pairs_of(row):
    """Return the pairs of choices that a row of their numbers holds, by their places."""
    return set(itertools.combinations(enumerate(row), 2))


def rows_of_pairs():
    """Return rows with one number of each of CHOICES, so that every pair of numbers is in a row."""
    sizes = [range(len(choices)) for choices in CHOICES.values()]
    left = set().union(*map(pairs_of, itertools.product(*sizes)))
    draws, rows = random.Random(0), []
    while left:
        ((first, a), (second, b)) = min(left)
        drawn = [[draws.choice(size) for size in sizes] for _ in range(60)]
        for row in drawn:
            row[first], row[second] = a, b
        rows.append(max(drawn, key=lambda row: len(pairs_of(row) & left)))
        left -= pairs_of(rows[-1])
    return rows


def choices_of_rows():
    """Return the config's choices of each row, with the losses and augmentations in turn."""
    found, parts, left = [], list(CHOICES.values()), []
    for row, augment in zip(rows_of_pairs(), itertools.cycle(AUGMENTATIONS), strict=False):
        chosen = {key: v for part, n in zip(parts, row, strict=True) for key, v in part[n].items()}
        left += LOSSES if len(left) < 2 else ()
        # only class_chunk and smoothing exclude each other
        loss = next(one for one in left if not ("chunk" in one and "label_smoothing" in chosen))
        left.remove(loss)
        found.append(chosen | {"loss": loss, "augment": augment})
    return found


def net(loss="softmax", neck="none", dropout=0.3):
    """Return a classifier of a convolution and a neck, for 8 x 8 pixels."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout), nn.Flatten()
    )
    built, width = build_neck(neck, Backbone(layers, 144, 16, 8))
    head = build_head(loss, width, 3, torch.tensor([20, 10, 5]))
    return Classifier(layers, built, head, classes="abc", mean=(0.5,), std=(0.3,))


def cuda_trainer(config, model=None, held_out=None, images=IMAGES):
    """Return what trains a model on the pretended device."""
    runtime = choose_runtime("cuda", config.precision)
    runtime.apply()
    model = runtime.place(model or net(config.loss, config.neck))
    return Trainer.create(model, config, Data(images, held_out, images), runtime)


@contextmanager
def pretended():
    """Return the pretended device, on which a graph is captured early."""
    with mock.patch.object(cuda_graph, "_WARM_UP", 1), PretendCuda() as cuda:
        yield cuda


class Trained:
    """What a training on the pretended device gave: weights, rows, and what was seen meanwhile."""

    def __init__(self, config, *, disturb=None, **given):
        self.told, self.waits, seen = [], set(), 0
        with pretended() as self.device:
            trainer = cuda_trainer(config, **given)
            if disturb:
                self.device.disturb = lambda name: disturb(self.device, name)

            def note(step):
                nonlocal seen
                if step.step > 1:  # between two epochs the host may wait
                    self.waits.update(self.device.waits[seen:])
                seen = len(self.device.waits)

            epochs = list(train(trainer, on_step=note, warn=self.told.append))
            self.weights = {
                f"{name} {key}": value.cpu()
                for name, model in (("trained", trainer.model), ("tested", trainer.tested))
                for key, value in model.state_dict().items()
            }
        timeless = [{k: v for k, v in e.to_row().items() if "second" not in k} for e in epochs]
        self.rows = timeless

    def assert_same(self, other):
        """Check that the bits and the rows are another training's."""
        assert self.rows == other.rows
        for name, value in self.weights.items():
            assert torch.equal(value, other.weights[name]), name


def with_graph(config, graph=True):
    """Return the config with or without a CUDA graph."""
    return config.model_copy(update={"cuda_graph": graph})


def test_every_pair_of_choices_is_tried():
    """The rows hold all pairs, every loss and every augmentation."""
    rows = choices_of_rows()
    assert {row["loss"] for row in rows} >= set(LOSSES)
    assert {row["augment"] for row in rows} == set(AUGMENTATIONS)
    for first, second in itertools.combinations(CHOICES.values(), 2):
        for one, other in itertools.product(first, second):
            wanted = (one | other).items()
            assert any(wanted <= row.items() for row in rows), (one, other)


@pytest.mark.parametrize(
    "choices",
    [pytest.param(row, id=str(n)) for n, row in enumerate(choices_of_rows())],
)
def test_a_graph_gives_the_eager_bits_and_nothing_waits(choices):
    """Whatever a step is made of: weights and rows are the same, no step waits or is refused."""
    Config.model_validate(CONFIG.model_dump() | choices)
    config = CONFIG.model_copy(update=choices)
    replayed, eager = (Trained(with_graph(config, graph)) for graph in (True, False))
    assert replayed.told == []
    assert len(replayed.device.captured) >= 2
    assert not eager.device.captured
    replayed.assert_same(eager)
    assert {what for what, _ in replayed.waits} == {CAPTURE}
    assert eager.waits == set()


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_a_last_layer_alone_is_trained_as_a_graph_too(augment):
    """On frozen features, worked out once, or anew each time: eager bits, and nothing waits."""
    config = CONFIG.model_copy(update={"freeze": "features", "augment": augment})

    def trained(graph):
        model = net()
        freeze(model, "features")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = Trained(with_graph(config, graph), model=model)
        moved = {k for k, v in before.items() if not torch.equal(v, found.weights[f"trained {k}"])}
        assert moved == {"head.weight"}
        return found

    replayed, eager = trained(True), trained(False)
    assert len(replayed.device.captured) == 2
    replayed.assert_same(eager)
    assert {what for what, _ in replayed.waits} == {CAPTURE}
    assert eager.waits == set()


def test_every_image_moves_the_weights_as_a_plain_loop_moves_them():
    """All batches of all epochs are taken, the last ones too: torch's plain step gives the same."""
    config = CONFIG.model_copy(update={"augment": "none"})
    trained = Trained(config, model=net(dropout=0.0))
    plain = net(dropout=0.0)
    optimizer = SGD(
        plain.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )
    for epoch in range(config.epochs):
        optimizer.param_groups[0]["lr"] = learning_rate(config, epoch)
        order = plan_epoch(len(IMAGES), "none", seed=config.seed, epoch=epoch).order
        for places in order.split(config.batch_size):
            optimizer.zero_grad()
            pixels = IMAGES.images[places].permute(0, 3, 1, 2)
            functional.cross_entropy(plain(pixels), IMAGES.labels[places]).backward()
            optimizer.step()
    for name, value in plain.state_dict().items():
        close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)
        close(trained.weights[f"trained {name}"], value)


def test_validation_between_replays_scores_the_weights_of_its_epoch(monkeypatch):
    """In several batches, with graphs alive: it scores as on the CPU, and disturbs no training."""
    monkeypatch.setattr(evaluate, "_LARGEST", 8)
    held_out = easy_images(per_class=8, seed=1)
    scored = []
    with pretended() as cuda:
        trainer = cuda_trainer(CONFIG, held_out=held_out)
        for epoch in train(trainer):
            plain = net()
            plain.load_state_dict({k: v.cpu() for k, v in trainer.model.state_dict().items()})
            logits = plain.eval()(held_out.images.permute(0, 3, 1, 2))
            scored.append((epoch.val_loss, functional.cross_entropy(logits, held_out.labels)))
        assert len(cuda.captured) == 2
        weights = trainer.model.head.weight.cpu()
    for found, wanted in scored:
        assert found == pytest.approx(wanted.item(), rel=1e-5)
    assert torch.equal(weights, Trained(CONFIG).weights["trained head.weight"])


@pytest.mark.parametrize(("fitting", "sizes"), [(10, [8, 8, 8]), (0, [1] * 24), (10**6, [24])])
def test_a_batch_is_evaluated_by_the_memory_that_is_free(fitting, sizes):
    """A quarter holds 512 bytes for each pixel and 16 for each class; of that a power of two."""
    images, done = easy_images(per_class=8, seed=1).images, []
    with PretendCuda() as cuda:
        runtime = choose_runtime("cuda", "fp32")
        model = runtime.place(net())
        cuda.memory, cuda.allocated = 7 + fitting * 4 * (8 * 8 * 512 + 3 * 16), 7
        evaluate.scores_of(model, images, runtime, shown=lambda seen, total: done.append(seen))
    assert [seen - before for before, seen in itertools.pairwise([0, *done])] == sizes


@pytest.mark.parametrize("graph", [True, False])
def test_a_training_goes_on_with_the_bits_of_one_that_nobody_stopped(graph):
    """It is left in an epoch; whatever was drawn since, dropout goes on where it was."""
    config = with_graph(CONFIG, graph)
    whole = Trained(config)
    with pretended():
        left = cuda_trainer(config)
        steps = []
        with pytest.raises(PausedError) as paused:
            list(train(left, on_step=steps.append, stop=lambda: 15 * (len(steps) == 5)))
        goes_on = cuda_trainer(config)
        goes_on.model.load_state_dict(left.model.state_dict())
        restore_optimizer(
            goes_on.model, goes_on.optimizer, optimizer_state(left.model, left.optimizer)
        )
        torch.manual_seed(1)
        list(train(goes_on, start=paused.value.position))
        for name, value in goes_on.model.state_dict().items():
            assert torch.equal(value.cpu(), whole.weights[f"trained {name}"]), name


# Calls of operators in the graph of a step of ResNet-18, and outside of it: to be lowered.
BOUNDS = {
    "softmax": (223, 18),
    "lsoftmax:margin=2": (226, 18),
    "lsoftmax:margin=auto": (226, 18),
    "lsoftmax:margin=auto,weight_norm=shared,tau=1": (232, 18),
    "asoftmax": (228, 18),
    **dict.fromkeys(("cosface", "arcface", "ldam", "dbm"), (232, 18)),
    "large-margin-in-softmax": (243, 18),
    "balanced-softmax": (225, 18),
    "logit-adjusted": (226, 18),
    "vs": (229, 18),
    "focal": (241, 18),
}


def test_every_loss_has_a_bound_close_to_softmaxs():
    """Of 20 calls more at most, and none outside of the graph."""
    assert {spec.partition(":")[0] for spec in BOUNDS} == set(HEADS)
    calls, beside = BOUNDS["softmax"]
    assert all(one <= calls + 20 and other == beside for one, other in BOUNDS.values())


counts = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="counted with torch 2.14: other releases divide the work otherwise",
)


@counts
@pytest.mark.parametrize("loss", BOUNDS)
def test_a_step_launches_no_more_than_it_did(loss):
    """Who adds a call to the step of a usual net, or beside its graph, sees it here."""
    config = CONFIG.model_copy(
        update={
            "epochs": 1,
            "batch_size": 2,
            "warmup": 0,
            "lr": 0.001,
            "augment": "crop-flip",
            "precision": "bf16",
        }
    )
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (8, 32, 32, 3), generator=generator, dtype=torch.uint8)
    half = (0.5, 0.5, 0.5)
    images = image_set(pixels, torch.arange(8) % 3, "abc", half, half)
    outside = []
    with pretended() as cuda:
        model = build_classifier(
            ModelSpec("resnet18", "bn", loss),
            classes="abc",
            mean=half,
            std=half,
            class_counts=torch.tensor([6, 5, 5]),
        )
        trainer = cuda_trainer(config, model, images=images)
        list(train(trainer, on_step=lambda step: outside.append(cuda.launches.total())))
    assert len(outside) == 4
    (captured,) = cuda.captured
    calls, beside = BOUNDS[loss]
    assert captured.total() <= calls, captured
    assert outside[-1] - outside[-2] <= beside


def test_kernels_are_tried_out_for_full_training_batches_only():
    """Not for the last batch, and not in the evaluation, whose shapes come once."""
    tried = []

    def note(device, name):
        if name == "convolution":
            tried.append(torch.backends.cudnn.benchmark)

    held_out = easy_images(per_class=2, seed=1)
    Trained(with_graph(CONFIG, graph=False), disturb=note, held_out=held_out)
    assert tried == [True, True, False, False] * CONFIG.epochs


def test_fp32_is_that_of_ieee_everywhere():
    """Convolutions as products: TF32 in one of them alone would be neither fast nor exact."""
    kinds = (torch.backends.cudnn, torch.backends.cuda.matmul)
    for kind in kinds:
        kind.allow_tf32 = True
    with pretended():
        cuda_trainer(CONFIG)
    assert [kind.allow_tf32 for kind in kinds] == [False, False]
    layer = torch.nn.Conv2d(1, 2, 3).eval()
    torch.export.export(layer, (torch.zeros(1, 1, 8, 8),))  # which reads these flags


def test_a_measurement_waits_once_for_ten_steps():
    """A wait after each step would leave the device idle before the next one."""
    with PretendCuda() as cuda:
        runtime = choose_runtime("cuda", "fp32")
        assert benchmark.throughput("paper-2d", runtime, 2, 0.0, print) > 0
        waits = Counter(what for what, _ in cuda.waits)
    assert waits["synchronize"] == 6  # before and after each of three times


def test_a_dry_run_waits_once_for_ten_steps_and_times_no_validation(monkeypatch):
    """Of steps of 0.01 s, the first of 3 s, and 5 s between epochs of 30: waits are few."""
    now = [0.0]
    monkeypatch.setattr(dry_run.time, "perf_counter", lambda: now[0])
    waited = []
    with PretendCuda() as cuda:
        clock = dry_run._Clock(torch.device("cuda"), SINGLE_PROCESS)
        for epoch, step in itertools.product(range(1, 4), range(1, 31)):
            now[0] += 3 if (epoch, step) == (1, 1) else 0.01 + 5 * (step == 1)
            before = len(cuda.waits)
            clock(Step(epoch, step, 30, 0, None, None, 0.1, 3))
            waited += [(epoch, step)] * (len(cuda.waits) - before)
    assert (clock.first, clock.seconds) == pytest.approx((3, 0.01))
    first = [(1, step) for step in (1, 8, 18, 28, 30)]
    assert waited == first + [(n, step) for n in (2, 3) for step in (1, 11, 21, 30)]


def test_the_numeric_rows_of_the_loss_can_be_measured_on_the_device(module):
    """They draw and compute on one device."""
    rows = module("loss_numerics").numerics
    size = module("loss_arms").Size(10, 1, batch=8, width=16, device="cuda")
    with PretendCuda():
        values = {row.what: row.value for row in rows(size)}
    assert values["p_y = 1 - 1e-9: not finite"] == 0
    assert values["fp32: loss"] < 1e-5


@counts
def test_the_step_row_of_the_loss_measures_the_step_of_a_training(module):
    """Its graphs have as many calls as a training's."""
    rows = module("loss_gpu").gpu_step
    size = module("loss_arms").Size(10, 1, batch=2, device="cuda")
    with PretendCuda() as cuda:
        (row,) = rows(size)
    assert list(row.arms) == ["softmax", "margin 2", "margin 4", "softmax again"]
    calls = sorted(captured.total() for captured in cuda.captured)  # they take turns
    assert calls[:3] == [BOUNDS[loss][0] for loss in ("softmax", "softmax", "lsoftmax:margin=2")]
