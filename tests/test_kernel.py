"""The kernels of the loss: right in Triton's interpreter, and on the pretended GPU tried first."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional

import lmsm_cli
from lmsm_cli import l_softmax_loss
from lmsm_cli.losses import kernel, trial
from lmsm_cli.losses.registry import build_head
from tests.interpreted_kernels import CASES, NAMES
from tests.pretend_cuda import PretendCuda
from tests.test_cuda_path import CONFIG, Trained, counts, with_graph

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton comes with torch for CUDA alone"
)


def of_triton(test):
    """Mark a test that needs Triton, takes seconds, and depends on its version."""
    for mark in (needs_triton, pytest.mark.slow, pytest.mark.libraries):
        test = mark(test)
    return test


WRONG = "the loss's CUDA kernel gave other numbers than torch's operations; "


@pytest.fixture(autouse=True)
def _untried(monkeypatch):
    """Nothing is known of the kernels yet."""
    monkeypatch.setattr(trial, "_works", {})


@pytest.fixture(scope="module")
def interpreted():
    """What interpreted_kernels.py found."""
    package = Path(lmsm_cli.__file__).parent.parent
    own = {"TRITON_INTERPRET": "1", "PYTHONPATH": str(package)}
    script = Path(__file__).with_name("interpreted_kernels.py")
    done = subprocess.run(
        [sys.executable, script],
        env=os.environ | own,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@of_triton
@pytest.mark.parametrize("case", CASES)
def test_the_kernels_are_as_exact_as_torchs_operations(interpreted, case):
    """Losses, all that the backward pass needs, and gradients: in float32, beside float64."""
    found = interpreted["compared"][case]
    assert set(found) == set(NAMES)
    for what, (ours, theirs) in found.items():
        assert ours <= 8 * theirs + 1e-6, what
        assert ours < 1e-5 or what == "pull_features"  # it is multiplied by features of zero


@of_triton
def test_the_kernels_give_the_losses_and_gradients_of_the_definition(interpreted):
    """As autograd has them through arccos, for margins of all kinds, hard images and a prior."""
    for case, errors in interpreted["defined"].items():
        assert max(errors) < 2e-6, case


@of_triton
def test_what_is_no_number_is_a_loss_of_nan(interpreted):
    """A feature of NaN or infinity, and a label that is no class; the others keep theirs."""
    assert [loss == "nan" for loss in interpreted["strange"]] == 4 * [True] + 2 * [False]


@of_triton
def test_directions_and_their_gradients_are_those_of_unit(interpreted):
    """A vector of 0 stays 0 and gets no gradient; NaN and infinity have no direction."""
    found = interpreted["along"]
    assert max(found["off"]) < 1e-6
    assert found["zero"] == [0, 0, 0, 0]
    assert found["nan"] == [True, True]


def compiled(function, constants, kinds):
    """Return the machine code of a kernel for a GPU, most of whose arguments are float32's."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kinds |= dict.fromkeys(constants, "constexpr")
    names = function.arg_names
    source = ASTSource(
        function,
        {name: kinds.get(name, "*fp32") for name in names},
        {(names.index(name),): value for name, value in constants.items()},
    )
    return compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]


@of_triton
@pytest.mark.parametrize("form", ["power", "cosface", "arcface", "dbm"])
def test_the_kernel_of_a_margin_compiles_for_a_gpu(tmp_path, monkeypatch, form):
    """Down to machine code: without one, all but its numbers can be seen."""
    from lmsm_cli.losses import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {
        "margin": 2.5,
        "form": form,
        "law": (1000.0, 0.5, 1.0, 0.36, 45.0, 6.9, -6.5),
        "by_difficulty": form in ("power", "dbm"),
        "detached_norms": False,
        "classes_at_once": 16,
        "features_at_once": 64,
    }
    constants |= {} if form == "dbm" else {"margins": None}
    sizes = ("num_classes", "num_features", "of_logits", "of_features", "of_weight")
    kinds = {"labels": "*i64", "lam": "fp32"} | dict.fromkeys(sizes, "i32")
    assert compiled(triton_kernels._margin_rows, constants, kinds)


@of_triton
def test_the_other_kernels_compile_for_a_gpu(tmp_path, monkeypatch):
    """As those of margins do."""
    from lmsm_cli.losses import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    numbers = dict.fromkeys(("num_images", "of_grads", "width", "of_vectors", "num_vectors"), "i32")
    for name in ("_weighed_rows", "_direction_rows", "_direction_gradients"):
        assert compiled(getattr(triton_kernels, name), {"at_once": 64}, dict(numbers))


