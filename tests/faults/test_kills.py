"""kill -9: at random moments, at every step of a save, in the middle of epochs; nothing is lost.

Children are forked from a driver that has imported everything, so that a hundred of them take a
minute. What a kill before each call leaves is copied from one run instead. The driver computes
nothing itself: forked threads of OpenMP would hang.
"""

import itertools
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lmsm_cli import load_checkpoint
from lmsm_cli.errors import CheckpointError
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runs import checkpoint, writer
from lmsm_cli.training.run import resume_run, start_run
from tests.conftest import SilentDisplay, digits_config, plain_state
from tests.test_resume import assert_same_bits

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


class Telling(SilentDisplay):
    """Tells a pipe when the training begins, and kills its process after so many steps."""

    def __init__(self, pipe, steps=None):
        super().__init__()
        self.pipe, self.left = pipe, steps

    def step(self, step):
        """Tell, count, kill."""
        if self.pipe is not None:
            os.write(self.pipe, b".")
            self.pipe = None
        if self.left:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def keep_copies(out, copies):
    """Copy a folder before each call that changes it: what kill -9 at that moment leaves of it."""
    lock, number = threading.RLock(), itertools.count(1)

    def counted(function):
        def call(*arguments, **options):
            with lock:  # a training has two threads
                if out.exists():
                    shutil.copytree(out, copies / f"{next(number):03}")
                return function(*arguments, **options)

        return call

    os.fsync, os.link = counted(os.fsync), counted(os.link)
    Path.replace, Path.unlink = counted(Path.replace), counted(Path.unlink)
    checkpoint.torch.save = counted(checkpoint.torch.save)


def go(out, values, display):
    """Start the one run of a folder, or go on with it."""
    runs = list(out.glob("*/config.yaml"))
    if runs:
        resume_run(runs[0].parent, display, with_plots=False)
    else:
        start_run(digits_config(out, **values), display, with_plots=False)


def forked(out, values, *, steps=None, copies=None, seconds=None):
    """Go on in a child until it ends or is killed; return whether it came to the end.

    It is killed after `steps`, or `seconds` after its first step. In `copies` are the folders that
    kills before its calls would leave.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        if copies:
            keep_copies(out, copies)
        try:
            go(out, values, Telling(writing, steps))
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    os.close(writing)
    if seconds is not None:
        select.select([reading], [], [], 60)  # ends too when the child does
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reading)
    assert status in (0, -signal.SIGKILL), status
    return status == 0


SEEN = set()


def loadable(out):
    """Load every checkpoint that is there, as anybody would, but for those known already."""
    for path in out.glob("*/*.pt"):
        info = path.stat()
        if (key := (info.st_ino, info.st_mtime_ns, info.st_size)) not in SEEN:
            load_checkpoint(path)
            SEEN.add(key)


RANDOM = {"epochs": 150, "lr": 0.01, "model": "paper-2d", "validation": 0.1}


def at_random(folder):
    """Kill a long run at random moments until it ends; save how often, and its moments."""
    draws = random.Random(0)
    kills = 0
    while kills < 110 and not forked(folder / "killed", RANDOM, seconds=draws.uniform(0, 0.35)):
        kills += 1
        writer.INTERVAL = (0.0, 5.0)[kills % 2]  # saving all the time, and as usual
        loadable(folder / "killed")
    assert forked(folder / "killed", RANDOM)
    forked(folder / "whole", RANDOM)
    (folder / "kills").write_text(str(kills))


def in_the_middle(folder):
    """Kill a run after 1, 2, ... 11 steps, twice, and resume it each time; disturb another not."""
    values = {"epochs": 10, "augment": "crop-flip"}
    kills = sum(not forked(folder / "killed", values, steps=1 + n % 11) for n in range(24))
    assert forked(folder / "killed", values)
    forked(folder / "whole", values)
    (folder / "kills").write_text(str(kills))


def at_every_call(folder):
    """Go on from each different folder that a kill before a call would leave of a run."""
    values = {"epochs": 3, "model": "paper-2d"}
    writer.INTERVAL = 0.0
    assert forked(folder / "whole", values, copies=folder / "killed")
    seen = []
    for out in sorted((folder / "killed").iterdir()):
        files = {str(one.relative_to(out)): one for one in out.rglob("*")}
        left = {name: one.is_file() and one.read_bytes() for name, one in files.items()}
        if left in seen:
            shutil.rmtree(out)
            continue
        seen.append(left)
        loadable(out)
        assert forked(out, values)
    (folder / "kills").write_text(str(len(seen)))


def driven(work, folder):
    """Run a function of this file in a process that only forks; return how many kills it made."""
    # The number is one already, and torch's pool, once it was told that, breaks in a fork.
    code = (
        "import sklearn.calibration, sklearn.datasets, torch._dynamo; "
        "torch.set_num_threads = lambda number: None; from pathlib import Path; import sys; "
        f"from tests.faults.test_kills import {work.__name__} as work; work(Path(sys.argv[1]))"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return int((folder / "kills").read_text())


def only(out):
    """Return the one run of a folder."""
    (path,) = out.iterdir()
    return path


def test_a_hundred_kills_at_random_moments_change_no_bit(tmp_path):
    """No checkpoint is ever unreadable, and the run that was killed ends as the undisturbed one."""
    assert driven(at_random, tmp_path) >= 100
    assert_same_bits(only(tmp_path / "killed"), only(tmp_path / "whole"))
    status = json.loads((only(tmp_path / "killed") / "status.json").read_text())
    assert status["state"] == "completed"
    assert not list(only(tmp_path / "killed").glob(".*.tmp"))


def test_kills_in_the_middle_of_epochs_change_no_bit(tmp_path):
    """Killed after a few steps again and again, the run comes to the undisturbed end."""
    assert driven(in_the_middle, tmp_path) >= 20
    assert_same_bits(only(tmp_path / "killed"), only(tmp_path / "whole"))


def test_a_kill_before_any_change_of_the_folder_changes_no_bit(tmp_path):
    """A kill between temporary file, digest, rename, best.pt, metrics and scores is survived."""
    kills = driven(at_every_call, tmp_path)
    assert kills >= 30
    folders = list((tmp_path / "killed").iterdir())
    assert len(folders) == kills
    for folder in folders:
        runs = sorted(folder.glob("*/scores.json"))
        assert_same_bits(runs[-1].parent, only(tmp_path / "whole"))


@pytest.mark.parametrize("number", range(3))
def test_every_flipped_byte_is_noticed(tmp_path, number):
    """300 places all over a file, its ends and headers among them: none passes for a checkpoint."""
    choices = {"model": "paper-2d", "neck": "linear", "loss": "softmax"}
    model = build_classifier(ModelSpec(**choices), classes=("a", "b"), mean=(0.4,), std=(0.2,))
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(
        checkpoint.state_of(model, choices, train_counts=[1, 1], image_shape=[28, 28, 1], epoch=1),
        file,
    )
    content = bytearray(file.read_bytes())
    draws = random.Random(number)
    ends = [*range(40), *range(len(content) - 40, len(content))] if number == 0 else []
    places = ends + [draws.randrange(len(content)) for _ in range(100 - len(ends))]
    for place in places:
        bit = 1 << draws.randrange(8)
        content[place] ^= bit
        file.write_bytes(content)
        with pytest.raises(CheckpointError):
            plain_state(file)
        content[place] ^= bit
    file.write_bytes(content)
    plain_state(file)
