"""What goes wrong on a GPU, on the pretended one: captures that fail, memory that runs out.

Each ends as told: the training goes on, or a sentence says what to do, with the right exit code.
"""

import gc
import sys
import weakref

import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.errors import OutOfMemoryError, RunError
from lmsm_cli.runtime.memory import reported_memory
from lmsm_cli.training.loop import train
from tests.pretend_cuda import PretendCuda
from tests.pretend_objects import CUDA, CaptureError
from tests.test_cuda_path import CONFIG, Trained, cuda_trainer, pretended, with_graph

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
DIGITS = [
    *("train", "--dataset", "digits", "--model", "paper-mnist", "--images-per-class", "12"),
    *("--epochs", "2", "--batch-size", "32", "--validation", "0.1", "--precision", "fp32"),
    *("--device", "cuda", "--quiet", "--out"),
]


def refuses(*names):
    """Return what lets operations fail in a capture, by their names."""

    def disturb(device, name):
        if device.capturing is not None and name in names:
            raise CaptureError(f"{name}\nand more")

    return disturb


@pytest.mark.parametrize("name", ["_fused_sgd_", "convolution_backward"])
def test_where_no_graph_can_be_captured_training_goes_on_and_warns_once(name):
    """It ends with the eager bits, whether the forward or the backward pass or the step refuses."""
    refused = Trained(CONFIG, disturb=refuses(name))
    assert refused.told == [
        "the training step could not be captured as a CUDA graph (operation not permitted when "
        f"stream is capturing: {name}); it goes on without, more slowly"
    ]
    assert refused.device.captured == []
    refused.assert_same(Trained(with_graph(CONFIG, graph=False)))


def test_what_a_failed_capture_leaves_unusable_names_the_way_out():
    """As dropout in torch 2.11: the next step fails too, and the error names --no-cuda-graph."""

    def disturb(device, name):
        refuses("convolution_backward")(device, name)
        if device.capture_failed and name == "bernoulli_":
            raise RuntimeError("Offset increment outside graph capture encountered unexpectedly")

    with pytest.raises(RunError, match=r"Offset increment .*; start again with --no-cuda-graph$"):
        Trained(CONFIG, disturb=disturb)


def test_the_collector_does_not_run_in_a_capture():
    """What it frees may be a graph, whose end no capture allows; afterwards it runs again."""
    seen = set()
    Trained(CONFIG, disturb=lambda device, name: seen.add((bool(device.capturing), gc.isenabled())))
    assert seen == {(True, False), (False, True)}
    assert gc.isenabled()


def test_a_finished_training_leaves_nothing_on_the_device():
    """Without the collector: model, optimiser and graphs go with their last names."""
    with pretended() as cuda:
        gc.collect()
        gc.disable()
        try:
            trainer = cuda_trainer(CONFIG)
            list(train(trainer))
            assert len(cuda.captured) == 2
            left = [weakref.ref(thing) for thing in (trainer.model, trainer.optimizer)]
            del trainer
            assert [reference() for reference in left] == [None, None]
            assert len(cuda.graphs) == 0
        finally:
            gc.enable()


class Filled:
    """A device whose memory ends at a moment: `is_now(device, name)` says whether."""

    def __init__(self, is_now):
        self.is_now = is_now

    def __call__(self, device, name):
        """Raise what torch raises, once."""
        if self.is_now(device, name):
            self.is_now = lambda device, name: False
            raise FULL


def run(arguments, is_now=None):
    """Run a command on the pretended device, whose memory may end; return the exit code."""
    with PretendCuda() as cuda:
        if is_now:
            filled = Filled(is_now)
            cuda.disturb = lambda name: filled(cuda, name)
        return main(arguments)


def in_lmsm(file, function):
    """Say whether a function of a file of the package is being called."""
    frame = sys._getframe()
    while frame := frame.f_back:
        code = frame.f_code
        if code.co_name == function and code.co_filename.endswith(f"lmsm_cli/{file}"):
            return True
    return False


MOMENTS = {
    "placing": (
        lambda device, name: name == "to" and in_lmsm("data/image_set.py", "to"),
        "while the images were placed",
        "try fewer or smaller ones, or the CPU",
    ),
    "stepping": (
        lambda device, name: name == "convolution_backward",
        "with batch_size 32",
        "try --batch-size 16",
    ),
    "capturing": (
        lambda device, name: name == "convolution_backward" and device.capturing,
        "where the training step was captured as a CUDA graph",
        "try --no-cuda-graph",
    ),
    "evaluating": (
        lambda device, name: name == "convolution" and in_lmsm("training/evaluate.py", "_embedded"),
        "images were evaluated",
        "or --device cpu",
    ),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_where_memory_ends_the_run_ends_with_7_and_true_advice(moment, tmp_path, capsys):
    """What needed the memory is named, and what can be made smaller; no traceback is shown."""
    is_now, doing, advice = MOMENTS[moment]
    assert run([*DIGITS, str(tmp_path)], is_now) == 7
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.startswith("error: out of memory ")
    assert doing in shown
    assert shown.endswith(advice)


def test_where_a_run_that_goes_on_needs_more_memory_it_is_no_broken_checkpoint(tmp_path, capsys):
    """It can change no batch: what else uses the GPU is to go, or the CPU to be taken."""

    def is_last_batch(device, name):  # of the second epoch, since no graph holds it yet
        return name == "convolution_backward" and bool(device.captured)

    def is_restoring(device, name):
        return name == "copy_" and in_lmsm("training/resume.py", "restore")

    assert run([*DIGITS, str(tmp_path)], is_last_batch) == 7
    capsys.readouterr()
    assert run(["resume", str(tmp_path), "--quiet"], is_restoring) == 7
    shown = " ".join(capsys.readouterr().err.split())
    assert shown.startswith("error: out of memory with batch_size 32")
    assert shown.endswith("(nvidia-smi tells who uses it), or --device cpu")


def test_the_peak_is_that_of_this_run():
    """What an earlier run of the same process took at most does not count."""
    with PretendCuda() as cuda:
        cuda.allocated, cuda.peak = 1 << 30, 70 << 30
        with (
            pytest.raises(OutOfMemoryError, match=r"at a peak of 1\.00 GiB"),
            reported_memory(CUDA, 8),
        ):
            raise FULL


def test_a_failed_capture_stands_in_the_log_and_is_shown_once(tmp_path, capsys):
    """A run without a graph is slower, which --quiet does not hide, nor the log from who looks."""
    with PretendCuda() as cuda:
        cuda.disturb = lambda name: refuses("convolution_backward")(cuda, name)
        assert main([*DIGITS, str(tmp_path)]) == 0
    (log,) = tmp_path.glob("*/train.log")
    assert log.read_text().count("WARNING the training step could not be captured") == 1
    assert capsys.readouterr().err.count("could not be captured") == 1
