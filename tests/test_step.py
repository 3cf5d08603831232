"""A training step keeps what changes in tensors, and never looks at them: a graph can hold it.

The machine that tests has no GPU, so a capture is emulated on the CPU: the step's operations are
written down with the very tensors they read and wrote, and a replay repeats just those. Numbers of
Python are frozen as in a CUDA graph, and a look at a tensor's value is refused.
"""

import copy
import gc
import weakref
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW
from torch.utils._python_dispatch import TorchDispatchMode

from lmsm_cli.config import Config
from lmsm_cli.data.batches import batches, plan_epoch
from lmsm_cli.losses.registry import HEADS, build_head
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.cuda_graph import Graphed
from lmsm_cli.training import loop as training
from lmsm_cli.training.step import TrainStep, new_optimizer
from tests.test_loop import CPU, UNEVEN, easy_images, fit, small_model, trainer_of

CONFIG = Config(epochs=5, batch_size=16, lr=0.05, optimizer="sgd", schedule="cosine", device="cpu")
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")


class Tape(TorchDispatchMode):
    """Writes down operations; `play` repeats them on the same tensors."""

    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.__name__.partition(".")[0] in WAITS:
            raise RuntimeError(f"{func} waits for the device")
        results = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, results))
        return results

    def play(self):
        """Repeat the operations."""
        with torch._C._AutoDispatchBelowAutograd():  # where they were written down
            for func, args, kwargs, results in self.operations:
                aliases = [r.alias_info for r in func._schema.returns if r.alias_info]
                if aliases and not any(alias.is_write for alias in aliases):
                    continue  # a view is one still
                again = func(*args, **kwargs)
                if not aliases:  # else it was in place
                    for old, new in zip(tensors(results), tensors(again), strict=True):
                        old.copy_(new)


def tensors(results):
    """Return the tensors among an operation's results."""
    parts = results if isinstance(results, tuple | list) else [results]
    return [part for part in parts if isinstance(part, torch.Tensor)]


def emulated_capture(stepper, also=()):
    """Return a capture for the CPU that, as CUDA's, leaves all as it was; `also` is some of it."""

    def capture(function):
        held = [*stepper.model.state_dict().values(), stepper.watch.sums, stepper.watch.predicted]
        held += [
            t
            for state in stepper._step.optimizer.state.values()
            for t in tensors(list(state.values()))
        ]
        held += also
        if stepper._step._accumulates:
            held += [p.grad for p in stepper.model.parameters()]
        before = [tensor.clone() for tensor in held]
        random = torch.get_rng_state()
        try:
            with Tape() as tape:
                function()
        finally:
            torch.set_rng_state(random)
            for tensor, value in zip(held, before, strict=True):
                tensor.detach().copy_(value)
        return tape.play

    return capture


def with_graph(monkeypatch, capture=emulated_capture, said=None):
    """Let every training of this test replay its steps; return the list of its Graphed."""
    made = []
    # Labels and the progress are looked at on the CPU alone.
    for module in ("checks", "margins"):
        monkeypatch.setattr(f"lmsm_cli.losses.{module}.readable", lambda values: False)

    def stepper(*args):
        new = TrainStep(*args)
        new._run = Graphed(new._step, capture(new), (said if said is not None else []).append)
        made.append(new._run)
        return new

    monkeypatch.setattr(training, "TrainStep", stepper)
    return made


def fit_with_tensor_rate(model, config, data):
    """Train with the learning rate in a tensor, as on CUDA; return the rows and the weights."""
    trainer = trainer_of(model, config, data)
    for group in trainer.optimizer.param_groups:
        group["lr"] = torch.tensor(config.lr)
    epochs = list(training.train(trainer))
    rows = [{k: v for k, v in e.to_row().items() if "second" not in k} for e in epochs]
    return rows, model.state_dict()


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"reweight": "inverse", "rebalance_from": 3},
        {"sampling": "balanced", "augment": "crop-flip"},
        {"mixup": 0.5, "cutmix": 1.0, "label_smoothing": 0.1, "reweight": "inverse"},
    ],
)
def test_replayed_steps_are_the_eager_ones(monkeypatch, optimizer, choice):
    """Weights, statistics and numbers are the same bits, with schedules, dropout, last batches."""
    config = CONFIG.model_copy(update=choice | {"optimizer": optimizer})
    runs = []
    for graphed in (False, True):
        made = with_graph(monkeypatch) if graphed else []
        model = small_model("lsoftmax:margin=4", dropout=0.3)
        runs.append(fit_with_tensor_rate(model, config, easy_images()))
    assert runs[0][0] == runs[1][0]
    for name, value in runs[0][1].items():
        assert torch.equal(value, runs[1][1][name]), name
    # full and last batches; with deferred weights full ones without and with, since the few last
    # ones of each are all warm-up
    assert len(made[0]._graphs) == 2


