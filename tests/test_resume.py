"""Going on with a run: to the same bits, wherever it was left, whatever is trained."""

import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
import torch

from lmsm_cli import load_checkpoint
from lmsm_cli.config.resolve import Layer, resolve
from lmsm_cli.config.yaml import dump_yaml
from lmsm_cli.distributed.process_group import SINGLE_PROCESS
from lmsm_cli.errors import CheckpointError, DataError, DiskError, LmsmError, StoppedError
from lmsm_cli.inference.export import export_checkpoint
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.losses.registry import HEADS, check_loss
from lmsm_cli.models.classifier import ModelSpec, build_classifier
from lmsm_cli.runs import checkpoint
from lmsm_cli.runs.folder import RunFolder
from lmsm_cli.runs.start import checkpoint_of
from lmsm_cli.training.collapse import MetricAccumulator
from lmsm_cli.training.resume import config_hash, fingerprint
from lmsm_cli.training.run import resume_run, start_run
from lmsm_cli.training.step import new_optimizer, optimizer_state, restore_optimizer
from tests.conftest import (
    SilentDisplay,
    digits_config,
    evaluation,
    plain_state,
    write_class_folders,
)
from tests.test_checkpoint import damage

TIMES = {"seconds", "images_per_second"}


class Stopping(SilentDisplay):
    """Sends this process a signal after so many steps, as a terminal or a scheduler does."""

    def __init__(self, steps=None, number=signal.SIGINT):
        super().__init__()
        self.left, self.number = steps, number

    def step(self, step):
        """Count, and send the signal."""
        if self.left:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), self.number)


def whole(out, **values):
    """Return the folder of a run that nobody stopped."""
    return start_run(digits_config(out, **values), SilentDisplay(), with_plots=False).path


def stopped(out, steps, **values):
    """Return the folder of a run that was stopped after so many steps."""
    with pytest.raises(StoppedError):
        start_run(digits_config(out, **values), Stopping(steps), with_plots=False)
    (path,) = out.iterdir()
    return path


def resumed(path, steps=None, **changes):
    """Go on with a run, to its end or for so many steps; return its folder."""
    if steps is None:
        return resume_run(path, SilentDisplay(), changes, with_plots=False).path
    with pytest.raises(StoppedError):
        resume_run(path, Stopping(steps), changes, with_plots=False)
    return path


def rows(path):
    """Return metrics.jsonl without what depends on the clock."""
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def assert_same_bits(path, other, file="checkpoint.pt"):
    """Compare weights, optimiser state, rows and scores of two runs."""
    one, two = plain_state(path / file), plain_state(other / file)
    assert one["model"].keys() == two["model"].keys()
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    assert one["optimizer"].keys() == two["optimizer"].keys()
    for place, values in one["optimizer"].items():
        for key, value in values.items():
            assert torch.equal(value, two["optimizer"][place][key]), (place, key)
    assert rows(path) == rows(other)
    assert timeless_scores(path) == timeless_scores(other)


def timeless_scores(path):
    """Return scores.json without what depends on the clock."""
    scores = json.loads((path / "scores.json").read_text())
    return {key: value for key, value in scores.items() if key != "training"}


def change(file, *, without=(), **values):
    """Save a checkpoint again with other values, and without some keys."""
    state = plain_state(file) | values
    checkpoint.save({key: value for key, value in state.items() if key not in without}, file)


