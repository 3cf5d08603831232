"""Ranks: several processes compute what one does, and end together when one of them fails."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from lmsm_cli import LinearHead, build_head
from lmsm_cli.config import Config
from lmsm_cli.data.batches import Batch
from lmsm_cli.data.mixing import Mixed
from lmsm_cli.distributed import failures as rank_failures
from lmsm_cli.distributed.process_group import (
    SINGLE_PROCESS,
    ProcessGroup,
    data_parallel,
    init_distributed,
    zero_loss,
)
from lmsm_cli.distributed.sync_batch_norm import GlobalBatchNorm, convert_sync_batchnorm
from lmsm_cli.errors import ArgumentError, DataError, DiskError, LmsmError
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.cpu import threads_for
from lmsm_cli.runtime.device import choose_runtime
from lmsm_cli.training.step import TrainStep, new_optimizer

SECONDS = 60  # after which processes that wait for each other are given up
CPU = torch.device("cpu")
RUNTIME = choose_runtime("cpu", "fp32", "contiguous", 1)
ROOT = Path(__file__).parent.parent


@contextmanager
def started(work, folder, size, ports, *, agent=False):
    """Give the processes that run a function of this file on a folder, as torchrun starts them.

    They meet at the first port. With `agent`, stores listen there already, as torchrun's does.
    """
    code = (
        f"import sys; from tests.test_distributed import {work.__name__} as work; work(sys.argv[1])"
    )
    shared = {
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": ports[0],
        "PORTS": " ".join(map(str, ports)),
    }
    if agent:
        shared |= {"TORCHELASTIC_USE_AGENT_STORE": True, "TORCHELASTIC_RESTART_COUNT": 0}
    processes = []
    for rank in range(size):
        given = {
            key: str(value) for key, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()
        }
        with (folder / f"{rank}.log").open("w") as log:
            command = [sys.executable, "-c", code, str(folder)]
            processes.append(
                subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=os.environ | given)
            )
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def finished(work, folder, size, num_stores=1):
    """Run a function of this file on `size` ranks; return their exit codes and logs."""
    stores = [
        dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for _ in range(num_stores)
    ]
    deadline = time.monotonic() + SECONDS
    with started(work, folder, size, [store.port for store in stores], agent=True) as processes:
        codes = [process.wait(max(0, deadline - time.monotonic())) for process in processes]
    return codes, [(folder / f"{rank}.log").read_text() for rank in range(size)]


# --- what each of several ranks computes

SHAPES = {
    "vectors": (7, 6),
    "maps": (7, 6, 4, 3),
    "sequences": (7, 6, 5),
    "fewer images than ranks": (1, 6, 4, 3),
    "half precision": (7, 6, 4, 3),
    "no weights, mean of all batches": (7, 6, 4, 3),
}


def two_layers(name):
    """Return two BatchNorms, one after the other, of a case."""
    kind = nn.BatchNorm2d if len(SHAPES[name]) == 4 else nn.BatchNorm1d
    options = (
        {"affine": False, "momentum": None} if name.startswith("no weights") else {"momentum": 0.3}
    )
    layers = nn.Sequential(kind(6, **options), nn.Tanh(), kind(6, **options))
    generator = torch.Generator().manual_seed(1)
    for parameter in layers.parameters():
        parameter.data = 0.5 + torch.rand(parameter.shape, generator=generator)
    return layers


def two_batches(name):
    """Return two batches of a case and what each output counts in the objective, in its type."""
    generator = torch.Generator().manual_seed(2)
    kind = torch.bfloat16 if name == "half precision" else torch.float32
    drawn = torch.randn(2, 2, *SHAPES[name], generator=generator).to(kind)
    if drawn.ndim == 6:
        drawn = drawn.movedim(3, -1).contiguous().movedim(-1, 3)  # channels-last images
    return [(images * 2 + 3, coefficients) for images, coefficients in drawn]


def normalised(layers, batches, ranks=SINGLE_PROCESS):
    """Return outputs, input gradients, parameter gradients and state after a rank's two batches."""
    found = []
    for images, coefficients in batches:
        own = ranks.local_slice(len(images))
        images = images[own].clone(memory_format=torch.preserve_format).requires_grad_()
        output = layers(images)
        (output * coefficients[own]).sum().backward()
        found += [output.detach(), images.grad]
    return {
        "images": found,
        "gradients": [parameter.grad for parameter in layers.parameters()],
        "state": layers.state_dict(),
        "in evaluation": layers.eval()(batches[0][0]).detach(),
    }


