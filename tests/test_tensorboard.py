"""Curves for TensorBoard: what its own reader finds is what stands in metrics.jsonl."""

import json
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lmsm_cli.commands.app import main

pytestmark = pytest.mark.libraries

QUICK = ["train", "--preset", "digits", "--device", "cpu", "--precision", "fp32"]


def numbers_of(run):
    """Return name -> [(epoch, value)] of the finite numbers in metrics.jsonl."""
    found = {}
    for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        for name, value in row.items():
            if name not in ("epoch", "collapse") and value is not None:
                found.setdefault(name, []).append((row["epoch"], pytest.approx(value, rel=1e-6)))
    return found


def curves_of(run):
    """Return name -> [(step, value)] as TensorBoard reads them, every event."""
    reader = EventAccumulator(
        str(run / "tensorboard"), size_guidance={"scalars": 0}, purge_orphaned_data=False
    )
    reader.Reload()
    return {
        name: [(e.step, e.value) for e in reader.Scalars(name)] for name in reader.Tags()["scalars"]
    }


def train(out, *flags):
    """Train one run; return its folder."""
    assert main([*QUICK, "--out", str(out), *flags]) == 0
    (run,) = out.iterdir()
    return run


def test_the_curves_are_the_metrics(tmp_path):
    """Each number of metrics.jsonl is a curve of that name, a point an epoch."""
    run = train(tmp_path, "--epochs", "2", "--tensorboard")
    curves = curves_of(run)
    assert curves == numbers_of(run)
    assert {"train_loss", "val_balanced_accuracy", "lambda", "lr"} <= curves.keys()


def test_a_resumed_run_has_no_epoch_twice(tmp_path):
    """More epochs go on the same curves, without a gap and without a double, in order of time."""
    run = train(tmp_path, "--epochs", "2", "--tensorboard")
    assert main(["resume", str(run), "--epochs", "3"]) == 0
    assert curves_of(run) == numbers_of(run)
    assert [step for step, _ in curves_of(run)["train_loss"]] == [1, 2, 3]
    reader = EventAccumulator(str(run / "tensorboard"))
    reader.Reload()
    times = [event.wall_time for event in reader.Scalars("train_loss")]
    assert times == sorted(times)


def test_curves_can_begin_on_resume(tmp_path):
    """A run that had none gets the curves of all its epochs with `resume --tensorboard`."""
    run = train(tmp_path, "--epochs", "1")
    assert not (run / "tensorboard").exists()
    assert main(["resume", str(run), "--epochs", "2", "--tensorboard"]) == 0
    assert curves_of(run) == numbers_of(run)
    assert [step for step, _ in curves_of(run)["lr"]] == [1, 2]


def test_without_the_package_nothing_starts(tmp_path, monkeypatch, capsys):
    """Without TensorBoard, --tensorboard is a usage error with the pip command; no run folder."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert main([*QUICK, "--out", str(tmp_path), "--tensorboard"]) == 2
    assert "pip install 'tensorboard>=" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
