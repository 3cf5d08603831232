"""The sharded loss: ranks with some classes each compute what one process with all of them does."""

import math
import subprocess
import sys
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from lmsm_cli import LSoftmaxLoss, l_softmax_loss, sharded_l_softmax_loss
from lmsm_cli.errors import LmsmError

SECONDS = 60  # after which a rank that waits for another is given up
# Classes of each rank: of a group of all three processes, and of a group of two of them.
THREE, TWO = (1, 4, 2), (4, 3)
MEMBERS = {THREE: (0, 1, 2), TWO: (0, 2)}
NUM_IMAGES, NUM_FEATURES, NUM_CLASSES = 9, 5, 7
COLLECTIVES = [
    "all_reduce",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_to_all",
    "broadcast",
    "gather",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
]


class Case(NamedTuple):
    """Arguments of the loss; features are random ones, or `along` times their class's weight."""

    margin: float | tuple[float, ...] = 2
    lam: float = 0.0
    reduction: str = "mean"
    dtype: torch.dtype = torch.float64
    class_chunk: int | None = None
    along: float | None = None
    labels: tuple[int, ...] = (0, 5, 3, 3, 6, 0, 4, 1, 3)
    autocast: bool = False


CASES = {
    "margin 2": Case(),
    "margin 1.5": Case(margin=1.5),
    "annealed, one loss an image": Case(margin=4, lam=0.7, reduction="none"),
    "a margin per class, summed": Case(margin=(1, 1.5, 2, 3, 4, 2.5, 1.2), reduction="sum"),
    "a few classes at a time": Case(margin=3, lam=0.7, class_chunk=3),
    "the first class only": Case(margin=3, labels=(0,) * NUM_IMAGES),
    "the last class only": Case(margin=3, labels=(NUM_CLASSES - 1,) * NUM_IMAGES),
    "zero features": Case(along=0.0),
    "opposite features": Case(margin=4, along=-300.0),
    "float32": Case(lam=0.7, dtype=torch.float32),
    "float32 under autocast": Case(lam=0.7, dtype=torch.float32, autocast=True),
    "bfloat16": Case(dtype=torch.bfloat16),
}
FAR_AHEAD = Case(
    margin=1, along=4.0, dtype=torch.float32, reduction="none", labels=(3,) * NUM_IMAGES
)


def draw(case):
    """Return features (9, 5), weights of all 7 classes and labels of a case."""
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(NUM_CLASSES, NUM_FEATURES, generator=generator, dtype=torch.float64)
    features = torch.randn(NUM_IMAGES, NUM_FEATURES, generator=generator, dtype=torch.float64)
    labels = torch.tensor(case.labels)
    if case.along is not None:
        features = case.along * weight[labels]
    return features.to(case.dtype), weight.to(case.dtype), labels


def differentiated(loss, features, weight):
    """Return the loss with the gradients of features and weight; images count differently."""
    upstream = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).reshape(loss.shape)
    return [loss.detach(), *torch.autograd.grad(loss, (features, weight), upstream)]


def in_one_process(case):
    """Return loss and gradients in float64 of the values that the case's type holds."""
    features, weight, labels = draw(case)
    features, weight = features.double().requires_grad_(), weight.double().requires_grad_()
    margin = torch.tensor(case.margin) if isinstance(case.margin, tuple) else case.margin
    loss = l_softmax_loss(features, weight, labels, margin, lam=case.lam, reduction=case.reduction)
    return differentiated(loss, features, weight)


def shard(case, shards, position):
    """Return the positional arguments and the first class of the shard at a position."""
    features, weight, labels = draw(case)
    first = sum(shards[:position])
    own = slice(first, first + shards[position])
    margin = torch.tensor(case.margin[own]) if isinstance(case.margin, tuple) else case.margin
    return (features.requires_grad_(), weight[own].clone().requires_grad_(), labels, margin), first


def on_one_rank(case, shards, position, group=None):
    """Return loss and gradients as the rank at a position of `shards` has them."""
    (features, weight, labels, margin), first = shard(case, shards, position)
    with torch.autocast("cpu", torch.bfloat16, enabled=case.autocast):
        loss = sharded_l_softmax_loss(
            features,
            weight,
            labels,
            margin,
            first_class=first,
            lam=case.lam,
            class_chunk=case.class_chunk,
            group=group,
            reduction=case.reduction,
        )
        return differentiated(loss, features, weight)


def message(call):
    """Return the kind and text of the LmsmError that a call raises."""
    try:
        call()
    except LmsmError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing raised"