def inputs(dtype=torch.float32):
    """Return features, class weights and labels on the pretended device."""
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(n, 6, generator=generator) for n in (8, 3))
    labels = torch.arange(8) % 3
    features, weight = (one.to("cuda", dtype).requires_grad_() for one in (features, weight))
    return features, weight, labels.to("cuda")


def calls_of(function):
    """Return the calls of a function's second call, forward and backward, by name."""
    for _ in range(2):
        with PretendCuda() as cuda:
            batch = inputs()
            cuda.launches.clear()
            function(*batch).backward()
    return cuda.launches


@counts
@pytest.mark.parametrize("options", [{}, {"lam": 0.7}, {"margin": 4}, {"margin": 2.5}])
def test_the_loss_alone_is_a_few_calls(options):
    """Two kernels of its own, three products, and what is summed by class."""

    def loss(*batch):
        return l_softmax_loss(*batch, **({"margin": 2} | options))

    def softmax(features, weight, labels):
        return functional.cross_entropy(functional.linear(features, weight), labels)

    found = calls_of(loss)
    assert (found["margin_cross_entropy"], found["margin_pulls"], found["mm"]) == (1, 1, 3)
    assert found.total() <= 15, found
    assert calls_of(softmax).total() <= 8


def by_kernel(features, weight, labels):
    """Return how often the kernel was called for a loss, once it had been tried."""
    with pytest.MonkeyPatch.context() as patch:
        called = []
        original = kernel.margin_cross_entropy
        patch.setattr(
            "lmsm_cli.losses.cross_entropy.margin_cross_entropy",
            lambda *batch: called.append(1) or original(*batch),
        )
        l_softmax_loss(features, weight, labels, margin=2.5)
    return len(called)


def test_other_types_keep_to_torchs_operations():
    """The kernels know float32 alone: float64 is computed as before, half as float32."""
    with PretendCuda():
        assert by_kernel(*inputs(torch.float64)) == 0
        assert by_kernel(*inputs(torch.bfloat16)) == 1
        assert by_kernel(*inputs()) == 1


def steeper(*batch):
    """Do the kernel's work with a slope that is one percent too steep."""
    *results, shares = torch.ops.lmsm.margin_cross_entropy(*batch)
    labels = batch[0][3][:, None]
    return *results, shares.scatter(1, labels, 1.01 * shares.gather(1, labels))


def missing(*batch):
    """Fail as a kernel does that can't be compiled."""
    raise RuntimeError("failed to find a C compiler\nset CC")