# Type of the weights, of the network's arithmetic, and tolerance.
TRAINED = {
    "float64": (torch.float64, "fp32", 1e-10),
    "float32": (torch.float32, "fp32", 1e-4),
    "bf16": (torch.float32, "bf16", 0.05),
    "SAM": (torch.float64, "fp32", 1e-10),
    "mixed labels": (torch.float64, "fp32", 1e-10),
    "own loss, mixed labels": (torch.float64, "fp32", 1e-10),
}
RADIUS = {"SAM": 0.2}
SHARE = 0.7  # of the first labels, where images have two
CLASS_WEIGHTS = (0.3, 1, 1.7)


class SquaredLoss(LinearHead):
    """A loss as a user writes one: squared cross-entropy."""

    def _losses(self, features, labels, progress):
        return nn.functional.cross_entropy(self._scores(features), labels, reduction="none") ** 2


def convolutional(dtype, name=""):
    """Return the small classifier with BatchNorms that all trainings of a case start from."""
    layers = (nn.ReLU(), nn.AvgPool2d(4), nn.Flatten())
    with torch.random.fork_rng():
        torch.manual_seed(7)
        backbone = nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), *layers
        )
        neck = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
        is_own = name.startswith("own loss")
        spec = "tests.test_distributed:SquaredLoss" if is_own else "lsoftmax:anneal=none"
        head = build_head(spec, 4, 3)
    scale = {"mean": (0.5, 0.5), "std": (0.3, 0.3)}
    model = Classifier(backbone, neck, head, classes="abc", **scale)
    return model.to(dtype).to(memory_format=torch.channels_last)


def training_batches():
    """Yield batches of 6, 6, 5 and 2 images (B, 2, 4, 4), their labels, and whether classes weigh.

    Drawn so that training does not blow rounding up: bf16 ends 2% from float64, not 20%.
    """
    generator = torch.Generator().manual_seed(47)
    for count, weighted in ((6, False), (6, True), (5, False), (2, True)):
        images = torch.randint(256, (count, 2, 4, 4), generator=generator, dtype=torch.uint8)
        yield images, torch.randint(3, (count,), generator=generator), weighted


def trained_in_parallel(ranks, name):
    """Return the state dict after a rank's part of the product's own steps."""
    dtype, precision, _ = TRAINED[name]
    sam = RADIUS.get(name, 0.0)
    model = convert_sync_batchnorm(convolutional(dtype, name), CPU, ranks)
    config = Config(optimizer="sgd", lr=0.1, momentum=0.9, weight_decay=0.0, device="cpu", sam=sam)
    weights, runtime = (
        torch.tensor(CLASS_WEIGHTS, dtype=dtype),
        replace(RUNTIME, precision=precision),
    )
    stepper = TrainStep(model, new_optimizer(model, config), config, weights, runtime, print, ranks)
    stepper.watch.start(4)
    for images, labels, weighted in training_batches():
        own, second = ranks.local_slice(len(images)), labels.roll(1)
        mixed = Mixed(second[own], second, torch.tensor(SHARE, dtype=dtype))
        mixed = mixed if name.endswith("mixed labels") else None
        stepper.step(Batch(images[own], labels[own], labels, mixed), 1.0, weighted=weighted)
    return {key: value.clone() for key, value in model.state_dict().items()}