def start(rank, num_ranks, folder):
    """Join the group of `num_ranks` processes that meet in a folder."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=num_ranks,
        timeout=timedelta(seconds=SECONDS),
    )


def record_collectives():
    """Return a list to which each call of a collective adds its name, op and size."""
    seen = []

    def recording(name):
        collective = getattr(dist, name)

        def recorded(tensor, *rest, **named):
            ops = [op for op in rest if isinstance(op, dist.ReduceOp.RedOpType)]
            seen.append((name, *ops, tensor.numel()))
            return collective(tensor, *rest, **named)

        return recorded

    for name in COLLECTIVES:
        setattr(dist, name, recording(name))
    return seen


def work(rank, folder):
    """Compute everything that the tests below look at, as one of three ranks, and save it."""
    start(rank, 3, folder)
    groups = {THREE: None, TWO: dist.new_group(MEMBERS[TWO])}
    found = {}
    for shards, members in MEMBERS.items():
        if rank in members:
            found[shards] = outcomes(shards, members.index(rank), groups[shards])
        else:
            found["outside"] = message(lambda: on_one_rank(Case(), TWO, 0, groups[TWO]))
    found["data parallel"] = data_parallel_gradient(rank, 3)
    seen = record_collectives()
    on_one_rank(Case(), THREE, rank)
    found["collectives"] = [tuple(map(str, one)) for one in seen]
    torch.save(found, Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def whole_head():
    """Return an L-Softmax head with the weights of all classes."""
    _, weight, _ = draw(Case())
    head = LSoftmaxLoss(NUM_FEATURES, NUM_CLASSES, margin=1.5, anneal="none").double()
    head.weight.data = weight
    return head


def data_parallel_gradient(rank, num_ranks):
    """Return the weight gradient under DistributedDataParallel for the rank's own images."""
    features, _, labels = draw(Case())
    head = DistributedDataParallel(whole_head())
    head(features[rank::num_ranks], labels[rank::num_ranks], 1.0).backward()
    return head.module.weight.grad


def outcomes(shards, position, group):
    """Return what the rank at a position of `shards` finds."""
    # The errors come first, so that what follows shows that no rank was left behind.
    args, first = shard(Case(labels=(0, 5, 3, 3, 6, 0, 4, 1, 7)), shards, position)
    ownerless = message(lambda: sharded_l_softmax_loss(*args, first_class=first, group=group))
    args, first = shard(Case(), shards, position)
    loss = sharded_l_softmax_loss(*args, first_class=first, group=group)
    twice = message(lambda: torch.autograd.grad(loss, args[0], create_graph=True))
    found = {name: on_one_rank(case, shards, position, group) for name, case in CASES.items()}
    far = on_one_rank(FAR_AHEAD, shards, position, group)
    broken = not_a_number(shards, position, group)
    return found | {"far ahead": far, "ownerless": ownerless, "twice": twice, "NaN": broken}


def not_a_number(shards, position, group):
    """Return the losses with NaN in image 3, then in the weights of the last class."""
    (features, weight, labels, margin), first = shard(Case(dtype=torch.float32), shards, position)
    losses = []
    for where in ("image", "class"):
        x, w = features.detach().clone(), weight.detach().clone()
        if where == "image":
            x[3, 0] = math.nan
        elif first + len(w) == NUM_CLASSES:
            w[-1, 0] = math.nan
        losses.append(
            sharded_l_softmax_loss(
                x, w, labels, margin, first_class=first, group=group, reduction="none"
            )
        )
    return losses


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each of three processes found."""
    folder = tmp_path_factory.mktemp("ranks")
    code = "import sys; from tests.test_sharded import work; work(int(sys.argv[1]), sys.argv[2])"
    root = Path(__file__).parent.parent
    logs = [folder / f"{rank}.log" for rank in range(3)]
    running = []
    for rank, log in enumerate(logs):
        with log.open("w") as output:
            command = [sys.executable, "-c", code, str(rank), str(folder)]
            running.append(subprocess.Popen(command, cwd=root, stdout=output, stderr=output))
    deadline = time.monotonic() + SECONDS
    for process in running:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0, deadline - time.monotonic()))
    for process in running:
        process.kill()
        process.wait()
    for process, log in zip(running, logs, strict=True):
        assert process.returncode == 0, log.read_text()
    return [torch.load(folder / f"{rank}.pt") for rank in range(3)]


@pytest.fixture(params=MEMBERS, ids=["three ranks", "two ranks"])
def found(request, processes):
    """What each rank of a group found, a dict a rank."""
    return [processes[rank][request.param] for rank in MEMBERS[request.param]]


def assert_equal_to_one_process(outcomes, case):
    """Compare each rank's loss and feature gradient, and all ranks' rows, with the whole."""
    loss, grad_features, grad_weight = in_one_process(case)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[case.dtype]
    loss_tolerance = min(tolerance, 1e-6)  # bfloat16 is computed in float32
    for outcome in outcomes:
        assert outcome[0].dtype == (torch.float32 if case.dtype == torch.bfloat16 else case.dtype)
        assert outcome[1].dtype == outcome[2].dtype == case.dtype
        torch.testing.assert_close(
            outcome[0].double(), loss, rtol=loss_tolerance, atol=loss_tolerance
        )
        torch.testing.assert_close(
            outcome[1].double(), grad_features, rtol=tolerance, atol=tolerance
        )
    rows = torch.cat([outcome[2] for outcome in outcomes])
    torch.testing.assert_close(rows.double(), grad_weight, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_ranks_compute_what_one_process_does(found, name):
    """Loss and feature gradient are those of all classes, weight gradients the rank's rows."""
    assert_equal_to_one_process([rank[name] for rank in found], CASES[name])