def test_replayed_steps_of_sam_are_the_eager_ones(monkeypatch):
    """A step of two passes is captured too; without dropout, which a replay draws anew."""
    config, runs = CONFIG.model_copy(update={"sam": 0.1}), []
    for graphed in (False, True):
        made = with_graph(monkeypatch) if graphed else []
        runs.append(fit_with_tensor_rate(small_model("lsoftmax:margin=4"), config, easy_images()))
    assert len(made[0]._graphs) == 2
    assert runs[0][0] == runs[1][0]
    for name, value in runs[0][1].items():
        assert torch.equal(value, runs[1][1][name]), name


def test_replayed_parts_of_steps_are_the_eager_ones(monkeypatch):
    """So are steps of several batches, and the average of the weights, which follows them."""
    config = CONFIG.model_copy(update={"accumulate": 3, "ema": 0.9, "batch_size": 8, "epochs": 6})
    averages = []

    def capture(stepper):
        state = averages[-1].model.state_dict().values()
        return emulated_capture(stepper, [*state, averages[-1].steps])

    runs = []
    for graphed in (False, True):
        made = with_graph(monkeypatch, capture) if graphed else []
        trainer = trainer_of(small_model("lsoftmax:margin=4", dropout=0.3), config, easy_images())
        averages.append(trainer.average)
        for group in trainer.optimizer.param_groups:
            group["lr"] = torch.tensor(config.lr)
        rows = [epoch.train_loss for epoch in training.train(trainer)]
        runs.append((rows, trainer.tested.state_dict(), trainer.average.steps))
    assert runs[0][0] == runs[1][0]
    assert runs[0][2] == runs[1][2] > 0
    for name, value in runs[0][1].items():
        assert torch.equal(value, runs[1][1][name]), name
    parts = {kind[0][1:] for kind in made[0]._graphs}
    assert {(True, False, 3), (False, False, 3), (False, True, 3)} <= parts


@pytest.mark.parametrize("loss", HEADS)
def test_no_loss_looks_at_the_device_in_a_step(monkeypatch, loss):
    """A step of every loss can be captured: after it, `say` was told nothing."""
    said = []
    made = with_graph(monkeypatch, said=said)
    model = small_model()
    model.head = build_head(loss, 16, 3, torch.tensor([20, 20, 20]))
    soft = {"mixup": 0.4, "label_smoothing": 0.1, "sam": 0.05}
    for choice in ({}, soft):
        made.clear()
        fit(model, CONFIG.model_copy(update={"epochs": 2} | choice), data=easy_images())
        assert said == []
        assert made[0]._graphs


def test_where_capture_fails_training_goes_on_and_says_so_once(monkeypatch):
    """A device that refuses gives the eager run's weights and one message."""
    said = []

    def refuse(stepper):
        def capture(function):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        return capture

    plain, refused = small_model(), small_model()
    fit(plain, CONFIG)
    with_graph(monkeypatch, refuse, said)
    fit(refused, CONFIG)
    assert said == [
        "the training step could not be captured as a CUDA graph (operation not permitted when "
        "stream is capturing); it goes on without, more slowly"
    ]
    assert torch.equal(plain.head.weight, refused.head.weight)


def test_what_a_graph_freezes_is_noticed_here(monkeypatch):
    """The emulation is no rubber stamp: a learning rate outside a tensor changes the run."""
    eager, frozen = small_model(), small_model()
    fit(eager, CONFIG)
    with_graph(monkeypatch)
    fit(frozen, CONFIG)
    assert not torch.equal(eager.head.weight, frozen.head.weight)