@pytest.mark.parametrize(
    ("own", "told"),
    [
        (steeper, WRONG),
        (missing, "the loss's CUDA kernel could not be used (failed to find a C compiler); "),
    ],
)
@pytest.mark.parametrize("graph", [True, False])
def test_a_kernel_that_is_wrong_or_missing_is_told_once_and_not_used(monkeypatch, own, told, graph):
    """The training goes on with torch's operations, in a graph too: they have the same losses."""
    config = with_graph(CONFIG.model_copy(update={"loss": "lsoftmax:margin=2.5"}), graph)
    right = Trained(config)
    assert right.told == []
    monkeypatch.setattr(trial, "_works", {})
    monkeypatch.setattr(kernel, "margin_cross_entropy", own)
    found = Trained(config)
    assert found.told == [f"{told}torch's operations do its work, more slowly"]
    assert not any(graph["margin_cross_entropy"] for graph in found.device.captured)
    for mine, other in zip(found.rows, right.rows, strict=True):
        assert mine["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


def test_outside_a_training_a_wrong_kernel_is_a_warning(monkeypatch):
    """Of Python's: a script of one's own has no other place for it."""
    monkeypatch.setattr(kernel, "margin_cross_entropy", steeper)
    with PretendCuda():
        batch = inputs()
        with pytest.warns(RuntimeWarning, match=WRONG):
            l_softmax_loss(*batch, margin=2.5)
        assert by_kernel(*batch) == 0


def test_features_without_numbers_say_nothing_of_the_kernel():
    """The loss is NaN, nobody is told of a kernel, and the next batch tries it."""
    with PretendCuda():
        features, weight, labels = inputs()
        assert l_softmax_loss(features * torch.nan, weight, labels, margin=2.5).isnan()
        assert by_kernel(features, weight, labels) == 1


def test_features_along_their_class_weights_say_nothing_of_the_kernel(monkeypatch):
    """There a slope hangs on the last bit of a cosine: kernels may differ, and none is wrong."""

    def rounded(*batch):
        logits, features, weight, labels = batch[0]
        lower = logits - 2e-7 * logits.abs()
        return torch.ops.lmsm.margin_cross_entropy([lower, features, weight, labels], *batch[1:])

    monkeypatch.setattr(kernel, "margin_cross_entropy", rounded)
    with PretendCuda():
        _, weight, labels = inputs()
        features = (-2 * weight[labels]).detach().requires_grad_()
        assert by_kernel(features, weight, labels) == 1


def test_a_capture_without_a_trial_keeps_to_torchs_operations():
    """In a capture nobody can look at numbers; a user's own may be the first call."""
    with PretendCuda() as cuda:
        head = build_head("lsoftmax:margin=2", 6, 3).to("cuda")
        features, _, labels = inputs()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            head(features, labels, torch.zeros((), device="cuda")).backward()
        (captured,) = cuda.captured
        assert not captured["margin_cross_entropy"]


ON_DIRECTIONS = ("lsoftmax:weight_norm=shared", "asoftmax", "cosface", "arcface", "ldam", "dbm")


@pytest.mark.parametrize("class_margins", [None, {1: 1.2}])
@pytest.mark.parametrize("spec", ON_DIRECTIONS)
def test_heads_on_directions_are_those_of_the_cpu(spec, class_margins):
    """Losses, logits and gradients, and what is not float32 keeps to torch's operations."""
    generator = torch.Generator().manual_seed(1)
    features, labels = torch.randn(8, 6, generator=generator), torch.arange(8) % 3
    features[0] = 0
    torch.manual_seed(0)
    head = build_head(spec, 6, 3, torch.tensor([3, 2, 1]), class_margins=class_margins)
    given = features.clone().requires_grad_()
    losses, logits = head.losses_and_logits(given, labels, 0.5)
    losses.sum().backward()
    wanted = [losses, logits, given.grad, head.weight.grad]
    with PretendCuda() as cuda:
        here = copy.deepcopy(head).to("cuda")
        here.zero_grad()
        given = features.to("cuda").requires_grad_()
        losses, logits = here.losses_and_logits(given, labels.to("cuda"), 0.5)
        losses.sum().backward()
        found = [one.cpu() for one in (losses, logits, given.grad, here.weight.grad)]
        assert cuda.launches["directions_backward"] >= 1
        assert cuda.launches["margin_pulls"] == 2  # one of them a trial
        before = cuda.launches["directions"]
        here.double().logits(given.double())
        assert cuda.launches["directions"] == before
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=1e-5, atol=1e-6)


class Operands(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes what types matrices are multiplied in."""

    def __init__(self):
        super().__init__()
        self.kinds = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name in ("aten::mm", "aten::addmm"):
            self.kinds.add(args[-1].dtype if func._overloadname == "default" else args[0].dtype)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("margin", [2, 4])
def test_many_classes_in_bf16_are_multiplied_in_bf16(margin):
    """With float32 sums, on CUDA: losses and gradients are those of float32's products.

    Where features are along their class weight, large slopes and pulls nearly cancel.
    """
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (16, 50))
    labels = torch.arange(16) * 3
    features[:8] = 2 * weight[labels[:8]]
    options = {"margin": margin, "lam": 0.2, "class_chunk": 20, "reduction": "none"}

    def results(*batch):
        batch = [one.detach().requires_grad_() for one in batch[:2]] + [batch[2]]
        losses = l_softmax_loss(*batch, **options)
        losses.sum().backward()
        return losses.detach(), batch[0].grad, batch[1].grad

    wanted = results(features, weight, labels)
    with PretendCuda():
        here = [one.to("cuda") for one in (features, weight, labels)]
        with Operands() as operands:
            found = [one.cpu() for one in results(*here)]
    assert operands.kinds == {torch.bfloat16}
    assert [one.dtype for one in found] == [torch.float32, torch.bfloat16, torch.bfloat16]
    for one, other in zip(found, wanted, strict=True):
        error = (one.double() - other.double()).norm() / other.double().norm()
        assert error < (1e-5 if one.dtype == torch.float32 else 1e-3)