def trained_alone(name):
    """Return the state dict after the training in one process, by torch's optimiser in float64.

    With a radius of SAM a step's gradient is that of the worst weights nearby; an image with two
    labels has the shares of the losses under both.
    """
    model, sam = convolutional(torch.float64, name), RADIUS.get(name, 0.0)
    share = SHARE if name.endswith("mixed labels") else 1.0
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for images, labels, weighted in training_batches():
        of_class = torch.tensor(CLASS_WEIGHTS if weighted else (1, 1, 1), dtype=torch.float64)

        def backward(images=images, labels=labels, of_class=of_class):
            features = model.embed(images)
            optimizer.zero_grad()
            objective, total = 0.0, 0.0
            for under, part in ((labels, share), (labels.roll(1), 1 - share)):
                weights = part * of_class[under]
                objective += (weights * model.head.losses(features, under, 1.0)).sum()
                total += weights.sum()
            (objective / total).backward()

        backward()
        if sam:
            before = copy.deepcopy(model.state_dict())
            gradients = [parameter.grad for parameter in model.parameters()]
            length = torch.cat([gradient.flatten() for gradient in gradients]).norm()
            with torch.no_grad():
                for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                    parameter += sam * gradient / length
            backward()
            model.load_state_dict(before)
        optimizer.step()
    return model.state_dict()


def exchanged(ranks, folder):
    """Return what the methods of Ranks give."""
    rank = ranks.rank
    found = {
        "add": ranks.all_reduce(torch.tensor([rank, 10])),
        "any": ranks.any_rank(torch.tensor([rank == 1, False, True])),
        "bf16 rows": ranks.all_gather_uneven(torch.full((rank, 2), rank, dtype=torch.bfloat16)),
        "int64 rows": ranks.all_gather_uneven(torch.full((2,), rank)),
        "stacked": ranks.all_gather(torch.full((2, 3), rank, dtype=torch.float64)),
    }
    with ranks.main_process_first():
        found["was made before"] = (folder / "made").exists()
        time.sleep(0.2 if rank == 0 else 0)
        (folder / "made").touch()
    ranks.barrier()
    return found


