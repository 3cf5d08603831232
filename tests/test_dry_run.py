"""`lmsm train --dry-run` does all that a run does, says what it takes, and leaves nothing."""

import json
from types import SimpleNamespace

import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.data.batches import num_batches
from lmsm_cli.distributed.process_group import SINGLE_PROCESS
from lmsm_cli.runs import checkpoint
from lmsm_cli.runtime.display import Step
from lmsm_cli.training import dry_run
from tests.conftest import printed_json

QUICK = ["train", "--preset", "digits", "--device", "cpu", "--precision", "fp32"]


@pytest.fixture
def brief(monkeypatch):
    """Time as little as possible."""
    monkeypatch.setattr(dry_run, "_TIMED_SECONDS", 0.0)


def files_below(folder):
    """Return everything below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.usefixtures("brief")
def test_it_tells_what_the_run_then_takes(tmp_path, monkeypatch, capsys):
    """Images, steps and the checkpoint's size are those of the run itself; no file is left."""
    monkeypatch.chdir(tmp_path)
    told = printed_json(capsys, *QUICK, "--epochs", "2", "--dry-run")
    assert files_below(tmp_path) == []
    assert told["trained_steps"] >= 2
    assert main([*QUICK, "--epochs", "2"]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    scores = json.loads((run / "scores.json").read_text())
    count = sum(row["train_count"] for row in scores["per_class"])
    assert (told["training_images"], told["test_images"]) == (count, 599)
    assert told["steps_per_epoch"] == num_batches(count, 32)
    saved = (run / "checkpoint.pt").stat().st_size
    assert told["checkpoint_bytes"] == pytest.approx(saved, rel=0.01)
    on_disk = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert saved <= on_disk <= told["disk_bytes"]
    assert told["total_seconds"] >= 2 * told["epoch_seconds"]
    assert told["epoch_seconds"] >= told["steps_per_epoch"] * told["step_seconds"]
    assert told["peak_memory_bytes"] > saved


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(("share", "passes"), [("0.1", 2), ("0", 1)])
def test_every_phase_is_named_and_they_add_up(tmp_path, monkeypatch, capsys, share, passes):
    """Each epoch validates and saves; the test is one pass, two where best.pt may be another."""
    drawn, draw = [], dry_run.draw_plots

    def seconds(trainer, images, *, is_test):
        return 0.5 if is_test else 0.25 if images else 0.0

    def counted(folder, trainer):
        drawn.append(len(trainer.data.test))
        draw(folder, trainer)

    monkeypatch.setattr(dry_run, "_seconds_an_image", seconds)
    monkeypatch.setattr(dry_run, "draw_plots", counted)
    words = [*QUICK, "--epochs", "3", "--validation", share, "--out", str(tmp_path), "--dry-run"]
    told = printed_json(capsys, *words)
    phases = told["phases"]
    assert list(phases) == [
        "preparing", "training", "validation", "checkpoints", "testing", "plots",
    ]  # fmt: skip
    assert told["total_seconds"] == pytest.approx(sum(phases.values()))
    steps = 3 * told["steps_per_epoch"] * told["step_seconds"]
    extra = max(0.0, told["first_step_seconds"] - told["step_seconds"])
    assert phases["training"] == pytest.approx(steps + extra)
    assert phases["validation"] == 3 * 0.25 * told["validation_images"]
    assert 2 < phases["checkpoints"] / told["save_seconds"] < 3.01
    assert phases["testing"] == passes * 0.5 * 599
    assert phases["plots"] > 0
    assert drawn == [250]
    assert files_below(tmp_path) == []
    assert main(words) == 0
    table = capsys.readouterr().out
    assert f"{'9 min 59 s' if passes == 2 else '5 min 0 s'} on 599 images" in table
    assert ("validation  " in table) == (passes == 2)


@pytest.mark.usefixtures("brief")
def test_the_table_is_on_stdout(tmp_path, capsys):
    """Without --json a few lines for people, and progress on stderr; folders stay as they are."""
    (tmp_path / "mine").write_text("")
    augment = ["--augment", "trivial", "--mixup", "0.2"]
    assert main([*QUICK, *augment, "--dry-run", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "trivial, mixup 0.2, of the training images alone" in printed
    assert "434 training, 49 validation, 599 test" in printed
    assert "the whole run" in printed
    assert "14 steps" in printed
    assert files_below(tmp_path) == ["mine"]


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--lr", "1e30", "--loss", "softmax", "--neck", "linear"], 5, "finite"),
        (["--batch-size", "500"], 2, "only 434 training images are left"),
        (["--dataset", "folder", "--data-dir", "nowhere"], 3, "nowhere"),
        (["--out", "file"], 6, "cannot write in file"),
        (["--los", "softmax"], 2, "--los"),
    ],
)
def test_it_fails_as_the_run_would(tmp_path, monkeypatch, capsys, flags, code, words):
    """What would end the run ends the dry run, with the same exit code, and leaves nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main([*QUICK, "--dry-run", *flags]) == code
    assert words in capsys.readouterr().err
    assert files_below(tmp_path) == ["file"]


@pytest.mark.usefixtures("brief")
def test_a_disk_that_is_too_small_is_an_error(tmp_path, monkeypatch, capsys):
    """A run whose checkpoints do not fit is refused before it starts: how much, where."""
    monkeypatch.setattr(dry_run.shutil, "disk_usage", lambda path: SimpleNamespace(free=5_000_000))
    assert main([*QUICK, "--dry-run", "--out", str(tmp_path / "new")]) == 6
    assert "5 MB are free there" in capsys.readouterr().err
    assert files_below(tmp_path) == []


@pytest.mark.usefixtures("brief")
def test_a_checkpoint_that_is_not_what_was_saved_is_an_error(tmp_path, monkeypatch, capsys):
    """The checkpoint is read back and compared with the model."""
    restore = checkpoint.restore

    def other(state, path):
        model = restore(state, path)
        model.head.weight.data[0, 0] += 1e-3
        return model

    monkeypatch.setattr(checkpoint, "restore", other)
    assert main([*QUICK, "--dry-run", "--out", str(tmp_path)]) == 1
    assert "does not give back the weights" in capsys.readouterr().err
    assert files_below(tmp_path) == []


def test_resume_takes_no_dry_run(tmp_path, capsys):
    """--dry-run with --resume is a usage error."""
    assert main(["train", "--resume", str(tmp_path), "--dry-run"]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_the_clock_counts_warm_steps_only(monkeypatch):
    """The first step and what follows an epoch's end are left out; the rest is a median."""
    now = [0.0]
    monkeypatch.setattr(dry_run, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    clock = dry_run._Clock(torch.device("cpu"), SINGLE_PROCESS)
    # (step of the epoch, seconds until it is done): 9 s are a validation's
    for step, took in ((1, 5.0), (2, 0.5), (3, 0.2), (1, 9.0), (2, 0.4)):
        now[0] += took
        clock(Step(1, step, 3, 0, None, None, 0.1))
    now[0] += 0.4
    with pytest.raises(dry_run._EnoughError):
        clock(Step(1, 3, 3, 0, None, None, 0.1))
    assert clock.first == 5.0
    assert clock.seconds == pytest.approx(0.4)
    assert clock.num_steps == 6
