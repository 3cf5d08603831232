"""A checkpoint is taken for a run's own only where the run's folder says nothing else of it."""

import json
import shutil

import pytest

from lmsm_cli import load_checkpoint
from lmsm_cli.commands.app import main
from lmsm_cli.config import Config
from lmsm_cli.config.yaml import dump_yaml, read_mapping
from lmsm_cli.errors import CheckpointError, StoppedError
from lmsm_cli.inference.trained import read_trained
from lmsm_cli.runs.start import checkpoint_of
from lmsm_cli.training.run import resume_run
from tests.conftest import plain_state
from tests.test_resume import Stopping, resumed, whole

# docs/runs.md and `lmsm resume --help`: where it computes, where its data is, and a longer training
MAY_CHANGE = {
    "epochs": 9,
    "data_dir": "elsewhere",
    "follow_links": True,
    "device": "cuda",
    "out": "moved",
    "tensorboard": True,
    "precision": "bf16",
    "layout": "contiguous",
    "threads": 7,
}
OTHER = {"lr": 0.7, "batch_size": 48, "momentum": 0.5, "split_seed": 3, "epochs": 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of three epochs."""
    return whole(tmp_path_factory.mktemp("own"))


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "run")


def write_choice(run, key, value):
    """Have config.yaml say something else."""
    file = run / "config.yaml"
    values = {name: entry.value for name, entry in read_mapping(file).items()}
    file.write_text(dump_yaml(values | {key: value}))


def write_json(file, **values):
    """Have a JSON file say something else."""
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(("key", "value"), OTHER.items())
def test_any_choice_that_a_run_keeps_tells_another_run(run, key, value):
    """Not its loss and its seed alone: of two rates it is another net."""
    write_choice(run, key, value)
    for read in (read_trained, load_checkpoint, lambda path: checkpoint_of(str(path))):
        with pytest.raises(CheckpointError, match=rf"and config\.yaml beside it says {key} "):
            read(run)


def test_no_choice_is_left_out(run):
    """Whatever key has a value that no run can have is told, but for those that may change."""
    values = {name: entry.value for name, entry in read_mapping(run / "config.yaml").items()}
    told = set()
    for key in Config.model_fields:
        write_choice(run, key, "odd")
        try:
            read_trained(run)
        except CheckpointError:
            told.add(key)
        (run / "config.yaml").write_text(dump_yaml(values))
    assert set(Config.model_fields) - told == set(MAY_CHANGE) - {"epochs"}


@pytest.mark.parametrize(("key", "value"), MAY_CHANGE.items())
def test_what_a_resume_may_change_is_no_other_run(run, key, value):
    """A file that was saved before says what was then."""
    write_choice(run, key, value)
    assert read_trained(run).state.epoch == 3


@pytest.mark.parametrize("flags", [[], ["--best"]])
def test_every_command_refuses_the_net_of_another_rate(run, flags, tmp_path, capsys):
    """Both files are of a run that differs in its learning rate alone; exit code 4, no scores."""
    other = whole(tmp_path / "other", lr=0.003)
    for name in ("checkpoint.pt", "best.pt"):
        shutil.copy(other / name, run / name)
    out = ["--out", str(tmp_path / "new.pt")]
    for words in (["eval"], ["adjust", "--adjust", "1", *out], ["export", *out]):
        assert main([words[0], str(run), *words[1:], *flags]) == 4
        assert "was trained with lr 0.003" in " ".join(capsys.readouterr().err.split())


def test_a_checkpoint_of_other_images_is_of_another_run(run):
    """Where its data lies is a choice that may change; which images they are is none."""
    own = json.loads((run / "scores.json").read_text())["images"]
    write_json(run / "scores.json", images=own | {"training": "0" * 32})
    with pytest.raises(CheckpointError, match=r"for other training images than scores\.json"):
        read_trained(run)


def test_a_finished_run_has_the_checkpoint_of_its_scores(run):
    """An earlier one is another net; a run that goes on may be behind its older scores."""
    shutil.copy(run / "checkpoint-previous.pt", run / "checkpoint.pt")
    assert plain_state(run / "checkpoint.pt")["epoch"] == 2
    with pytest.raises(CheckpointError, match=r"is of epoch 2, and scores\.json .* of epoch 3"):
        read_trained(run)
    assert resumed(run) == run
    assert read_trained(run).state.epoch == 3


def test_the_best_is_that_of_the_scores(run):
    """Of a finished run scores.json says the epoch of best.pt."""
    best = json.loads((run / "scores.json").read_text())["best_on_validation"]
    write_json(run / "scores.json", best_on_validation=best | {"epoch": best["epoch"] - 1})
    with pytest.raises(CheckpointError, match=rf"best\.pt is of epoch {best['epoch']}, and"):
        read_trained(run, best=True)
    assert read_trained(run)


def test_a_run_that_goes_on_is_read_all_the_while(run):
    """Made longer and stopped, its files are of fewer and of more epochs than its scores."""
    read = []

    class Reading(Stopping):
        def step(self, step):
            read.append([read_trained(run, best=best).state.epoch for best in (False, True)])
            super().step(step)

    with pytest.raises(StoppedError):
        resume_run(run, Reading(12), {"epochs": 6}, with_plots=False)
    assert {epoch for epoch, _ in read} >= {3, 4}
    assert read_trained(run)