@pytest.mark.slow
def test_compiling_changes_rounding_only_and_tells_its_cost():
    """--compile gives the eager weights to rounding and says what it took."""
    said, weights = [], []
    for compiled in (False, True):
        model = small_model("lsoftmax:margin=2")
        config = CONFIG.model_copy(update={"epochs": 2, "compile": compiled})
        list(training.train(trainer_of(model, config, UNEVEN), info=said.append))
        weights.append(model.head.weight.detach().clone())
        assert not any("_orig_mod" in key for key in model.state_dict())
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-4, atol=1e-5)
    assert len(said) == 1
    assert said[0].startswith("compiled in ")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_on_cuda_a_graph_gives_the_eager_numbers(optimizer):
    """With and without the graph a run on the GPU agrees to rounding."""
    weights = []
    for graphed in (False, True):
        config = CONFIG.model_copy(
            update={"optimizer": optimizer, "cuda_graph": graphed, "device": "cuda"}
        )
        runtime = replace(CPU, device=torch.device("cuda"))
        model = runtime.place(small_model("lsoftmax:margin=4"))
        list(training.train(trainer_of(model, config, runtime=runtime)))
        weights.append(model.head.weight.detach().cpu())
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def classifier_on(net):
    """Return a classifier of three classes on a net of 128 features."""
    head = build_head("softmax", 128, 3)
    return CPU.place(Classifier(net, nn.Identity(), head, classes="abc", mean=(0.5,), std=(0.3,)))


class WithSpare(nn.Sequential):
    """A net that holds a convolution without using it, as an auxiliary head."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3), nn.Flatten())
        self.spare = nn.Conv2d(8, 2, 3)

    def forward(self, images):
        """Leave the last one out."""
        for layer in list(self)[:3]:
            images = layer(images)
        return images


def test_a_convolution_without_a_gradient_stays_as_it_is():
    """No gradient is none in either order of the weights."""
    net = WithSpare()
    model = classifier_on(net)
    before = net.spare.weight.detach().clone()
    fit(model, CONFIG.model_copy(update={"epochs": 1}))
    assert torch.equal(net.spare.weight, before)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_convolutions_move_as_torchs_plain_optimiser_moves_them(optimizer):
    """Weights in channels-last order, another shape to the fused optimiser, take its steps."""
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.Flatten())
    model = classifier_on(convolutions)
    twin = copy.deepcopy(model)
    config = CONFIG.model_copy(update={"optimizer": optimizer, "epochs": 2, "schedule": "constant"})
    fit(model, config)
    kinds = {"sgd": partial(SGD, momentum=0.9), "adam": Adam, "adamw": AdamW}
    plain = kinds[optimizer](twin.parameters(), lr=0.05, weight_decay=5e-4, foreach=False)
    data = easy_images()
    for epoch in range(2):
        for batch in batches(
            data.images, data.labels, plan_epoch(60, "none", seed=42, epoch=epoch), 16
        ):
            plain.zero_grad()
            twin.head(twin.embed(batch.images), batch.labels).backward()
            plain.step()
    for own, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)


def test_a_stepper_with_graphs_is_freed_with_its_last_name():
    """Nothing that it holds holds it: model, optimiser and tensors go without a collection."""
    model = small_model()
    optimizer = new_optimizer(model, CONFIG)
    stepper = TrainStep(model, optimizer, CONFIG, None, CPU, print)

    def capture(function):  # as CUDA's: what is replayed are tensors
        function()
        return list

    stepper._run = Graphed(stepper._step, capture, print)
    stepper.watch.start(5)
    data = easy_images()
    plan = plan_epoch(60, "none", seed=0, epoch=0)
    for batch in batches(data.images, data.labels, plan, 12):
        stepper.step(batch, 0.5, weighted=False)
    (graph,) = stepper._run._graphs.values()
    references = [
        weakref.ref(thing)
        for thing in (model, optimizer, stepper, stepper._run, graph.arguments[0])
    ]
    gc.disable()
    try:
        del model, optimizer, stepper, graph, batch
        assert [reference() for reference in references] == [None] * 5
    finally:
        gc.enable()
