"""Limits of a process: named, with the documented exit code, before a library aborts."""

import os
import shlex
import subprocess
import sys

import pytest

from lmsm_cli.commands import limits
from lmsm_cli.errors import DiskError
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import RunFolder
from tests.conftest import QUICK_DIGITS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")

TRAIN = ["train", *QUICK_DIGITS, "--device", "cpu"]


def limited(limit, out, cwd=None):
    """Run a training under a limit of the shell's ulimit; return what came of it."""
    command = shlex.join([sys.executable, "-m", "lmsm_cli", *TRAIN, "--out", str(out)])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(
        ["bash", "-c", f"{limit}; exec {command}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [500_000, 3_000_000, 3_500_000])
def test_too_little_memory_ends_with_code_7(tmp_path, kilobytes):
    """Where torch would abort, where it cannot be loaded, and where something else cannot."""
    done = limited(f"ulimit -v {kilobytes}", tmp_path)
    if done.returncode == 0:  # a torch without CUDA needs less
        pytest.skip("this torch is content with that")
    assert done.returncode == 7, done.stderr
    assert "error: out of memory" in done.stderr
    assert "GiB (`ulimit -v`)" in done.stderr or "; try --batch-size" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_deleted_working_folder_is_named(tmp_path):
    """Intel's MKL would end the process: exit code 6 and what to do."""
    gone = tmp_path / "gone"
    gone.mkdir()
    done = limited(f"rmdir {shlex.quote(str(gone))}", tmp_path, cwd=gone)
    assert done.returncode == 6, done.stderr
    assert "error: the working folder was deleted" in done.stderr
    assert "MKL" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [8, 64])
def test_a_limit_of_file_sizes_is_told_as_such(tmp_path, blocks):
    """At the first file or at the checkpoint, a file too large is exit code 6, no torch error."""
    done = limited(f"ulimit -f {blocks}", tmp_path)
    assert done.returncode == 6, done.stderr
    assert "File too large" in done.stderr
    assert "unexpected pos" not in done.stderr


def test_a_checkpoint_that_cannot_be_written_tells_the_first_cause(tmp_path, monkeypatch):
    """torch closes its archive after a failed write, and its complaint of that hides the cause."""

    def full(state, file):
        try:
            raise OSError(27, "File too large")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(DiskError, match=r"could not be saved: File too large \(.* MB are free"):
        checkpoint.save({}, RunFolder(tmp_path).checkpoint)


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (MemoryError(), True),
        (OSError(12, "Cannot allocate memory"), True),
        (OSError(28, "No space left on device"), False),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), True),
        (ImportError("No module named 'torch'"), False),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
    ],
)
def test_what_means_that_memory_ran_out(error, is_one):
    """The words of the system's loader, Python and torch are known; others are not."""
    assert limits.is_memory(error) == is_one


def test_limits_are_told_in_words(monkeypatch):
    """Each limit by the shell's name for it; none where there is none."""
    import resource

    values = {resource.RLIMIT_AS: 3 * 2**30, resource.RLIMIT_DATA: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (values[kind], values[kind]))
    assert limits.memory_limits() == "3.00 GiB (`ulimit -v`)"
    values[resource.RLIMIT_AS] = resource.RLIM_INFINITY
    assert limits.memory_limits() == ""
