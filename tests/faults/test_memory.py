"""Out of memory: exit code 7 with the batch, the peak, and the batch to try."""

import json
import re
import subprocess
import sys

import pytest
import torch

from lmsm_cli.errors import OutOfMemoryError
from lmsm_cli.runtime.memory import is_out_of_memory, reported_memory
from tests.conftest import write_class_folders
from tests.test_loop import CPU

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
def test_a_batch_that_does_not_fit_ends_with_code_7(tmp_path):
    """Under 500 MiB more than start-up takes, the command names batch, peak and half the batch."""
    write_class_folders(tmp_path / "data", "ab", 120, size=48)

    flags = "--dataset folder --image-size 48 --model resnet32 --epochs 1 --batch-size 160"
    folders = ["--data-dir", str(tmp_path / "data"), "--out", str(tmp_path / "runs")]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "train", *flags.split(), "--threads", "1", *folders],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    message = re.search(
        r"error: out of memory with batch_size 160, at a peak of (\S+) GiB .*; try --batch-size 80",
        done.stderr,
    )
    assert message, done.stderr
    assert 0.1 < float(message[1]) < 5
    assert "Traceback" not in done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    status = json.loads((folder / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 7)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
        (MemoryError(), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: "
                "can't allocate memory: you tried to allocate 8 bytes."
            ),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("Unable to find an engine to execute this computation"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, is_one):
    """torch's and Python's own ways to say it are known, other errors stay what they are."""
    assert is_out_of_memory(error) == is_one
    wanted = OutOfMemoryError if is_one else type(error)
    with pytest.raises(wanted), reported_memory(CPU.device, 8):
        raise error


@pytest.mark.parametrize(
    ("batch_size", "advice"),
    [(160, "--batch-size 80"), (5, "--batch-size 2"), (3, "a smaller model or image size")],
)
def test_half_the_batch_is_to_be_tried(batch_size, advice):
    """Half of a batch is named, unless BatchNorm could not train on it."""
    with (
        pytest.raises(OutOfMemoryError, match=f"; try {advice}$"),
        reported_memory(CPU.device, batch_size),
    ):
        raise MemoryError