FAMILIES = {
    loss: {"loss": loss}
    for loss in [
        *HEADS,
        "lsoftmax:margin=4",
        "lsoftmax:margin=auto,margin_max=3",
        "lsoftmax:margin_power=1,margin_on=hard,feature_norm=16,weight_norm=monotone,tau=1",
    ]
}
RECIPES = {
    "sgd, cosine, warm-up, crop-flip": {
        "optimizer": "sgd",
        "schedule": "cosine",
        "warmup": 1,
        "augment": "crop-flip",
    },
    "adamw, multistep, flip, deferred": {
        "optimizer": "adamw",
        "lr": 0.001,
        "schedule": "multistep",
        "milestones": "1,2",
        "augment": "flip",
        "reweight": "inverse",
        "rebalance_from": 2,
    },
    "adam, step, balanced draws": {
        "optimizer": "adam",
        "lr": 0.001,
        "schedule": "step",
        "step_size": 1,
        "sampling": "balanced",
    },
    "learned policy, mixing, smoothed labels, SAM": {
        "optimizer": "sgd",
        "augment": "autoaugment-cutout",
        "mixup": 0.4,
        "cutmix": 1.0,
        "label_smoothing": 0.1,
        "sam": 0.05,
        "neck": "relu",
        "model": "paper-mnist",
        "loss": "lsoftmax",
        "reweight": "inverse",
    },
    "photo": {"augment": "photo"},
    "randaugment": {"augment": "randaugment"},
    "trivial": {"augment": "trivial"},
    "sgd without momentum, constant": {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"},
    "relu neck, whose dropout draws": {"neck": "relu", "model": "paper-mnist"},
    "nothing held out": {"validation": 0.0},
    "LDAM-DRW's last layer": {
        "neck": "none",
        "head_bias": True,
        "head_init": "kaiming",
        "loss": "focal:gamma=1",
        "reweight": "effective",
    },
}


UNIT = ("lsoftmax", "relu neck, whose dropout draws", "sgd, cosine, warm-up, crop-flip")
UNIT += ("learned policy, mixing, smoothed labels, SAM",)
"""The others take as long each."""


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(values, id=name, marks=[] if name in UNIT else pytest.mark.slow)
        for name, values in (FAMILIES | RECIPES).items()
    ],
)
def test_a_run_that_was_left_twice_ends_with_the_same_bits(tmp_path, values):
    """Stopped in the first epoch and after the second, it ends with the bits of a whole run."""
    steps = 7  # of an epoch: 434 images, 64 at a time; without validation 8
    steps = 8 if values.get("validation") == 0 else steps
    path = stopped(tmp_path / "left", 3, **values)
    assert plain_state(path / "checkpoint.pt")["position"]["step"] == 3
    resumed(path, 2 * steps - 3)
    assert plain_state(path / "checkpoint.pt")["position"] | {"seconds": 0} == {
        "epoch": 2,
        "step": 0,
        "seconds": 0,
        "watch": None,
        "generators": None,
    }
    assert_same_bits(resumed(path), whole(tmp_path / "whole", **values))


