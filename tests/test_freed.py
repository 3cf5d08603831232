"""Finished trainings are freed at once: model, optimizer, steps and images, by no collector."""

import gc
import weakref

import pytest
import torch

from lmsm_cli.commands.app import main
from lmsm_cli.models.classifier import Classifier
from lmsm_cli.training import loop as train
from lmsm_cli.training import step
from tests.conftest import QUICK_DIGITS, write_class_folders


class Alive:
    """Weak references to all that trainings are made of."""

    def __init__(self):
        self.references = {}

    def add(self, name, thing):
        """Watch a thing under a name."""
        self.references.setdefault(name, []).append(weakref.ref(thing))

    def __len__(self):
        return max(map(len, self.references.values()), default=0)

    @property
    def names(self):
        """The names of what is still there, with how many."""
        counts = {
            name: sum(r() is not None for r in refs) for name, refs in self.references.items()
        }
        return {name: count for name, count in counts.items() if count}


@pytest.fixture
def alive(monkeypatch):
    """Give what is alive of each training that a test starts; nothing is collected meanwhile."""
    seen = Alive()
    new_stepper, new_model, one_epoch = (
        step.TrainStep.__init__,
        Classifier.__init__,
        train._one_epoch,
    )

    def stepper(self, model, optimizer, *rest):
        new_stepper(self, model, optimizer, *rest)
        seen.add("stepper", self)
        seen.add("model", model)
        seen.add("optimizer", optimizer)
        seen.add("weights", model.head.weight)

    def classifier(self, *given, **named):
        new_model(self, *given, **named)
        seen.add("any model", self)

    def epoch(trainer, *rest):
        seen.add("images", trainer.data.training.images)
        return one_epoch(trainer, *rest)

    monkeypatch.setattr(step.TrainStep, "__init__", stepper)
    monkeypatch.setattr(Classifier, "__init__", classifier)
    monkeypatch.setattr(train, "_one_epoch", epoch)
    gc.collect()
    monkeypatch.setattr(gc, "collect", lambda *args: 0)
    gc.disable()
    yield seen
    gc.enable()


@pytest.mark.slow
def test_trainings_that_end_well_are_freed(tmp_path, alive):
    """Of three seeds, plots and scores included, nothing is left; nor of what `eval` reads back."""
    two = ["--epochs", "2", "--best-tolerance", "0.9"]  # the first is the best, and tested too
    assert main(["train", *QUICK_DIGITS, *two, "--seeds", "0,1,2", "--out", str(tmp_path)]) == 0
    assert (len(alive), alive.names) == (6, {})  # a net for each training, and one for best.pt
    run = next(tmp_path.glob("*-s0"))
    assert main(["eval", str(run)]) == 0
    assert alive.names == {}
    assert main(["resume", str(run), "--epochs", "3", "--quiet"]) == 0
    assert alive.names == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        ["sweep", *QUICK_DIGITS, "--arm", "loss=softmax", "--arm", "loss=arcface", "--seeds", "1"],
        ["train", *QUICK_DIGITS, "--dry-run"],
        ["train", *QUICK_DIGITS, "--tensorboard"],
        [
            "train",
            *QUICK_DIGITS,
            "--reweight",
            "effective",
            "--sampling",
            "balanced",
            "--loss",
            "lsoftmax",
        ],
        ["train", *QUICK_DIGITS, "--optimizer", "sgd", "--precision", "auto"],
    ],
)
def test_every_command_that_trains_frees_it(tmp_path, alive, command):
    """A sweep, a rehearsal, curves, class weights and precision auto hold no training."""
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert len(alive) >= 1
    assert alive.names == {}


@pytest.mark.slow
def test_a_training_on_class_folders_is_freed(tmp_path, alive):
    """Images read from files go as well."""
    write_class_folders(tmp_path / "data", "ab", 20, size=8)
    folder = [
        "--dataset",
        "folder",
        "--data-dir",
        str(tmp_path / "data"),
        "--image-size",
        "8",
        "--batch-size",
        "8",
    ]
    assert main(["train", *QUICK_DIGITS, *folder, "--out", str(tmp_path / "runs")]) == 0
    assert (len(alive) >= 1, alive.names) == (True, {})


@pytest.mark.slow
def test_a_search_frees_its_trials(tmp_path, alive):
    """Trials that are done, and those that the pruner ends in the middle."""
    pytest.importorskip("optuna")
    command = [
        "sweep",
        *QUICK_DIGITS,
        "--epochs",
        "3",
        "--grid",
        "lr=0.0001..1:log",
        "--trials",
        "4",
        "--prune",
    ]
    assert main([*command, "--study", "s", "--out", str(tmp_path)]) == 0
    assert (len(alive) >= 4, alive.names) == (True, {})


@pytest.mark.parametrize(
    ("how", "code"),
    [("diverged", 5), ("memory", 7), ("broken", None), ("interrupted", 130), ("refused", 6)],
)
def test_trainings_that_end_badly_are_freed(tmp_path, alive, monkeypatch, how, code):
    """Whatever ends a training, in a step or at a save, it is freed once its error was shown."""
    errors = {
        "memory": torch.OutOfMemoryError("out of memory"),
        "broken": RuntimeError("no such kernel"),
        "interrupted": KeyboardInterrupt(),
    }
    step_itself = step._Step.__call__
    calls = []

    def fail(self, weighted, images, labels, progress, total):
        calls.append(1)
        if how in errors and len(calls) == 2:
            raise errors.pop(how)
        step_itself(self, weighted, images, labels, progress, total)
        if how == "diverged":
            self._watch.sums.fill_(float("nan"))

    monkeypatch.setattr(step._Step, "__call__", fail)
    if how == "refused":

        def full(*args, **kwargs):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("lmsm_cli.runs.checkpoint.torch.save", full)
    command = ["train", *QUICK_DIGITS, "--out", str(tmp_path)]
    if code is None:
        with pytest.raises(RuntimeError):
            main(command)
    else:
        assert main(command) == code
    assert len(alive) == 1
    assert alive.names == {}


@pytest.mark.slow
def test_the_failed_runs_of_a_sweep_are_freed(tmp_path, alive, monkeypatch):
    """A failure is kept as its words, and not with the frames that it went through."""

    def fail(self, *given):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(step._Step, "__call__", fail)
    assert main(["train", *QUICK_DIGITS, "--seeds", "0,1", "--out", str(tmp_path)]) == 1
    assert (len(alive), alive.names) == (2, {})


@pytest.mark.slow
def test_a_measurement_frees_its_nets(alive):
    """`bench` trains one net after the other."""
    command = [
        "bench",
        "--models",
        "resnet32,paper-2d",
        "--precision",
        "fp32",
        "--seconds",
        "0.01",
        "--batch-size",
        "8",
        "--device",
        "cpu",
    ]
    assert main(command) == 0
    assert (len(alive) >= 2, alive.names) == (True, {})