def compute(folder):
    """Save everything that the tests of equality look at, as one rank."""
    folder = Path(folder)
    torch.set_num_threads(1)
    with init_distributed("cpu", timeout=timedelta(seconds=SECONDS)) as ranks:
        found = exchanged(ranks, folder)
        found["ranks"] = (ranks.rank, ranks.size, ranks.local_rank, ranks.local_size)
        for name in SHAPES:
            layers = convert_sync_batchnorm(two_layers(name), CPU, ranks)
            found[name] = normalised(layers, two_batches(name), ranks)
        for name in TRAINED:
            found[name] = trained_in_parallel(ranks, name)
        try:
            GlobalBatchNorm(ranks, 3)(torch.ones(int(ranks.is_main), 3))
        except ValueError as error:
            found["one value"] = str(error)
        torch.save(found, folder / f"{ranks.rank}.pt")
    assert not dist.is_initialized()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of three ranks found."""
    folder = tmp_path_factory.mktemp("ranks")
    codes, logs = finished(compute, folder, 3)
    assert codes == [0] * 3, "\n".join(logs)
    return [torch.load(folder / f"{rank}.pt") for rank in range(3)]


def assert_close(values, truth, tolerance):
    """Compare with the truth, relative to its largest value."""
    assert values.shape == truth.shape
    assert (values.double() - truth).abs().max() <= tolerance * truth.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_batch_norm_is_that_of_the_whole_batch(found, name):
    """Outputs, gradients and running statistics are nn.BatchNorm's on all images together."""
    batches = [
        (images.double(), coefficients.double()) for images, coefficients in two_batches(name)
    ]
    truth = normalised(two_layers(name).double(), batches)
    tolerance = 0.03 if name == "half precision" else 1e-5
    for i, wanted in enumerate(truth["images"]):
        assert_close(torch.cat([rank[name]["images"][i] for rank in found]), wanted, tolerance)
    for i, wanted in enumerate(truth["gradients"]):
        assert_close(sum(rank[name]["gradients"][i] for rank in found), wanted, tolerance)
    for rank in found:
        assert list(rank[name]["state"]) == list(truth["state"])
        assert_close(rank[name]["in evaluation"], truth["in evaluation"], tolerance)
        for key, wanted in truth["state"].items():
            assert_close(rank[name]["state"][key], wanted.double(), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", SHAPES)
def test_every_rank_has_the_same_statistics_to_the_bit(found, name):
    """Running statistics need no broadcast: they are equal on all ranks, not only close."""
    for rank in found[1:]:
        for key, value in found[0][name]["state"].items():
            assert torch.equal(rank[name]["state"][key], value)


@pytest.mark.slow
def test_one_value_a_channel_is_refused_on_every_rank(found):
    """A single value has no variance, and no rank is left waiting when that is said."""
    for rank in found:
        assert rank["one value"].startswith("BatchNorm has 1 values a channel")


@pytest.mark.slow
@pytest.mark.parametrize("name", TRAINED)
def test_training_in_parallel_is_training_alone(found, name):
    """Steps with momentum, class weights, uneven and empty parts give one process's weights; with
    a user's loss and with two labels for an image too."""
    wanted = trained_alone(name)
    for rank in found:
        assert list(rank[name]) == list(wanted)
        for key, value in wanted.items():
            assert_close(rank[name][key], value.double(), TRAINED[name][2])
            assert torch.equal(rank[name][key], found[0][name][key])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("cuts", [(0, 4, 6), (0, 1, 6), (0, 6, 6)])
def test_the_parts_of_a_step_add_up_to_it(weighted, cuts):
    """What each rank's part moves, with uneven and empty parts, is together what the batch moves.

    Each part's loss is divided by the whole batch's images or weights: divided by its own, the
    parts of unlike sizes would count alike. The truth is torch's weighted mean of the whole batch.
    """
    torch.manual_seed(3)
    model = Classifier(
        nn.Flatten(),
        nn.Identity(),
        build_head("softmax", 16, 3),
        classes="abc",
        mean=(0.5,),
        std=(0.3,),
    )
    images, labels = torch.randint(256, (6, 1, 4, 4), dtype=torch.uint8), torch.arange(6) % 3
    weights = torch.tensor([0.2, 1.0, 3.0])
    start = model.head.weight.detach().clone()
    config = Config(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, device="cpu")
    moved = torch.zeros_like(start)
    for first, last in pairwise(cuts):
        model.head.weight.data.copy_(start)
        stepper = TrainStep(model, new_optimizer(model, config), config, weights, RUNTIME, print)
        stepper.watch.start(1)
        stepper.step(Batch(images[first:last], labels[first:last], labels), 0.5, weighted=weighted)
        moved += model.head.weight.detach() - start
    leaf = start.clone().requires_grad_()
    logits = model.embed(images) @ leaf.T
    loss = nn.functional.cross_entropy(logits, labels, weight=weights if weighted else None)
    (gradient,) = torch.autograd.grad(loss, leaf)
    torch.testing.assert_close(moved, -gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_ranks_exchange_values(found):
    """Sums, any and rows of uneven length, or none, are the same on every rank."""
    size = len(found)
    for r, rank in enumerate(found):
        assert rank["ranks"] == (r, size, r, size)
        assert rank["add"].tolist() == [sum(range(size)), 10 * size]
        assert rank["any"].tolist() == [True, False, True]
        assert rank["bf16 rows"].tolist() == [[i, i] for i in range(size) for _ in range(i)]
        assert rank["bf16 rows"].dtype == torch.bfloat16
        assert rank["stacked"].tolist() == [[[i] * 3] * 2 for i in range(size)]
        assert rank["int64 rows"].tolist() == [i for i in range(size) for _ in range(2)]


@pytest.mark.slow
def test_rank_0_goes_first(found):
    """The body of `first` has run on rank 0 when it starts on the others."""
    assert [rank["was made before"] for rank in found] == [r > 0 for r in range(len(found))]


# --- how ranks end


def attempt(number, body):
    """Join once more and run a body; return what came of it, or the error, as plain values."""
    os.environ["MASTER_PORT"] = os.environ["PORTS"].split()[number]
    began = time.monotonic()
    try:
        with init_distributed("cpu", timeout=timedelta(seconds=SECONDS)) as ranks:
            body(ranks)
    except (LmsmError, ZeroDivisionError) as error:
        shown = not getattr(error, "shown_elsewhere", False)
        code = getattr(error, "exit_code", 1)
        return [type(error).__name__, str(error), code, shown, time.monotonic() - began]
    return ["nothing raised"]


def fail_alike(ranks):
    """Raise the same mistake on every rank, on rank 0 last."""
    time.sleep(0.3 if ranks.is_main else 0)
    raise LmsmError("factor is 2")


def fail_first(ranks):
    """Raise on rank 0 while the others wait for it."""
    with ranks.main_process_first():
        if ranks.is_main:
            raise DataError("no images")


def fail_by_a_bug(ranks):
    """Raise what is no LmsmError on rank 0 while the others wait for it."""
    with ranks.main_process_first():
        _ = 1 // ranks.rank


def fail_in_a_loop(ranks):
    """Raise on rank 1 while the others are in collectives."""
    model = data_parallel(nn.Linear(2, 2), CPU)
    for i in range(10**6):
        model(torch.ones(1, 2)).sum().backward()
        if ranks.rank == 1 and i == 5:
            raise DiskError("disk full")


def fail(folder):
    """Save what this rank says to several failures; the last one needs the process to end."""
    rank_failures._HEAD_START = 0.5  # it keeps torchrun from ending who speaks; there is none here
    found = [
        attempt(0, fail_alike),
        attempt(1, fail_first),
        attempt(2, fail_by_a_bug),
        attempt(3, fail_in_a_loop),
    ]
    (Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def failures(tmp_path_factory):
    """What each of three ranks said to each of several failures."""
    folder = tmp_path_factory.mktemp("failures")
    codes, logs = finished(fail, folder, 3, num_stores=4)
    assert codes == [0] * 3, "\n".join(logs)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]
    return list(zip(*ranks, strict=True))


OTHERS = "RankError"
OUTCOMES = [
    [["LmsmError", "factor is 2", 2, rank == 0] for rank in range(3)],
    [["DataError", "no images", 3, True], *[[OTHERS, "rank 0 failed: no images", 1, False]] * 2],
    [
        ["ZeroDivisionError", "integer division or modulo by zero", 1, True],
        *[
            [
                OTHERS,
                "rank 0 failed: ZeroDivisionError: integer division or modulo by zero",
                1,
                False,
            ]
        ]
        * 2,
    ],
    [
        [OTHERS, "rank 1 failed: disk full", 1, False],
        ["DiskError", "disk full", 6, True],
        [OTHERS, "rank 1 failed: disk full", 1, False],
    ],
]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", range(4), ids=["alike", "rank 0 goes first", "a bug", "in a loop"]
)
def test_a_failure_ends_all_ranks_and_is_shown_once(failures, number):
    """Every rank names the error of the one that failed, which alone shows it; rank 0 if all do."""
    assert [outcome[:4] for outcome in failures[number]] == OUTCOMES[number]
    assert all(outcome[4] < 20 for outcome in failures[number])


def add_for_ever(folder):
    """Add numbers over the ranks until that fails; show the error as the command line does."""
    torch.set_num_threads(1)
    try:
        with init_distributed("cpu", timeout=timedelta(seconds=25)) as ranks:
            for i in range(10**9):
                ranks.all_reduce(torch.ones(1000))
                if i == 10:
                    (Path(folder) / f"{ranks.rank}.ready").touch()
    except LmsmError as error:
        if not error.shown_elsewhere:
            print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_the_other(tmp_path, victim):
    """When one of two ranks is killed in the middle, the other ends within 30 s and says which."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with started(add_for_ever, tmp_path, 2, [port]) as processes:
        deadline = time.monotonic() + SECONDS
        while not all((tmp_path / f"{rank}.ready").exists() for rank in range(2)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        processes[victim].send_signal(signal.SIGKILL)
        killed = time.monotonic()
        code = processes[1 - victim].wait(SECONDS)
        assert time.monotonic() - killed < 30
    assert code == 1
    log = (tmp_path / f"{1 - victim}.log").read_text()
    assert log.splitlines()[-1] == f"error: rank {victim} was lost"


# --- what needs no second process


def test_alone_every_method_leaves_things_as_they_are():
    """One process needs no process group, and keeps its batch, values and rows."""
    values, flags, rows = torch.tensor([1.0, 2]), torch.tensor([True, False]), torch.ones(3, 2)
    with init_distributed() as ranks, ranks.main_process_first():
        assert ranks is SINGLE_PROCESS
        assert ranks.is_main
        assert ranks.local_slice(5) == slice(0, 5)
        assert ranks.all_reduce(values) is values
        assert ranks.any_rank(flags) is flags
        assert ranks.all_gather_uneven(rows) is rows
        assert ranks.all_gather(rows).tolist() == [rows.tolist()]
        assert ranks.take_device(torch.device("cuda:1")) == torch.device("cuda:1")
        ranks.check_batch_size(7)
        ranks.barrier()
    assert values.tolist() == [1, 2]
    assert flags.tolist() == [True, False]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_parts_are_those_of_array_split(size):
    """Parts follow each other, cover the batch, and differ by one image at most."""
    for n in range(10):
        wanted = [part.tolist() for part in np.array_split(np.arange(n), size)]
        assert [
            list(range(n))[ProcessGroup(rank, size).local_slice(n)] for rank in range(size)
        ] == wanted


@pytest.mark.parametrize(
    ("batch_size", "size", "nearest"), [(32, 3, "30 or 33"), (2, 4, "4"), (130, 4, "128 or 132")]
)
def test_a_batch_that_cannot_be_shared_is_refused(batch_size, size, nearest):
    """The error gives the batch size, the processes and the nearest sizes that work."""
    with pytest.raises(LmsmError) as error:
        ProcessGroup(0, size).check_batch_size(batch_size)
    assert (
        str(error.value)
        == f"batch_size is {batch_size}: {size} processes cannot share it equally; use {nearest}"
    )
    assert error.value.exit_code == 2


def test_a_numbered_cuda_device_cannot_be_shared():
    """Two processes on one host cannot both take the device that was asked for by number."""
    with pytest.raises(LmsmError, match="device is 'cuda:1': 2 processes cannot share it"):
        ProcessGroup(0, 2, 0, 2).take_device(torch.device("cuda:1"))


@pytest.mark.parametrize(("name", "value"), [("RANK", None), ("WORLD_SIZE", "two")])
def test_an_incomplete_environment_is_explained(monkeypatch, name, value):
    """Half of torchrun's variables is a usage mistake, named in the message."""
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    if value is not None:
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(LmsmError, match=f"^{name} is {value!r} in the environment"),
        init_distributed("cpu"),
    ):
        pass