@pytest.fixture
def copy(digits_run, tmp_path):
    """A copy of the finished run, to be damaged."""
    return shutil.copytree(digits_run, tmp_path / "copy")


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A run that was left in its second epoch."""
    return stopped(tmp_path_factory.mktemp("half"), 9)


@pytest.fixture
def left(half, tmp_path):
    """A copy of the run that was left, to go on with."""
    return shutil.copytree(half, tmp_path / "left")


def test_the_message_and_the_status_say_how_to_go_on(tmp_path):
    """The exit code is the signal's, and the command to resume is given, ready to be pasted."""
    with pytest.raises(
        StoppedError,
        match=r"stopped by SIGTERM in epoch 1, and saved; `lmsm resume '.*a b/.*'` continues it",
    ) as error:
        start_run(digits_config(tmp_path / "a b"), Stopping(2, signal.SIGTERM), with_plots=False)
    assert error.value.exit_code == 143
    (path,) = (tmp_path / "a b").iterdir()
    status = json.loads((path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", 143)


def test_a_signal_after_an_epoch_names_that_epoch(tmp_path):
    """Told while the last epoch is shown: there is no next one to be in."""

    class Late(SilentDisplay):
        def epoch(self, epoch, num_epochs):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(StoppedError, match="stopped by SIGINT after epoch 1, and saved"):
        start_run(digits_config(tmp_path, epochs=2), Late(), with_plots=False)


def test_a_second_signal_ends_at_once(tmp_path):
    """Twice Ctrl-C in a step leaves the checkpoint of the epoch before, and no temporary file."""

    class Impatient(SilentDisplay):
        def step(self, step):
            if step.epoch == 2:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        start_run(digits_config(tmp_path), Impatient(), with_plots=False)
    (path,) = tmp_path.iterdir()
    assert plain_state(path / "checkpoint.pt")["epoch"] == 1
    status = json.loads((path / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("interrupted", 130)
    assert not list(path.glob(".*.tmp"))


def test_a_finished_run_is_left_alone(copy):
    """There is nothing to do, and nothing changes."""
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*.*")}
    display = SilentDisplay()
    assert resume_run(copy, display).path == copy
    assert any("is finished: nothing to do" in text for text in display.said)
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*.*")} == before


def test_a_finished_run_can_get_more_epochs(copy):
    """It goes on after its last epoch, and config.yaml and the log tell of it."""
    resumed(copy, epochs=4)
    assert [row["epoch"] for row in rows(copy)] == [1, 2, 3, 4]
    assert "epochs: 4" in (copy / "config.yaml").read_text()
    assert "continues after epoch 3" in (copy / "train.log").read_text()
    assert json.loads((copy / "scores.json").read_text())["epoch"] == 4


@pytest.mark.parametrize("state", ["running", "interrupted", "failed", "completed"])
def test_a_run_that_was_ended_after_its_training_is_completed(digits_run, copy, state):
    """Ended before its scores, or while its plots were drawn, it is tested and not trained."""
    RunFolder(copy).write_status(state)
    if state in ("running", "completed"):
        (copy / "scores.json").unlink()
    assert_same_bits(resumed(copy), digits_run)
    assert json.loads((copy / "status.json").read_text())["state"] == "completed"


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_lost_best_costs_only_its_own_scores(copy, how):
    """The run gets its test scores; a warning says what they lack, on the screen and in the log."""
    best = copy / "best.pt"
    best.unlink() if how == "missing" else best.write_bytes(b"PK")
    RunFolder(copy).write_status("running")
    settings = (copy / "checkpoint.pt", copy / "scores.json")
    settings[1].unlink()
    display = SilentDisplay()
    state = plain_state(settings[0])
    state["journal"]["best"]["epoch"] = 1  # the last epoch's is made again
    checkpoint.save(state, settings[0])
    resume_run(copy, display, with_plots=False)
    scores = json.loads(settings[1].read_text())
    assert scores["epoch"] == 3
    assert scores["best_on_validation"] is None
    assert any("best.pt" in text and "no best_on_validation" in text for text in display.warned)
    assert "no best_on_validation" in (copy / "train.log").read_text()


@pytest.mark.parametrize(
    "changes", [{"lr": "0.1"}, {"epochs": 2}, {"seed": 1, "batch_size": 32}, {"loss": "softmax"}]
)
def test_what_would_make_it_another_run_is_refused(left, changes):
    """Each such change is listed, with what the run has, and nothing is touched."""
    before = (left / "checkpoint.pt").read_bytes()
    with pytest.raises(LmsmError, match="start a new one with `lmsm train`") as error:
        resumed(left, **changes)
    for key, value in changes.items():
        assert f"{key} was " in str(error.value)
        assert str(value) in str(error.value)
    assert error.value.exit_code == 2
    assert (left / "checkpoint.pt").read_bytes() == before


def test_an_edited_config_is_refused_alike(left):
    """config.yaml is not the run's any more: the difference is shown."""
    text = (left / "config.yaml").read_text()
    (left / "config.yaml").write_text(text.replace("momentum: 0.9", "momentum: 0.8"))
    with pytest.raises(LmsmError, match=r"momentum was 0\.9, and 0\.8 is asked for"):
        resumed(left)


def test_a_place_may_change(left, tmp_path):
    """The data may be elsewhere, and so may new runs."""
    path = resumed(left, data_dir=tmp_path, out=tmp_path)
    assert path == left
    assert f"data_dir: {tmp_path}" in (left / "config.yaml").read_text()


def test_other_data_is_refused(tmp_path):
    """A missing image of the run is exit code 3 by name: the rest would be another run."""
    write_class_folders(tmp_path / "data", "ab", 40, size=12)
    flags = {
        "dataset": "folder",
        "data_dir": tmp_path / "data",
        "model": "paper-2d",
        "imbalance": "none",
        "factor": 1.0,
        "image_size": 12,
        "batch_size": 16,
    }
    path = stopped(tmp_path / "runs", 6, **flags)
    (tmp_path / "data" / "b" / "0000.png").unlink()
    with pytest.raises(
        DataError, match=r"lacks 1 \w+ image of the run: 1 gone or changed \(b/0000\.png\)"
    ) as error:
        resumed(path)
    assert error.value.exit_code == 3


def test_what_computes_otherwise_is_told(left):
    """Another torch or number of threads can round otherwise: that is said, and logged."""
    versions = plain_state(left / "checkpoint.pt")["versions"] | {"torch": "torch 2.0"}
    change(left / "checkpoint.pt", versions=versions)
    display = SilentDisplay()
    resume_run(left, display, with_plots=False)
    told = f"torch 2.0 before, torch {torch.__version__} now"
    assert any(text.startswith(told) for text in display.warned)
    assert f"WARNING {told}" in (left / "train.log").read_text()


def test_a_thread_is_one_thread(left):
    """An older lmsm wrote `1 threads`: that is no other machine."""
    versions = plain_state(left / "checkpoint.pt")["versions"]
    assert " 1 thread," in versions["runtime"]
    older = versions["runtime"].replace(" 1 thread,", " 1 threads,")
    change(left / "checkpoint.pt", versions=versions | {"runtime": older})
    display = SilentDisplay()
    resume_run(left, display, with_plots=False)
    assert not [text for text in display.warned if "before" in text]


@pytest.mark.parametrize("key", ["position", "journal", "fingerprint", "versions", "optimizer"])
def test_a_checkpoint_that_lacks_what_to_go_on_from_is_refused(left, key):
    """The message names the key, of a checkpoint from before it as of one that was edited."""
    change(left / "checkpoint.pt", without=[key])
    with pytest.raises(CheckpointError, match=f"nothing to resume from: it lacks {key}"):
        resumed(left)


def test_a_disk_that_is_full_for_metrics_loses_none(digits_run, tmp_path, monkeypatch):
    """The run ends with code 6 after its checkpoint; a resume writes the missing row."""

    def full(*_):
        raise DiskError("cannot write metrics.jsonl: No space left on device")

    monkeypatch.setattr(RunFolder, "append_metrics", full)
    with pytest.raises(DiskError):
        whole(tmp_path)
    monkeypatch.undo()
    (path,) = tmp_path.iterdir()
    assert json.loads((path / "status.json").read_text())["exit_code"] == 6
    assert_same_bits(resumed(path), digits_run)


def test_a_run_without_a_checkpoint_starts(digits_run, left):
    """Ended before its first save, a run begins, in the same folder."""
    for file in left.glob("*.pt"):
        file.unlink()
    assert_same_bits(resumed(left), digits_run)


@pytest.mark.parametrize("kind", ["half", "zeros at its end", "flipped byte"])
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_taken(digits_run, left, kind):
    """The user is told, the damaged file stays as *.corrupt, and the end has the same bits."""
    damage(left / "checkpoint.pt", kind)
    display = SilentDisplay()
    path = resume_run(left, display, with_plots=False).path
    assert any(
        "it is now checkpoint.pt.corrupt, and checkpoint-previous.pt is taken: epoch 1" in text
        for text in display.warned
    )
    assert (left / "checkpoint.pt.corrupt").exists()
    assert_same_bits(path, digits_run)


def test_strict_takes_no_other_checkpoint(left):
    """With --strict a damaged checkpoint is exit code 4, and stays where it is."""
    damage(left / "checkpoint.pt", "half")
    with pytest.raises(CheckpointError):
        resume_run(left, SilentDisplay(), strict=True)
    assert (left / "checkpoint.pt").exists()


def test_two_damaged_checkpoints_are_named(left):
    """Exit code 4 names both files and how to start again."""
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        damage(left / name, "half")
    with pytest.raises(
        CheckpointError, match=r"checkpoint\.pt.*checkpoint-previous\.pt.*lmsm train --config"
    ) as error:
        resumed(left)
    assert error.value.exit_code == 4


def test_an_older_checkpoint_is_evaluated_but_not_resumed(left):
    """Schema 1 had no position: refused by name, not guessed."""
    change(left / "checkpoint.pt", without=["position", "journal", "fingerprint"], schema=1)
    checkpoint.load_checkpoint(left)
    with pytest.raises(CheckpointError, match="saved by an older lmsm"):
        resumed(left)


def test_a_key_that_is_new_since_is_at_its_default(digits_run, left):
    """A checkpoint from before a key of the config was born goes on."""
    older = dict(plain_state(left / "checkpoint.pt")["config"])
    del older["tensorboard"]
    change(left / "checkpoint.pt", config=older, fingerprint=fingerprint(older))
    assert_same_bits(resumed(left), digits_run)


def test_a_run_with_an_option_without_effect_is_not_lost(digits_run, left):
    """An older lmsm took gamma with a cosine: such a run is resumed to the same weights."""
    older = plain_state(left / "checkpoint.pt")["config"] | {"gamma": 0.5}
    assert older["schedule"] == "cosine"
    change(left / "checkpoint.pt", config=older, fingerprint=fingerprint(older))
    text = (left / "config.yaml").read_text()
    (left / "config.yaml").write_text(text.replace("gamma: 0.9", "gamma: 0.5"))
    path = resumed(left)
    assert read_trained(path).config.gamma == 0.5
    wanted = plain_state(digits_run / "checkpoint.pt")["model"]
    found = plain_state(path / "checkpoint.pt")["model"]
    assert all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_config_that_does_not_fit_its_fingerprint_is_refused(left):
    """What was changed inside a checkpoint is not resumed."""
    config = plain_state(left / "checkpoint.pt")["config"] | {"momentum": 0.5}
    change(left / "checkpoint.pt", config=config)
    with pytest.raises(CheckpointError, match="reads otherwise"):
        resumed(left)


def test_a_run_in_use_is_refused(left):
    """The error names the process that writes; one that only looks at the lock is waited for."""
    text = f"is in use by process {os.getpid()} on "
    with RunFolder(left).locked(), pytest.raises(LmsmError, match=text) as error:
        resumed(left)
    assert error.value.exit_code == 2
    looking = RunFolder(left).locked(patience=0)
    looking.__enter__()
    threading.Timer(0.3, looking.__exit__, (None, None, None)).start()
    resumed(left)


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_what_is_no_run_is_refused(tmp_path, name):
    """A folder that is not there, or has no config.yaml, is exit code 2."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(LmsmError, match="run folder"):
        resumed(tmp_path / name)


def test_what_a_killed_process_left_half_written_goes(digits_run, left):
    """metrics.jsonl is brought to where the checkpoint stands, and temporary files are removed."""
    (left / ".checkpoint.pt.1.tmp").write_bytes(b"half")
    with (left / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2}\n{"epoch": 3, "tra')
    assert_same_bits(resumed(left), digits_run)
    assert not list(left.glob(".*.tmp"))


def edited(file):
    """Change a number in the first row."""
    file.write_text(file.read_text().replace('"train_accuracy": ', '"train_accuracy": 1', 1))


def shortened(file):
    """Drop the first row."""
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


@pytest.mark.parametrize(
    "damage", [edited, shortened, Path.unlink, lambda file: file.write_text("")]
)
def test_a_row_that_a_checkpoint_counts_on_may_not_change(left, digits_run, damage):
    """Edited or lost rows are exit code 4; the saved rows beside the file repair it."""
    file, before = left / "metrics.jsonl", (left / "metrics.jsonl").read_bytes()
    damage(file)
    with pytest.raises(
        CheckpointError, match=r"metrics.jsonl was changed .* metrics-saved.jsonl"
    ) as error:
        resumed(left)
    assert error.value.exit_code == 4
    saved = left / "metrics-saved.jsonl"
    assert saved.read_bytes() == before
    saved.replace(file)
    assert_same_bits(resumed(left), digits_run)


@pytest.mark.parametrize(
    ("changes", "images", "told"),
    [
        ({"seed": 7}, None, "was trained with seed 7, and config.yaml beside it says seed 42"),
        ({"loss": "ldam"}, None, "trained with loss 'ldam', and .* says loss 'lsoftmax:margin=2"),
        ({"momentum": 0.5}, None, "momentum was 0.5, and 0.9 is asked for"),
        ({}, {"training": "0" * 32, "validation": None, "test": "1" * 32}, "tells of other images"),
    ],
)
def test_a_checkpoint_of_another_run_is_told_before_its_rows(copy, changes, images, told):
    """The folder's rows are the run's own, so none are written to put in their place."""
    file = copy / "checkpoint.pt"
    state = plain_state(file)
    config = state["config"] | changes
    images = images or state["images"]
    change(file, config=config, fingerprint=fingerprint(config), images=images)
    edited(copy / "metrics.jsonl")
    with pytest.raises(LmsmError, match=told):
        resumed(copy, epochs=4)
    assert not (copy / "metrics-saved.jsonl").exists()


def test_a_checkpoint_of_another_run_is_not_shown_as_the_run_of_the_folder(copy, tmp_path):
    """Whoever reads a net refuses it beside config.yaml of another loss; elsewhere it is itself."""
    file, best = copy / "checkpoint.pt", copy / "best.pt"
    config = plain_state(file)["config"] | {"loss": "lsoftmax:margin=3"}
    for one in (file, best):
        change(one, config=config)
    shutil.copy(file, copy / "theirs.pt")
    shutil.copy(file, tmp_path / "checkpoint.pt")
    readers = (read_trained, load_checkpoint, lambda path: checkpoint_of(str(path)))
    for read in readers:
        for refused in (copy, file, best):
            with pytest.raises(CheckpointError, match=r"margin=3', and config\.yaml .*margin=2"):
                read(refused)
        for taken in (copy / "theirs.pt", tmp_path / "checkpoint.pt"):
            assert read(taken) is not None
    written = config | {"loss": "lsoftmax:margin=3.0", "epochs": 9}
    (copy / "config.yaml").write_text(dump_yaml(written))
    assert read_trained(copy).config.loss == "lsoftmax:margin=3"


def test_only_the_last_row_may_be_missing_and_only_at_the_end_of_an_epoch(copy):
    """A crash before the row was appended is mended; a row less is none."""
    file, longer = copy / "metrics.jsonl", digits_config(copy.parent).epochs + 1
    lines = file.read_text().splitlines(keepends=True)
    assert len(lines) > 2
    file.write_text("".join(lines[:-2]))
    with pytest.raises(CheckpointError, match=rf"it has {len(lines) - 2} of {len(lines)} rows"):
        resumed(copy, epochs=longer)
    file.write_text("".join(lines[:-1]) + lines[-1][:20])
    resumed(copy, 1, epochs=longer)
    assert file.read_text().splitlines(keepends=True) == lines


def test_checkpoints_without_a_digest_of_the_rows_are_resumed(left, digits_run):
    """An older lmsm kept none: the rows are made again from the checkpoint."""
    for name in ("checkpoint.pt", "checkpoint-previous.pt"):
        change(left / name, without=["metrics"])
    (left / "metrics.jsonl").write_text("")
    assert_same_bits(resumed(left), digits_run)


def test_best_is_made_again_where_it_is_behind(tmp_path):
    """Ended between the checkpoint of the best epoch and best.pt, the run makes best.pt first."""
    path = stopped(tmp_path, 7)  # at the end of the first epoch, which is the best so far
    (path / "best.pt").unlink()  # it shares its bytes with checkpoint.pt
    resumed(path, 3)
    assert plain_state(path / "best.pt")["epoch"] == 1


def test_a_full_disk_says_how_much_is_free(tmp_path, monkeypatch):
    """The error names file and room, and the run can go on later."""
    path = stopped(tmp_path, 9)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(DiskError, match=r"No space left on device \([\d,]+ MB are free"):
        resumed(path)
    monkeypatch.undo()
    resumed(path)


def test_optimisers_remember_in_the_parameters_own_order():
    """The saved moments of a convolution have the order of its weight, which any device takes."""
    model = build_classifier(
        ModelSpec("paper-mnist", "linear", "softmax"), classes=("a", "b"), mean=(0.4,), std=(0.2,)
    ).to(memory_format=torch.channels_last)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer = new_optimizer(model, digits_config("runs", optimizer="sgd"))
    own = [p for group in optimizer.param_groups for p in group["params"]]
    for parameter, view in zip(model.parameters(), own, strict=True):
        view.grad = parameter.grad if parameter is view else parameter.grad.permute(0, 2, 3, 1)
    assert any(p is not view for p, view in zip(model.parameters(), own, strict=True))
    optimizer.step()
    state = optimizer_state(model, optimizer)
    for place, parameter in enumerate(model.parameters()):
        # momentum begins as the gradient, with the weight decay's part from before the step
        assert state[place]["momentum_buffer"].shape == parameter.shape
    again = new_optimizer(model, digits_config("runs", optimizer="sgd"))
    restore_optimizer(model, again, state)
    for (_, one), (_, two) in zip(optimizer.state.items(), again.state.items(), strict=True):
        assert torch.equal(one["momentum_buffer"], two["momentum_buffer"])


def test_a_watch_goes_on_from_its_state():
    """An epoch that was watched in two halves is the epoch that was watched in one."""
    generator = torch.Generator().manual_seed(0)
    seen = [
        (torch.randn(4, 3, generator=generator).relu(), torch.randint(5, (4,), generator=generator))
        for _ in range(6)
    ]

    def look(watch, part):
        for features, predicted in part:
            watch.next(4, 4)
            watch.update(
                features, predicted, features.sum(), (predicted == 1).sum(), features.mean()
            )

    one, two, three = (MetricAccumulator(5, torch.device("cpu")) for _ in range(3))
    for watch in (one, two, three):
        watch.start(6)
    look(one, seen)
    look(two, seen[:4])
    three.restore(two.state(SINGLE_PROCESS), SINGLE_PROCESS)
    look(three, seen[4:])
    assert three.total() == one.total()
    assert three.epoch_stats(torch.ones(5, 3)) == one.epoch_stats(torch.ones(5, 3))


def test_a_run_of_an_older_lmsm_is_what_is_asked_for_now():
    """Keys that came later leave no trace at their defaults, so that a sweep finds older runs."""
    choices = {"dataset": "digits", "epochs": 3, "loss": "softmax"}
    now = resolve([Layer.of_flags(choices)], check_loss).config
    # as an lmsm that had neither head_bias nor head_init wrote it into environment.json
    assert config_hash(now) == "46d319dea16d3704e56de5a0c5e1670e7a7de04758fc7eada182b03b04c89ced"
    for key, value in (("head_init", "kaiming"), ("head_init", "unit"), ("epochs", 4)):
        assert config_hash(now.model_copy(update={key: value})) != config_hash(now), key
    assert config_hash(now.model_copy(update={"head_bias": True})) != config_hash(now)


def test_a_last_layer_with_a_bias_is_read_back(tmp_path):
    """Evaluation, prediction and export compute W x + b; an older file has no bias."""
    path = whole(
        tmp_path, epochs=1, loss="softmax", neck="none", head_bias=True, head_init="kaiming"
    )
    trained = read_trained(path)
    saved = plain_state(path / "checkpoint.pt")["model"]
    assert torch.equal(trained.model.head.bias, saved["head.bias"])
    assert saved["head.bias"].abs().min() > 0
    images = torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        features = trained.model.embed(images)
        wanted = features @ saved["head.weight"].T + saved["head.bias"]
        torch.testing.assert_close(load_checkpoint(path)(images), wanted, rtol=1e-4, atol=1e-4)
    export_checkpoint(path, SilentDisplay(), form="torch", out=tmp_path / "x.pt2")
    found = evaluation(path, SilentDisplay(), tau_norm=0.0)
    assert found.scores.accuracy == found.scores.adjustment.unadjusted.accuracy
    state = plain_state(path / "checkpoint.pt")
    del state["config"]["head_bias"], state["config"]["head_init"], state["model"]["head.bias"]
    checkpoint.save(state, tmp_path / "older.pt")
    assert load_checkpoint(tmp_path / "older.pt").head.bias is None