@pytest.mark.slow
def test_a_target_far_ahead_keeps_its_small_loss(found):
    """A loss of 1e-9 has the digits of float32: the target is masked, not taken out afterwards."""
    loss, *_ = in_one_process(FAR_AHEAD)
    assert loss.max() < 1e-7
    for rank in found:
        torch.testing.assert_close(rank["far ahead"][0].double(), loss, rtol=1e-4, atol=0)


@pytest.mark.slow
def test_three_all_reduces_and_nothing_else(processes):
    """N and 2 N numbers cross ranks forward and N D backward, by no other collective."""
    n, nd = NUM_IMAGES, NUM_IMAGES * NUM_FEATURES
    wanted = [
        ("all_reduce", "RedOpType.MAX", str(n)),
        ("all_reduce", "RedOpType.SUM", str(2 * n)),
        ("all_reduce", "RedOpType.SUM", str(nd)),
    ]
    for rank in processes:
        assert rank["collectives"] == wanted


@pytest.mark.slow
def test_heads_train_data_parallel(processes):
    """Under DistributedDataParallel every rank has the gradient of the whole batch."""
    features, _, labels = draw(Case())
    head = whole_head()
    head(features, labels, 1.0).backward()
    for rank in processes:
        torch.testing.assert_close(rank["data parallel"], head.weight.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_a_label_of_no_rank_is_an_error_on_every_rank(found):
    """Label 7 of classes 0 to 6 raises on all ranks, so that none waits for another."""
    for rank in found:
        assert rank["ownerless"].startswith(
            "ArgumentError: sharded_l_softmax_loss: labels hold 7: "
        )


@pytest.mark.slow
def test_second_derivative_is_refused_on_every_rank(found):
    """Differentiating the gradient says that it cannot be, before any rank waits."""
    for rank in found:
        assert rank["twice"] == "ArgumentError: a margin loss can be differentiated only once"


@pytest.mark.slow
def test_nan_is_nan_on_every_rank(found):
    """NaN in an image is in its loss alone; NaN in a class weight is in every loss."""
    for rank in found:
        of_image, of_class = rank["NaN"]
        assert of_image.isnan().nonzero().flatten().tolist() == [3]
        assert of_class.isnan().all()


@pytest.mark.slow
def test_a_rank_outside_the_group_is_told(processes):
    """The process that is not of the two is told so, instead of computing a loss of its own."""
    assert processes[1]["outside"].startswith("LmsmError: sharded_l_softmax_loss: rank 1 is not in")


@pytest.mark.usefixtures("one_rank")
def test_one_rank_with_all_classes_is_the_plain_loss():
    """A group of one process gives l_softmax_loss."""
    assert_equal_to_one_process([on_one_rank(Case(), (NUM_CLASSES,), 0)], Case())


@pytest.mark.usefixtures("one_rank")
def test_a_target_of_minus_zero_has_an_owner():
    """x = (1e18, -1e-30), w0 = w1 = (0, 1): the cosine rounds to -0, and the loss is ln 2."""
    features, weight = torch.tensor([[1e18, -1e-30]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    loss = sharded_l_softmax_loss(features, weight, torch.tensor([0]), 1, first_class=0, lam=3.0)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)


def test_without_a_process_group_it_says_how_to_start_one():
    """Where torch.distributed is not initialised, the error names the call that is missing."""
    with pytest.raises(
        LmsmError, match=r"not initialised: call torch\.distributed\.init_process_group"
    ):
        sharded_l_softmax_loss(torch.ones(2, 3), torch.ones(4, 3), torch.zeros(2), 2, first_class=6)