def test_ranks_that_never_come_are_given_up(monkeypatch):
    """A rank that waits alone for the others ends after the timeout, and says so."""
    for name, value in {
        "WORLD_SIZE": "2",
        "RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(LmsmError, match=r"^rank 0 did not find the other 1 processes"),
        init_distributed("cpu", timeout=timedelta(seconds=1)),
    ):
        pass


def test_ranks_share_the_cores(monkeypatch):
    """Each rank gets its part of the cores that the process may use, and at least one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert [threads_for(size) for size in (1, 2, 4, 7)] == [6, 3, 1, 1]


def test_synchronising_keeps_parameters_and_mode():
    """The converted model holds the same parameters, in one mode; only BatchNorms change."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1),
        nn.BatchNorm2d(4, eps=0.1),
        nn.Sequential(nn.BatchNorm1d(4, affine=False)),
    )
    model[2].eval()
    before = list(model.parameters())
    buffers = {name: value.data_ptr() for name, value in model.named_buffers()}
    assert convert_sync_batchnorm(model, CPU, SINGLE_PROCESS) is model
    assert all(one is other for one, other in zip(model.parameters(), before, strict=True))
    assert {name: value.data_ptr() for name, value in model.named_buffers()} == buffers
    assert [type(layer) for layer in model.modules()].count(GlobalBatchNorm) == 2
    assert model[1].eps == 0.1
    assert model[1].training
    assert not model[2][0].training
    model[1].load_state_dict(nn.BatchNorm2d(4).state_dict())


def test_batch_norm_takes_images_only():
    """A tensor without channels is an error that shows its shape."""
    with pytest.raises(ArgumentError, match=r"not \(3,\)"):
        GlobalBatchNorm(SINGLE_PROCESS, 3)(torch.ones(3))


def test_a_rank_without_images_has_a_gradient_for_everything():
    """The objective of an empty part is 0, and so is the gradient of each parameter."""
    layer, head = nn.Linear(3, 2), nn.Linear(2, 4)
    objective = zero_loss(layer(torch.ones(0, 3)), head.parameters())
    objective.backward()
    assert objective.item() == 0
    for parameter in (*layer.parameters(), *head.parameters()):
        assert parameter.grad is not None
        assert not parameter.grad.any()
