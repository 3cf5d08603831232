"""Out of memory: exit code 7 with what a user needs to choose a batch that fits."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from lmsm_cli.errors import OutOfMemoryError
from lmsm_cli.losses.registry import build_head
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.runtime.memory import fitting_batch, is_out_of_memory, reported_memory, training_bytes
from tests.conftest import write_class_folders
from tests.test_loop import CPU, small_model

# Runs the real command under a limit on the data in memory, set once the libraries are loaded.
LIMITED = """
import re, resource, sys
import torch, torchvision, sklearn.metrics, matplotlib.pyplot
import lmsm_cli.training.run
from lmsm_cli.commands.app import main
used = 1024 * int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + 500 * 2**20, -1))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the data in memory")
def test_a_batch_that_does_not_fit_ends_with_code_7_and_one_that_fits(tmp_path):
    """Under 500 MiB more than start-up takes, the command names batch, peak and a smaller batch, which runs."""
    write_class_folders(tmp_path / "data", "ab", 120, size=48)

    def train(batch_size):
        flags = [
            "--dataset",
            "folder",
            "--data-dir",
            str(tmp_path / "data"),
            "--image-size",
            "48",
            "--model",
            "resnet32",
            "--epochs",
            "1",
            "--threads",
            "1",
            "--precision",
            "fp32",
        ]
        command = [
            "train",
            *flags,
            "--batch-size",
            str(batch_size),
            "--out",
            str(tmp_path / "runs"),
        ]
        return subprocess.run(
            [sys.executable, "-c", LIMITED, *command], capture_output=True, text=True, check=False
        )

    done = train(160)
    assert done.returncode == 7, done.stderr
    message = re.search(
        r"error: out of memory with batch_size 160, at a peak of (\S+) GiB .*; --batch-size (\d+) would have fitted",
        done.stderr,
    )
    assert message, done.stderr
    assert 0.1 < float(message[1]) < 5
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 7)
    again = train(int(message[2]))
    assert again.returncode == 0, again.stderr


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (MemoryError(), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
            ),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_one):
    """torch's and Python's own ways to say it are known, other errors stay what they are."""
    assert is_out_of_memory(error) == is_one
    wanted = OutOfMemoryError if is_one else type(error)
    with pytest.raises(wanted), reported_memory(CPU, small_model(), 8, (8, 8, 1)):
        raise error


def test_the_fitting_batch_is_the_largest_half_that_the_bytes_allow():
    """Of 100 images of 10 bytes, 260 bytes hold 25, 30 bytes 3, and 19 not even 2."""
    assert [fitting_batch(100, available, 10) for available in (260, 30, 19)] == [25, 3, None]


def test_an_image_takes_what_autograd_keeps_of_it():
    """Of two linear layers around a ReLU: the images, the ReLU's output, by hand, and half of it in bf16."""
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8))
    model = Classifier(
        backbone, nn.Identity(), build_head("softmax", 8, 3), classes="abc", mean=(0.5,), std=(0.3,)
    )
    kept = 4 * (64 + 16)
    assert training_bytes(model, CPU, (8, 8, 1)) == 3 * kept
    assert training_bytes(model, replace(CPU, precision="bf16"), (8, 8, 1)) == 1.5 * kept
